/*
 * A sharded layer, and how its calls divide the caller's memory.
 *
 *   workspace   the operator's (see plan.h), dhalo and the rows that come back, then the layer's
 *   saved       halo, the operator's, then the layer's: what came from other ranks lies at its start
 */
#ifndef GDNI_DIST_LAYER_H
#define GDNI_DIST_LAYER_H

#include "plan.h"

struct gdn_dist_layer {
    gdn_dist_plan *plan;
    gdn_layer layer;        /* T and N of this rank's part */
    int64_t *wanted;        /* [ranks]: first token whose row a rank wants; its own first: none */
    gdn_request **requests; /* [ranks] */
    gdn_device_message *messages; /* [ranks] rows on their way */
    void **rows;                  /* [ranks] theirs on the device, while they are staged */
    int64_t *device_cu_seqlens;   /* on a device, the plan's; else NULL */
    char *pinned;                 /* where rows of a device are staged; else NULL */
    int32_t direct;               /* MPI takes rows where they lie on the device */
    int32_t sending;              /* MPI has not said yet that rows have left */
    size_t row_bytes, halo_bytes, incoming_bytes;
    gdn_sizes inner, sizes;                /* inner: the layer's own */
    int64_t forward_bytes, backward_bytes; /* of the halo, in the last calls */
};

/* qkv [T, C] of this rank; halo [W-1, C] is filled, with zeros where the sequence has no rows. */
gdn_status gdni_halo_fetch(gdn_dist_layer *layer, const void *qkv, void *halo, gdn_stream stream);
/* Gradients of the halo to where its rows came from, and those of other ranks' halos into dqkv.
 * incoming: gdni_halo_incoming_bytes. */
gdn_status gdni_halo_return(gdn_dist_layer *layer, void *dhalo, void *dqkv, void *incoming,
                            gdn_stream stream);
size_t gdni_halo_incoming_bytes(const gdn_dist_layer *layer);

#endif /* GDNI_DIST_LAYER_H */
