#include "hopper/fused/kernel.cuh"
#include "hopper/hopper.h"
#include "hopper/launch.h"
#include "hopper/maps.h"

namespace gdni {
namespace hopper {

cudaError_t launch_fused(const Arguments &a, cudaStream_t stream) {
    ForwardMaps maps = {};
    GDNI_CUDA_TRY(map_tensor(&maps.k, a.k, a.T, a.Hk, 2));
    GDNI_CUDA_TRY(map_tensor(&maps.q, a.q, a.T, a.Hk, 2));
    GDNI_CUDA_TRY(map_tensor(&maps.v, a.v, a.T, a.Hv, 1));
    GDNI_CUDA_TRY(map_tensor(&maps.o, a.o, a.T, a.Hv, 1));
    const dim3 grid(static_cast<unsigned>(a.max_items * 2));
    return launch_early(fused_kernel, grid, FusedShape::THREADS, FusedShape::BYTES, stream, a,
                        maps);
}

} // namespace hopper
} // namespace gdni
