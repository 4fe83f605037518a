// The chunk table and, where no sequence is cut, the work items, from cu_seqlens on the device:
// nothing about the sequences is known to the host.
//
// Sequence n has ceil(len_n / C) chunks, so T / C + N bounds their number; kernels are launched for
// the bound and leave where no chunk is. Bad bounds of a sequence are clamped, and so is the number
// of chunks: sequences that overlap would have more than there is room for.
//
// Backward's chunk-parallel pass may begin while the chains run: it takes chunks in the order in
// which both chains get done with them, where nothing is cut, and otherwise as they follow.
#include "stages.h"

namespace gdni {

namespace {

constexpr int THREADS = 1024, CHUNK_THREADS = 256;

// start [N + 1]: first chunks of the sequences, an exclusive sum by one CTA, COUNT sequences at a
// time.
template <int COUNT>
__device__ void find_starts(const Arguments &a, int chunk, int64_t *start) {
    __shared__ int64_t warp_sums[COUNT / 32];
    int64_t base = 0;
    for (int64_t first = 0; first < a.N; first += COUNT) {
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
        for (int w = 0; w < COUNT / 32; ++w) {
            if (w == static_cast<int>(threadIdx.x / 32))
                before = total;
            total += warp_sums[w];
        }
        if (n < a.N) {
            const int64_t at = base + before + sum - count;
            start[n] = at < a.max_chunks ? at : a.max_chunks;
        }
        base += total;
        __syncthreads();
    }
    if (threadIdx.x == 0)
        start[a.N] = base < a.max_chunks ? base : a.max_chunks;
    __syncthreads();
}

__global__ void __launch_bounds__(THREADS)
    index_sequences_kernel(const __grid_constant__ Arguments a, int chunk) {
    find_starts<THREADS>(a, chunk, a.chunk_start);
}

// How many of a run of `length` chunks both chains have done with after `steps` chunks each.
__device__ int64_t chunks_done(int64_t length, int64_t steps) {
    const int64_t count = 2 * steps - length;
    return count < 0 ? 0 : count < length ? count : length;
}

// More sequences fill the device, whatever the order.
constexpr int MOST_ORDERED = 64;

// The place of chunk `at` of sequence `own` in the order in which they have done with it: from the
// middle of each sequence to its ends.
__device__ int64_t order_of(const Arguments &a, const int64_t *start, int64_t own, int64_t at) {
    const int64_t length = start[own + 1] - start[own];
    const int64_t steps = at + 1 > length - at ? at + 1 : length - at;
    int64_t before = at == steps - 1 && at != length - steps; // behind its twin
    for (int64_t n = 0; n < a.N; ++n) {
        const int64_t other = start[n + 1] - start[n];
        before += chunks_done(other, n < own ? steps : steps - 1);
    }
    return before;
}

// chunks: which sequence a chunk belongs to, by bisection. items: where nothing is cut, all of
// them. alone: there are few sequences, and every CTA finds where they start by itself.
__global__ void __launch_bounds__(CHUNK_THREADS)
    index_chunks_kernel(const __grid_constant__ Arguments a, int chunk, bool alone) {
    __shared__ int64_t starts[CHUNK_THREADS + 1];
    const int64_t *start = a.chunk_start;
    let_next_start();
    if (alone) {
        find_starts<CHUNK_THREADS>(a, chunk, starts);
        start = starts;
        if (blockIdx.x == 0)
            for (int64_t n = threadIdx.x; n <= a.N; n += CHUNK_THREADS)
                a.chunk_start[n] = starts[n];
    }
    const int64_t i = static_cast<int64_t>(blockIdx.x) * CHUNK_THREADS + threadIdx.x;
    const int64_t items = a.plan.segments == 1 ? a.sequences * a.Hv : 0;
    if (i < items) {
        const int64_t n = a.first_sequence + i / a.Hv;
        gdni_plan_problem p = a.plan;
        p.chunk_start = start;
        a.items[i] = gdni_plan_item(&p, n, n, 0, 1, static_cast<int32_t>(i % a.Hv), {}, {});
        if (i == 0)
            *a.item_count = static_cast<int32_t>(items);
    }
    if (a.arrivals) {
        const int64_t step = static_cast<int64_t>(gridDim.x) * CHUNK_THREADS;
        for (int64_t j = i; j < a.max_chunks * a.Hk; j += step)
            a.arrivals[j] = 0;
        if (i == 0)
            *a.next_group = 0;
    }
    if (i >= start[a.N])
        return;
    int64_t low = 0, high = a.N; // start[low] <= i < start[high]
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (start[middle] <= i)
            low = middle;
        else
            high = middle;
    }
    const int64_t token = sequence_start(a, low) + (i - start[low]) * chunk;
    const int64_t left = sequence_start(a, low + 1) - token;
    a.chunks[i] = {token, static_cast<int32_t>(left < chunk ? left : chunk),
                   static_cast<int32_t>(low)};
    if (a.order) {
        const bool sorted = a.plan.segments == 1 && a.N <= MOST_ORDERED;
        a.order[sorted ? order_of(a, start, low, i - start[low]) : i] = static_cast<int32_t>(i);
    }
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
    const bool alone = a.N <= CHUNK_THREADS;
    if (!alone) {
        const cudaError_t error =
            launch_kernel(index_sequences_kernel, dim3(1), THREADS, 0, stream, a, chunk);
        if (error != cudaSuccess)
            return error;
    }
    const int64_t count = a.max_chunks > a.max_items ? a.max_chunks : a.max_items;
    const dim3 grid(static_cast<unsigned>((count + CHUNK_THREADS - 1) / CHUNK_THREADS));
    return launch_kernel(index_chunks_kernel, grid, CHUNK_THREADS, 0, stream, a, chunk, alone);
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
