// The warps that load, store and reduce; see kernel.cuh.
#pragma once

#include "hopper/gradients/config.cuh"

namespace gdni {
namespace hopper {

using namespace gradients;

__device__ __forceinline__ void gradients_load_heads(const GradientsParameters &p,
                                                     uint32_t shared) {
    const bool leader = threadIdx.x % 32 == 0;
    const uint32_t barriers = shared + BARRIERS;
    const int heads = p.heads;
    int it = 0;
    uint32_t tail_phase = 0;
    for (int n = 0; is_group(shared, n); ++n) {
        const int group = group_of(shared, n), index = group / p.a.Hk, k_head = group % p.a.Hk;
        const int token = static_cast<int>(p.a.chunks[index].token), rows = p.a.chunks[index].rows;
        if (leader && p.a.arrivals) {
            wait_for_count(p.a.arrivals + group, p.a.parts);
            fence_proxy_async_all();
        }
        __syncwarp();
        for (int r = 0; r < heads; ++r, ++it) {
            const int head = k_head * heads + r, tile = index * p.a.Hv + head, stage = it & 1;
            const uint32_t to = shared + STAGES + STAGE * stage;
            const uint32_t full = barriers + 8 * (STAGE_FULL + stage);
            const uint32_t barrier = rows == 64 ? full : barriers + 8 * STAGE_TAIL;
            mbarrier_wait(barriers + 8 * (STAGE_EMPTY + stage), (it >> 1 & 1) ^ 1);
            if (leader) {
                if (rows == 64)
                    mbarrier_arrive(full, 31); // for the other lanes
                mbarrier_arrive_expect_tx(barrier, STAGE + GATES);
                cp_async_bulk_tensor_load(to + DO, p.do_, token, 0, head, barrier);
                cp_async_bulk_tensor_load(to + DV, p.dv, token, 0, head, barrier);
                cp_async_bulk_tensor_load(to + D, p.delta, 0, 0, tile, barrier);
                cp_async_bulk_load(shared + GATE_TABLES + GATES * stage,
                                   p.a.gates + static_cast<int64_t>(tile) * (GATE_ROWS * 64), GATES,
                                   barrier);
            }
            mbarrier_wait(barriers + 8 * DS_EMPTY, (it & 1) ^ 1);
            if (leader) {
                mbarrier_arrive_expect_tx(barriers + 8 * DS_FULL, STATE);
                for (int half = 0; half < 2; ++half)
                    cp_async_bulk_tensor_load(shared + DS + ROWS * half, p.state_grads, 64 * half,
                                              0, tile, barriers + 8 * DS_FULL);
            }
            mbarrier_wait(barriers + 8 * S_EMPTY, (it & 1) ^ 1);
            if (leader) {
                mbarrier_arrive_expect_tx(barriers + 8 * S_FULL, STATE);
                for (int half = 0; half < 2; ++half)
                    cp_async_bulk_tensor_load(shared + S + ROWS * half, p.states, 64 * half, 0,
                                              tile, barriers + 8 * S_FULL);
            }
            if (rows < 64) {
                mbarrier_wait(barrier, tail_phase);
                tail_phase ^= 1;
                for (int half = 0; half < 2; ++half) {
                    zero_rows(to + DO + SQUARE * half, rows);
                    zero_rows(to + DV + SQUARE * half, rows);
                }
                fence_proxy_async();
                mbarrier_arrive(full);
            }
            __syncwarp();
        }
    }
}

// Takes this CTA's n-th group: the next in the order in which the chains get done with them, or
// where nothing is known of that, the CTAs take turns. One warp.
__device__ __forceinline__ void gradients_take(const Arguments &a, uint32_t shared, int n) {
    if (threadIdx.x % 32 == 0) {
        const int count = static_cast<int>(a.chunk_start[a.N]) * a.Hk;
        const int place = a.next_group ? atomicAdd(a.next_group, 1)
                                       : static_cast<int>(blockIdx.x + n * gridDim.x);
        const int group = place >= count ? -1
                          : a.order      ? a.order[place / a.Hk] * a.Hk + place % a.Hk
                                         : place;
        store_release_shared(shared + TAKEN + 4 * (n % GROUPS), group);
        mbarrier_arrive(shared + BARRIERS + 8 * (GROUP_FULL + n % GROUPS));
    }
    __syncwarp();
}

__device__ __forceinline__ void gradients_load_groups(const GradientsParameters &p,
                                                      uint32_t shared) {
    const bool leader = threadIdx.x % 32 == 0;
    const uint32_t barriers = shared + BARRIERS;
    uint32_t tail_phase = 0;
    for (int n = 0;; ++n) {
        gradients_take(p.a, shared, n);
        if (!is_group(shared, n))
            break;
        const int group = group_of(shared, n), index = group / p.a.Hk, k_head = group % p.a.Hk;
        const int token = static_cast<int>(p.a.chunks[index].token), rows = p.a.chunks[index].rows;
        for (int which = 0; which < 2; ++which) { // K, Q
            const int slot = which ? 0 : n & 1, phase = which ? n & 1 : n >> 1 & 1;
            const uint32_t full = barriers + 8 * (which ? Q_FULL : K_FULL + slot);
            const uint32_t empty = barriers + 8 * (which ? Q_EMPTY : K_EMPTY + slot);
            const uint32_t to = shared + (which ? Q : K + ROWS * slot);
            const uint32_t barrier = rows == 64 ? full : barriers + 8 * GROUP_TAIL;
            mbarrier_wait(empty, phase ^ 1);
            if (leader) {
                if (rows == 64)
                    mbarrier_arrive(full, 31);
                mbarrier_arrive_expect_tx(barrier, ROWS);
                cp_async_bulk_tensor_load(to, which ? p.q : p.k, token, 0, k_head, barrier);
            }
            if (rows < 64) {
                mbarrier_wait(barrier, tail_phase);
                tail_phase ^= 1;
                zero_rows(to, rows);
                zero_rows(to + SQUARE, rows);
                fence_proxy_async();
                mbarrier_arrive(full);
            }
            __syncwarp();
        }
    }
}

// Rows of dq or dk from a stage's tile, where a copy of the whole would pass the sequence's end.
__device__ __forceinline__ void gradients_store_rows(const Tensor &x, uint32_t tile, int64_t token,
                                                     int head, int rows) {
#pragma unroll 1 // NOTE: unrolled, it spills
    for (int i = static_cast<int>(threadIdx.x) % 32; i < rows * 16; i += 32) {
        const int row = i / 16, piece = i % 16;
        *reinterpret_cast<uint4 *>(row_pointer<__nv_bfloat16>(x, token + row, head) + piece * 8) =
            load_shared_uint4(tile + piece / 8 * SQUARE + swizzled(row, piece % 8));
    }
}

__device__ __forceinline__ void gradients_store(const GradientsParameters &p, uint32_t shared) {
    const bool leader = threadIdx.x % 32 == 0;
    const uint32_t barriers = shared + BARRIERS;
    for (int n = 0; is_group(shared, n); ++n) {
        const int group = group_of(shared, n), index = group / p.a.Hk, k_head = group % p.a.Hk;
        const int token = static_cast<int>(p.a.chunks[index].token), rows = p.a.chunks[index].rows;
        const int stage = ((n + 1) * p.heads - 1) & 1;
        mbarrier_wait(barriers + 8 * OUT_FULL, n & 1);
        if (!p.a.dq32) {
#pragma unroll 1
            for (int which = 0; which < 2; ++which) { // dq, dk
                const uint32_t from = shared + STAGES + STAGE * stage + (which ? DV : DO);
                if (rows < 64)
                    gradients_store_rows(which ? p.a.dk : p.a.dq, from, token, k_head, rows);
                else if (leader)
                    cp_async_bulk_tensor_store(which ? p.dk : p.dq, token, 0, k_head, from);
            }
            if (leader) {
                cp_async_bulk_commit_group();
                cp_async_bulk_wait_group_read<0>();
            }
        }
        __syncwarp();
        mbarrier_arrive(barriers + 8 * (STAGE_EMPTY + stage), CONSUMERS / 32);
    }
    if (leader)
        cp_async_bulk_wait_group<0>();
}

// A row whose beta is tiny: <E, V>, and dV = beta E in place of E. One warp.
__device__ __forceinline__ float gradients_tiny_row(const Arguments &a, int64_t token, int head,
                                                    float beta) {
    const int column = static_cast<int>(threadIdx.x) % 32 * 4;
    uint2 *to = reinterpret_cast<uint2 *>(row_pointer<__nv_bfloat16>(a.dv, token, head) + column);
    const uint2 v = *reinterpret_cast<const uint2 *>(
        row_pointer<const __nv_bfloat16>(a.v, token, head) + column);
    const uint2 e = *to;
    float dot = low_bf16(e.x) * low_bf16(v.x);
    dot = fmaf(high_bf16(e.x), high_bf16(v.x), dot);
    dot = fmaf(low_bf16(e.y), low_bf16(v.y), dot);
    dot = fmaf(high_bf16(e.y), high_bf16(v.y), dot);
    *to = make_uint2(cvt_rn_bf16x2(beta * low_bf16(e.x), beta * high_bf16(e.x)),
                     cvt_rn_bf16x2(beta * low_bf16(e.y), beta * high_bf16(e.y)));
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        dot += __shfl_xor_sync(~0u, dot, step);
    return dot;
}

__device__ __forceinline__ void gradients_reduce(const GradientsParameters &p, uint32_t shared) {
    const uint32_t barriers = shared + BARRIERS;
    const int heads = p.heads;
    int it = 0;
    for (int n = 0; is_group(shared, n); ++n) {
        for (int r = 0; r < heads; ++r, ++it) {
            const int lane = thread_index() % 32, stage = it & 1;
            const int group = group_of(shared, n), index = group / p.a.Hk;
            const int head = group % p.a.Hk * heads + r;
            const float *table =
                p.a.gates + static_cast<int64_t>(index * p.a.Hv + head) * (GATE_ROWS * 64);
            const float2 beta =
                *reinterpret_cast<const float2 *>(table + GATE_BETA * 64 + 2 * lane);
            const float decay = table[GATE_EXP * 64 + 63];
            const uint32_t sums = shared + SUMS + sizeof(GradientsSums) * stage;
            const auto pair = [&](size_t offset) {
                return load_shared_float2(sums + static_cast<uint32_t>(offset) + 8 * lane);
            };
            mbarrier_wait(barriers + 8 * (SUMS_FULL + stage), it >> 1 & 1);
            const float2 rest = pair(offsetof(GradientsSums, rest));
            const float2 diagonal = pair(offsetof(GradientsSums, diagonal));
            const float2 left = pair(offsetof(GradientsSums, left));
            const float2 y =
                make_float2(beta.x < TINY_BETA ? beta.x : 1.0f, beta.y < TINY_BETA ? beta.y : 1.0f);
            float2 right = pair(offsetof(GradientsSums, queries));
            right.x = fmaf(beta.x < TINY_BETA ? beta.x : 1.0f, rest.x, right.x);
            right.y = fmaf(beta.y < TINY_BETA ? beta.y : 1.0f, rest.y, right.y);
            float z = 0.0f;
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                const float2 b = pair(offsetof(GradientsSums, scores) + 256 * w);
                const float2 c = pair(offsetof(GradientsSums, columns) + 256 * w);
                right.x += c.x - b.x;
                right.y += c.y - b.y;
                z += load_shared_float(sums + offsetof(GradientsSums, state) + 4 * w);
            }
            mbarrier_arrive(barriers + 8 * (SUMS_EMPTY + stage));
            const int64_t token = p.a.chunks[index].token;
            const int rows = p.a.chunks[index].rows;
            float after = right.x + right.y, before = left.x + left.y; // sums over lanes
#pragma unroll
            for (int step = 1; step < 32; step *= 2) {
                const float x = __shfl_down_sync(~0u, after, step);
                const float w = __shfl_up_sync(~0u, before, step);
                after += lane + step < 32 ? x : 0.0f;
                before += lane >= step ? w : 0.0f;
            }
            after = __shfl_down_sync(~0u, after, 1);
            before = __shfl_up_sync(~0u, before, 1);
            after = lane == 31 ? 0.0f : after;
            before = lane == 0 ? 0.0f : before;
            z *= decay;
            after += right.y;
            const float dg1 = z + after + (before + left.x), dg0 = z + (after + right.x) + before;
            float2 dbeta = make_float2(diagonal.x / beta.x / beta.x, diagonal.y / beta.y / beta.y);
            const bool tiny0 = 2 * lane < rows && beta.x < TINY_BETA;
            const bool tiny1 = 2 * lane + 1 < rows && beta.y < TINY_BETA;
            for (uint32_t left0 = __ballot_sync(~0u, tiny0); left0; left0 &= left0 - 1) {
                const int l = __ffs(static_cast<int>(left0)) - 1;
                const float dot =
                    gradients_tiny_row(p.a, token + 2 * l, head, __shfl_sync(~0u, beta.x, l));
                if (lane == l)
                    dbeta.x = dot + rest.x;
            }
            for (uint32_t left1 = __ballot_sync(~0u, tiny1); left1; left1 &= left1 - 1) {
                const int l = __ffs(static_cast<int>(left1)) - 1;
                const float dot =
                    gradients_tiny_row(p.a, token + 2 * l + 1, head, __shfl_sync(~0u, beta.y, l));
                if (lane == l)
                    dbeta.y = dot + rest.y;
            }
            const int64_t at = (token + 2 * lane) * p.a.Hv + head;
            if (2 * lane < rows) {
                p.a.dg[at] = dg0;
                p.a.dbeta[at] = dbeta.x;
            }
            if (2 * lane + 1 < rows) {
                p.a.dg[at + p.a.Hv] = dg1;
                p.a.dbeta[at + p.a.Hv] = dbeta.y;
            }
        }
    }
}

} // namespace hopper
} // namespace gdni
