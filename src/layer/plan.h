/*
 * A checked layer, and where its activations and scratch live. Arrays are of the layer's dtype, but
 * beta, g and their gradients of the state type; each starts at a multiple of 256 bytes from the
 * base. Forward writes the activations into the caller's `saved`, or into its workspace where there
 * is none.
 *
 *   activations          shape        from
 *   qkv                  [T, C]       x in_proj_qkv^T
 *   conv                 [T, C]       SiLU(convolution of qkv): q, k, v of the operator, in rows
 *   z                    [T, Hv V]    x in_proj_z^T
 *   b, a                 [T, Hv]      x in_proj_b^T, x in_proj_a^T
 *   beta, g              [T, Hv]      the gate of b, a
 *   o                    [T, Hv V]    the operator's output
 *   operator_saved       bytes        what the operator saves
 *
 *   scratch of forward   y [T, Hv V] (the normed o), the operator's workspace, that of the parts,
 *                        which take turns
 *   scratch of backward  the same, with y (again; then do), and dy, dz [T, Hv V], dqkv, dconv [T, C],
 *                        dbeta, dg, db, da [T, Hv]
 */
#ifndef GDNI_LAYER_PLAN_H
#define GDNI_LAYER_PLAN_H

#include "gdn_layer.h"
#include "internal.h"

typedef struct gdni_layer_plan {
    gdn_layer layer;
    gdn_problem problem; /* reads q, k, v out of conv, normalises q and k */
    gdn_sizes operator_sizes;
    size_t part_workspace; /* what any of the parts needs */
    int64_t C, HvV;
} gdni_layer_plan;

typedef struct gdni_layer_activations {
    void *qkv, *conv, *z, *b, *a, *beta, *g, *o, *operator_saved;
} gdni_layer_activations;

typedef struct gdni_layer_scratch {
    void *y, *operator_workspace, *part_workspace;
    void *dy, *dz, *dqkv, *dconv, *dbeta, *dg, *db, *da; /* backward */
} gdni_layer_scratch;

gdn_status gdni_layer_plan_make(const char *function, const gdn_context *context,
                                const gdn_layer *layer, gdni_layer_plan *plan);

/* Lay out memory at base (NULL: only measure it) and return its bytes. */
size_t gdni_layer_activations_at(const gdni_layer_plan *plan, void *base,
                                 gdni_layer_activations *activations);
size_t gdni_layer_scratch_at(const gdni_layer_plan *plan, int backward, void *base,
                             gdni_layer_scratch *scratch);

#endif /* GDNI_LAYER_PLAN_H */
