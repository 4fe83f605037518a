// Shared memory of the fused forward.
//
//                             bytes             lives from .. to
//     K, Q, 4 chunks          16384 16384       its load .. S' and S^T Q^T of its chunk
//       or, in a queue, an item's first S         its load .. the last chunk of the item before
//     V, 2 chunks             8192              its load .. R of its chunk
//     O                       2 x 8192          stmatrix .. the end of its store
//     slot, 3 chunks                            the tiles' warpgroup or its copy .. P D of its chunk
//       Gam o T, P, gates     8192 8192 1024
//     gate vectors, two       2 x 2176          the gates' warp .. the tiles of their chunk
//     diagonal blocks, four   4 x 1280          N, then T_II
//     factors                 11 x 512          blocks of T and W, from warp to warp
//     items of a queue        2 x 32            the warp that loads K and Q .. all roles have read it
#pragma once

#include "hopper/prepare/config.cuh"
#include "hopper/shape.h"

namespace gdni {
namespace hopper {

struct FusedShape {
    // What the chain of the forward (../forward) wants to know.
    static constexpr int WARPGROUPS = 1;
    static constexpr bool OUTPUT = true, KEEP = false;
    static constexpr int STAGES = 4;
    static constexpr int K = 0, Q = 2 * TILE, STAGE = 4 * TILE;
    static constexpr int V = 0, VALUES = 2; // V is not in a stage, but in a ring of its own
    static constexpr int STORE = 2 * TILE, STORE_S = 0, STORE_D = 0;

    // Warpgroups: the chain, the tiles, and four warps that load, store and make gate vectors.
    static constexpr int THREADS = 384;
    static constexpr int SLOTS = 3;
    static constexpr int INVERSE = 0, SCORES = TILE, TABLE = 2 * TILE;
    static constexpr int TABLE_BYTES = 3 * CHUNK_TOKENS * 4, SLOT = 2 * TILE + 1024;
    static constexpr int SENT = 2 * TILE + TABLE_BYTES;

    static constexpr int VALUES_AT = STAGES * STAGE, STORE_AT = VALUES_AT + VALUES * TILE,
                         SLOTS_AT = STORE_AT + STORE;
    // Gate vectors of PrepareShape, then the rows of the gate table that the chain reads.
    static constexpr int VECTORS = PrepareShape::VECTORS * 4, GATE_BUFFER = VECTORS + TABLE_BYTES;
    static constexpr int VECTORS_AT = SLOTS_AT + SLOTS * SLOT;
    static constexpr int LD_BLOCK = PrepareShape::LD_BLOCK, BLOCK = 16 * LD_BLOCK * 4;
    static constexpr int BLOCKS_AT = VECTORS_AT + 2 * GATE_BUFFER;
    static constexpr int FACTORS_AT = BLOCKS_AT + 4 * BLOCK, FACTORS = 11;

    // Barriers, eight bytes each.
    //     full        [stage]  a warp, the copies' bytes      chain, tiles
    //     empty       [stage]  4 warps of the chain           the warp that loads K and Q
    //                          and, in a queue, 4 of the tiles
    //     value full  [2]      a warp, the copy's bytes       chain
    //     value empty [2]      4 warps of the chain           the warp that loads V
    //     tail        [2]      the copies' bytes              either warp: it clears rows
    //     ready       [2]      4 warps: O is written          storing warp
    //     free        [2]      1: its store has read          chain
    //     slot full   [slot]   1, the copy's bytes            chain
    //     slot empty  [slot]   4 warps of either CTA's chain  tiles, of the CTA that fills it next
    //     gates full  [2]      a warp                         tiles
    //     gates empty [2]      4 warps of the tiles           gates' warp
    //     item full   [2]      1                              all other warps
    //     item empty  [2]      the lanes of all other warps   the warp that loads K and Q
    static constexpr int BARRIERS_AT = FACTORS_AT + FACTORS * 512;
    enum Barrier {
        FULL = 0,
        EMPTY = FULL + STAGES,
        VALUE_FULL = EMPTY + STAGES,
        VALUE_EMPTY = VALUE_FULL + VALUES,
        TAIL = VALUE_EMPTY + VALUES,
        READY = TAIL + 2,
        FREE = READY + 2,
        SLOT_FULL = FREE + 2,
        SLOT_EMPTY = SLOT_FULL + SLOTS,
        GATES_FULL = SLOT_EMPTY + SLOTS,
        GATES_EMPTY = GATES_FULL + 2,
        ITEM_FULL = GATES_EMPTY + 2,
        ITEM_EMPTY = ITEM_FULL + 2,
        BARRIERS = ITEM_EMPTY + 2
    };
    static constexpr int ITEM = 32, ITEMS_AT = (BARRIERS_AT + 8 * BARRIERS + 15) / 16 * 16;
    static constexpr int BYTES = ITEMS_AT + 2 * ITEM;
    static_assert(SLOT % 1024 == 0 && VECTORS_AT % 16 == 0 && FACTORS_AT % 16 == 0, "");
    static_assert(STAGE == HEAD_DIM * 64 * 4, "a stage holds half a state");
    static_assert(BYTES <= 232448, "more shared memory than a CTA may have");
};

} // namespace hopper
} // namespace gdni
