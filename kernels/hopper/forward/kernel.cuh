// The forward chain on Hopper: K = V = 128, C = 64, bf16. Transposed throughout, V rows by tokens
// or by K columns:
//
//     U^T  = S^T K^T
//     R^T  = V^T diag(beta) - U^T diag(beta e^c)
//     D^T  = R^T (Gam o T)^T
//     O^T  = (S^T Q^T) diag(s e^c) + D^T P^T
//     S'^T = e^{c_C} S^T + (D^T diag(e^{c_C - c})) K
//
// A warpgroup owns 64 rows of V: S^T, 64 x 128 in fp32, never leaves its registers, and each
// product's accumulators, rounded to bf16, are the next one's left factor. Warpgroups need nothing
// of each other. One warp keeps the ring of stages full, one per warpgroup writes out what the
// warpgroup leaves in shared memory.
//
// One turn of the loop, for chunk n; everything is drained where it begins:
//
//     tensor cores  | D | S^T Q^T 1 | S' | S^T Q^T 2 | U 1, U 2 of n + 1 | P D     |
//     registers     | round O of n - 1, store it     | round S' | decay S, | R of   |
//                   |     | e^{c_C-c} D | round D    | in halves| scale O  | n + 1  |
//     loading warp  | n + 2, where n - 1 was
//     storing warp  | O of n - 1 | D of n | S of n + 1
//
// U, D and S' are the serial chain; the two halves of S^T Q^T (by columns of K) and P D are where
// the chain waits for registers: while D is scaled, while S' is rounded, while R is formed. The
// first chunk's U and R come before the loop, and after the last chunk it forms them once more, of
// the same chunk, for nothing. Barriers: config.cuh.
//
// fp32: the state, all accumulators, gates. bf16: operands, and what is kept. Measured: README.md.
#pragma once

#include "hopper/forward/chain.cuh"

namespace gdni {
namespace hopper {

// One CTA: `active` halves of V from `half` on, a warpgroup each. work() finds the work,
// begin(offset) gives an element of the first state, end() where the last state goes, or NULL.
// Without v it counts as zero.
template <typename Shape, typename FindWork, typename Begin, typename End>
__device__ __forceinline__ void forward_cta(const Arguments &a, const ForwardMaps &maps, int half,
                                            int active, bool with_v, FindWork work, Begin begin,
                                            End end) {
    extern __shared__ __align__(1024) unsigned char shared[];
    const uint32_t base = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    const int warpgroup = threadIdx.x / 128;
    const ForwardPlace<Shape> place = {base, warpgroup};
    if (threadIdx.x == 0) {
        for (int s = 0; s < Shape::STAGES; ++s) {
            mbarrier_init(place.full(s), 1);
            mbarrier_init(place.empty(s), 128 * active);
        }
        for (int w = 0; w < Shape::WARPGROUPS; ++w)
            for (int i = 0; i < 4; ++i) {
                const ForwardPlace<Shape> other = {base, w};
                mbarrier_init(other.ready(i), 4);
                mbarrier_init(other.free(i), 1);
            }
        fence_mbarrier_init();
    }
    if (!with_v)
        for (uint32_t i = threadIdx.x * 16; i < Shape::WARPGROUPS * TILE; i += Shape::THREADS * 16)
            for (int s = 0; s < Shape::STAGES; ++s)
                store_shared_zeros(place.stage(s) + Shape::V + i);
    __syncthreads();
    if (warpgroup == Shape::WARPGROUPS) {
        if constexpr (Shape::WARPGROUPS == 2)
            setmaxnreg_dec<40>();
        const int warp = threadIdx.x / 32 % 4;
        if (warp == 0) {
            if (threadIdx.x % 32 == 0)
                forward_load<Shape>(a, maps, work(), half, active, place);
        } else if ((Shape::OUTPUT || Shape::KEEP) && warp <= active) {
            const ForwardPlace<Shape> stored = {base, warp - 1};
            forward_store<Shape>(a, maps, work(), half + warp - 1, stored);
            cp_async_bulk_wait_group_read<0>();
        }
        // NOTE: constants, wherever this is inlined; else the compiler makes 13% more
        // instructions (1880 for 1664), and rows without a plan took up to 5% longer.
    } else if (active == Shape::WARPGROUPS || warpgroup < active) {
        if constexpr (Shape::WARPGROUPS == 2)
            setmaxnreg_inc<232>();
        const int v0 = (half + warpgroup) * 64 + threadIdx.x / 32 % 4 * 16;
        float s[64];
#pragma unroll
        for (int e = 0; e < 64; ++e)
            s[e] = begin(state_offset(v0, e));
        forward_chain<Shape>(a, work(), place, s);
        float *to = end();
        if (to) {
#pragma unroll
            for (int e = 0; e < 64; ++e)
                to[state_offset(v0, e)] = s[e];
        }
    }
}

// A CTA of the forward pass: item `index`, `active` halves of V from `half` on.
template <typename Shape>
__device__ __forceinline__ void forward_item(const Arguments &a, const ForwardMaps &maps,
                                             int64_t index, int half, int active) {
    if (index >= *a.item_count)
        return;
    const gdni_work_item &item = a.items[index];
    const float *start = entry_state(a, item);
    forward_cta<Shape>(
        a, maps, half, active, true, [&] { return make_work(a, item, item.first); },
        [&](int offset) { return start ? start[offset] : 0.0f; },
        [&] { return exit_state(a, item); });
}

// Chooses: a plan may want a CTA for a half where there is room for both. The code is there twice,
// as a number of halves that the compiler does not know costs 13% more instructions.
template <typename Shape, bool Chooses>
__global__ void __launch_bounds__(Shape::THREADS, 1)
    forward_kernel(const __grid_constant__ Arguments a, const __grid_constant__ ForwardMaps maps) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr int HALVES = 2 / Shape::WARPGROUPS;
    griddepcontrol_wait();
    if (Chooses && *a.narrow)
        forward_item<Shape>(a, maps, blockIdx.x / 2, blockIdx.x % 2, 1);
    else
        forward_item<Shape>(a, maps, blockIdx.x / HALVES, blockIdx.x % HALVES, Shape::WARPGROUPS);
#endif
}

// The exact pass of a plan, tasks and halves of V in turns: the state at a border, from zero or
// from what is given, through the segment on its left; or that segment's transfer matrix, which is
// the state that comes of the identity and no v.
template <typename Shape>
__global__ void __launch_bounds__(Shape::THREADS, 1)
    exact_kernel(const __grid_constant__ Arguments a, const __grid_constant__ ForwardMaps maps,
                 bool states) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr int HALVES = 2 / Shape::WARPGROUPS;
    extern __shared__ __align__(1024) unsigned char shared[];
    griddepcontrol_wait();
    griddepcontrol_launch_dependents();
    const int count = *a.task_count * HALVES;
#pragma unroll 1
    for (int index = blockIdx.x; index < count; index += gridDim.x) {
        const int at = a.tasks[index / HALVES], task = at % TASKS;
        if (task == TASK_GRADIENT || (task == TASK_STATE && !states))
            continue;
        const bool transfer = task == TASK_TRANSFER;
        const gdni_work_item *right = a.items + at / TASKS, *left = right - a.Hv;
        const float *start =
            !transfer && left->entry == GDNI_START_GIVEN ? entry_state(a, *left) : nullptr;
        forward_cta<Shape>(
            a, maps, index % HALVES, Shape::WARPGROUPS, !transfer,
            [&] {
                Work work = make_work(a, *left, transfer ? left->stored : left->first);
                work.with_v = !transfer;
                return work;
            },
            [&](int offset) {
                const bool diagonal = transfer && offset % (HEAD_DIM + 1) == 0;
                return start ? start[offset] : diagonal ? 1.0f : 0.0f;
            },
            [&] { return matrix_at(transfer ? a.pool_transfer : a.pool_states, right->slot); });
        __syncthreads();
        if (threadIdx.x == 0)
            for (uint32_t i = Shape::FULL_AT; i < Shape::BYTES; i += 8)
                mbarrier_inval(static_cast<uint32_t>(__cvta_generic_to_shared(shared)) + i);
    }
#endif
}

} // namespace hopper
} // namespace gdni
