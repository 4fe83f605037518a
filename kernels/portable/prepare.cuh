// Stage 1, parallel over chunks: gate sums, inverse, scores. One CTA per (chunk, k-head), a loop
// over the v-heads of its group.
//
//     c      = cumsum(g) inside the chunk; the tail repeats the last valid value
//     N      = K K^T, Q K^T            once per k-head, in the problem's dtype
//     T      = (I + strictLower(diag(beta) N))^-1
//     writes   Gam o T,  P = s (Q K^T) o Gam,  and the gate table
//
// T is fp32: substitution on 16x16 diagonal blocks, then merges -T22 (L21 T11), in TF32 for 16-bit
// dtypes and in fp32 otherwise. Warp w owns rows 16 w .. 16 w + 15 of the chunk.
//
// Shared memory: K and Q, over which N, Q K^T and T (fp32) are laid once the products are done;
// then the gate sums and beta.
#pragma once

#include "arguments.h"
#include "stages.h"
#include "tile.cuh"

namespace gdni {

template <typename T, int C, int KP>
struct PrepareShape {
    static constexpr int THREADS = 2 * C;
    static constexpr int LD_K = KP + PIECE<T>, LD_C = C + 4;
    static constexpr size_t TILES = 2 * sizeof(T) * C * LD_K,
                            SQUARES = 3 * sizeof(float) * C * LD_C;
    static constexpr size_t BYTES = (TILES > SQUARES ? TILES : SQUARES) + 3 * sizeof(float) * C;
};

// Gate sums of one head by one warp: table[GATE_SUM ...] in shared memory [3][C] (sum, low, beta)
// and the whole table in global memory; the bound on the chunk's decay where it is wanted. squares
// are |k|^2 of the chunk's tokens, `step` apart.
template <typename T, int C>
__device__ void prepare_gates(const Arguments &a, const Chunk &chunk, int head, float *shared,
                              float *table, float *bound, const float *squares, int step) {
    constexpr int PER_LANE = C / 32;
    const int lane = lane_id();
    double sum[PER_LANE];
    float beta[PER_LANE];
    double running = 0.0;
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        const int row = lane * PER_LANE + i;
        const bool valid = row < chunk.rows;
        const int64_t at = (chunk.token + row) * a.Hv + head;
        // exp(-1000) is 0 in fp32: the bound changes no result and keeps the sums small.
        if (valid && !a.gateless)
            running += a.g[at] < -1000.0f ? -1000.0f : a.g[at];
        sum[i] = running;
        beta[i] = valid ? a.beta[at] : 0.0f;
    }
    double before = running;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const double other = __shfl_up_sync(0xffffffffu, before, step);
        if (lane >= step)
            before += other;
    }
    const double total = __shfl_sync(0xffffffffu, before, 31);
    if (bound) {
        float growth = 0.0f;
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i) {
            const int row = lane * PER_LANE + i;
            if (row < chunk.rows)
                growth += logf(fmaxf(1.0f, fabsf(1.0f - beta[i] * squares[row * step])));
        }
        growth = sum_over_rows(sum_over_columns(growth));
        if (lane == 0)
            *bound = static_cast<float>(total) + growth;
    }
    before -= running;
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        const int row = lane * PER_LANE + i;
        const double c = before + sum[i];
        const float high = static_cast<float>(c), low = static_cast<float>(c - high);
        shared[row] = high;
        shared[C + row] = low;
        shared[2 * C + row] = beta[i];
        table[GATE_EXP * C + row] = gate_exp<T>(high);
        table[GATE_EXP_LEFT * C + row] = gate_exp<T>(static_cast<float>(total - c));
        table[GATE_BETA * C + row] = beta[i];
        table[GATE_SUM * C + row] = high;
        table[GATE_SUM_LOW * C + row] = low;
    }
}

// c = diag(scale) a b on 16x16 blocks in shared memory; scale may be NULL.
template <bool EXACT>
__device__ __forceinline__ void block_product(float (&c)[2][4], const float *a, const float *b,
                                              int ld, const float *scale) {
    const int r = lane_id() / 4, q = lane_id() % 4;
    const float s0 = scale ? scale[r] : 1.0f, s1 = scale ? scale[r + 8] : 1.0f;
    if (EXACT) {
        Operand<float> x = operand_load(a, ld);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float s = i & 1 ? s1 : s0;
            x.x[i].x *= s, x.x[i].y *= s;
        }
        multiply<ROWS>(c, x, b, ld);
    } else {
#pragma unroll
        for (int k = 0; k < 16; k += 8) {
            const uint32_t x[4] = {cvt_rna_tf32(s0 * a[r * ld + k + q]),
                                   cvt_rna_tf32(s1 * a[(r + 8) * ld + k + q]),
                                   cvt_rna_tf32(s0 * a[r * ld + k + q + 4]),
                                   cvt_rna_tf32(s1 * a[(r + 8) * ld + k + q + 4])};
#pragma unroll
            for (int t = 0; t < 2; ++t) {
                const uint32_t y[2] = {cvt_rna_tf32(b[(k + q) * ld + t * 8 + r]),
                                       cvt_rna_tf32(b[(k + q + 4) * ld + t * 8 + r])};
                mma_m16n8k8_tf32(c[t], x, y);
            }
        }
    }
}

__device__ __forceinline__ void block_store(float *to, int ld, const float (&c)[2][4], float sign) {
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
        for (int e = 0; e < 4; ++e)
            to[row_of(e) * ld + column_of(t, e)] = sign * c[t][e];
}

// T from N and beta, all in shared memory; T's blocks above the diagonal are left alone.
template <bool EXACT, int C>
__device__ void invert(float *t, const float *n, int ld, const float *beta) {
    const int warp = threadIdx.x / 32;
    if (threadIdx.x < C) {
        // Thread j solves column j of its diagonal block: x_i = [i = j] - beta_i sum_k N_ik x_k.
        const int start = threadIdx.x / 16 * 16, column = threadIdx.x % 16;
        float x[16];
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const float *row = n + (start + i) * ld + start;
            float sum = 0.0f;
#pragma unroll
            for (int k = 0; k < i; k += 4) {
                const float4 y = *reinterpret_cast<const float4 *>(row + k);
                sum = fmaf(y.x, x[k], sum);
                if (k + 1 < i)
                    sum = fmaf(y.y, x[k + 1], sum);
                if (k + 2 < i)
                    sum = fmaf(y.z, x[k + 2], sum);
                if (k + 3 < i)
                    sum = fmaf(y.w, x[k + 3], sum);
            }
            x[i] = i == column ? 1.0f : i < column ? 0.0f : -beta[start + i] * sum;
            t[(start + i) * ld + start + column] = x[i];
        }
    }
    __syncthreads();
    const int step = 16 * ld + 16; // from one diagonal block to the next
    if (warp < C / 32) {           // 32x32: one block each
        float c[2][4] = {};
        float *t11 = t + 2 * warp * step, *t21 = t11 + 16 * ld, *t22 = t11 + step;
        block_product<EXACT>(c, n + 2 * warp * step + 16 * ld, t11, ld, beta + 32 * warp + 16);
        block_store(t21, ld, c, 1.0f);
        __syncwarp();
        float d[2][4] = {};
        block_product<EXACT>(d, t22, t21, ld, nullptr);
        __syncwarp();
        block_store(t21, ld, d, -1.0f);
    }
    if (C == 64) { // 64x64: four blocks, one a warp
        const int i = warp / 2, j = warp % 2, row = 32 + 16 * i;
        float *block = t + row * ld + 16 * j;
        __syncthreads();
        float c[2][4] = {};
        for (int k = j; k < 2; ++k)
            block_product<EXACT>(c, n + row * ld + 16 * k, t + 16 * k * ld + 16 * j, ld,
                                 beta + row);
        block_store(block, ld, c, 1.0f);
        __syncthreads();
        float d[2][4] = {};
        for (int k = 0; k <= i; ++k)
            block_product<EXACT>(d, t + row * ld + 32 + 16 * k, t + (32 + 16 * k) * ld + 16 * j, ld,
                                 nullptr);
        __syncthreads();
        block_store(block, ld, d, -1.0f);
    }
    __syncthreads();
}

template <typename T, int C, int KP>
__global__ void __launch_bounds__(2 * C) prepare_kernel(const __grid_constant__ Arguments a) {
    using Shape = PrepareShape<T, C, KP>;
    constexpr int NT = C / 8, LD = Shape::LD_K, LD_C = Shape::LD_C;
    extern __shared__ __align__(16) unsigned char shared[];
    const int64_t index = blockIdx.x;
    if (index >= a.chunk_start[a.N])
        return;
    const Chunk chunk = a.chunks[index];
    if (chunk.sequence < a.first_sequence || chunk.sequence >= a.first_sequence + a.sequences)
        return;
    const int k_head = blockIdx.y, group = a.Hv / a.Hk, m0 = threadIdx.x / 32 * 16;
    const bool with_q = a.q.data != nullptr;
    T *ks = reinterpret_cast<T *>(shared), *qs = ks + C * LD;
    load_tile<C>(ks, LD, KP, row_pointer<T>(a.k, chunk.token, k_head), a.k.token, chunk.rows, a.K,
                 a.k.aligned);
    if (with_q)
        load_tile<C>(qs, LD, KP, row_pointer<T>(a.q, chunk.token, k_head), a.q.token, chunk.rows,
                     a.K, a.q.aligned);
    cp_async_commit_group();
    cp_async_wait_group<0>();
    __syncthreads();

    float n[NT][4], s[NT][4];
    clear(n);
    clear(s);
#pragma unroll 4
    for (int k = 0; k < KP; k += 16) {
        multiply<COLUMNS>(n, operand_load(ks + m0 * LD + k, LD), ks + k, LD);
        if (with_q)
            multiply<COLUMNS>(s, operand_load(qs + m0 * LD + k, LD), ks + k, LD);
    }
    __syncthreads();
    float *ns = reinterpret_cast<float *>(shared), *ss = ns + C * LD_C, *ts = ss + C * LD_C;
    float *gates = reinterpret_cast<float *>(shared + Shape::BYTES) - 3 * C;
#pragma unroll
    for (int t = 0; t < NT; ++t)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
            const int at = (m0 + row_of(e)) * LD_C + column_of(t, e);
            *reinterpret_cast<float2 *>(ns + at) = make_float2(n[t][e], n[t][e + 1]);
            *reinterpret_cast<float2 *>(ss + at) = make_float2(s[t][e], s[t][e + 1]);
        }

    __syncthreads();
    for (int r = 0; r < group; ++r) {
        const int head = k_head * group + r;
        const int64_t tile = tile_of(a, index, head);
        if (threadIdx.x < 32)
            prepare_gates<T, C>(a, chunk, head, gates, a.gates + tile * GATE_ROWS * C,
                                a.bounds ? a.bounds + tile : nullptr, ns, LD_C + 1);
        __syncthreads();
        invert<sizeof(T) == 4, C>(ts, ns, LD_C, gates + 2 * C);
        T *inverse = static_cast<T *>(a.inverse) + tile * C * C;
        T *scores = static_cast<T *>(a.scores) + tile * C * C;
        for (int i = threadIdx.x; i < C * C / PIECE<T>; i += 2 * C) {
            const int row = i / (C / PIECE<T>), column = i % (C / PIECE<T>)*PIECE<T>;
            const float high = gates[row], low = gates[C + row];
            alignas(16) T x[PIECE<T>], y[PIECE<T>];
#pragma unroll
            for (int e = 0; e < PIECE<T>; ++e) {
                const int j = column + e;
                // Masked before exp: above the diagonal the exponent is positive.
                const float gam =
                    row >= j ? gate_exp<T>((high - gates[j]) + (low - gates[C + j])) : 0.0f;
                x[e] = from_float<T>(row >= j ? gam * ts[row * LD_C + j] : 0.0f);
                y[e] = from_float<T>(gam * (a.scale * ss[row * LD_C + j]));
            }
            *reinterpret_cast<uint4 *>(inverse + row * C + column) =
                *reinterpret_cast<const uint4 *>(x);
            if (with_q)
                *reinterpret_cast<uint4 *>(scores + row * C + column) =
                    *reinterpret_cast<const uint4 *>(y);
        }
        __syncthreads();
    }
}

template <typename T, int KP>
cudaError_t launch_prepare_shape(const Arguments &a, cudaStream_t stream) {
    using Shape = PrepareShape<T, CHUNK<T>, KP>;
    const dim3 grid(static_cast<unsigned>(a.max_chunks), static_cast<unsigned>(a.Hk));
    return launch_kernel(prepare_kernel<T, CHUNK<T>, KP>, grid, Shape::THREADS, Shape::BYTES,
                         stream, a);
}

template <typename T>
cudaError_t launch_prepare(const Arguments &a, cudaStream_t stream) {
    return a.K <= 64    ? launch_prepare_shape<T, 64>(a, stream)
           : a.K <= 128 ? launch_prepare_shape<T, 128>(a, stream)
                        : launch_prepare_shape<T, 256>(a, stream);
}

} // namespace gdni
