// Work on rows, beside the stages: padding, the norm of q and k and its backward, decay sums.
#include "../hopper/launch.h"
#include "stages.h"
#include "tile.cuh"

namespace gdni {

namespace {

// Under the root of the norm, as GDN_FLAG_L2NORM_QK says.
__device__ constexpr float NORM_EPSILON = 1e-6f;
// Of a CTA that normalises.
constexpr int NORM_WARPS = 8, NORM_ROWS = 32;

__device__ float warp_sum(float x) {
    return sum_over_rows(sum_over_columns(x));
}

// |row|^2 by one warp.
template <typename T>
__device__ float row_square(const T *x, int K) {
    float sum = 0.0f;
    for (int i = lane_id(); i < K; i += 32) {
        const float y = to_float(x[i]);
        sum = fmaf(y, y, sum);
    }
    return warp_sum(sum);
}

// This warp's (token, head) of [T, heads], or false past the end.
__device__ bool warp_row(const Arguments &a, int heads, int64_t &token, int &head) {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
    token = row / heads;
    head = static_cast<int>(row % heads);
    return token < a.T;
}

// Of the tokens of sequences, which may be few in a sharded sequence's segment pass, and of those
// that share the last chunk with them.
template <typename T, typename Y>
__global__ void normalise_kernel(const __grid_constant__ Arguments a,
                                 const __grid_constant__ Tensor x, int heads, Y *y, bool norm) {
    const int64_t begin = sequence_start(a, 0), last = sequence_start(a, a.N) + CHUNK<T>;
    const int64_t end = last < a.T ? last : a.T;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * NORM_ROWS + threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < NORM_ROWS; i += NORM_WARPS) {
        const int64_t token = (first + i) / heads;
        const int head = static_cast<int>((first + i) % heads);
        if (token < begin || token >= end)
            continue;
        const T *row = row_pointer<T>(x, token, head);
        const float scale = norm ? 1.0f / sqrtf(row_square(row, a.K) + NORM_EPSILON) : 1.0f;
        Y *to = y + (token * heads + head) * a.K;
        for (int k = lane_id(); k < a.K; k += 32)
            to[k] = from_float<Y>(to_float(row[k]) * scale);
    }
}

// With y = x / n: dx = (dy - y <y, dy>) / n. Tokens of no sequence get zeros.
template <typename T>
__global__ void through_norm_kernel(const __grid_constant__ Arguments a,
                                    const __grid_constant__ Tensor x, int heads, const float *dy,
                                    const __grid_constant__ Tensor dx) {
    int64_t token;
    int head;
    if (!warp_row(a, heads, token, head))
        return;
    const T *row = row_pointer<T>(x, token, head);
    T *to = row_pointer<T>(dx, token, head);
    const float *d = dy + (token * heads + head) * a.K;
    const bool valid = !a.cu_seqlens || token < a.cu_seqlens[a.N];
    const float scale = 1.0f / sqrtf(row_square(row, a.K) + NORM_EPSILON);
    float along = 0.0f;
    for (int i = lane_id(); valid && i < a.K; i += 32)
        along = fmaf(to_float(row[i]) * scale, d[i], along);
    along = warp_sum(along);
    for (int i = lane_id(); i < a.K; i += 32)
        to[i] = from_float<T>(valid ? (d[i] - to_float(row[i]) * scale * along) * scale : 0.0f);
}

template <typename T>
__device__ void zero_rows(const Tensor &x, int64_t token, int heads, int dim) {
    if (!x.data)
        return;
    for (int i = threadIdx.x; i < heads * dim; i += blockDim.x)
        row_pointer<T>(x, token, i / dim)[i % dim] = from_float<T>(0.0f);
}

template <typename T>
__global__ void padding_kernel(const __grid_constant__ Arguments a) {
    const int64_t end = sequence_start(a, a.N);
    for (int64_t token = end + blockIdx.x; token < a.T; token += gridDim.x) {
        zero_rows<T>(a.o, token, a.Hv, a.V);
        zero_rows<T>(a.dv, token, a.Hv, a.V);
        zero_rows<T>(a.dq, token, a.Hk, a.K);
        zero_rows<T>(a.dk, token, a.Hk, a.K);
        for (int i = threadIdx.x; i < a.Hv; i += blockDim.x) {
            if (a.dg)
                a.dg[token * a.Hv + i] = 0.0f;
            if (a.dbeta)
                a.dbeta[token * a.Hv + i] = 0.0f;
        }
    }
    wait_for_previous(); // nobody else writes there, but the call ends with this kernel
}

// log_decay = sum of g, decay_bound = sum of g + log max(1, |1 - beta |k|^2|) over the last
// sequence. One CTA a v-head; sums in a fixed order, in double.
template <typename T>
__global__ void __launch_bounds__(256)
    decay_kernel(const __grid_constant__ Arguments a, float *log_decay, float *decay_bound) {
    __shared__ double partial[2][8];
    const int head = blockIdx.x, k_head = head / (a.Hv / a.Hk), warp = threadIdx.x / 32;
    const int64_t n = a.N - 1;
    const int64_t start = sequence_start(a, n), end = sequence_start(a, n + 1);
    double decay = 0.0, growth = 0.0;
    for (int64_t token = start + warp; token < end; token += 8) {
        const float square = row_square(row_pointer<T>(a.k, token, k_head), a.K);
        decay += a.g[token * a.Hv + head];
        growth += logf(fmaxf(1.0f, fabsf(1.0f - a.beta[token * a.Hv + head] * square)));
    }
    if (lane_id() == 0) {
        partial[0][warp] = decay;
        partial[1][warp] = growth;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < 8; ++w) {
            decay += partial[0][w];
            growth += partial[1][w];
        }
        if (log_decay)
            log_decay[head] = static_cast<float>(decay);
        if (decay_bound)
            decay_bound[head] = static_cast<float>(decay + growth);
    }
}

unsigned row_blocks(const Arguments &a, int heads) {
    return static_cast<unsigned>((a.T * heads + 7) / 8);
}

unsigned norm_blocks(const Arguments &a, int heads) {
    return static_cast<unsigned>((a.T * heads + NORM_ROWS - 1) / NORM_ROWS);
}

} // namespace

template <typename T>
cudaError_t launch_padding(const Arguments &a, cudaStream_t stream) {
    const dim3 grid(static_cast<unsigned>(a.multiprocessors));
    return a.arrivals ? hopper::launch_early(padding_kernel<T>, grid, 256, 0, stream, a)
                      : launch_kernel(padding_kernel<T>, grid, 256, 0, stream, a);
}

template <typename T>
cudaError_t launch_normalise(const Arguments &a, const Tensor &x, int heads, T *y,
                             cudaStream_t stream) {
    return launch_kernel(normalise_kernel<T, T>, dim3(norm_blocks(a, heads)), 32 * NORM_WARPS, 0,
                         stream, a, x, heads, y, true);
}

template <typename T>
cudaError_t launch_widen(const Arguments &a, const Tensor &x, int heads, bool norm, float *y,
                         cudaStream_t stream) {
    return launch_kernel(normalise_kernel<T, float>, dim3(norm_blocks(a, heads)), 32 * NORM_WARPS,
                         0, stream, a, x, heads, y, norm);
}

template <typename T>
cudaError_t launch_through_norm(const Arguments &a, const Tensor &x, int heads, const float *dy,
                                const Tensor &dx, cudaStream_t stream) {
    return launch_kernel(through_norm_kernel<T>, dim3(row_blocks(a, heads)), 256, 0, stream, a, x,
                         heads, dy, dx);
}

template <typename T>
cudaError_t launch_decay(const Arguments &a, float *log_decay, float *decay_bound,
                         cudaStream_t stream) {
    return launch_kernel(decay_kernel<T>, dim3(static_cast<unsigned>(a.Hv)), 256, 0, stream, a,
                         log_decay, decay_bound);
}

#define GDNI_INSTANTIATE(T)                                                                        \
    template cudaError_t launch_padding<T>(const Arguments &, cudaStream_t);                       \
    template cudaError_t launch_normalise<T>(const Arguments &, const Tensor &, int, T *,          \
                                             cudaStream_t);                                        \
    template cudaError_t launch_widen<T>(const Arguments &, const Tensor &, int, bool, float *,    \
                                         cudaStream_t);                                            \
    template cudaError_t launch_through_norm<T>(const Arguments &, const Tensor &, int,            \
                                                const float *, const Tensor &, cudaStream_t);      \
    template cudaError_t launch_decay<T>(const Arguments &, float *, float *, cudaStream_t);
GDNI_INSTANTIATE(float)
GDNI_INSTANTIATE(bf16)
GDNI_INSTANTIATE(fp16)
#undef GDNI_INSTANTIATE

} // namespace gdni
