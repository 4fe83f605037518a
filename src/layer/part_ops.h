/*
 * What a device backend computes of layers and models. Parts arrive checked, with strides filled
 * in; what they point to is device memory. A call only enqueues. Host backends have no table: the
 * parts' sources compute.
 */
#ifndef GDNI_PART_OPS_H
#define GDNI_PART_OPS_H

#include "gdn_layer.h"
#include "gdn_model.h"

#define GDNI_PART_OP(type, name)                                                                   \
    gdn_status (*name)(const gdn_context *context, const type *part, int backward,                 \
                       gdn_stream stream)
#define GDNI_PART_BYTES(type, name)                                                                \
    size_t (*name##_workspace)(const gdn_context *context, const type *part)

typedef struct gdni_part_ops {
    GDNI_PART_OP(gdn_conv1d, conv1d);
    GDNI_PART_OP(gdn_l2norm, l2norm);
    GDNI_PART_OP(gdn_gate, gate);
    GDNI_PART_OP(gdn_gated_rmsnorm, gated_rmsnorm);
    GDNI_PART_OP(gdn_linear, linear);
    GDNI_PART_OP(gdn_embedding, embedding);
    GDNI_PART_OP(gdn_rmsnorm, rmsnorm);
    GDNI_PART_OP(gdn_swiglu, swiglu);
    /* One direction only: backward is 0. */
    GDNI_PART_OP(gdn_cross_entropy, cross_entropy);
    GDNI_PART_OP(gdn_adamw, adamw);
    GDNI_PART_OP(gdn_grad_norm, grad_norm);

    GDNI_PART_BYTES(gdn_conv1d, conv1d);
    GDNI_PART_BYTES(gdn_gate, gate);
    GDNI_PART_BYTES(gdn_gated_rmsnorm, gated_rmsnorm);
    GDNI_PART_BYTES(gdn_linear, linear);
    GDNI_PART_BYTES(gdn_embedding, embedding);
    GDNI_PART_BYTES(gdn_rmsnorm, rmsnorm);
    GDNI_PART_BYTES(gdn_cross_entropy, cross_entropy);
    GDNI_PART_BYTES(gdn_grad_norm, grad_norm);
} gdni_part_ops;

#undef GDNI_PART_OP
#undef GDNI_PART_BYTES

extern const gdni_part_ops gdni_cuda_part_ops; /* in builds with CUDA */

#endif /* GDNI_PART_OPS_H */
