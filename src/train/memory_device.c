/* A CUDA device's memory: lanes are streams, marks and stamps are events. */
#include "memory.h"

#include <stdlib.h>

#include "cuda/memory.h"
#include "cuda/sharding.h"
#include "cuda/steps.h"

typedef struct device_memory {
    gdni_memory memory;
    gdn_stream lanes[GDNI_LANES];
    gdni_event marks[GDNI_MARKS];
    gdni_graph graph; /* NULL: nothing was kept */
    gdni_event *stamps;
    int32_t stamp_count, stamp_room;
} device_memory;

static device_memory *of(gdni_memory *m) {
    return (device_memory *)m;
}

static gdn_status allocate(gdni_memory *m, size_t bytes, void **out) {
    GDN_TRY(gdni_device_allocate(m->context, bytes, out));
    GDN_TRY(gdni_stream_zero(m->context, *out, bytes, m->stream));
    return gdni_stream_wait(m->context, m->stream, "clearing memory");
}

static void release(gdni_memory *m, void *block) {
    gdni_device_release(m->context, block);
}

static gdn_status allocate_host(gdni_memory *m, size_t bytes, void **out) {
    return gdni_pinned_allocate(m->context, bytes, out);
}

static void release_host(gdni_memory *m, void *block) {
    gdni_pinned_release(m->context, block);
}

static gdn_status copy(gdni_memory *m, gdni_lane lane, void *to, const void *from, size_t bytes) {
    return bytes ? gdni_stream_copy(m->context, to, from, bytes, of(m)->lanes[lane])
                 : GDN_STATUS_OK;
}

static gdn_status mark(gdni_memory *m, gdni_lane lane, int i) {
    return gdni_device_event_record(m->context, of(m)->marks[i], of(m)->lanes[lane]);
}

static gdn_status follow(gdni_memory *m, gdni_lane lane, int i) {
    return gdni_device_event_follow(m->context, of(m)->lanes[lane], of(m)->marks[i]);
}

static gdn_status reach(gdni_memory *m, int i, const char *what) {
    return gdni_device_event_reach(m->context, of(m)->marks[i], what);
}

static gdn_status record(gdni_memory *m) {
    return gdni_device_record_begin(m->context, m->stream);
}

static gdn_status keep(gdni_memory *m) {
    device_memory *d = of(m);
    if (d->graph)
        gdni_device_graph_destroy(m->context, d->graph);
    d->graph = NULL;
    return gdni_device_record_end(m->context, m->stream, &d->graph);
}

static gdn_status replay(gdni_memory *m) {
    return gdni_device_graph_replay(m->context, of(m)->graph, m->stream);
}

static gdn_status scale(gdni_memory *m, void *data, int64_t count, double factor) {
    return gdni_device_scale(m->context, data, count, (float)factor, m->stream);
}

static gdn_status stamp(gdni_memory *m, int32_t i) {
    device_memory *d = of(m);
    if (i >= d->stamp_room) {
        const int32_t room = 2 * i + 64;
        gdni_event *all = realloc(d->stamps, (size_t)room * sizeof(*all));
        if (!all)
            return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "timeline: out of memory");
        d->stamps = all;
        d->stamp_room = room;
    }
    for (; d->stamp_count <= i; ++d->stamp_count)
        GDN_TRY(gdni_device_timed_event_create(m->context, &d->stamps[d->stamp_count]));
    return gdni_device_event_record(m->context, d->stamps[i], m->stream);
}

static gdn_status stamps(gdni_memory *m, int32_t first, int32_t count, double *seconds) {
    const gdni_event *events = of(m)->stamps + first;
    for (int32_t i = 0; i < count; ++i)
        GDN_TRY(gdni_device_event_seconds(m->context, events[0], events[i], &seconds[i]));
    return GDN_STATUS_OK;
}

static gdn_status used(gdni_memory *m, size_t *bytes) {
    return gdni_device_memory_used(m->context, bytes);
}

static void destroy(gdni_memory *m) {
    device_memory *d = of(m);
    if (d->graph)
        gdni_device_graph_destroy(m->context, d->graph);
    for (int32_t i = 0; i < d->stamp_count; ++i)
        gdni_device_event_destroy(m->context, d->stamps[i]);
    for (int i = 0; i < GDNI_MARKS; ++i)
        if (d->marks[i])
            gdni_device_event_destroy(m->context, d->marks[i]);
    for (int i = 0; i < GDNI_LANES; ++i)
        if (d->lanes[i])
            gdni_stream_destroy(m->context, d->lanes[i]);
    free(d->stamps);
    free(d);
}

gdn_status gdni_memory_create_device(gdni_memory **out, const gdn_context *context) {
    device_memory *d = calloc(1, sizeof(*d));
    gdn_status status = GDN_STATUS_OK;
    *out = NULL;
    if (!d)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "memory: out of memory");
    d->memory = (gdni_memory){.context = context,
                              .device = 1,
                              .allocate = allocate,
                              .release = release,
                              .allocate_host = allocate_host,
                              .release_host = release_host,
                              .copy = copy,
                              .mark = mark,
                              .follow = follow,
                              .reach = reach,
                              .record = record,
                              .keep = keep,
                              .replay = replay,
                              .scale = scale,
                              .stamp = stamp,
                              .stamps = stamps,
                              .used = used,
                              .destroy = destroy};
    GDN_TRY_GOTO(gdni_stream_create(context, &d->lanes[GDNI_LANE_COMPUTE]), failed);
    for (int i = GDNI_LANE_COMPUTE + 1; i < GDNI_LANES; ++i)
        GDN_TRY_GOTO(gdni_device_side_stream(context, &d->lanes[i]), failed);
    for (int i = 0; i < GDNI_MARKS; ++i)
        GDN_TRY_GOTO(gdni_device_event_create(context, &d->marks[i]), failed);
    d->memory.stream = d->lanes[GDNI_LANE_COMPUTE];
    *out = &d->memory;
    return GDN_STATUS_OK;

failed:
    destroy(&d->memory);
    return status;
}
