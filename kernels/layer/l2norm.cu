// Rows divided by their norms; math as in src/layer/l2norm.c:
//
//     r = 1 / sqrt(|x|^2 + eps),   y = r x,   dx = r (dy - r^2 <x, dy> x)
//
// A CTA takes neighbouring heads of neighbouring tokens, ROWS of them a lane at a time. fp32
// within.
#include "guard.h"
#include "launch.h"
#include "portable/stages.h"
#include "rows.cuh"

namespace gdni {

namespace {

constexpr int TURNS = 8; // rows of a lane

struct Norm {
    int64_t rows, x_stride, y_stride;
    int32_t H, K;
    float eps;
    const void *x, *dy;
    void *y, *dx;
};

// The row that a lane works on: a head of a token. Moves on without dividing.
struct Cursor {
    int64_t row, token;
    int32_t head;

    __device__ __forceinline__ Cursor(const Norm &a, int64_t first) : row(first) {
        token = first / a.H;
        head = static_cast<int32_t>(first - token * a.H);
    }
    __device__ __forceinline__ void advance(const Norm &a, int32_t rows, int32_t tokens,
                                            int32_t heads) {
        row += rows;
        token += tokens;
        head += heads;
        if (head >= a.H) {
            head -= a.H;
            ++token;
        }
    }
};

template <typename S, int ROWS, bool BACKWARD>
__global__ void __launch_bounds__(ROW_THREADS) l2norm_kernel(const __grid_constant__ Norm a) {
    using T = typename S::T;
    const int tokens = S::SLOTS / a.H, heads = S::SLOTS % a.H;
    Cursor at(a, int64_t{blockIdx.x} * (TURNS * S::SLOTS) + threadIdx.x / S::LANES);
#pragma unroll 1
    for (int turn = 0; turn < TURNS; turn += ROWS) {
        typename S::Raw raw_x[ROWS], raw_dy[ROWS];
        int64_t x_at[ROWS], y_at[ROWS];
        bool valid[ROWS];
#pragma unroll
        for (int k = 0; k < ROWS; ++k) {
            valid[k] = at.row < a.rows;
            x_at[k] = at.token * a.x_stride + int64_t{at.head} * a.K;
            y_at[k] = at.token * a.y_stride + int64_t{at.head} * a.K;
            raw_x[k] = S::load(static_cast<const T *>(a.x) + x_at[k], a.K, valid[k]);
            if (BACKWARD)
                raw_dy[k] = S::load(static_cast<const T *>(a.dy) + y_at[k], a.K, valid[k]);
            at.advance(a, S::SLOTS, tokens, heads);
        }
#pragma unroll
        for (int k = 0; k < ROWS; ++k) {
            float x[S::COUNT], dy[S::COUNT], square = 0.0f, along = 0.0f;
            S::widen_all(raw_x[k], x);
            if (BACKWARD)
                S::widen_all(raw_dy[k], dy);
#pragma unroll
            for (int i = 0; i < S::COUNT; ++i) {
                square = fmaf(x[i], x[i], square);
                if (BACKWARD)
                    along = fmaf(x[i], dy[i], along);
            }
            const float r = rsqrtf(S::sum(square) + a.eps);
            if (BACKWARD) {
                along = S::sum(along) * r * r;
#pragma unroll
                for (int i = 0; i < S::COUNT; ++i)
                    x[i] = r * (dy[i] - along * x[i]);
                S::store(static_cast<T *>(a.dx) + x_at[k], a.K, valid[k], x);
            } else {
#pragma unroll
                for (int i = 0; i < S::COUNT; ++i)
                    x[i] *= r;
                S::store(static_cast<T *>(a.y) + y_at[k], a.K, valid[k], x);
            }
        }
    }
}

template <typename T>
cudaError_t run(const gdn_l2norm &p, bool backward, cudaStream_t stream) {
    const Norm a = {p.T * p.H, p.x_stride, p.y_stride, p.H, p.K, static_cast<float>(p.eps),
                    p.x,       p.dy,       p.y,        p.dx};
    bool wide = p.x_stride % PIECE<T> == 0 && p.y_stride % PIECE<T> == 0;
    for (const void *x :
         {p.x, p.dy, static_cast<const void *>(p.y), static_cast<const void *>(p.dx)})
        wide = wide && multiple_of(x, 16);
    return with_row_shape<T>(p.K, wide, [&](auto shape) {
        using S = decltype(shape);
        constexpr int ROWS = S::N > 1 ? 1 : 4;
        const int64_t block = TURNS * S::SLOTS;
        const dim3 grid(static_cast<unsigned>((a.rows + block - 1) / block));
        return backward
                   ? launch_kernel(l2norm_kernel<S, (ROWS > 2 ? 2 : ROWS), true>, grid, ROW_THREADS,
                                   0, stream, a)
                   : launch_kernel(l2norm_kernel<S, ROWS, false>, grid, ROW_THREADS, 0, stream, a);
    });
}

} // namespace

} // namespace gdni

extern "C" int gdni_layer_l2norm(const gdni_cuda_device *device, const gdn_l2norm *p, int backward,
                                 gdn_stream stream) {
    const gdni::DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    return p->dtype == GDN_DTYPE_BF16 ? gdni::run<gdni::bf16>(*p, backward != 0, stream)
                                      : gdni::run<float>(*p, backward != 0, stream);
}
