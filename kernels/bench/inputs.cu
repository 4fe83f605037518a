// Random inputs of `gdn bench`, drawn on the device: every number is a function of seed and place.
#include "device.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace {

constexpr int THREADS = 256;

// The finaliser of splitmix64: a bijection that scatters neighbouring counters.
__device__ uint64_t scatter(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// Box and Muller: the two halves of one hashed counter are the radius and the angle.
__device__ float draw_normal(uint64_t seed, int64_t place) {
    const uint64_t bits = scatter(seed + static_cast<uint64_t>(place) * 0x9e3779b97f4a7c15u);
    const float u = (static_cast<float>(bits >> 40) + 0.5f) * 0x1p-24f;
    const float angle = static_cast<float>(bits & 0xffffff) * 0x1p-23f;
    return sqrtf(-2.0f * logf(u)) * cospif(angle);
}

__device__ void store(float *out, int64_t i, float x) {
    out[i] = x;
}
__device__ void store(__nv_bfloat16 *out, int64_t i, float x) {
    out[i] = __float2bfloat16_rn(x);
}

template <typename X>
__global__ void __launch_bounds__(THREADS)
    fill_kernel(X *out, gdni_bench_draw draw, int64_t count, float size, uint64_t seed) {
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; i < count;
         i += static_cast<int64_t>(gridDim.x) * THREADS) {
        float x = draw_normal(seed, i);
        if (draw == GDNI_BENCH_GATE)
            x = -log1pf(expf(-x));
        else if (draw == GDNI_BENCH_SIGMOID)
            x = 1.0f / (1.0f + expf(-x));
        store(out, i, size * x);
    }
}

// A warp a row.
template <typename X>
__global__ void __launch_bounds__(THREADS)
    fill_unit_kernel(X *out, int64_t rows, int64_t dim, uint64_t seed) {
    const int lane = threadIdx.x % 32;
    for (int64_t row = (static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x) / 32; row < rows;
         row += static_cast<int64_t>(gridDim.x) * (THREADS / 32)) {
        float sum = 0.0f;
        for (int64_t i = lane; i < dim; i += 32) {
            const float x = draw_normal(seed, row * dim + i);
            sum += x * x;
        }
        for (int step = 16; step; step /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, step);
        const float scale = rsqrtf(sum);
        for (int64_t i = lane; i < dim; i += 32)
            store(out, row * dim + i, scale * draw_normal(seed, row * dim + i));
    }
}

struct Heads {
    unsigned char zero[256];
};

__global__ void __launch_bounds__(THREADS)
    clear_heads_kernel(float *x, int64_t count, int heads, const __grid_constant__ Heads which) {
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; i < count;
         i += static_cast<int64_t>(gridDim.x) * THREADS)
        if (which.zero[i % heads])
            x[i] = 0.0f;
}

unsigned blocks(int64_t threads) {
    const int64_t n = (threads + THREADS - 1) / THREADS;
    return static_cast<unsigned>(n < 1 ? 1 : n > 16384 ? 16384 : n);
}

template <typename X>
void launch(const gdni_bench_fill &f, void *out, cudaStream_t stream) {
    const uint64_t seed = f.seed * 0xd1342543de82ef95u;
    if (f.draw == GDNI_BENCH_UNIT)
        fill_unit_kernel<<<blocks(f.rows * 32), THREADS, 0, stream>>>(static_cast<X *>(out), f.rows,
                                                                      f.dim, seed);
    else
        fill_kernel<<<blocks(f.rows * f.dim), THREADS, 0, stream>>>(static_cast<X *>(out), f.draw,
                                                                    f.rows * f.dim, f.size, seed);
}

} // namespace

int gdni_bench_random(const gdni_bench_fill *fill, void *out, gdn_stream stream) {
    if (fill->dtype == GDN_DTYPE_BF16)
        launch<__nv_bfloat16>(*fill, out, stream);
    else
        launch<float>(*fill, out, stream);
    return cudaGetLastError();
}

int gdni_bench_clear_heads(float *x, int64_t rows, int heads, const unsigned char *zero,
                           gdn_stream stream) {
    Heads which = {};
    if (heads > static_cast<int>(sizeof(which.zero)))
        return cudaErrorInvalidValue;
    for (int h = 0; h < heads; ++h)
        which.zero[h] = zero[h];
    clear_heads_kernel<<<blocks(rows * heads), THREADS, 0, stream>>>(x, rows * heads, heads, which);
    return cudaGetLastError();
}
