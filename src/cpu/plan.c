/* Laying out a pass: window, workspace, saved memory, the list of chunks. */
#include "chunked.h"

#include <omp.h>
#include <string.h>

enum {
    ALIGNMENT = 64, /* of every array in the workspace */
    /* (chunk, k-head) pairs a thread and window: more of them mean fewer waits for each other, and
     * more memory. */
    TASKS = 16
};

/* Hands out workspace from the front; measures where base is NULL. */
typedef struct arena {
    char *base;
    size_t used;
} arena;

static void *take(arena *a, int64_t count, size_t element) {
    char *memory = a->base ? a->base + a->used : NULL;
    const size_t bytes = (size_t)count * element;
    a->used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return memory;
}

static float *take_floats(arena *a, int64_t count) {
    return take(a, count, sizeof(float));
}

/* No cu_seqlens gives more chunks: every sequence that has tokens wastes less than one. */
static int64_t most_chunks(const gdn_problem *p) {
    const int64_t sequences = p->N < p->T ? p->N : p->T;
    return (p->T + (GDNI_CHUNK - 1) * sequences) / GDNI_CHUNK;
}

static int64_t largest(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* Floats of one of a thread's row buffers: a chunk's rows of q or v, or of a slice of columns. */
static int64_t row_block(const gdn_problem *p) {
    return GDNI_CHUNK * largest(GDNI_SLICE, largest(p->K, p->V));
}

size_t gdni_plan_saved(const gdn_problem *p) {
    const int64_t heads = most_chunks(p) * p->Hv;
    size_t bytes = 0;
    if (p->flags & GDN_FLAG_SAVE_STATES)
        bytes += sizeof(float) * (size_t)(heads * p->K * p->V);
    if (p->flags & GDN_FLAG_SAVE_INVERSE)
        bytes += sizeof(float) * (size_t)(heads * GDNI_SQUARE);
    return bytes;
}

/* The arrays that the SAVE flags put into saved, or that all chunks have for other reasons. */
static void lay_out_stores(gdni_plan *plan, arena *a, int64_t most) {
    const gdn_problem *p = plan->p;
    const int64_t state = (int64_t)p->Hv * p->K * p->V, inverse = (int64_t)p->Hv * GDNI_SQUARE;
    const int whole = plan->pass == GDNI_FORWARD || plan->pass == GDNI_BACKWARD;
    const int save_states = whole && (p->flags & GDN_FLAG_SAVE_STATES);
    const int save_inverse = whole && (p->flags & GDN_FLAG_SAVE_INVERSE);
    float *saved = plan->x->saved;

    /* Backward without SAVE_STATES runs the chain of states first, for all chunks. */
    plan->state_slots = save_states || plan->pass == GDNI_BACKWARD ? most
                        : plan->pass == GDNI_SEGMENT_FORWARD       ? 1
                                                                   : plan->window + 1;
    plan->inverse_slots =
        save_inverse || (plan->pass == GDNI_BACKWARD && !save_states) ? most : plan->window;
    plan->have_inverse = plan->pass == GDNI_BACKWARD && save_inverse;
    plan->gradient_slots = plan->window + 1;
    if (save_states)
        plan->states = saved;
    else if (plan->pass != GDNI_SEGMENT_BACKWARD)
        plan->states = take_floats(a, plan->state_slots * state);
    if (save_inverse)
        plan->inverse = saved ? saved + (save_states ? most * state : 0) : NULL;
    else
        plan->inverse = take_floats(a, plan->inverse_slots * inverse);
    plan->delta_slots = plan->pass == GDNI_BACKWARD && !save_states ? most : plan->window;
    if (plan->pass != GDNI_SEGMENT_BACKWARD)
        plan->D = take_floats(a, plan->delta_slots * p->Hv * GDNI_CHUNK * p->V);
    if (plan->pass == GDNI_BACKWARD)
        plan->U = take_floats(a, plan->delta_slots * p->Hv * GDNI_CHUNK * p->V);
    if (plan->pass == GDNI_BACKWARD || plan->pass == GDNI_SEGMENT_BACKWARD)
        plan->state_gradient = take_floats(a, plan->gradient_slots * state);
}

static void lay_out_window(gdni_plan *plan, arena *a) {
    const gdn_problem *p = plan->p;
    const int64_t k_heads = plan->window * p->Hk, v_heads = plan->window * p->Hv;
    const int gradients = plan->pass == GDNI_BACKWARD || plan->pass == GDNI_SEGMENT_BACKWARD;
    const int normed = (p->flags & GDN_FLAG_L2NORM_QK) != 0;
    const int converted = p->dtype != GDN_DTYPE_FP32;

    if (converted || normed) {
        plan->k = take_floats(a, k_heads * GDNI_CHUNK * p->K);
        plan->q = take_floats(a, k_heads * GDNI_CHUNK * p->K);
    }
    if (normed) {
        plan->k_norm = take_floats(a, k_heads * GDNI_CHUNK);
        plan->q_norm = take_floats(a, k_heads * GDNI_CHUNK);
    }
    if (converted) {
        plan->v = take_floats(a, v_heads * GDNI_CHUNK * p->V);
        if (gradients)
            plan->do_ = take_floats(a, v_heads * GDNI_CHUNK * p->V);
    }
    plan->gates = take(a, v_heads, sizeof(*plan->gates));
    plan->N = take_floats(a, k_heads * GDNI_SQUARE);
    plan->QK = take_floats(a, k_heads * GDNI_SQUARE);
    plan->gamma = take_floats(a, v_heads * GDNI_SQUARE);
    plan->decayed_T = take_floats(a, v_heads * GDNI_SQUARE);
    plan->P = take_floats(a, v_heads * GDNI_SQUARE);

    if (gradients) {

        plan->E = take_floats(a, v_heads * GDNI_CHUNK * p->V);
    }
}

static void list_chunks(gdni_plan *plan) {
    const gdn_problem *p = plan->p;
    const int64_t *cu = plan->x->cu_seqlens;
    const int64_t from = plan->pass == GDNI_SEGMENT_FORWARD ? p->N - 1 : 0;
    const int64_t to = plan->pass == GDNI_SEGMENT_BACKWARD ? 1 : p->N;
    for (int64_t n = from; n < to; ++n) {
        const int64_t start = gdni_sequence_start(p, cu, n);
        const int64_t end = gdni_sequence_start(p, cu, n + 1);
        for (int64_t t = start; t < end; t += GDNI_CHUNK) {
            gdni_chunk *c = plan->chunk + plan->chunks++;
            c->start = t;
            c->sequence = n;
            c->length = (int32_t)(end - t < GDNI_CHUNK ? end - t : GDNI_CHUNK);
            c->first = t == start;
            c->last = t + c->length == end;
        }
    }
}

size_t gdni_plan_init(gdni_plan *plan, const gdn_context *context, const gdn_problem *p,
                      const gdn_tensors *tensors, gdni_pass pass) {
    const int64_t most = most_chunks(p), KV = (int64_t)p->K * p->V;
    arena a = {tensors->workspace, 0};
    memset(plan, 0, sizeof(*plan));
    plan->p = p;
    plan->x = tensors;
    plan->pass = pass;
    plan->threads = context->threads;
    plan->window = (TASKS * (int64_t)plan->threads + p->Hk - 1) / p->Hk;
    plan->window = largest(1, plan->window < most ? plan->window : most);
    plan->chunk = take(&a, most, sizeof(*plan->chunk));
    plan->zeros = take_floats(&a, KV);
    lay_out_stores(plan, &a, most);
    lay_out_window(plan, &a);
    plan->scratch_floats = 4 * (GDNI_SQUARE + (size_t)row_block(p));
    plan->scratch = take_floats(&a, plan->threads * (int64_t)plan->scratch_floats);
    if (a.base) {
        memset(plan->zeros, 0, sizeof(float) * (size_t)KV);
        list_chunks(plan);
    }
    return a.used;
}

gdni_scratch gdni_scratch_of_thread(const gdni_plan *plan) {
    gdni_scratch s;
    float *memory = plan->scratch + (size_t)omp_get_thread_num() * plan->scratch_floats;
    for (int i = 0; i < 4; ++i)
        s.square[i] = memory + i * GDNI_SQUARE;
    memory += 4 * GDNI_SQUARE;
    for (int i = 0; i < 4; ++i)
        s.rows[i] = memory + i * row_block(plan->p);
    return s;
}

void gdni_pass_states(const gdn_problem *p, const gdn_tensors *x, const void *from, void *to) {
    const size_t bytes = sizeof(float) * (size_t)gdni_state_offset(p, 1, 0);
    for (int64_t n = 0; n < p->N; ++n) {
        char *state = (char *)to + (size_t)n * bytes;
        if (gdni_sequence_start(p, x->cu_seqlens, n) < gdni_sequence_start(p, x->cu_seqlens, n + 1))
            continue;
        if (from)
            memcpy(state, (const char *)from + (size_t)n * bytes, bytes);
        else
            memset(state, 0, bytes);
    }
}
