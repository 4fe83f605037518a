// Gradients of parameters: every CTA of a backward kernel leaves its sums in a row of the
// workspace, and a second kernel adds the rows up in a fixed order. The same bits every run.
#pragma once

#include "launch.h"
#include "portable/stages.h"

#include <cstdint>

#include <cuda_runtime.h>

namespace gdni {

inline int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// A CTA's sums: put(j, the sum over `groups` of threads of of_group(group, j)) for each j < count,
// by as many threads as there are for it. In double. Called by all THREADS threads after a barrier.
template <int THREADS, typename OfGroup, typename Put>
__device__ __forceinline__ void sum_groups(int groups, int count, const OfGroup &of_group,
                                           const Put &put) {
    __shared__ double totals[THREADS];
    const int thread = static_cast<int>(threadIdx.x);
    const int parts = count < THREADS ? THREADS / count : 1;
    for (int i = thread; i < count * parts; i += THREADS) {
        const int j = i % count;
        double total = 0.0;
#pragma unroll 4
        for (int group = i / count; group < groups; group += parts)
            total += static_cast<double>(of_group(group, j));
        if (parts == 1)
            put(j, static_cast<float>(total));
        else
            totals[i] = total;
    }
    if (parts == 1)
        return;
    __syncthreads();
    if (thread >= count)
        return;
    double total = totals[thread];
    for (int part = 1; part < parts; ++part)
        total += totals[part * count + thread];
    put(thread, static_cast<float>(total));
}

// out[i] = sum over rows of partials[row][i], or out[i] += where accumulate; i < count. A row of
// the workspace holds `count` numbers for out and, if it is not NULL, as many for second.
struct RowSums {
    float *out, *second;
    const float *partials;
    int64_t rows, count;
    bool accumulate;
};

// Follows the kernel that leaves the rows, of which every CTA calls let_next_start: where it can,
// it is launched while that one runs, and waits for its end.
cudaError_t launch_sum_rows(const gdni_cuda_device *device, const RowSums &s, cudaStream_t stream);

} // namespace gdni
