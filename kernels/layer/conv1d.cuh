// Causal depthwise convolution over time, then SiLU; math as in src/layer/conv1d.c:
//
//     s_t = sum_w weight[w] x_{t - (W-1) + w},   y_t = SiLU(s_t)
//     ds_t = dy_t SiLU'(s_t)
//     dx_{t - (W-1) + w} += weight[w] ds_t,   dweight[w] += ds_t x_{t - (W-1) + w}
//
// A warp takes VECTOR x 32 neighbouring channels of `span` tokens one after the other and keeps the
// last W rows of x in registers; the four warps of a CTA take four spans in a row. Spans are as
// long as it takes for all CTAs to run at the same time, or twice or so: each begins with loads
// that it waits for, and with W - 1 rows that the span before reads too. Backward goes W - 1 tokens
// further, as their ds reach back into the span, and has the unfinished dx of the last W tokens in
// registers too; s is computed again. Where a sequence starts, the rows before are set to zero and
// get no gradient.
//
// W is the number of taps that registers are there for; missing ones at the front have weight 0.
// All arithmetic is fp32. Sums of dweight: a lane's over its span, those of the four warps in
// shared memory, a row a CTA in the workspace.
#pragma once

#include "sums.cuh"
#include "vectors.cuh"

namespace gdni {

constexpr int CONV_WARPS = 4, CONV_THREADS = 32 * CONV_WARPS;

// CTAs that a multiprocessor holds of a kernel: what registers allow without spills.
template <typename T, int W, int VECTOR>
constexpr int conv_ctas(bool backward) {
    if (W > 4)
        return backward ? 2 : 4;
    if (VECTOR == 1)
        return 6;
    return backward ? 3 : sizeof(T) == 4 ? 5 : 4;
}

struct Convolution {
    int64_t T, N;
    int64_t channels, x_stride, y_stride;
    int32_t width;
    int32_t column_blocks; // CTAs side by side over the channels
    int64_t span;          // tokens of a warp
    const int64_t *cu_seqlens;
    const void *x, *weight, *halo;
    void *y;
    const void *dy;
    void *dx, *dhalo;
    float *partials; // [token blocks][channels][width]
};

constexpr int CONV_PADDING = 1 << 8;

// How many of the window - 1 tokens before t are of its sequence, or stand in the halo; with
// CONV_PADDING, 0 and t is of no sequence. Bad bounds lead to wrong numbers, not to wrong accesses.
__device__ inline int conv_place(const Convolution &a, int64_t t, int window) {
    int64_t begin = 0;
    if (t >= a.T)
        return CONV_PADDING;
    if (!a.cu_seqlens) {
        begin = a.N > 1 ? t - t % (a.T / a.N) : 0;
    } else {
        if (t >= a.cu_seqlens[a.N])
            return CONV_PADDING;
        int64_t low = 0, high = a.N; // cu[low] <= t < cu[high]
        while (high - low > 1) {
            const int64_t middle = low + (high - low) / 2;
            if (a.cu_seqlens[middle] <= t)
                low = middle;
            else
                high = middle;
        }
        begin = a.cu_seqlens[low];
    }
    if (begin <= 0)
        return window - 1;
    const int64_t before = t - begin;
    return before < 0 ? 0 : before < window - 1 ? static_cast<int>(before) : window - 1;
}

// Where a warp is, its taps, and the last W rows of x.
template <typename T, int W, int VECTOR>
struct ConvWarp {
    int64_t channel, from, to;
    bool active; // this lane has channels
    float taps[W][VECTOR], rows[W][VECTOR];

    __device__ __forceinline__ explicit ConvWarp(const Convolution &a) {
        const int64_t block = blockIdx.x / a.column_blocks;
        const int64_t warp = block * CONV_WARPS + threadIdx.x / 32;
        channel = (static_cast<int64_t>(blockIdx.x % a.column_blocks) * 32 + lane_id()) * VECTOR;
        active = channel < a.channels;
        from = warp * a.span < a.T ? warp * a.span : a.T;
        to = from + a.span < a.T ? from + a.span : a.T;
    }

    __device__ __forceinline__ void load_taps(const Convolution &a) {
        const T *weight = static_cast<const T *>(a.weight) + channel * a.width;
        if (VECTOR > 1 && a.width == W) {
            float flat[W * VECTOR] = {};
#pragma unroll
            for (int n = 0; n < W; ++n)
                if (active)
                    widen<T, VECTOR>(load_vector<T, VECTOR>(weight + n * VECTOR),
                                     flat + n * VECTOR);
#pragma unroll
            for (int w = 0; w < W; ++w)
#pragma unroll
                for (int i = 0; i < VECTOR; ++i)
                    taps[w][i] = flat[i * W + w];
            return;
        }
#pragma unroll
        for (int w = 0; w < W; ++w) {
            const int tap = w - (W - a.width);
#pragma unroll
            for (int i = 0; i < VECTOR; ++i)
                taps[w][i] = active && tap >= 0 ? to_float(weight[i * a.width + tap]) : 0.0f;
        }
    }

    // Those before the first token.
    __device__ __forceinline__ void load_rows(const Convolution &a) {
        const int place = conv_place(a, from, W);
#pragma unroll
        for (int w = 0; w < W; ++w) {
            const int back =
                W - w; // the last row is that of from - 1; the first one is shifted out
            const T *row = nullptr;
            if (w > 0 && from >= back)
                row = static_cast<const T *>(a.x) + (from - back) * a.x_stride + channel;
            else if (w > 0 && from == 0 && a.halo && back < a.width)
                row = static_cast<const T *>(a.halo) + (a.width - 1 - back) * a.channels + channel;
#pragma unroll
            for (int i = 0; i < VECTOR; ++i)
                rows[w][i] = 0.0f;
            if (row && active && back <= (place & 0xff))
                widen<T, VECTOR>(load_vector<T, VECTOR>(row), rows[w]);
        }
    }

    // Shifts in the row of a token. PLAIN: it has W - 1 tokens before it.
    template <bool PLAIN>
    __device__ __forceinline__ void push(const vector_t<T, VECTOR> &x, int place) {
        if (!PLAIN && (place & 0xff) == 0) {
#pragma unroll
            for (int w = 0; w < W; ++w)
#pragma unroll
                for (int i = 0; i < VECTOR; ++i)
                    rows[w][i] = 0.0f;
        }
#pragma unroll
        for (int w = 0; w + 1 < W; ++w)
#pragma unroll
            for (int i = 0; i < VECTOR; ++i)
                rows[w][i] = rows[w + 1][i];
        if (!PLAIN && (place & CONV_PADDING)) {
#pragma unroll
            for (int i = 0; i < VECTOR; ++i)
                rows[W - 1][i] = 0.0f;
        } else {
            widen<T, VECTOR>(x, rows[W - 1]);
        }
    }

    __device__ __forceinline__ float sum(int i) const {
        float s = 0.0f;
#pragma unroll
        for (int w = 0; w < W; ++w)
            s = fmaf(taps[w][i], rows[w][i], s);
        return s;
    }
};

// Rows that a warp loads ahead, BATCH tokens at a time.
template <typename T, int VECTOR, int BATCH>
struct ConvRows {
    vector_t<T, VECTOR> row[BATCH];

    // From token t on, zeros for the tokens from `end` on; p: the lane's channels of token 0.
    __device__ __forceinline__ void load(const T *p, int64_t stride, int64_t t, int64_t end) {
        const T *at = p + t * stride;
        const int64_t left = end - t;
        const int count = left >= BATCH ? BATCH : left > 0 ? static_cast<int>(left) : 0;
#pragma unroll
        for (int j = 0; j < BATCH; ++j) {
            row[j] = {};
            if (j < count)
                row[j] = load_vector<T, VECTOR>(at);
            at += stride;
        }
    }
};

// The places of 32 tokens, a lane a token, and which of them are W - 1.
struct ConvPlaces {
    int place;
    uint32_t whole;

    __device__ __forceinline__ void find(const Convolution &a, int64_t t, int window) {
        place = conv_place(a, t + lane_id(), window);
        whole = __ballot_sync(0xffffffffu, place == window - 1);
    }
    // Of `count` tokens from the at-th on.
    __device__ __forceinline__ bool all_whole(int at, int count) const {
        return (~whole >> at & ((1u << count) - 1)) == 0;
    }
    __device__ __forceinline__ int of(int at) const {
        return __shfl_sync(0xffffffffu, place, at);
    }
};

// Tokens t ... of a warp. PLAIN: all are the warp's own and whole.
template <bool PLAIN, typename T, int W, int VECTOR, int BATCH>
__device__ __forceinline__ void conv_forward_tokens(const Convolution &a,
                                                    ConvWarp<T, W, VECTOR> &warp,
                                                    const ConvRows<T, VECTOR, BATCH> &x,
                                                    const ConvPlaces &places, int64_t t, int at) {
    T *y = static_cast<T *>(a.y) + t * a.y_stride + warp.channel;
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
        warp.template push<PLAIN>(x.row[j], PLAIN ? W - 1 : places.of(at + j));
        float out[VECTOR];
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
            const float s = warp.sum(i);
            out[i] = s * sigmoid(s);
        }
        if (warp.active && (PLAIN || t + j < warp.to))
            store_vector<T, VECTOR>(y + j * a.y_stride, out);
    }
}

template <typename T, int W, int VECTOR, int BATCH>
__global__ void __launch_bounds__(CONV_THREADS, (conv_ctas<T, W, VECTOR>(false)))
    conv_forward_kernel(const __grid_constant__ Convolution a) {
    ConvWarp<T, W, VECTOR> warp(a);
    ConvRows<T, VECTOR, BATCH> x, next;
    ConvPlaces places = {};
    if (warp.from == warp.to)
        return;
    const T *rows = static_cast<const T *>(a.x) + warp.channel;
    const int64_t last = warp.active ? warp.to : 0;
    next.load(rows, a.x_stride, warp.from, last);
    warp.load_taps(a);
    warp.load_rows(a);
    for (int64_t t = warp.from; t < warp.to; t += BATCH) {
        const int at = static_cast<int>(t - warp.from) % 32;
        x = next;
        next.load(rows, a.x_stride, t + BATCH, last);
        if (at == 0)
            places.find(a, t, W);
        if (places.all_whole(at, BATCH) && t + BATCH <= warp.to)
            conv_forward_tokens<true>(a, warp, x, places, t, at);
        else
            conv_forward_tokens<false>(a, warp, x, places, t, at);
    }
}

// What a lane of the backward kernel sums up and has not finished yet.
template <typename T, int W, int VECTOR>
struct ConvGradients {
    float dweight[W][VECTOR], dx[W][VECTOR]; // dx of the last W tokens

    __device__ __forceinline__ void add(const ConvWarp<T, W, VECTOR> &warp,
                                        const float (&ds)[VECTOR], int before, bool own) {
#pragma unroll
        for (int w = 0; w < W; ++w)
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                if (own)
                    dweight[w][i] = fmaf(ds[i], warp.rows[w][i], dweight[w][i]);
                if (W - 1 - w <= before)
                    dx[w][i] = fmaf(ds[i], warp.taps[w][i], dx[w][i]);
            }
    }

    __device__ __forceinline__ void shift() {
#pragma unroll
        for (int w = 0; w < W; ++w)
#pragma unroll
            for (int i = 0; i < VECTOR; ++i)
                dx[w][i] = w + 1 < W ? dx[w + 1 < W ? w + 1 : w][i] : 0.0f;
    }
};

// Tokens t ... and the dx that they finish. PLAIN: all are the warp's own and whole, and so are the
// tokens whose dx they finish.
template <bool PLAIN, typename T, int W, int VECTOR, int BATCH>
__device__ __forceinline__ void
conv_backward_tokens(const Convolution &a, ConvWarp<T, W, VECTOR> &warp,
                     ConvGradients<T, W, VECTOR> &sum, const ConvRows<T, VECTOR, BATCH> &x,
                     const ConvRows<T, VECTOR, BATCH> &dy, const ConvPlaces &places, int64_t t,
                     int at) {
    const int64_t first = t - (W - 1);
    T *dx = static_cast<T *>(a.dx) + first * a.x_stride + warp.channel;
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
        const int place = PLAIN ? W - 1 : places.of(at + j);
        warp.template push<PLAIN>(x.row[j], place);
        float ds[VECTOR];
        widen<T, VECTOR>(dy.row[j], ds);
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
            const float s = warp.sum(i), gate = sigmoid(s);
            ds[i] *= gate * fmaf(s, 1.0f - gate, 1.0f);
            if (!PLAIN && (place & CONV_PADDING))
                ds[i] = 0.0f;
        }
        sum.add(warp, ds, PLAIN ? W - 1 : place & 0xff, PLAIN || t + j < warp.to);
        const int64_t u = first + j, row = a.width - 1 + u; // row: of the halo
        if (warp.active && (PLAIN || (u >= warp.from && u < warp.to)))
            store_vector<T, VECTOR>(dx + j * a.x_stride, sum.dx[0]);
        if (!PLAIN && warp.active && a.dhalo && warp.from == 0 && u < 0 && row >= 0)
            store_vector<T, VECTOR>(static_cast<T *>(a.dhalo) + row * a.channels + warp.channel,
                                    sum.dx[0]);
        sum.shift();
    }
}

template <typename T, int W, int VECTOR, int BATCH>
__global__ void __launch_bounds__(CONV_THREADS, (conv_ctas<T, W, VECTOR>(true)))
    conv_backward_kernel(const __grid_constant__ Convolution a) {
    __shared__ float sums[CONV_WARPS][W * VECTOR][33]; // 33: fewer bank conflicts
    let_next_start();
    ConvWarp<T, W, VECTOR> warp(a);
    ConvGradients<T, W, VECTOR> sum = {};
    ConvRows<T, VECTOR, BATCH> x, dy, next_x, next_dy;
    ConvPlaces places = {};
    // A warp without tokens still has the halo's gradient to write if it is the first one.
    const int64_t end = warp.from < warp.to || warp.from == 0 ? warp.to + W - 1 : warp.from;
    const T *rows_x = static_cast<const T *>(a.x) + warp.channel;
    const T *rows_dy = static_cast<const T *>(a.dy) + warp.channel;
    const int64_t last = !warp.active ? 0 : end < a.T ? end : a.T;
    next_x.load(rows_x, a.x_stride, warp.from, last);
    next_dy.load(rows_dy, a.y_stride, warp.from, last);
    warp.load_taps(a);
    warp.load_rows(a);
    for (int64_t t = warp.from; t < end; t += BATCH) {
        const int at = static_cast<int>(t - warp.from) % 32;
        x = next_x;
        dy = next_dy;
        next_x.load(rows_x, a.x_stride, t + BATCH, last);
        next_dy.load(rows_dy, a.y_stride, t + BATCH, last);
        if (at == 0)
            places.find(a, t, W);
        if (places.all_whole(at, BATCH) && t - (W - 1) >= warp.from && t + BATCH <= warp.to)
            conv_backward_tokens<true>(a, warp, sum, x, dy, places, t, at);
        else
            conv_backward_tokens<false>(a, warp, sum, x, dy, places, t, at);
    }
#pragma unroll
    for (int w = 0; w < W; ++w)
#pragma unroll
        for (int i = 0; i < VECTOR; ++i)
            sums[threadIdx.x / 32][i * W + w][lane_id()] = sum.dweight[w][i];
    __syncthreads();
    // Rows of dweight, as they lie there.
    const int64_t first = (blockIdx.x % a.column_blocks) * int64_t{32 * VECTOR};
    float *row =
        a.partials + static_cast<int64_t>(blockIdx.x / a.column_blocks) * a.channels * a.width;
    sum_groups<CONV_THREADS>(
        CONV_WARPS, 32 * VECTOR * a.width,
        [&](int of, int j) {
            const int channel = j / a.width, tap = j % a.width + W - a.width;
            return sums[of][channel % VECTOR * W + tap][channel / VECTOR];
        },
        [&](int j, float total) {
            if (first + j / a.width < a.channels)
                row[first * a.width + j] = total;
        });
}

} // namespace gdni
