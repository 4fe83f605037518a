// What a chain's CTA works on.
#pragma once

#include "hopper/shape.h"
#include "portable/arguments.h"

namespace gdni {
namespace hopper {

// A run of chunks of one head. Numbers of chunks, tiles and tokens fit into 32 bits, as they must
// for the copy engine; offsets made of them do not.
struct Work {
    int first, count; // the chunks
    int stored;       // those from this one on, counted from `first`, store results
    int head, k_head;
    int token;   // of the first chunk
    int tail;    // rows of the last chunk; all others are full
    bool with_v; // without, v counts as zero
};

// An item from chunk `first` on.
__device__ __forceinline__ Work make_work(const Arguments &a, const gdni_work_item &item,
                                          int64_t first) {
    Work work = {};
    work.with_v = true;
    work.first = static_cast<int>(first);
    work.count = static_cast<int>(item.last - first);
    work.stored = static_cast<int>(item.stored - first);
    work.head = item.head;
    work.k_head = item.head / (a.Hv / a.Hk);
    if (work.count > 0) {
        work.token = static_cast<int>(a.chunks[first].token);
        work.tail = a.chunks[item.last - 1].rows;
    }
    return work;
}

// Matrix `index` of an array [..][K][V] that may be NULL.
template <typename X>
__device__ __forceinline__ X *matrix_at(X *matrices, int64_t index) {
    return matrices ? matrices + index * (HEAD_DIM * HEAD_DIM) : nullptr;
}

// The state that a chain of states begins with, or NULL: zero.
__device__ __forceinline__ const float *entry_state(const Arguments &a,
                                                    const gdni_work_item &item) {
    if (item.entry == GDNI_START_GIVEN)
        return matrix_at(a.initial_state, static_cast<int64_t>(item.sequence) * a.Hv + item.head);
    return item.entry == GDNI_START_EXACT ? matrix_at<const float>(a.pool_states, item.slot)
                                          : nullptr;
}

// Where the last one goes, or NULL.
__device__ __forceinline__ float *exit_state(const Arguments &a, const gdni_work_item &item) {
    return item.flags & GDNI_ITEM_LAST
               ? matrix_at(a.final_state, (item.sequence - a.first_stored) * a.Hv + item.head)
               : nullptr;
}

} // namespace hopper
} // namespace gdni
