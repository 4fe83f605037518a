#include <algorithm>

#include "hopper/gradients/kernel.cuh"
#include "hopper/launch.h"
#include "hopper/maps.h"

namespace gdni {
namespace hopper {

cudaError_t launch_gradients(const Arguments &a, cudaStream_t stream) {
    GradientsParameters p = {};
    p.a = a;
    p.heads = a.Hv / a.Hk;
    GDNI_CUDA_TRY(map_tensor(&p.q, a.q, a.T, a.Hk, 2));
    GDNI_CUDA_TRY(map_tensor(&p.k, a.k, a.T, a.Hk, 2));
    GDNI_CUDA_TRY(map_tensor(&p.do_, a.do_, a.T, a.Hv, 2));
    GDNI_CUDA_TRY(map_tensor(&p.dv, a.dv, a.T, a.Hv, 2));
    if (!a.dq32) {
        GDNI_CUDA_TRY(map_tensor(&p.dq, a.dq, a.T, a.Hk, 2));
        GDNI_CUDA_TRY(map_tensor(&p.dk, a.dk, a.T, a.Hk, 2));
    }
    GDNI_CUDA_TRY(map_tiles(&p.delta, a, a.delta, 64, 2, 2));
    GDNI_CUDA_TRY(map_tiles(&p.states, a, a.states, 128, 2, 2));
    GDNI_CUDA_TRY(map_tiles(&p.state_grads, a, a.state_grads, 128, 2, 2));
    const int64_t groups = a.max_chunks * a.Hk;
    const dim3 grid(
        static_cast<unsigned>(std::min(groups, static_cast<int64_t>(a.multiprocessors))));
    return a.arrivals ? launch_early(gradients_kernel, grid, THREADS, BYTES, stream, p)
                      : launch_kernel(gradients_kernel, grid, THREADS, BYTES, stream, p);
}

} // namespace hopper
} // namespace gdni
