/* The table of the cuda backend's parts. */
#include "cuda/parts.h"

const gdni_part_ops gdni_cuda_part_ops = {
    .conv1d = gdni_cuda_conv1d,
    .l2norm = gdni_cuda_l2norm,
    .gate = gdni_cuda_gate,
    .gated_rmsnorm = gdni_cuda_gated_rmsnorm,
    .linear = gdni_cuda_linear,
    .embedding = gdni_cuda_embedding,
    .rmsnorm = gdni_cuda_rmsnorm,
    .swiglu = gdni_cuda_swiglu,
    .cross_entropy = gdni_cuda_cross_entropy,
    .adamw = gdni_cuda_adamw,
    .grad_norm = gdni_cuda_grad_norm,
    .conv1d_workspace = gdni_cuda_conv1d_workspace,
    .gate_workspace = gdni_cuda_gate_workspace,
    .gated_rmsnorm_workspace = gdni_cuda_gated_rmsnorm_workspace,
    .linear_workspace = gdni_cuda_linear_workspace,
    .embedding_workspace = gdni_cuda_embedding_workspace,
    .rmsnorm_workspace = gdni_cuda_rmsnorm_workspace,
    .cross_entropy_workspace = gdni_cuda_cross_entropy_workspace,
    .grad_norm_workspace = gdni_cuda_grad_norm_workspace,
};
