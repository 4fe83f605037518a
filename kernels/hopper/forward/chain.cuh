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

// What one warpgroup does for a chunk. The chain is cut where nothing is under way: after R^T.
template <typename Shape>
struct ForwardChain {
    const ForwardPlace<Shape> &place;
    float scale;
    int lane, warp;
    float (&s)[64];             // S^T
    float u[32], o[32];         // U^T, then D^T; O^T
    uint32_t low[16], high[16]; // S^T in bf16, columns 0 .. 63 and 64 .. 127
    uint32_t r[16], delta[16], output[16];
    float2 e[8]; // a row of the gate table

    __device__ ForwardChain(const ForwardPlace<Shape> &place, float scale, float (&s)[64])
        : place(place), scale(scale), lane(threadIdx.x % 32), warp(threadIdx.x / 32 % 4), s(s) {}

    // This lane's address in ldmatrix and stmatrix of a [token][V] tile.
    __device__ uint32_t columns() const {
        return swizzled(lane % 8 + lane / 16 * 8, warp * 2 + lane / 8 % 2);
    }
    __device__ void announce(int buffer, bool condition = true) const {
        fence_proxy_async();
        __syncwarp();
        mbarrier_arrive_if(place.ready(buffer), lane == 0 && condition);
    }
    // A transposed tile of [token][V].
    __device__ void store_columns(uint32_t to, const uint32_t (&x)[16]) const {
#pragma unroll
        for (int j = 0; j < 4; ++j)
            stmatrix_x4_trans(to + columns() + j * 2048, x + 4 * j);
    }
    __device__ void store_output(int i) const {
        const int buffer = i & 1;
        mbarrier_wait(place.free(buffer), (i >> 1 & 1) ^ 1);
        store_columns(place.store() + buffer * TILE, output);
    }
    // The state of chunk i, a [V][K] tile.
    __device__ void store_state(int i, bool condition) const {
        const uint32_t rows = place.store() + Shape::STORE_S + (warp * 16 + lane % 16) * 128;
        mbarrier_wait(place.free(BUFFER_S), (i & 1) ^ 1);
#pragma unroll
        for (int t = 0; t < 4; ++t) {
            const uint32_t piece = (t * 2 + lane / 16 ^ (lane & 7)) << 4;
            stmatrix_x4(rows + piece, low + 4 * t);
            stmatrix_x4(rows + TILE + piece, high + 4 * t);
        }
        announce(BUFFER_S, condition);
    }

    // U^T = S^T K^T, in two groups: the second half of S^T is rounded while the first multiplies,
    // and S^T Q^T, which reads the second half, ends.
    __device__ void multiply_k(uint64_t k) {
#pragma unroll
        for (int j = 0; j < 16; ++j)
            low[j] = cvt_rn_bf16x2(s[2 * j], s[2 * j + 1]);
        pin(low);
        wgmma_fence();
#pragma unroll
        for (int t = 0; t < 4; ++t)
            wgmma_m64n64k16<MAJOR_K>(u, low + 4 * t, k + descriptor_step(32 * t), t > 0);
        wgmma_commit_group();
        wgmma_wait_group<1>();
        pin(o);
#pragma unroll
        for (int j = 0; j < 16; ++j)
            high[j] = cvt_rn_bf16x2(s[32 + 2 * j], s[33 + 2 * j]);
        pin(high);
        wgmma_fence();
#pragma unroll
        for (int t = 0; t < 4; ++t)
            wgmma_m64n64k16<MAJOR_K>(u, high + 4 * t, k + descriptor_step(TILE + 32 * t), true);
        wgmma_commit_group();
    }

    // V^T diag(beta) and, in e, -beta e^c.
    __device__ void load_v(float (&v)[32], uint32_t stage, uint32_t gates) {
        uint32_t x[16];
        const uint32_t at = gates + lane % 4 * 8;
#pragma unroll
        for (int j = 0; j < 4; ++j)
            ldmatrix_x4_trans(reinterpret_cast<uint32_t(&)[4]>(x[4 * j]),
                              stage + Shape::V + place.warpgroup * TILE + columns() + j * 2048);
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
        pin(v);
    }

    // R^T, once U^T is there.
    __device__ void form_r(const float (&v)[32]) {
        pin(u);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            r[2 * j] = cvt_rn_bf16x2(fmaf(e[j].x, u[4 * j], v[4 * j]),
                                     fmaf(e[j].y, u[4 * j + 1], v[4 * j + 1]));
            r[2 * j + 1] = cvt_rn_bf16x2(fmaf(e[j].x, u[4 * j + 2], v[4 * j + 2]),
                                         fmaf(e[j].y, u[4 * j + 3], v[4 * j + 3]));
        }
        pin(r);
    }

    __device__ void scale_state(float decay) {
#pragma unroll
        for (int j = 0; j < 64; ++j)
            s[j] *= decay;
        pin(s);
    }

    __device__ void scale_output(uint32_t gates) {
        gate_row(e, gates, GATE_EXP);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            e[j].x *= scale, e[j].y *= scale;
            o[4 * j] *= e[j].x, o[4 * j + 1] *= e[j].y;
            o[4 * j + 2] *= e[j].x, o[4 * j + 3] *= e[j].y;
        }
        pin(o);
    }

    // O^T = S^T Q^T, one half of it: 64 columns of K.
    __device__ void multiply_q(const uint32_t (&state)[16], uint64_t q, bool first) {
        wgmma_fence();
#pragma unroll
        for (int t = 0; t < 4; ++t)
            wgmma_m64n64k16<MAJOR_K>(o, state + 4 * t, q + descriptor_step(32 * t),
                                     !first || t > 0);
        wgmma_commit_group();
    }

    // u, o or s += x times a tile of shared memory.
    __device__ void multiply_inverse(uint64_t inverse) { // D^T
        wgmma_fence();
#pragma unroll
        for (int t = 0; t < 4; ++t)
            wgmma_m64n64k16<MAJOR_K>(u, r + 4 * t, inverse + descriptor_step(32 * t), t > 0);
        wgmma_commit_group();
    }
    __device__ void multiply_scores(uint64_t scores) { // O^T += D^T P^T
        wgmma_fence();
#pragma unroll
        for (int t = 0; t < 4; ++t)
            wgmma_m64n64k16<MAJOR_K>(o, delta + 4 * t, scores + descriptor_step(32 * t), true);
        wgmma_commit_group();
    }
    __device__ void update_state(uint64_t k) { // S^T += (D^T diag(e^{c_C - c})) K
        uint32_t left[16];
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            left[2 * j] = cvt_rn_bf16x2(u[4 * j] * e[j].x, u[4 * j + 1] * e[j].y);
            left[2 * j + 1] = cvt_rn_bf16x2(u[4 * j + 2] * e[j].x, u[4 * j + 3] * e[j].y);
        }
        pin(left);
        wgmma_fence();
#pragma unroll
        for (int t = 0; t < 4; ++t)
            wgmma_m64n128k16<MAJOR_MN>(s, left + 4 * t, k + descriptor_step(2048 * t), true);
        wgmma_commit_group();
    }
};

__device__ __forceinline__ float chunk_decay(uint32_t gates) {
    return load_shared_float(gates + (GATE_EXP * CHUNK_TOKENS + 63) * 4);
}

// One warpgroup runs the chain.
template <typename Shape>
__device__ __forceinline__ void forward_chain(const Arguments &a, const Work &work,
                                              const ForwardPlace<Shape> &place, float (&s)[64]) {
    const int count = work.count;
    if (count <= 0)
        return;
    ForwardChain<Shape> c(place, a.scale, s);
    float v[32];
    // NOTE: through a shuffle, so that descriptors are in uniform registers.
    const auto uniform = [](uint32_t x) { return __shfl_sync(0xffffffffu, x, 0); };
#pragma unroll
    for (int i = 0; i < 32; ++i)
        c.o[i] = 0.0f;

    // The first chunk up to R^T.
    mbarrier_wait(place.full(0), 0);
    if (count == 1 && work.tail < CHUNK_TOKENS)
        clear_tail<Shape>(place.stage(0), place.warpgroup, work.tail);
    c.multiply_k(wgmma_descriptor(uniform(place.stage(0)) + Shape::K));
    c.scale_state(chunk_decay(place.gates(0)));
    if (Shape::KEEP)
        c.store_state(0, true);
    c.load_v(v, place.stage(0), place.gates(0));
    wgmma_wait_group<0>();
    c.form_r(v);

    Turn<Shape::STAGES> turn;
    for (int i = 0; i < count; ++i) {
        const bool last = i + 1 == count;
        const uint32_t stage = uniform(place.stage(turn.stage)), gates = place.gates(turn.stage);
        Turn<Shape::STAGES> next = turn;
        next.next();
        // After the last chunk comes the same once more, for nothing.
        const int after = last ? turn.stage : next.stage;
        const uint32_t stage_after = uniform(place.stage(after)), gates_after = place.gates(after);
        const uint64_t k = wgmma_descriptor(stage + Shape::K);
        const uint64_t q = wgmma_descriptor(stage + Shape::Q);
        if (i + 2 == count && work.tail < CHUNK_TOKENS) {
            mbarrier_wait(place.full(next.stage), next.parity);
            clear_tail<Shape>(stage_after, place.warpgroup, work.tail);
        }

        c.multiply_inverse(wgmma_descriptor(stage + Shape::INVERSE));
        if (Shape::OUTPUT) {
            round_to(c.output, c.o);
            pin(c.output);
        }
        if (Shape::OUTPUT)
            c.multiply_q(c.low, q, true);
        gate_row(c.e, gates, GATE_EXP_LEFT);
        // NOTE: written here, announced after the next product: there the fence finds it done.
        if (Shape::OUTPUT)
            c.store_output(i);
        wgmma_wait_group<Shape::OUTPUT>();
        pin(c.u);

        c.update_state(k);
        if (Shape::OUTPUT)
            c.multiply_q(c.high, q + descriptor_step(TILE), false);
        if (Shape::OUTPUT || Shape::KEEP) {
            round_to(c.delta, c.u);
            pin(c.delta);
        }
        if (Shape::KEEP) {
            mbarrier_wait(place.free(BUFFER_D), (i & 1) ^ 1);
            c.store_columns(place.store() + Shape::STORE_D, c.delta);
            c.announce(BUFFER_D);
        }
        if (Shape::OUTPUT)
            c.announce(i & 1);
        mbarrier_wait(place.full(after), last ? turn.parity : next.parity);
        const float decay = last ? 1.0f : chunk_decay(gates_after);
        wgmma_wait_group<Shape::OUTPUT>();
        pin(s);

        c.multiply_k(wgmma_descriptor(stage_after + Shape::K));
        c.scale_state(decay);
        if (Shape::OUTPUT) {
            c.scale_output(gates);
            c.multiply_scores(wgmma_descriptor(stage + Shape::SCORES));
        }
        if (Shape::KEEP)
            c.store_state(i + 1, !last);
        c.load_v(v, stage_after, gates_after);
        wgmma_wait_group<Shape::OUTPUT>();
        c.form_r(v);
        // NOTE: nothing may be under way over the back edge, or ptxas serialises the products.
        wgmma_wait_group<0>();
        pin(s);
        pin(c.o);
        // Before the next turn waits for a chunk that may go into this stage.
        mbarrier_arrive_if(place.empty(turn.stage), !last);
        turn = next;
    }
    if (Shape::OUTPUT) {
        round_to(c.output, c.o);
        c.store_output(count);
        c.announce(count & 1);
    }
}

} // namespace hopper
} // namespace gdni
