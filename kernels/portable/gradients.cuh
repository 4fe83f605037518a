// Stage 3 of backward, parallel over chunks: dq, dk, dv, dg, dbeta. One CTA per (chunk, k-head) and
// SPLIT columns of K, a loop over the v-heads of the group and over slices of 32 columns of V.
//
//     dQ_i = s e^c (dO S^T)      F = E S^T      dK_s = e^{c_C - c} (D dS'^T)      per v-head
//     dP   = dO D^T              Z = E D^T      lower triangle
//     G    = sum of s Gam o dP   W = -sum of strictLower(diag(beta) (Gam o Z))    over the group
//     dQ   = sum dQ_i + G K      dK = sum (dK_s - e^c beta F) + G^T Q + (W + W^T) K
//     dV   = beta E
//     dbeta_i = <E_i, V_i> - e^{c_i} <k_i, F_i> - sum_{j<i} Z_ij Gam_ij N_ij      as U = K S
//     r_i  = <q_i, dQ_i,i> - e^{c_i} beta_i <k_i, F_i> ;  w_j = <k_j, dK_s,j> ;  z = e^{c_C} <S, dS'>
//     B_ij = dP_ij P_ij - beta_i Gam_ij N_ij Z_ij  for i > j, from the same fp32 registers
//     dg_t = z + sum_{i>=t} (r_i + row_i(B) - column_i(B)) + sum_{j<t} w_j
//
// Warp (m, n) of C / 16 by 2 owns 16 rows and half of the columns, of K and of the C x C products.
// With more columns every CTA of the two or four gives its columns' part of dg and dbeta; the first
// also the parts that do not depend on K. They are summed afterwards in a fixed order.
//
// Shared memory: Q, K [C][K]; one slice of dO, D, E, V [C][32] and S^T, dS'^T [32][SPLIT], twice
// where it fits; of each thread G and W in fp32, Q K^T and N; the gate table; partial sums. G and W
// as operands take the slice's place at the end.
#pragma once

#include "arguments.h"
#include "stages.h"
#include "tile.cuh"

#include <type_traits>

namespace gdni {

template <typename T, int C, int KP>
struct GradientsShape {
    static constexpr int KN = KP < SPLIT<T> ? KP : SPLIT<T>; // columns of K of one CTA
    static constexpr int SLICE = 32;                         // columns of V at a time
    static constexpr int WARPS = C / 8, THREADS = 32 * WARPS;
    static constexpr int NT = KN / 16, PT = C / 16; // column blocks of a warp, of K and of C x C
    static constexpr int LD_K = KP + PIECE<T>, LD_N = KN + PIECE<T>, LD_S = SLICE + PIECE<T>;
    static constexpr int LD_C = C + PIECE<T>;
    static constexpr size_t QK = 2 * sizeof(T) * C * LD_K;
    static constexpr size_t STAGE = sizeof(T) * (4 * C * LD_S + 2 * SLICE * LD_N);
    static constexpr size_t SUMS = sizeof(float) * 8 * PT * THREADS;
    // Q K^T and N stay in fp32 where every device has the room.
    using Score = std::conditional_t<(KP <= 128), float, T>;
    static constexpr size_t SCORES = 4 * sizeof(pair_t<Score>) * PT * THREADS;
    static constexpr int PARTIALS = 10 * C + PT * C + C + WARPS;
    static constexpr size_t SMALL = sizeof(float) * (GATE_ROWS * C + PARTIALS);
    static constexpr size_t BYTES = QK + STAGE + SUMS + SCORES + SMALL; // with one stage
    static_assert(2 * sizeof(T) * C * LD_C <= STAGE, "G and W fit where the slice was");
};

// The partial sums of one head. [2] = the two halves of the columns.
template <int C>
struct GradientsPartials {
    float *q, *kf, *w, *zn, *row; // [2][C] each
    float *column;                // [C / 16][C]
    float *ev;                    // [C]
    float *z;                     // [warps]

    __device__ explicit GradientsPartials(float *base)
        : q(base), kf(base + 2 * C), w(base + 4 * C), zn(base + 6 * C), row(base + 8 * C),
          column(base + 10 * C), ev(column + C / 16 * C), z(ev + C) {}
};

// dg and dbeta of one head's chunk, by one warp.
template <int C>
__device__ void gradients_gates(const Arguments &a, const Chunk &chunk, int head, int split,
                                const float *gates, const GradientsPartials<C> &p, int warps) {
    constexpr int PER_LANE = C / 32;
    const int lane = lane_id();
    float z = 0.0f;
    for (int i = 0; i < warps; ++i)
        z += p.z[i];
    z *= gates[GATE_EXP * C + C - 1];
    float r[PER_LANE], w[PER_LANE], r_sum = 0.0f, w_sum = 0.0f;
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        const int t = lane * PER_LANE + i;
        const float e = gates[GATE_EXP * C + t], beta = gates[GATE_BETA * C + t];
        const float kf = p.kf[t] + p.kf[C + t];
        float column = 0.0f;
#pragma unroll
        for (int m = 0; m < C / 16; ++m)
            column += p.column[m * C + t];
        r[i] = a.scale * e * (p.q[t] + p.q[C + t]) - e * beta * kf +
               (p.row[t] + p.row[C + t] - column);
        w[i] = gates[GATE_EXP_LEFT * C + t] * (p.w[t] + p.w[C + t]);
        r_sum += r[i];
        w_sum += w[i];
        if (t < chunk.rows)
            a.dbeta[(split * a.T + chunk.token + t) * a.Hv + head] =
                p.ev[t] - e * kf - (p.zn[t] + p.zn[C + t]);
    }
    float after = r_sum, before = w_sum; // inclusive suffix and prefix over lanes
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const float x = __shfl_down_sync(0xffffffffu, after, step);
        const float y = __shfl_up_sync(0xffffffffu, before, step);
        if (lane + step < 32)
            after += x;
        if (lane >= step)
            before += y;
    }
    float prefix = __shfl_up_sync(0xffffffffu, before, 1);
    float suffix = __shfl_down_sync(0xffffffffu, after, 1);
    prefix = lane == 0 ? 0.0f : prefix;
    suffix = lane == 31 ? 0.0f : suffix;
    float dg[PER_LANE];
#pragma unroll
    for (int i = PER_LANE - 1; i >= 0; --i) {
        suffix += r[i];
        dg[i] = z + suffix;
    }
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        const int t = lane * PER_LANE + i;
        if (t < chunk.rows)
            a.dg[(split * a.T + chunk.token + t) * a.Hv + head] = dg[i] + prefix;
        prefix += w[i];
    }
}

// A warp's rows and columns of dq or dk.
template <typename T, int NT>
__device__ __forceinline__ void gradients_store(const float (&x)[NT][4], const Arguments &a,
                                                const Chunk &chunk, int k_head, const Tensor &to,
                                                float *to32, int m0, int n0) {
#pragma unroll
    for (int t = 0; t < NT; ++t)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
            const int row = m0 + row_of(e), column = n0 + column_of(t, e);
            if (row >= chunk.rows || column >= a.K)
                continue;
            if (to32) {
                float *y = to32 + ((chunk.token + row) * a.Hk + k_head) * a.K + column;
                *reinterpret_cast<float2 *>(y) = make_float2(x[t][e], x[t][e + 1]);
                continue;
            }
            T *y = row_pointer<T>(to, chunk.token + row, k_head) + column;
            if (to.aligned) {
                *reinterpret_cast<pair_t<T> *>(y) = pack<T>(x[t][e], x[t][e + 1]);
            } else {
                y[0] = from_float<T>(x[t][e]);
                y[1] = from_float<T>(x[t][e + 1]);
            }
        }
}

template <typename T, int C, int KP>
__global__ void __launch_bounds__(GradientsShape<T, C, KP>::THREADS, 1)
    gradients_kernel(const __grid_constant__ Arguments a) {
    using Shape = GradientsShape<T, C, KP>;
    constexpr int NT = Shape::NT, PT = Shape::PT, SLICE = Shape::SLICE, KN = Shape::KN;
    constexpr int LD_K = Shape::LD_K, LD_N = Shape::LD_N, LD_S = Shape::LD_S, LD_C = Shape::LD_C;
    extern __shared__ __align__(16) unsigned char shared[];
    const int64_t index = blockIdx.x;
    if (index >= a.chunk_start[a.N])
        return;
    const Chunk chunk = a.chunks[index];
    const int k_head = blockIdx.y, split = blockIdx.z, group = a.Hv / a.Hk;
    const int warp = threadIdx.x / 32, m0 = warp % (C / 16) * 16, half = warp / (C / 16);
    const int n0 = half * KN / 2,
              c0 = half * C / 2; // first columns, of K inside the split and of C
    const int k0 = split * KN;
    const bool below = c0 < m0 + 16; // the C x C block is not wholly above the diagonal

    T *qs = reinterpret_cast<T *>(shared), *ks = qs + C * LD_K;
    float *sums = reinterpret_cast<float *>(shared + Shape::QK) + threadIdx.x;
    using Score = typename Shape::Score;
    pair_t<Score> *scores =
        reinterpret_cast<pair_t<Score> *>(shared + Shape::QK + Shape::SUMS) + threadIdx.x;
    float *gates = reinterpret_cast<float *>(shared + Shape::QK + Shape::SUMS + Shape::SCORES);
    const GradientsPartials<C> part(gates + GATE_ROWS * C);
    unsigned char *stages = shared + Shape::BYTES - Shape::STAGE;

    const auto load_slice = [&](int head, int v0, unsigned char *stage) {
        const int64_t tile = tile_of(a, index, head);
        T *x = reinterpret_cast<T *>(stage);
        const T *delta = static_cast<const T *>(a.delta) + tile * C * a.V + v0;
        const T *delta_grads = static_cast<const T *>(a.delta_grads) + tile * C * a.V + v0;
        const int64_t state = tile * a.K * a.V + static_cast<int64_t>(v0) * a.K + k0;
        load_tile<C>(x, LD_S, SLICE, row_pointer<T>(a.do_, chunk.token, head) + v0, a.do_.token,
                     chunk.rows, a.V - v0, a.do_.aligned);
        load_tile<C>(x + C * LD_S, LD_S, SLICE, delta, a.V, C, a.V - v0, true);
        load_tile<C>(x + 2 * C * LD_S, LD_S, SLICE, delta_grads, a.V, C, a.V - v0, true);
        load_tile<C>(x + 3 * C * LD_S, LD_S, SLICE, row_pointer<T>(a.v, chunk.token, head) + v0,
                     a.v.token, chunk.rows, a.V - v0, a.v.aligned);
        x += 4 * C * LD_S;
        load_tile<SLICE>(x, LD_N, KN, static_cast<const T *>(a.states) + state, a.K, a.V - v0,
                         a.K - k0, true);
        load_tile<SLICE>(x + SLICE * LD_N, LD_N, KN, static_cast<const T *>(a.state_grads) + state,
                         a.K, a.V - v0, a.K - k0, true);
        cp_async_commit_group();
    };

    load_tile<C>(qs, LD_K, KP, row_pointer<T>(a.q, chunk.token, k_head), a.q.token, chunk.rows, a.K,
                 a.q.aligned);
    load_tile<C>(ks, LD_K, KP, row_pointer<T>(a.k, chunk.token, k_head), a.k.token, chunk.rows, a.K,
                 a.k.aligned);
    cp_async_commit_group();
    cp_async_wait_group<0>();
    __syncthreads();

    // Q K^T and N of this warp's block, kept beside its sums.
    {
        float x[PT][4], y[PT][4];
        clear(x);
        clear(y);
        if (below) {
#pragma unroll 4
            for (int k = 0; k < KP; k += 16) {
                multiply<COLUMNS>(x, operand_load(qs + m0 * LD_K + k, LD_K), ks + c0 * LD_K + k,
                                  LD_K);
                multiply<COLUMNS>(y, operand_load(ks + m0 * LD_K + k, LD_K), ks + c0 * LD_K + k,
                                  LD_K);
            }
        }
#pragma unroll
        for (int t = 0; t < PT; ++t)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                scores[(t * 4 + e) * Shape::THREADS] = pack<Score>(x[t][2 * e], x[t][2 * e + 1]);
                scores[(t * 4 + e + 2) * Shape::THREADS] =
                    pack<Score>(y[t][2 * e], y[t][2 * e + 1]);
            }
    }
#pragma unroll
    for (int i = 0; i < 8 * PT; ++i)
        sums[i * Shape::THREADS] = 0.0f;

    float dq[NT][4], dk[NT][4];
    clear(dq);
    clear(dk);
    for (int r = 0; r < group; ++r) {
        const int head = k_head * group + r;
        float x[2][NT][4], x3[NT][4]; // dO S^T, E S^T; D dS'^T
        float y[2][PT][4];            // dP, Z
        float ev = 0.0f, z = 0.0f;
        clear(x[0]);
        clear(x[1]);
        clear(x3);
        clear(y[0]);
        clear(y[1]);
        load_floats(gates, a.gates + tile_of(a, index, head) * GATE_ROWS * C, GATE_ROWS * C);
        load_slice(head, 0, stages);
        for (int v0 = 0; v0 < a.V; v0 += SLICE) {
            unsigned char *stage = stages + (a.stages == 2 && v0 / SLICE % 2 ? Shape::STAGE : 0);
            cp_async_wait_group<0>();
            __syncthreads();
            if (a.stages == 2 && v0 + SLICE < a.V)
                load_slice(head, v0 + SLICE, stages + (v0 / SLICE % 2 ? 0 : Shape::STAGE));
            const T *dos = reinterpret_cast<T *>(stage), *ds = dos + C * LD_S, *es = ds + C * LD_S;
            const T *vs = es + C * LD_S, *hs = vs + C * LD_S, *gs = hs + SLICE * LD_N;
#pragma unroll
            for (int k = 0; k < SLICE; k += 16) {
                const Operand<T> b[2] = {operand_load(dos + m0 * LD_S + k, LD_S),
                                         operand_load(es + m0 * LD_S + k, LD_S)};
                multiply<ROWS>(x, b, hs + k * LD_N + n0, LD_N);
                multiply<ROWS>(x3, operand_load(ds + m0 * LD_S + k, LD_S), gs + k * LD_N + n0,
                               LD_N);
                if (below)
                    multiply<COLUMNS>(y, b, ds + c0 * LD_S + k, LD_S);
            }
            // Elementwise: <E, V> and dV by four threads a row, <S, dS'> by all.
            {
                constexpr int EACH = SLICE / 4;
                const int row = threadIdx.x / 4, column = threadIdx.x % 4 * EACH;
                const float beta = gates[GATE_BETA * C + row];
                alignas(16) T dv[EACH];
#pragma unroll
                for (int e = 0; e < EACH; ++e) {
                    const float g = to_float(es[row * LD_S + column + e]);
                    ev = fmaf(g, to_float(vs[row * LD_S + column + e]), ev);
                    dv[e] = from_float<T>(beta * g);
                }
                if (split == 0 && row < chunk.rows && v0 + column < a.V) {
                    T *to = row_pointer<T>(a.dv, chunk.token + row, head) + v0 + column;
                    if (a.dv.aligned) {
#pragma unroll
                        for (int e = 0; e < EACH; e += PIECE<T>)
                            *reinterpret_cast<uint4 *>(to + e) =
                                *reinterpret_cast<const uint4 *>(dv + e);
                    } else {
#pragma unroll
                        for (int e = 0; e < EACH; ++e)
                            to[e] = dv[e];
                    }
                }
#pragma unroll 1
                for (int i = threadIdx.x * 2; i < SLICE * KN; i += Shape::THREADS * 2) {
                    const int at = i / KN * LD_N + i % KN;
                    const float2 s = unpack<T>(*reinterpret_cast<const pair_t<T> *>(hs + at));
                    const float2 t = unpack<T>(*reinterpret_cast<const pair_t<T> *>(gs + at));
                    z = fmaf(s.x, t.x, fmaf(s.y, t.y, z));
                }
            }
            if (a.stages == 1 && v0 + SLICE < a.V) {
                __syncthreads();
                load_slice(head, v0 + SLICE, stages);
            }
        }
        // Row sums over this warp's columns; r, w and z come together below.
        float q_dot[2], f_dot[2], w_dot[2], zn[2] = {}, row_sum[2] = {};
        row_dots<T>(x[0], qs + m0 * LD_K + k0 + n0, LD_K, q_dot);
        row_dots<T>(x[1], ks + m0 * LD_K + k0 + n0, LD_K, f_dot);
        row_dots<T>(x3, ks + m0 * LD_K + k0 + n0, LD_K, w_dot);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int i = m0 + row_of(e);
            const float exp_i = gates[GATE_EXP * C + i];
            const float f1 = a.scale * exp_i, f2 = -exp_i * gates[GATE_BETA * C + i];
            const float f3 = gates[GATE_EXP_LEFT * C + i];
#pragma unroll
            for (int t = 0; t < NT; ++t) {
                dq[t][e] = fmaf(f1, x[0][t][e], dq[t][e]);
                dk[t][e] = fmaf(f2, x[1][t][e], fmaf(f3, x3[t][e], dk[t][e]));
            }
        }
#pragma unroll
        for (int t = 0; t < PT; ++t) {
            float columns[2] = {};
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const pair_t<Score> *score = scores + (t * 4 + (e >> 1)) * Shape::THREADS;
                const float2 ss = unpack<Score>(score[0]);
                const float2 nn = unpack<Score>(score[2 * Shape::THREADS]);
                const float s = e & 1 ? ss.y : ss.x, n = e & 1 ? nn.y : nn.x;
                const int i = m0 + row_of(e), j = c0 + column_of(t, e);
                const float gam =
                    i >= j
                        ? gate_exp<T>((gates[GATE_SUM * C + i] - gates[GATE_SUM * C + j]) +
                                      (gates[GATE_SUM_LOW * C + i] - gates[GATE_SUM_LOW * C + j]))
                        : 0.0f;
                const float beta = gates[GATE_BETA * C + i];
                const float g = a.scale * gam * y[0][t][e];
                const float zg = i > j ? gam * y[1][t][e] : 0.0f, zgn = zg * n;
                const float b = i > j ? g * s - beta * zgn : 0.0f;
                float *sum = sums + (t * 4 + e) * Shape::THREADS;
                *sum += i >= j ? g : 0.0f;
                sum[4 * PT * Shape::THREADS] -= beta * zg;
                zn[e >> 1] += zgn;
                row_sum[e >> 1] += b;
                columns[e & 1] += b;
            }
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                columns[e] = sum_over_rows(columns[e]);
                if (lane_id() < 4)
                    part.column[m0 / 16 * C + c0 + column_of(t, e)] =
                        split == 0 ? columns[e] : 0.0f;
            }
        }
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            zn[e] = sum_over_columns(zn[e]);
            row_sum[e] = sum_over_columns(row_sum[e]);
            if (lane_id() % 4 == 0) {
                const int at = half * C + m0 + row_of(2 * e);
                part.q[at] = q_dot[e];
                part.kf[at] = f_dot[e];
                part.w[at] = w_dot[e];
                part.zn[at] = split == 0 ? zn[e] : 0.0f;
                part.row[at] = split == 0 ? row_sum[e] : 0.0f;
            }
        }
        ev = sum_over_columns(ev);
        if (threadIdx.x % 4 == 0)
            part.ev[threadIdx.x / 4] = split == 0 ? ev : 0.0f;
        z = sum_over_rows(sum_over_columns(z));
        if (lane_id() == 0)
            part.z[warp] = z;
        __syncthreads();
        if (warp == 0)
            gradients_gates<C>(a, chunk, head, split, gates, part, Shape::WARPS);
        __syncthreads();
    }

    // The products of C x C matrices, once for the group.
    T *gm = reinterpret_cast<T *>(stages), *wm = gm + C * LD_C;
#pragma unroll
    for (int t = 0; t < PT; ++t)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
            const float *sum = sums + (t * 4 + e) * Shape::THREADS;
            const int at = (m0 + row_of(e)) * LD_C + c0 + column_of(t, e);
            const float *sum_w = sum + 4 * PT * Shape::THREADS;
            *reinterpret_cast<pair_t<T> *>(gm + at) = pack<T>(sum[0], sum[Shape::THREADS]);
            *reinterpret_cast<pair_t<T> *>(wm + at) = pack<T>(sum_w[0], sum_w[Shape::THREADS]);
        }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < C; k += 16) {
        const T *kb = ks + k * LD_K + k0 + n0, *qb = qs + k * LD_K + k0 + n0;
        if (k <= m0)
            multiply<ROWS>(dq, operand_load(gm + m0 * LD_C + k, LD_C), kb, LD_K);
        if (k >= m0)
            multiply<ROWS>(dk, operand_load_transposed(gm + k * LD_C + m0, LD_C), qb, LD_K);
        if (k <= m0)
            multiply<ROWS>(dk, operand_load(wm + m0 * LD_C + k, LD_C), kb, LD_K);
        if (k >= m0)
            multiply<ROWS>(dk, operand_load_transposed(wm + k * LD_C + m0, LD_C), kb, LD_K);
    }
    gradients_store<T>(dq, a, chunk, k_head, a.dq, a.dq32, m0, k0 + n0);
    gradients_store<T>(dk, a, chunk, k_head, a.dk, a.dk32, m0, k0 + n0);
}

template <typename T, int KP>
cudaError_t launch_gradients_shape(const Arguments &a, cudaStream_t stream) {
    using Shape = GradientsShape<T, CHUNK<T>, KP>;
    Arguments b = a;
    b.stages = Shape::BYTES + Shape::STAGE <= a.shared_memory ? 2 : 1;
    const dim3 grid(static_cast<unsigned>(a.max_chunks), static_cast<unsigned>(a.Hk),
                    KP / Shape::KN);
    return launch_kernel(gradients_kernel<T, CHUNK<T>, KP>, grid, Shape::THREADS,
                         Shape::BYTES + (b.stages - 1) * Shape::STAGE, stream, b);
}

template <typename T>
cudaError_t launch_gradients(const Arguments &a, cudaStream_t stream) {
    return a.K <= 64    ? launch_gradients_shape<T, 64>(a, stream)
           : a.K <= 128 ? launch_gradients_shape<T, 128>(a, stream)
                        : launch_gradients_shape<T, 256>(a, stream);
}

template <typename T>
size_t gradients_shared_memory(int K) {
    return K <= 64    ? GradientsShape<T, CHUNK<T>, 64>::BYTES
           : K <= 128 ? GradientsShape<T, CHUNK<T>, 128>::BYTES
                      : GradientsShape<T, CHUNK<T>, 256>::BYTES;
}

} // namespace gdni
