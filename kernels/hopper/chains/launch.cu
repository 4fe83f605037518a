#include "hopper/chains/kernel.cuh"
#include "hopper/launch.h"
#include "hopper/maps.h"

namespace gdni {
namespace hopper {

namespace {

template <int WARPGROUPS>
cudaError_t launch(const ChainsParameters &p, cudaStream_t stream) {
    const int64_t ctas = p.a.max_items * (2 / WARPGROUPS) * (p.forward + p.backward);
    constexpr uint32_t F = ChainsLayout<WARPGROUPS, false>::BYTES,
                       B = ChainsLayout<WARPGROUPS, true>::BYTES;
    return launch_kernel(chains_kernel<WARPGROUPS>, dim3(static_cast<unsigned>(ctas)),
                         ChainsShape<WARPGROUPS>::THREADS, F > B ? F : B, stream, p);
}

cudaError_t launch_any(ChainsParameters &p, bool forward, bool backward, cudaStream_t stream) {
    const Arguments &a = p.a;
    p.forward = forward;
    p.backward = backward;
    GDNI_CUDA_TRY(map_tensor(&p.k, a.k, a.T, a.Hk, 2));
    GDNI_CUDA_TRY(map_tiles(&p.inverse, a, a.inverse, 64, 1, 1));
    if (forward)
        GDNI_CUDA_TRY(map_tensor(&p.v, a.v, a.T, a.Hv, 1));
    if (forward && a.states)
        GDNI_CUDA_TRY(map_tiles(&p.states, a, a.states, 128, 2, 2));
    if (forward && a.delta)
        GDNI_CUDA_TRY(map_tiles(&p.delta, a, a.delta, 64, 2, 1));
    if (backward) {
        GDNI_CUDA_TRY(map_tensor(&p.q, a.q, a.T, a.Hk, 2));
        GDNI_CUDA_TRY(map_tensor(&p.do_, a.do_, a.T, a.Hv, 1));
        GDNI_CUDA_TRY(map_tiles(&p.scores, a, a.scores, 64, 1, 1));
    }
    if (backward && a.dv.data)
        GDNI_CUDA_TRY(map_tensor(&p.dv, a.dv, a.T, a.Hv, 1));
    if (backward && a.state_grads)
        GDNI_CUDA_TRY(map_tiles(&p.state_grads, a, a.state_grads, 128, 2, 2));
    // Two warpgroups on one multiprocessor take as long as one after the other, but load K once:
    // halves of a head on different ones, unless the heads fill the device anyway. Cut sequences
    // are cut for that.
    return 2 * a.sequences * a.Hv * (forward + backward) <= a.multiprocessors
               ? launch<1>(p, stream)
               : launch<2>(p, stream);
}

} // namespace

cudaError_t launch_chains(const Arguments &a, bool forward, bool backward, cudaStream_t stream) {
    ChainsParameters p = {};
    p.a = a;
    p.last_gradients = a.dh0;
    return launch_any(p, forward, backward, stream);
}

cudaError_t launch_exact_gradients(const Arguments &a, cudaStream_t stream) {
    ChainsParameters p = {};
    p.a = a;
    p.a.dv = {};
    p.a.state_grads = nullptr;
    p.a.arrivals = nullptr;
    p.exact = true;
    p.last_gradients = a.pool_grads;
    return launch_any(p, false, true, stream);
}

} // namespace hopper
} // namespace gdni
