#include "tensor_map.h"

namespace gdni {

namespace {

// The driver's encoder, found at run time: nothing links to libcuda.
struct Encoder {
    decltype(&cuTensorMapEncodeTiled) function = nullptr;
    cudaError_t error;

    Encoder() {
        void *found = nullptr;
        cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
        error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                                 cudaEnableDefault, &result);
#else
        error =
            cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
        if (error == cudaSuccess && result != cudaDriverEntryPointSuccess)
            error = cudaErrorNotSupported;
        if (error == cudaSuccess)
            function = reinterpret_cast<decltype(function)>(found);
    }
};

} // namespace

cudaError_t make_tensor_map(CUtensorMap *map, const TensorShape &s) {
    static const Encoder encoder; // looked for once a process
    if (encoder.error != cudaSuccess)
        return encoder.error;
    const cuuint64_t dims[4] = {static_cast<cuuint64_t>(s.columns), static_cast<cuuint64_t>(s.rows),
                                static_cast<cuuint64_t>(s.blocks),
                                static_cast<cuuint64_t>(s.outer)};
    const cuuint64_t strides[3] = {static_cast<cuuint64_t>(s.row_stride), 128,
                                   static_cast<cuuint64_t>(s.outer_stride)};
    const cuuint32_t box[4] = {64, static_cast<cuuint32_t>(s.box_rows),
                               static_cast<cuuint32_t>(s.box_blocks), 1};
    const cuuint32_t steps[4] = {1, 1, 1, 1};
    const CUresult result = encoder.function(
        map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void *>(s.data), dims, strides, box,
        steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        s.columns == 64 ? CU_TENSOR_MAP_L2_PROMOTION_L2_256B : CU_TENSOR_MAP_L2_PROMOTION_NONE,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

} // namespace gdni
