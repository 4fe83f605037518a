// Stage 2: the serial chains over the chunks of a sequence. Transposed throughout: V rows by
// tokens or by K columns.
//
//   forward     U^T  = S^T K^T
//               D^T  = ((V - e^c U) beta)^T (Gam o T)^T
//               O^T  = s e^c (S^T Q^T) + D^T P^T
//               S'^T = e^{c_C} S^T + (e^{c_C - c} D)^T K
//
//   backward    dD^T = dO^T P + e^{c_C - c} (dS'^T K^T)
//               E^T  = dD^T (Gam o T)                       dV = beta E, dU = -e^c dV
//               dS^T = e^{c_C} dS'^T + s (e^c dO)^T Q + dU^T K
//
// Each product's accumulators become the next one's left factor in registers. The state stays in
// fp32; it is rounded only as an operand and in what is kept for stage 3. The caller's states come
// without an error of their own: the first step takes what rounding leaves out as a second operand
// (ends.cuh has the reason). end() tells, after the chain, where its last state goes: a pointer
// held all along costs spills.
#pragma once

#include "chain.cuh"

namespace gdni {

template <typename T, int C, int KP, bool OUTPUT>
__device__ __forceinline__ void forward_chain(const Arguments &a, const ChainItem &item) {
    constexpr int KT = KP / 8, CT = C / 8;
    constexpr int LD_K = ChainShape<T, C, KP>::LD_K, LD_C = ChainShape<T, C, KP>::LD_C;
    const int ld = ChainShape<T, C, KP>::ld_slice(item.warps());
    const ChainLoop<T, C, KP> loop = {a, item, OUTPUT, false};
    if (loop.loads(a.v))
        return;
    float s[KT][4]; // S^T
    state_load(s, a, item);
    loop.run([&](int32_t index, const ChainStage<T, C, KP> &stage) {
        const float *e = stage.gates + GATE_EXP * C, *left = stage.gates + GATE_EXP_LEFT * C;
        const float *beta = stage.gates + GATE_BETA * C;
        T *columns = stage.slice + threadIdx.x / 32 * 16;
        const bool kept = index >= item.kept;
        if (a.states && kept)
            state_keep<T>(s, a, item, index, a.states);
        float u[CT][4], o[CT][4];
        clear(u);
        clear(o);
#pragma unroll
        for (int t = 0; t < KT; t += 2) {
            const Operand<T> x = operand_from<T>(s[t], s[t + 1]);
            multiply<COLUMNS>(u, x, stage.k + t * 8, LD_K);
            if (OUTPUT && kept)
                multiply<COLUMNS>(o, x, stage.q + t * 8, LD_K);
        }
        if (SPLITS_STATES<T, KP> && a.initial_state && index == item.first) {
#pragma unroll
            for (int t = 0; t < KT; t += 2) {
                const Operand<T> x = operand_rest<T>(s[t], s[t + 1]);
                multiply<COLUMNS>(u, x, stage.k + t * 8, LD_K);
                if (OUTPUT && kept)
                    multiply<COLUMNS>(o, x, stage.q + t * 8, LD_K);
            }
        }
        // NOTE: V in pairs of column blocks, not all at once: 24 registers.
#pragma unroll
        for (int t = 0; t < CT; t += 2) {
            float x[2][4];
            operand_to(operand_load_transposed(columns + t * 8 * ld, ld), x[0], x[1]);
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const int j = column_of(t + i / 4, i % 4);
                float &y = u[t + i / 4][i % 4];
                y = beta[j] * (x[i / 4][i % 4] - e[j] * y);
                o[t + i / 4][i % 4] *= a.scale * e[j];
            }
        }
        float d[CT][4];
        clear(d);
#pragma unroll
        for (int t = 0; t < CT; t += 2)
            multiply<COLUMNS>(d, operand_from<T>(u[t], u[t + 1]), stage.inverse + t * 8, LD_C, t);
        if (OUTPUT && kept) {
#pragma unroll
            for (int t = 0; t < CT; t += 2)
                multiply<COLUMNS>(o, operand_from<T>(d[t], d[t + 1]), stage.scores + t * 8, LD_C,
                                  t);
            const Chunk chunk = a.chunks[index];
            slice_store<T, C>(o, columns, ld,
                              row_pointer<T>(a.o, chunk.token, item.head) + item.v0(), a.o.token,
                              chunk.rows, a.o.aligned);
        }
        if (a.delta && kept)
            slice_store<T, C>(d, columns, ld,
                              static_cast<T *>(a.delta) + tile_of(a, index, item.head) * C * a.V +
                                  item.v0(),
                              a.V, C, true);
        scale_columns(d, [&](int j) { return left[j]; });
        scale_all(s, e[C - 1]);
#pragma unroll
        for (int t = 0; t < CT; t += 2)
            multiply<ROWS>(s, operand_from<T>(d[t], d[t + 1]), stage.k + t * 8 * LD_K, LD_K);
    });
    state_store(s, a, item);
}

template <typename T, int C, int KP>
__device__ __forceinline__ void backward_chain(const Arguments &a, const ChainItem &item) {
    constexpr int KT = KP / 8, CT = C / 8;
    constexpr int LD_K = ChainShape<T, C, KP>::LD_K, LD_C = ChainShape<T, C, KP>::LD_C;
    const int ld = ChainShape<T, C, KP>::ld_slice(item.warps());
    const ChainLoop<T, C, KP> loop = {a, item, true, true};
    if (loop.loads(a.do_))
        return;
    float s[KT][4]; // dS'^T
    state_load(s, a, item);
    loop.run([&](int32_t index, const ChainStage<T, C, KP> &stage) {
        const float *e = stage.gates + GATE_EXP * C, *left = stage.gates + GATE_EXP_LEFT * C;
        const float *beta = stage.gates + GATE_BETA * C;
        T *columns = stage.slice + threadIdx.x / 32 * 16;
        const bool kept = index < item.kept;
        if (a.state_grads && kept)
            state_keep<T>(s, a, item, index, a.state_grads);
        const float top = operand_range<T>(e[0]), in_range = 1.0f / top;
        float y[CT][4]; // dD^T
        clear(y);
#pragma unroll
        for (int t = 0; t < KT; t += 2)
            multiply<COLUMNS>(y, operand_from<T>(s[t], s[t + 1]), stage.k + t * 8, LD_K);
        if (SPLITS_STATES<T, KP> && a.dht && index == item.last - 1) {
#pragma unroll
            for (int t = 0; t < KT; t += 2)
                multiply<COLUMNS>(y, operand_rest<T>(s[t], s[t + 1]), stage.k + t * 8, LD_K);
        }
        scale_columns(y, [&](int j) { return left[j]; });
        scale_all(s, e[C - 1] * in_range);
#pragma unroll
        for (int t = 0; t < CT; t += 2) {
            const Operand<T> x = operand_load_transposed(columns + t * 8 * ld, ld);
            multiply<ROWS>(y, x, stage.scores + t * 8 * LD_C, LD_C, 0, t + 2);
            float z[2][4];
            operand_to(x, z[0], z[1]);
            scale_columns(z, [&](int j) { return a.scale * in_range * e[t * 8 + j]; });
            multiply<ROWS>(s, operand_from<T>(z[0], z[1]), stage.q + t * 8 * LD_K, LD_K);
        }
        float d[CT][4]; // E^T
        clear(d);
#pragma unroll
        for (int t = 0; t < CT; t += 2)
            multiply<ROWS>(d, operand_from<T>(y[t], y[t + 1]), stage.inverse + t * 8 * LD_C, LD_C,
                           0, t + 2);
        if (a.delta_grads && kept)
            slice_store<T, C>(d, columns, ld,
                              static_cast<T *>(a.delta_grads) +
                                  tile_of(a, index, item.head) * C * a.V + item.v0(),
                              a.V, C, true);
        scale_columns(d, [&](int j) { return -in_range * e[j] * beta[j]; });
#pragma unroll
        for (int t = 0; t < CT; t += 2)
            multiply<ROWS>(s, operand_from<T>(d[t], d[t + 1]), stage.k + t * 8 * LD_K, LD_K);
        if (top != 1.0f)
            scale_all(s, top);
    });
    state_store(s, a, item);
}

} // namespace gdni
