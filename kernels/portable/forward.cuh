// Stage 2 of forward: the chain of states with its outputs.
#pragma once

#include "chains.cuh"

namespace gdni {

template <typename T, int C, int KP>
__global__ void __launch_bounds__(256, 1) forward_kernel(const __grid_constant__ Arguments a) {
    forward_chain<T, C, KP, true>(a, blockIdx.x);
}

template <typename T, int KP>
cudaError_t launch_forward_shape(const Arguments &a, cudaStream_t stream) {
    using Shape = ChainShape<T, CHUNK<T>, KP>;
    const int64_t chains = a.sequences * a.Hv;
    const ChainPlan plan =
        chain_plan(a, chains, [](int warps) { return Shape::stage_bytes(warps, true); });
    Arguments b = a;
    b.slices = static_cast<int32_t>(plan.slices);
    b.stages = plan.stages;
    const dim3 grid(static_cast<unsigned>(chains * plan.slices));
    return launch_kernel(forward_kernel<T, CHUNK<T>, KP>, grid, 32 * (plan.warps + LOADERS),
                         plan.shared, stream, b);
}

template <typename T>
cudaError_t launch_forward(const Arguments &a, cudaStream_t stream) {
    return a.K <= 64    ? launch_forward_shape<T, 64>(a, stream)
           : a.K <= 128 ? launch_forward_shape<T, 128>(a, stream)
                        : launch_forward_shape<T, 256>(a, stream);
}

} // namespace gdni
