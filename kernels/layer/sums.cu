#include "sums.cuh"

#include "portable/stages.h"

namespace gdni {

namespace {

constexpr int COLUMNS = 32, WARPS = 32;

// A lane a column, a warp every WARPS-th row; then the warps' sums in their order. In double.
__global__ void __launch_bounds__(COLUMNS *WARPS)
    sum_rows_kernel(const __grid_constant__ RowSums s) {
    __shared__ double sums[WARPS][COLUMNS];
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int64_t i = static_cast<int64_t>(blockIdx.x) * COLUMNS + lane;
    const int64_t all = s.second ? 2 * s.count : s.count;
    double sum = 0.0;
    if (i < all) {
#pragma unroll 8
        for (int64_t row = warp; row < s.rows; row += WARPS)
            sum += static_cast<double>(s.partials[row * all + i]);
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || i >= all)
        return;
    for (int w = 1; w < WARPS; ++w)
        sum += sums[w][lane];
    float *out = i < s.count ? s.out + i : s.second + (i - s.count);
    *out = static_cast<float>(s.accumulate ? sum + static_cast<double>(*out) : sum);
}

} // namespace

cudaError_t launch_sum_rows(const RowSums &s, cudaStream_t stream) {
    const int64_t all = s.second ? 2 * s.count : s.count;
    return launch_kernel(sum_rows_kernel,
                         dim3(static_cast<unsigned>((all + COLUMNS - 1) / COLUMNS)),
                         COLUMNS * WARPS, 0, stream, s);
}

} // namespace gdni
