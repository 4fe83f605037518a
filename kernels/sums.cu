#include "sums.cuh"

#include "early.h"

namespace gdni {

namespace {

// The sum over the lanes that share a column, in the first of them.
template <int COLUMNS>
__device__ __forceinline__ double sum_over_column(double x) {
#pragma unroll
    for (int step = 16; step >= COLUMNS; step /= 2)
        x += __shfl_down_sync(0xffffffffu, x, step);
    return x;
}

// A warp has COLUMNS columns of 32 / COLUMNS rows, a CTA every GROUPS-th row of each lane; then the
// warps' sums in a fixed order. In double.
template <int COLUMNS, int WARPS>
__global__ void __launch_bounds__(32 * WARPS) sum_rows_kernel(const __grid_constant__ RowSums s) {
    constexpr int PER_WARP = 32 / COLUMNS, GROUPS = WARPS * PER_WARP;
    __shared__ double sums[WARPS][COLUMNS];
    const int column = static_cast<int>(threadIdx.x) % COLUMNS;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int64_t i = static_cast<int64_t>(blockIdx.x) * COLUMNS + column;
    const int64_t all = s.second ? 2 * s.count : s.count;
    double sum = 0.0;
    wait_for_previous();
    if (i < all) {
#pragma unroll 8
        for (int64_t row = threadIdx.x / COLUMNS; row < s.rows; row += GROUPS)
            sum += static_cast<double>(s.partials[row * all + i]);
    }
    sum = sum_over_column<COLUMNS>(sum);
    if (threadIdx.x % 32 < COLUMNS)
        sums[warp][column] = sum;
    __syncthreads();
    if (warp > 0)
        return;
    sum = 0.0;
#pragma unroll
    for (int w = 0; w < WARPS; w += PER_WARP)
        sum += sums[w + threadIdx.x / COLUMNS][column];
    sum = sum_over_column<COLUMNS>(sum);
    if (threadIdx.x >= COLUMNS || i >= all)
        return;
    float *out = i < s.count ? s.out + i : s.second + (i - s.count);
    *out = static_cast<float>(s.accumulate ? sum + static_cast<double>(*out) : sum);
}

template <int COLUMNS, int WARPS>
cudaError_t launch(const gdni_cuda_device *device, const RowSums &s, cudaStream_t stream) {
    const int64_t all = s.second ? 2 * s.count : s.count;
    const dim3 grid(static_cast<unsigned>((all + COLUMNS - 1) / COLUMNS));
    return launch_next(device, sum_rows_kernel<COLUMNS, WARPS>, grid, 32 * WARPS, stream, s);
}

} // namespace

cudaError_t launch_sum_rows(const gdni_cuda_device *device, const RowSums &s, cudaStream_t stream) {
    // Few rows are long ones. Narrow rows get many CTAs all the same, wide ones whole cache lines.
    if (s.rows <= 64)
        return launch<32, 4>(device, s, stream);
    return s.count < 4096 ? launch<8, 32>(device, s, stream) : launch<32, 32>(device, s, stream);
}

} // namespace gdni
