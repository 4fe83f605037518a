// AdamW over a flat range and the gradient's norm (gdn_model.h). Both read memory once; what a step
// depends on (schedule, grad_scale) is read on the device.
#include "../guard.h"
#include "model.h"
#include "vector.cuh"

#include <cmath>

namespace gdni {

namespace {

constexpr int THREADS = 256, WARPS = THREADS / 32;

struct Adam {
    float *param, *m, *v;
    const float *grad;
    bf16 *rounded;
    const double *grad_scale, *schedule;
    int64_t count;
    double step, lr, beta1, beta2;
    float eps, weight_decay;
};

// The constants of a step.
struct Step {
    float scale, lr, correction1, correction2;
};

__device__ __forceinline__ void move(const Adam &p, const Step &s, float grad, float &param,
                                     float &m, float &v) {
    const float beta1 = static_cast<float>(p.beta1), rest1 = static_cast<float>(1.0 - p.beta1);
    const float beta2 = static_cast<float>(p.beta2), rest2 = static_cast<float>(1.0 - p.beta2);
    grad *= s.scale;
    m = beta1 * m + rest1 * grad;
    v = beta2 * v + rest2 * grad * grad;
    param -=
        s.lr * (m * s.correction1 / (sqrtf(v * s.correction2) + p.eps) + p.weight_decay * param);
}

// W elements a thread at once, 4 or 1; the last count % W by the first threads.
template <int W>
__global__ void __launch_bounds__(THREADS) adamw_kernel(const __grid_constant__ Adam p) {
    __shared__ Step shared;
    __shared__ bool finite;
    if (threadIdx.x == 0) {
        const double scale = p.grad_scale ? *p.grad_scale : 1.0;
        const double step = p.schedule ? p.schedule[0] : p.step;
        shared = {static_cast<float>(scale), static_cast<float>(p.schedule ? p.schedule[1] : p.lr),
                  static_cast<float>(1.0 / (1.0 - pow(p.beta1, step))),
                  static_cast<float>(1.0 / (1.0 - pow(p.beta2, step)))};
        finite = isfinite(scale);
    }
    __syncthreads();
    if (!finite)
        return;
    const Step s = shared;
    const int64_t vectors = p.count / W, threads = static_cast<int64_t>(gridDim.x) * THREADS;
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    for (int64_t i = thread; i < vectors; i += threads) {
        float param[W], m[W], v[W], grad[W];
        load<float, W>(p.param, i, param);
        load<float, W>(p.m, i, m);
        load<float, W>(p.v, i, v);
        load<float, W>(p.grad, i, grad);
#pragma unroll
        for (int j = 0; j < W; ++j)
            move(p, s, grad[j], param[j], m[j], v[j]);
        store<float, W>(p.param, i, param);
        store<float, W>(p.m, i, m);
        store<float, W>(p.v, i, v);
        if (!p.rounded)
            continue;
        if constexpr (W == 4)
            reinterpret_cast<uint2 *>(p.rounded)[i] =
                make_uint2(pack_bf16(param[0], param[1]), pack_bf16(param[2], param[3]));
        else
            p.rounded[i] = from_float<bf16>(param[0]);
    }
    const int64_t last = vectors * W + thread;
    if (last < p.count) {
        move(p, s, p.grad[last], p.param[last], p.m[last], p.v[last]);
        if (p.rounded)
            p.rounded[last] = from_float<bf16>(p.param[last]);
    }
}

// Sums of squares: CTA i takes every PARTS-th piece of THREADS vectors, in double.
constexpr int PARTS = 1024, AHEAD = 4;

template <int W>
__global__ void __launch_bounds__(THREADS)
    squares_kernel(const float *grad, int64_t count, double *parts) {
    __shared__ double sums[WARPS];
    const int64_t vectors = count / W, step = static_cast<int64_t>(PARTS) * THREADS;
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    double sum = 0.0;
    for (int64_t first = thread; first < vectors; first += AHEAD * step) {
        Raw<float, W> raw[AHEAD] = {};
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
            if (first + i * step < vectors)
                raw[i] = load_raw<float, W>(grad, first + i * step);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            float x[W];
            unpack<float, W>(raw[i], x);
#pragma unroll
            for (int j = 0; j < W; ++j)
                sum += static_cast<double>(x[j]) * static_cast<double>(x[j]);
        }
    }
    const int64_t last = vectors * W + thread;
    if (last < count)
        sum += static_cast<double>(grad[last]) * static_cast<double>(grad[last]);
    sum = sum_of_cta<WARPS>(sum, sums);
    if (threadIdx.x == 0)
        parts[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(PARTS)
    norm_kernel(const double *parts, double max_norm, double *norm, double *scale) {
    __shared__ double sums[PARTS / 32];
    const double root = sqrt(sum_of_cta<PARTS / 32>(parts[threadIdx.x], sums));
    if (threadIdx.x > 0)
        return;
    *norm = root;
    *scale = !isfinite(root)                       ? nan("")
             : max_norm <= 0.0 || root <= max_norm ? 1.0
                                                   : max_norm / root;
}

} // namespace

} // namespace gdni

extern "C" {

int gdni_adamw_enqueue(const gdni_cuda_device *device, const gdn_adamw *part, gdn_stream stream) {
    using namespace gdni;
    const DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    Adam p = {};
    p.param = static_cast<float *>(part->param);
    p.m = static_cast<float *>(part->m);
    p.v = static_cast<float *>(part->v);
    p.grad = static_cast<const float *>(part->grad);
    p.rounded = static_cast<bf16 *>(part->rounded);
    p.grad_scale = part->grad_scale;
    p.schedule = part->schedule;
    p.count = part->count;
    p.step = static_cast<double>(part->step);
    p.lr = part->lr;
    p.beta1 = part->beta1;
    p.beta2 = part->beta2;
    p.eps = static_cast<float>(part->eps);
    p.weight_decay = static_cast<float>(part->weight_decay);
    const bool whole = whole_vectors<float>(0, {p.param, p.m, p.v, p.grad}) &&
                       reinterpret_cast<uintptr_t>(p.rounded) % 8 == 0;
    const int64_t wanted = (p.count / (whole ? 4 : 1) + THREADS) / THREADS;
    const dim3 grid(p.count ? grid_of(wanted, INT64_C(16) * device->multiprocessors) : 0);
    return launch_kernel(whole ? adamw_kernel<4> : adamw_kernel<1>, grid, THREADS, 0, stream, p);
}

size_t gdni_grad_norm_bytes(void) {
    return sizeof(double) * gdni::PARTS;
}

int gdni_grad_norm_enqueue(const gdni_cuda_device *device, const gdn_grad_norm *p,
                           gdn_stream stream) {
    using namespace gdni;
    const DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    const bool whole = whole_vectors<float>(0, {p->grad});
    double *const parts = static_cast<double *>(p->workspace);
    const cudaError_t error =
        launch_kernel(whole ? squares_kernel<4> : squares_kernel<1>, dim3(PARTS), THREADS, 0,
                      stream, static_cast<const float *>(p->grad), p->count, parts);
    if (error != cudaSuccess)
        return error;
    return launch_kernel(norm_kernel, dim3(1), PARTS, 0, stream, static_cast<const double *>(parts),
                         p->max_norm, p->norm, p->scale);
}

} // extern "C"
