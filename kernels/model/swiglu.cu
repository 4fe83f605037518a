// y = SiLU(a) b,   da = dy b SiLU'(a),   db = dy SiLU(a),   where a row of x is [a, b].
//
// A thread 16 bytes of a and of b in ROWS rows, whose loads it issues before it computes.
#include "../guard.h"
#include "model.h"
#include "vector.cuh"

namespace gdni {

namespace {

constexpr int THREADS = 128, ROWS = 2;

template <typename T>
struct Gated {
    const T *x, *dy;
    T *y, *dx;
    int64_t tokens;
    int F;

    explicit Gated(const gdn_swiglu &p)
        : x(static_cast<const T *>(p.x)), dy(static_cast<const T *>(p.dy)),
          y(static_cast<T *>(p.y)), dx(static_cast<T *>(p.dx)), tokens(p.T), F(p.F) {}
};

__device__ __forceinline__ float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

template <typename T, int W, bool BACKWARD>
__global__ void __launch_bounds__(THREADS) swiglu_kernel(const __grid_constant__ Gated<T> p) {
    const int v = blockIdx.x * THREADS + threadIdx.x, vectors = p.F / W;
    if (v >= vectors)
        return;
    for (int64_t first = static_cast<int64_t>(blockIdx.y) * ROWS; first < p.tokens;
         first += static_cast<int64_t>(gridDim.y) * ROWS) {
        Raw<T, W> a[ROWS] = {}, b[ROWS] = {}, dy[ROWS] = {};
#pragma unroll
        for (int i = 0; i < ROWS; ++i)
            if (first + i < p.tokens) {
                const int64_t row = (first + i) * p.F;
                a[i] = load_raw<T, W>(p.x + 2 * row, v);
                b[i] = load_raw<T, W>(p.x + 2 * row + p.F, v);
                if (BACKWARD)
                    dy[i] = load_raw<T, W>(p.dy + row, v);
            }
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const int64_t row = (first + i) * p.F;
            float as[W], bs[W], ds[W];
            if (first + i >= p.tokens)
                break;
            unpack<T, W>(a[i], as);
            unpack<T, W>(b[i], bs);
            unpack<T, W>(dy[i], ds);
#pragma unroll
            for (int j = 0; j < W; ++j) {
                const float gate = sigmoid(as[j]), silu = as[j] * gate;
                if (BACKWARD) {
                    as[j] = ds[j] * bs[j] * gate * (1.0f + as[j] * (1.0f - gate));
                    bs[j] = ds[j] * silu;
                } else {
                    as[j] = silu * bs[j];
                }
            }
            if (BACKWARD) {
                store<T, W>(p.dx + 2 * row, v, as);
                store<T, W>(p.dx + 2 * row + p.F, v, bs);
            } else {
                store<T, W>(p.y + row, v, as);
            }
        }
    }
}

template <typename T, int W>
cudaError_t launch(const Gated<T> &p, int backward, cudaStream_t stream) {
    const dim3 grid(static_cast<unsigned>((p.F / W + THREADS - 1) / THREADS),
                    grid_of((p.tokens + ROWS - 1) / ROWS, 65535));
    return launch_kernel(backward ? swiglu_kernel<T, W, true> : swiglu_kernel<T, W, false>, grid,
                         THREADS, 0, stream, p);
}

template <typename T>
cudaError_t launch_any(const gdn_swiglu *part, int backward, cudaStream_t stream) {
    const Gated<T> p(*part);
    const bool whole =
        backward ? whole_vectors<T>(p.F, {p.x, p.dy, p.dx}) : whole_vectors<T>(p.F, {p.x, p.y});
    return whole ? launch<T, PIECE<T>>(p, backward, stream) : launch<T, 1>(p, backward, stream);
}

} // namespace

} // namespace gdni

extern "C" int gdni_swiglu_enqueue(const gdni_cuda_device *device, const gdn_swiglu *p,
                                   int backward, gdn_stream stream) {
    const gdni::DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    return p->dtype == GDN_DTYPE_BF16 ? gdni::launch_any<gdni::bf16>(p, backward, stream)
                                      : gdni::launch_any<float>(p, backward, stream);
}
