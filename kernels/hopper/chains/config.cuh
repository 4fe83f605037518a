// Tiles, shared memory and barriers of the backward's chains.
#pragma once

#include <cuda_bf16.h>

#include "common/matrix.cuh"
#include "common/mbarrier.cuh"
#include "common/tma.cuh"
#include "common/wgmma.cuh"
#include "portable/arguments.h"
#include "portable/stages.h"
#include "hopper/backward.h"

namespace gdni {
namespace hopper {

// What the kernel gets. Maps of tensors that are NULL stay empty and unused.
struct ChainsParameters {
    Arguments a;
    CUtensorMap q, k, v, do_, dv;           // rows
    CUtensorMap inverse, scores;            // tiles
    CUtensorMap states, state_grads, delta; // tiles, written
    float *last_gradients;                  // dh0, or pool_grads if exact; or NULL
    int32_t forward, backward;              // which chains run, 0 or 1
    bool exact; // only what the exact pass owes: gradients at borders, no tiles
};

// A CTA is one chain, or half of one: a warpgroup owns 64 of the 128 rows of V.
template <int WARPGROUPS>
struct ChainsShape {
    static constexpr int ROWS = 64;                           // of V, of one warpgroup
    static constexpr uint32_t SQUARE = 64 * 64 * 2;           // C x C, or C x ROWS
    static constexpr uint32_t WIDE = 2 * SQUARE;              // C x K, or ROWS x K
    static constexpr uint32_t GATES = 3 * 64 * sizeof(float); // e^c, e^{c_C - c}, beta
    static constexpr uint32_t OUTPUT = WIDE + SQUARE;         // a warpgroup's state and D or dv
    static constexpr int THREADS = 128 * WARPGROUPS + (WARPGROUPS == 1 ? 96 : 128);
    static constexpr uint32_t MEMORY = 232448; // that a CTA may have
    // A stage: K, Gam o T, V or dO; backward also P and Q.
    static constexpr uint32_t stage(bool backward) {
        return WIDE + SQUARE + WARPGROUPS * SQUARE + (backward ? SQUARE + WIDE : 0);
    }
    static constexpr uint32_t OUTPUTS = 2 * WARPGROUPS * OUTPUT;
    static constexpr uint32_t OUTPUT_BARRIERS = 4 * 8 * WARPGROUPS + 16;
    static constexpr int stages(bool backward) {
        return static_cast<int>((MEMORY - OUTPUTS - OUTPUT_BARRIERS) /
                                (stage(backward) + GATES + 16));
    }
    static_assert(stages(true) >= 2 && stages(false) >= 2, "loads run ahead of the chain");
};

// Offsets in shared memory.
template <int WARPGROUPS, bool BACKWARD>
struct ChainsLayout {
    using Shape = ChainsShape<WARPGROUPS>;
    static constexpr int STAGES = Shape::stages(BACKWARD);
    static constexpr uint32_t STAGE = Shape::stage(BACKWARD);
    // Inside a stage.
    static constexpr uint32_t K = 0, INVERSE = Shape::WIDE, COLUMNS = INVERSE + Shape::SQUARE;
    static constexpr uint32_t SCORES = COLUMNS + WARPGROUPS * Shape::SQUARE;
    static constexpr uint32_t Q = SCORES + Shape::SQUARE;
    // After the stages.
    static constexpr uint32_t OUTPUTS = STAGES * STAGE; // [warpgroup][2]: state, then D or dv
    static constexpr uint32_t GATES = OUTPUTS + Shape::OUTPUTS;
    static constexpr uint32_t FULL = GATES + STAGES * Shape::GATES; // mbarriers from here on
    static constexpr uint32_t EMPTY = FULL + 8 * STAGES;
    static constexpr uint32_t OUT_FULL = EMPTY + 8 * STAGES; // [warpgroup][2]
    static constexpr uint32_t OUT_EMPTY = OUT_FULL + 16 * WARPGROUPS;
    static constexpr uint32_t TAIL = OUT_EMPTY + 16 * WARPGROUPS;
    static constexpr uint32_t STORED = TAIL + 8; // [warpgroup] chunks that are, not a barrier
    static constexpr uint32_t BYTES = STORED + 8;
    static_assert(BYTES <= Shape::MEMORY, "fits");
};

} // namespace hopper
} // namespace gdni
