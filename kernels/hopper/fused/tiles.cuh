// What the tiles' warpgroup of the fused forward does: Gam o T and P of every second chunk. Warp w
// has rows 16 w .. 16 w + 15 of N = K K^T and M = K Q^T in its registers, makes block column w of
// P, and of T, the inverse of I + L, L = strictLower(diag(beta) N), in 16x16 blocks:
//
//     T_ww                           all warps, in fp32
//     T_10 = -T_11 L_10 T_00         warp 1         T_32 alike, warp 3
//     W_IJ = -sum_K L_IK T_KJ        warp I         I = 2, 3    J, K = 0, 1
//     T_IJ =  sum_K T_IK W_KJ        warp 2 I + J - 4           K = 2, 3
//
// Products are transposed, as those of ../prepare, so that accumulators become left factors; what
// another warp needs goes through shared memory as a factor, lane by lane. In fp16, which has
// TF32's digits: each product waits for what the chain has under way on the tensor cores, and these
// are few. An element of T beyond 65504 would overflow; long before that, a state that bf16 chunks
// carry has no digits left.
#pragma once

#include "common/cluster.cuh"
#include "hopper/fused/place.cuh"
#include "hopper/prepare/kernel.cuh"

namespace gdni {
namespace hopper {

// A 16x16 block in fp16, as both factors of mma m16n8k16: a left one, or, transposed, a right one.
struct BlockHalf {
    uint32_t x[4];
};

__device__ __forceinline__ BlockHalf to_half(const Block &a) {
    BlockHalf b;
#pragma unroll
    for (int i = 0; i < 4; ++i)
        b.x[i] = cvt_rn_f16x2(a.x[2 * i], a.x[2 * i + 1]);
    return b;
}
__device__ __forceinline__ BlockHalf transpose(const BlockHalf &a) {
    return {{movmatrix_trans(a.x[0]), movmatrix_trans(a.x[2]), movmatrix_trans(a.x[1]),
             movmatrix_trans(a.x[3])}};
}

// c += a b, given a and b^T.
__device__ __forceinline__ void multiply_add(Block &c, const BlockHalf &a, const BlockHalf &bt) {
#pragma unroll
    for (int n = 0; n < 2; ++n)
        mma_m16n8k16(reinterpret_cast<float(&)[4]>(c.x[4 * n]), a.x, bt.x[n], bt.x[n + 2],
                     __half());
}

// Factors in shared memory: T_KJ^T, T_IK, W_KJ^T.
enum Factor {
    LEFT_00,
    LEFT_11,
    LEFT_22,
    LEFT_10,
    RIGHT_22,
    RIGHT_32,
    RIGHT_33,
    PRODUCT_20,
    PRODUCT_21,
    PRODUCT_30,
    PRODUCT_31,
    FACTORS
};
static_assert(FACTORS == FusedShape::FACTORS, "");

__device__ __forceinline__ void store_factor(uint32_t factors, int lane, int index,
                                             const BlockHalf &b) {
    store_shared_uint4(factors + index * 512 + lane * 16, {b.x[0], b.x[1], b.x[2], b.x[3]});
}
__device__ __forceinline__ BlockHalf load_factor(uint32_t factors, int lane, int index) {
    const uint4 x = load_shared_uint4(factors + index * 512 + lane * 16);
    return {{x.x, x.y, x.z, x.w}};
}

__device__ __forceinline__ uint32_t to_tf32(float x) {
    return __float_as_uint(x) + 0x1000;
}

// The inverse of I + strictLower(diag(beta) n), n and the result in rows of LD_BLOCK floats in the
// same place: blocks of eight by substitution, lane l column l % 8 of block l / 8 % 2, and
//
//     X^T = (D_1^T (-diag(beta) N_21)^T) D_2^T
//
// by the tensor cores, transposed as the products of 16x16 blocks are.
__device__ __forceinline__ void invert_block(int lane, float *block, const float *beta) {
    constexpr int LD = FusedShape::LD_BLOCK;
    {
        const int column = lane % 8, half = lane / 8 % 2;
        float *rows = block + half * 8 * (LD + 1);
        float x[8] = {}; // sums, then the solution
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            x[i] = (i == column ? 1.0f : 0.0f) - beta[8 * half + i] * x[i];
#pragma unroll
            for (int k = (i + 1) / 4 * 4; k < 8; k += 4) {
                const float4 y = *reinterpret_cast<const float4 *>(rows + i * LD + k);
                if (k > i)
                    x[k] = fmaf(y.x, x[i], x[k]);
                if (k + 1 > i)
                    x[k + 1] = fmaf(y.y, x[i], x[k + 1]);
                if (k + 2 > i)
                    x[k + 2] = fmaf(y.z, x[i], x[k + 2]);
                x[k + 3] = fmaf(y.w, x[i], x[k + 3]);
            }
        }
        __syncwarp();
        if (lane < 16)
#pragma unroll
            for (int i = 0; i < 8; ++i)
                rows[i * LD + column] = x[i];
    }
    __syncwarp();
    const int row = lane / 4, pair = lane % 4 * 2;
    const float factor = -beta[8 + row];
    const float2 n21 = *reinterpret_cast<const float2 *>(block + (8 + row) * LD + pair);
    const float2 d2 = *reinterpret_cast<const float2 *>(block + (8 + row) * LD + 8 + pair);
    const uint32_t d1[4] = {to_tf32(block[pair * LD + row]), 0,
                            to_tf32(block[(pair + 1) * LD + row]), 0};
    const uint32_t l21[2] = {to_tf32(factor * n21.x), to_tf32(factor * n21.y)};
    float y[4] = {}, x[4] = {};
    mma_m16n8k8_tf32(y, d1, l21);
    const uint32_t left[4] = {to_tf32(y[0]), 0, to_tf32(y[1]), 0};
    const uint32_t right[2] = {to_tf32(d2.x), to_tf32(d2.y)};
    mma_m16n8k8_tf32(x, left, right);
    __syncwarp();
    block[(8 + pair) * LD + row] = x[0];
    block[(9 + pair) * LD + row] = x[1];
    *reinterpret_cast<float2 *>(block + row * LD + 8 + pair) = make_float2(0.0f, 0.0f);
    __syncwarp();
}

// Block `index` of a row of accumulators.
__device__ __forceinline__ Block accumulator_block(const float (&x)[32], int index) {
    Block b;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        b.x[i] = x[i];
#pragma unroll
        for (int j = 1; j < 4; ++j)
            b.x[i] = index == j ? x[8 * j + i] : b.x[i];
    }
    return b;
}

// The blocks of T that a warp makes, transposed.
struct InverseBlocks {
    Block own;  // T_ww
    Block near; // T_10 or T_32, warps 1 and 3
    Block far;  // T_IJ, I = far_block_row(w), J = w % 2
};

__device__ __forceinline__ int far_block_row(int warp) {
    return 2 + warp / 2;
}

// From this warp's rows of N and its 16 of beta; block: where it inverts its diagonal block.
__device__ __forceinline__ InverseBlocks invert(int warp, int lane, const float (&n)[32],
                                                const float *beta, float *block, uint32_t factors) {
    constexpr int LD = FusedShape::LD_BLOCK;
    InverseBlocks b = {};
    {
        const Block own = accumulator_block(n, warp);
        float *at = block + lane / 4 * LD + lane % 4 * 2;
#pragma unroll
        for (int e = 0; e < 4; ++e)
            *reinterpret_cast<float2 *>(at + (e & 1) * 8 * LD + (e >> 1) * 8) =
                make_float2(own.x[2 * e], own.x[2 * e + 1]);
    }
    __syncwarp();
    invert_block(lane, block, beta);
    const BlockHalf diagonal = to_half(load_block(lane, block, LD));
    b.own = load_block_transposed(lane, block, LD);
    if (warp < 3)
        store_factor(factors, lane, LEFT_00 + warp, to_half(b.own));
    if (warp >= 2)
        store_factor(factors, lane, warp == 2 ? RIGHT_22 : RIGHT_33, diagonal);
    const float low = -beta[lane / 4], high = -beta[lane / 4 + 8];
    const auto row_of_l = [&](Block l) { // -L_IK from N_IK, I = warp
#pragma unroll
        for (int e = 0; e < 8; ++e)
            l.x[e] *= e & 2 ? high : low;
        return to_half(l);
    };
    bar_sync(1 + warp / 2, 64);
    if (warp % 2 == 1) {
        Block w = {};
        multiply_add(w, load_factor(factors, lane, warp == 1 ? LEFT_00 : LEFT_22),
                     row_of_l(accumulator_block(n, warp - 1)));
        multiply_add(b.near, to_half(w), diagonal);
        if (warp == 1)
            store_factor(factors, lane, LEFT_10, to_half(b.near));
        else
            store_factor(factors, lane, RIGHT_32, transpose(to_half(b.near)));
    }
    bar_sync(3, 128);
    if (warp >= 2) {
        const BlockHalf l0 = row_of_l(accumulator_block(n, 0));
        const BlockHalf l1 = row_of_l(accumulator_block(n, 1));
        Block w[2] = {};
        multiply_add(w[0], load_factor(factors, lane, LEFT_00), l0);
        multiply_add(w[1], load_factor(factors, lane, LEFT_11), l1);
        multiply_add(w[0], load_factor(factors, lane, LEFT_10), l1);
        store_factor(factors, lane, PRODUCT_20 + (warp - 2) * 2, to_half(w[0]));
        store_factor(factors, lane, PRODUCT_21 + (warp - 2) * 2, to_half(w[1]));
    }
    bar_sync(4, 128);
    const int far_row = far_block_row(warp), far_column = warp % 2;
    multiply_add(b.far, load_factor(factors, lane, PRODUCT_20 + far_column),
                 load_factor(factors, lane, far_row == 2 ? RIGHT_22 : RIGHT_32));
    if (far_row == 3)
        multiply_add(b.far, load_factor(factors, lane, PRODUCT_30 + far_column),
                     load_factor(factors, lane, RIGHT_33));
    return b;
}

// N and M of a chunk, rows of this warp.
__device__ __forceinline__ void multiply_keys(float (&n)[32], float (&m)[32], uint32_t stage) {
    const uint64_t k = wgmma_descriptor(stage + FusedShape::K);
    const uint64_t q = wgmma_descriptor(stage + FusedShape::Q);
    wgmma_fence();
#pragma unroll
    for (int t = 0; t < 8; ++t) {
        const uint64_t step = descriptor_step(t / 4 * TILE + t % 4 * 32);
        wgmma_m64n64k16<MAJOR_K>(n, k + step, k + step, t > 0);
    }
#pragma unroll
    for (int t = 0; t < 8; ++t) {
        const uint64_t step = descriptor_step(t / 4 * TILE + t % 4 * 32);
        wgmma_m64n64k16<MAJOR_K>(m, k + step, q + step, t > 0);
    }
    wgmma_commit_group();
}

// NOTE: blocks are selected, not branched for: with the chain's, this code should stay in the
// multiprocessor's instruction cache.
__device__ __forceinline__ void fused_tiles(const Arguments &a, const Work &work,
                                            const FusedPlace &place, unsigned char *shared,
                                            int rank) {
    using Shape = FusedShape;
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    float *block = reinterpret_cast<float *>(shared + Shape::BLOCKS_AT + warp * Shape::BLOCK);
    const uint32_t factors = place.base + Shape::FACTORS_AT;
    int turn = 0;
#pragma unroll 1
    for (int i = rank; i < work.count; i += 2, ++turn) {
        const int buffer = turn & 1;
        const float *gates = reinterpret_cast<const float *>(shared + Shape::VECTORS_AT +
                                                             buffer * Shape::GATE_BUFFER);
        float n[32], m[32];
        mbarrier_wait(place.full(i % Shape::STAGES), i / Shape::STAGES & 1);
        multiply_keys(n, m, __shfl_sync(0xffffffffu, place.stage(i % Shape::STAGES), 0));
        mbarrier_wait(place.gates_full(buffer), turn >> 1 & 1);
        wgmma_wait_group<0>();
        pin(n);
        pin(m);

        const InverseBlocks inverse =
            invert(warp, lane, n, gates + PrepareShape::BETA + 16 * warp, block, factors);

        const uint32_t slot = place.slot(i % Shape::SLOTS);
        if (i >= Shape::SLOTS) // of chunk i - 3; here the slot is every other time's
            mbarrier_wait(place.slot_empty(i % Shape::SLOTS),
                          (i - Shape::SLOTS) / (2 * Shape::SLOTS) & 1);
        if (threadIdx.x % 128 < Shape::TABLE_BYTES / 16) {
            const uint32_t from = shared_address(gates) + Shape::VECTORS + threadIdx.x % 128 * 16;
            store_shared_uint4(slot + Shape::TABLE + threadIdx.x % 128 * 16,
                               load_shared_uint4(from));
        }
#pragma unroll
        for (int e = 0; e < 32; ++e)
            m[e] *= a.scale;
        const Block decay = decay_on_diagonal(lane, gates, warp);
        stage_block(lane, slot + Shape::INVERSE, warp, warp, product(decay, inverse.own));
        stage_block(lane, slot + Shape::SCORES, warp, warp,
                    product(decay, accumulator_block(m, warp)));
        const int I = far_block_row(warp), J = warp % 2;
        stage_block(lane, slot + Shape::INVERSE, I, J,
                    product(decay_below_diagonal(lane, gates, I, J), inverse.far));
        if (warp % 2 == 1)
            stage_block(lane, slot + Shape::INVERSE, warp, warp - 1,
                        product(decay_below_diagonal(lane, gates, warp, warp - 1), inverse.near));
#pragma unroll
        for (int row = 1; row < 4; ++row)
            if (row > warp)
                stage_block(lane, slot + Shape::SCORES, row, warp,
                            product(decay_below_diagonal(lane, gates, row, warp),
                                    accumulator_block(m, row)));
        fence_proxy_async();
        bar_sync(5, 128);
        if (lane == 0)
            mbarrier_arrive(place.gates_empty(buffer));
        if (threadIdx.x % 128 == 0) {
            const uint32_t full = place.slot_full(i % Shape::SLOTS);
            mbarrier_arrive(full);
            cp_async_bulk_to_cluster(cluster_address(slot, rank ^ 1), slot, Shape::SENT,
                                     cluster_address(full, rank ^ 1));
        }
    }
}

// One warp makes the gate vectors of those chunks.
__device__ __forceinline__ void fused_gates(const Arguments &a, const Work &work,
                                            const FusedPlace &place, unsigned char *shared,
                                            int rank) {
    using Shape = FusedShape;
    int turn = 0;
#pragma unroll 1
    for (int i = rank; i < work.count; i += 2, ++turn) {
        const int buffer = turn & 1;
        float *gates =
            reinterpret_cast<float *>(shared + Shape::VECTORS_AT + buffer * Shape::GATE_BUFFER);
        const Chunk chunk = {work.token + static_cast<int64_t>(i) * CHUNK_TOKENS,
                             i + 1 < work.count ? CHUNK_TOKENS : work.tail, 0};
        mbarrier_wait(place.gates_empty(buffer), turn >> 1 & 1 ^ 1);
        prepare_gates(a, chunk, work.head, gates, gates + PrepareShape::VECTORS, false);
        mbarrier_arrive(place.gates_full(buffer));
    }
}

} // namespace hopper
} // namespace gdni
