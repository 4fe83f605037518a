// Tensor maps of what the stages read and write through the bulk copy engine.
#pragma once

#include "common/tensor_map.h"
#include "portable/arguments.h"

namespace gdni {
namespace hopper {

// A tensor [T, H, 128] of the problem; boxes of 64 tokens and `blocks` times 64 columns.
inline cudaError_t map_tensor(CUtensorMap *map, const Tensor &x, int64_t T, int heads, int blocks) {
    // The stride between heads means nothing where there is one.
    const int64_t head = heads > 1 ? x.head : x.token;
    return make_tensor_map(map, {x.data, heads, T, 2, blocks, head * 2, x.token * 2});
}

// Tiles [tile][rows][64 x blocks] of the workspace; boxes of 64 rows and `box_blocks` blocks.
inline cudaError_t map_tiles(CUtensorMap *map, const Arguments &a, const void *tiles, int rows,
                             int blocks, int box_blocks) {
    const int64_t row = 128 * blocks;
    return make_tensor_map(map,
                           {tiles, a.max_chunks * a.Hv, rows, blocks, box_blocks, rows * row, row});
}

// Lower triangular tiles [tile][64][64], in two boxes of 32 rows. Of the upper one only 32 columns
// are read or written, unless `whole`: beyond the diagonal there is nothing.
struct TriangleMaps {
    CUtensorMap upper, lower;
};

inline cudaError_t map_triangle(TriangleMaps *maps, const Arguments &a, const void *tiles,
                                bool whole) {
    const int64_t count = a.max_chunks * a.Hv;
    const cudaError_t error =
        make_tensor_map(&maps->upper, {tiles, count, 32, 1, 1, 8192, 128, whole ? 64 : 32, 32});
    return error != cudaSuccess
               ? error
               : make_tensor_map(&maps->lower, {static_cast<const char *>(tiles) + 4096, count, 32,
                                                1, 1, 8192, 128, 64, 32});
}

} // namespace hopper
} // namespace gdni
