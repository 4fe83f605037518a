#include "hopper/hopper.h"
#include "hopper/launch.h"
#include "hopper/maps.h"
#include "hopper/prepare/kernel.cuh"

namespace gdni {
namespace hopper {

cudaError_t launch_prepare(const Arguments &a, bool whole, cudaStream_t stream) {
    using Shape = PrepareShape;
    PrepareMaps maps = {};
    GDNI_CUDA_TRY(map_tensor(&maps.k, a.k, a.T, a.Hk, 2));
    GDNI_CUDA_TRY(map_triangle(&maps.inverse, a, a.inverse, whole));
    if (a.q.data) {
        GDNI_CUDA_TRY(map_tensor(&maps.q, a.q, a.T, a.Hk, 2));
        GDNI_CUDA_TRY(map_triangle(&maps.scores, a, a.scores, whole));
    }
    const int batches = (a.Hv / a.Hk + Shape::HEADS - 1) / Shape::HEADS;
    const dim3 grid(static_cast<unsigned>(a.max_chunks), static_cast<unsigned>(a.Hk * batches));
    return launch_early(a.q.data ? prepare_kernel<true> : prepare_kernel<false>, grid,
                        Shape::THREADS, Shape::BYTES, stream, a, maps);
}

} // namespace hopper
} // namespace gdni
