/*
 * How sequences are cut into segments so that few heads fill a device: the rules and the cost
 * model, in functions that the device's kernels and the host (gdn plan, tests) both run.
 *
 *   1. gdni_plan_summary    sequences and gates: longest sequence, segments and heads by candidate
 *   2. gdni_plan_choose     the cheapest candidate by the cost model: the length of a segment
 *   3. gdni_plan_item       one (segment, head): chunks, warm-ups, what the exact pass owes it
 *
 * All heads of a sequence are cut at the same chunks, in nearly equal parts. At a border, a head is
 * decayed if the bound on its decay, sum of b with b_t = g_t + log max(1, |1 - beta_t |k_t|^2|),
 * falls below the threshold within `limit` chunks to the left and to the right: its right segment
 * then starts that many chunks early, its left segment's gradients as many late, both from zero.
 * Any other head takes the exact path at that border. With threshold -infinity all of them do.
 *
 * Everything depends on the problem, the device and the bounds alone, so the same inputs give the
 * same plan, and forward and backward cut alike where both make one (model.h says where).
 */
#ifndef GDNI_PLAN_H
#define GDNI_PLAN_H

#include <math.h>
#include <stdint.h>

#include "work_item.h"

#ifdef __CUDACC__
#define GDNI_BOTH static __host__ __device__ inline
#else
#define GDNI_BOTH static inline
#endif

/*
 * The cost model, in cycles of one multiprocessor. A CTA runs one item, or one slice of its V rows,
 * alone on its slot; `launch` is what the exact pass and its scan cost beside their work.
 */
typedef struct gdni_plan_model {
    int32_t slots; /* CTAs that run at once */
    /* CTAs an item: in forward, in either chain of backward, in the exact pass for a state and for
     * a transfer matrix. */
    int32_t forward_slices, backward_slices, state_slices, matrix_slices;
    float forward, backward, exact; /* a chunk of each */
    float scan, launch;             /* a border of the scan; two more launches */
    int32_t both;                   /* whether backward counts, or forward alone */
    /* A chunk of forward in its narrow shape, twice as many CTAs an item, for items that all run at
     * once; 0: there is none. */
    float narrow;
} gdni_plan_model;

/* What a plan is made for. */
typedef struct gdni_plan_problem {
    int64_t N; /* sequences */
    int32_t Hv;
    const int64_t *chunk_start; /* [N + 1] */
    const float *bounds;        /* [chunks, Hv] sum of b over a chunk */
    float threshold;
    int32_t segments;    /* 0: the model decides; n: at most n a sequence */
    int64_t max_borders; /* room for borders between segments, over all sequences */
    int64_t shortest;    /* the model decides where the longest sequence has so many chunks */
    gdni_plan_model model;
} gdni_plan_problem;

enum {
    GDNI_PLAN_CANDIDATES = 16,
    GDNI_PLAN_SAMPLES = 256,   /* chunks whose bounds estimate the decay of heads */
    GDNI_PLAN_MAX_HEADS = 1024 /* more heads are never cut: they fill any device */
};

/* x / y of numbers >= 0; in 32 bits, which devices do faster, where both have no more. */
GDNI_BOTH int64_t gdni_plan_divide(int64_t x, int64_t y) {
    return (x | y) >> 32 ? x / y : (int64_t)((uint32_t)x / (uint32_t)y);
}

/* Segments of the longest sequence, by candidate. */
GDNI_BOTH int32_t gdni_plan_parts(int candidate) {
    return candidate < 8    ? candidate + 1
           : candidate < 10 ? 10 + 2 * (candidate - 8)  /* 10 12 */
           : candidate < 13 ? 16 + 4 * (candidate - 10) /* 16 20 24 */
                            : 32 + 16 * (candidate - 13);
}

/* What the model needs to know of one candidate. */
typedef struct gdni_plan_candidate {
    int64_t length;             /* chunks of a segment at most */
    int64_t segments;           /* over all sequences, an empty one counting as one */
    int64_t cut;                /* sequences of several segments */
    int64_t exact_heads;        /* heads estimated not to decay within `length` */
    int64_t warm_sum, warm_max; /* chunks that the others warm up, estimated */
    float cost[2];              /* cycles of forward and of backward's chains */
    int32_t narrow;             /* whether forward is faster in its narrow shape */
} gdni_plan_candidate;

typedef struct gdni_plan_choice {
    int64_t length; /* segments have at most so many chunks … */
    int64_t most;   /* … and a sequence at most so many segments */
    int32_t narrow; /* the shape of forward */
} gdni_plan_choice;

GDNI_BOTH int64_t gdni_plan_segments(const gdni_plan_choice *choice, int64_t chunks) {
    int64_t count = gdni_plan_divide(chunks + choice->length - 1, choice->length);
    if (count > choice->most)
        count = choice->most;
    return count < 1 ? 1 : count;
}

/* First chunk, inside its sequence, of segment j of `count`. */
GDNI_BOTH int64_t gdni_plan_cut(int64_t chunks, int64_t count, int64_t j) {
    const int64_t whole = gdni_plan_divide(chunks, count);
    return whole * j + gdni_plan_divide((chunks - whole * count) * j, count);
}

/* From one sampled chunk to the next: at most GDNI_PLAN_SAMPLES of `total` are. */
GDNI_BOTH int64_t gdni_plan_stride(int64_t total) {
    return (total + GDNI_PLAN_SAMPLES) / GDNI_PLAN_SAMPLES;
}

/* A chunk's bound in whole numbers, so that sums of samples do not depend on their order. */
GDNI_BOTH int32_t gdni_plan_fall(float bound) {
    return (int32_t)(bound * -64.0f);
}

/* Chunks that a head must warm up, from the sum of its samples' falls; a number beyond any length
 * where it does not fall. */
GDNI_BOTH int64_t gdni_plan_estimate(const gdni_plan_problem *p, int32_t falls, int64_t total) {
    const float samples = (float)total / (float)gdni_plan_stride(total);
    const float fall = (float)falls / (64.0f * samples);
    const float chunks = fall > 0 ? ceilf(-p->threshold / fall) : INFINITY;
    return chunks < 1e9f ? (int64_t)chunks : INT64_C(1) << 40;
}

/* Cycles of one pass: `ctas` CTAs an item, `chunk` cycles a chunk; before it `tasks` CTAs of the
 * exact pass, each of a segment's length. */
GDNI_BOTH float gdni_plan_pass(const gdni_plan_problem *p, const gdni_plan_candidate *c,
                               int64_t total, float ctas, float chunk, float tasks) {
    const gdni_plan_model *m = &p->model;
    const float items = (float)c->segments * (float)p->Hv, borders = (float)(c->segments - p->N);
    /* A CTA's start and end cost about a chunk. */
    const float work = (float)total * (float)p->Hv + borders * (float)c->warm_sum + items;
    const float waves = ceilf(items * ctas / (float)m->slots);
    const float longest = (float)c->length + (borders > 0 ? (float)c->warm_max : 0.0f) + 1.0f;
    const float average = waves * work / items;
    float cycles = chunk * (average > longest ? average : longest);
    if (tasks > 0)
        cycles += ceilf(tasks / (float)m->slots) * (float)c->length * m->exact + m->scan * borders +
                  m->launch;
    return cycles;
}

/* Whether so many items all run at once in forward's narrow shape. */
GDNI_BOTH int gdni_plan_narrow(const gdni_plan_model *m, int64_t items) {
    return m->narrow > 0 && items * 2 * m->forward_slices <= m->slots;
}

/* Fills in the cost of a candidate, all else of which is known; total: chunks. */
GDNI_BOTH void gdni_plan_cost(const gdni_plan_problem *p, gdni_plan_candidate *c, int64_t total) {
    const gdni_plan_model *m = &p->model;
    const float exact = (float)c->exact_heads, borders = (float)(c->segments - p->N);
    const float states = exact * borders * (float)m->state_slices;
    const float matrices = exact * (borders - (float)c->cut) * (float)m->matrix_slices;
    c->cost[0] =
        gdni_plan_pass(p, c, total, (float)m->forward_slices, m->forward, states + matrices);
    c->narrow = 0;
    if (gdni_plan_narrow(m, c->segments * p->Hv)) {
        const float narrow = gdni_plan_pass(p, c, total, 2.0f * (float)m->forward_slices, m->narrow,
                                            states + matrices);
        c->narrow = narrow < c->cost[0];
        c->cost[0] = c->narrow ? narrow : c->cost[0];
    }
    c->cost[1] = gdni_plan_pass(p, c, total, 2.0f * (float)m->backward_slices, m->backward,
                                2.0f * states + matrices);
}

/*
 * The candidate with the least sum of the passes that count; none that has no room, that makes one
 * of them 2% slower than uncut, or that gains less than 3% over fewer segments.
 */
GDNI_BOTH gdni_plan_choice gdni_plan_choose(const gdni_plan_problem *p,
                                            const gdni_plan_candidate *candidates) {
    gdni_plan_choice choice = {candidates[0].length, INT64_MAX, candidates[0].narrow};
    const float *uncut = candidates[0].cost;
    const int both = p->model.both;
    float best = uncut[0] + (both ? uncut[1] : 0.0f);
    for (int i = 1; i < GDNI_PLAN_CANDIDATES; ++i) {
        const float *cost = candidates[i].cost;
        const float sum = cost[0] + (both ? cost[1] : 0.0f);
        if (candidates[i].segments - p->N > p->max_borders)
            break;
        if (cost[0] <= 1.02f * uncut[0] && (!both || cost[1] <= 1.02f * uncut[1]) &&
            sum < 0.97f * best) {
            best = sum;
            choice.length = candidates[i].length;
            choice.narrow = candidates[i].narrow;
        }
    }
    return choice;
}

/*
 * Chunks from `from`, in steps of `step`, until the sum of a head's bounds is below the threshold;
 * 0 if it is not within `limit` chunks.
 */
GDNI_BOTH int64_t gdni_plan_warm_up(const gdni_plan_problem *p, int32_t head, int64_t from,
                                    int64_t step, int64_t limit) {
    const float *b = p->bounds + from * p->Hv + head;
    const int64_t stride = step * p->Hv;
    float sum = 0.0f;
    for (int64_t i = 0; i < limit; i += 32) {
        float x[32]; /* loaded together: the sum is the only chain */
        for (int j = 0; j < 32; ++j, b += stride)
            x[j] = i + j < limit ? *b : 0.0f;
        for (int j = 0; j < 32; ++j) {
            sum += x[j];
            if (i + j < limit && sum < p->threshold)
                return i + j + 1;
        }
    }
    return 0;
}

/* Chunks of warm-up on the left of the border before segment j of `count` of sequence n, or on its
 * right; 0 if a segment is not enough. */
GDNI_BOTH int64_t gdni_plan_side(const gdni_plan_problem *p, int64_t n, int64_t j, int64_t count,
                                 int32_t head, int right) {
    const int64_t start = p->chunk_start[n], chunks = p->chunk_start[n + 1] - start;
    const int64_t limit = gdni_plan_divide(chunks + count - 1, count);
    const int64_t border = gdni_plan_cut(chunks, count, j);
    const int64_t room = right ? chunks - border : border;
    return gdni_plan_warm_up(p, head, start + border - !right, right ? 1 : -1,
                             room < limit ? room : limit);
}

/* How a head crosses a border: chunks of warm-up on both sides, or zeros: exactly. */
typedef struct gdni_plan_border {
    int64_t left, right;
} gdni_plan_border;

GDNI_BOTH gdni_plan_border gdni_plan_cross(int64_t left, int64_t right) {
    const gdni_plan_border b = {right ? left : 0, left ? right : 0};
    return b;
}

/* The item of segment j of `count` of sequence n, between borders crossed like that, where there
 * are any; `segment` counts over all sequences. */
GDNI_BOTH gdni_work_item gdni_plan_item(const gdni_plan_problem *p, int64_t n, int64_t segment,
                                        int64_t j, int64_t count, int32_t head,
                                        gdni_plan_border left, gdni_plan_border right) {
    const int64_t start = p->chunk_start[n], chunks = p->chunk_start[n + 1] - start;
    gdni_work_item item;
    item.stored = start + gdni_plan_cut(chunks, count, j);
    item.last = start + gdni_plan_cut(chunks, count, j + 1);
    item.first = item.stored;
    item.late = item.last;
    item.sequence = (int32_t)n;
    item.head = head;
    item.slot = (int32_t)((segment - n - 1) * p->Hv + head);
    item.entry = item.exit = GDNI_START_GIVEN;
    item.flags = (j == 0 ? GDNI_ITEM_FIRST : 0) | (j == count - 1 ? GDNI_ITEM_LAST : 0);
    if (j > 0) {
        item.first -= left.left;
        item.entry = left.left ? GDNI_START_ZERO : GDNI_START_EXACT;
        item.flags |= left.left ? 0 : GDNI_ITEM_GRADIENT;
    }
    if (j < count - 1) {
        item.late += right.right;
        item.exit = right.right ? GDNI_START_ZERO : GDNI_START_EXACT;
        item.flags |= right.right ? 0 : GDNI_ITEM_STATE;
    }
    if (item.entry == GDNI_START_EXACT && item.exit == GDNI_START_EXACT)
        item.flags |= GDNI_ITEM_TRANSFER;
    return item;
}

#endif /* GDNI_PLAN_H */
