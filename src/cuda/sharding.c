#include "sharding.h"
#include "device.h"

#include <string.h>

static gdn_status enqueued(const gdn_context *context, const char *what, int error) {
    if (!error)
        return GDN_STATUS_OK;
    return gdni_fail(GDN_STATUS_CUDA_ERROR, "device %d: %s: %s", context->device, what,
                     gdni_cuda_error_text(error));
}

gdn_status gdni_device_decide(const gdn_context *context, const gdn_problem *problem,
                              const gdn_tensors *tensors, const gdni_sharding_run *run,
                              gdn_stream stream) {
    const gdni_cuda_device device = gdni_device_of(context);
    return enqueued(context, "deciding which heads forget",
                    gdni_sharding_decide(&device, problem, tensors, run, stream));
}

gdn_status gdni_device_choose(const gdn_context *context, const gdn_problem *p, void *to,
                              const void *from, const int64_t *cut, gdn_stream stream) {
    const gdni_cuda_device device = gdni_device_of(context);
    return enqueued(
        context, "copying a state",
        gdni_sharding_choose(&device, to, from, cut, p->T, (int64_t)p->Hv * p->K * p->V, stream));
}

gdn_status gdni_device_identity(const gdn_context *context, const gdn_problem *p, void *to,
                                gdn_stream stream) {
    const gdni_cuda_device device = gdni_device_of(context);
    return enqueued(context, "an identity",
                    gdni_sharding_identity(&device, to, p->Hv, p->K, stream));
}

gdn_status gdni_device_apply(const gdn_context *context, const gdn_problem *problem,
                             const gdni_sharding_step *step, gdn_stream stream) {
    const gdni_cuda_device device = gdni_device_of(context);
    return enqueued(context, "applying M", gdni_sharding_apply(&device, problem, step, stream));
}

gdn_status gdni_device_side_stream(const gdn_context *context, gdn_stream *stream) {
    return enqueued(context, "making a stream",
                    gdni_cuda_side_stream_create(context->device, stream));
}

gdn_status gdni_device_event_create(const gdn_context *context, gdni_event *event) {
    return enqueued(context, "making an event", gdni_cuda_event_create(context->device, event));
}

void gdni_device_event_destroy(const gdn_context *context, gdni_event event) {
    gdni_cuda_event_destroy(context->device, event);
}

gdn_status gdni_device_follow(const gdn_context *context, gdn_stream after, gdn_stream before,
                              gdni_event event) {
    return enqueued(context, "tying streams together",
                    gdni_cuda_stream_follow(context->device, after, before, event));
}

gdn_status gdni_device_mark(const gdn_context *context, uint32_t *words, uint32_t what,
                            gdn_stream stream) {
    return enqueued(context, "marking a message",
                    gdni_sharding_mark(context->device, words, what, stream));
}

gdn_status gdni_device_enter(const gdn_context *context, int *before) {
    return enqueued(context, "making it current", gdni_cuda_device_enter(context->device, before));
}

void gdni_device_leave(int before) {
    gdni_cuda_device_leave(before);
}

gdn_status gdni_device_uuid(const gdn_context *context, unsigned char *uuid) {
    gdni_device_info info;
    GDN_TRY(enqueued(context, "its properties", gdni_cuda_device_info(context->device, &info)));
    memcpy(uuid, info.uuid, sizeof(info.uuid));
    return GDN_STATUS_OK;
}
