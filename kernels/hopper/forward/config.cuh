// Shared memory of the forward chain.
//
//     per stage       bytes          lives from its load to
//     K               16384          the next state of its chunk
//     Gam o T          8192          D of its chunk
//     V                8192 x W      R of its chunk                      W = warpgroups in a CTA
//     Q               16384          S^T Q^T of its chunk   OUTPUT only
//     P                8192          P D of its chunk       OUTPUT only
//     gates             768          the same
//     per warpgroup
//     O                2 x 8192      from stmatrix to the end of its store   OUTPUT only
//     S               16384          the same                                KEEP only
//     D                8192          the same                                KEEP only
#pragma once

#include "hopper/shape.h"

namespace gdni {
namespace hopper {

// WARPGROUPS: how many chains of 64 rows of V share a CTA. OUTPUT: o is wanted. KEEP: states and
// delta are.
template <int WARPGROUPS_, bool OUTPUT_, bool KEEP_>
struct ForwardShape {
    static constexpr int WARPGROUPS = WARPGROUPS_;
    static constexpr bool OUTPUT = OUTPUT_, KEEP = KEEP_;

    // One warp loads, one a warpgroup stores; setmaxnreg wants whole warpgroups.
    static constexpr int THREADS = WARPGROUPS == 1 ? 192 : 384;
    static constexpr int CONSUMERS = WARPGROUPS * 128;

    static constexpr int K = 0, INVERSE = 2 * TILE, V = 3 * TILE, Q = V + WARPGROUPS * TILE,
                         SCORES = Q + 2 * TILE, STAGE = OUTPUT ? SCORES + TILE : Q;
    static constexpr int GATES = 3 * CHUNK_TOKENS * 4;
    static constexpr int STORE = (OUTPUT ? 2 * TILE : 0) + (KEEP ? 3 * TILE : 0);
    static constexpr int STORE_S = OUTPUT ? 2 * TILE : 0, STORE_D = STORE_S + 2 * TILE;
    static constexpr int STAGES = !OUTPUT ? 4 : KEEP && WARPGROUPS == 2 ? 2 : 3;

    // Barriers, eight bytes each.
    //     full   [stage]    the copies' bytes              consumers wait
    //     empty  [stage]    all consumers                  the loading warp waits
    //     ready  [W][4]     4 warps: O, O, S, D written    the storing warp waits
    //     free   [W][4]     1: their stores have read      the warpgroup waits
    static constexpr int GATES_AT = STAGES * STAGE + WARPGROUPS * STORE;
    static constexpr int FULL_AT = GATES_AT + STAGES * GATES, EMPTY_AT = FULL_AT + 8 * STAGES,
                         READY_AT = EMPTY_AT + 8 * STAGES, FREE_AT = READY_AT + 32 * WARPGROUPS,
                         BYTES = FREE_AT + 32 * WARPGROUPS;
    static_assert(BYTES <= 232448, "more shared memory than a CTA may have");
};

} // namespace hopper
} // namespace gdni
