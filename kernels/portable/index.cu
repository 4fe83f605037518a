// The chunk table and, where no sequence is cut, the work items, from cu_seqlens on the device:
// nothing about the sequences is known to the host.
//
// Sequence n has ceil(len_n / C) chunks, so T / C + N bounds their number; kernels are launched for
// the bound and leave where no chunk is. Bad bounds of a sequence are clamped, and so is the number
// of chunks: sequences that overlap would have more than there is room for.
#include "stages.h"

namespace gdni {

namespace {

constexpr int THREADS = 1024;

// chunk_start [N + 1]: an exclusive sum by one CTA, 1024 sequences at a time.
__global__ void __launch_bounds__(THREADS)
    index_sequences_kernel(const __grid_constant__ Arguments a, int chunk) {
    __shared__ int64_t warp_sums[32];
    int64_t base = 0;
    for (int64_t first = 0; first < a.N; first += THREADS) {
        const int64_t n = first + threadIdx.x;
        int64_t count = 0;
        if (n < a.N) {
            const int64_t length = sequence_start(a, n + 1) - sequence_start(a, n);
            count = length > 0 ? (length + chunk - 1) / chunk : 0;
        }
        int64_t sum = count;
        for (int step = 1; step < 32; step *= 2) {
            const int64_t other = __shfl_up_sync(0xffffffffu, sum, step);
            if (threadIdx.x % 32 >= step)
                sum += other;
        }
        if (threadIdx.x % 32 == 31)
            warp_sums[threadIdx.x / 32] = sum;
        __syncthreads();
        int64_t total = 0, before = 0;
        for (int w = 0; w < THREADS / 32; ++w) {
            if (w == static_cast<int>(threadIdx.x / 32))
                before = total;
            total += warp_sums[w];
        }
        if (n < a.N) {
            const int64_t start = base + before + sum - count;
            a.chunk_start[n] = start < a.max_chunks ? start : a.max_chunks;
        }
        base += total;
        __syncthreads();
    }
    if (threadIdx.x == 0)
        a.chunk_start[a.N] = base < a.max_chunks ? base : a.max_chunks;
}

// chunks: which sequence a chunk belongs to, by bisection. items: where nothing is cut, all of
// them.
__global__ void index_chunks_kernel(const __grid_constant__ Arguments a, int chunk) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const int64_t items = a.plan.segments == 1 ? a.sequences * a.Hv : 0;
    if (i < items) {
        const int64_t n = a.first_sequence + i / a.Hv;
        gdni_plan_problem p = a.plan;
        p.chunk_start = a.chunk_start;
        a.items[i] = gdni_plan_item(&p, n, n, 0, 1, static_cast<int32_t>(i % a.Hv));
        if (i == 0)
            *a.item_count = static_cast<int32_t>(items);
    }
    if (i >= a.chunk_start[a.N])
        return;
    int64_t low = 0, high = a.N; // chunk_start[low] <= i < chunk_start[high]
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (a.chunk_start[middle] <= i)
            low = middle;
        else
            high = middle;
    }
    const int64_t token = sequence_start(a, low) + (i - a.chunk_start[low]) * chunk;
    const int64_t left = sequence_start(a, low + 1) - token;
    a.chunks[i] = {token, static_cast<int32_t>(left < chunk ? left : chunk),
                   static_cast<int32_t>(low)};
}

constexpr int UPLOAD = 448;
struct UploadValues {
    int64_t value[UPLOAD];
};

__global__ void upload_kernel(int64_t *to, const __grid_constant__ UploadValues values,
                              int64_t count) {
    if (threadIdx.x < count)
        to[threadIdx.x] = values.value[threadIdx.x];
}

__global__ void copy_kernel(float *to, const float *from, int64_t count) {
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
         i += static_cast<int64_t>(gridDim.x) * blockDim.x)
        to[i] = from ? from[i] : 0.0f;
}

__global__ void sum_kernel(float *out_g, float *out_beta, const float *g, const float *beta,
                           int64_t count, int splits) {
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
         i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        float x = 0.0f, y = 0.0f;
        for (int s = 0; s < splits; ++s) {
            x += g[s * count + i];
            y += beta[s * count + i];
        }
        out_g[i] = x;
        out_beta[i] = y;
    }
}

unsigned blocks(int64_t count, int threads) {
    const int64_t n = (count + threads - 1) / threads;
    return static_cast<unsigned>(n < 65536 ? n : 65536);
}

} // namespace

cudaError_t launch_index(const Arguments &a, int chunk, cudaStream_t stream) {
    const cudaError_t error =
        launch_kernel(index_sequences_kernel, dim3(1), THREADS, 0, stream, a, chunk);
    if (error != cudaSuccess)
        return error;
    const int64_t count = a.max_chunks > a.max_items ? a.max_chunks : a.max_items;
    return launch_kernel(index_chunks_kernel, dim3(static_cast<unsigned>((count + 255) / 256)), 256,
                         0, stream, a, chunk);
}

cudaError_t launch_upload(int64_t *to, const int64_t *host, int64_t count, cudaStream_t stream) {
    for (int64_t i = 0; i < count; i += UPLOAD) {
        UploadValues values;
        const int64_t n = count - i < UPLOAD ? count - i : UPLOAD;
        for (int64_t j = 0; j < n; ++j)
            values.value[j] = host[i + j];
        const cudaError_t error =
            launch_kernel(upload_kernel, dim3(1), UPLOAD, 0, stream, to + i, values, n);
        if (error != cudaSuccess)
            return error;
    }
    return cudaSuccess;
}

cudaError_t launch_copy(float *to, const float *from, int64_t count, cudaStream_t stream) {
    return launch_kernel(copy_kernel, dim3(blocks(count, 256)), 256, 0, stream, to, from, count);
}

cudaError_t launch_sum(float *out_g, float *out_beta, const float *g, const float *beta,
                       int64_t count, int splits, cudaStream_t stream) {
    return launch_kernel(sum_kernel, dim3(blocks(count, 256)), 256, 0, stream, out_g, out_beta, g,
                         beta, count, splits);
}

} // namespace gdni
