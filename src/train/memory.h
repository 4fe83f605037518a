/*
 * Where a model's tensors live and its work is queued. On the host every call returns once all is
 * done. On a device calls enqueue in lanes, which run beside each other and keep their own order.
 */
#ifndef GDNI_TRAIN_MEMORY_H
#define GDNI_TRAIN_MEMORY_H

#include "gdn.h"

typedef enum gdni_lane {
    GDNI_LANE_COMPUTE,
    GDNI_LANE_BATCH, /* brings the next batch */
    GDNI_LANE_SAVE,  /* takes the copy that becomes a checkpoint */
    GDNI_LANES
} gdni_lane;

enum {
    GDNI_MARKS = 8 /* places in lanes, by number; marking one again moves it */
};

typedef struct gdni_memory gdni_memory;
struct gdni_memory {
    const gdn_context *context;
    gdn_stream stream; /* of the compute lane; NULL on the host */
    int device;        /* whether it is one */

    /* Zeros. OUT_OF_MEMORY. */
    gdn_status (*allocate)(gdni_memory *memory, size_t bytes, void **out);
    void (*release)(gdni_memory *memory, void *block);
    /* Of the host, for copies that run beside it. */
    gdn_status (*allocate_host)(gdni_memory *memory, size_t bytes, void **out);
    void (*release_host)(gdni_memory *memory, void *block);
    /* Either way, or within the memory; nothing where both are the same place. */
    gdn_status (*copy)(gdni_memory *memory, gdni_lane lane, void *to, const void *from,
                       size_t bytes);
    gdn_status (*mark)(gdni_memory *memory, gdni_lane lane, int mark);
    /* What the lane gets next waits for the mark; the host waits for it. One that was never set is
     * reached. */
    gdn_status (*follow)(gdni_memory *memory, gdni_lane lane, int mark);
    gdn_status (*reach)(gdni_memory *memory, int mark, const char *what);

    /* Devices: what the compute lane gets between the two is not done but kept, to be replayed. */
    gdn_status (*record)(gdni_memory *memory);
    gdn_status (*keep)(gdni_memory *memory);
    gdn_status (*replay)(gdni_memory *memory);

    /* Devices: data[count] *= factor, fp32, in the compute lane. */
    gdn_status (*scale)(gdni_memory *memory, void *data, int64_t count, double factor);

    /* Time number i, from 0, of the compute lane; then, once they are over, the seconds from the
     * first one of several. */
    gdn_status (*stamp)(gdni_memory *memory, int32_t i);
    gdn_status (*stamps)(gdni_memory *memory, int32_t first, int32_t count, double *seconds);

    /* Bytes in use on the device, by anyone; 0 on the host. */
    gdn_status (*used)(gdni_memory *memory, size_t *bytes);
    void (*destroy)(gdni_memory *memory);
};

/* The memory of a context's backend; the context outlives it. */
gdn_status gdni_memory_create(gdni_memory **out, const gdn_context *context);
void gdni_memory_destroy(gdni_memory *memory); /* NULL is fine */

/* NO_BACKEND in a build without CUDA. */
gdn_status gdni_memory_create_device(gdni_memory **out, const gdn_context *context);

#endif /* GDNI_TRAIN_MEMORY_H */
