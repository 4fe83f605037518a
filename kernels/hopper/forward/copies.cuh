// What the forward chain's loading and storing warps do, and where everything is.
#pragma once

#include <cuda_bf16.h>

#include "common/matrix.cuh"
#include "common/mbarrier.cuh"
#include "common/tma.cuh"
#include "hopper/forward/config.cuh"
#include "hopper/maps.h"
#include "hopper/work.cuh"

namespace gdni {
namespace hopper {

struct ForwardMaps {
    CUtensorMap k, q, v, o, states, delta;
    TriangleMaps inverse, scores;
};

// Where things of one warpgroup are, as addresses in shared memory.
template <typename Shape>
struct ForwardPlace {
    uint32_t base;
    int warpgroup;

    __device__ uint32_t stage(int s) const {
        return base + s * Shape::STAGE;
    }
    __device__ uint32_t gates(int s) const {
        return base + Shape::GATES_AT + s * Shape::GATES;
    }
    __device__ uint32_t store() const {
        return base + Shape::STAGES * Shape::STAGE + warpgroup * Shape::STORE;
    }
    __device__ uint32_t full(int s) const {
        return base + Shape::FULL_AT + 8 * s;
    }
    __device__ uint32_t empty(int s) const {
        return base + Shape::EMPTY_AT + 8 * s;
    }
    __device__ uint32_t ready(int i) const {
        return base + Shape::READY_AT + 32 * warpgroup + 8 * i;
    }
    __device__ uint32_t free(int i) const {
        return base + Shape::FREE_AT + 32 * warpgroup + 8 * i;
    }
};

// Of ready() and free(): O in turns, the state, the delta.
enum {
    BUFFER_S = 2,
    BUFFER_D = 3
};

// A ring's position.
template <int STAGES>
struct Turn {
    int stage = 0;
    uint32_t parity = 0;
    __device__ void next() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

__device__ __forceinline__ void load_triangle(uint32_t to, const TriangleMaps &maps, int tile,
                                              uint32_t barrier) {
    cp_async_bulk_tensor_load(to, maps.upper, 0, 0, tile, barrier);
    cp_async_bulk_tensor_load(to + TILE / 2, maps.lower, 0, 0, tile, barrier);
}

// One thread fills the ring, for `active` of the warpgroups.
template <typename Shape>
__device__ __forceinline__ void forward_load(const Arguments &a, const ForwardMaps &maps,
                                             const Work &work, int half, int active,
                                             const ForwardPlace<Shape> &place) {
    const uint32_t loaded =
        Shape::STAGE + Shape::GATES - (Shape::WARPGROUPS - (work.with_v ? active : 0)) * TILE;
    Turn<Shape::STAGES> turn;
#pragma unroll 1
    for (int i = 0; i < work.count; ++i, turn.next()) {
        const int token = work.token + i * CHUNK_TOKENS;
        const int tile = (work.first + i) * a.Hv + work.head;
        const uint32_t stage = place.stage(turn.stage), full = place.full(turn.stage);
        mbarrier_wait(place.empty(turn.stage), turn.parity ^ 1);
        mbarrier_arrive_expect_tx(full, loaded);
        cp_async_bulk_tensor_load(stage + Shape::K, maps.k, token, 0, work.k_head, full);
#pragma unroll
        for (int w = 0; w < Shape::WARPGROUPS; ++w)
            if (work.with_v && w < active)
                cp_async_bulk_tensor_load(stage + Shape::V + w * TILE, maps.v, token, half + w,
                                          work.head, full);
        cp_async_bulk_load(place.gates(turn.stage),
                           a.gates + static_cast<int64_t>(tile) * (GATE_ROWS * CHUNK_TOKENS),
                           Shape::GATES, full);
        load_triangle(stage + Shape::INVERSE, maps.inverse, tile, full);
        if (Shape::OUTPUT) {
            load_triangle(stage + Shape::SCORES, maps.scores, tile, full);
            cp_async_bulk_tensor_load(stage + Shape::Q, maps.q, token, 0, work.k_head, full);
        }
    }
}

// One warp: `rows` rows of a tile of O. Those behind a sequence's last are somebody else's.
__device__ __forceinline__ void store_rows(const Arguments &a, int token, int rows, int head,
                                           int half, uint32_t from) {
#pragma unroll 1
    for (int p = thread_index() % 32; p < rows * 8; p += 32) {
        const int row = p / 8, piece = p % 8;
        const uint4 x = load_shared_uint4(from + swizzled(row, piece));
        __nv_bfloat16 *to = row_pointer<__nv_bfloat16>(a.o, token + row, head);
        reinterpret_cast<uint4 *>(to + half * 64)[piece] = x;
    }
    __syncwarp();
}

// One warp writes out what its warpgroup has left in shared memory.
template <typename Shape>
__device__ __forceinline__ void forward_store(const Arguments &a, const ForwardMaps &maps,
                                              const Work &work, int half,
                                              const ForwardPlace<Shape> &place) {
    const int lane = threadIdx.x % 32;
    const uint32_t buffers = place.store();
    const auto release = [&](int buffer) {
        if (lane == 0) {
            cp_async_bulk_commit_group();
            cp_async_bulk_wait_group_read<0>();
            mbarrier_arrive(place.free(buffer));
        }
        __syncwarp();
    };
    if (work.count <= 0)
        return;
        // Step i has the state and the delta of chunk i and the output of chunk i - 1.
#pragma unroll 1
    for (int i = 0; i < work.count + Shape::OUTPUT; ++i) {
        const int tile = (work.first + i) * a.Hv + work.head;
        const uint32_t parity = i & 1;
        if (Shape::KEEP && i < work.count) {
            mbarrier_wait(place.ready(BUFFER_S), parity);
            if (lane == 0 && i >= work.stored)
                cp_async_bulk_tensor_store(maps.states, half * 64, 0, tile,
                                           buffers + Shape::STORE_S);
            release(BUFFER_S);
        }
        if (Shape::OUTPUT) {
            const int buffer = i & 1;
            const uint32_t from = buffers + buffer * TILE;
            const int token = work.token + (i - 1) * CHUNK_TOKENS;
            mbarrier_wait(place.ready(buffer), i >> 1 & 1);
            if (i > 0 && i > work.stored) {
                if (i < work.count || work.tail == CHUNK_TOKENS) {
                    if (lane == 0)
                        cp_async_bulk_tensor_store(maps.o, token, half, work.head, from);
                } else {
                    store_rows(a, token, work.tail, work.head, half, from);
                }
            }
            release(buffer);
        }
        if (Shape::KEEP && i < work.count) {
            mbarrier_wait(place.ready(BUFFER_D), parity);
            if (lane == 0 && i >= work.stored)
                cp_async_bulk_tensor_store(maps.delta, 0, half, tile, buffers + Shape::STORE_D);
            release(BUFFER_D);
        }
    }
}

} // namespace hopper
} // namespace gdni
