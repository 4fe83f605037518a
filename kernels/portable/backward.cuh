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
    __shared__ ChainItem item;
    const bool forward = blockIdx.x < forward_ctas;
    const int64_t cta = forward ? blockIdx.x : blockIdx.x - forward_ctas;
    const int64_t index = cta / a.slices;
    if (index >= *a.item_count)
        return;
    const gdni_work_item *work = a.items + index;
    const int slice = static_cast<int>(cta % a.slices);
    if (threadIdx.x == 0)
        item = forward ? states_item(a, *work, slice) : gradients_item(a, *work, slice);
    chain_begin(item);
    if (forward)
        forward_chain<T, C, KP, false>(a, item);
    else
        backward_chain<T, C, KP>(a, item);
}

// blockIdx.x: task; y: slice. For transfer matrices m stands in for a: V = K and no v.
template <typename T, int C, int KP>
__global__ void __launch_bounds__(256, 1)
    exact_kernel(const __grid_constant__ Arguments a, const __grid_constant__ Arguments m,
                 bool states, bool gradients) {
    __shared__ ChainItem item;
    if (blockIdx.x >= *a.task_count)
        return;
    const int32_t task = a.tasks[blockIdx.x] % TASKS;
    const gdni_work_item *right = a.items + a.tasks[blockIdx.x] / TASKS, *left = right - a.Hv;
    const int slice = static_cast<int>(blockIdx.y);
    if ((task == TASK_STATE && !states) || (task == TASK_GRADIENT && !gradients) ||
        slice >= (task == TASK_TRANSFER ? m.slices : a.slices))
        return;
    if (threadIdx.x == 0) {
        item =
            task == TASK_GRADIENT ? gradients_item(a, *right, slice) : states_item(a, *left, slice);
        item.end = task == TASK_STATE      ? matrix_at(a, a.pool_states, right->slot)
                   : task == TASK_GRADIENT ? matrix_at(a, a.pool_grads, right->slot)
                                           : matrix_at(m, m.pool_transfer, right->slot);
        if (task == TASK_TRANSFER) {
            item.first = static_cast<int32_t>(left->stored);
            item.identity = true;
        }
        if (task == TASK_TRANSFER ||
            (task == TASK_STATE ? left->entry : right->exit) == GDNI_START_EXACT)
            item.start = nullptr;
    }
    chain_begin(item);
    if (task == TASK_GRADIENT)
        backward_chain<T, C, KP>(a, item);
    else if (task == TASK_STATE)
        forward_chain<T, C, KP, false>(a, item);
    else
        forward_chain<T, C, KP, false>(m, item);
}

template <typename T, int KP>
cudaError_t launch_chains_shape(const Arguments &a, const gdni_chain_shape &shape, bool forward,
                                bool backward, cudaStream_t stream) {
    Arguments b = a;
    b.slices = shape.slices;
    b.stages = shape.stages;
    b.stage_bytes = static_cast<int32_t>(shape.shared) / shape.stages;
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
    b.stage_bytes = static_cast<int32_t>(shape.shared) / shape.stages;
    b.states = b.delta = b.state_grads = b.delta_grads = nullptr;
    Arguments m = b;
    m.V = m.K;
    m.v = {};
    m.v.aligned = true;
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
