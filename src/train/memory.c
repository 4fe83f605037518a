/* The host's memory. */
#include "memory.h"

#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "error.h"
#include "progress.h"

typedef struct host_memory {
    gdni_memory memory;
    double *times;
    int32_t room; /* of times */
} host_memory;

static gdn_status allocate(gdni_memory *m, size_t bytes, void **out) {
    const size_t step = GDNI_ARENA_ALIGNMENT, rounded = (bytes + step - 1) / step * step;
    *out = aligned_alloc(step, rounded ? rounded : step);
    if (!*out)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "no memory for %zu bytes", bytes);
    memset(*out, 0, bytes); /* also touches every page: no surprise in a later step */
    return GDN_STATUS_OK;
}

static void release(gdni_memory *m, void *block) {
    free(block);
}

static gdn_status copy(gdni_memory *m, gdni_lane lane, void *to, const void *from, size_t bytes) {
    if (to != from)
        memcpy(to, from, bytes);
    return GDN_STATUS_OK;
}

static gdn_status pass_mark(gdni_memory *m, gdni_lane lane, int mark) {
    return GDN_STATUS_OK;
}

static gdn_status reach(gdni_memory *m, int mark, const char *what) {
    return GDN_STATUS_OK;
}

static gdn_status no_recording(gdni_memory *m) {
    return gdni_fail(GDN_STATUS_INTERNAL_ERROR, "the host's memory records nothing");
}

static gdn_status no_scaling(gdni_memory *m, void *data, int64_t count, double factor) {
    return gdni_fail(GDN_STATUS_INTERNAL_ERROR, "the host's memory scales nothing");
}

static gdn_status stamp(gdni_memory *m, int32_t i) {
    host_memory *h = (host_memory *)m;
    if (i >= h->room) {
        const int32_t room = 2 * i + 64;
        double *times = realloc(h->times, (size_t)room * sizeof(*times));
        if (!times)
            return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "timeline: out of memory");
        h->times = times;
        h->room = room;
    }
    h->times[i] = gdni_seconds();
    return GDN_STATUS_OK;
}

static gdn_status stamps(gdni_memory *m, int32_t first, int32_t count, double *seconds) {
    const double *times = ((const host_memory *)m)->times + first;
    for (int32_t i = 0; i < count; ++i)
        seconds[i] = times[i] - times[0];
    return GDN_STATUS_OK;
}

static gdn_status used(gdni_memory *m, size_t *bytes) {
    *bytes = 0;
    return GDN_STATUS_OK;
}

static void destroy(gdni_memory *m) {
    free(((host_memory *)m)->times);
    free(m);
}

static gdn_status create_host(gdni_memory **out, const gdn_context *context) {
    host_memory *h = calloc(1, sizeof(*h));
    *out = NULL;
    if (!h)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "memory: out of memory");
    h->memory = (gdni_memory){.context = context,
                              .allocate = allocate,
                              .release = release,
                              .allocate_host = allocate,
                              .release_host = release,
                              .copy = copy,
                              .mark = pass_mark,
                              .follow = pass_mark,
                              .reach = reach,
                              .record = no_recording,
                              .keep = no_recording,
                              .replay = no_recording,
                              .scale = no_scaling,
                              .stamp = stamp,
                              .stamps = stamps,
                              .used = used,
                              .destroy = destroy};
    *out = &h->memory;
    return GDN_STATUS_OK;
}

gdn_status gdni_memory_create(gdni_memory **out, const gdn_context *context) {
    if (gdn_context_backend(context) == GDN_BACKEND_CUDA)
        return gdni_memory_create_device(out, context);
    return create_host(out, context);
}

void gdni_memory_destroy(gdni_memory *memory) {
    if (memory)
        memory->destroy(memory);
}
