// y_t = weight[tokens_t],   dweight[i] = sum of dy_t over the tokens t that are i, in their order.
//
// Backward sorts the positions by token (stable, so that each token's stay in order) and cuts the
// sorted list into runs of 64, whatever the tokens: a text is one third three tokens. A CTA a run
// adds rows of dy; the sum of a token that lies within one run goes to dweight, what crosses a
// border goes to the workspace, and a last kernel, a CTA for each run whose last token goes on,
// adds those pieces in order. Without accumulation the rows of absent tokens are set to 0.
//
//     workspace    keys, positions: two each [T] uint32 | first [vocab + 1] int64: where a token's
//                  positions begin | pieces [runs][2][D] fp32 | the sort's own
//
// A token outside the vocabulary gives NaN, and no gradient.
#include "../guard.h"
#include "model.h"
#include "vector.cuh"

#include <cub/device/device_radix_sort.cuh>

namespace gdni {

namespace {

constexpr int THREADS = 128, ROWS = 4, RUN = 64, AHEAD = 8;

template <typename T, int W>
__global__ void __launch_bounds__(THREADS) gather_kernel(const __grid_constant__ gdn_embedding p) {
    const int vectors = p.D / W;
    for (int64_t first = static_cast<int64_t>(blockIdx.x) * ROWS; first < p.T;
         first += static_cast<int64_t>(gridDim.x) * ROWS) {
        const T *from[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const int32_t token = first + i < p.T ? p.tokens[first + i] : -1;
            from[i] = token >= 0 && token < p.vocab
                          ? static_cast<const T *>(p.weight) + static_cast<int64_t>(token) * p.D
                          : nullptr;
        }
        for (int v = threadIdx.x; v < vectors; v += THREADS) {
            Raw<T, W> row[ROWS];
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                float nan[W];
#pragma unroll
                for (int j = 0; j < W; ++j)
                    nan[j] = __int_as_float(0x7fc00000);
                row[i] = from[i] ? load_raw<T, W>(from[i], v) : pack_raw<T, W>(nan);
            }
#pragma unroll
            for (int i = 0; i < ROWS; ++i)
                if (first + i < p.T)
                    store_raw<T, W>(static_cast<T *>(p.y) + (first + i) * p.D, v, row[i]);
        }
    }
}

// The workspace of backward.
struct Workspace {
    uint32_t *keys[2], *positions[2];
    int64_t *first;
    float *pieces;
    void *sort;
    size_t sort_bytes, bytes;
};

cudaError_t lay_out(const gdn_embedding &p, Workspace *w) {
    char *at = static_cast<char *>(p.workspace);
    const auto take = [&](size_t bytes) {
        char *const here = at;
        at += (bytes + 255) / 256 * 256;
        return static_cast<void *>(here);
    };
    const size_t T = static_cast<size_t>(p.T), runs = (T + RUN - 1) / RUN;
    for (int i = 0; i < 2; ++i) {
        w->keys[i] = static_cast<uint32_t *>(take(T * sizeof(uint32_t)));
        w->positions[i] = static_cast<uint32_t *>(take(T * sizeof(uint32_t)));
    }
    w->first = static_cast<int64_t *>(take((static_cast<size_t>(p.vocab) + 1) * sizeof(int64_t)));
    w->pieces = static_cast<float *>(take(runs * 2 * static_cast<size_t>(p.D) * sizeof(float)));
    const cudaError_t error = cub::DeviceRadixSort::SortPairs(
        nullptr, w->sort_bytes, w->keys[0], w->keys[1], w->positions[0], w->positions[1], p.T);
    w->sort = take(w->sort_bytes);
    w->bytes = static_cast<size_t>(at - static_cast<char *>(p.workspace));
    return error;
}

__global__ void __launch_bounds__(256)
    keys_kernel(const int32_t *tokens, int64_t T, int32_t vocab, uint32_t *keys, uint32_t *at) {
    for (int64_t t = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; t < T;
         t += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        const int32_t token = tokens[t];
        keys[t] = static_cast<uint32_t>(token >= 0 && token < vocab ? token : vocab);
        at[t] = static_cast<uint32_t>(t);
    }
}

// first[i]: how many sorted keys are below i.
__global__ void __launch_bounds__(256)
    first_kernel(const uint32_t *keys, int64_t T, int32_t vocab, int64_t *first) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    int64_t low = 0, high = T;
    if (i > vocab)
        return;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (keys[middle] < static_cast<uint32_t>(i))
            low = middle + 1;
        else
            high = middle;
    }
    first[i] = low;
}

template <int W>
__device__ __forceinline__ void put(float *row, int64_t vector, const float (&sum)[W], bool add) {
    constexpr int M = W == 1 ? 1 : 4;
#pragma unroll
    for (int j = 0; j < W; j += M) {
        float x[M] = {};
        const int64_t at = (vector * W + j) / M;
        if (add)
            load<float, M>(row, at, x);
#pragma unroll
        for (int i = 0; i < M; ++i)
            x[i] += sum[j + i];
        store<float, M>(row, at, x);
    }
}

// A CTA a run and THREADS vectors of D.
template <typename T, int W>
__global__ void __launch_bounds__(THREADS)
    runs_kernel(const __grid_constant__ gdn_embedding p, const uint32_t *keys,
                const uint32_t *positions, const int64_t *first, float *pieces) {
    __shared__ uint32_t key[RUN], at[RUN];
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * RUN, left = p.T - begin;
    const int count = static_cast<int>(left < RUN ? left : RUN);
    const int v = blockIdx.y * THREADS + threadIdx.x;
    for (int i = threadIdx.x; i < count; i += THREADS) {
        key[i] = keys[begin + i];
        at[i] = positions[begin + i];
    }
    __syncthreads();
    if (v >= p.D / W)
        return;
    float *const dweight = static_cast<float *>(p.dweight);
    float *const mine = pieces + static_cast<int64_t>(blockIdx.x) * 2 * p.D;
    float sum[W] = {};
    for (int group = 0; group < count; group += AHEAD) {
        Raw<T, W> rows[AHEAD] = {};
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
            if (group + i < count)
                rows[i] = load_raw<T, W>(
                    static_cast<const T *>(p.dy) + static_cast<int64_t>(at[group + i]) * p.D, v);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            float row[W];
            const int n = group + i;
            if (n >= count)
                break;
            unpack<T, W>(rows[i], row);
#pragma unroll
            for (int j = 0; j < W; ++j)
                sum[j] += row[j];
            if (n + 1 < count && key[n + 1] == key[n])
                continue;
            const uint32_t token = key[n];
            if (token < static_cast<uint32_t>(p.vocab)) {
                const bool from_before = first[token] < begin;
                const bool goes_on = first[token + 1] > begin + count;
                if (from_before || goes_on)
                    put(mine + (from_before ? 0 : p.D), v, sum, false);
                else
                    put(dweight + static_cast<int64_t>(token) * p.D, v, sum, p.accumulate);
            }
#pragma unroll
            for (int j = 0; j < W; ++j)
                sum[j] = 0.0f;
        }
    }
}

// A CTA a run and THREADS columns: the token that begins in the run and goes on after it, if there
// is one.
__global__ void __launch_bounds__(THREADS)
    join_kernel(const __grid_constant__ gdn_embedding p, const uint32_t *keys, const int64_t *first,
                const float *pieces) {
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * RUN, end = begin + RUN;
    const int column = blockIdx.y * THREADS + threadIdx.x;
    if (end >= p.T || column >= p.D)
        return;
    const uint32_t token = keys[end - 1];
    if (token >= static_cast<uint32_t>(p.vocab) || first[token] < begin || first[token + 1] <= end)
        return;
    const int64_t last = (first[token + 1] - 1) / RUN;
    float sum = pieces[(static_cast<int64_t>(blockIdx.x) * 2 + 1) * p.D + column];
#pragma unroll 8
    for (int64_t run = blockIdx.x + INT64_C(1); run <= last; ++run)
        sum += pieces[run * 2 * p.D + column];
    float *const to = static_cast<float *>(p.dweight) + static_cast<int64_t>(token) * p.D + column;
    *to = p.accumulate ? *to + sum : sum;
}

// Zeros in the rows of tokens that do not occur.
template <int W>
__global__ void __launch_bounds__(THREADS)
    absent_kernel(const __grid_constant__ gdn_embedding p, const int64_t *first) {
    const float zeros[W] = {};
    for (int64_t token = blockIdx.x; token < p.vocab; token += gridDim.x) {
        if (first[token] != first[token + 1])
            continue;
        float *const row = static_cast<float *>(p.dweight) + token * p.D;
        for (int v = threadIdx.x; v < p.D / W; v += THREADS)
            store<float, W>(row, v, zeros);
    }
}

template <typename T, int W>
cudaError_t launch_runs(const gdn_embedding &p, const Workspace &w, cudaStream_t stream) {
    const dim3 grid(static_cast<unsigned>((p.T + RUN - 1) / RUN),
                    static_cast<unsigned>((p.D / W + THREADS - 1) / THREADS));
    return launch_kernel(runs_kernel<T, W>, grid, THREADS, 0, stream, p,
                         static_cast<const uint32_t *>(w.keys[1]),
                         static_cast<const uint32_t *>(w.positions[1]),
                         static_cast<const int64_t *>(w.first), w.pieces);
}

int bits_of(int32_t vocab) {
    int bits = 1;
    while (bits < 32 && vocab >> bits)
        ++bits;
    return bits;
}

#define GDNI_TRY_CUDA(call)                                                                        \
    do {                                                                                           \
        const cudaError_t error_ = (call);                                                         \
        if (error_ != cudaSuccess)                                                                 \
            return error_;                                                                         \
    } while (0)

template <typename T>
cudaError_t launch_backward(const gdni_cuda_device *device, const gdn_embedding &p,
                            cudaStream_t stream) {
    Workspace w;
    GDNI_TRY_CUDA(lay_out(p, &w));
    if (p.T == 0)
        return p.accumulate ? cudaSuccess
                            : cudaMemsetAsync(p.dweight, 0,
                                              sizeof(float) * static_cast<size_t>(p.vocab) *
                                                  static_cast<size_t>(p.D),
                                              stream);
    GDNI_TRY_CUDA(launch_kernel(keys_kernel, dim3(grid_of((p.T + 255) / 256)), 256, 0, stream,
                                p.tokens, p.T, p.vocab, w.keys[0], w.positions[0]));
    GDNI_TRY_CUDA(cub::DeviceRadixSort::SortPairs(w.sort, w.sort_bytes, w.keys[0], w.keys[1],
                                                  w.positions[0], w.positions[1], p.T, 0,
                                                  bits_of(p.vocab), stream));
    GDNI_TRY_CUDA(launch_kernel(
        first_kernel, dim3(static_cast<unsigned>((p.vocab + INT64_C(1) + 255) / 256)), 256, 0,
        stream, static_cast<const uint32_t *>(w.keys[1]), p.T, p.vocab, w.first));
    const bool whole = whole_vectors<T>(p.D, {p.dy, p.dweight});
    GDNI_TRY_CUDA((whole ? launch_runs<T, PIECE<T>> : launch_runs<T, 1>)(p, w, stream));
    if (!p.accumulate) {
        const bool fours = whole_vectors<float>(p.D, {p.dweight});
        GDNI_TRY_CUDA(launch_kernel(fours ? absent_kernel<4> : absent_kernel<1>,
                                    dim3(grid_of(p.vocab, INT64_C(64) * device->multiprocessors)),
                                    THREADS, 0, stream, p, static_cast<const int64_t *>(w.first)));
    }
    const dim3 grid(static_cast<unsigned>((p.T + RUN - 1) / RUN),
                    static_cast<unsigned>((p.D + THREADS - 1) / THREADS));
    return launch_kernel(
        join_kernel, grid, THREADS, 0, stream, p, static_cast<const uint32_t *>(w.keys[1]),
        static_cast<const int64_t *>(w.first), static_cast<const float *>(w.pieces));
}

template <typename T>
cudaError_t launch_forward(const gdn_embedding &p, cudaStream_t stream) {
    const dim3 grid(grid_of((p.T + ROWS - 1) / ROWS));
    const bool whole = whole_vectors<T>(p.D, {p.weight, p.y});
    return launch_kernel(whole ? gather_kernel<T, PIECE<T>> : gather_kernel<T, 1>, grid, THREADS, 0,
                         stream, p);
}

} // namespace

} // namespace gdni

extern "C" {

size_t gdni_embedding_bytes(const gdni_cuda_device *device, const gdn_embedding *p) {
    const gdni::DeviceGuard guard(device->ordinal);
    gdni::Workspace w = {};
    gdn_embedding sizes = *p;
    sizes.workspace = nullptr;
    return gdni::lay_out(sizes, &w) == cudaSuccess ? w.bytes : 0;
}

int gdni_embedding_enqueue(const gdni_cuda_device *device, const gdn_embedding *p, int backward,
                           gdn_stream stream) {
    using namespace gdni;
    const DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    if (p->dtype == GDN_DTYPE_BF16)
        return backward ? launch_backward<bf16>(device, *p, stream)
                        : launch_forward<bf16>(*p, stream);
    return backward ? launch_backward<float>(device, *p, stream)
                    : launch_forward<float>(*p, stream);
}

} // extern "C"
