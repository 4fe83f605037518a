#include "conv1d.cuh"
#include "guard.h"
#include "launch.h"

#include <algorithm>

namespace gdni {

namespace {

// Forward has nothing to add up at a span's end: shorter ones even out what multiprocessors do.
constexpr int64_t FORWARD_WAVES = 2, LONGEST_SPAN = 512;

// CTAs over the tokens: such that the device is full `waves` times, or a few more if it is fuller
// then. ctas: that a multiprocessor holds.
int64_t token_blocks(const gdni_cuda_device *device, const gdn_conv1d &p, int vector, int ctas,
                     int64_t waves) {
    const int64_t places = int64_t{device->multiprocessors} * ctas;
    const int64_t columns = ceil_div(p.channels, 32 * vector);
    int64_t blocks = 1;
    for (const int64_t most = waves + 3; waves <= most; ++waves) {
        blocks = std::max<int64_t>(waves * places / columns, 1);
        if (blocks * columns * 16 >= waves * places * 15)
            break;
    }
    return blocks;
}

// Tokens of a warp, such that there are at most `blocks` CTAs over the tokens: a multiple of the
// batches' tokens, and no fewer than the rows that a span reads of the one before.
template <int W>
int64_t span_of(int64_t T, int64_t blocks) {
    constexpr int64_t CHUNK = W > 8 ? W : 8;
    return CHUNK * std::max<int64_t>(ceil_div(ceil_div(T, blocks * CONV_WARPS), CHUNK), 1);
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
cudaError_t forward(const gdni_cuda_device *device, const gdn_conv1d &p, cudaStream_t stream) {
    Convolution a = describe(p);
    a.column_blocks = static_cast<int32_t>(ceil_div(p.channels, 32 * VECTOR));
    a.span = span_of<W>(
        p.T, token_blocks(device, p, VECTOR, conv_ctas<T, W, VECTOR>(false), FORWARD_WAVES));
    a.span = std::min(a.span, LONGEST_SPAN);
    const int64_t grid = ceil_div(p.T, a.span * CONV_WARPS) * a.column_blocks;
    return launch_kernel(conv_forward_kernel<T, W, VECTOR, BATCH>,
                         dim3(static_cast<unsigned>(grid)), CONV_THREADS, 0, stream, a);
}

template <typename T, int W, int VECTOR, int BATCH>
cudaError_t backward(const gdni_cuda_device *device, const gdn_conv1d &p, cudaStream_t stream) {
    Convolution a = describe(p);
    a.column_blocks = static_cast<int32_t>(ceil_div(p.channels, 32 * VECTOR));
    a.span = span_of<W>(p.T, token_blocks(device, p, VECTOR, conv_ctas<T, W, VECTOR>(true), 1));
    const int64_t blocks = std::max<int64_t>(ceil_div(p.T, a.span * CONV_WARPS), 1);
    const cudaError_t error = launch_kernel(conv_backward_kernel<T, W, VECTOR, BATCH>,
                                            dim3(static_cast<unsigned>(blocks * a.column_blocks)),
                                            CONV_THREADS, 0, stream, a);
    if (error != cudaSuccess)
        return error;
    return launch_sum_rows(device,
                           {static_cast<float *>(p.dweight), nullptr, a.partials, blocks,
                            int64_t{p.channels} * p.width, p.accumulate != 0},
                           stream);
}

// Rows of sums that backward leaves at most, whatever vectors the pointers will allow.
template <typename T>
int64_t most_rows(const gdni_cuda_device *device, const gdn_conv1d &p) {
    if (p.width > 4)
        return token_blocks(device, p, 1, conv_ctas<T, 32, 1>(true), 1);
    return std::max(token_blocks(device, p, 1, conv_ctas<T, 4, 1>(true), 1),
                    token_blocks(device, p, 4, conv_ctas<T, 4, 4>(true), 1));
}

template <typename T>
cudaError_t run(const gdni_cuda_device *device, const gdn_conv1d &p, bool is_backward,
                cudaStream_t stream) {
    constexpr int FULL = PIECE<T>;                // 16 bytes
    constexpr int AHEAD = sizeof(T) == 4 ? 4 : 8; // 64 bytes
    if (p.width > 4)
        return is_backward ? backward<T, 32, 1, 4>(device, p, stream)
                           : forward<T, 32, 1, 4>(device, p, stream);
    if (is_backward)
        return aligned(p, 4) ? backward<T, 4, 4, AHEAD>(device, p, stream)
                             : backward<T, 4, 1, 4>(device, p, stream);
    return aligned(p, FULL) ? forward<T, 4, FULL, 4>(device, p, stream)
                            : forward<T, 4, 1, 4>(device, p, stream);
}

} // namespace

} // namespace gdni

extern "C" {

int gdni_layer_conv1d(const gdni_cuda_device *device, const gdn_conv1d *p, int backward,
                      gdn_stream stream) {
    const gdni::DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    return p->dtype == GDN_DTYPE_BF16 ? gdni::run<gdni::bf16>(device, *p, backward != 0, stream)
                                      : gdni::run<float>(device, *p, backward != 0, stream);
}

size_t gdni_layer_conv1d_workspace(const gdni_cuda_device *device, const gdn_conv1d *p) {
    const int64_t rows = p->dtype == GDN_DTYPE_BF16 ? gdni::most_rows<gdni::bf16>(device, *p)
                                                    : gdni::most_rows<float>(device, *p);
    return static_cast<size_t>(std::min(rows, std::max<int64_t>(p->T, 1)) * p->channels *
                               p->width) *
           sizeof(float);
}

} // extern "C"
