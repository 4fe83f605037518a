// The fused forward where sequences are short: as ../fused/kernel.cuh, but a cluster works through
// a queue of items, a sequence and v-head each, every so many-th of all. Nothing stops between
// items: chunks are counted over all of them and the rings run on. An item's first state comes
// through the ring of K and Q, behind its first chunk; between S' of an item's last chunk and U of
// the next one's first the chain writes S out and takes the next S from there:
//
//     stages        a0 | S of a | a1 | a2 | ... | b0 | S of b | b1 | ...
//     tensor cores  S' of the last | S^T Q^T 2        | U of b0 | P D of the last |
//     registers     round D        | S out, S of b in | decay S |
//
// It finds its items in cu_seqlens and fills the padding, so that no tables are made before it and
// nothing is launched after it. Barriers and shared memory: config.cuh. Measured: ../README.md.
#pragma once

#include "hopper/fused/items.cuh"
#include "hopper/fused/queue_chain.cuh"
#include "hopper/fused/tiles.cuh"

namespace gdni {
namespace hopper {

// A ring of STAGES that a warp fills.
template <int STAGES>
struct Ring {
    Turn<STAGES> turn;
    uint32_t tails = 0; // chunks so far that were not full
};

// The chunks of an item: copy(i, stage, barrier) starts the copies of chunk i, `bytes` in all,
// clear(stage, rows) does so after they have come where the sequence does not fill the chunk; what
// begun() loads comes behind the first one. Barriers full, empty of the ring and `tail` are numbers
// of FusedPlace::barrier.
template <int STAGES, typename Copy, typename Clear, typename Begun>
__device__ __forceinline__ void
fill_queue_ring(const FusedPlace &place, const FusedItem &item, Ring<STAGES> &ring, int full,
                int empty, int tail, uint32_t bytes, Copy copy, Clear clear, Begun begun) {
    const int lane = threadIdx.x % 32;
#pragma unroll 1
    for (int i = 0; i < item.count; ++i) {
        const int stage = ring.turn.stage;
        const bool partial = i + 1 == item.count && item.tail < CHUNK_TOKENS;
        const uint32_t done = place.barrier(full + stage);
        const uint32_t loaded = partial ? place.barrier(tail) : done;
        mbarrier_wait(place.barrier(empty + stage), ring.turn.parity ^ 1);
        if (lane == 0) {
            mbarrier_arrive_expect_tx(loaded, bytes);
            copy(i, stage, loaded);
        }
        if (partial) {
            mbarrier_wait(loaded, ring.tails++ & 1);
            clear(stage, item.tail);
            fence_proxy_async();
        }
        if (partial || lane > 0)
            mbarrier_arrive(done);
        ring.turn.next();
        if (i == 0)
            begun();
    }
}

// The ring's next stage: half of an item's first state.
__device__ __forceinline__ void load_state(const Arguments &a, const ForwardMaps &maps,
                                           const FusedPlace &place, const FusedItem &item, int half,
                                           Turn<FusedShape::STAGES> &turn) {
    const int lane = threadIdx.x % 32;
    const uint32_t to = place.stage(turn.stage), full = place.full(turn.stage);
    mbarrier_wait(place.empty(turn.stage), turn.parity ^ 1);
    if (!a.initial_state) {
        for (int i = lane * 16; i < FusedShape::STAGE; i += 32 * 16)
            store_shared_zeros(to + i);
        fence_proxy_async();
        mbarrier_arrive(full);
    } else if (lane == 0) {
        mbarrier_arrive_expect_tx(full, FusedShape::STAGE);
        cp_async_bulk_tensor_load(to, maps.states, 0, half * 2, item.state, full);
    } else {
        mbarrier_arrive(full);
    }
    turn.next();
}

// Half of the last state of a sequence without tokens: its first one.
__device__ __forceinline__ void pass_state(const Arguments &a, const FusedItem &item, int half) {
    constexpr int COUNT = HEAD_DIM * HEAD_DIM / 2;
    const float *from = matrix_at(a.initial_state, item.state);
    float *to = matrix_at(a.final_state, item.state);
    for (int i = half * COUNT + threadIdx.x % 32; to && i < (half + 1) * COUNT; i += 32)
        to[i] = from ? from[i] : 0.0f;
}

// Finds the items as well, and hands them on. Rows of Q behind the last reach only output that is
// not stored.
__device__ __forceinline__ void queue_keys(const Arguments &a, const ForwardMaps &maps,
                                           const FusedPlace &place, int rank) {
    using Shape = FusedShape;
    const int lane = threadIdx.x % 32, count = static_cast<int>(a.N * a.Hv);
    FusedItems items;
    Ring<Shape::STAGES> ring;
#pragma unroll 1
    for (int index = blockIdx.x / 2; index < count; index += gridDim.x / 2) {
        const FusedItem item = make_item(a, index);
        if (item.count == 0) {
            pass_state(a, item, rank);
            continue;
        }
        if (lane == 0)
            items.put(place, item);
        fill_queue_ring(
            place, item, ring, Shape::FULL, Shape::EMPTY, Shape::TAIL, Shape::STAGE,
            [&](int i, int stage, uint32_t barrier) {
                const int token = item.token + i * CHUNK_TOKENS;
                const uint32_t to = place.stage(stage);
                cp_async_bulk_tensor_load(to + Shape::K, maps.k, token, 0, item.k_head, barrier);
                cp_async_bulk_tensor_load(to + Shape::Q, maps.q, token, 0, item.k_head, barrier);
            },
            [&](int stage, int rows) {
                zero_rows(place.stage(stage) + Shape::K, rows);
                zero_rows(place.stage(stage) + Shape::K + TILE, rows);
            },
            [&] { load_state(a, maps, place, item, rank, ring.turn); });
    }
    if (lane == 0)
        items.put(place, {});
}
__device__ __forceinline__ void queue_values(const ForwardMaps &maps, int half,
                                             const FusedPlace &place) {
    using Shape = FusedShape;
    FusedItems items;
    Ring<Shape::VALUES> ring;
#pragma unroll 1
    for (FusedItem item; (item = items.next(place)).count > 0;)
        fill_queue_ring(
            place, item, ring, Shape::VALUE_FULL, Shape::VALUE_EMPTY, Shape::TAIL + 1, TILE,
            [&](int i, int stage, uint32_t barrier) {
                cp_async_bulk_tensor_load(place.value(stage), maps.v, item.token + i * CHUNK_TOKENS,
                                          half, item.head, barrier);
            },
            [&](int stage, int rows) { zero_rows(place.value(stage), rows); }, [] {});
}

// The output of a chunk comes with the chain's next one, and of what is before the first nothing.
__device__ __forceinline__ void queue_outputs(const Arguments &a, const ForwardMaps &maps, int half,
                                              const FusedPlace &place) {
    const int lane = threadIdx.x % 32;
    FusedItems items;
    FusedItem item = items.next(place);
    int left = item.count + 1;
#pragma unroll 1
    for (int i = 0; item.count > 0; ++i) {
        const int buffer = i & 1;
        const uint32_t from = place.store() + buffer * TILE;
        mbarrier_wait(place.ready(buffer), i >> 1 & 1);
        if (left <= item.count) {
            const int token = item.token + (item.count - left) * CHUNK_TOKENS;
            if (left > 1 || item.tail == CHUNK_TOKENS) {
                if (lane == 0)
                    cp_async_bulk_tensor_store(maps.o, token, half, item.head, from);
            } else {
                store_rows(a, token, item.tail, item.head, half, from);
            }
        }
        if (lane == 0) {
            cp_async_bulk_commit_group();
            cp_async_bulk_wait_group_read<0>();
            mbarrier_arrive(place.free(buffer));
        }
        __syncwarp();
        if (--left == 0) {
            item = items.next(place);
            left = item.count;
        }
    }
}

// Tokens past the last sequence: a warp of each CTA.
__device__ __forceinline__ void zero_padding(const Arguments &a) {
    const int64_t end = a.cu_seqlens ? sequence_start(a, a.N) : a.T;
    for (int64_t token = end + blockIdx.x; token < a.T; token += gridDim.x)
        for (int i = threadIdx.x % 32; i < a.Hv * 16; i += 32)
            reinterpret_cast<uint4 *>(row_pointer<__nv_bfloat16>(a.o, token, i / 16))[i % 16] = {};
}

// Gam o T and P of chunk `number`, the CTA's turn-th; K and Q are in `stage`, and release() is
// called once they are not read any more. NOTE: blocks are selected, not branched for: with the
// chain's, this code should stay in the multiprocessor's instruction cache.
template <typename Release>
__device__ __forceinline__ void make_tiles(const Arguments &a, const FusedPlace &place,
                                           unsigned char *shared, int rank, int number, int turn,
                                           int stage, Release release) {
    using Shape = FusedShape;
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    float *block = reinterpret_cast<float *>(shared + Shape::BLOCKS_AT + warp * Shape::BLOCK);
    const uint32_t factors = place.base + Shape::FACTORS_AT;
    const int buffer = turn & 1;
    const float *gates =
        reinterpret_cast<const float *>(shared + Shape::VECTORS_AT + buffer * Shape::GATE_BUFFER);
    float n[32], m[32];
    multiply_keys(n, m, __shfl_sync(0xffffffffu, place.stage(stage), 0));
    mbarrier_wait(place.gates_full(buffer), turn >> 1 & 1);
    wgmma_wait_group<0>();
    pin(n);
    pin(m);
    release();

    const InverseBlocks inverse =
        invert(warp, lane, n, gates + PrepareShape::BETA + 16 * warp, block, factors);

    const uint32_t slot = place.slot(number % Shape::SLOTS);
    if (number >= Shape::SLOTS) // of the chunk three before; here the slot is every other time's
        mbarrier_wait(place.slot_empty(number % Shape::SLOTS),
                      (number - Shape::SLOTS) / (2 * Shape::SLOTS) & 1);
    if (threadIdx.x % 128 < Shape::TABLE_BYTES / 16) {
        const uint32_t from = shared_address(gates) + Shape::VECTORS + threadIdx.x % 128 * 16;
        store_shared_uint4(slot + Shape::TABLE + threadIdx.x % 128 * 16, load_shared_uint4(from));
    }
#pragma unroll
    for (int e = 0; e < 32; ++e)
        m[e] *= a.scale;
    const Block decay = decay_on_diagonal(lane, gates, warp);
    stage_block(lane, slot + Shape::INVERSE, warp, warp, product(decay, inverse.own));
    stage_block(lane, slot + Shape::SCORES, warp, warp, product(decay, accumulator_block(m, warp)));
    const int I = far_block_row(warp), J = warp % 2;
    stage_block(lane, slot + Shape::INVERSE, I, J,
                product(decay_below_diagonal(lane, gates, I, J), inverse.far));
    if (warp % 2 == 1)
        stage_block(lane, slot + Shape::INVERSE, warp, warp - 1,
                    product(decay_below_diagonal(lane, gates, warp, warp - 1), inverse.near));
#pragma unroll
    for (int row = 1; row < 4; ++row)
        if (row > warp)
            stage_block(
                lane, slot + Shape::SCORES, row, warp,
                product(decay_below_diagonal(lane, gates, row, warp), accumulator_block(m, row)));
    fence_proxy_async();
    bar_sync(5, 128);
    if (lane == 0)
        mbarrier_arrive(place.gates_empty(buffer));
    if (threadIdx.x % 128 == 0) {
        const uint32_t full = place.slot_full(number % Shape::SLOTS);
        mbarrier_arrive(full);
        cp_async_bulk_to_cluster(cluster_address(slot, rank ^ 1), slot, Shape::SENT,
                                 cluster_address(full, rank ^ 1));
    }
}

__device__ __forceinline__ void queue_tiles(const Arguments &a, const FusedPlace &place,
                                            unsigned char *shared, int rank) {
    using Shape = FusedShape;
    const int lane = threadIdx.x % 32;
    FusedItems items;
    Turn<Shape::STAGES> ring;
    int number = 0, turn = 0; // of chunks over all items, and of those made here
    const auto release = [&] {
        __syncwarp();
        mbarrier_arrive_if(place.empty(ring.stage), lane == 0);
        ring.next();
    };
#pragma unroll 1
    for (FusedItem item; (item = items.next(place)).count > 0;)
#pragma unroll 1
        for (int i = 0; i < item.count; ++i, ++number) {
            // NOTE: waits for, and releases, stages that it does not read too: else it might take
            // the end of one phase of a barrier for that of the next but one.
            mbarrier_wait(place.full(ring.stage), ring.parity);
            if ((number & 1) == rank)
                make_tiles(a, place, shared, rank, number, turn++, ring.stage, release);
            else
                release();
            if (i == 0) { // the item's first state
                mbarrier_wait(place.full(ring.stage), ring.parity);
                release();
            }
        }
}

// One warp makes the gate vectors of those chunks.
__device__ __forceinline__ void queue_gates(const Arguments &a, const FusedPlace &place,
                                            unsigned char *shared, int rank) {
    using Shape = FusedShape;
    FusedItems items;
    int first = 0, turn = 0;
#pragma unroll 1
    for (FusedItem item; (item = items.next(place)).count > 0; first += item.count)
#pragma unroll 1
        for (int i = (first ^ rank) & 1; i < item.count; i += 2, ++turn) {
            const int buffer = turn & 1;
            float *gates =
                reinterpret_cast<float *>(shared + Shape::VECTORS_AT + buffer * Shape::GATE_BUFFER);
            const Chunk chunk = {item.token + static_cast<int64_t>(i) * CHUNK_TOKENS,
                                 i + 1 < item.count ? CHUNK_TOKENS : item.tail, 0};
            mbarrier_wait(place.gates_empty(buffer), turn >> 1 & 1 ^ 1);
            prepare_gates(a, chunk, item.head, gates, gates + PrepareShape::VECTORS, false);
            mbarrier_arrive(place.gates_full(buffer));
        }
}

__global__ void __launch_bounds__(FusedShape::THREADS, 1) __cluster_dims__(2, 1, 1)
    fused_queue_kernel(const __grid_constant__ Arguments a,
                       const __grid_constant__ ForwardMaps maps) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    using Shape = FusedShape;
    extern __shared__ __align__(1024) unsigned char shared[];
    const int rank = blockIdx.x % 2, warpgroup = threadIdx.x / 128;
    const FusedPlace place = {static_cast<uint32_t>(__cvta_generic_to_shared(shared))};
    if (threadIdx.x == 0) {
        const auto init = [&](int first, int number, int count) {
            for (int i = 0; i < number; ++i)
                mbarrier_init(place.barrier(first + i), count);
        };
        init(Shape::FULL, Shape::STAGES, 32);
        init(Shape::EMPTY, Shape::STAGES, 8);
        init(Shape::VALUE_FULL, Shape::VALUES, 32);
        init(Shape::VALUE_EMPTY, Shape::VALUES, 4);
        init(Shape::TAIL, 2, 1);
        init(Shape::READY, 2, 4);
        init(Shape::FREE, 2, 1);
        init(Shape::SLOT_FULL, Shape::SLOTS, 1);
        init(Shape::SLOT_EMPTY, Shape::SLOTS, 8);
        init(Shape::GATES_FULL, 2, 32);
        init(Shape::GATES_EMPTY, 2, 4);
        init(Shape::ITEM_FULL, 2, 1);
        init(Shape::ITEM_EMPTY, 2, Shape::THREADS - 32);
        fence_mbarrier_init();
        for (int i = 1 - rank; i < Shape::SLOTS; i += 2)
            mbarrier_arrive_expect_tx(place.slot_full(i), Shape::SENT);
    }
    // What lies behind the diagonal of a tile is never written again.
    for (int i = threadIdx.x * 16; i < Shape::SLOTS * Shape::SLOT; i += Shape::THREADS * 16)
        store_shared_zeros(place.base + Shape::SLOTS_AT + i);
    fence_proxy_async();
    __syncthreads();
    barrier_cluster();
    griddepcontrol_wait();
    if (warpgroup == 2) {
        setmaxnreg_dec<56>();
        const int warp = threadIdx.x / 32 % 4;
        if (warp == 0)
            queue_keys(a, maps, place, rank);
        else if (warp == 1) {
            if (blockIdx.x == 0)
                *a.item_count = static_cast<int32_t>(a.N * a.Hv);
            queue_outputs(a, maps, rank, place);
            zero_padding(a);
        } else if (warp == 2)
            queue_gates(a, place, shared, rank);
        else
            queue_values(maps, rank, place);
    } else if (warpgroup == 1) {
        setmaxnreg_inc<208>();
        queue_tiles(a, place, shared, rank);
    } else {
        setmaxnreg_inc<240>();
        queue_chain(a, place, rank);
    }
    // The other CTA may still write here.
    __syncthreads();
    barrier_cluster();
#endif
}

} // namespace hopper
} // namespace gdni
