#include "device_data.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace {

constexpr int THREADS = 256, BLOCKS = 4096;

__device__ uint64_t mix(uint64_t z) { // the finaliser of splitmix64
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

__device__ float normal(uint64_t seed, uint64_t place) {
    const uint64_t x = mix(mix(seed * 0x9e3779b97f4a7c15u + 1) + place * 0x9e3779b97f4a7c15u);
    const float u = (static_cast<float>(x >> 40) + 0.5f) * 0x1p-24f;
    const float v = static_cast<float>(x & 0xffffff) * 0x1p-24f;
    return sqrtf(-2.0f * logf(u)) * cospif(2.0f * v);
}

__device__ void store(const device_tensor &x, int64_t i, float value) {
    if (x.dtype == GDN_DTYPE_BF16)
        static_cast<__nv_bfloat16 *>(x.data)[i] = __float2bfloat16_rn(value);
    else if (x.dtype == GDN_DTYPE_FP16)
        static_cast<__half *>(x.data)[i] = __float2half_rn(value);
    else
        static_cast<float *>(x.data)[i] = value;
}

__device__ float load(const device_tensor &x, int64_t i) {
    if (x.dtype == GDN_DTYPE_BF16)
        return __bfloat162float(static_cast<const __nv_bfloat16 *>(x.data)[i]);
    if (x.dtype == GDN_DTYPE_FP16)
        return __half2float(static_cast<const __half *>(x.data)[i]);
    return static_cast<const float *>(x.data)[i];
}

__device__ float gate(device_draw draw, float x, float size, int64_t row, int head, int heads) {
    const float softplus = x > 15.0f ? x : log1pf(expf(x));
    if (draw == DRAW_GATE_MIXED)
        size = heads > 1 ? 0.001f * powf(16000.0f, static_cast<float>(head) / (heads - 1)) : 16.0f;
    if (draw == DRAW_SATURATING)
        return row % 10 == 7 ? -5000.0f : -0.05f * softplus;
    return -size * softplus;
}

__device__ float value(device_draw draw, float x, float size, int64_t row, int head, int heads) {
    switch (draw) {
    case DRAW_GATE:
    case DRAW_GATE_MIXED:
    case DRAW_SATURATING:
        return gate(draw, x, size, row, head, heads);
    case DRAW_BETA_EDGES:
        if (row % 3 < 2)
            return static_cast<float>(row % 3);
        return 1.0f / (1.0f + expf(-x));
    case DRAW_BETA:
        return 1.0f / (1.0f + expf(-x));
    case DRAW_CONSTANT:
        return size;
    default:
        return size * x;
    }
}

// Rows that have to be measured: a warp each.
__global__ void rows_kernel(device_tensor x, device_draw draw, float size, uint64_t seed) {
    const int64_t warps = static_cast<int64_t>(gridDim.x) * THREADS / 32;
    const int lane = threadIdx.x % 32;
    for (int64_t row = (static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x) / 32;
         row < x.rows * x.heads; row += warps) {
        const auto element = [&](int i) {
            const float y = normal(seed, row * x.dim + i);
            return draw == DRAW_UNIT ? y
                                     : normal(seed + 1, row % x.heads * x.dim + i) +
                                           (draw == DRAW_CORRELATED ? 0.2f : 1.0f) * y;
        };
        float sum = 0.0f;
        for (int i = lane; i < x.dim; i += 32)
            sum += element(i) * element(i);
        for (int step = 16; step; step /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, step);
        for (int i = lane; i < x.dim; i += 32)
            store(x, row * x.dim + i, element(i) * size * rsqrtf(sum));
    }
}

__global__ void elements_kernel(device_tensor x, device_draw draw, float size, uint64_t seed) {
    const int64_t count = x.rows * x.heads * x.dim;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; i < count;
         i += static_cast<int64_t>(gridDim.x) * THREADS)
        store(x, i,
              value(draw, normal(seed, i), size, i / x.dim / x.heads,
                    static_cast<int>(i / x.dim % x.heads), x.heads));
}

__global__ void bad_kernel(device_tensor x, unsigned long long *bad) {
    const int64_t count = x.rows * x.heads * x.dim;
    unsigned long long mine = 0;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; i < count;
         i += static_cast<int64_t>(gridDim.x) * THREADS)
        mine += !isfinite(load(x, i));
    if (mine)
        atomicAdd(bad, mine);
}

__global__ void differs_kernel(const uint16_t *a, const uint16_t *b, int64_t count,
                               unsigned long long *differs) {
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; i < count;
         i += static_cast<int64_t>(gridDim.x) * THREADS)
        if (a[i] != b[i])
            *differs = 1;
}

// Runs `launch` with a counter that starts at 0, and waits for it.
template <typename Launch>
cudaError_t counted(unsigned long long *result, Launch launch) {
    unsigned long long *counter;
    cudaError_t error = cudaMalloc(&counter, sizeof(*counter));
    if (error != cudaSuccess)
        return error;
    error = cudaMemset(counter, 0, sizeof(*counter));
    if (error == cudaSuccess) {
        launch(counter);
        error = cudaGetLastError();
    }
    if (error == cudaSuccess)
        error = cudaMemcpy(result, counter, sizeof(*result), cudaMemcpyDeviceToHost);
    cudaFree(counter);
    return error;
}

} // namespace

int device_fill(const device_tensor *x, device_draw draw, double size, uint64_t seed) {
    if (x->rows == 0)
        return cudaSuccess;
    if (draw == DRAW_UNIT || draw == DRAW_CORRELATED || draw == DRAW_RELATED)
        rows_kernel<<<BLOCKS, THREADS>>>(*x, draw, static_cast<float>(size), seed);
    else
        elements_kernel<<<BLOCKS, THREADS>>>(*x, draw, static_cast<float>(size), seed);
    const cudaError_t error = cudaGetLastError();
    return error != cudaSuccess ? error : cudaDeviceSynchronize();
}

int device_count_bad(const device_tensor *x, int64_t *count) {
    unsigned long long bad = 0;
    const cudaError_t error =
        counted(&bad, [&](unsigned long long *c) { bad_kernel<<<BLOCKS, THREADS>>>(*x, c); });
    *count = static_cast<int64_t>(bad);
    return error;
}

int device_differs(const void *a, const void *b, int64_t bytes, int *differs) {
    unsigned long long found = 0;
    const cudaError_t error = counted(&found, [&](unsigned long long *c) {
        differs_kernel<<<BLOCKS, THREADS>>>(static_cast<const uint16_t *>(a),
                                            static_cast<const uint16_t *>(b), bytes / 2, c);
    });
    *differs = found != 0;
    return error;
}
