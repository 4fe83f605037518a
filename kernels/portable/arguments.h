// What every portable kernel gets, by value: the problem, its tensors, and the tables and tiles
// that the stages hand on. Tiles are indexed by tile = chunk * Hv + head.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "gdn.h"
#include "plan/model.h"

namespace gdni {

// Tokens in a chunk.
template <typename T>
constexpr int CHUNK = GDNI_PORTABLE_CHUNK(sizeof(T));

// Columns of K that one CTA of stage 3 of backward takes: what its registers hold without spills.
template <typename T>
constexpr int SPLIT = sizeof(T) == 4 ? 64 : 128;

// Rows of a tile's gate table, each of a chunk's length: e^c, e^{c_C - c}, beta, and c as the sum
// of two floats, so that differences inside a chunk keep their digits behind strong gates.
enum GateRow {
    GATE_EXP,
    GATE_EXP_LEFT,
    GATE_BETA,
    GATE_SUM,
    GATE_SUM_LOW,
    GATE_ROWS
};

// One chunk of one sequence.
struct Chunk {
    int64_t token;    // its first
    int32_t rows;     // its tokens, 1 .. C
    int32_t sequence; // whose it is
};

// A tensor [T, H, dim] of the problem's dtype.
struct Tensor {
    void *data;
    int64_t token, head; // strides in elements
    bool aligned;        // every row starts at a multiple of 16 bytes
};

// What the exact pass does for a border: exit state and transfer matrix of the item on its left,
// entry gradient of the item on its right.
enum Task {
    TASK_STATE,
    TASK_GRADIENT,
    TASK_TRANSFER,
    TASKS
};

struct Arguments {
    Tensor q, k, v, o, do_, dq, dk, dv; // data is NULL where a stage does without
    const float *g, *beta;              // [T, Hv]
    const int64_t *cu_seqlens;          // on the device, or NULL: equal lengths
    const float *initial_state, *dht;   // [N, Hv, K, V] or NULL
    float *final_state, *dh0;           // [N, Hv, K, V] or NULL
    float *dg, *dbeta;                  // [T, Hv]; [splits][T, Hv] where there are several
    float *dq32, *dk32;                 // [T, Hk, K]: where q and k are normalised inside
    int64_t T, N;
    int32_t Hk, Hv, K, V;
    float scale;
    int64_t first_sequence, sequences; // those that this call is about
    int64_t first_stored;              // the sequence at the front of final_state and dh0
    int64_t max_chunks;                // room in `chunks`
    bool gateless;                     // g = 0
    bool identity;                     // the chain of states starts from the identity

    Chunk *chunks;        // [max_chunks]
    int64_t *chunk_start; // [N + 1] first chunk of each sequence
    float *bounds;        // [max_chunks, Hv] bound on the log of a chunk's decay, or NULL

    gdni_plan_problem plan;      // its pointers are those here
    int64_t *segment_start;      // [N + 1] first segment of each sequence
    gdni_work_item *items;       // [max_items], a segment's heads side by side
    int32_t *tasks, *task_count; // of the exact pass: 3 x the item on a border's right + Task
    int32_t *item_count;         // how many there are
    int32_t *narrow;             // whether forward runs in its narrow shape; NULL: no plan is made
    int64_t max_items;           // kernels are launched for so many
    float *pool_states, *pool_grads, *pool_transfer; // see plan/work_item.h

    float *gates;      // tiles of [GATE_ROWS][C]
    void *inverse;     // tiles of [C][C]   Gam o T
    void *scores;      // tiles of [C][C]   P
    void *states;      // tiles of [V][K]   S^T at the chunk's entry
    void *delta;       // tiles of [C][V]   D
    void *state_grads; // tiles of [V][K]   dS'^T at the chunk's exit
    void *delta_grads; // tiles of [C][V]   E

    // Where the chunk-parallel pass of backward begins while its chains run, else NULL. A group is
    // a chunk and a k-head.
    int32_t *order;      // [max_chunks] chunks as the chains get done with them
    int32_t *arrivals;   // [max_chunks, Hk] parts of a group's tiles that are written …
    int32_t parts;       // … of so many: chains x halves of V x v-heads
    int32_t *next_group; // how many, in that order, have been taken

    int32_t slices, stages; // of the chains: CTAs a head, chunks in shared memory at once,
    int32_t stage_bytes;    // each of so many bytes
    int32_t multiprocessors;
    int32_t capability;   // 10 x major + minor
    size_t shared_memory; // bytes that one CTA may have
};

// A chunk's tile of one head. Elements of all tiles together pass 2^31: what comes of it stays in
// 64 bits.
__host__ __device__ inline int64_t tile_of(const Arguments &a, int64_t chunk, int64_t head) {
    return chunk * a.Hv + head;
}

// Row (token, head) of a tensor.
template <typename T>
__host__ __device__ inline T *row_pointer(const Tensor &x, int64_t token, int64_t head) {
    return static_cast<T *>(x.data) + token * x.token + head * x.head;
}

} // namespace gdni
