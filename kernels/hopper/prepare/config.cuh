// Shared memory of the gate and inverse kernel.
//
//                                bytes           lives from .. to
//     K, Q                       32768           the load .. N and M       over them:
//     N, M                       2 x 18432       the products .. the end
//     staging, one a task        4 x 8192        its diagonal blocks, then its tile .. its store
//     gate vectors, one a head   4 x 1408        the gates .. the end
//     barrier                    8               K and Q have come
#pragma once

#include "hopper/shape.h"

namespace gdni {
namespace hopper {

// HEADS: v-heads of one k-head that a CTA takes. With one there are two tasks.
template <int HEADS_>
struct PrepareShapeOf {
    static constexpr int THREADS = 128, WARPS = 4;
    static constexpr int HEADS = HEADS_, TASKS_AT_ONCE = HEADS == 1 ? 2 : WARPS;
    static constexpr int CTAS = HEADS == 1 ? 4 : 3; // a multiprocessor
    // Rows of N and M: 64 floats and 8 more, so that accumulators come and go without conflicts.
    static constexpr int LD = 72;
    static constexpr int SQUARE = 64 * LD * 4;
    // A diagonal block's rows and the distance from block to block, in floats.
    static constexpr int LD_BLOCK = 20, BLOCK = 16 * LD_BLOCK + 16;

    static constexpr int K_AT = 0, Q_AT = 2 * TILE, N_AT = 0, M_AT = SQUARE;
    static constexpr int STAGING_AT = 2 * SQUARE, GATES_AT = STAGING_AT + TASKS_AT_ONCE * TILE;
    // Floats of a head's gate vectors: c / log 2 as the sum of two, beta, exp(c_i - c_f) for the
    // first row f of i's block, exp(c_f - c_j) for the first row f of block I = 1, 2, 3 and j < f.
    static constexpr int SUM = 0, LOW = 64, BETA = 128, ROW = 192, COLUMN = 256, VECTORS = 352;
    static constexpr int BARRIER_AT = GATES_AT + HEADS * VECTORS * 4;
    static constexpr int BYTES = BARRIER_AT + 8;

    static_assert(4 * TILE <= 2 * SQUARE && STAGING_AT % 1024 == 0, "");
    static_assert(4 * BLOCK * 4 <= TILE, "");
    static_assert(CTAS * (BYTES + 1024) <= 228 * 1024, "so many CTAs a multiprocessor");
};

// What does not depend on the heads is the same in all.
using PrepareShape = PrepareShapeOf<4>;

} // namespace hopper
} // namespace gdni
