// Forward in one kernel on Hopper: K = V = 128, C = 64, bf16, no saved states. A cluster of two
// CTAs is one work item, each CTA has half of V:
//
//     chain        the warpgroup of ../forward: U, D, O, S' of every chunk for 64 rows of V
//     tiles        N, M, Gam o T and P of every second chunk (tiles.cuh), for both CTAs: into a slot
//                  here and, by one copy, over there
//     four warps   K and Q into a ring of stages; O out; gate vectors of every second chunk; V into
//                  a ring of its own
//
//     CTA 0   chain  |    n     |   n + 1   |   n + 2   |        n even; chunk i has slot i % 3
//             tiles  |  n + 2, for both CTAs | n + 4
//     CTA 1   tiles  n + 1      | n + 3              | n + 5
//
// Against prepare and forward one after the other it saves the tiles' way through memory and the
// second reading of K and Q; what it costs is that N and M are formed once a v-head. Barriers and
// shared memory: config.cuh. Measured: ../README.md.
#pragma once

#include "hopper/fused/chain.cuh"
#include "hopper/fused/tiles.cuh"

namespace gdni {
namespace hopper {

// A warp that fills a ring of STAGES: copy(i, stage, barrier) starts the copies of chunk i, `bytes`
// in all, clear(stage, rows) does so after they have come where the sequence does not fill the
// chunk. Barriers full, empty of the ring and `tail` are numbers of FusedPlace::barrier.
template <int STAGES, typename Copy, typename Clear>
__device__ __forceinline__ void fill_ring(const FusedPlace &place, const Work &work, int full,
                                          int empty, int tail, uint32_t bytes, Copy copy,
                                          Clear clear) {
    const int lane = threadIdx.x % 32;
    Turn<STAGES> turn;
#pragma unroll 1
    for (int i = 0; i < work.count; ++i, turn.next()) {
        const bool partial = i + 1 == work.count && work.tail < CHUNK_TOKENS;
        const uint32_t done = place.barrier(full + turn.stage);
        const uint32_t loaded = partial ? place.barrier(tail) : done;
        mbarrier_wait(place.barrier(empty + turn.stage), turn.parity ^ 1);
        if (lane == 0) {
            mbarrier_arrive_expect_tx(loaded, bytes);
            copy(i, turn.stage, loaded);
        }
        if (partial) {
            mbarrier_wait(loaded, 0);
            clear(turn.stage, work.tail);
            fence_proxy_async();
        }
        if (partial || lane > 0)
            mbarrier_arrive(done);
    }
}

// Rows of Q behind the last reach only output that is not stored.
__device__ __forceinline__ void load_keys(const ForwardMaps &maps, const Work &work,
                                          const FusedPlace &place) {
    using Shape = FusedShape;
    fill_ring<Shape::STAGES>(
        place, work, Shape::FULL, Shape::EMPTY, Shape::TAIL, Shape::STAGE,
        [&](int i, int stage, uint32_t barrier) {
            const int token = work.token + i * CHUNK_TOKENS;
            const uint32_t to = place.stage(stage);
            cp_async_bulk_tensor_load(to + Shape::K, maps.k, token, 0, work.k_head, barrier);
            cp_async_bulk_tensor_load(to + Shape::Q, maps.q, token, 0, work.k_head, barrier);
        },
        [&](int stage, int rows) {
            zero_rows(place.stage(stage) + Shape::K, rows);
            zero_rows(place.stage(stage) + Shape::K + TILE, rows);
        });
}
__device__ __forceinline__ void load_values(const ForwardMaps &maps, const Work &work, int half,
                                            const FusedPlace &place) {
    using Shape = FusedShape;
    fill_ring<Shape::VALUES>(
        place, work, Shape::VALUE_FULL, Shape::VALUE_EMPTY, Shape::TAIL + 1, TILE,
        [&](int i, int stage, uint32_t barrier) {
            cp_async_bulk_tensor_load(place.value(stage), maps.v, work.token + i * CHUNK_TOKENS,
                                      half, work.head, barrier);
        },
        [&](int stage, int rows) { zero_rows(place.value(stage), rows); });
}

__global__ void __launch_bounds__(FusedShape::THREADS, 1) __cluster_dims__(2, 1, 1)
    fused_kernel(const __grid_constant__ Arguments a, const __grid_constant__ ForwardMaps maps) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    using Shape = FusedShape;
    extern __shared__ __align__(1024) unsigned char shared[];
    const int64_t index = blockIdx.x / 2;
    const int rank = blockIdx.x % 2, warpgroup = threadIdx.x / 128;
    griddepcontrol_wait();
    if (index >= *a.item_count)
        return; // the whole cluster
    const gdni_work_item &item = a.items[index];
    const FusedPlace place = {static_cast<uint32_t>(__cvta_generic_to_shared(shared))};
    if (threadIdx.x == 0) {
        const auto init = [&](int first, int number, int count) {
            for (int i = 0; i < number; ++i)
                mbarrier_init(place.barrier(first + i), count);
        };
        init(Shape::FULL, Shape::STAGES, 32);
        init(Shape::EMPTY, Shape::STAGES, 4);
        init(Shape::VALUE_FULL, Shape::VALUES, 32);
        init(Shape::VALUE_EMPTY, Shape::VALUES, 4);
        init(Shape::TAIL, 2, 1);
        init(Shape::READY, 2, 4);
        init(Shape::FREE, 2, 1);
        init(Shape::SLOT_FULL, Shape::SLOTS, 1);
        init(Shape::SLOT_EMPTY, Shape::SLOTS, 8);
        init(Shape::GATES_FULL, 2, 32);
        init(Shape::GATES_EMPTY, 2, 4);
        fence_mbarrier_init();
        for (int i = 1 - rank; i < Shape::SLOTS && i < item.last - item.first; i += 2)
            mbarrier_arrive_expect_tx(place.slot_full(i), Shape::SENT);
    }
    // What lies behind the diagonal of a tile is never written again.
    for (int i = threadIdx.x * 16; i < Shape::SLOTS * Shape::SLOT; i += Shape::THREADS * 16)
        store_shared_zeros(place.base + Shape::SLOTS_AT + i);
    fence_proxy_async();
    __syncthreads();
    barrier_cluster();
    const auto work = [&] { return make_work(a, item, item.first); };
    if (warpgroup == 2) {
        setmaxnreg_dec<56>();
        const int warp = threadIdx.x / 32 % 4;
        if (warp == 0)
            load_keys(maps, work(), place);
        else if (warp == 1) {
            forward_store<Shape>(a, maps, work(), rank, place);
            cp_async_bulk_wait_group_read<0>();
        } else if (warp == 2)
            fused_gates(a, work(), place, shared, rank);
        else
            load_values(maps, work(), rank, place);
    } else if (warpgroup == 1) {
        setmaxnreg_inc<208>();
        fused_tiles(a, work(), place, shared, rank);
    } else {
        setmaxnreg_inc<240>();
        const int v0 = rank * 64 + threadIdx.x / 32 % 4 * 16;
        const float *start = entry_state(a, item);
        float s[64];
#pragma unroll
        for (int e = 0; e < 64; ++e)
            s[e] = start ? start[state_offset(v0, e)] : 0.0f;
        fused_chain(a, work(), place, rank, s);
        float *to = exit_state(a, item);
        if (to) {
#pragma unroll
            for (int e = 0; e < 64; ++e)
                to[state_offset(v0, e)] = s[e];
        }
    }
    // The other CTA may still write here.
    __syncthreads();
    barrier_cluster();
#endif
}

} // namespace hopper
} // namespace gdni
