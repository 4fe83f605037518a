// A plain copy, 16 bytes at a time: what memory-bound kernels are measured against.
#include "parts.h"

#include <cuda_runtime.h>

namespace {

constexpr int THREADS = 256, AHEAD = 4;

__global__ void __launch_bounds__(THREADS) copy_kernel(uint4 *to, const uint4 *from, size_t count) {
    const size_t first = static_cast<size_t>(blockIdx.x) * THREADS * AHEAD + threadIdx.x;
    uint4 x[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i)
        if (first + i * THREADS < count)
            x[i] = from[first + i * THREADS];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i)
        if (first + i * THREADS < count)
            to[first + i * THREADS] = x[i];
}

} // namespace

int bench_copy(void *to, const void *from, size_t bytes, gdn_stream stream) {
    const size_t count = bytes / sizeof(uint4), step = THREADS * AHEAD;
    copy_kernel<<<static_cast<unsigned>((count + step - 1) / step), THREADS, 0, stream>>>(
        static_cast<uint4 *>(to), static_cast<const uint4 *>(from), count);
    return cudaGetLastError();
}
