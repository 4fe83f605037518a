/*
 * The chunked algorithm on the host: which chunks there are, where their intermediate results lie,
 * and the steps that forward, backward and segments share.
 *
 * A pass runs over windows of a few chunks. In a window, everything that does not depend on other
 * chunks is done for all (chunk, k-head) at once; the chains of states, which are serial in time,
 * run over (sequence, v-head, slice of V columns): columns of the state never meet. No result
 * depends on the number of threads.
 */
#ifndef GDNI_CHUNKED_H
#define GDNI_CHUNKED_H

#include "elementwise.h"
#include "gemm.h"
#include "internal.h"

enum {
    GDNI_SQUARE = GDNI_CHUNK * GDNI_CHUNK, /* a matrix between a chunk's tokens */
    GDNI_SLICE = 64                        /* state columns that one chain carries */
};

typedef struct gdni_chunk {
    int64_t start, sequence;
    int32_t length;
    int16_t first, last; /* of its sequence */
} gdni_chunk;

typedef enum gdni_pass {
    GDNI_FORWARD,
    GDNI_BACKWARD,
    GDNI_SEGMENT_FORWARD,  /* the last sequence */
    GDNI_SEGMENT_BACKWARD, /* the first sequence */
} gdni_pass;

/* Memory of one thread. */
typedef struct gdni_scratch {
    float *square[4]; /* GDNI_SQUARE each */
    float *rows[4];   /* GDNI_CHUNK x max(K, V, GDNI_SLICE) each */
} gdni_scratch;

/* Rows of tokens as fp32. */
typedef struct gdni_rows {
    const float *x;
    int64_t ld;
} gdni_rows;

/*
 * Arrays begin with the chunk: "window" ones at index chunk % window, states at chunk %
 * state_slots and so on, so that an array holds all chunks or the last few, as its size says. A
 * NULL array is not needed in this pass.
 */
typedef struct gdni_plan {
    const gdn_problem *p;
    const gdn_tensors *x;
    gdni_pass pass;
    int threads;
    int64_t window, chunks;
    gdni_chunk *chunk;
    float *zeros;                   /* [K, V] */
    float *states, *state_gradient; /* [Hv, K, V] at the entry of a chunk */
    float *inverse;                 /* T, [Hv, C, C] */
    int64_t state_slots, gradient_slots, inverse_slots, delta_slots;
    int have_inverse;             /* T is there already */
    float *q, *k, *v, *do_;       /* window: converted tensors; NULL: read them in place */
    float *q_norm, *k_norm;       /* window: [Hk, C], with L2NORM_QK */
    float *exit_state;            /* S' of last chunks: [., Hv, K, V], NULL = nobody reads it */
    float *entry_gradient;        /* dS of first chunks, likewise */
    int64_t first_sequence;       /* row 0 of exit_state and entry_gradient */
    gdni_gates *gates;            /* window: [Hv] */
    float *N, *QK;                /* window: [Hk, C, C] */
    float *gamma, *decayed_T, *P; /* window: [Hv, C, C]: Gam, Gam o T, P */
    float *E;                     /* window: [Hv, C, V]; holds P^T dO until the chain ran */
    float *U, *D;                 /* [Hv, C, V]; U in backward only */
    float *scratch;
    size_t scratch_floats; /* of one thread */
} gdni_plan;

/* Lays out a pass in workspace and saved, and lists its chunks; with workspace NULL it only
 * measures. Returns the bytes of workspace. */
size_t gdni_plan_init(gdni_plan *plan, const gdn_context *context, const gdn_problem *problem,
                      const gdn_tensors *tensors, gdni_pass pass);

/* Bytes that the SAVE flags ask for. */
size_t gdni_plan_saved(const gdn_problem *problem);

/* The chunks of the window that begins at `begin` end here; how many windows there are. */
static inline int64_t gdni_window_end(const gdni_plan *plan, int64_t begin) {
    return begin + plan->window < plan->chunks ? begin + plan->window : plan->chunks;
}

static inline int64_t gdni_windows(const gdni_plan *plan) {
    return (plan->chunks + plan->window - 1) / plan->window;
}

/* Copies the states of sequences without tokens, zeros where from is NULL. */
void gdni_pass_states(const gdn_problem *problem, const gdn_tensors *tensors, const void *from,
                      void *to);

/* ---- Places ---- */

static inline float *gdni_window(const gdni_plan *plan, float *array, int64_t chunk, int64_t heads,
                                 int64_t h, int64_t size) {
    return array + ((chunk % plan->window) * heads + h) * size;
}

static inline gdni_gates *gdni_gates_at(const gdni_plan *plan, int64_t chunk, int64_t h) {
    return plan->gates + (chunk % plan->window) * plan->p->Hv + h;
}

static inline float *gdni_inverse_at(const gdni_plan *plan, int64_t chunk, int64_t h) {
    return plan->inverse + ((chunk % plan->inverse_slots) * plan->p->Hv + h) * GDNI_SQUARE;
}

static inline float *gdni_delta_at(const gdni_plan *plan, float *array, int64_t chunk, int64_t h) {
    return array + ((chunk % plan->delta_slots) * plan->p->Hv + h) * GDNI_CHUNK * plan->p->V;
}

static inline int64_t gdni_state_offset(const gdn_problem *p, int64_t row, int64_t h) {
    return (row * p->Hv + h) * p->K * p->V;
}

/* S and S' of a chunk; S' is NULL where nobody reads it. */
static inline const float *gdni_entry_state(const gdni_plan *plan, int64_t chunk, int64_t h) {
    const gdni_chunk *c = plan->chunk + chunk;
    if (!c->first)
        return plan->states + gdni_state_offset(plan->p, chunk % plan->state_slots, h);
    return plan->x->initial_state
               ? (const float *)plan->x->initial_state + gdni_state_offset(plan->p, c->sequence, h)
               : plan->zeros;
}

static inline float *gdni_exit_state(const gdni_plan *plan, int64_t chunk, int64_t h) {
    const gdni_chunk *c = plan->chunk + chunk;
    if (!c->last)
        return plan->states + gdni_state_offset(plan->p, (chunk + 1) % plan->state_slots, h);
    return plan->exit_state ? plan->exit_state +
                                  gdni_state_offset(plan->p, c->sequence - plan->first_sequence, h)
                            : NULL;
}

/* dS' of a chunk, and where its dS goes: NULL where nobody reads it. */
static inline const float *gdni_exit_gradient(const gdni_plan *plan, int64_t chunk, int64_t h) {
    const gdni_chunk *c = plan->chunk + chunk;
    if (!c->last)
        return plan->state_gradient +
               gdni_state_offset(plan->p, (chunk + 1) % plan->gradient_slots, h);
    return plan->x->dht ? (const float *)plan->x->dht + gdni_state_offset(plan->p, c->sequence, h)
                        : plan->zeros;
}

static inline float *gdni_entry_gradient(const gdni_plan *plan, int64_t chunk, int64_t h) {
    const gdni_chunk *c = plan->chunk + chunk;
    if (!c->first)
        return plan->state_gradient + gdni_state_offset(plan->p, chunk % plan->gradient_slots, h);
    return plan->entry_gradient
               ? plan->entry_gradient +
                     gdni_state_offset(plan->p, c->sequence - plan->first_sequence, h)
               : NULL;
}

static inline int64_t gdni_offset(gdn_strides strides, int64_t t, int64_t h) {
    return t * strides.token + h * strides.head;
}

static inline gdni_rows gdni_rows_at(const gdni_plan *plan, float *converted, const void *tensor,
                                     gdn_strides strides, int64_t chunk, int64_t heads, int64_t h,
                                     int64_t dim) {
    gdni_rows rows;
    if (converted) {
        rows.x = gdni_window(plan, converted, chunk, heads, h, GDNI_CHUNK * dim);
        rows.ld = dim;
    } else {
        rows.x = (const float *)tensor + gdni_offset(strides, plan->chunk[chunk].start, h);
        rows.ld = strides.token;
    }
    return rows;
}

static inline gdni_rows gdni_rows_q(const gdni_plan *plan, int64_t chunk, int64_t hk) {
    const gdn_problem *p = plan->p;
    return gdni_rows_at(plan, plan->q, plan->x->q, p->q_strides, chunk, p->Hk, hk, p->K);
}

static inline gdni_rows gdni_rows_k(const gdni_plan *plan, int64_t chunk, int64_t hk) {
    const gdn_problem *p = plan->p;
    return gdni_rows_at(plan, plan->k, plan->x->k, p->k_strides, chunk, p->Hk, hk, p->K);
}

static inline gdni_rows gdni_rows_v(const gdni_plan *plan, int64_t chunk, int64_t h) {
    const gdn_problem *p = plan->p;
    return gdni_rows_at(plan, plan->v, plan->x->v, p->v_strides, chunk, p->Hv, h, p->V);
}

static inline gdni_rows gdni_rows_do(const gdni_plan *plan, int64_t chunk, int64_t h) {
    const gdn_problem *p = plan->p;
    return gdni_rows_at(plan, plan->do_, plan->x->do_, p->o_strides, chunk, p->Hv, h, p->V);
}

/* The calling thread's scratch memory. */
gdni_scratch gdni_scratch_of_thread(const gdni_plan *plan);

/* ---- Steps ---- */

/* What a chunk needs from its tokens alone, for one k-head and its v-heads: conversions, gates, N,
 * T, Gam o T; with `queries` also QK^T and P. */
void gdni_prepare(const gdni_plan *plan, int64_t chunk, int64_t hk, int queries);

/* U and D of a chunk whose entry state is there, for one v-head. */
void gdni_prepare_delta(const gdni_plan *plan, int64_t chunk, int64_t h,
                        const gdni_scratch *scratch);

/* What is not serial of the gradient chain: P^T dO into E, s Q^T (e^c dO) into dS. */
void gdni_prepare_gradients(const gdni_plan *plan, int64_t chunk, int64_t h,
                            const gdni_scratch *scratch);

/* The chains, for the chunks begin .. end-1 of one window. To be called by every thread of a
 * parallel region, which share the work; they wait for each other at the end. */

/* D (delta) of each chunk, and S'. */
void gdni_chain_forward(const gdni_plan *plan, int64_t begin, int64_t end);

/* M := M - K^T T diag(beta) K M, chunk after chunk; M [Hv, K, K]. */
void gdni_chain_transfer(const gdni_plan *plan, int64_t begin, int64_t end, float *M);

/* E of each chunk, and dS, from the last chunk to the first. */
void gdni_chain_backward(const gdni_plan *plan, int64_t begin, int64_t end);

/* Products with lower triangles L, n x n, of ld GDNI_CHUNK; what lies above the diagonal blocks is
 * neither read nor written. Y = L X + beta Y; Y = L^T X + beta Y; L = lower part of X Y^T. */
void gdni_lower_times(int n, int width, const float *L, const float *X, int64_t ldx, float beta,
                      float *Y, int64_t ldy);
void gdni_lower_transposed_times(int n, int width, const float *L, const float *X, int64_t ldx,
                                 float beta, float *Y, int64_t ldy);
void gdni_lower_of_product(int n, int width, const float *X, int64_t ldx, const float *Y,
                           int64_t ldy, float *L);

/* ---- gdni_cpu_ops ---- */

gdn_status gdni_cpu_forward(const gdn_context *context, const gdn_problem *problem,
                            const gdn_tensors *tensors, gdn_stream stream);
gdn_status gdni_cpu_backward(const gdn_context *context, const gdn_problem *problem,
                             const gdn_tensors *tensors, gdn_stream stream);
gdn_status gdni_cpu_segment_forward(const gdn_context *context, const gdn_problem *problem,
                                    const gdn_tensors *tensors, const gdn_segment *segment,
                                    gdn_stream stream);
gdn_status gdni_cpu_segment_backward(const gdn_context *context, const gdn_problem *problem,
                                     const gdn_tensors *tensors, const gdn_segment *segment,
                                     gdn_stream stream);

#endif /* GDNI_CHUNKED_H */
