// What the two serial chains share: work items, stages in shared memory, the state in registers.
//
// The state is kept transposed, S^T, in fp32 accumulators: a warp owns 16 of its V rows and all K
// columns, because the recurrence is independent per column of V. Warps never exchange anything;
// they share only the chunk's tiles. A CTA is one slice of 16 x warps rows of V of a work item: its
// first warps compute, the last LOADERS ones copy the next chunk's tiles meanwhile.
//
// Shared memory, per stage (two where they fit):
//     K [C][K]   Q [C][K]   Gam o T [C][C]   P [C][C]   V or dO [C][slice]   gates [3][C]
//
//     computing warps   | chunk i        | chunk i + 1    |
//     loading warps     | copy i + 1     | copy i + 2     |
//
// With one stage only, the copy of chunk i + 1 waits for the end of chunk i. Two mbarriers a stage,
// at which all threads of a kind arrive:
//
//     full     the loading ones, once their copies have come      the computing ones wait
//     empty    the computing ones, once they have done with it    the loading ones wait
#pragma once

#include "../common/mbarrier.cuh"

#include "arguments.h"
#include "stages.h"
#include "tile.cuh"

namespace gdni {

template <typename T, int C, int KP>
struct ChainShape {
    static constexpr int LD_K = KP + PIECE<T>, LD_C = C + PIECE<T>;
    static __device__ int ld_slice(int warps) {
        return 16 * warps + PIECE<T>;
    }
};

// Warps of a CTA that only copy.
constexpr int LOADERS = 4;

// The tiles of one stage.
template <typename T, int C, int KP>
struct ChainStage {
    T *k, *q, *inverse, *scores, *slice;
    float *gates;

    __device__ ChainStage(unsigned char *base, int warps, bool with_q) {
        using Shape = ChainShape<T, C, KP>;
        k = reinterpret_cast<T *>(base);
        inverse = k + C * Shape::LD_K;
        slice = inverse + C * Shape::LD_C;
        gates = reinterpret_cast<float *>(slice + C * Shape::ld_slice(warps));
        q = reinterpret_cast<T *>(gates + 3 * C);
        scores = q + C * Shape::LD_K;
    }
};

// What a CTA runs: the chunks first .. last - 1 of one head, for one slice of V. In shared memory:
// what the chains are short of is registers.
struct ChainItem {
    int32_t first, last;
    int32_t kept;       // results are written from this chunk on; of gradients, below it
    int head, slice;    // slice: the CTA's first row of V
    int stage_bytes;    // of one chunk's tiles
    bool identity;      // begin with the identity
    const float *start; // otherwise with this [K][V]; NULL: zeros
    float *end;         // [K][V] or NULL: where the last state goes

    uint64_t full[2], empty[2]; // mbarriers of the stages

    // This warp's first row of V; rows beyond V have no work.
    __device__ __forceinline__ int v0() const {
        return slice + static_cast<int>(threadIdx.x) / 32 * 16;
    }
    __device__ __forceinline__ bool active(const Arguments &a) const {
        return v0() < a.V;
    }
    // Warps that compute.
    __device__ __forceinline__ int warps() const {
        return static_cast<int>(blockDim.x) / 32 - LOADERS;
    }
};

__device__ __forceinline__ ChainItem chain_item(const Arguments &a, int head, int slice) {
    ChainItem item = {};
    item.head = head;
    item.slice = slice * 16 * item.warps();
    item.stage_bytes = a.stage_bytes;
    return item;
}

// Matrices [K][V] of an array that may be NULL.
template <typename X>
__device__ __forceinline__ X *matrix_at(const Arguments &a, X *matrices, int64_t index) {
    return matrices ? matrices + index * a.K * a.V : nullptr;
}

__device__ __forceinline__ ChainItem states_item(const Arguments &a, const gdni_work_item &work,
                                                 int slice) {
    ChainItem item = chain_item(a, work.head, slice);
    const int64_t sequence = work.sequence;
    item.first = static_cast<int32_t>(work.first);
    item.last = static_cast<int32_t>(work.last);
    item.kept = static_cast<int32_t>(work.stored);
    item.identity = a.identity;
    if (work.entry == GDNI_START_GIVEN)
        item.start = matrix_at(a, a.initial_state, sequence * a.Hv + work.head);
    else if (work.entry == GDNI_START_EXACT)
        item.start = matrix_at<const float>(a, a.pool_states, work.slot);
    if (work.flags & GDNI_ITEM_LAST)
        item.end = matrix_at(a, a.final_state, (sequence - a.first_stored) * a.Hv + work.head);
    return item;
}

__device__ __forceinline__ ChainItem gradients_item(const Arguments &a, const gdni_work_item &work,
                                                    int slice) {
    ChainItem item = chain_item(a, work.head, slice);
    const int64_t sequence = work.sequence;
    item.first = static_cast<int32_t>(work.stored);
    item.last = static_cast<int32_t>(work.late);
    item.kept = static_cast<int32_t>(work.last);
    if (work.exit == GDNI_START_GIVEN)
        item.start = matrix_at(a, a.dht, sequence * a.Hv + work.head);
    else if (work.exit == GDNI_START_EXACT)
        item.start = matrix_at<const float>(a, a.pool_grads, work.slot + a.Hv);
    if (work.flags & GDNI_ITEM_FIRST)
        item.end = matrix_at(a, a.dh0, (sequence - a.first_stored) * a.Hv + work.head);
    return item;
}

// Copies one chunk into a stage. x is the tensor of V columns: v or do.
template <typename T, int C, int KP>
__device__ __forceinline__ void chain_load(const Arguments &a, const ChainItem &item, int64_t index,
                                           const Tensor &x, bool with_q,
                                           const ChainStage<T, C, KP> &stage) {
    using Shape = ChainShape<T, C, KP>;
    const Chunk chunk = a.chunks[index];
    const int k_head = item.head / (a.Hv / a.Hk);
    const int64_t tile = tile_of(a, index, item.head);
    const Team team = {static_cast<int>(threadIdx.x) - item.warps() * 32, LOADERS * 32};
    load_tile<C>(stage.k, Shape::LD_K, KP, row_pointer<T>(a.k, chunk.token, k_head), a.k.token,
                 chunk.rows, a.K, a.k.aligned, team);
    load_tile<C>(stage.inverse, Shape::LD_C, C, static_cast<const T *>(a.inverse) + tile * C * C, C,
                 C, C, true, team);
    load_floats(stage.gates, a.gates + tile * GATE_ROWS * C, 3 * C, team);
    // Without x the columns are zero.
    load_tile<C>(stage.slice, Shape::ld_slice(item.warps()), 16 * item.warps(),
                 x.data ? row_pointer<T>(x, chunk.token, item.head) + item.slice
                        : static_cast<const T *>(a.k.data),
                 x.token, x.data ? chunk.rows : 0, a.V - item.slice, x.aligned, team);
    if (with_q) {
        load_tile<C>(stage.q, Shape::LD_K, KP, row_pointer<T>(a.q, chunk.token, k_head), a.q.token,
                     chunk.rows, a.K, a.q.aligned, team);
        load_tile<C>(stage.scores, Shape::LD_C, C, static_cast<const T *>(a.scores) + tile * C * C,
                     C, C, C, true, team);
    }
    cp_async_commit_group();
}

// S^T of this warp's rows, from the item's start.
template <int KT>
__device__ __forceinline__ void state_load(float (&s)[KT][4], const Arguments &a,
                                           const ChainItem &item) {
    clear(s);
    if (!item.active(a))
        return;
#pragma unroll
    for (int t = 0; t < KT; ++t)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int k = column_of(t, e), v = item.v0() + row_of(e);
            if (item.start && k < a.K)
                s[t][e] = item.start[static_cast<int64_t>(k) * a.V + v];
            else if (item.identity && k == v)
                s[t][e] = 1.0f;
        }
}

// The inverse, to the item's end.
template <int KT>
__device__ __forceinline__ void state_store(const float (&s)[KT][4], const Arguments &a,
                                            const ChainItem &item) {
    if (!item.end || !item.active(a))
        return;
#pragma unroll
    for (int t = 0; t < KT; ++t)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int k = column_of(t, e), v = item.v0() + row_of(e);
            if (k < a.K)
                item.end[static_cast<int64_t>(k) * a.V + v] = s[t][e];
        }
}

// This warp's rows of a tile [V][K] in the problem's dtype.
template <typename T, int KT>
__device__ __forceinline__ void state_keep(const float (&s)[KT][4], const Arguments &a,
                                           const ChainItem &item, int64_t index, void *tiles) {
    T *x = static_cast<T *>(tiles) + tile_of(a, index, item.head) * a.K * a.V;
#pragma unroll
    for (int t = 0; t < KT; ++t)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
            const int k = column_of(t, e), v = item.v0() + row_of(e);
            if (k < a.K)
                *reinterpret_cast<pair_t<T> *>(x + v * a.K + k) = pack<T>(s[t][e], s[t][e + 1]);
        }
}

// Accumulators, rows of V by tokens, to rows of `to`, through this warp's own columns of the slice.
template <typename T, int C, int CT>
__device__ __forceinline__ void slice_store(const float (&x)[CT][4], T *columns, int ld, T *to,
                                            int64_t stride, int rows, bool aligned) {
    constexpr int PIECES = 16 / PIECE<T>;
    __syncwarp();
#pragma unroll
    for (int t = 0; t < CT; ++t)
#pragma unroll
        for (int e = 0; e < 4; ++e)
            columns[column_of(t, e) * ld + row_of(e)] = from_float<T>(x[t][e]);
    __syncwarp();
#pragma unroll
    for (int i = lane_id(); i < C * PIECES; i += 32) {
        const int row = i / PIECES, column = i % PIECES * PIECE<T>;
        if (row >= rows)
            continue;
        const T *y = columns + row * ld + column;
        T *z = to + row * stride + column;
        if (aligned) {
            *reinterpret_cast<uint4 *>(z) = *reinterpret_cast<const uint4 *>(y);
        } else {
#pragma unroll
            for (int e = 0; e < PIECE<T>; ++e)
                z[e] = y[e];
        }
    }
    __syncwarp();
}

// Scales accumulators: all of them, or column j by factor(j).
template <int NT>
__device__ __forceinline__ void scale_all(float (&c)[NT][4], float factor) {
#pragma unroll
    for (int t = 0; t < NT; ++t)
#pragma unroll
        for (int e = 0; e < 4; ++e)
            c[t][e] *= factor;
}
template <int NT, typename Factor>
__device__ __forceinline__ void scale_columns(float (&c)[NT][4], Factor factor) {
#pragma unroll
    for (int t = 0; t < NT; ++t)
#pragma unroll
        for (int e = 0; e < 4; ++e)
            c[t][e] *= factor(column_of(t, e));
}

// One thread has made the CTA's item: now the barriers, and all threads see both.
__device__ __forceinline__ void chain_begin(ChainItem &item) {
    if (threadIdx.x == 0)
        for (int i = 0; i < 2; ++i) {
            mbarrier_init(shared_address(&item.full[i]), 32 * LOADERS);
            mbarrier_init(shared_address(&item.empty[i]), 32 * item.warps());
        }
    __syncthreads();
}

// The item's chunks one after the other, each one's tiles in shared memory. Both kinds of warps
// have a loop of their own: the loading ones hold no state, the others no addresses. Hence
// mbarriers: a barrier of the CTA is one statement for all threads.
template <typename T, int C, int KP>
struct ChainLoop {
    const Arguments &a;
    const ChainItem &item;
    bool with_q, reverse;

    __device__ __forceinline__ int32_t index(int32_t i) const {
        return reverse ? item.last - 1 - i : item.first + i;
    }
    // The stage of the i-th chunk, and how often it was in use before.
    __device__ __forceinline__ int32_t place(int32_t i) const {
        return i & (a.stages - 1);
    }
    __device__ __forceinline__ uint32_t turn(int32_t i) const {
        return static_cast<uint32_t>(i) >> (a.stages - 1);
    }
    __device__ __forceinline__ ChainStage<T, C, KP> stage(int32_t i) const {
        extern __shared__ __align__(16) unsigned char shared[];
        return ChainStage<T, C, KP>(shared + place(i) * item.stage_bytes, item.warps(), with_q);
    }

    // What loading warps do, all of it; false, at once, in the others.
    __device__ __forceinline__ bool loads(const Tensor &x) const {
        if (threadIdx.x < item.warps() * 32)
            return false;
        for (int32_t i = 0; i < item.last - item.first; ++i) {
            mbarrier_wait(shared_address(&item.empty[place(i)]), turn(i) & 1 ^ 1);
            chain_load(a, item, index(i), x, with_q, stage(i));
            cp_async_wait_group<0>();
            mbarrier_arrive(shared_address(&item.full[place(i)]));
        }
        return true;
    }

    // Runs `step(index, stage)` over the chunks in the other warps.
    template <typename Step>
    __device__ __forceinline__ void run(Step step) const {
        for (int32_t i = 0; i < item.last - item.first; ++i) { // from shared memory each time
            mbarrier_wait(shared_address(&item.full[place(i)]), turn(i) & 1);
            if (item.active(a))
                step(index(i), stage(i));
            mbarrier_arrive(shared_address(&item.empty[place(i)]));
        }
    }
};

} // namespace gdni
