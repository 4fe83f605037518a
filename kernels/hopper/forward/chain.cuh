// What one warpgroup of the forward chain does; kernel.cuh says how it fits together.
#pragma once

#include "common/ptx.cuh"
#include "common/wgmma.cuh"
#include "hopper/forward/copies.cuh"

namespace gdni {
namespace hopper {

// Rows behind the sequence's last are somebody else's: zeros instead.
template <typename Shape>
__device__ __forceinline__ void clear_tail(uint32_t stage, int warpgroup, int rows) {
    // NOTE: unrolled and with addresses made ahead, it cost the chain 16 bytes of spills.
#pragma unroll 1
    for (int i = rows * 8 + thread_index() % 128; i < CHUNK_TOKENS * 8; i += 128) {
        const uint32_t at = stage + swizzled(i / 8, i % 8);
        store_shared_zeros(at + Shape::K);
        store_shared_zeros(at + Shape::K + TILE);
        store_shared_zeros(at + Shape::V + warpgroup * TILE);
    }
    fence_proxy_async();
    bar_sync(1 + warpgroup, 128);
}

// Where this lane's elements of S^T are in [K][V]; e = 4 j + (0 .. 3) as wgmma has them.
__device__ __forceinline__ int state_offset(int v0, int e) {
    const int lane = threadIdx.x % 32;
    const int k = e / 4 * 8 + lane % 4 * 2 + (e & 1), v = v0 + lane / 4 + (e >> 1 & 1) * 8;
    return k * HEAD_DIM + v;
}

template <int N>
__device__ __forceinline__ void round_to(uint32_t (&to)[N], const float (&x)[2 * N]) {
#pragma unroll
    for (int i = 0; i < N; ++i)
        to[i] = cvt_rn_bf16x2(x[2 * i], x[2 * i + 1]);
}

// A row of the gate table, this lane's columns.
__device__ __forceinline__ void gate_row(float2 (&x)[8], uint32_t gates, int row) {
    const uint32_t at = gates + (row * CHUNK_TOKENS + threadIdx.x % 4 * 2) * 4;
#pragma unroll
    for (int j = 0; j < 8; ++j)
        x[j] = load_shared_float2(at + j * 32);
}

// One warpgroup runs the chain.
template <typename Shape>
__device__ __forceinline__ void forward_chain(const Arguments &a, const Work &work,
                                              const ForwardPlace<Shape> &place, float (&s)[64]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    // This lane's address in ldmatrix and stmatrix of [token][V] and of [V][K] tiles.
    const uint32_t columns = swizzled(lane % 8 + lane / 16 * 8, warp * 2 + lane / 8 % 2);
    const uint32_t rows = (warp * 16 + lane % 16) * 128;
    const uint32_t buffers = place.store();
    const float scale = a.scale;
    const int count = work.count;
    float u[32], d[32], o[32];
    uint32_t state[32], r[16], delta[16], left[16];
#pragma unroll
    for (int i = 0; i < 32; ++i)
        o[i] = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; ++i)
        delta[i] = 0;

    const auto announce = [&](int buffer) {
        fence_proxy_async();
        __syncwarp();
        mbarrier_arrive_if(place.ready(buffer), lane == 0);
    };
    // A transposed tile of [token][V].
    const auto store_columns = [&](uint32_t to, const uint32_t(&x)[16]) {
#pragma unroll
        for (int j = 0; j < 4; ++j)
            stmatrix_x4_trans(to + columns + j * 2048, x + 4 * j);
    };
    const auto scale_output = [&](uint32_t gates) {
        float2 e[8];
        gate_row(e, gates, GATE_EXP);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            e[j].x *= scale, e[j].y *= scale;
            o[4 * j] *= e[j].x, o[4 * j + 1] *= e[j].y;
            o[4 * j + 2] *= e[j].x, o[4 * j + 3] *= e[j].y;
        }
        pin(o);
    };
    const auto add_scores = [&](uint32_t stage) { // O += P D
        const uint64_t p = wgmma_descriptor(stage + Shape::SCORES);
        wgmma_fence();
#pragma unroll
        for (int t = 0; t < 4; ++t)
            wgmma_m64n64k16<MAJOR_K>(o, delta + 4 * t, p + descriptor_step(32 * t), true);
        wgmma_commit_group();
    };
    const auto store_output = [&](const uint32_t(&x)[16], int i) {
        const int buffer = i & 1;
        mbarrier_wait(place.free(buffer), (i >> 1 & 1) ^ 1);
        store_columns(buffers + buffer * TILE, x);
    };

    Turn<Shape::STAGES> turn;
    int before = 0; // the stage of the chunk before
    if (count > 0)
        mbarrier_wait(place.full(0), 0);
    for (int i = 0; i < count; ++i) {
        // NOTE: through a shuffle, so that descriptors are in uniform registers.
        const uint32_t stage = __shfl_sync(0xffffffffu, place.stage(turn.stage), 0);
        const uint32_t stage_before = __shfl_sync(0xffffffffu, place.stage(before), 0);
        const uint32_t gates = place.gates(turn.stage), gates_before = place.gates(before);
        const uint64_t k = wgmma_descriptor(stage + Shape::K);
        const uint64_t q = wgmma_descriptor(stage + Shape::Q);
        const uint64_t inverse = wgmma_descriptor(stage + Shape::INVERSE);
        const float decay = load_shared_float(gates + (GATE_EXP * CHUNK_TOKENS + 63) * 4);
        wgmma_wait_group<0>();
        pin(s);
        pin(o);
        if (i == count - 1 && work.tail < CHUNK_TOKENS)
            clear_tail<Shape>(stage, place.warpgroup, work.tail);

            // U^T, in two halves: the second is rounded while the first multiplies.
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int j = 16 * h; j < 16 * h + 16; ++j) {
                state[j] = cvt_rn_bf16x2(s[2 * j], s[2 * j + 1]);
                asm volatile("" : "+r"(state[j])::"memory");
            }
            wgmma_fence();
#pragma unroll
            for (int t = 0; t < 4; ++t)
                wgmma_m64n64k16<MAJOR_K>(u, state + 16 * h + 4 * t,
                                         k + descriptor_step(TILE * h + 32 * t), h + t > 0);
        }
        wgmma_commit_group();
#pragma unroll
        for (int e = 0; e < 64; ++e)
            s[e] *= decay;
        pin(s);
        if (Shape::OUTPUT) {
            scale_output(gates_before);
            add_scores(stage_before);
        }
        if (Shape::KEEP) {
            mbarrier_wait(place.free(BUFFER_S), (i & 1) ^ 1);
#pragma unroll
            for (int t = 0; t < 8; ++t)
                stmatrix_x4(buffers + Shape::STORE_S + t / 4 * TILE + rows +
                                ((t % 4 * 2 + lane / 16 ^ (lane & 7)) << 4),
                            state + 4 * t);
            announce(BUFFER_S);
        }

        // R^T
        float v[32];
        float2 e[8];
        {
            uint32_t x[16];
            const uint32_t at = gates + lane % 4 * 8;
#pragma unroll
            for (int j = 0; j < 4; ++j)
                ldmatrix_x4_trans(reinterpret_cast<uint32_t(&)[4]>(x[4 * j]),
                                  stage + Shape::V + place.warpgroup * TILE + columns + j * 2048);
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const float2 beta = load_shared_float2(at + GATE_BETA * CHUNK_TOKENS * 4 + 32 * j);
                e[j] = load_shared_float2(at + GATE_EXP * CHUNK_TOKENS * 4 + 32 * j);
                v[4 * j] = beta.x * low_bf16(x[2 * j]);
                v[4 * j + 1] = beta.y * high_bf16(x[2 * j]);
                v[4 * j + 2] = beta.x * low_bf16(x[2 * j + 1]);
                v[4 * j + 3] = beta.y * high_bf16(x[2 * j + 1]);
                e[j].x *= -beta.x, e[j].y *= -beta.y;
            }
        }
        pin(v);
        wgmma_wait_group<Shape::OUTPUT>();
        pin(u);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            r[2 * j] = cvt_rn_bf16x2(fmaf(e[j].x, u[4 * j], v[4 * j]),
                                     fmaf(e[j].y, u[4 * j + 1], v[4 * j + 1]));
            r[2 * j + 1] = cvt_rn_bf16x2(fmaf(e[j].x, u[4 * j + 2], v[4 * j + 2]),
                                         fmaf(e[j].y, u[4 * j + 3], v[4 * j + 3]));
        }
        pin(r);

        // D^T
        wgmma_fence();
#pragma unroll
        for (int t = 0; t < 4; ++t)
            wgmma_m64n64k16<MAJOR_K>(d, r + 4 * t, inverse + descriptor_step(32 * t), t > 0);
        wgmma_commit_group();
        uint32_t output[16];
        if (Shape::OUTPUT) {
            wgmma_wait_group<1>(); // P D of the chunk before
            pin(o);
            round_to(output, o);
            pin(output);
        }
        __syncwarp();
        mbarrier_arrive_if(place.empty(before), lane == 0 && i > 0);
        if (Shape::OUTPUT) {
            wgmma_fence();
#pragma unroll
            for (int t = 0; t < 8; ++t)
                wgmma_m64n64k16<MAJOR_K>(o, state + 4 * t,
                                         q + descriptor_step(TILE * (t / 4) + 32 * (t % 4)), t > 0);
            wgmma_commit_group();
        }
        gate_row(e, gates, GATE_EXP_LEFT);
        // NOTE: written here, announced after the next product: there the fence finds it done.
        if (Shape::OUTPUT)
            store_output(output, i);
        wgmma_wait_group<Shape::OUTPUT>();
        pin(d);

        // S'^T
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            left[2 * j] = cvt_rn_bf16x2(d[4 * j] * e[j].x, d[4 * j + 1] * e[j].y);
            left[2 * j + 1] = cvt_rn_bf16x2(d[4 * j + 2] * e[j].x, d[4 * j + 3] * e[j].y);
        }
        pin(left);
        wgmma_fence();
#pragma unroll
        for (int t = 0; t < 4; ++t)
            wgmma_m64n128k16<MAJOR_MN>(s, left + 4 * t, k + descriptor_step(2048 * t), true);
        wgmma_commit_group();
        if (Shape::OUTPUT || Shape::KEEP) {
            round_to(delta, d);
            pin(delta);
        }
        if (Shape::KEEP) {
            mbarrier_wait(place.free(BUFFER_D), (i & 1) ^ 1);
            store_columns(buffers + Shape::STORE_D, delta);
            announce(BUFFER_D);
        }
        if (Shape::OUTPUT)
            announce(i & 1);
        before = turn.stage;
        turn.next();
        if (i + 1 < count)
            mbarrier_wait(place.full(turn.stage), turn.parity);
        // NOTE: nothing may be under way over the back edge, or ptxas serialises the products.
        wgmma_wait_group<0>();
        pin(s);
        pin(o);
    }
    if (Shape::OUTPUT && count > 0) {
        scale_output(place.gates(before));
        add_scores(place.stage(before));
        wgmma_wait_group<0>();
        pin(o);
        uint32_t output[16];
        round_to(output, o);
        store_output(output, count);
        announce(count & 1);
    }
}

} // namespace hopper
} // namespace gdni
