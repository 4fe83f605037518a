#include "gated_rmsnorm.cuh"
#include "guard.h"
#include "launch.h"

#include <algorithm>

namespace gdni {

namespace {

// Rows of a CTA, in units of its slots, and the most CTAs that keep sums.
constexpr int64_t FORWARD_TURNS = 4, BACKWARD_TURNS = 16, SUM_BLOCKS = 1024;

GatedNorm describe(const gdn_gated_rmsnorm &p) {
    GatedNorm a = {};
    a.rows = p.T * p.H;
    a.V = p.V;
    a.eps = static_cast<float>(p.eps);
    a.x = p.x, a.z = p.z, a.weight = p.weight, a.dy = p.dy;
    a.y = p.y, a.dx = p.dx, a.dz = p.dz;
    a.partials = static_cast<float *>(p.workspace);
    return a;
}

bool wide(const gdn_gated_rmsnorm &p) {
    for (const void *x : {p.x, p.z, p.weight, p.dy, static_cast<const void *>(p.y),
                          static_cast<const void *>(p.dx), static_cast<const void *>(p.dz)})
        if (!multiple_of(x, 16))
            return false;
    return true;
}

// A multiple of the slots of every shape: these are powers of two up to 64.
int64_t backward_rows_per_block(int64_t rows) {
    return ceil_div(std::max<int64_t>(ceil_div(rows, SUM_BLOCKS), BACKWARD_TURNS * 16), 64) * 64;
}

template <typename T>
cudaError_t forward(const gdn_gated_rmsnorm &p, cudaStream_t stream) {
    GatedNorm a = describe(p);
    return with_row_shape<T>(p.V, wide(p), [&](auto shape) {
        using S = decltype(shape);
        a.rows_per_block = FORWARD_TURNS * S::SLOTS;
        const dim3 grid(static_cast<unsigned>(ceil_div(a.rows, a.rows_per_block)));
        return launch_kernel(gated_rmsnorm_forward_kernel<S, (S::N > 1 ? 1 : 2)>, grid, ROW_THREADS,
                             0, stream, a);
    });
}

template <typename T>
cudaError_t backward(const gdni_cuda_device *device, const gdn_gated_rmsnorm &p,
                     cudaStream_t stream) {
    GatedNorm a = describe(p);
    a.rows_per_block = backward_rows_per_block(a.rows);
    const int64_t blocks = ceil_div(a.rows, a.rows_per_block);
    const cudaError_t error = with_row_shape<T>(p.V, wide(p), [&](auto shape) {
        using S = decltype(shape);
        return launch_kernel(gated_rmsnorm_backward_kernel<S, 1>,
                             dim3(static_cast<unsigned>(blocks)), ROW_THREADS, 0, stream, a);
    });
    if (error != cudaSuccess)
        return error;
    return launch_sum_rows(
        device,
        {static_cast<float *>(p.dweight), nullptr, a.partials, blocks, p.V, p.accumulate != 0},
        stream);
}

} // namespace

} // namespace gdni

extern "C" {

int gdni_layer_gated_rmsnorm(const gdni_cuda_device *device, const gdn_gated_rmsnorm *p,
                             int backward, gdn_stream stream) {
    using namespace gdni;
    const DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    if (p->dtype == GDN_DTYPE_BF16)
        return backward ? gdni::backward<bf16>(device, *p, stream) : forward<bf16>(*p, stream);
    return backward ? gdni::backward<float>(device, *p, stream) : forward<float>(*p, stream);
}

size_t gdni_layer_gated_rmsnorm_workspace(const gdn_gated_rmsnorm *p) {
    const int64_t rows = p->T * p->H;
    const int64_t blocks = gdni::ceil_div(rows, gdni::backward_rows_per_block(rows));
    return static_cast<size_t>(blocks * p->V) * sizeof(float);
}

} // extern "C"
