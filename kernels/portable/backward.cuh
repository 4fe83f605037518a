// Stage 2 of backward: the chain of states and the chain of their gradients side by side. They need
// nothing of each other; the first is left out where forward saved the states.
#pragma once

#include "chains.cuh"

namespace gdni {

template <typename T, int C, int KP>
__global__ void __launch_bounds__(256, 1)
    chains_kernel(const __grid_constant__ Arguments a, int64_t forward_items) {
    if (blockIdx.x < forward_items)
        forward_chain<T, C, KP, false>(a, blockIdx.x);
    else
        backward_chain<T, C, KP>(a, blockIdx.x - forward_items);
}

template <typename T, int KP>
cudaError_t launch_chains_shape(const Arguments &a, bool forward, bool backward,
                                cudaStream_t stream) {
    using Shape = ChainShape<T, CHUNK<T>, KP>;
    const int64_t chains = a.sequences * a.Hv;
    const ChainPlan plan = chain_plan(a, chains * (forward + backward), [&](int warps) {
        return Shape::stage_bytes(warps, backward);
    });
    Arguments b = a;
    b.slices = static_cast<int32_t>(plan.slices);
    b.stages = plan.stages;
    const int64_t items = chains * plan.slices, forward_items = forward ? items : 0;
    const dim3 grid(static_cast<unsigned>(forward_items + (backward ? items : 0)));
    return launch_kernel(chains_kernel<T, CHUNK<T>, KP>, grid, 32 * (plan.warps + LOADERS),
                         plan.shared, stream, b, forward_items);
}

template <typename T>
cudaError_t launch_chains(const Arguments &a, bool forward, bool backward, cudaStream_t stream) {
    return a.K <= 64    ? launch_chains_shape<T, 64>(a, forward, backward, stream)
           : a.K <= 128 ? launch_chains_shape<T, 128>(a, forward, backward, stream)
                        : launch_chains_shape<T, 256>(a, forward, backward, stream);
}

} // namespace gdni
