// The device of `gdn bench`: its description, memory, and the results on it.
#include "device.h"

#include <cmath>
#include <cstdio>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#define BENCH_TRY(call)                                                                            \
    do {                                                                                           \
        const cudaError_t error_ = (call);                                                         \
        if (error_ != cudaSuccess)                                                                 \
            return error_;                                                                         \
    } while (0)

namespace {

constexpr int THREADS = 1024;

__device__ float load(const float *x, int64_t i) {
    return x[i];
}
__device__ float load(const __nv_bfloat16 *x, int64_t i) {
    return __bfloat162float(x[i]);
}

template <typename X>
__global__ void __launch_bounds__(THREADS)
    slice_kernel(float *out, const X *x, int64_t rows, int64_t width, int64_t first,
                 int64_t count) {
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; i < rows * count;
         i += static_cast<int64_t>(gridDim.x) * THREADS)
        out[i] = load(x, i / count * width + first + i % count);
}

__device__ double warp_sum(double x) {
    for (int step = 16; step; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// A CTA a head: |x - y|^2 and |y|^2.
template <typename X>
__global__ void __launch_bounds__(THREADS)
    difference_kernel(double *out, const X *x, const X *y, int64_t rows, int heads, int64_t dim) {
    __shared__ double sums[2][THREADS / 32];
    const int head = blockIdx.x;
    double difference = 0.0, size = 0.0;
    for (int64_t i = threadIdx.x; i < rows * dim; i += THREADS) {
        const int64_t at = (i / dim * heads + head) * dim + i % dim;
        const double a = load(x, at), b = load(y, at);
        difference += (a - b) * (a - b);
        size += b * b;
    }
    difference = warp_sum(difference);
    size = warp_sum(size);
    if (threadIdx.x % 32 == 0) {
        sums[0][threadIdx.x / 32] = difference;
        sums[1][threadIdx.x / 32] = size;
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        difference = warp_sum(sums[0][threadIdx.x]);
        size = warp_sum(sums[1][threadIdx.x]);
        if (threadIdx.x == 0)
            out[head] = sqrt(size == 0.0 ? difference : difference / size);
    }
}

} // namespace

int gdni_bench_open(int ordinal, gdni_bench_device *device) {
    cudaDeviceProp properties;
    BENCH_TRY(cudaSetDevice(ordinal));
    BENCH_TRY(cudaGetDeviceProperties(&properties, ordinal));
    BENCH_TRY(cudaDeviceGetPCIBusId(device->bus, sizeof(device->bus), ordinal));
    BENCH_TRY(cudaDriverGetVersion(&device->driver));
    BENCH_TRY(cudaRuntimeGetVersion(&device->runtime));
    std::snprintf(device->name, sizeof(device->name), "%s", properties.name);
    device->multiprocessors = properties.multiProcessorCount;
    device->l2 = static_cast<size_t>(properties.l2CacheSize);
    device->memory = properties.totalGlobalMem;
    return cudaSuccess;
}

const char *gdni_bench_error_text(int error) {
    return cudaGetErrorString(static_cast<cudaError_t>(error));
}

int gdni_bench_allocate(size_t bytes, void **out) {
    BENCH_TRY(cudaMalloc(out, bytes ? bytes : 1));
    BENCH_TRY(cudaMemset(*out, 0xff, bytes));
    return cudaDeviceSynchronize(); // the timer's stream does not wait for this one
}

void gdni_bench_release(void *memory) {
    cudaFree(memory);
}

int gdni_bench_upload(void *to, const void *from, size_t bytes) {
    BENCH_TRY(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
    return cudaDeviceSynchronize();
}

int gdni_bench_poison(void *memory, size_t bytes, gdn_stream stream) {
    return cudaMemsetAsync(memory, 0xff, bytes, stream);
}

int gdni_bench_gather(const gdni_bench_slice *s, float *out, gdn_stream stream) {
    const int64_t blocks = (s->rows * s->count + THREADS - 1) / THREADS;
    const unsigned grid = static_cast<unsigned>(blocks > 4096 ? 4096 : blocks);
    if (!blocks)
        return cudaSuccess;
    if (s->dtype == GDN_DTYPE_BF16)
        slice_kernel<<<grid, THREADS, 0, stream>>>(out, static_cast<const __nv_bfloat16 *>(s->x),
                                                   s->rows, s->width, s->first, s->count);
    else
        slice_kernel<<<grid, THREADS, 0, stream>>>(out, static_cast<const float *>(s->x), s->rows,
                                                   s->width, s->first, s->count);
    return cudaGetLastError();
}

int gdni_bench_fetch(const gdni_bench_slice *s, float *host, gdn_stream stream) {
    const size_t bytes = sizeof(float) * static_cast<size_t>(s->rows * s->count);
    void *dense;
    if (!bytes)
        return cudaSuccess;
    BENCH_TRY(cudaMalloc(&dense, bytes));
    int error = gdni_bench_gather(s, static_cast<float *>(dense), stream);
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(stream);
    if (error == cudaSuccess)
        error = cudaMemcpy(host, dense, bytes, cudaMemcpyDeviceToHost);
    cudaFree(dense);
    return error;
}

int gdni_bench_difference(const gdni_bench_slice *x, const void *y, int heads, double *error,
                          gdn_stream stream) {
    const int64_t dim = x->width / heads;
    const unsigned grid = static_cast<unsigned>(heads);
    void *memory;
    BENCH_TRY(cudaMalloc(&memory, sizeof(double) * static_cast<size_t>(heads)));
    double *out = static_cast<double *>(memory);
    if (x->dtype == GDN_DTYPE_BF16)
        difference_kernel<<<grid, THREADS, 0, stream>>>(
            out, static_cast<const __nv_bfloat16 *>(x->x), static_cast<const __nv_bfloat16 *>(y),
            x->rows, heads, dim);
    else
        difference_kernel<<<grid, THREADS, 0, stream>>>(out, static_cast<const float *>(x->x),
                                                        static_cast<const float *>(y), x->rows,
                                                        heads, dim);
    cudaError_t code = cudaGetLastError();
    if (code == cudaSuccess)
        code = cudaStreamSynchronize(stream);
    if (code == cudaSuccess)
        code = cudaMemcpy(error, out, sizeof(double) * static_cast<size_t>(heads),
                          cudaMemcpyDeviceToHost);
    cudaFree(memory);
    return code;
}
