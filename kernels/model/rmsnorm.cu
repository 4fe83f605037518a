// RMSNorm with an optional residual, forward and backward (gdn_model.h):
//
//     h = x + residual,   r = 1 / sqrt(mean(h^2) + eps),   y = r h weight
//     u = dy weight,      dx = r (u - r^2 mean(u h) h) + dh,   dweight = sum_t r_t h_t dy_t
//
// G threads a row, a warp or a CTA of 128, N vectors of 16 bytes a thread, which stay in registers:
// what has to be read is read once. Backward's CTAs go over rows and keep their part of dweight in
// registers; a second kernel adds the CTAs' parts in order (sums.cuh). Other widths take kernels
// that read rows twice. Sums are fp32 within a row and over the rows of a CTA, float64 over CTAs.
#include "../guard.h"
#include "../sums.cuh"
#include "model.h"
#include "vector.cuh"

namespace gdni {

namespace {

constexpr int THREADS = 128, WARPS = THREADS / 32;
// Of backward, where a row is a warp's: twice as many, so that CTAs, and their parts of dweight,
// are half as many.
template <int G>
constexpr int BACKWARD_THREADS = G == 32 ? 2 * THREADS : THREADS;

struct Sums { // of a row: h^2 and u h
    float square, product;
    __device__ Sums &operator+=(const Sums &other) {
        square += other.square;
        product += other.product;
        return *this;
    }
};
using gdni::sum_of_warp;
__device__ __forceinline__ Sums sum_of_warp(Sums x) {
    return {sum_of_warp(x.square), sum_of_warp(x.product)};
}

template <typename T>
struct Rows {
    const T *x, *residual, *weight, *dy, *dh;
    T *h, *y, *dx;
    float *parts; // [CTAs, D]
    int64_t tokens;
    int D;
    float eps;

    explicit Rows(const gdn_rmsnorm &p)
        : x(static_cast<const T *>(p.x)), residual(static_cast<const T *>(p.residual)),
          weight(static_cast<const T *>(p.weight)), dy(static_cast<const T *>(p.dy)),
          dh(static_cast<const T *>(p.dh)), h(static_cast<T *>(p.h)), y(static_cast<T *>(p.y)),
          dx(static_cast<T *>(p.dx)), parts(static_cast<float *>(p.workspace)), tokens(p.T), D(p.D),
          eps(static_cast<float>(p.eps)) {}
    bool whole() const {
        return whole_vectors<T>(D, {x, residual, weight, dy, dh, h, y, dx, parts});
    }
    __device__ float root(float square) const {
        return rsqrtf(square / static_cast<float>(D) + eps);
    }
};

// Of the G threads of a row, the same in all of them.
template <int G, typename S>
__device__ __forceinline__ S sum_of_row(S x, S *buffer) {
    static_assert(G == 32 || G == THREADS, "a warp or a CTA");
    if constexpr (G == 32)
        return sum_of_warp(x);
    else
        return sum_of_cta<WARPS>(x, buffer);
}

template <typename T, int G, int N>
__global__ void __launch_bounds__(THREADS) forward_kernel(const __grid_constant__ Rows<T> p) {
    constexpr int W = PIECE<T>, ROWS = THREADS / G;
    __shared__ float sums[2][WARPS];
    const int vectors = p.D / W, lane = threadIdx.x % G;
    int turn = 0;
    for (int64_t t = static_cast<int64_t>(blockIdx.x) * ROWS + threadIdx.x / G; t < p.tokens;
         t += static_cast<int64_t>(gridDim.x) * ROWS, turn ^= 1) {
        const int64_t row = t * p.D;
        Raw<T, W> h[N] = {}, add[N] = {}, weight[N] = {};
        float square = 0.0f;
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const int v = i * G + lane;
            if (v < vectors) {
                h[i] = load_raw<T, W>(p.x + row, v);
                if (p.residual)
                    add[i] = load_raw<T, W>(p.residual + row, v);
            }
        }
#pragma unroll
        for (int i = 0; i < N; ++i) // the sum waits already: these are on their way too
            if (i * G + lane < vectors)
                weight[i] = load_raw<T, W>(p.weight, i * G + lane);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const int v = i * G + lane;
            float a[W], b[W];
            if (p.residual) {
                unpack<T, W>(h[i], a);
                unpack<T, W>(add[i], b);
#pragma unroll
                for (int j = 0; j < W; ++j)
                    a[j] += b[j];
                h[i] = pack_raw<T, W>(a);
                if (v < vectors)
                    store_raw<T, W>(p.h + row, v, h[i]);
            }
            unpack<T, W>(h[i], a); // rounded, as backward will see it
#pragma unroll
            for (int j = 0; j < W; ++j)
                square = fmaf(a[j], a[j], square);
        }
        const float r = p.root(sum_of_row<G>(square, sums[turn]));
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const int v = i * G + lane;
            float a[W], w[W];
            if (v < vectors) {
                unpack<T, W>(h[i], a);
                unpack<T, W>(weight[i], w);
#pragma unroll
                for (int j = 0; j < W; ++j)
                    a[j] = w[j] * (r * a[j]);
                store<T, W>(p.y + row, v, a);
            }
        }
    }
}

template <typename T>
__global__ void __launch_bounds__(THREADS) forward_any_kernel(const __grid_constant__ Rows<T> p) {
    __shared__ float sums[2][WARPS];
    int turn = 0;
    for (int64_t t = blockIdx.x; t < p.tokens; t += gridDim.x, turn ^= 1) {
        const int64_t row = t * p.D;
        const T *h = p.residual ? p.h + row : p.x + row;
        float square = 0.0f;
        for (int i = threadIdx.x; i < p.D; i += THREADS) {
            T value = p.x[row + i];
            if (p.residual) {
                value = from_float<T>(to_float(value) + to_float(p.residual[row + i]));
                p.h[row + i] = value;
            }
            square = fmaf(to_float(value), to_float(value), square);
        }
        const float r = p.root(sum_of_cta<WARPS>(square, sums[turn]));
        for (int i = threadIdx.x; i < p.D; i += THREADS)
            p.y[row + i] = from_float<T>(to_float(p.weight[i]) * (r * to_float(h[i])));
    }
}

// A CTA's part of dweight, from its rows' in order.
template <typename T, int G, int N>
__device__ void store_parts(const Rows<T> &p, const float (&parts)[N][PIECE<T>]) {
    constexpr int W = PIECE<T>;
    constexpr int CTA = BACKWARD_THREADS<G>;
    __shared__ float4 all[G == 32 ? CTA / 32 : 1][G == 32 ? N * 32 * W / 4 : 1];
    const int vectors = p.D / W, lane = threadIdx.x % G;
    float4 *const out =
        reinterpret_cast<float4 *>(p.parts + static_cast<int64_t>(blockIdx.x) * p.D);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const int v = i * G + lane;
#pragma unroll
        for (int j = 0; j < W && v < vectors; j += 4) {
            const float4 four =
                make_float4(parts[i][j], parts[i][j + 1], parts[i][j + 2], parts[i][j + 3]);
            if constexpr (G == 32)
                all[threadIdx.x / 32][(v * W + j) / 4] = four;
            else
                out[(v * W + j) / 4] = four;
        }
    }
    if constexpr (G == 32) {
        __syncthreads();
        for (int i = threadIdx.x; i < p.D / 4; i += CTA) {
            float4 sum = all[0][i];
#pragma unroll
            for (int row = 1; row < CTA / 32; ++row) {
                const float4 x = all[row][i];
                sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
            }
            out[i] = sum;
        }
    }
}

template <typename T, int G, int N>
__global__ void __launch_bounds__(BACKWARD_THREADS<G>)
    backward_kernel(const __grid_constant__ Rows<T> p) {
    constexpr int W = PIECE<T>, ROWS = BACKWARD_THREADS<G> / G;
    __shared__ Sums sums[2][WARPS];
    let_next_start();
    const int vectors = p.D / W, lane = threadIdx.x % G;
    float parts[N][W] = {};
    int turn = 0;
    for (int64_t t = static_cast<int64_t>(blockIdx.x) * ROWS + threadIdx.x / G; t < p.tokens;
         t += static_cast<int64_t>(gridDim.x) * ROWS, turn ^= 1) {
        const int64_t row = t * p.D;
        Raw<T, W> h[N] = {}, dy[N] = {}, dh[N] = {};
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const int v = i * G + lane;
            if (v < vectors) {
                h[i] = load_raw<T, W>((p.residual ? p.h : p.x) + row, v);
                dy[i] = load_raw<T, W>(p.dy + row, v);
                if (p.dh)
                    dh[i] = load_raw<T, W>(p.dh + row, v);
            }
        }
        Sums sum = {};
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const int v = i * G + lane;
            float a[W], b[W], w[W] = {};
            unpack<T, W>(h[i], a);
            unpack<T, W>(dy[i], b);
            if (v < vectors)
                load<T, W>(p.weight, v, w);
#pragma unroll
            for (int j = 0; j < W; ++j) {
                sum.square = fmaf(a[j], a[j], sum.square);
                sum.product = fmaf(b[j] * w[j], a[j], sum.product);
            }
        }
        sum = sum_of_row<G>(sum, sums[turn]);
        const float r = p.root(sum.square);
        const float slope = r * r * sum.product / static_cast<float>(p.D);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const int v = i * G + lane;
            float a[W], b[W], w[W], add[W];
            if (v < vectors) {
                unpack<T, W>(h[i], a);
                unpack<T, W>(dy[i], b);
                unpack<T, W>(dh[i], add);
                load<T, W>(p.weight, v, w);
#pragma unroll
                for (int j = 0; j < W; ++j) {
                    parts[i][j] = fmaf(b[j], r * a[j], parts[i][j]);
                    a[j] = fmaf(r, b[j] * w[j] - slope * a[j], add[j]);
                }
                store<T, W>(p.dx + row, v, a);
            }
        }
    }
    store_parts<T, G, N>(p, parts);
}

template <typename T>
__global__ void __launch_bounds__(THREADS) backward_any_kernel(const __grid_constant__ Rows<T> p) {
    __shared__ Sums sums[2][WARPS];
    let_next_start();
    float *parts = p.parts + static_cast<int64_t>(blockIdx.x) * p.D;
    int turn = 0;
    for (int64_t t = blockIdx.x; t < p.tokens; t += gridDim.x, turn ^= 1) {
        const int64_t row = t * p.D;
        const T *h = p.residual ? p.h + row : p.x + row;
        Sums sum = {};
        for (int i = threadIdx.x; i < p.D; i += THREADS) {
            const float a = to_float(h[i]), u = to_float(p.dy[row + i]) * to_float(p.weight[i]);
            sum.square = fmaf(a, a, sum.square);
            sum.product = fmaf(u, a, sum.product);
        }
        sum = sum_of_cta<WARPS>(sum, sums[turn]);
        const float r = p.root(sum.square);
        const float slope = r * r * sum.product / static_cast<float>(p.D);
        for (int i = threadIdx.x; i < p.D; i += THREADS) {
            const float a = to_float(h[i]), b = to_float(p.dy[row + i]);
            const float add = p.dh ? to_float(p.dh[row + i]) : 0.0f;
            parts[i] = fmaf(b, r * a, t == blockIdx.x ? 0.0f : parts[i]);
            p.dx[row + i] = from_float<T>(fmaf(r, b * to_float(p.weight[i]) - slope * a, add));
        }
    }
}

// CTAs of backward: enough to keep memory busy, few enough that their parts cost little.
int parts_of(const gdni_cuda_device *device, const gdn_rmsnorm *p) {
    const int64_t row = static_cast<int64_t>(p->D) * (p->dtype == GDN_DTYPE_BF16 ? 2 : 4);
    const int64_t most = (row <= 1024 || row > 4096 ? 4
                          : row <= 2048             ? 2
                                                    : 6) *
                         device->multiprocessors;
    const int64_t wanted = (p->T + 7) / 8;
    return static_cast<int>(wanted < most ? wanted : most);
}

// The kernel for rows of so many vectors: KERNEL<T, G, N>, or `any`.
#define GDNI_FOR_WIDTH(KERNEL, any, vectors)                                                       \
    ((vectors) <= 32            ? KERNEL<T, 32, 1>                                                 \
     : (vectors) <= 64          ? KERNEL<T, 32, 2>                                                 \
     : (vectors) <= 128         ? KERNEL<T, 32, 4>                                                 \
     : (vectors) <= 2 * THREADS ? KERNEL<T, THREADS, 2>                                            \
     : (vectors) <= 4 * THREADS ? KERNEL<T, THREADS, 4>                                            \
     : (vectors) <= 8 * THREADS ? KERNEL<T, THREADS, 8>                                            \
                                : any)

template <typename T>
cudaError_t launch_forward(const Rows<T> &p, cudaStream_t stream) {
    const int vectors = p.whole() ? p.D / PIECE<T> : INT32_MAX, rows = vectors <= 128 ? WARPS : 1;
    const dim3 grid(grid_of((p.tokens + rows - 1) / rows));
    const auto kernel = GDNI_FOR_WIDTH(forward_kernel, forward_any_kernel<T>, vectors);
    return launch_kernel(kernel, grid, THREADS, 0, stream, p);
}

template <typename T>
cudaError_t launch_backward(const gdni_cuda_device *device, const Rows<T> &p, int parts,
                            float *dweight, bool accumulate, cudaStream_t stream) {
    const dim3 grid(static_cast<unsigned>(parts));
    const int vectors = p.whole() ? p.D / PIECE<T> : INT32_MAX;
    const auto kernel = GDNI_FOR_WIDTH(backward_kernel, backward_any_kernel<T>, vectors);
    const int threads = vectors <= 128 ? BACKWARD_THREADS<32> : THREADS;
    const cudaError_t error = launch_kernel(kernel, grid, threads, 0, stream, p);
    if (error != cudaSuccess)
        return error;
    return launch_sum_rows(device, {dweight, nullptr, p.parts, parts, p.D, accumulate}, stream);
}

template <typename T>
cudaError_t launch(const gdni_cuda_device *device, const gdn_rmsnorm *p, int backward,
                   cudaStream_t stream) {
    const Rows<T> rows(*p);
    if (!backward)
        return launch_forward(rows, stream);
    return launch_backward(device, rows, parts_of(device, p), static_cast<float *>(p->dweight),
                           p->accumulate, stream);
}

} // namespace

} // namespace gdni

extern "C" {

size_t gdni_rmsnorm_bytes(const gdni_cuda_device *device, const gdn_rmsnorm *p) {
    return sizeof(float) * static_cast<size_t>(gdni::parts_of(device, p)) *
           static_cast<size_t>(p->D);
}

int gdni_rmsnorm_enqueue(const gdni_cuda_device *device, const gdn_rmsnorm *p, int backward,
                         gdn_stream stream) {
    const gdni::DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    return p->dtype == GDN_DTYPE_BF16 ? gdni::launch<gdni::bf16>(device, p, backward, stream)
                                      : gdni::launch<float>(device, p, backward, stream);
}

} // extern "C"
