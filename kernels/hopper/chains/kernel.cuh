// Stage 2 of the Hopper backward: the chain of states and the chain of their gradients, side by
// side and independent of each other, both transposed (V rows by tokens or by K columns).
//
//   forward     U^T  = S^T K^T
//               D^T  = (beta (V - e^c U))^T (Gam o T)^T
//               S'^T = e^{c_C} S^T + (e^{c_C - c} D)^T K
//
//   backward    dD^T = dO^T P + e^{c_C - c} (dS'^T K^T)
//               E^T  = dD^T (Gam o T)                       dV = beta E
//               dS^T = e^{c_C} dS'^T + s (e^c dO)^T Q - (e^c dV)^T K
//
// Each product's accumulators become the next one's left factor in registers, so nothing on the
// chain passes through shared memory. A warpgroup owns 64 rows of V and never needs the other one.
// The state is fp32 in its accumulators; it is rounded to bf16 as an operand and in the tiles.
//
// Roles: one or two computing warpgroups; a loading warp; a storing warp for each warpgroup; an
// announcing warp, where the chunk-parallel pass begins before this kernel has ended.
//
//   loading     | chunk i + STAGES - 1 ...       full(stage): copies; empty(stage): computing
//   computing   | U(i) | D(i) | S'(i)            threads, once the chunk's last product is done
//                   state(i)     D(i) to shared memory, behind the products
//   storing     | tiles of chunk i - 1 ...       out_full: 4 warps; out_empty: the storing warp
//   announcing  | tiles of chunk i - 3 ...       Arguments::arrivals, once they are in memory
//
// In a chunk that a sequence does not fill the copies bring in rows of the next sequence, or of
// nobody: the loading warp waits for them itself (barrier `tail`) and zeros them. dv of such a
// chunk is stored row by row.
//
// Shared memory: STAGES times K, Gam o T, V or dO (backward: P, Q) and the gates; twice a
// warpgroup's state and D or dv on their way out. What limits it, and what was tried: README.md.
#pragma once

#include "common/handover.cuh"
#include "hopper/chains/config.cuh"

namespace gdni {
namespace hopper {

// k16 steps of the product with Q that run while dD is made; the others run while dU is made.
constexpr int Q_EARLY = 2;

// The part of a chain that one CTA runs.
struct ChainsItem {
    int begin, end;             // its chunks, in this order or from the end
    int tiles_begin, tiles_end; // those whose tiles are stored
    int token, last_rows;       // first of chunk `begin`; tokens in chunk end - 1
    int sequence, head, k_head;
    int half;        // of V: the first warpgroup's
    int entry, slot; // gdni_start, of the direction that the chain runs
    int to;          // where its last state goes, an index of matrices, or -1
};

template <int WARPGROUPS, bool BACKWARD>
__device__ __forceinline__ bool chains_item(const ChainsParameters &p, int index,
                                            ChainsItem &item) {
    const Arguments &a = p.a;
    constexpr int PARTS = 2 / WARPGROUPS;
    item.half = index % PARTS;
    index /= PARTS;
    if (index >= *a.item_count)
        return false;
    const gdni_work_item &w = a.items[index];
    item.begin = static_cast<int>(BACKWARD ? w.stored : w.first);
    item.end = static_cast<int>(BACKWARD ? w.late : w.last);
    item.tiles_begin = static_cast<int>(w.stored);
    item.tiles_end = static_cast<int>(w.last);
    item.sequence = w.sequence;
    item.head = w.head;
    item.entry = BACKWARD ? w.exit : w.entry;
    item.slot = BACKWARD ? w.slot + a.Hv : w.slot; // the pool has gradients at the right border
    const bool exits = w.flags & (BACKWARD ? GDNI_ITEM_FIRST : GDNI_ITEM_LAST);
    item.to = exits ? (w.sequence - static_cast<int>(a.first_stored)) * a.Hv + w.head : -1;
    if (BACKWARD && p.exact) {
        if (!(w.flags & GDNI_ITEM_GRADIENT))
            return false;
        item.tiles_end = item.tiles_begin;
        item.entry = w.exit == GDNI_START_EXACT ? GDNI_START_ZERO : w.exit;
        item.to = w.slot;
    }
    item.k_head = item.head / (a.Hv / a.Hk);
    item.token = 0;
    item.last_rows = 64;
    if (item.end > item.begin) {
        item.token = static_cast<int>(a.chunks[item.begin].token);
        item.last_rows = a.chunks[item.end - 1].rows;
    }
    return true;
}

template <int WARPGROUPS, bool BACKWARD>
__device__ __forceinline__ void chains_load(const ChainsParameters &p, const ChainsItem &item,
                                            uint32_t shared) {
    using Shape = ChainsShape<WARPGROUPS>;
    using Layout = ChainsLayout<WARPGROUPS, BACKWARD>;
    const bool leader = threadIdx.x % 32 == 0;
    const CUtensorMap &columns = BACKWARD ? p.do_ : p.v;
    int stage = 0;
    uint32_t phase = 1;
    const int count = item.end - item.begin;
    for (int i = 0; i < count; ++i) {
        const int n = BACKWARD ? item.end - 1 - i : item.begin + i;
        const int tile = n * p.a.Hv + item.head;
        const int token = item.token + (n - item.begin) * 64;
        const int rows = n == item.end - 1 ? item.last_rows : 64;
        const uint32_t full = shared + Layout::FULL + 8 * stage;
        const uint32_t barrier = rows == 64 ? full : shared + Layout::TAIL;
        const uint32_t to = shared + stage * Layout::STAGE;
        mbarrier_wait(shared + Layout::EMPTY + 8 * stage, phase);
        if (leader) {
            if (rows == 64)
                mbarrier_arrive(full, 31); // for the other lanes
            mbarrier_arrive_expect_tx(barrier, Layout::STAGE + Shape::GATES);
            cp_async_bulk_tensor_load(to + Layout::K, p.k, token, 0, item.k_head, barrier);
            cp_async_bulk_load(shared + Layout::GATES + stage * Shape::GATES,
                               p.a.gates + static_cast<int64_t>(tile) * (GATE_ROWS * 64),
                               Shape::GATES, barrier);
            for (int w = 0; w < WARPGROUPS; ++w)
                cp_async_bulk_tensor_load(to + Layout::COLUMNS + w * Shape::SQUARE, columns, token,
                                          item.half + w, item.head, barrier);
            if (BACKWARD) {
                cp_async_bulk_tensor_load(to + Layout::SCORES, p.scores, 0, 0, tile, barrier);
                cp_async_bulk_tensor_load(to + Layout::Q, p.q, token, 0, item.k_head, barrier);
            }
            cp_async_bulk_tensor_load(to + Layout::INVERSE, p.inverse, 0, 0, tile, barrier);
        }
        if (rows < 64) {
            mbarrier_wait(barrier, 0); // at most one tail in a chain
            zero_rows(to + Layout::K, rows);
            zero_rows(to + Layout::K + Shape::SQUARE, rows);
            for (int w = 0; w < WARPGROUPS; ++w)
                zero_rows(to + Layout::COLUMNS + w * Shape::SQUARE, rows);
            if (BACKWARD) {
                zero_rows(to + Layout::Q, rows);
                zero_rows(to + Layout::Q + Shape::SQUARE, rows);
            }
            fence_proxy_async();
            mbarrier_arrive(full);
        }
        __syncwarp();
        if (++stage == Layout::STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
}

// Rows of dv from a swizzled tile, where a copy of the whole would pass the sequence's end.
__device__ __forceinline__ void chains_store_rows(const Arguments &a, uint32_t tile, int token,
                                                  int head, int column, int rows) {
    for (int i = static_cast<int>(threadIdx.x) % 32; i < rows * 8; i += 32) {
        const int row = i / 8, piece = i % 8;
        __nv_bfloat16 *to = row_pointer<__nv_bfloat16>(a.dv, token + row, head) + column;
        *reinterpret_cast<uint4 *>(to + piece * 8) =
            load_shared_uint4(tile + row * 128 + ((piece ^ (row & 7)) << 4));
    }
}

template <int WARPGROUPS, bool BACKWARD>
__device__ __forceinline__ void chains_store(const ChainsParameters &p, const ChainsItem &item,
                                             int warpgroup, uint32_t shared) {
    using Shape = ChainsShape<WARPGROUPS>;
    using Layout = ChainsLayout<WARPGROUPS, BACKWARD>;
    const bool leader = threadIdx.x % 32 == 0;
    const bool with_state = BACKWARD ? p.a.state_grads != nullptr : p.a.states != nullptr;
    const bool with_rows = BACKWARD ? p.a.dv.data != nullptr : p.a.delta != nullptr;
    const CUtensorMap &state = BACKWARD ? p.state_grads : p.states;
    const int half = item.half + warpgroup;
    const int count = item.end - item.begin;
    for (int i = 0; i < count; ++i) {
        const int n = BACKWARD ? item.end - 1 - i : item.begin + i;
        const int slot = i & 1;
        const uint32_t barrier = 8 * (2 * warpgroup + slot);
        const uint32_t from = shared + Layout::OUTPUTS + (2 * warpgroup + slot) * Shape::OUTPUT;
        mbarrier_wait(shared + Layout::OUT_FULL + barrier, static_cast<uint32_t>(i >> 1) & 1);
        if (n >= item.tiles_begin && n < item.tiles_end) {
            const int token = item.token + (n - item.begin) * 64;
            const int tile = n * p.a.Hv + item.head;
            const int rows = n == item.end - 1 ? item.last_rows : 64;
            if (leader) {
                if (with_state)
                    cp_async_bulk_tensor_store(state, 64 * half, 0, tile, from);
                if (with_rows && !BACKWARD)
                    cp_async_bulk_tensor_store(p.delta, 0, half, tile, from + Shape::WIDE);
                if (with_rows && BACKWARD && rows == 64)
                    cp_async_bulk_tensor_store(p.dv, token, half, item.head, from + Shape::WIDE);
                cp_async_bulk_commit_group();
            }
            if (with_rows && BACKWARD && rows < 64)
                chains_store_rows(p.a, from + Shape::WIDE, token, item.head, 64 * half, rows);
            if (leader)
                cp_async_bulk_wait_group_read<0>();
        } else if (leader) {
            cp_async_bulk_commit_group();
        }
        __syncwarp();
        if (leader) {
            mbarrier_arrive(shared + Layout::OUT_EMPTY + barrier);
            cp_async_bulk_wait_group<1>();
            red_release_max_shared(shared + Layout::STORED + 4 * warpgroup, i);
        }
    }
    if (leader) {
        cp_async_bulk_wait_group<0>();
        red_release_max_shared(shared + Layout::STORED + 4 * warpgroup, count);
    }
}

// Tells the chunk-parallel pass which tiles are complete. A warp of its own: the fence takes as
// long as a chunk.
template <int WARPGROUPS, bool BACKWARD>
__device__ __forceinline__ void chains_announce(const ChainsParameters &p, const ChainsItem &item,
                                                uint32_t shared) {
    using Layout = ChainsLayout<WARPGROUPS, BACKWARD>;
    const int count = item.end - item.begin;
    Pause pause;
    for (int done = 0; done < count;) {
        int stored = count;
        for (int w = 0; w < WARPGROUPS; ++w)
            stored = min(stored, atom_acquire_shared(shared + Layout::STORED + 4 * w));
        if (stored == done) {
            pause(200);
            continue;
        }
        pause = {};
        __threadfence();
        for (; done < stored; ++done) {
            const int n = BACKWARD ? item.end - 1 - done : item.begin + done;
            if (n >= item.tiles_begin && n < item.tiles_end)
                red_relaxed_add(p.a.arrivals + static_cast<int64_t>(n) * p.a.Hk + item.k_head,
                                WARPGROUPS);
        }
    }
}

// S^T of this warpgroup's rows of V from [K][V] in fp32, or back.
__device__ __forceinline__ void chains_state_load(float (&s)[64], const float *x, int row) {
    const int column = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int i = 0; i < 64; ++i)
        s[i] = x ? x[(i / 4 * 8 + column + (i & 1)) * 128 + row + (i & 2) * 4] : 0.0f;
}
__device__ __forceinline__ void chains_state_store(const float (&s)[64], float *x, int row) {
    const int column = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int i = 0; i < 64; ++i)
        x[(i / 4 * 8 + column + (i & 1)) * 128 + row + (i & 2) * 4] = s[i];
}

// Where the chain's first state comes from; NULL: zeros.
template <bool BACKWARD>
__device__ __forceinline__ const float *chains_entry(const Arguments &a, const ChainsItem &item) {
    const float *given = BACKWARD ? a.dht : a.initial_state;
    const float *pool = BACKWARD ? a.pool_grads : a.pool_states;
    const int64_t head = static_cast<int64_t>(item.sequence) * a.Hv + item.head;
    return item.entry == GDNI_START_GIVEN   ? (given ? given + head * (128 * 128) : nullptr)
           : item.entry == GDNI_START_EXACT ? pool + static_cast<int64_t>(item.slot) * (128 * 128)
                                            : nullptr;
}

template <int WARPGROUPS, bool BACKWARD>
__device__ __forceinline__ void chains_compute(const ChainsParameters &p, const ChainsItem &item,
                                               int warpgroup, uint32_t shared) {
    using Shape = ChainsShape<WARPGROUPS>;
    using Layout = ChainsLayout<WARPGROUPS, BACKWARD>;
    const int warp = static_cast<int>(threadIdx.x) % 128 / 32, lane = threadIdx.x % 32;
    const int row = 64 * (item.half + warpgroup) + 16 * warp + lane / 4; // of V
    // Byte offsets in swizzled tiles: of the state [64 V rows][64 K] by stmatrix, without the
    // column; of [64 tokens][64 V] transposed, for ldmatrix and stmatrix, blocks of 16 tokens apart
    // by 2048.
    const uint32_t state_row = (16 * warp + (lane & 15)) * 128;
    const uint32_t turned = (8 * (lane >> 4 & 1) + (lane & 7)) * 128 +
                            (((2 * warp + (lane >> 3 & 1)) ^ (lane & 7)) << 4);
    const float scale = p.a.scale;
    const int count = item.end - item.begin;

    const float *entry = chains_entry<BACKWARD>(p.a, item);
    const bool given = entry && count > 0;
    float s[64], u[32] = {};
    chains_state_load(s, entry, row);
    int stage = 0, previous = 0;
    uint32_t phase = 0;
    if (given) { // what rounding leaves out of the first state (portable/ends.cuh has the reason)
        uint32_t x[32];
#pragma unroll
        for (int j = 0; j < 32; ++j) {
            const uint32_t rounded = cvt_rn_bf16x2(s[2 * j], s[2 * j + 1]);
            x[j] = cvt_rn_bf16x2(s[2 * j] - low_bf16(rounded), s[2 * j + 1] - high_bf16(rounded));
        }
        mbarrier_wait(shared + Layout::FULL, 0);
        const uint64_t k = wgmma_descriptor(shared + Layout::K);
        pin(x);
        wgmma_fence();
#pragma unroll
        for (int t = 0; t < 8; ++t)
            wgmma_m64n64k16<MAJOR_K>(u, x + 4 * t, k + t / 4 * (Shape::SQUARE / 16) + 2 * (t & 3),
                                     t > 0);
        wgmma_commit_group();
        wgmma_wait_group<0>();
        pin(u);
    }
    for (int i = 0; i < count; ++i) {
        const uint32_t base = __shfl_sync(~0u, shared + stage * Layout::STAGE, 0);
        const uint32_t gates = shared + Layout::GATES + stage * Shape::GATES;
        const uint32_t token_gates = gates + 8 * (lane & 3); // of tokens 2 (l % 4), + 1
        const uint32_t out_barrier = 8 * (2 * warpgroup + (i & 1));
        const uint32_t out = shared + Layout::OUTPUTS + (2 * warpgroup + (i & 1)) * Shape::OUTPUT;
        float z[32];
        uint32_t x[32], y[16];
        mbarrier_wait(shared + Layout::FULL + 8 * stage, phase);
        const uint64_t k = wgmma_descriptor(base + Layout::K);
        const uint64_t inverse = wgmma_descriptor(base + Layout::INVERSE);
        const float decay = load_shared_float(gates + 4 * (GATE_EXP * 64 + 63));
        wgmma_wait_group<0>();
        pin(s);

        // U^T = S^T K^T, or dS'^T K^T.
#pragma unroll
        for (int j = 0; j < 16; ++j)
            x[j] = cvt_rn_bf16x2(s[2 * j], s[2 * j + 1]);
        pin(x);
        wgmma_fence();
#pragma unroll
        for (int t = 0; t < 4; ++t)
            wgmma_m64n64k16<MAJOR_K>(u, x + 4 * t, k + 2 * t, t > 0 || (given && i == 0));
#pragma unroll
        for (int j = 16; j < 32; ++j)
            x[j] = cvt_rn_bf16x2(s[2 * j], s[2 * j + 1]);
        pin(x);
        wgmma_fence();
#pragma unroll
        for (int t = 4; t < 8; ++t)
            wgmma_m64n64k16<MAJOR_K>(u, x + 4 * t, k + Shape::SQUARE / 16 + 2 * (t - 4), true);
        wgmma_commit_group();
        mbarrier_arrive_if(shared + Layout::EMPTY + 8 * previous, i > 0);
#pragma unroll
        for (int j = 0; j < 64; ++j)
            s[j] *= decay;
        pin(s);
        uint32_t columns[16]; // V^T or dO^T, as a left factor
#pragma unroll
        for (int j = 0; j < 4; ++j)
            ldmatrix_x4_trans(columns + 4 * j, base + Layout::COLUMNS + warpgroup * Shape::SQUARE +
                                                   turned + j * 2048);

        float2 factor[8];
        float(&r)[32] = BACKWARD ? u : z; // D^T or E^T
        if constexpr (!BACKWARD) {
            float v[32]; // beta V
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const float2 beta = load_shared_float2(token_gates + 4 * (GATE_BETA * 64 + 8 * j));
                const float2 e = load_shared_float2(token_gates + 4 * (GATE_EXP * 64 + 8 * j));
                v[4 * j] = beta.x * low_bf16(columns[2 * j]);
                v[4 * j + 1] = beta.y * high_bf16(columns[2 * j]);
                v[4 * j + 2] = beta.x * low_bf16(columns[2 * j + 1]);
                v[4 * j + 3] = beta.y * high_bf16(columns[2 * j + 1]);
                factor[j] = make_float2(-beta.x * e.x, -beta.y * e.y);
            }
            pin(v);
            mbarrier_wait(shared + Layout::OUT_EMPTY + out_barrier,
                          static_cast<uint32_t>(i >> 1 & 1) ^ 1);
#pragma unroll
            for (int t = 0; t < 8; ++t)
                stmatrix_x4(out + t / 4 * Shape::SQUARE + state_row +
                                (((2 * (t & 3) + (lane >> 4)) ^ (lane & 7)) << 4),
                            x + 4 * t);
            wgmma_wait_group<0>();
            pin(u);
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                y[2 * j] = cvt_rn_bf16x2(fmaf(factor[j].x, u[4 * j], v[4 * j]),
                                         fmaf(factor[j].y, u[4 * j + 1], v[4 * j + 1]));
                y[2 * j + 1] = cvt_rn_bf16x2(fmaf(factor[j].x, u[4 * j + 2], v[4 * j + 2]),
                                             fmaf(factor[j].y, u[4 * j + 3], v[4 * j + 3]));
            }
            pin(y);
            wgmma_fence();
#pragma unroll
            for (int t = 0; t < 4; ++t)
                wgmma_m64n64k16<MAJOR_K>(z, y + 4 * t, inverse + 2 * t, t > 0);
            wgmma_commit_group();
#pragma unroll
            for (int j = 0; j < 8; ++j)
                factor[j] = load_shared_float2(token_gates + 4 * (GATE_EXP_LEFT * 64 + 8 * j));
        } else {
            const uint64_t scores = wgmma_descriptor(base + Layout::SCORES);
            const uint64_t q = wgmma_descriptor(base + Layout::Q);
            pin(columns);
            wgmma_fence();
#pragma unroll
            for (int t = 0; t < 4; ++t)
                wgmma_m64n64k16<MAJOR_MN>(z, columns + 4 * t, scores + 128 * t, t > 0);
            wgmma_commit_group();
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                float2 e = load_shared_float2(token_gates + 4 * (GATE_EXP * 64 + 8 * j));
                e.x *= scale;
                e.y *= scale;
                y[2 * j] =
                    cvt_rn_bf16x2(e.x * low_bf16(columns[2 * j]), e.y * high_bf16(columns[2 * j]));
                y[2 * j + 1] = cvt_rn_bf16x2(e.x * low_bf16(columns[2 * j + 1]),
                                             e.y * high_bf16(columns[2 * j + 1]));
            }
            pin(y);
            wgmma_fence();
#pragma unroll
            for (int t = 0; t < Q_EARLY; ++t)
                wgmma_m64n128k16<MAJOR_MN>(s, y + 4 * t, q + 128 * t, true);
            wgmma_commit_group();
#pragma unroll
            for (int j = 0; j < 3; ++j)
                factor[j] = load_shared_float2(token_gates + 4 * (GATE_EXP_LEFT * 64 + 8 * j));
            mbarrier_wait(shared + Layout::OUT_EMPTY + out_barrier,
                          static_cast<uint32_t>(i >> 1 & 1) ^ 1);
#pragma unroll
            for (int t = 0; t < 8; ++t)
                stmatrix_x4(out + t / 4 * Shape::SQUARE + state_row +
                                (((2 * (t & 3) + (lane >> 4)) ^ (lane & 7)) << 4),
                            x + 4 * t);
            uint32_t dd[16];
            wgmma_wait_group<1>();
            pin(u);
            pin(z);
#pragma unroll
            for (int j = 3; j < 8; ++j) // NOTE: before the wait, they cost 32 bytes of spills
                factor[j] = load_shared_float2(token_gates + 4 * (GATE_EXP_LEFT * 64 + 8 * j));
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                dd[2 * j] = cvt_rn_bf16x2(fmaf(factor[j].x, u[4 * j], z[4 * j]),
                                          fmaf(factor[j].y, u[4 * j + 1], z[4 * j + 1]));
                dd[2 * j + 1] = cvt_rn_bf16x2(fmaf(factor[j].x, u[4 * j + 2], z[4 * j + 2]),
                                              fmaf(factor[j].y, u[4 * j + 3], z[4 * j + 3]));
            }
            pin(dd);
            wgmma_fence();
#pragma unroll
            for (int t = 0; t < 4; ++t)
                wgmma_m64n64k16<MAJOR_MN>(u, dd + 4 * t, inverse + 128 * t, t > 0);
            wgmma_commit_group();
#pragma unroll
            for (int t = Q_EARLY; t < 4; ++t)
                wgmma_m64n128k16<MAJOR_MN>(s, y + 4 * t, q + 128 * t, true);
            wgmma_commit_group();
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const float2 e = load_shared_float2(token_gates + 4 * (GATE_EXP * 64 + 8 * j));
                const float2 beta = load_shared_float2(token_gates + 4 * (GATE_BETA * 64 + 8 * j));
                factor[j] = make_float2(-e.x * beta.x, -e.y * beta.y);
            }
        }
        wgmma_wait_group<BACKWARD ? 1 : 0>();
        pin(r);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            x[2 * j] = cvt_rn_bf16x2(factor[j].x * r[4 * j], factor[j].y * r[4 * j + 1]);
            x[2 * j + 1] = cvt_rn_bf16x2(factor[j].x * r[4 * j + 2], factor[j].y * r[4 * j + 3]);
        }
        pin(x);
        wgmma_fence();
#pragma unroll
        for (int t = 0; t < 4; ++t)
            wgmma_m64n128k16<MAJOR_MN>(s, x + 4 * t, k + 128 * t, true);
        wgmma_commit_group();
        // D or dv out, behind that product.
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            float2 f = make_float2(1.0f, 1.0f);
            if (BACKWARD) {
                f = load_shared_float2(token_gates + 4 * (GATE_BETA * 64 + 8 * j));
                f.x = f.x < TINY_BETA ? 1.0f : f.x;
                f.y = f.y < TINY_BETA ? 1.0f : f.y;
            }
            y[2 * j] = cvt_rn_bf16x2(f.x * r[4 * j], f.y * r[4 * j + 1]);
            y[2 * j + 1] = cvt_rn_bf16x2(f.x * r[4 * j + 2], f.y * r[4 * j + 3]);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j)
            stmatrix_x4_trans(out + Shape::WIDE + turned + j * 2048, y + 4 * j);
        fence_proxy_async();
        __syncwarp();
        mbarrier_arrive_if(shared + Layout::OUT_FULL + out_barrier, lane == 0);
        previous = stage;
        if (++stage == Layout::STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
    wgmma_wait_group<0>();
    pin(s);
    float *exit = BACKWARD ? p.last_gradients : p.a.final_state;
    if (exit && item.to >= 0)
        chains_state_store(s, exit + static_cast<int64_t>(item.to) * (128 * 128), row);
}

template <int WARPGROUPS, bool BACKWARD>
__device__ __forceinline__ void chains_run(const ChainsParameters &p, int index) {
    using Layout = ChainsLayout<WARPGROUPS, BACKWARD>;
    extern __shared__ __align__(1024) unsigned char memory[];
    ChainsItem item;
    if (!chains_item<WARPGROUPS, BACKWARD>(p, index, item))
        return;
    const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(memory));
    if (threadIdx.x == 0) {
        for (int i = 0; i < Layout::STAGES; ++i) {
            mbarrier_init(shared + Layout::FULL + 8 * i, 32); // the loading warp's lanes
            mbarrier_init(shared + Layout::EMPTY + 8 * i, 128 * WARPGROUPS);
        }
        for (int i = 0; i < 2 * WARPGROUPS; ++i) {
            mbarrier_init(shared + Layout::OUT_FULL + 8 * i, 4);
            mbarrier_init(shared + Layout::OUT_EMPTY + 8 * i, 1);
        }
        mbarrier_init(shared + Layout::TAIL, 1);
        for (int w = 0; w < WARPGROUPS; ++w)
            store_release_shared(shared + Layout::STORED + 4 * w, 0);
        fence_mbarrier_init();
        fence_proxy_async();
    }
    __syncthreads();
    const int warpgroup = static_cast<int>(threadIdx.x) / 128;
    if (warpgroup == WARPGROUPS) {
        if constexpr (WARPGROUPS == 2)
            setmaxnreg_dec<56>();
        const int warp = static_cast<int>(threadIdx.x) % 128 / 32;
        if (warp == 0)
            chains_load<WARPGROUPS, BACKWARD>(p, item, shared);
        else if (warp <= WARPGROUPS)
            chains_store<WARPGROUPS, BACKWARD>(p, item, warp - 1, shared);
        else if (warp == WARPGROUPS + 1 && p.a.arrivals && threadIdx.x % 32 == 0)
            chains_announce<WARPGROUPS, BACKWARD>(p, item, shared);
    } else {
        if constexpr (WARPGROUPS == 2)
            setmaxnreg_inc<224>();
        chains_compute<WARPGROUPS, BACKWARD>(p, item, warpgroup, shared);
    }
}

template <int WARPGROUPS>
__global__ void __launch_bounds__(ChainsShape<WARPGROUPS>::THREADS, 1)
    chains_kernel(const __grid_constant__ ChainsParameters p) {
    griddepcontrol_launch_dependents();
    // Both chains of an item side by side: CTAs without an item come last.
    const int chains = p.forward + p.backward, index = static_cast<int>(blockIdx.x) / chains;
    if (p.backward && static_cast<int>(blockIdx.x) % chains == p.forward)
        chains_run<WARPGROUPS, true>(p, index);
    else
        chains_run<WARPGROUPS, false>(p, index);
}

} // namespace hopper
} // namespace gdni
