// Stage 2 of backward: the chain of states and the chain of their gradients side by side. They need
// nothing of each other; the first is left out where forward saved the states. And the exact pass
// of a plan: the same chains, from zero, for the borders that need it; transfer matrices are the
// chain of states from the identity, with K columns of zeros for V.
#pragma once

#include "chains.cuh"

namespace gdni {

template <typename T, int C, int KP>
__global__ void __launch_bounds__(256, 1)
    chains_kernel(const __grid_constant__ Arguments a, int64_t forward_ctas) {
    const bool forward = blockIdx.x < forward_ctas;
    const int64_t cta = forward ? blockIdx.x : blockIdx.x - forward_ctas;
    const int64_t index = cta / a.slices;
    if (index >= *a.item_count)
        return;
    const gdni_work_item *work = a.items + index;
    const int slice = static_cast<int>(cta % a.slices);
    if (forward)
        forward_chain<T, C, KP, false>(a, states_item(a, *work, slice),
                                       [&] { return states_end(a, *work); });
    else
        backward_chain<T, C, KP>(a, gradients_item(a, *work, slice),
                                 [&] { return gradients_end(a, *work); });
}

// blockIdx.x: task; y: slice. For transfer matrices m stands in for a: V = K and no v.
template <typename T, int C, int KP>
__global__ void __launch_bounds__(256, 1)
    exact_kernel(const __grid_constant__ Arguments a, const __grid_constant__ Arguments m,
                 bool states, bool gradients) {
    if (blockIdx.x >= *a.task_count)
        return;
    const int32_t task = a.tasks[blockIdx.x];
    const gdni_work_item *right = a.items + task / TASKS, *left = right - a.Hv;
    const int slice = static_cast<int>(blockIdx.y);
    if (task % TASKS == TASK_STATE) {
        if (!states || slice >= a.slices)
            return;
        ChainItem item = states_item(a, *left, slice);
        if (left->entry == GDNI_START_EXACT)
            item.start = nullptr;
        forward_chain<T, C, KP, false>(a, item,
                                       [&] { return matrix_at(a, a.pool_states, right->slot); });
    } else if (task % TASKS == TASK_GRADIENT) {
        if (!gradients || slice >= a.slices)
            return;
        ChainItem item = gradients_item(a, *right, slice);
        if (right->exit == GDNI_START_EXACT)
            item.start = nullptr;
        backward_chain<T, C, KP>(a, item, [&] { return matrix_at(a, a.pool_grads, right->slot); });
    } else {
        if (slice >= m.slices)
            return;
        ChainItem item = states_item(m, *left, slice);
        item.start = nullptr;
        item.first = static_cast<int32_t>(left->stored);
        item.identity = true;
        forward_chain<T, C, KP, false>(m, item,
                                       [&] { return matrix_at(m, m.pool_transfer, right->slot); });
    }
}

template <typename T, int KP>
cudaError_t launch_chains_shape(const Arguments &a, const gdni_chain_shape &shape, bool forward,
                                bool backward, cudaStream_t stream) {
    Arguments b = a;
    b.slices = shape.slices;
    b.stages = shape.stages;
    const int64_t ctas = a.max_items * shape.slices, forward_ctas = forward ? ctas : 0;
    const dim3 grid(static_cast<unsigned>(forward_ctas + (backward ? ctas : 0)));
    return launch_kernel(chains_kernel<T, CHUNK<T>, KP>, grid, 32 * (shape.warps + LOADERS),
                         shape.shared, stream, b, forward_ctas);
}

template <typename T, int KP>
cudaError_t launch_exact_shape(const Arguments &a, const gdni_chain_shape &shape, bool states,
                               bool gradients, cudaStream_t stream) {
    Arguments b = a;
    b.slices = shape.slices;
    b.stages = shape.stages;
    b.states = b.delta = b.state_grads = b.delta_grads = nullptr;
    Arguments m = b;
    m.V = m.K;
    m.v = {};
    m.slices = (a.K + 16 * shape.warps - 1) / (16 * shape.warps);
    const dim3 grid(static_cast<unsigned>(a.plan.max_borders * a.Hv * TASKS),
                    static_cast<unsigned>(b.slices > m.slices ? b.slices : m.slices));
    return launch_kernel(exact_kernel<T, CHUNK<T>, KP>, grid, 32 * (shape.warps + LOADERS),
                         shape.shared, stream, b, m, states, gradients);
}

template <typename T>
cudaError_t launch_chains(const Arguments &a, const gdni_chain_shape &shape, bool forward,
                          bool backward, cudaStream_t stream) {
    return a.K <= 64    ? launch_chains_shape<T, 64>(a, shape, forward, backward, stream)
           : a.K <= 128 ? launch_chains_shape<T, 128>(a, shape, forward, backward, stream)
                        : launch_chains_shape<T, 256>(a, shape, forward, backward, stream);
}

template <typename T>
cudaError_t launch_exact(const Arguments &a, const gdni_chain_shape &shape, bool states,
                         bool gradients, cudaStream_t stream) {
    return a.K <= 64    ? launch_exact_shape<T, 64>(a, shape, states, gradients, stream)
           : a.K <= 128 ? launch_exact_shape<T, 128>(a, shape, states, gradients, stream)
                        : launch_exact_shape<T, 256>(a, shape, states, gradients, stream);
}

} // namespace gdni
