#include "hopper/hopper.h"
#include "hopper/launch.h"
#include "hopper/maps.h"
#include "hopper/prepare/kernel.cuh"

namespace gdni {
namespace hopper {

namespace {

template <int HEADS>
cudaError_t launch(const Arguments &a, const PrepareMaps &maps, bool whole, cudaStream_t stream) {
    using Shape = PrepareShapeOf<HEADS>;
    const int batches = (a.Hv / a.Hk + HEADS - 1) / HEADS;
    const dim3 grid(static_cast<unsigned>(a.max_chunks), static_cast<unsigned>(a.Hk * batches));
    return launch_early(a.q.data ? prepare_kernel<true, HEADS> : prepare_kernel<false, HEADS>, grid,
                        Shape::THREADS, Shape::BYTES, stream, a, maps, whole);
}

} // namespace

cudaError_t launch_prepare(const Arguments &a, bool whole, cudaStream_t stream) {
    PrepareMaps maps = {};
    GDNI_CUDA_TRY(map_tensor(&maps.k, a.k, a.T, a.Hk, 2));
    GDNI_CUDA_TRY(map_triangle(&maps.inverse, a, a.inverse, whole));
    if (a.q.data) {
        GDNI_CUDA_TRY(map_tensor(&maps.q, a.q, a.T, a.Hk, 2));
        GDNI_CUDA_TRY(map_triangle(&maps.scores, a, a.scores, whole));
    }
    return a.Hv == a.Hk ? launch<1>(a, maps, whole, stream) : launch<4>(a, maps, whole, stream);
}

} // namespace hopper
} // namespace gdni
