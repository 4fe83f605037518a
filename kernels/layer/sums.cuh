// Gradients of parameters: every CTA of a backward kernel leaves its sums in a row of the
// workspace, and a second kernel adds the rows up in their order. The same bits every run.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace gdni {

// out[i] = sum over rows of partials[row][i], or out[i] += where accumulate; i < count. A row of
// the workspace holds `count` numbers for out and, if it is not NULL, as many for second.
struct RowSums {
    float *out, *second;
    const float *partials;
    int64_t rows, count;
    bool accumulate;
};
cudaError_t launch_sum_rows(const RowSums &s, cudaStream_t stream);

} // namespace gdni
