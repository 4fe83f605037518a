// Gates, inverses and scores on Hopper: K = 128, C = 64, bf16. One CTA is one chunk, one k-head and
// up to four v-heads of its group.
//
//     c      = cumsum(g)
//     N      = K K^T,  M = s K Q^T                once a CTA, tensor cores, then fp32 in shared memory
//     T      = (I + strictLower(diag(beta) N))^-1
//     writes   Gam o T,  P = M^T o Gam  and the gate table
//
// After N and M every task, a head's inverse or a head's scores, is one warp's alone:
//
//     all warps    | gates, a warp a head | N, M | warp w: tasks w, w + 4: blocks, store |
//     copy engine  | K, Q                                                 | tiles out
//     barriers           CTA: gates and K, Q there  CTA x 2: N, M written over K, Q
//
// The inverse, in 16x16 blocks: T_II by substitution in fp32, a lane a column; then
//
//     W_IJ = -sum over J <= K < I of L_IK T_KJ,   T_IJ = T_II W_IJ        I > J
//
// in TF32 with fp32 accumulators, transposed: the accumulators of X are the left factor X, and the
// right factor X^T, of the next product, so that
//
//     W_IJ^T = -sum T_KJ^T L_IK^T,   T_IJ^T = W_IJ^T T_II^T
//
// need nothing but T_JJ^T as a left factor, T_II and L_IK (all from shared memory), and never move
// an element between lanes. Tiles leave through stmatrix, which transposes them back.
//
// Gam: exp(c_i - c_j) itself in diagonal blocks, masked before exp. Elsewhere the product of
// exp(c_i - c_f) and exp(c_f - c_j), f the first row of i's block: both exponents are <= 0.
#pragma once

#include "common/matrix.cuh"
#include "common/mbarrier.cuh"
#include "common/ptx.cuh"
#include "common/tma.cuh"
#include "common/wgmma.cuh"
#include "hopper/maps.h"
#include "hopper/prepare/config.cuh"
#include "portable/arguments.h"

namespace gdni {
namespace hopper {

struct PrepareMaps {
    CUtensorMap k, q;
    TriangleMaps inverse, scores;
};

// A 16x16 block as accumulators: x[4 n + e] is element e of column block n of eight.
struct Block {
    float x[8];
};
struct BlockTf32 {
    uint32_t x[8];
};

// Rounds: the tensor cores ignore the 13 bits below TF32. NOTE: cvt.rna.tf32 is four instructions.
__device__ __forceinline__ BlockTf32 to_tf32(const Block &a) {
    BlockTf32 b;
#pragma unroll
    for (int i = 0; i < 8; ++i)
        b.x[i] = __float_as_uint(a.x[i]) + 0x1000;
    return b;
}

// c += a b, given a and b^T.
__device__ __forceinline__ void multiply_add(Block &c, const BlockTf32 &a, const BlockTf32 &bt) {
    // Step k of eight has columns 2 t and 2 t + 1 where mma has t and t + 4: the same for both
    // factors, and the sum does not care.
#pragma unroll
    for (int k = 0; k < 8; k += 4) {
        const uint32_t left[4] = {a.x[k], a.x[k + 2], a.x[k + 1], a.x[k + 3]};
#pragma unroll
        for (int n = 0; n < 2; ++n) {
            const uint32_t right[2] = {bt.x[k + 2 * n], bt.x[k + 2 * n + 1]};
            mma_m16n8k8_tf32(reinterpret_cast<float(&)[4]>(c.x[4 * n]), left, right);
        }
    }
}

// A block of a row-major matrix of floats; `at` is its first element.
__device__ __forceinline__ Block load_block(int lane, const float *at, int ld) {
    const float *p = at + lane / 4 * ld + lane % 4 * 2;
    Block b;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 v = *reinterpret_cast<const float2 *>(p + (i & 1) * 8 * ld + (i >> 1) * 8);
        b.x[2 * i] = v.x, b.x[2 * i + 1] = v.y;
    }
    return b;
}
__device__ __forceinline__ Block load_block_transposed(int lane, const float *at, int ld) {
    const float *p = at + lane % 4 * 2 * ld + lane / 4;
    Block b;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float *q = p + (i >> 1) * 8 * ld + (i & 1) * 8;
        b.x[2 * i] = q[0], b.x[2 * i + 1] = q[ld];
    }
    return b;
}

// The same in bf16.
struct BlockBf16 {
    uint32_t x[4];
};

__device__ __forceinline__ BlockBf16 to_bf16(const Block &a) {
    BlockBf16 b;
#pragma unroll
    for (int i = 0; i < 4; ++i)
        b.x[i] = cvt_rn_bf16x2(a.x[2 * i], a.x[2 * i + 1]);
    return b;
}

// Block (J, I) of a transposed tile goes to block (I, J) of the tile in shared memory.
__device__ __forceinline__ void stage_block(int lane, uint32_t tile, int I, int J,
                                            const BlockBf16 &b) {
    stmatrix_x4_trans(tile + I * 2048 + swizzled(lane / 16 * 8 + lane % 8, J * 2 + lane / 8 % 2),
                      b.x);
}

// Gam^T of block (I, I): rows j, columns i.
__device__ __forceinline__ Block decay_on_diagonal(int lane, const float *gates, int I) {
    using Shape = PrepareShape;
    const int row = lane / 4, column = lane % 4 * 2;
    const float *sum = gates + Shape::SUM + 16 * I, *low = gates + Shape::LOW + 16 * I;
    Block b;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int j = row + (i & 1) * 8, at = column + (i >> 1) * 8;
        const float2 s = *reinterpret_cast<const float2 *>(sum + at);
        const float2 l = *reinterpret_cast<const float2 *>(low + at);
        const float x = (s.x - sum[j]) + (l.x - low[j]), y = (s.y - sum[j]) + (l.y - low[j]);
        b.x[2 * i] = ex2_approx(at >= j ? x : -INFINITY);
        b.x[2 * i + 1] = ex2_approx(at + 1 >= j ? y : -INFINITY);
    }
    return b;
}
// Of block (I, J), I > J.
__device__ __forceinline__ Block decay_below_diagonal(int lane, const float *gates, int I, int J) {
    using Shape = PrepareShape;
    const float *rows = gates + Shape::ROW + 16 * I + lane % 4 * 2;
    const float *columns = gates + Shape::COLUMN + 8 * I * (I - 1) + 16 * J + lane / 4;
    Block b;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 x = *reinterpret_cast<const float2 *>(rows + (i >> 1) * 8);
        const float y = columns[(i & 1) * 8];
        b.x[2 * i] = x.x * y, b.x[2 * i + 1] = x.y * y;
    }
    return b;
}
__device__ __forceinline__ Block decay_block(int lane, const float *gates, int I, int J) {
    return I == J ? decay_on_diagonal(lane, gates, I) : decay_below_diagonal(lane, gates, I, J);
}

__device__ __forceinline__ BlockBf16 product(const Block &a, const Block &b) {
    Block c;
#pragma unroll
    for (int i = 0; i < 8; ++i)
        c.x[i] = a.x[i] * b.x[i];
    return to_bf16(c);
}

// One warp: gate vectors of a head to shared memory, its gate table to `table`, the sums in it only
// if `sums_too`.
__device__ __forceinline__ void prepare_gates(const Arguments &a, const Chunk &chunk, int head,
                                              float *gates, float *table, bool sums_too) {
    using Shape = PrepareShape;
    const int lane = threadIdx.x % 32, row = 2 * lane;
    float g[2], beta[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const bool valid = row + i < chunk.rows;
        const int64_t at = (chunk.token + row + i) * a.Hv + head;
        g[i] = valid ? a.g[at] : 0.0f;
        beta[i] = valid ? a.beta[at] : 0.0f;
    }
    // exp(-1000) is 0 in fp32: the bound changes no result and keeps the sums small.
    const double first = g[0] < -1000.0f ? -1000.0f : g[0];
    const double both = first + (g[1] < -1000.0f ? -1000.0f : g[1]);
    double sum = both;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const double other = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= step)
            sum += other;
    }
    const double total = __shfl_sync(0xffffffffu, sum, 31);
    const double c[2] = {sum - both + first, sum};
    float high[2], low[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        high[i] = static_cast<float>(c[i]);
        low[i] = static_cast<float>(c[i] - high[i]);
    }
    const auto put = [&](float *to, float x, float y) {
        *reinterpret_cast<float2 *>(to + row) = make_float2(x, y);
    };
    put(table + GATE_EXP * 64, __expf(high[0]), __expf(high[1]));
    put(table + GATE_EXP_LEFT * 64, __expf(static_cast<float>(total - c[0])),
        __expf(static_cast<float>(total - c[1])));
    put(table + GATE_BETA * 64, beta[0], beta[1]);
    if (sums_too) {
        put(table + GATE_SUM * 64, high[0], high[1]);
        put(table + GATE_SUM_LOW * 64, low[0], low[1]);
    }
    // Here powers of two are taken.
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const double scaled = c[i] * 1.4426950408889634;
        high[i] = static_cast<float>(scaled);
        low[i] = static_cast<float>(scaled - high[i]);
    }
    put(gates + Shape::SUM, high[0], high[1]);
    put(gates + Shape::LOW, low[0], low[1]);
    put(gates + Shape::BETA, beta[0], beta[1]);
    __syncwarp();
    const float *sums = gates + Shape::SUM, *lows = gates + Shape::LOW;
    const int block = lane / 8 * 16;
    put(gates + Shape::ROW, ex2_approx((high[0] - sums[block]) + (low[0] - lows[block])),
        ex2_approx((high[1] - sums[block]) + (low[1] - lows[block])));
#pragma unroll
    for (int i = lane; i < 96; i += 32) {
        const int I = i < 16 ? 1 : i < 48 ? 2 : 3, j = i - 8 * I * (I - 1);
        gates[Shape::COLUMN + i] = ex2_approx((sums[16 * I] - sums[j]) + (lows[16 * I] - lows[j]));
    }
}

// One warp: the bound on a head's decay over the chunk; the diagonal of N is |k|^2.
__device__ __forceinline__ void store_bound(float *to, const float *n, const float *gates) {
    using Shape = PrepareShape;
    const int lane = threadIdx.x % 32;
    float growth = 0.0f;
#pragma unroll
    for (int i = lane; i < 64; i += 32)
        growth += logf(fmaxf(1.0f, fabsf(1.0f - gates[Shape::BETA + i] * n[i * (Shape::LD + 1)])));
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        growth += __shfl_xor_sync(0xffffffffu, growth, step);
    if (lane == 0)
        *to = gates[Shape::SUM + 63] * 0.69314718f + growth;
}

// One warp: the inverses of the diagonal blocks, to rows of LD_BLOCK floats. Lane l solves column
// l % 16 of blocks l / 16 and l / 16 + 2: x_i = [i = column] - beta_i sum_k N_ik x_k.
__device__ __forceinline__ void invert_diagonal(int lane, float *blocks, const float *n,
                                                const float *beta) {
    using Shape = PrepareShape;
    const int column = lane % 16;
#pragma unroll 1
    for (int block = lane / 16; block < 4; block += 2) {
        const float *rows = n + 16 * block * (Shape::LD + 1);
        float *to = blocks + block * Shape::BLOCK + column;
        float sum[16] = {};
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const float x = (i == column ? 1.0f : 0.0f) - beta[16 * block + i] * sum[i];
            to[i * Shape::LD_BLOCK] = x;
            // N is symmetric: its row i is the column that x_i multiplies.
#pragma unroll
            for (int k = (i + 1) / 4 * 4; k < 16; k += 4) {
                const float4 y = *reinterpret_cast<const float4 *>(rows + i * Shape::LD + k);
                if (k > i)
                    sum[k] = fmaf(y.x, x, sum[k]);
                if (k + 1 > i)
                    sum[k + 1] = fmaf(y.y, x, sum[k + 1]);
                if (k + 2 > i)
                    sum[k + 2] = fmaf(y.z, x, sum[k + 2]);
                sum[k + 3] = fmaf(y.w, x, sum[k + 3]);
            }
        }
    }
}

// One warp: the tile Gam o T of a head, to its staging.
__device__ __forceinline__ void make_inverse(int lane, unsigned char *staging, const float *n,
                                             const float *gates) {
    using Shape = PrepareShape;
    const uint32_t tile = shared_address(staging);
    float *blocks = reinterpret_cast<float *>(staging);
    const float *beta = gates + Shape::BETA;
    invert_diagonal(lane, blocks, n, beta);
    __syncwarp();
    BlockTf32 diagonal[4];  // T_II
    BlockTf32 column[4][4]; // [I][J], T_IJ^T
    BlockBf16 out[4];
#pragma unroll
    for (int I = 0; I < 4; ++I) {
        if (I > 0)
            diagonal[I] = to_tf32(load_block(lane, blocks + I * Shape::BLOCK, Shape::LD_BLOCK));
        const Block t = load_block_transposed(lane, blocks + I * Shape::BLOCK, Shape::LD_BLOCK);
        if (I < 3)
            column[I][I] = to_tf32(t);
        out[I] = product(decay_block(lane, gates, I, I), t);
    }
    __syncwarp();
#pragma unroll
    for (int I = 0; I < 4; ++I) {
        stage_block(lane, tile, I, I, out[I]);
        BlockTf32 l[3];
        const float low = -beta[16 * I + lane / 4], high = -beta[16 * I + lane / 4 + 8];
#pragma unroll
        for (int K = 0; K < I; ++K) {
            Block b = load_block(lane, n + 16 * I * Shape::LD + 16 * K, Shape::LD);
#pragma unroll
            for (int i = 0; i < 8; ++i)
                b.x[i] *= i & 2 ? high : low;
            l[K] = to_tf32(b);
        }
#pragma unroll
        for (int J = 0; J < I; ++J) {
            Block w = {}, t = {};
#pragma unroll
            for (int K = J; K < I; ++K)
                multiply_add(w, column[K][J], l[K]);
            multiply_add(t, to_tf32(w), diagonal[I]);
            if (I < 3)
                column[I][J] = to_tf32(t);
            stage_block(lane, tile, I, J, product(decay_block(lane, gates, I, J), t));
        }
    }
}

// One warp: the tile P of a head, to its staging.
__device__ __forceinline__ void make_scores(int lane, unsigned char *staging, const float *m,
                                            const float *gates) {
    using Shape = PrepareShape;
#pragma unroll
    for (int I = 0; I < 4; ++I)
#pragma unroll
        for (int J = 0; J <= I; ++J) {
            const Block b = load_block(lane, m + 16 * J * Shape::LD + 16 * I, Shape::LD);
            stage_block(lane, shared_address(staging), I, J,
                        product(decay_block(lane, gates, I, J), b));
        }
}

// Accumulators of this warp's 16 rows to a square of floats, times `factor`.
__device__ __forceinline__ void store_square(float *to, const float (&x)[32], float factor) {
    const int lane = threadIdx.x % 32;
    float *p = to + (threadIdx.x / 32 * 16 + lane / 4) * PrepareShape::LD + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        *reinterpret_cast<float2 *>(p + 8 * j) =
            make_float2(factor * x[4 * j], factor * x[4 * j + 1]);
        *reinterpret_cast<float2 *>(p + 8 * PrepareShape::LD + 8 * j) =
            make_float2(factor * x[4 * j + 2], factor * x[4 * j + 3]);
    }
}

template <bool SCORES, int HEADS>
__global__ void __launch_bounds__(PrepareShape::THREADS, PrepareShapeOf<HEADS>::CTAS)
    prepare_kernel(const __grid_constant__ Arguments a, const __grid_constant__ PrepareMaps maps,
                   bool whole) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    using Shape = PrepareShapeOf<HEADS>;
    extern __shared__ __align__(1024) unsigned char shared[];
    const int64_t index = blockIdx.x;
    griddepcontrol_wait();
    griddepcontrol_launch_dependents();
    if (index >= a.chunk_start[a.N])
        return;
    const Chunk chunk = a.chunks[index];
    if (chunk.sequence < a.first_sequence || chunk.sequence >= a.first_sequence + a.sequences)
        return;
    // Which of the CTA's tasks a warp begins with: not the same in all CTAs that share a
    // multiprocessor, where there are fewer tasks than warps, or one scheduler would have them all.
    const unsigned place = blockIdx.x + blockIdx.y * gridDim.x;
    const int turn =
        static_cast<int>((threadIdx.x / 32 + place / a.multiprocessors) % Shape::WARPS);
    const int group = a.Hv / a.Hk, batches = (group + Shape::HEADS - 1) / Shape::HEADS;
    const int k_head = blockIdx.y / batches, batch = blockIdx.y % batches * Shape::HEADS;
    const int heads = min(group - batch, Shape::HEADS), first_head = k_head * group + batch;
    const uint32_t base = shared_address(shared), barrier = base + Shape::BARRIER_AT;
    if (threadIdx.x == 0) {
        const int token = static_cast<int>(chunk.token);
        mbarrier_init(barrier, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect_tx(barrier, SCORES ? 4 * TILE : 2 * TILE);
        cp_async_bulk_tensor_load(base + Shape::K_AT, maps.k, token, 0, k_head, barrier);
        if (SCORES)
            cp_async_bulk_tensor_load(base + Shape::Q_AT, maps.q, token, 0, k_head, barrier);
    }
    float *gates = reinterpret_cast<float *>(shared + Shape::GATES_AT);
    if (turn < heads)
        prepare_gates(a, chunk, first_head + turn, gates + turn * Shape::VECTORS,
                      a.gates + (index * a.Hv + first_head + turn) * (GATE_ROWS * 64), whole);
    __syncthreads();
    mbarrier_wait(barrier, 0);
    if (chunk.rows < 64) {
        // Rows behind the sequence's last are somebody else's: zeros instead.
        for (int i = chunk.rows * 8 + threadIdx.x; i < 64 * 8; i += Shape::THREADS)
#pragma unroll
            for (int t = 0; t < (SCORES ? 4 : 2); ++t)
                store_shared_zeros(base + t * TILE + swizzled(i / 8, i % 8));
        fence_proxy_async();
        __syncthreads();
    }

    const uint64_t k = wgmma_descriptor(base + Shape::K_AT);
    const uint64_t q = wgmma_descriptor(base + Shape::Q_AT);
    float n[32], m[32];
    wgmma_fence();
#pragma unroll
    for (int t = 0; t < 8; ++t) {
        const uint64_t step = descriptor_step(t / 4 * TILE + t % 4 * 32);
        wgmma_m64n64k16<MAJOR_K>(n, k + step, k + step, t > 0);
    }
    if (SCORES) {
#pragma unroll
        for (int t = 0; t < 8; ++t) {
            const uint64_t step = descriptor_step(t / 4 * TILE + t % 4 * 32);
            wgmma_m64n64k16<MAJOR_K>(m, k + step, q + step, t > 0);
        }
    }
    wgmma_commit_group();
    wgmma_wait_group<0>();
    pin(n);
    float *ns = reinterpret_cast<float *>(shared + Shape::N_AT);
    float *ms = reinterpret_cast<float *>(shared + Shape::M_AT);
    __syncthreads();
    store_square(ns, n, 1.0f);
    if (SCORES) {
        pin(m);
        store_square(ms, m, a.scale);
    }
    __syncthreads();

    if (a.bounds && turn < heads)
        store_bound(a.bounds + index * a.Hv + first_head + turn, ns, gates + turn * Shape::VECTORS);
    unsigned char *staging = shared + Shape::STAGING_AT + turn * TILE;
    for (int task = turn; task < (SCORES ? 2 : 1) * heads; task += Shape::WARPS) {
        // NOTE: read anew, or addresses are made before the loop and spilled: 76 bytes.
        const int lane = thread_index() % 32;
        const bool scores = task >= heads;
        const int head = scores ? task - heads : task;
        const float *vectors = gates + head * Shape::VECTORS;
        if (lane == 0)
            cp_async_bulk_wait_group_read<0>();
        __syncwarp();
        if (scores)
            make_scores(lane, staging, ms, vectors);
        else
            make_inverse(lane, staging, ns, vectors);
        const BlockBf16 zero = {};
#pragma unroll
        for (int J = 1; J < 4; ++J)
#pragma unroll
            for (int I = 0; I < J; ++I)
                stage_block(lane, shared_address(staging), I, J, zero);
        fence_proxy_async();
        __syncwarp();
        if (lane == 0) {
            const int tile = static_cast<int>(index * a.Hv) + first_head + head;
            const TriangleMaps &to = scores ? maps.scores : maps.inverse;
            cp_async_bulk_tensor_store(to.upper, 0, 0, tile, shared_address(staging));
            cp_async_bulk_tensor_store(to.lower, 0, 0, tile, shared_address(staging) + TILE / 2);
            cp_async_bulk_commit_group();
        }
    }
    if (threadIdx.x % 32 == 0)
        cp_async_bulk_wait_group_read<0>();
#endif
}

} // namespace hopper
} // namespace gdni
