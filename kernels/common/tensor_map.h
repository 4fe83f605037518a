// Tensor maps for the bulk copy engine, made on the host without touching device memory.
#pragma once

#include <cstdint>

#include <cuda.h>
#include <cuda_runtime.h>

namespace gdni {

// A bf16 tensor [outer][rows][blocks][64]; strides in bytes, blocks follow each other. Its boxes
// are one `outer`, 64 rows and `box_blocks` blocks, tile after tile in shared memory, with the
// 128-byte swizzle. Rows from `rows` on read as zeros and are not written.
struct TensorShape {
    const void *data;
    int64_t outer, rows;
    int blocks, box_blocks;
    int64_t outer_stride, row_stride;
    // A narrower tensor: only so many columns of the one block are there, the others read as zeros
    // and are not written; and boxes of fewer rows.
    int columns = 64, box_rows = 64;
};

cudaError_t make_tensor_map(CUtensorMap *map, const TensorShape &shape);

} // namespace gdni
