// What every portable kernel gets, by value: the problem, its tensors, and the tables and tiles
// that the stages hand on. Tiles are indexed by tile = chunk * Hv + head.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "gdn.h"

namespace gdni {

// Tokens in a chunk: what keeps the tiles of K = 256 inside the shared memory of every device.
template <typename T>
constexpr int CHUNK = sizeof(T) == 4 ? 32 : 64;

// Columns of K that one CTA of stage 3 of backward takes: what its registers hold without spills.
template <typename T>
constexpr int SPLIT = sizeof(T) == 4 ? 64 : 128;

// Kernels are made for these K; columns beyond the problem's are zeros.
constexpr int padded_k(int K) {
    return K <= 64 ? 64 : K <= 128 ? 128 : 256;
}

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
    bool gateless_identity;            // transfer: g = 0, the initial state is the identity

    Chunk *chunks;        // [max_chunks]
    int64_t *chunk_start; // [N + 1] first chunk of each sequence
    float *gates;         // tiles of [GATE_ROWS][C]
    void *inverse;        // tiles of [C][C]   Gam o T
    void *scores;         // tiles of [C][C]   P
    void *states;         // tiles of [V][K]   S^T at the chunk's entry
    void *delta;          // tiles of [C][V]   D
    void *state_grads;    // tiles of [V][K]   dS'^T at the chunk's exit
    void *delta_grads;    // tiles of [C][V]   E

    int32_t slices, stages; // of the chains: CTAs a head, chunks in shared memory at once
    int32_t multiprocessors;
    size_t shared_memory; // bytes that one CTA may have
};

// Row (token, head) of a tensor.
template <typename T>
__host__ __device__ inline T *row_pointer(const Tensor &x, int64_t token, int64_t head) {
    return static_cast<T *>(x.data) + token * x.token + head * x.head;
}

} // namespace gdni
