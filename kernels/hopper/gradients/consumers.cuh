// The two warpgroups that compute; see kernel.cuh.
#pragma once

#include "common/ptx.cuh"
#include "hopper/gradients/parts.cuh"

namespace gdni {
namespace hopper {

__device__ __forceinline__ void gradients_queries(const GradientsParameters &p, uint32_t shared) {
    const uint32_t barriers = shared + BARRIERS;
    const uint32_t mine = shared + G + 8 * (threadIdx.x % 128);
    for (int n = 0; is_group(shared, n); ++n) {
        const uint32_t kt = __shfl_sync(~0u, shared + K + ROWS * (n & 1), 0), qt = shared + Q;
        const uint64_t k = wgmma_descriptor(kt), q = wgmma_descriptor(qt);
        float sum[64], g[32];
        mbarrier_wait(barriers + 8 * (K_FULL + (n & 1)), n >> 1 & 1);
        mbarrier_wait(barriers + 8 * Q_FULL, n & 1);
        {
            float x[32];
            wgmma_fence();
            product_square(x, q, k);
            wgmma_commit_group();
            wgmma_wait_group<0>();
            pin(x);
            // Kept where G will lie, each thread's own elements.
            mbarrier_wait(barriers + 8 * G_EMPTY, (n & 1) ^ 1);
#pragma unroll
            for (int j = 0; j < 8; ++j)
                store_shared_uint2(mine + j * 1024, cvt_rn_bf16x2(x[4 * j], x[4 * j + 1]),
                                   cvt_rn_bf16x2(x[4 * j + 2], x[4 * j + 3]));
        }
#pragma unroll
        for (int i = 0; i < 32; ++i)
            g[i] = 0.0f;
#pragma unroll
        for (int i = 0; i < 64; ++i)
            sum[i] = 0.0f;
        for (int r = 0; r < p.heads; ++r) {
            const GradientsLane at;
            const int it = n * p.heads + r, stage = it & 1;
            const uint32_t base = __shfl_sync(~0u, shared + STAGES + STAGE * stage, 0);
            const uint32_t gates = shared + GATE_TABLES + GATES * stage;
            const uint32_t sums = shared + SUMS + sizeof(GradientsSums) * stage;
            const uint64_t do_ = wgmma_descriptor(base + DO), d = wgmma_descriptor(base + D);
            const uint64_t s = wgmma_descriptor(shared + S), ds = wgmma_descriptor(shared + DS);
            float dp[32], f[2], row[2], z;
            mbarrier_wait(barriers + 8 * (STAGE_FULL + stage), it >> 1 & 1);
            mbarrier_wait(barriers + 8 * S_FULL, it & 1);
            {
                float states[32];
                mbarrier_wait(barriers + 8 * DS_FULL, it & 1);
                wgmma_fence();
                product_states(states, s, ds);
                wgmma_commit_group();
                wgmma_wait_group<0>();
                pin(states);
                float d2[2];
                diagonal(states, at, d2);
                z = owns_diagonal(at) ? d2[0] + d2[1] : 0.0f;
#pragma unroll
                for (int step = 16; step > 0; step /= 2)
                    z += __shfl_xor_sync(~0u, z, step);
            }
            mbarrier_arrive_if(barriers + 8 * DS_EMPTY, at.lane == 0);
            {
                float x[64];
                wgmma_fence();
                product_rows(x, do_, s);
                wgmma_commit_group();
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    f[i] =
                        p.a.scale * load_shared_float(gates + 4 * (GATE_EXP * 64 + at.row + 8 * i));
                wgmma_wait_group<0>();
                pin(x);
                mbarrier_arrive_if(barriers + 8 * S_EMPTY, at.lane == 0);
                take_rows(sum, x, f, qt, at, row);
            }
            wgmma_fence();
            product_square(dp, do_, d);
            wgmma_commit_group();
            wgmma_wait_group<0>();
            pin(dp);
            row[0] *= f[0];
            row[1] *= f[1];
            float of_scores[2] = {};
            const GradientsDecay decay(gates, at);
            ColumnSums columns;
#pragma unroll
            for (int step = 0; step < 8; ++step) {
                const int j = ColumnSums::block(step);
                float e[4], b[2] = {};
                decay.block(j, e);
                const uint2 qk = load_shared_uint2(mine + j * 1024);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int column = 8 * j + 2 * (at.lane & 3) + (i & 1);
                    const int row_i = at.row + 8 * (i >> 1);
                    const uint32_t pair = i >> 1 ? qk.y : qk.x;
                    const float gi = column <= row_i ? p.a.scale * e[i] * dp[4 * j + i] : 0.0f;
                    const float bi =
                        column < row_i ? gi * (i & 1 ? high_bf16(pair) : low_bf16(pair)) : 0.0f;
                    g[4 * j + i] += gi;
                    of_scores[i >> 1] += bi;
                    b[i & 1] += bi;
                }
                columns.add(step, b, at.lane);
            }
            pin(g); // NOTE: its sums must not sink behind the next product, which needs registers
            row[0] += sum_quad(of_scores[0]);
            row[1] += sum_quad(of_scores[1]);
            mbarrier_wait(barriers + 8 * (SUMS_EMPTY + stage), (it >> 1 & 1) ^ 1);
            const int warp = at.row / 16;
            store_shared_float_if(sums + offsetof(GradientsSums, queries) + 4 * at.row, row[0],
                                  (at.lane & 3) == 0);
            store_shared_float_if(sums + offsetof(GradientsSums, queries) + 4 * at.row + 32, row[1],
                                  (at.lane & 3) == 0);
            store_shared_float2(sums + offsetof(GradientsSums, scores) + 256 * warp + 8 * at.lane,
                                columns.sum[0], columns.sum[1]);
            store_shared_float_if(sums + offsetof(GradientsSums, state) + 4 * warp, z,
                                  at.lane == 0);
            mbarrier_arrive(barriers + 8 * (SUMS_FULL + stage));
            mbarrier_arrive_if(barriers + 8 * (STAGE_EMPTY + stage), r < p.heads - 1);
        }
        // G K, and G for the keys.
        const GradientsLane at;
        const int m = __shfl_sync(~0u, n, 0); // NOTE: what follows from n is made anew
        const uint32_t last = shared + STAGES + STAGE * ((m + 1) * p.heads - 1 & 1);
        uint32_t pairs[16];
#pragma unroll
        for (int i = 0; i < 16; ++i)
            pairs[i] = cvt_rn_bf16x2(g[2 * i], g[2 * i + 1]);
        bar_sync(1, 128); // all of this warpgroup have done with Q K^T and dO
#pragma unroll
        for (int j = 0; j < 8; j += 2)
            stmatrix_x4(shared + G + at.at(j), pairs + 2 * j);
        fence_proxy_async();
        __syncwarp();
        mbarrier_arrive_if(barriers + 8 * G_FULL, at.lane == 0);
        pin(pairs);
        pin(sum);
        wgmma_fence();
#pragma unroll
        for (int t = 0; t < 4; ++t)
            wgmma_m64n128k16<MAJOR_MN>(sum, pairs + 4 * t, k + 128 * t, true);
        wgmma_commit_group();
        wgmma_wait_group<0>();
        pin(sum);
        mbarrier_arrive_if(barriers + 8 * Q_EMPTY, at.lane == 0);
        mbarrier_arrive_if(barriers + 8 * (K_EMPTY + (m & 1)), at.lane == 0);
        gradients_output(sum, p.a, p.a.dq32, group_of(shared, m), last + DO, at);
        mbarrier_arrive(barriers + 8 * OUT_FULL);
    }
}

__device__ __forceinline__ void gradients_keys(const GradientsParameters &p, uint32_t shared) {
    const uint32_t barriers = shared + BARRIERS;
    const uint32_t mine = shared + PAIRS + 8 * (threadIdx.x % 128);
    for (int n = 0; is_group(shared, n); ++n) {
        const uint32_t kt = __shfl_sync(~0u, shared + K + ROWS * (n & 1), 0);
        const uint64_t k = wgmma_descriptor(kt);
        float sum[64], w[32];
        uint32_t kk[12]; // NOTE: the last four in shared memory: here they spill
        mbarrier_wait(barriers + 8 * (K_FULL + (n & 1)), n >> 1 & 1);
        {
            float x[32];
            wgmma_fence();
            product_square(x, k, k);
            wgmma_commit_group();
            wgmma_wait_group<0>();
            pin(x);
#pragma unroll
            for (int i = 0; i < 12; ++i)
                kk[i] = cvt_rn_bf16x2(x[2 * i], x[2 * i + 1]);
#pragma unroll
            for (int j = 6; j < 8; ++j)
                store_shared_uint2(mine + (j - 6) * 1024, cvt_rn_bf16x2(x[4 * j], x[4 * j + 1]),
                                   cvt_rn_bf16x2(x[4 * j + 2], x[4 * j + 3]));
        }
#pragma unroll
        for (int i = 0; i < 32; ++i)
            w[i] = 0.0f;
#pragma unroll
        for (int i = 0; i < 64; ++i)
            sum[i] = 0.0f;
        for (int r = 0; r < p.heads; ++r) {
            const int it = n * p.heads + r, stage = it & 1;
            uint32_t base = __shfl_sync(~0u, shared + STAGES + STAGE * stage, 0);
            const uint32_t gates = shared + GATE_TABLES + GATES * stage;
            const uint32_t sums = shared + SUMS + sizeof(GradientsSums) * stage;
            float x[64], f[2], dot[2];
            GradientsLane at;
            mbarrier_wait(barriers + 8 * (STAGE_FULL + stage), it >> 1 & 1);
            mbarrier_wait(barriers + 8 * DS_FULL, it & 1);
            wgmma_fence();
            product_rows(x, wgmma_descriptor(base + D), wgmma_descriptor(shared + DS));
            wgmma_commit_group();
#pragma unroll
            for (int i = 0; i < 2; ++i)
                f[i] = load_shared_float(gates + 4 * (GATE_EXP_LEFT * 64 + at.row + 8 * i));
            wgmma_wait_group<0>();
            pin(x);
            mbarrier_arrive_if(barriers + 8 * DS_EMPTY, at.lane == 0);
            take_rows(sum, x, f, kt, at, dot);
            mbarrier_wait(barriers + 8 * (SUMS_EMPTY + stage), (it >> 1 & 1) ^ 1);
            const uint32_t left = sums + offsetof(GradientsSums, left) + 4 * at.row;
            store_shared_float_if(left, f[0] * dot[0], (at.lane & 3) == 0);
            store_shared_float_if(left + 32, f[1] * dot[1], (at.lane & 3) == 0);
            at = GradientsLane();
            base = __shfl_sync(~0u, base, 0);
            mbarrier_wait(barriers + 8 * S_FULL, it & 1);
            wgmma_fence();
            product_rows(x, wgmma_descriptor(base + DV), wgmma_descriptor(shared + S));
            wgmma_commit_group();
#pragma unroll
            for (int i = 0; i < 2; ++i)
                f[i] = -row_factor(gates, at.row + 8 * i) *
                       load_shared_float(gates + 4 * (GATE_EXP * 64 + at.row + 8 * i));
            wgmma_wait_group<0>();
            pin(x);
            mbarrier_arrive_if(barriers + 8 * S_EMPTY, at.lane == 0);
            take_rows(sum, x, f, kt, at, dot);
            uint32_t rest = sums + offsetof(GradientsSums, rest) + 4 * at.row;
#pragma unroll
            for (int i = 0; i < 2; ++i)
                store_shared_float_if(
                    rest + 32 * i,
                    -load_shared_float(gates + 4 * (GATE_EXP * 64 + at.row + 8 * i)) * dot[i],
                    (at.lane & 3) == 0);
            at = GradientsLane();
            base = __shfl_sync(~0u, base, 0);
            float z[32];
            wgmma_fence();
            product_square(z, wgmma_descriptor(base + DV), wgmma_descriptor(base + D));
            wgmma_commit_group();
            wgmma_wait_group<0>();
            pin(z);
            diagonal(z, at, dot);
            const uint32_t diagonals = sums + offsetof(GradientsSums, diagonal) + 4 * at.row;
            store_shared_float_if(diagonals, dot[0], owns_diagonal(at));
            store_shared_float_if(diagonals + 32, dot[1], owns_diagonal(at));
            dot[0] = dot[1] = 0.0f;
            const float of[2] = {row_factor(gates, at.row), row_factor(gates, at.row + 8)};
            const GradientsDecay decay(gates, at);
            ColumnSums columns;
#pragma unroll
            for (int step = 0; step < 8; ++step) {
                const int j = ColumnSums::block(step);
                float e[4], b[2] = {};
                decay.block(j, e);
                const uint2 pairs = j < 6 ? make_uint2(kk[2 * j], kk[2 * j + 1])
                                          : load_shared_uint2(mine + (j - 6) * 1024);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int column = 8 * j + 2 * (at.lane & 3) + (i & 1);
                    const int row_i = at.row + 8 * (i >> 1);
                    const uint32_t pair = i >> 1 ? pairs.y : pairs.x;
                    const float u = column < row_i ? e[i] * z[4 * j + i] : 0.0f;
                    const float un = u * (i & 1 ? high_bf16(pair) : low_bf16(pair));
                    w[4 * j + i] = fmaf(-of[i >> 1], u, w[4 * j + i]);
                    dot[i >> 1] += un;
                    b[i & 1] = fmaf(of[i >> 1], un, b[i & 1]);
                }
                columns.add(step, b, at.lane);
            }
            pin(w);
            rest = sums + offsetof(GradientsSums, rest) + 4 * at.row;
            dot[0] = sum_quad(dot[0]);
            dot[1] = sum_quad(dot[1]);
            const bool first = (at.lane & 3) == 0;
#pragma unroll
            for (int i = 0; i < 2; ++i)
                store_shared_float_if(rest + 32 * i,
                                      (first ? load_shared_float(rest + 32 * i) : 0.0f) - dot[i],
                                      first);
            store_shared_float2(sums + offsetof(GradientsSums, columns) + 256 * (at.row / 16) +
                                    8 * at.lane,
                                columns.sum[0], columns.sum[1]);
            mbarrier_arrive(barriers + 8 * (SUMS_FULL + stage));
            mbarrier_arrive_if(barriers + 8 * (STAGE_EMPTY + stage), r < p.heads - 1);
        }
        // (W + W^T) K through the last stage's dV, then G^T Q.
        const GradientsLane at;
        const int m = __shfl_sync(~0u, n, 0); // NOTE: what follows from n is made anew
        const uint32_t last = shared + STAGES + STAGE * ((m + 1) * p.heads - 1 & 1);
        uint32_t pairs[16], turned[16];
#pragma unroll
        for (int i = 0; i < 16; ++i)
            pairs[i] = cvt_rn_bf16x2(w[2 * i], w[2 * i + 1]);
        bar_sync(2, 128); // all of this warpgroup have done with dV
#pragma unroll
        for (int j = 0; j < 8; j += 2)
            stmatrix_x4(last + DV + at.at(j), pairs + 2 * j);
        bar_sync(2, 128);
#pragma unroll
        for (int j = 0; j < 8; j += 2)
            ldmatrix_x4_trans(turned + 2 * j, last + DV + at.turned + j * 1024);
            // W lies strictly below the diagonal and W^T above: one of the two is zero.
#pragma unroll
        for (int i = 0; i < 16; ++i)
            pairs[i] |= turned[i];
        pin(pairs);
        pin(sum);
        wgmma_fence();
#pragma unroll
        for (int t = 0; t < 4; ++t)
            wgmma_m64n128k16<MAJOR_MN>(sum, pairs + 4 * t, k + 128 * t, true);
        wgmma_commit_group();
        mbarrier_wait(barriers + 8 * Q_FULL, m & 1);
        mbarrier_wait(barriers + 8 * G_FULL, m & 1);
        const uint64_t g = wgmma_descriptor(shared + G), q = wgmma_descriptor(shared + Q);
        wgmma_fence();
#pragma unroll
        for (int t = 0; t < 4; ++t)
            wgmma_m64n128k16<MAJOR_MN, MAJOR_MN>(sum, g + 128 * t, q + 128 * t, true);
        wgmma_commit_group();
        wgmma_wait_group<0>();
        pin(sum);
        mbarrier_arrive_if(barriers + 8 * G_EMPTY, at.lane == 0);
        mbarrier_arrive_if(barriers + 8 * Q_EMPTY, at.lane == 0);
        mbarrier_arrive_if(barriers + 8 * (K_EMPTY + (m & 1)), at.lane == 0);
        bar_sync(2, 128); // all have read W
        gradients_output(sum, p.a, p.a.dk32, group_of(shared, m), last + DV, at);
        mbarrier_arrive(barriers + 8 * OUT_FULL);
    }
}

} // namespace hopper
} // namespace gdni
