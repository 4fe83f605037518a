/*
 * The ranks of a run. Those of a sequence group, `width` neighbours, share their sequences by
 * tokens; groups take different sequences of the same batch. Every rank holds all parameters.
 */
#ifndef GDNI_TRAIN_RANKS_H
#define GDNI_TRAIN_RANKS_H

#include "gdn.h"
#include "gdn_layer.h"

typedef struct gdn_dist gdn_dist;
typedef struct gdni_ranks gdni_ranks;

/* The GDN layer as two plans over the sequence group: of passes with backward, and of those without
 * it, which keep less. What crosses is the same. */
typedef enum gdni_ranks_plan {
    GDNI_RANKS_BACKWARD,
    GDNI_RANKS_LOSS,
    GDNI_RANKS_PLANS
} gdni_ranks_plan;

/*
 * This rank's part of a batch of N sequences of `context` tokens: tokens [first, first + count) of
 * the batch. group: the tokens of all its sequence group. ranks NULL: all of it.
 */
typedef struct gdni_part {
    int64_t first, count;
    int64_t group_first, group_count;
} gdni_part;

/* The calls are collective: over all ranks, or over the sequence group where it says so. */
struct gdni_ranks {
    int32_t rank, ranks, width;
    gdn_dist *dist;
    void *layers[GDNI_RANKS_PLANS];
    size_t crossed; /* bytes at the start of saved that forward_again wants; set by plan */

    /* Sequence group: plans the layer for T tokens in N sequences; this rank has `part`. */
    gdn_status (*plan)(gdni_ranks *ranks, gdni_ranks_plan which, const gdn_context *context,
                       const gdn_layer *layer, const gdni_part *part, gdn_sizes *sizes);
    gdn_status (*forward)(gdni_ranks *ranks, gdni_ranks_plan which,
                          const gdn_layer_tensors *tensors, gdn_stream stream);
    gdn_status (*backward)(gdni_ranks *ranks, const gdn_layer_tensors *tensors, gdn_stream stream);
    /* Not collective: the activations of a forward of either plan, for backward. */
    gdn_status (*forward_again)(gdni_ranks *ranks, const gdn_layer_tensors *tensors,
                                gdn_stream stream);

    /* data[count] becomes its sum, added in the order of ranks: the same bits everywhere. */
    gdn_status (*sum)(gdni_ranks *ranks, gdn_dtype dtype, void *data, int64_t count);
    /* The same for fp32 on a device, beside the stream, after what it has now; the additions' order
     * is the library's. Both NULL where messages take only what the host can read. What the stream
     * gets after finish_device waits for all sums. */
    gdn_status (*sum_device)(gdni_ranks *ranks, float *data, int64_t count, gdn_stream stream);
    gdn_status (*finish_device)(gdni_ranks *ranks, gdn_stream stream);
    /* all: [ranks][bytes] */
    gdn_status (*gather)(gdni_ranks *ranks, const void *mine, void *all, size_t bytes);
    /* Fails everywhere where it fails on one, with a line that names the rank, or where the
     * descriptions ("field value; field value") differ. */
    gdn_status (*agree)(gdni_ranks *ranks, gdn_status mine, const char *description);
    /* What this rank is doing, for the line about it should it fall silent. */
    void (*note)(gdni_ranks *ranks, const char *doing);
};

/* dist outlives ranks. UNSUPPORTED: no MPI in this build. */
gdn_status gdni_ranks_open(gdni_ranks *ranks, gdn_dist *dist);
void gdni_ranks_close(gdni_ranks *ranks);
/* All call it: sets sum_device and finish_device where NCCL is here and each rank has a device of
 * its own. The context outlives dist. */
gdn_status gdni_ranks_use_device(gdni_ranks *ranks, const gdn_context *context);

gdni_part gdni_part_of(const gdni_ranks *ranks, int64_t N, int64_t context);

#endif /* GDNI_TRAIN_RANKS_H */
