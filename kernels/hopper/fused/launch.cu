#include "hopper/fused/kernel.cuh"
#include "hopper/fused/queue_kernel.cuh"
#include "hopper/hopper.h"
#include "hopper/launch.h"
#include "hopper/maps.h"

namespace gdni {
namespace hopper {

namespace {

cudaError_t map_operands(ForwardMaps *maps, const Arguments &a) {
    GDNI_CUDA_TRY(map_tensor(&maps->k, a.k, a.T, a.Hk, 2));
    GDNI_CUDA_TRY(map_tensor(&maps->q, a.q, a.T, a.Hk, 2));
    GDNI_CUDA_TRY(map_tensor(&maps->v, a.v, a.T, a.Hv, 1));
    return map_tensor(&maps->o, a.o, a.T, a.Hv, 1);
}

} // namespace

cudaError_t launch_fused(const Arguments &a, cudaStream_t stream) {
    ForwardMaps maps = {};
    GDNI_CUDA_TRY(map_operands(&maps, a));
    const dim3 grid(static_cast<unsigned>(a.max_items * 2));
    return launch_early(fused_kernel, grid, FusedShape::THREADS, FusedShape::BYTES, stream, a,
                        maps);
}

cudaError_t launch_fused_queue(const Arguments &a, cudaStream_t stream) {
    ForwardMaps maps = {};
    GDNI_CUDA_TRY(map_operands(&maps, a));
    if (a.initial_state) // fp32: each half of V is two blocks of 64 elements of two bytes
        GDNI_CUDA_TRY(
            make_tensor_map(&maps.states, {a.initial_state, a.N * a.Hv, HEAD_DIM, 4, 2,
                                           HEAD_DIM * HEAD_DIM * 4, HEAD_DIM * 4, 64, HEAD_DIM}));
    const int64_t items = a.N * a.Hv, most = a.multiprocessors / 2;
    const dim3 grid(static_cast<unsigned>(2 * (items < most ? items : most)));
    return launch_early(fused_queue_kernel, grid, FusedShape::THREADS, FusedShape::BYTES, stream, a,
                        maps);
}

} // namespace hopper
} // namespace gdni
