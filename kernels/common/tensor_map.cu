#include "tensor_map.h"

namespace gdni {

namespace {

// The driver's encoder, found at run time: nothing links to libcuda.
cudaError_t find_encoder(decltype(&cuTensorMapEncodeTiled) *encoder) {
    void *function = nullptr;
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                               12000, cudaEnableDefault, &found);
#else
    const cudaError_t error =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
    if (error != cudaSuccess)
        return error;
    if (found != cudaDriverEntryPointSuccess)
        return cudaErrorNotSupported;
    *encoder = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
    return cudaSuccess;
}

} // namespace

cudaError_t make_tensor_map(CUtensorMap *map, const TensorShape &s) {
    decltype(&cuTensorMapEncodeTiled) encode = nullptr;
    const cudaError_t error = find_encoder(&encode);
    if (error != cudaSuccess)
        return error;
    const cuuint64_t dims[4] = {static_cast<cuuint64_t>(s.columns), static_cast<cuuint64_t>(s.rows),
                                static_cast<cuuint64_t>(s.blocks),
                                static_cast<cuuint64_t>(s.outer)};
    const cuuint64_t strides[3] = {static_cast<cuuint64_t>(s.row_stride), 128,
                                   static_cast<cuuint64_t>(s.outer_stride)};
    const cuuint32_t box[4] = {64, static_cast<cuuint32_t>(s.box_rows),
                               static_cast<cuuint32_t>(s.box_blocks), 1};
    const cuuint32_t steps[4] = {1, 1, 1, 1};
    const CUresult result = encode(
        map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void *>(s.data), dims, strides, box,
        steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        s.columns == 64 ? CU_TENSOR_MAP_L2_PROMOTION_L2_256B : CU_TENSOR_MAP_L2_PROMOTION_NONE,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

} // namespace gdni
