// RMSNorm of a head's output under a gate; math as in src/layer/gated_rmsnorm.c:
//
//     r = 1 / sqrt(mean(x^2) + eps),   n = r x,   y = weight n SiLU(z)
//     u = dy weight SiLU(z),           dx = r (u - mean(u n) n)
//     dz = dy weight n SiLU'(z),       dweight = sum dy n SiLU(z)
//
// A CTA takes `rows_per_block` rows in a row, ROWS of them a lane at a time, so that their loads
// are under way together. fp32 within; dweight: a lane's sums over its rows, those of a CTA in
// shared memory, a row a CTA in the workspace.
#pragma once

#include "rows.cuh"
#include "sums.cuh"

namespace gdni {

struct GatedNorm {
    int64_t rows, rows_per_block;
    int32_t V;
    float eps;
    const void *x, *z, *weight, *dy;
    void *y, *dx, *dz;
    float *partials; // [blocks][V]
};

template <typename S, int ROWS>
__global__ void __launch_bounds__(ROW_THREADS)
    gated_rmsnorm_forward_kernel(const __grid_constant__ GatedNorm a) {
    using T = typename S::T;
    const int64_t begin = blockIdx.x * a.rows_per_block;
    const int64_t end = begin + a.rows_per_block < a.rows ? begin + a.rows_per_block : a.rows;
    float weight[S::COUNT];
    S::widen_all(S::load(static_cast<const T *>(a.weight), a.V, true), weight);
    for (int64_t first = begin + threadIdx.x / S::LANES; first - threadIdx.x / S::LANES < end;
         first += ROWS * S::SLOTS) {
        typename S::Raw x[ROWS], z[ROWS];
#pragma unroll
        for (int k = 0; k < ROWS; ++k) {
            const int64_t row = first + k * S::SLOTS;
            x[k] = S::load(static_cast<const T *>(a.x) + row * a.V, a.V, row < end);
            z[k] = S::load(static_cast<const T *>(a.z) + row * a.V, a.V, row < end);
        }
#pragma unroll
        for (int k = 0; k < ROWS; ++k) {
            const int64_t row = first + k * S::SLOTS;
            float n[S::COUNT], gate[S::COUNT], square = 0.0f;
            S::widen_all(x[k], n);
            S::widen_all(z[k], gate);
#pragma unroll
            for (int i = 0; i < S::COUNT; ++i)
                square = fmaf(n[i], n[i], square);
            const float r = rsqrtf(S::sum(square) / static_cast<float>(a.V) + a.eps);
#pragma unroll
            for (int i = 0; i < S::COUNT; ++i)
                n[i] = weight[i] * (r * n[i]) * (gate[i] * sigmoid(gate[i]));
            S::store(static_cast<T *>(a.y) + row * a.V, a.V, row < end, n);
        }
    }
}

template <typename S, int ROWS>
__global__ void __launch_bounds__(ROW_THREADS)
    gated_rmsnorm_backward_kernel(const __grid_constant__ GatedNorm a) {
    using T = typename S::T;
    __shared__ float sums[S::SLOTS * S::COUNT * S::LANES];
    let_next_start();
    const int64_t begin = blockIdx.x * a.rows_per_block;
    const int64_t end = begin + a.rows_per_block < a.rows ? begin + a.rows_per_block : a.rows;
    const int slot = static_cast<int>(threadIdx.x) / S::LANES;
    const float mean = 1.0f / static_cast<float>(a.V);
    float weight[S::COUNT], dweight[S::COUNT] = {};
    S::widen_all(S::load(static_cast<const T *>(a.weight), a.V, true), weight);
    for (int64_t first = begin + slot; first - slot < end; first += ROWS * S::SLOTS) {
        typename S::Raw raw_x[ROWS], raw_z[ROWS], raw_dy[ROWS];
#pragma unroll
        for (int k = 0; k < ROWS; ++k) {
            const int64_t row = first + k * S::SLOTS;
            raw_x[k] = S::load(static_cast<const T *>(a.x) + row * a.V, a.V, row < end);
            raw_z[k] = S::load(static_cast<const T *>(a.z) + row * a.V, a.V, row < end);
            raw_dy[k] = S::load(static_cast<const T *>(a.dy) + row * a.V, a.V, row < end);
        }
#pragma unroll
        for (int k = 0; k < ROWS; ++k) {
            const int64_t row = first + k * S::SLOTS;
            float n[S::COUNT], u[S::COUNT], dz[S::COUNT], square = 0.0f, along = 0.0f;
            S::widen_all(raw_x[k], n);
            S::widen_all(raw_z[k], dz);
            S::widen_all(raw_dy[k], u);
#pragma unroll
            for (int i = 0; i < S::COUNT; ++i)
                square = fmaf(n[i], n[i], square);
            const float r = rsqrtf(S::sum(square) * mean + a.eps);
#pragma unroll
            for (int i = 0; i < S::COUNT; ++i) {
                const float z = dz[i], gate = sigmoid(z), silu = z * gate;
                n[i] *= r;
                dweight[i] = fmaf(u[i] * n[i], silu, dweight[i]);
                u[i] *= weight[i];
                dz[i] = u[i] * n[i] * (gate * (1.0f + z * (1.0f - gate)));
                u[i] *= silu;
                along = fmaf(u[i], n[i], along);
            }
            S::store(static_cast<T *>(a.dz) + row * a.V, a.V, row < end, dz);
            along = S::sum(along) * mean;
#pragma unroll
            for (int i = 0; i < S::COUNT; ++i)
                u[i] = r * (u[i] - along * n[i]);
            S::store(static_cast<T *>(a.dx) + row * a.V, a.V, row < end, u);
        }
    }
    constexpr int WIDTH = S::COUNT * S::LANES;
#pragma unroll
    for (int i = 0; i < S::COUNT; ++i)
        sums[slot * WIDTH + S::column(i)] = dweight[i];
    __syncthreads();
    float *row = a.partials + blockIdx.x * int64_t{a.V};
    sum_groups<ROW_THREADS>(
        S::SLOTS, a.V, [&](int of, int i) { return sums[of * WIDTH + i]; },
        [&](int i, float total) { row[i] = total; });
}

} // namespace gdni
