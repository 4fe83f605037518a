// After stage 3 of backward: what dg and dbeta lose where the caller's states are rounded to 16
// bits, added at the first and the last chunk of each sequence. One CTA per (sequence, v-head,
// end).
//
// An element of dg or dbeta is the sum of a few terms, each a sum over K V numbers; rounding S or
// dS' to bf16 leaves each with an error of about 1e-3 of its usual size. Where the terms cancel, or
// one is small by chance, and one token makes up most of a head (strong gates, short sequences),
// nothing averages that out. Inside a sequence that error is one among equals: D and E come from
// bf16 operands too. The caller's initial_state and dht are exact until they are rounded here, and
// there are only two of them: the chains take them in two parts (operand_rest), and with the part
// that the tiles lack, S_ = S - bf16(S) and dS_' likewise,
//
//     first chunk   F_ = E S_^T, r_i = s e^{c_i} <q_i, S_ dO_i> - e^{c_i} beta_i <k_i, F_i>
//                   dbeta_i -= e^{c_i} <k_i, F_i> ;  dg_t += e^{c_C} <S_, dS'> + sum_{i>=t} r_i
//     last chunk    w_j = e^{c_C - c_j} <k_j, dS_' D_j> ;  dg_t += e^{c_C} <S, dS_'> + sum_{j<t} w_j
//
// Relative L2 error per head against float64, all roundings emulated
// (tests/bench/bf16_roundings.py); 240 heads of 130 tokens with A from 0.001 to 16, 600 of one
// token:
//
//                              dg, 130 tokens     dg, one token      dbeta, one token
//                              median   95%       median   95%       over 5e-3
//     all states rounded       2.6e-3   7.1e-3    2.4e-3   2.6e-2    30%
//     the caller's in two      2.2e-3   6.7e-3    6.8e-5   9.4e-4    18%
//     every state in two       1.9e-3   4.7e-3    the same           18%
//
// Two parts of every state would double what backward moves, and the error of D and E stays. Named
// cases on an H100, without and with: beta_edges dg 4.3e-2 and 7.6e-3 (w of one token is 0.08 of
// its usual size), one_token dbeta 6.5e-3 and 3.7e-3 (rounding dS' in K dS' is 5.5e-3 by itself).
// Time of backward, H100, Hk 16, Hv 32, states given: 32768 tokens 4.11 to 4.13 ms, 8192
// tokens 1.055 to 1.073, 8 sequences of 8192 tokens together 1.072 to 1.125, 16 of 60 tokens 0.210
// to 0.305. H200, Hk 2, Hv 4, 8192 tokens: 0.206 ms; with all of V at once 0.201; with that and the
// Hopper stages that overlap 0.184, and 0.176 with this one started early too.
#pragma once

#include "../common/handover.cuh"
#include "../hopper/launch.h"
#include "arguments.h"
#include "stages.h"
#include "tile.cuh"

namespace gdni {

// SLICE: columns of V at a time.
template <typename T, int C, int KP, int SLICE>
struct EndsShape {
    static constexpr int WARPS = C / 8, THREADS = 32 * WARPS;
    static constexpr int NT = KP / 16; // column blocks of a warp: 16 rows, half of K
    static constexpr int LD_K = KP + PIECE<T>, LD_S = SLICE + PIECE<T>;
    static constexpr size_t TILES = sizeof(T) * (2 * C * LD_K + 2 * C * LD_S + 2 * SLICE * LD_K);
    static constexpr size_t BYTES = TILES + sizeof(float) * (GATE_ROWS * C + 4 * C + WARPS);
};

// The sums over i >= t of r and over j < t of w, by one warp; lane l has tokens l n .. l n + n - 1.
template <int PER_LANE>
__device__ __forceinline__ void sums_after(const float (&x)[PER_LANE], float (&sum)[PER_LANE]) {
    float all = 0.0f;
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i)
        all += x[i];
    float after = all;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const float y = __shfl_down_sync(0xffffffffu, after, step);
        after += lane_id() + step < 32 ? y : 0.0f;
    }
    after -= all;
#pragma unroll
    for (int i = PER_LANE - 1; i >= 0; --i)
        sum[i] = after += x[i];
}
template <int PER_LANE>
__device__ __forceinline__ void sums_before(const float (&x)[PER_LANE], float (&sum)[PER_LANE]) {
    float all = 0.0f;
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i)
        all += x[i];
    float before = all;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const float y = __shfl_up_sync(0xffffffffu, before, step);
        before += lane_id() >= step ? y : 0.0f;
    }
    before -= all;
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        sum[i] = before;
        before += x[i];
    }
}

// The kernel may start before the chunk-parallel pass has ended: what the chains write of a chunk
// is there once all its parts are.
__device__ __forceinline__ void wait_for_chains(const Arguments &a, int64_t index, int k_head) {
#if __CUDA_ARCH__ >= 900
    if (a.arrivals && threadIdx.x == 0)
        wait_for_count(a.arrivals + index * a.Hk + k_head, a.parts);
#endif
    __syncthreads();
}

// One end: the last chunk if LAST, else the first. alone: the sequence has no other chunk.
template <typename T, int C, int KP, int SLICE, bool LAST>
__device__ __forceinline__ void one_end(const Arguments &a, int64_t sequence, int head,
                                        int64_t index, bool alone, unsigned char *shared) {
    using Shape = EndsShape<T, C, KP, SLICE>;
    constexpr int NT = Shape::NT, PER_LANE = C / 32;
    constexpr int LD_K = Shape::LD_K, LD_S = Shape::LD_S;
    constexpr int K_STEP = Shape::THREADS / SLICE, EACH = KP / K_STEP < 32 ? KP / K_STEP : 32;
    const Chunk chunk = a.chunks[index];
    const int64_t tile = tile_of(a, index, head);
    const int k_head = head / (a.Hv / a.Hk), warp = threadIdx.x / 32;
    const int m0 = warp % (C / 16) * 16, half = warp / (C / 16), n0 = half * KP / 2;
    T *ks = reinterpret_cast<T *>(shared), *qs = ks + C * LD_K;
    T *left = qs + C * LD_K, *dos = left + C * LD_S; // D, or E and dO
    T *rest = dos + C * LD_S, *other = rest + SLICE * LD_K;
    float *gates = reinterpret_cast<float *>(shared + Shape::TILES), *dots = gates + GATE_ROWS * C;
    float *z_parts = dots + 4 * C;
    const int64_t state = (sequence * a.Hv + head) * a.K * a.V;
    const float *given = (LAST ? a.dht : a.initial_state) + state;
    const T *factor = static_cast<const T *>(LAST ? a.delta : a.delta_grads) + tile * C * a.V;
    // Chains that keep no E leave dV = beta E in its place.
    const bool from_dv = !LAST && !a.delta_grads;
    const T *tiles = static_cast<const T *>(LAST ? a.states : a.state_grads) + tile * a.K * a.V;

    __syncthreads();
    wait_for_chains(a, index, k_head);
    load_floats(gates, a.gates + tile * GATE_ROWS * C, GATE_ROWS * C);
    load_tile<C>(ks, LD_K, KP, row_pointer<T>(a.k, chunk.token, k_head), a.k.token, chunk.rows, a.K,
                 a.k.aligned);
    if (!LAST)
        load_tile<C>(qs, LD_K, KP, row_pointer<T>(a.q, chunk.token, k_head), a.q.token, chunk.rows,
                     a.K, a.q.aligned);
    float x[NT][4], y[NT][4], z = 0.0f; // D dS_'^T, or F_ and dO S_^T
    clear(x);
    clear(y);
    for (int v0 = 0; v0 < a.V; v0 += SLICE) {
        if (from_dv)
            load_tile<C>(left, LD_S, SLICE, row_pointer<T>(a.dv, chunk.token, head) + v0,
                         a.dv.token, chunk.rows, a.V - v0, a.dv.aligned);
        else
            load_tile<C>(left, LD_S, SLICE, factor + v0, a.V, C, a.V - v0, true);
        if (!LAST)
            load_tile<C>(dos, LD_S, SLICE, row_pointer<T>(a.do_, chunk.token, head) + v0,
                         a.do_.token, chunk.rows, a.V - v0, a.do_.aligned);
        load_tile<SLICE>(other, LD_K, KP, tiles + v0 * a.K, a.K, a.V - v0, a.K, true);
        cp_async_commit_group();
        const int v = threadIdx.x % SLICE, first_k = threadIdx.x / SLICE;
        for (int begin = 0; begin < KP; begin += EACH * K_STEP) {
            float s[EACH];
#pragma unroll
            for (int e = 0; e < EACH; ++e) {
                const int k = begin + first_k + e * K_STEP;
                s[e] = v0 + v < a.V && k < a.K ? given[k * a.V + v0 + v] : 0.0f;
            }
            if (begin == 0) {
                cp_async_wait_group<0>();
                __syncthreads();
            }
#pragma unroll
            for (int e = 0; e < EACH; ++e) {
                const int k = begin + first_k + e * K_STEP, at = v * LD_K + k;
                const float s_rest = s[e] - to_float(from_float<T>(s[e]));
                float t = to_float(other[at]);
                if (LAST && alone && a.initial_state && v0 + v < a.V && k < a.K)
                    t = a.initial_state[state + k * a.V + v0 + v];
                z = fmaf(s_rest, t, z);
                rest[at] = from_float<T>(s_rest);
            }
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < SLICE; k += 16) {
            multiply<ROWS>(x, operand_load(left + m0 * LD_S + k, LD_S), rest + k * LD_K + n0, LD_K);
            if (!LAST)
                multiply<ROWS>(y, operand_load(dos + m0 * LD_S + k, LD_S), rest + k * LD_K + n0,
                               LD_K);
        }
        __syncthreads();
    }
    float k_dot[2], q_dot[2] = {};
    row_dots<T>(x, ks + m0 * LD_K + n0, LD_K, k_dot);
    if (!LAST)
        row_dots<T>(y, qs + m0 * LD_K + n0, LD_K, q_dot);
#pragma unroll
    for (int e = 0; e < 2; ++e)
        if (lane_id() % 4 == 0) {
            dots[half * C + m0 + row_of(2 * e)] = k_dot[e];
            dots[(2 + half) * C + m0 + row_of(2 * e)] = q_dot[e];
        }
    z = sum_over_rows(sum_over_columns(z));
    if (lane_id() == 0)
        z_parts[warp] = z;
    __syncthreads();
    if (warp > 0)
        return;
    wait_for_previous(); // dg and dbeta but for what follows
    z = 0.0f;
    for (int i = 0; i < Shape::WARPS; ++i)
        z += z_parts[i];
    z *= gates[GATE_EXP * C + C - 1];
    float term[PER_LANE], sum[PER_LANE];
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        const int t = lane_id() * PER_LANE + i;
        const float along_k = dots[t] + dots[C + t], e = gates[GATE_EXP * C + t];
        const float along_q = dots[2 * C + t] + dots[3 * C + t];
        const float beta = gates[GATE_BETA * C + t];
        // NOTE: such a row of dv holds E until the chunk-parallel pass has been there.
        const bool tiny = beta < 1e-12f;
        term[i] = LAST ? gates[GATE_EXP_LEFT * C + t] * along_k
                       : e * (a.scale * along_q - (!from_dv ? beta * along_k
                                                   : tiny   ? 0.0f
                                                            : along_k));
        // beta E of a beta of 0 tells nothing of E: that dbeta keeps its error.
        const float along_e = !from_dv ? along_k : tiny ? 0.0f : along_k / beta;
        if (!LAST && t < chunk.rows)
            a.dbeta[(chunk.token + t) * a.Hv + head] -= e * along_e;
    }
    if (LAST)
        sums_before(term, sum);
    else
        sums_after(term, sum);
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        const int t = lane_id() * PER_LANE + i;
        if (t < chunk.rows)
            a.dg[(chunk.token + t) * a.Hv + head] += z + sum[i];
    }
}

template <typename T, int C, int KP, int SLICE>
__global__ void __launch_bounds__(EndsShape<T, C, KP, SLICE>::THREADS)
    ends_kernel(const __grid_constant__ Arguments a) {
    extern __shared__ __align__(16) unsigned char shared[];
    let_next_start();
    const int64_t sequence = blockIdx.x / a.Hv;
    const int head = static_cast<int>(blockIdx.x % a.Hv);
    const int64_t begin = a.chunk_start[sequence], end = a.chunk_start[sequence + 1];
    // Both ends add to the same numbers where they are one chunk: then one CTA does both.
    const bool alone = end - begin == 1;
    if (begin < end && a.initial_state && blockIdx.y == 0)
        one_end<T, C, KP, SLICE, false>(a, sequence, head, begin, alone, shared);
    if (begin < end && a.dht && blockIdx.y == (alone ? 0 : 1))
        one_end<T, C, KP, SLICE, true>(a, sequence, head, end - 1, alone, shared);
    wait_for_previous(); // in every CTA: hopper/launch.h
}

template <typename T, int KP, int SLICE>
cudaError_t launch_ends_shape(const Arguments &a, cudaStream_t stream) {
    using Shape = EndsShape<T, CHUNK<T>, KP, SLICE>;
    const auto kernel = ends_kernel<T, CHUNK<T>, KP, SLICE>;
    const dim3 grid(static_cast<unsigned>(a.N * a.Hv), 2);
    return a.arrivals ? hopper::launch_early(kernel, grid, Shape::THREADS, Shape::BYTES, stream, a)
                      : launch_kernel(kernel, grid, Shape::THREADS, Shape::BYTES, stream, a);
}

template <typename T>
cudaError_t launch_ends(const Arguments &a, cudaStream_t stream) {
    if (!a.initial_state && !a.dht)
        return cudaSuccess;
    if (a.K <= 64)
        return launch_ends_shape<T, 64, 32>(a, stream);
    if (a.K > 128)
        return launch_ends_shape<T, 256, 32>(a, stream);
    // All of V at once: a CTA is done sooner, but alone on its multiprocessor.
    const bool wide = 2 * a.N * a.Hv <= a.multiprocessors &&
                      EndsShape<T, CHUNK<T>, 128, 128>::BYTES <= a.shared_memory;
    return wide ? launch_ends_shape<T, 128, 128>(a, stream)
                : launch_ends_shape<T, 128, 32>(a, stream);
}

} // namespace gdni
