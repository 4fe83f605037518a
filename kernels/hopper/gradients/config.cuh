// Tiles, shared memory and barriers of the chunk-parallel pass.
#pragma once

#include <cuda_bf16.h>

#include "common/handover.cuh"
#include "common/matrix.cuh"
#include "common/mbarrier.cuh"
#include "common/tma.cuh"
#include "common/wgmma.cuh"
#include "portable/arguments.h"
#include "portable/stages.h"
#include "hopper/backward.h"

namespace gdni {
namespace hopper {

struct GradientsParameters {
    Arguments a;
    CUtensorMap q, k, do_, dv, dq, dk;      // rows
    CUtensorMap delta, states, state_grads; // tiles
    int32_t heads;                          // Hv / Hk
};

// Sums of one head on their way to the reducing warp, floats.
struct GradientsSums {
    float queries[64];    // <q, dQ_i> + row sums of dP o P
    float scores[4][64];  // column sums of dP o P, of 16 rows each
    float rest[64];       // -e^c <k, F> - row sums of Gam o N o Z, F = Y S^T
    float columns[4][64]; // column sums of beta Gam o N o Z, of 16 rows each
    float left[64];       // w
    float diagonal[64];   // of Z
    float state[4];       // <S, dS'> by warps
};

namespace gradients {

constexpr uint32_t SQUARE = 64 * 64 * 2, ROWS = 2 * SQUARE, STATE = 4 * SQUARE;
constexpr uint32_t GATES = GATE_ROWS * 64 * sizeof(float);
constexpr int CONSUMERS = 256, THREADS = CONSUMERS + 128;

// Offsets in shared memory. A stage is dO, D, dV of one head.
constexpr uint32_t K = 0;            // [2], by k-heads
constexpr uint32_t Q = K + 2 * ROWS; // one
constexpr uint32_t S = Q + ROWS;     // S^T
constexpr uint32_t DS = S + STATE;   // dS'^T
constexpr uint32_t STAGES = DS + STATE;
constexpr uint32_t DO = 0, D = ROWS, DV = 2 * ROWS, STAGE = 3 * ROWS;
constexpr uint32_t G = STAGES + 2 * STAGE; // G of a group, for G^T Q
constexpr uint32_t GATE_TABLES = G + SQUARE;
constexpr uint32_t SUMS = GATE_TABLES + 2 * GATES;           // [2]
constexpr uint32_t PAIRS = SUMS + 2 * sizeof(GradientsSums); // four of each thread of keys
constexpr uint32_t BARRIERS = PAIRS + 128 * 16;

// mbarriers, in units of 8 bytes.
enum Barrier {
    K_FULL = 0,      // [2] the copy, and the loading warp's lanes
    K_EMPTY = 2,     // [2] 8 consumer warps
    Q_FULL = 4,      // the copy, lanes as above
    Q_EMPTY = 5,     // 8 consumer warps
    STAGE_FULL = 6,  // [2] the copy, lanes as above
    STAGE_EMPTY = 8, // [2] all consumer threads, or the storing warp for them
    S_FULL = 10,     // the copy
    S_EMPTY = 11,    // 8 consumer warps
    DS_FULL = 12,
    DS_EMPTY = 13,
    G_FULL = 14,     // 4 warps of queries
    G_EMPTY = 15,    // 4 warps of keys
    SUMS_FULL = 16,  // [2] all consumer threads
    SUMS_EMPTY = 18, // [2] the reducing warp's lanes
    OUT_FULL = 20,   // all consumer threads: dq and dk lie in the group's last stage
    STAGE_TAIL = 21, // copies of a chunk with fewer rows
    GROUP_TAIL = 22,
    GROUP_FULL = 23, // [8] the warp that takes them
    BARRIER_COUNT = 31
};
// The CTA's groups, -1 behind the last. The warp that takes them is at most two ahead of the
// consumers, and nobody is more than four behind it.
constexpr int GROUPS = 8;
constexpr uint32_t TAKEN = BARRIERS + 8 * BARRIER_COUNT; // [GROUPS]
constexpr uint32_t BYTES = TAKEN + 4 * GROUPS;
static_assert(BYTES <= 232448, "fits");
static_assert(G % 1024 == 0, "swizzled tiles start at multiples of 1024 bytes");

} // namespace gradients

// The n-th (chunk, k-head) of this CTA: its index, and whether there is one. NOTE: read where it is
// needed, since it costs spills in a register.
__device__ __forceinline__ int group_of(uint32_t shared, int n) {
    using namespace gradients;
    return load_acquire_shared(shared + TAKEN + 4 * (n % GROUPS));
}
__device__ __forceinline__ bool is_group(uint32_t shared, int n) {
    using namespace gradients;
    mbarrier_wait(shared + BARRIERS + 8 * (GROUP_FULL + n % GROUPS), n / GROUPS & 1);
    return group_of(shared, n) >= 0;
}

} // namespace hopper
} // namespace gdni
