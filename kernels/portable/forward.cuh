// Stage 2 of forward: the chain of states with its outputs.
#pragma once

#include "chains.cuh"

namespace gdni {

template <typename T, int C, int KP>
__global__ void __launch_bounds__(256, 1) forward_kernel(const __grid_constant__ Arguments a) {
    __shared__ ChainItem item;
    const int64_t index = blockIdx.x / a.slices;
    if (index >= *a.item_count)
        return;
    if (threadIdx.x == 0)
        item = states_item(a, a.items[index], static_cast<int>(blockIdx.x % a.slices));
    chain_begin(item);
    forward_chain<T, C, KP, true>(a, item);
}

template <typename T, int KP>
cudaError_t launch_forward_shape(const Arguments &a, const gdni_chain_shape &shape,
                                 cudaStream_t stream) {
    Arguments b = a;
    b.slices = shape.slices;
    b.stages = shape.stages;
    b.stage_bytes = static_cast<int32_t>(shape.shared) / shape.stages;
    const dim3 grid(static_cast<unsigned>(a.max_items * shape.slices));
    return launch_kernel(forward_kernel<T, CHUNK<T>, KP>, grid, 32 * (shape.warps + LOADERS),
                         shape.shared, stream, b);
}

template <typename T>
cudaError_t launch_forward(const Arguments &a, const gdni_chain_shape &shape, cudaStream_t stream) {
    return a.K <= 64    ? launch_forward_shape<T, 64>(a, shape, stream)
           : a.K <= 128 ? launch_forward_shape<T, 128>(a, shape, stream)
                        : launch_forward_shape<T, 256>(a, shape, stream);
}

} // namespace gdni
