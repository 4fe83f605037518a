/* The cuda backend's parts: those of layers in layer_parts.c, those of models in model_parts.c. */
#ifndef GDNI_CUDA_PARTS_H
#define GDNI_CUDA_PARTS_H

#include "layer/part_ops.h"

#define GDNI_CUDA_PART(name)                                                                       \
    gdn_status gdni_cuda_##name(const gdn_context *context, const gdn_##name *part, int backward,  \
                                gdn_stream stream)
#define GDNI_CUDA_PART_BYTES(name)                                                                 \
    size_t gdni_cuda_##name##_workspace(const gdn_context *context, const gdn_##name *part)

GDNI_CUDA_PART(conv1d);
GDNI_CUDA_PART(l2norm);
GDNI_CUDA_PART(gate);
GDNI_CUDA_PART(gated_rmsnorm);
GDNI_CUDA_PART(linear);
GDNI_CUDA_PART(embedding);
GDNI_CUDA_PART(rmsnorm);
GDNI_CUDA_PART(swiglu);
GDNI_CUDA_PART(cross_entropy);
GDNI_CUDA_PART(adamw);
GDNI_CUDA_PART(grad_norm);

GDNI_CUDA_PART_BYTES(conv1d);
GDNI_CUDA_PART_BYTES(gate);
GDNI_CUDA_PART_BYTES(gated_rmsnorm);
GDNI_CUDA_PART_BYTES(linear);
GDNI_CUDA_PART_BYTES(embedding);
GDNI_CUDA_PART_BYTES(rmsnorm);
GDNI_CUDA_PART_BYTES(cross_entropy);
GDNI_CUDA_PART_BYTES(grad_norm);

#endif /* GDNI_CUDA_PARTS_H */
