#include "steps.h"
#include "device.h"

static gdn_status done(const gdn_context *context, const char *what, int error) {
    if (!error)
        return GDN_STATUS_OK;
    return gdni_fail(GDN_STATUS_CUDA_ERROR, "device %d: %s: %s", context->device, what,
                     gdni_cuda_error_text(error));
}

gdn_status gdni_device_timed_event_create(const gdn_context *context, gdni_event *event) {
    return done(context, "making an event", gdni_cuda_timed_event_create(context->device, event));
}

gdn_status gdni_device_event_record(const gdn_context *context, gdni_event event,
                                    gdn_stream stream) {
    return done(context, "marking a place", gdni_cuda_event_record(context->device, event, stream));
}

gdn_status gdni_device_event_follow(const gdn_context *context, gdn_stream after,
                                    gdni_event event) {
    return done(context, "tying streams together",
                gdni_cuda_event_follow(context->device, after, event));
}

gdn_status gdni_device_event_reach(const gdn_context *context, gdni_event event, const char *what) {
    return done(context, what, gdni_cuda_event_reach(context->device, event));
}

gdn_status gdni_device_event_seconds(const gdn_context *context, gdni_event from, gdni_event to,
                                     double *seconds) {
    return done(context, "reading a time",
                gdni_cuda_event_seconds(context->device, from, to, seconds));
}

gdn_status gdni_device_record_begin(const gdn_context *context, gdn_stream stream) {
    return done(context, "recording a graph", gdni_cuda_record_begin(context->device, stream));
}

gdn_status gdni_device_record_end(const gdn_context *context, gdn_stream stream,
                                  gdni_graph *graph) {
    return done(context, "making a graph", gdni_cuda_record_end(context->device, stream, graph));
}

gdn_status gdni_device_graph_replay(const gdn_context *context, gdni_graph graph,
                                    gdn_stream stream) {
    return done(context, "replaying a graph",
                gdni_cuda_graph_replay(context->device, graph, stream));
}

void gdni_device_graph_destroy(const gdn_context *context, gdni_graph graph) {
    gdni_cuda_graph_destroy(context->device, graph);
}

gdn_status gdni_device_memory_used(const gdn_context *context, size_t *bytes) {
    return done(context, "asking for its memory", gdni_cuda_memory_used(context->device, bytes));
}

gdn_status gdni_device_scale(const gdn_context *context, float *data, int64_t count, float factor,
                             gdn_stream stream) {
    const gdni_cuda_device device = gdni_device_of(context);
    return done(context, "scaling", gdni_cuda_scale(&device, data, count, factor, stream));
}
