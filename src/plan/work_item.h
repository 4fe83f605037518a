/*
 * A work item: one segment of one sequence for one v-head, what a chain kernel runs through.
 *
 *     chunks   first ........ stored ........ last ........ late
 *              | warm-up of S | results        | warm-up of dS |
 *     states        ---------------------------->
 *     gradients                <----------------------------
 *
 * The chain of states runs from `first` to `last` and writes results from `stored` on; the chain of
 * gradients runs from `late` down to `stored` and writes results below `last`. A head whose gates
 * decay starts early from a zero state; one whose gates do not takes the exact state at the border,
 * which transfer matrices give (see plan.h).
 *
 * Borders between segments have slots in three pools, where the exact pass and its scan leave
 *
 *     states     [slot][K][V] fp32   the state at the border
 *     gradients  [slot][K][V] fp32   its gradient
 *     transfer   [slot][K][K] fp32   the transfer matrix of the segment on the border's left
 */
#ifndef GDNI_WORK_ITEM_H
#define GDNI_WORK_ITEM_H

#include <stdint.h>

/* Where a chain gets its first state. */
typedef enum gdni_start {
    GDNI_START_ZERO = 0,  /* a warm-up */
    GDNI_START_GIVEN = 1, /* the sequence's initial_state, or dht; zero where that is NULL */
    GDNI_START_EXACT = 2  /* the pool of exact states or gradients */
} gdni_start;

enum {
    GDNI_ITEM_FIRST = 1, /* of its sequence: writes dh0 */
    GDNI_ITEM_LAST = 2,  /* of its sequence: writes final_state */
    /* What the exact pass computes of it: */
    GDNI_ITEM_STATE = 4,    /* its exit state, into the slot on its right */
    GDNI_ITEM_GRADIENT = 8, /* its entry gradient, into the slot on its left */
    GDNI_ITEM_TRANSFER = 16 /* its transfer matrix, into the slot on its right */
};

typedef struct gdni_work_item {
    int64_t first, stored, last, late; /* indices of the chunk table */
    int32_t sequence, head;
    int32_t slot; /* in the pools, of the border on its left; that on its right is slot + Hv */
    int32_t entry, exit; /* gdni_start of the states and of the gradients */
    uint32_t flags;      /* GDNI_ITEM_... */
} gdni_work_item;

#endif /* GDNI_WORK_ITEM_H */
