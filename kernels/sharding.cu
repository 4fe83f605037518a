// Sequences that go on in other shards: which heads forget within a run of tokens, how much of the
// run a segment pass has to read, and a neighbour's state through M. All decisions stay on the
// device, so that no call waits for it.
//
//     block_sums    sums of the bound over blocks of 64 tokens, counted from the end of the run that
//                   shorter parts keep; a CTA a block and k-head
//     decide        a warp a head: sums over parts of 64, 128, ... tokens and over the run, in a
//                   fixed order and in double; then one thread settles the part for all heads
//     apply         out += M in, fp32, a CTA 16 rows of a head
#include "guard.h"
#include "launch.h"
#include "portable/stages.h"
#include "portable/tile.cuh"

#include <cmath>

namespace gdni {

namespace {

constexpr int BLOCK = GDNI_RUN_BLOCK, THREADS = 256, WARPS = THREADS / 32;
constexpr int DECIDE_WARPS = 16, APPLY_ROWS = 16;

__device__ double warp_sum(double x) {
    for (int step = 16; step > 0; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

struct Run {
    Tensor k;
    const float *g, *beta;
    int64_t count, blocks;
    int Hk, Hv, K;
    bool norm, from_start;
    double threshold;
    double *sums; // [Hv][blocks]
};

// |row|^2 by one warp, in pieces of 16 bytes where rows start at multiples of them.
template <typename T>
__device__ float row_square(const T *x, int K, bool aligned) {
    constexpr int PIECE = 16 / sizeof(T);
    float sum = 0.0f;
    if (aligned) {
        for (int i = PIECE * lane_id(); i < K; i += 32 * PIECE) {
            const uint4 raw = *reinterpret_cast<const uint4 *>(x + i);
            const T *piece = reinterpret_cast<const T *>(&raw);
#pragma unroll
            for (int j = 0; j < PIECE; ++j)
                sum = fmaf(to_float(piece[j]), to_float(piece[j]), sum);
        }
    } else {
        for (int i = lane_id(); i < K; i += 32)
            sum = fmaf(to_float(x[i]), to_float(x[i]), sum);
    }
    return sum_over_rows(sum_over_columns(sum));
}

template <typename T>
__global__ void __launch_bounds__(THREADS) block_sums_kernel(const __grid_constant__ Run r) {
    __shared__ float squares[BLOCK];
    const int64_t block = blockIdx.x, before = block * BLOCK;
    const int64_t left = r.count - before;
    const int rows = static_cast<int>(left < BLOCK ? left : BLOCK);
    const int64_t first = r.from_start ? before : r.count - before - rows;
    const int k_head = blockIdx.y, group = r.Hv / r.Hk, warp = threadIdx.x / 32;
    // Keys that are normalised need not be read: 1 bounds their |k|^2 as well. All loads of a warp
    // start together: rows past the end are the last one.
#pragma unroll
    for (int i = warp; i < BLOCK; i += WARPS) {
        const int64_t row = first + (i < rows ? i : rows - 1);
        const float square =
            r.norm ? 1.0f : row_square(row_pointer<T>(r.k, row, k_head), r.K, r.k.aligned);
        if (lane_id() == 0)
            squares[i] = square;
    }
    __syncthreads();
    for (int j = warp; j < group; j += WARPS) {
        const int head = k_head * group + j;
        double bound = 0.0;
        for (int i = lane_id(); i < rows; i += 32) {
            const int64_t at = (first + i) * r.Hv + head;
            bound += r.g[at] + logf(fmaxf(1.0f, fabsf(1.0f - r.beta[at] * squares[i])));
        }
        bound = warp_sum(bound);
        if (lane_id() == 0)
            r.sums[head * r.blocks + block] = bound;
    }
}

// The sum of blocks [from, to) of one head, by one warp.
__device__ double sum_blocks(const double *sums, int64_t from, int64_t to) {
    double sum = 0.0;
#pragma unroll 4
    for (int64_t i = from + lane_id(); i < to; i += 32)
        sum += sums[i];
    return warp_sum(sum);
}

__global__ void __launch_bounds__(32 * DECIDE_WARPS)
    decide_kernel(const __grid_constant__ Run r, int32_t *final, int64_t *cut) {
    __shared__ int64_t lengths[DECIDE_WARPS];
    __shared__ int exact[DECIDE_WARPS];
    const int warp = threadIdx.x / 32;
    int64_t longest = 0; // of the parts that this warp's heads need
    int any_exact = 0;
    for (int head = warp; head < r.Hv; head += DECIDE_WARPS) {
        const double *sums = r.sums + head * r.blocks;
        double bound = 0.0;
        int64_t done = 0, length = 0; // length: the shortest part from which on all are below
        for (int64_t part = 1; part * BLOCK < r.count; part *= 2) {
            bound += sum_blocks(sums, done, part);
            done = part;
            if (!(static_cast<float>(bound) < r.threshold))
                length = 0;
            else if (length == 0)
                length = part * BLOCK;
        }
        bound += sum_blocks(sums, done, r.blocks);
        const int below = static_cast<float>(bound) < r.threshold;
        if (!below || length == 0)
            length = r.count;
        longest = length > longest ? length : longest;
        any_exact |= !below;
        if (lane_id() == 0 && final)
            final[head] = below;
    }
    if (lane_id() == 0) {
        lengths[warp] = longest;
        exact[warp] = any_exact;
    }
    __syncthreads();
    if (threadIdx.x > 0)
        return;
    for (int w = 1; w < DECIDE_WARPS; ++w) {
        longest = lengths[w] > longest ? lengths[w] : longest;
        any_exact |= exact[w];
    }
    cut[0] = r.from_start ? 0 : r.count - longest;
    cut[1] = r.from_start ? longest : r.count;
    cut[2] = any_exact ? 0 : r.count;
    cut[3] = r.count;
}

__global__ void choose_kernel(float *to, const float *from, const int64_t *cut, int64_t tokens,
                              int64_t elements) {
    const bool whole = cut[1] - cut[0] == tokens;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < elements;
         i += static_cast<int64_t>(gridDim.x) * blockDim.x)
        to[i] = whole ? from[i] : 0.0f;
}

__global__ void identity_kernel(float *to, int K) {
    float *M = to + static_cast<int64_t>(blockIdx.x) * K * K;
    for (int i = threadIdx.x; i < K * K; i += blockDim.x)
        M[i] = i / K == i % K ? 1.0f : 0.0f;
}

// Thread j: column j of APPLY_ROWS rows. Rows of M, or its columns, through shared memory.
__global__ void __launch_bounds__(256)
    apply_kernel(const __grid_constant__ gdni_sharding_step s, int K, int V) {
    extern __shared__ float tile[]; // [K][APPLY_ROWS]
    const int head = blockIdx.x, first = blockIdx.y * APPLY_ROWS;
    if (s.final[head])
        return;
    const float *M = s.M + static_cast<int64_t>(head) * K * K;
    const float *in = s.in + static_cast<int64_t>(head) * K * V;
    float *out = s.out + static_cast<int64_t>(head) * K * V;
    for (int x = threadIdx.x; x < APPLY_ROWS * K; x += blockDim.x) {
        const int row = s.transposed ? x % APPLY_ROWS : x / K;
        const int k = s.transposed ? x / APPLY_ROWS : x % K;
        tile[k * APPLY_ROWS + row] =
            s.transposed ? M[k * K + first + row] : M[(first + row) * K + k];
    }
    __syncthreads();
    for (int j = threadIdx.x; j < V; j += blockDim.x) {
        float sums[APPLY_ROWS] = {};
        for (int k = 0; k < K; ++k) {
            const float x = in[k * V + j];
#pragma unroll
            for (int i = 0; i < APPLY_ROWS; ++i)
                sums[i] = fmaf(tile[k * APPLY_ROWS + i], x, sums[i]);
        }
#pragma unroll
        for (int i = 0; i < APPLY_ROWS; ++i)
            out[(first + i) * V + j] += sums[i];
    }
}

template <typename T>
__global__ void add_kernel(T *sum, const T *term, int64_t count) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count)
        sum[i] = from_float<T>(to_float(sum[i]) + to_float(term[i]));
}

__global__ void mark_kernel(volatile uint32_t *words, uint32_t what) {
    words[1] = what;
    __threadfence_system();
    words[0] = words[0] + 1;
}

template <typename T>
cudaError_t launch_add(void *sum, const void *term, int64_t count, cudaStream_t stream) {
    return launch_kernel(add_kernel<T>,
                         dim3(static_cast<unsigned>((count + THREADS - 1) / THREADS)), THREADS, 0,
                         stream, static_cast<T *>(sum), static_cast<const T *>(term), count);
}

template <typename T>
cudaError_t launch_block_sums(const Run &r, cudaStream_t stream) {
    return launch_kernel(
        block_sums_kernel<T>,
        dim3(static_cast<unsigned>(r.blocks), static_cast<unsigned>(r.blocks ? r.Hk : 0)), THREADS,
        0, stream, r);
}

} // namespace

} // namespace gdni

extern "C" {

int gdni_sharding_decide(const gdni_cuda_device *device, const gdn_problem *p, const gdn_tensors *t,
                         const gdni_sharding_run *run, gdn_stream stream) {
    using namespace gdni;
    const DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    Run r = {};
    const auto whole = [p](int64_t elements) {
        return elements * static_cast<int64_t>(gdn_dtype_size(p->dtype)) % 16 == 0;
    };
    r.k = {const_cast<void *>(t->k), p->k_strides.token, p->k_strides.head,
           reinterpret_cast<uintptr_t>(t->k) % 16 == 0 && whole(p->k_strides.token) &&
               whole(p->k_strides.head)};
    r.g = static_cast<const float *>(t->g);
    r.beta = static_cast<const float *>(t->beta);
    r.count = p->T;
    r.blocks = (p->T + BLOCK - 1) / BLOCK;
    r.Hk = p->Hk, r.Hv = p->Hv, r.K = p->K;
    r.norm = p->flags & GDN_FLAG_L2NORM_QK;
    r.from_start = run->from_start;
    r.threshold = run->threshold;
    r.sums = run->sums;
    const cudaError_t error = p->dtype == GDN_DTYPE_BF16   ? launch_block_sums<bf16>(r, stream)
                              : p->dtype == GDN_DTYPE_FP16 ? launch_block_sums<fp16>(r, stream)
                                                           : launch_block_sums<float>(r, stream);
    if (error != cudaSuccess)
        return error;
    return launch_kernel(decide_kernel, dim3(1), 32 * DECIDE_WARPS, 0, stream, r, run->final,
                         run->cut);
}

int gdni_sharding_choose(const gdni_cuda_device *device, float *to, const float *from,
                         const int64_t *cut, int64_t tokens, int64_t elements, gdn_stream stream) {
    const gdni::DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    return gdni::launch_kernel(gdni::choose_kernel,
                               dim3(static_cast<unsigned>(device->multiprocessors)), 256, 0, stream,
                               to, from, cut, tokens, elements);
}

int gdni_sharding_identity(const gdni_cuda_device *device, float *to, int32_t heads, int32_t K,
                           gdn_stream stream) {
    const gdni::DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    return gdni::launch_kernel(gdni::identity_kernel, dim3(static_cast<unsigned>(heads)), 256, 0,
                               stream, to, K);
}

int gdni_sharding_apply(const gdni_cuda_device *device, const gdn_problem *p,
                        const gdni_sharding_step *step, gdn_stream stream) {
    const gdni::DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    const dim3 grid(static_cast<unsigned>(p->Hv), static_cast<unsigned>(p->K / gdni::APPLY_ROWS));
    const size_t shared = sizeof(float) * gdni::APPLY_ROWS * static_cast<size_t>(p->K);
    return gdni::launch_kernel(gdni::apply_kernel, grid, p->V < 256 ? p->V : 256, shared, stream,
                               *step, p->K, p->V);
}

int gdni_sharding_add(int device, gdn_dtype dtype, void *sum, const void *term, int64_t count,
                      gdn_stream stream) {
    const gdni::DeviceGuard guard(device);
    if (guard.error() != cudaSuccess)
        return guard.error();
    return dtype == GDN_DTYPE_BF16 ? gdni::launch_add<gdni::bf16>(sum, term, count, stream)
                                   : gdni::launch_add<float>(sum, term, count, stream);
}

int gdni_sharding_mark(int device, uint32_t *words, uint32_t what, gdn_stream stream) {
    const gdni::DeviceGuard guard(device);
    if (guard.error() != cudaSuccess)
        return guard.error();
    return gdni::launch_kernel(gdni::mark_kernel, dim3(1), 1, 0, stream,
                               static_cast<volatile uint32_t *>(words), what);
}

} // extern "C"
