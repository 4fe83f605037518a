#include "conv1d.cuh"
#include "guard.h"
#include "launch.h"
#include "portable/stages.h"
#include "sums.cuh"

#include <algorithm>

namespace gdni {

namespace {

// Backward's CTAs, over all channels, that keep sums of their own: enough to fill a device some
// times over, few enough that their rows are a small part of what is read.
constexpr int64_t SUM_BLOCKS = 2048, CHUNK_TOKENS = 32;
// Forward's tokens of a warp: longer where there is enough to do, as the W - 1 rows before the
// first one are read twice.
constexpr int64_t LONGEST_SPAN = 128, FULL_WARPS = 32768;

int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// Tokens of a warp, a multiple of 32, such that there are at most `blocks` CTAs over the tokens.
int64_t span_of(int64_t T, int64_t blocks) {
    return CHUNK_TOKENS *
           std::max<int64_t>(ceil_div(ceil_div(T, blocks * CONV_WARPS), CHUNK_TOKENS), 1);
}

// Whether rows can be read in vectors of this many elements.
bool aligned(const gdn_conv1d &p, int vector) {
    const size_t bytes = vector * gdn_dtype_size(p.dtype);
    for (const void *x : {p.x, p.weight, p.halo, p.dy, static_cast<const void *>(p.y),
                          static_cast<const void *>(p.dx), static_cast<const void *>(p.dhalo)})
        if (!multiple_of(x, bytes))
            return false;
    return p.channels % vector == 0 && p.x_stride % vector == 0 && p.y_stride % vector == 0;
}

// Backward's rows of sums; for vectors of four, or fewer where those do not fit.
int64_t sum_blocks(const gdn_conv1d &p, int vector) {
    const int64_t columns = ceil_div(p.channels, 32 * vector);
    const int64_t most = std::min<int64_t>(std::max<int64_t>(SUM_BLOCKS / columns, 32), 1024);
    const int64_t span = span_of(p.T, most);
    return std::max<int64_t>(ceil_div(p.T, span * CONV_WARPS), 1);
}

Convolution describe(const gdn_conv1d &p) {
    Convolution a = {};
    a.T = p.T, a.N = p.N;
    a.channels = p.channels, a.x_stride = p.x_stride, a.y_stride = p.y_stride;
    a.width = p.width;
    a.cu_seqlens = p.cu_seqlens;
    a.x = p.x, a.weight = p.weight, a.halo = p.halo;
    a.y = p.y;
    a.dy = p.dy;
    a.dx = p.dx, a.dhalo = p.dhalo;
    a.partials = static_cast<float *>(p.workspace);
    return a;
}

template <typename T, int W, int VECTOR, int BATCH>
cudaError_t forward(const gdn_conv1d &p, cudaStream_t stream) {
    Convolution a = describe(p);
    a.column_blocks = static_cast<int32_t>(ceil_div(p.channels, 32 * VECTOR));
    const int64_t blocks = std::max<int64_t>(FULL_WARPS / CONV_WARPS / a.column_blocks, 1);
    a.span = std::min(span_of(p.T, blocks), LONGEST_SPAN);
    const int64_t grid = ceil_div(p.T, a.span * CONV_WARPS) * a.column_blocks;
    return launch_kernel(conv_forward_kernel<T, W, VECTOR, BATCH>,
                         dim3(static_cast<unsigned>(grid)), CONV_THREADS, 0, stream, a);
}

template <typename T, int W, int VECTOR, int BATCH>
cudaError_t backward(const gdn_conv1d &p, cudaStream_t stream) {
    Convolution a = describe(p);
    a.column_blocks = static_cast<int32_t>(ceil_div(p.channels, 32 * VECTOR));
    const int64_t blocks = sum_blocks(p, VECTOR);
    a.span = span_of(p.T, blocks);
    const cudaError_t error = launch_kernel(conv_backward_kernel<T, W, VECTOR, BATCH>,
                                            dim3(static_cast<unsigned>(blocks * a.column_blocks)),
                                            CONV_THREADS, 0, stream, a);
    if (error != cudaSuccess)
        return error;
    return launch_sum_rows({static_cast<float *>(p.dweight), nullptr, a.partials, blocks,
                            int64_t{p.channels} * p.width, p.accumulate != 0},
                           stream);
}

template <typename T>
cudaError_t run(const gdn_conv1d &p, bool is_backward, cudaStream_t stream) {
    constexpr int FULL = PIECE<T>; // 16 bytes
    if (p.width > 4)
        return is_backward ? backward<T, 32, 1, 4>(p, stream) : forward<T, 32, 1, 4>(p, stream);
    if (is_backward)
        return aligned(p, 4) ? backward<T, 4, 4, 4>(p, stream) : backward<T, 4, 1, 4>(p, stream);
    return aligned(p, FULL) ? forward<T, 4, FULL, 4>(p, stream) : forward<T, 4, 1, 4>(p, stream);
}

} // namespace

} // namespace gdni

extern "C" {

int gdni_layer_conv1d(const gdni_cuda_device *device, const gdn_conv1d *p, int backward,
                      gdn_stream stream) {
    const gdni::DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    return p->dtype == GDN_DTYPE_BF16 ? gdni::run<gdni::bf16>(*p, backward != 0, stream)
                                      : gdni::run<float>(*p, backward != 0, stream);
}

size_t gdni_layer_conv1d_workspace(const gdn_conv1d *p) {
    // Whatever vectors the pointers will allow.
    const int64_t rows = std::max(gdni::sum_blocks(*p, 1), gdni::sum_blocks(*p, 4));
    return static_cast<size_t>(rows * p->channels * p->width) * sizeof(float);
}

} // extern "C"
