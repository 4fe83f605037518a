#include "hopper/forward/kernel.cuh"
#include "hopper/hopper.h"
#include "hopper/launch.h"
#include "hopper/maps.h"

namespace gdni {
namespace hopper {

namespace {

template <typename Shape>
cudaError_t launch(const Arguments &a, const ForwardMaps &maps, cudaStream_t stream) {
    int64_t ctas = a.max_items * 2 / Shape::WARPGROUPS;
    if (a.narrow && ctas < a.multiprocessors)
        ctas = a.multiprocessors; // so many halves may run at once
    const dim3 grid(static_cast<unsigned>(ctas));
    if constexpr (Shape::WARPGROUPS == 2)
        if (a.narrow)
            return launch_early(forward_kernel<Shape, true>, grid, Shape::THREADS, Shape::BYTES,
                                stream, a, maps);
    return launch_early(forward_kernel<Shape, false>, grid, Shape::THREADS, Shape::BYTES, stream, a,
                        maps);
}

template <int WARPGROUPS>
cudaError_t launch(const Arguments &a, const ForwardMaps &maps, cudaStream_t stream) {
    return a.states ? launch<ForwardShape<WARPGROUPS, true, true>>(a, maps, stream)
                    : launch<ForwardShape<WARPGROUPS, true, false>>(a, maps, stream);
}

cudaError_t map_inputs(ForwardMaps *maps, const Arguments &a) {
    GDNI_CUDA_TRY(map_tensor(&maps->k, a.k, a.T, a.Hk, 2));
    GDNI_CUDA_TRY(map_tensor(&maps->v, a.v, a.T, a.Hv, 1));
    return map_triangle(&maps->inverse, a, a.inverse, false);
}

} // namespace

cudaError_t launch_forward(const Arguments &a, cudaStream_t stream) {
    ForwardMaps maps = {};
    GDNI_CUDA_TRY(map_inputs(&maps, a));
    GDNI_CUDA_TRY(map_tensor(&maps.q, a.q, a.T, a.Hk, 2));
    GDNI_CUDA_TRY(map_tensor(&maps.o, a.o, a.T, a.Hv, 1));
    GDNI_CUDA_TRY(map_triangle(&maps.scores, a, a.scores, false));
    if (a.states) {
        GDNI_CUDA_TRY(map_tiles(&maps.states, a, a.states, HEAD_DIM, 2, 2));
        GDNI_CUDA_TRY(map_tiles(&maps.delta, a, a.delta, 64, 2, 1));
    }
    // A warpgroup alone on its multiprocessor runs a chunk in two thirds of the time that two take
    // side by side: one a CTA while the device holds them all. A plan decides by itself.
    return !a.narrow && a.max_items * 2 <= a.multiprocessors ? launch<1>(a, maps, stream)
                                                             : launch<2>(a, maps, stream);
}

cudaError_t launch_exact(const Arguments &a, bool states, cudaStream_t stream) {
    // Tasks are few as a rule: a warpgroup alone on its multiprocessor, at twice the speed.
    using Shape = ForwardShape<1, false, false>;
    ForwardMaps maps = {};
    GDNI_CUDA_TRY(map_inputs(&maps, a));
    // CTAs go on to other tasks: one a multiprocessor. Of backward's tasks some are another
    // kernel's, and a CTA may do a task as well find nothing to do: one each.
    int64_t ctas = a.plan.max_borders * a.Hv * TASKS * 2;
    if (!a.pool_grads && ctas > a.multiprocessors)
        ctas = a.multiprocessors;
    const dim3 grid(static_cast<unsigned>(ctas));
    return launch_early(exact_kernel<Shape>, grid, Shape::THREADS, Shape::BYTES, stream, a, maps,
                        states);
}

} // namespace hopper
} // namespace gdni
