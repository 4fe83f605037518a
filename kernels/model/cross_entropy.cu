// The mean cross-entropy of softmax(x weight^T) and its gradients (gdn_model.h), a tile of tokens
// at a time:
//
//     logits = x weight^T           a product, fp32
//     dl = (softmax(logits) - onehot) / n   one CTA a token, over its logits' memory, in x's type
//     dx = dl weight,   dweight += dl^T x   products
//
// Logits stay fp32: in bf16 their rounding alone would move the loss by 2^-9 of a logit. n, how
// many tokens count, is counted on the device first. The tokens' losses are added in order at the
// end.
//
//     workspace    count [1] float64 | losses [T] float64 | the products' | logits [tile][stride]
//
// The stride of logits is vocab rounded up to 8, so that rows can be moved 16 bytes at a time.
#include "../guard.h"
#include "model.h"
#include "vector.cuh"

#include <cmath>

namespace gdni {

namespace {

constexpr int THREADS = 512, WARPS = THREADS / 32, W = 8;
constexpr int SUM_THREADS = 1024;
// Each tile reads and writes dweight once: 1 GiB of logits, or 1664 tokens of a vocabulary of
// 151936, make that a small part of the products.
constexpr int64_t TILE_LOGITS = INT64_C(1) << 28, TILE_STEP = 128, TILE_HIGH = 8192;

int64_t stride_of(const gdn_cross_entropy &p) {
    return (p.vocab + INT64_C(7)) / 8 * 8;
}

int64_t tile_of(const gdn_cross_entropy &p) {
    int64_t tile = TILE_LOGITS / stride_of(p) / TILE_STEP * TILE_STEP;
    tile = tile < TILE_STEP ? TILE_STEP : tile > TILE_HIGH ? TILE_HIGH : tile;
    return tile < p.T ? tile : p.T;
}

struct Workspace {
    double *count, *losses;
    void *product;
    float *logits;
    size_t bytes;
};

Workspace lay_out(const gdn_cross_entropy &p) {
    Workspace w;
    size_t at = 0;
    char *const base = static_cast<char *>(p.workspace);
    const auto take = [&](size_t bytes) {
        char *const here = base + at;
        at += (bytes + 255) / 256 * 256;
        return static_cast<void *>(here);
    };
    w.count = static_cast<double *>(take(sizeof(double)));
    w.losses = static_cast<double *>(take(sizeof(double) * static_cast<size_t>(p.T)));
    w.product = take(GDNI_PRODUCT_WORKSPACE);
    w.logits = static_cast<float *>(
        take(sizeof(float) * static_cast<size_t>(tile_of(p)) * static_cast<size_t>(stride_of(p))));
    w.bytes = at;
    return w;
}

// One CTA adds f(0) ... f(T - 1), in an order that T alone decides.
template <typename F>
__device__ double sum_over(int64_t T, F f) {
    __shared__ double sums[SUM_THREADS / 32];
    double sum = 0.0;
#pragma unroll 8
    for (int64_t t = threadIdx.x; t < T; t += SUM_THREADS)
        sum += f(t);
    return sum_of_cta<SUM_THREADS / 32>(sum, sums);
}

__global__ void __launch_bounds__(SUM_THREADS)
    count_kernel(const int32_t *targets, int64_t T, double *count) {
    const double sum = sum_over(T, [=](int64_t t) { return targets[t] != -1 ? 1.0 : 0.0; });
    if (threadIdx.x == 0)
        *count = sum;
}

__global__ void __launch_bounds__(SUM_THREADS)
    mean_kernel(const double *losses, int64_t T, const double *count, double *loss) {
    const double sum = sum_over(T, [=](int64_t t) { return losses[t]; });
    if (threadIdx.x == 0)
        *loss = *count > 0.0 ? sum / *count : 0.0;
}

// The largest logit so far and sum exp(logit - top).
struct Softmax {
    float top, sum;

    __device__ Softmax &operator+=(const Softmax &other) {
        const float both = fmaxf(top, other.top);
        if (both == -INFINITY) // nothing yet on either side
            sum += other.sum;  // 0, or NaN
        else
            sum = sum * expf(top - both) + other.sum * expf(other.top - both);
        top = both;
        return *this;
    }
};

__device__ Softmax softmax_of_cta(Softmax x) {
    __shared__ Softmax parts[WARPS];
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        x += Softmax{__shfl_xor_sync(0xffffffffu, x.top, step),
                     __shfl_xor_sync(0xffffffffu, x.sum, step)};
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = parts[0];
    for (int i = 1; i < WARPS; ++i)
        x += parts[i];
    return x;
}

// Eight logits from `at` on; -infinity past the vocabulary.
__device__ __forceinline__ void load_logits(const float *row, int64_t at, int64_t vocab,
                                            float (&x)[W]) {
    float low[4], high[4];
    load<float, 4>(row, at / 4, low);
    load<float, 4>(row, at / 4 + 1, high);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        x[j] = at + j < vocab ? low[j] : -INFINITY;
        x[j + 4] = at + j + 4 < vocab ? high[j] : -INFINITY;
    }
}

template <typename T>
__device__ __forceinline__ void store_gradients(void *row, int64_t at, const float (&x)[W]) {
    if constexpr (sizeof(T) == 2) {
        store<T, W>(static_cast<T *>(row), at / W, x);
    } else {
        store<float, 4>(static_cast<float *>(row), at / 4, {x[0], x[1], x[2], x[3]});
        store<float, 4>(static_cast<float *>(row), at / 4 + 1, {x[4], x[5], x[6], x[7]});
    }
}

// Gradients replace the logits, from the row's start. In 16 bits they take half the room: a piece
// of THREADS x 8 lands on logits that were read before, once all threads have read its own.
template <typename T>
__device__ void write_gradients(float *row, int64_t vocab, int64_t stride, int32_t target,
                                Softmax s, float mean) {
    const float scale = mean / s.sum;
    float x[W];
    int64_t at = threadIdx.x * W;
    if (at < stride)
        load_logits(row, at, vocab, x);
    for (int64_t piece = 0; piece < stride; piece += THREADS * W, at += THREADS * W) {
        const int64_t after = at + THREADS * W;
        float next[W] = {};
        if (after < stride)
            load_logits(row, after, vocab, next);
        __syncthreads();
        if (at < stride) {
#pragma unroll
            for (int j = 0; j < W; ++j)
                x[j] = expf(x[j] - s.top) * scale - (at + j == target ? mean : 0.0f);
            store_gradients<T>(row, at, x);
        }
#pragma unroll
        for (int j = 0; j < W; ++j)
            x[j] = next[j];
    }
}

struct Tile {
    float *logits;
    int64_t vocab, stride;
    const int32_t *targets;
    const double *count;
    double *losses;
    float *token_loss; // or NULL
    bool gradients;
};

template <typename T>
__global__ void __launch_bounds__(THREADS) softmax_kernel(const __grid_constant__ Tile p) {
    const int64_t t = blockIdx.x;
    float *const row = p.logits + t * p.stride;
    const int32_t target = p.targets[t];
    const bool bad = target < -1 || target >= p.vocab;
    if (target < 0 || bad) {
        const double loss = bad ? nan("") : 0.0;
        if (threadIdx.x == 0) {
            p.losses[t] = loss;
            if (p.token_loss)
                p.token_loss[t] = static_cast<float>(loss);
        }
        const float zeros[W] = {};
        for (int64_t at = threadIdx.x * W; p.gradients && at < p.stride; at += THREADS * W)
            store_gradients<T>(row, at, zeros);
        return;
    }
    const float wanted = row[target];
    Softmax s = {-INFINITY, 0.0f};
    for (int64_t at = threadIdx.x * W; at < p.stride; at += THREADS * W) {
        float x[W];
        load_logits(row, at, p.vocab, x);
        float top = x[0];
#pragma unroll
        for (int j = 1; j < W; ++j)
            top = fmaxf(top, x[j]);
        if (top > s.top) {
            s.sum *= expf(s.top - top);
            s.top = top;
        }
#pragma unroll
        for (int j = 0; j < W; ++j)
            s.sum += expf(x[j] - s.top);
    }
    s = softmax_of_cta(s);
    if (threadIdx.x == 0) {
        const double loss = log(static_cast<double>(s.sum)) + (static_cast<double>(s.top) - wanted);
        p.losses[t] = loss;
        if (p.token_loss)
            p.token_loss[t] = static_cast<float>(loss);
    }
    if (p.gradients)
        write_gradients<T>(row, p.vocab, p.stride, target, s, static_cast<float>(1.0 / *p.count));
}

#define GDNI_TRY_CODE(call)                                                                        \
    do {                                                                                           \
        const int code_ = (call);                                                                  \
        if (code_)                                                                                 \
            return code_;                                                                          \
    } while (0)

// A tile's products: only a, b and c differ from tile to tile.
struct Products {
    gdni_product logits, dx, dweight;
};

Products products_of(const gdn_cross_entropy &p, const Workspace &w) {
    const int64_t stride = stride_of(p);
    gdni_product common = {};
    common.in = p.dtype;
    common.workspace = w.product;
    Products to = {common, common, common};
    to.logits.out = GDN_DTYPE_FP32;
    to.logits.trans_b = 1;
    to.logits.n = p.vocab;
    to.logits.k = p.D;
    to.logits.b = p.weight;
    to.logits.c = w.logits;
    to.logits.ldc = stride;
    to.dx.out = p.dtype;
    to.dx.n = p.D;
    to.dx.k = p.vocab;
    to.dx.a = w.logits;
    to.dx.lda = p.dtype == GDN_DTYPE_BF16 ? 2 * stride : stride;
    to.dx.b = p.weight;
    to.dweight.out = GDN_DTYPE_FP32;
    to.dweight.trans_a = 1;
    to.dweight.accumulate = p.accumulate != 0;
    to.dweight.m = p.vocab;
    to.dweight.n = p.D;
    to.dweight.a = w.logits;
    to.dweight.lda = to.dx.lda;
    to.dweight.c = p.dweight;
    return to;
}

template <typename T>
int enqueue(const gdni_cuda_device *device, const gdn_cross_entropy &p, cudaStream_t stream) {
    const Workspace w = lay_out(p);
    const int64_t tile = tile_of(p), row = p.D * static_cast<int64_t>(sizeof(T));
    Products products = products_of(p, w);
    GDNI_TRY_CODE(
        launch_kernel(count_kernel, dim3(1), SUM_THREADS, 0, stream, p.targets, p.T, w.count));
    if (p.T == 0 && p.dweight)
        GDNI_TRY_CODE(gdni_product_enqueue(device, &products.dweight, stream));
    for (int64_t from = 0; from < p.T; from += tile) {
        const int64_t tokens = p.T - from < tile ? p.T - from : tile;
        products.logits.m = products.dx.m = products.dweight.k = tokens;
        products.logits.a = products.dweight.b = static_cast<const char *>(p.x) + from * row;
        GDNI_TRY_CODE(gdni_product_enqueue(device, &products.logits, stream));
        const Tile in = {w.logits,
                         p.vocab,
                         stride_of(p),
                         p.targets + from,
                         w.count,
                         w.losses + from,
                         p.token_loss ? static_cast<float *>(p.token_loss) + from : nullptr,
                         p.dx || p.dweight};
        GDNI_TRY_CODE(launch_kernel(softmax_kernel<T>, dim3(static_cast<unsigned>(tokens)), THREADS,
                                    0, stream, in));
        products.dx.c = p.dx ? static_cast<char *>(p.dx) + from * row : nullptr;
        if (p.dx)
            GDNI_TRY_CODE(gdni_product_enqueue(device, &products.dx, stream));
        if (p.dweight)
            GDNI_TRY_CODE(gdni_product_enqueue(device, &products.dweight, stream));
        products.dweight.accumulate = 1;
    }
    return launch_kernel(mean_kernel, dim3(1), SUM_THREADS, 0, stream,
                         static_cast<const double *>(w.losses), p.T,
                         static_cast<const double *>(w.count), p.loss);
}

} // namespace

} // namespace gdni

extern "C" {

size_t gdni_cross_entropy_bytes(const gdn_cross_entropy *p) {
    gdn_cross_entropy sizes = *p;
    sizes.workspace = nullptr;
    return gdni::lay_out(sizes).bytes;
}

int gdni_cross_entropy_enqueue(const gdni_cuda_device *device, const gdn_cross_entropy *p,
                               gdn_stream stream) {
    const gdni::DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    return p->dtype == GDN_DTYPE_BF16 ? gdni::enqueue<gdni::bf16>(device, *p, stream)
                                      : gdni::enqueue<float>(device, *p, stream);
}

} // extern "C"
