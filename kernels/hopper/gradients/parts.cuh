// What both consumer warpgroups are made of: where a thread finds its elements, products, sums.
#pragma once

#include "hopper/gradients/config.cuh"

namespace gdni {
namespace hopper {

using namespace gradients;

constexpr float LOG2E = 1.4426950408889634f;

// What a thread of a consumer warpgroup needs to find its elements. NOTE: made anew for every head:
// kept over the loop, these and what follows from them cost spills.
struct GradientsLane {
    int lane, row;         // row: of accumulators 0 and 1; 2 and 3 are eight below
    uint32_t rows, pieces; // of its rows for ldmatrix, stmatrix: bytes, and the swizzle
    uint32_t turned;       // the same in a tile that is to be transposed

    __device__ GradientsLane() {
        const int thread = thread_index(), warp = thread % 128 / 32;
        lane = thread % 32;
        row = 16 * warp + lane / 4;
        rows = (16 * warp + (lane & 15)) * 128;
        pieces = lane & 7;
        turned = (8 * (lane >> 4 & 1) + (lane & 7)) * 128 +
                 (((2 * warp + (lane >> 3 & 1)) ^ (lane & 7)) << 4);
    }
    // Columns 8 block .. 8 block + 15 of this warp's rows.
    __device__ uint32_t at(int block) const {
        return rows + (((block + (lane >> 4)) ^ pieces) << 4);
    }
};

// Sums of columns over a warp's 16 rows, from blocks of eight columns in the order of block(): lane
// l ends with columns 2 l, 2 l + 1. Partial sums are folded as soon as their partner is there.
struct ColumnSums {
    float held[3][2], sum[2];

    static __device__ int block(int step) {
        return (step & 1) * 4 + (step & 2) + (step >> 2);
    }
    // x: this lane's sums of columns 2 (l % 4), + 1 of block(step); `step` is known to the
    // compiler.
    __device__ void add(int step, float (&x)[2], int lane) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            sum[i] = x[i];
#pragma unroll
            for (int level = 0; level < 3; ++level) {
                if (!(step >> level & 1)) {
                    held[level][i] = sum[i];
                    break;
                }
                const int apart = 16 >> level;
                const float sent = lane & apart ? held[level][i] : sum[i];
                const float kept = lane & apart ? sum[i] : held[level][i];
                sum[i] = kept + __shfl_xor_sync(~0u, sent, apart);
            }
        }
    }
};

__device__ __forceinline__ float sum_quad(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

// sum += diag(f) x, and the row sums of x o y, y [64][128] in shared memory.
__device__ __forceinline__ void take_rows(float (&sum)[64], const float (&x)[64],
                                          const float (&f)[2], uint32_t y, const GradientsLane &at,
                                          float (&dot)[2]) {
    dot[0] = dot[1] = 0.0f;
#pragma unroll
    for (int t = 0; t < 8; ++t) {
        uint32_t pairs[4];
        ldmatrix_x4(pairs, y + t / 4 * SQUARE + at.at(2 * (t & 3)));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int e = 8 * t + 2 * i;
            dot[i & 1] = fmaf(low_bf16(pairs[i]), x[e], dot[i & 1]);
            dot[i & 1] = fmaf(high_bf16(pairs[i]), x[e + 1], dot[i & 1]);
            sum[e] = fmaf(f[i & 1], x[e], sum[e]);
            sum[e + 1] = fmaf(f[i & 1], x[e + 1], sum[e + 1]);
        }
    }
    pin(sum);
    dot[0] = sum_quad(dot[0]);
    dot[1] = sum_quad(dot[1]);
}

// x = a b^T, [64][64], both [64][128].
__device__ __forceinline__ void product_square(float (&x)[32], uint64_t a, uint64_t b) {
#pragma unroll
    for (int t = 0; t < 8; ++t) {
        const uint64_t step = t / 4 * (SQUARE / 16) + 2 * (t & 3);
        wgmma_m64n64k16<MAJOR_K, MAJOR_K>(x, a + step, b + step, t > 0);
    }
}

// x = a b, [64][128], a [64][V], b [V][K].
__device__ __forceinline__ void product_rows(float (&x)[64], uint64_t a, uint64_t b) {
#pragma unroll
    for (int t = 0; t < 8; ++t)
        wgmma_m64n128k16<MAJOR_K, MAJOR_MN>(x, a + t / 4 * (SQUARE / 16) + 2 * (t & 3),
                                            b + t / 4 * (ROWS / 16) + 128 * (t & 3), t > 0);
}

// x = sum of the diagonal blocks of S dS'^T, whose trace is <S, dS'>.
__device__ __forceinline__ void product_states(float (&x)[32], uint64_t s, uint64_t ds) {
#pragma unroll
    for (int t = 0; t < 16; ++t) {
        const uint64_t step = t / 4 * (SQUARE / 16) + 128 * (t & 3);
        wgmma_m64n64k16<MAJOR_MN, MAJOR_MN>(x, s + step, ds + step, t > 0);
    }
}

// The elements of the diagonal that this thread may hold, of its row and of the one eight below;
// valid where owns_diagonal().
__device__ __forceinline__ void diagonal(const float (&x)[32], const GradientsLane &at,
                                         float (&d)[2]) {
    const bool odd = at.lane >> 2 & 1;
    d[0] = d[1] = 0.0f;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        // NOTE: both elements by value: a choice of addresses would put x into local memory.
        const float x0 = x[4 * j], x1 = x[4 * j + 1], x2 = x[4 * j + 2], x3 = x[4 * j + 3];
        const float upper = odd ? x1 : x0, lower = odd ? x3 : x2;
        d[0] = j == at.row / 8 ? upper : d[0];
        d[1] = j == at.row / 8 + 1 ? lower : d[1];
    }
}
__device__ __forceinline__ bool owns_diagonal(const GradientsLane &at) {
    return at.lane >> 3 == (at.lane & 3);
}

// y of a row.
__device__ __forceinline__ float row_factor(uint32_t gates, int row) {
    const float beta = load_shared_float(gates + 4 * (GATE_BETA * 64 + row));
    return beta < TINY_BETA ? beta : 1.0f;
}

// exp(c_i - c_j) for this thread's elements of column block j; not masked.
struct GradientsDecay {
    float high[2], low[2];
    uint32_t table;
    __device__ GradientsDecay(uint32_t gates, const GradientsLane &at)
        : table(gates + 4 * (GATE_SUM * 64 + 2 * (at.lane & 3))) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            high[i] = load_shared_float(gates + 4 * (GATE_SUM * 64 + at.row + 8 * i));
            low[i] = load_shared_float(gates + 4 * (GATE_SUM_LOW * 64 + at.row + 8 * i));
        }
    }
    __device__ void block(int j, float (&e)[4]) const {
        const float2 h = load_shared_float2(table + 32 * j);
        const float2 l = load_shared_float2(table + 4 * 64 + 32 * j);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            e[i] = ex2_approx(
                ((high[i >> 1] - (i & 1 ? h.y : h.x)) + (low[i >> 1] - (i & 1 ? l.y : l.x))) *
                LOG2E);
    }
};

// dq or dk: to the stage's tile at `to` for the storing warp, or in fp32 to memory.
__device__ __forceinline__ void gradients_output(const float (&x)[64], const Arguments &a,
                                                 float *to32, int group, uint32_t to,
                                                 const GradientsLane &at) {
    if (to32) {
        const Chunk chunk = a.chunks[group / a.Hk];
        float *y = to32 + ((chunk.token + at.row) * a.Hk + group % a.Hk) * 128 + 2 * (at.lane & 3);
#pragma unroll
        for (int e = 0; e < 64; e += 2)
            if (at.row + (e & 2) * 4 < chunk.rows)
                *reinterpret_cast<float2 *>(y + (e & 2) * 4 * a.Hk * 128 + e / 4 * 8) =
                    make_float2(x[e], x[e + 1]);
    } else {
#pragma unroll
        for (int t = 0; t < 8; ++t) {
            uint32_t pairs[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                pairs[i] = cvt_rn_bf16x2(x[8 * t + 2 * i], x[8 * t + 2 * i + 1]);
            stmatrix_x4(to + t / 4 * SQUARE + at.at(2 * (t & 3)), pairs);
        }
    }
    fence_proxy_async(); // also of W before the next copy into its place
}

} // namespace hopper
} // namespace gdni
