#include "common/tensor_map.h"
#include "hopper/hopper.h"
#include "hopper/launch.h"
#include "hopper/launch.h"
#include "hopper/scan/kernel.cuh"
#include "portable/stages.h"

namespace gdni {
namespace hopper {

cudaError_t launch_scan(const Arguments &a, bool states, bool gradients, cudaStream_t stream) {
    using Shape = ScanShape;
    const dim3 grid(static_cast<unsigned>(a.Hv), HEAD_DIM / Shape::COLUMNS,
                    states && gradients ? 2 : 1);
    ScanParameters p = {};
    p.a = a;
    GDNI_CUDA_TRY(
        make_tensor_map(&p.matrices, {a.pool_transfer, a.plan.max_borders * a.Hv, HEAD_DIM, 4, 4,
                                      Shape::MATRIX, HEAD_DIM * sizeof(float), 64, HEAD_DIM}));
    return launch_early(scan_kernel, grid, Shape::THREADS, Shape::BYTES, stream, p, states ? 0 : 1);
}

} // namespace hopper
} // namespace gdni
