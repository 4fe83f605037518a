// y_t = weight[tokens_t],   dweight[i] = sum of dy_t over the tokens t that are i, in their order.
//
// Backward sorts the positions by token (token_sort.cuh; each token's stay in order) and cuts the
// sorted list into runs of 16 to 64, whatever the tokens: a text is one third three tokens. A CTA a
// run adds rows of dy; the sum of a token that lies within one run goes to dweight, what crosses a
// border goes to the workspace, and a last kernel, a CTA for each run whose last token goes on,
// adds those pieces in order. Without accumulation the rows of absent tokens are set to 0, most of
// what is written: CTAs beside those of the sort do that.
//
//     workspace    keys, positions: two each [T] uint32 | counts of the sort | marks [vocab] uint8:
//                  which tokens occur | pieces [runs][2][D] fp32
//
// A token outside the vocabulary gives NaN, and no gradient.
#include "../guard.h"
#include "../layer/vectors.cuh"
#include "model.h"
#include "token_sort.cuh"
#include "vector.cuh"

#include <algorithm>

namespace gdni {

namespace {

constexpr int THREADS = 128, ROWS = 4, LONGEST_RUN = 64;

// Runs are short where there are few.
int run_of(int64_t T) {
    return T <= 16384 ? LONGEST_RUN / 4 : T <= 65536 ? LONGEST_RUN / 2 : LONGEST_RUN;
}

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
    TokenSort sort;
    float *pieces;
    size_t bytes;
};

Workspace lay_out(const gdn_embedding &p) {
    Workspace w = {};
    char *at = static_cast<char *>(p.workspace);
    const auto take = [&](size_t bytes) {
        char *const here = at;
        at += (bytes + 255) / 256 * 256;
        return static_cast<void *>(here);
    };
    const size_t T = static_cast<size_t>(p.T), D = static_cast<size_t>(p.D);
    const size_t runs = static_cast<size_t>((p.T + run_of(p.T) - 1) / run_of(p.T));
    w.sort.tokens = p.tokens;
    w.sort.T = p.T;
    w.sort.vocab = p.vocab;
    for (int i = 0; i < 2; ++i) {
        w.sort.keys[i] = static_cast<uint32_t *>(take(T * sizeof(uint32_t)));
        w.sort.positions[i] = static_cast<uint32_t *>(take(T * sizeof(uint32_t)));
    }
    w.sort.counts = static_cast<uint32_t *>(
        take(static_cast<size_t>(w.sort.tiles()) * DIGITS * sizeof(uint32_t)));
    w.sort.marks = static_cast<uint8_t *>(take(static_cast<size_t>(p.vocab)));
    w.pieces = static_cast<float *>(take(runs * 2 * D * sizeof(float)));
    w.bytes = static_cast<size_t>(at - static_cast<char *>(p.workspace));
    return w;
}

// Zeros in the rows of a share of the tokens, where they do not occur. A CTA some tokens one after
// the other, so that what is written at a time lies together.
template <int W>
struct Absent {
    static constexpr int TOKENS = 8;
    float *dweight;
    const uint8_t *marks;
    int64_t begin, end;
    int32_t D;
    int32_t lanes; // threads of a row, a power of two

    __device__ void run(int64_t block) const {
        const float zeros[W] = {};
        const int lane = static_cast<int>(threadIdx.x) & (lanes - 1);
        const int64_t first = begin + block * TOKENS;
        bool absent[TOKENS];
#pragma unroll
        for (int i = 0; i < TOKENS; ++i)
            absent[i] = first + i < end && !marks[first + i];
#pragma unroll
        for (int i = 0; i < TOKENS; ++i) {
            // A row's threads take turns with those of the next ones.
            const bool mine =
                (i & (SORT_THREADS / lanes - 1)) == static_cast<int>(threadIdx.x) / lanes;
            if (!absent[i] || !mine)
                continue;
            float *const row = dweight + (first + i) * D;
            for (int v = lane; v < D / W; v += lanes)
                store<float, W>(row, v, zeros);
        }
    }
};

// A CTA a run and THREADS vectors of D: of W elements, so that the floats are 16 bytes a thread.
template <typename T, int W, bool ADD>
__global__ void __launch_bounds__(THREADS)
    runs_kernel(const __grid_constant__ gdn_embedding p, const uint32_t *keys,
                const uint32_t *positions, int run, float *pieces) {
    constexpr int AHEAD = 8;
    __shared__ uint32_t key[LONGEST_RUN + 2], at[LONGEST_RUN]; // key: one more on both sides
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * run, left = p.T - begin;
    const int count = static_cast<int>(left < run ? left : run);
    const int at_v = (blockIdx.y * THREADS + threadIdx.x) * W;
    const uint32_t none = UINT32_MAX;
    wait_for_previous();
    let_next_start();
    for (int i = threadIdx.x; i < count + 2; i += THREADS) {
        const int64_t n = begin + i - 1;
        key[i] = n >= 0 && n < p.T ? keys[n] : none;
        if (i < count)
            at[i] = positions[begin + i];
    }
    __syncthreads();
    if (at_v >= p.D)
        return;
    const T *const dy = static_cast<const T *>(p.dy) + at_v;
    float *const dweight = static_cast<float *>(p.dweight) + at_v;
    float *const mine = pieces + static_cast<int64_t>(blockIdx.x) * 2 * p.D + at_v;
    const bool goes_on = key[count + 1] == key[count];
    bool from_before = key[0] == key[1];
    float sum[W] = {};
    for (int group = 0; group < count; group += AHEAD) {
        vector_t<T, W> rows[AHEAD] = {};
        vector_t<float, W> old[ADD ? AHEAD : 1] = {};
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
            if (group + i < count) {
                const int64_t token = key[group + i + 1];
                rows[i] = load_vector<T, W>(dy + static_cast<int64_t>(at[group + i]) * p.D);
                if (ADD && key[group + i + 2] != token && token < p.vocab)
                    old[ADD ? i : 0] = load_vector<float, W>(dweight + token * p.D);
            }
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            float row[W], add[W] = {};
            const int n = group + i;
            if (n >= count)
                break;
            widen<T, W>(rows[i], row);
#pragma unroll
            for (int j = 0; j < W; ++j)
                sum[j] += row[j];
            const int64_t token = key[n + 1];
            if (n + 1 < count && key[n + 2] == token)
                continue;
            if (ADD)
                widen<float, W>(old[ADD ? i : 0], add);
            if (token >= p.vocab) {
                // No token's: left out.
            } else if (from_before || (n + 1 == count && goes_on)) {
                store_vector<float, W>(mine + (from_before ? 0 : p.D), sum);
            } else {
#pragma unroll
                for (int j = 0; j < W; ++j)
                    sum[j] += add[j];
                store_vector<float, W>(dweight + token * p.D, sum);
            }
            from_before = false;
#pragma unroll
            for (int j = 0; j < W; ++j)
                sum[j] = 0.0f;
        }
    }
}

// A CTA a run and THREADS vectors: the token that begins in the run and goes on after it, if there
// is one.
template <int W>
__global__ void __launch_bounds__(THREADS)
    join_kernel(const __grid_constant__ gdn_embedding p, const uint32_t *keys, int run,
                const float *pieces) {
    constexpr int AHEAD = 16;
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * run, end = begin + run;
    const int at_v = (blockIdx.y * THREADS + threadIdx.x) * W;
    wait_for_previous();
    if (end >= p.T || at_v >= p.D)
        return;
    const int64_t token = keys[end - 1];
    const bool from_before = begin > 0 && keys[begin - 1] == token;
    if (token >= p.vocab || keys[end] != token || from_before)
        return;
    float sum[W], piece[W];
    widen<float, W>(load_vector<float, W>(pieces + (blockIdx.x * INT64_C(2) + 1) * p.D + at_v),
                    sum);
    bool more = true;
    for (int64_t first = blockIdx.x + INT64_C(1); more; first += AHEAD) {
        vector_t<float, W> raw[AHEAD] = {};
        bool of_it[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
            of_it[i] = (first + i) * run < p.T && keys[(first + i) * run] == token;
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
            if (of_it[i])
                raw[i] = load_vector<float, W>(pieces + (first + i) * 2 * p.D + at_v);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) { // zeros behind the last one
            widen<float, W>(raw[i], piece);
#pragma unroll
            for (int j = 0; j < W; ++j)
                sum[j] += piece[j];
        }
        more = of_it[AHEAD - 1];
    }
    float *const to = static_cast<float *>(p.dweight) + token * p.D + at_v;
    if (p.accumulate) {
        widen<float, W>(load_vector<float, W>(to), piece);
#pragma unroll
        for (int j = 0; j < W; ++j)
            sum[j] += piece[j];
    }
    store_vector<float, W>(to, sum);
}

template <int W>
cudaError_t launch_sort(const gdni_cuda_device *device, const gdn_embedding &p, Workspace *w,
                        cudaStream_t stream) {
    if (p.accumulate) {
        w->sort.marks = nullptr;
        return launch_token_sort<Absent<W>>(
            device, w->sort, 0, [](int, int) { return Absent<W>{}; }, stream);
    }
    GDNI_CUDA_TRY(cudaMemsetAsync(w->sort.marks, 0, static_cast<size_t>(p.vocab), stream));
    const int64_t shares = 2 * w->sort.passes() - 1;
    const int64_t share = (p.vocab + shares - 1) / shares;
    int lanes = SORT_THREADS;
    while (lanes > SORT_THREADS / Absent<W>::TOKENS && lanes / 2 * W >= p.D)
        lanes /= 2;
    const auto absent = [&](int step, int) {
        const int64_t begin = (step - 1) * share;
        return Absent<W>{static_cast<float *>(p.dweight),           w->sort.marks, begin,
                         std::min<int64_t>(begin + share, p.vocab), p.D,           lanes};
    };
    const int64_t blocks = (share + Absent<W>::TOKENS - 1) / Absent<W>::TOKENS;
    return launch_token_sort<Absent<W>>(device, w->sort, static_cast<int>(blocks), absent, stream);
}

template <typename T, int W>
cudaError_t launch_runs(const gdni_cuda_device *device, const gdn_embedding &p, const Workspace &w,
                        cudaStream_t stream) {
    const int run = run_of(p.T);
    const unsigned runs = static_cast<unsigned>((p.T + run - 1) / run);
    const dim3 grid(runs, static_cast<unsigned>((p.D / W + THREADS - 1) / THREADS));
    const auto kernel = p.accumulate ? runs_kernel<T, W, true> : runs_kernel<T, W, false>;
    GDNI_CUDA_TRY(launch_next(device, kernel, grid, THREADS, stream, p, w.sort.sorted_keys(),
                              w.sort.sorted_positions(), run, w.pieces));
    return launch_next(device, join_kernel<W>, grid, THREADS, stream, p, w.sort.sorted_keys(), run,
                       static_cast<const float *>(w.pieces));
}

template <typename T>
cudaError_t launch_backward(const gdni_cuda_device *device, const gdn_embedding &p,
                            cudaStream_t stream) {
    Workspace w = lay_out(p);
    if (p.T == 0)
        return p.accumulate ? cudaSuccess
                            : cudaMemsetAsync(p.dweight, 0,
                                              sizeof(float) * static_cast<size_t>(p.vocab) *
                                                  static_cast<size_t>(p.D),
                                              stream);
    const bool fours =
        p.D % 4 == 0 && multiple_of(p.dy, 4 * sizeof(T)) && multiple_of(p.dweight, 16);
    GDNI_CUDA_TRY((fours ? launch_sort<4> : launch_sort<1>)(device, p, &w, stream));
    return (fours ? launch_runs<T, 4> : launch_runs<T, 1>)(device, p, w, stream);
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

size_t gdni_embedding_bytes(const gdn_embedding *p) {
    gdn_embedding sizes = *p;
    sizes.workspace = nullptr;
    return gdni::lay_out(sizes).bytes;
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
