/*
 * The chains: what is serial in time. One task carries GDNI_SLICE columns of one head's state
 * through the run of chunks that a sequence has in the window.
 */
#include "chunked.h"

#include <string.h>

enum {
    C = GDNI_CHUNK
};

static int slices(int columns) {
    return (columns + GDNI_SLICE - 1) / GDNI_SLICE;
}

static int slice_width(int columns, int first) {
    return columns - first < GDNI_SLICE ? columns - first : GDNI_SLICE;
}

/*
 * Columns of one chunk: D = A (V - e^c K S), S' = e^{c_C} S + K^T (e^{c_C - c} D). v.x may be NULL:
 * zeros; U NULL: nobody reads it; to may be S, or NULL.
 */
static void step_forward(int n, int K, int width, gdni_rows k, gdni_rows v, const gdni_gates *gates,
                         const float *decayed_T, const float *S, float *U, float *D, float *to,
                         int64_t ld, const gdni_scratch *scratch) {
    float *R = scratch->rows[0], *x = scratch->rows[1];
    if (!U)
        U = R;
    const int64_t ldu = U == R ? GDNI_SLICE : ld;
    gdni_sgemm_serial(0, 0, n, width, K, 1, k.x, k.ld, S, ld, 0, U, ldu);
    gdni_residual(n, width, gates, v.x, v.ld, U, ldu, R, GDNI_SLICE);
    gdni_lower_times(n, width, decayed_T, R, GDNI_SLICE, 0, D, ld);
    if (!to)
        return;
    gdni_scale_rows(n, width, 1, gates->out, D, ld, x, GDNI_SLICE);
    gdni_scale(K, width, gates->all, S, ld, 0, to, ld);
    gdni_sgemm_serial(1, 0, K, width, n, 1, k.x, k.ld, x, GDNI_SLICE, 1, to, ld);
}

void gdni_chain_forward(const gdni_plan *plan, int64_t begin, int64_t end) {
    const gdn_problem *p = plan->p;
    const gdni_scratch scratch = gdni_scratch_of_thread(plan);
    const int64_t tasks_a_chunk = (int64_t)p->Hv * slices(p->V);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < (end - begin) * tasks_a_chunk; ++task) {
        const int64_t first = begin + task / tasks_a_chunk, rest = task % tasks_a_chunk;
        const int64_t h = rest / slices(p->V), j = rest % slices(p->V) * GDNI_SLICE;
        const int width = slice_width(p->V, (int)j);
        if (first != begin && !plan->chunk[first].first)
            continue; /* inside a run */
        for (int64_t c = first; c < end && (c == first || !plan->chunk[c].first); ++c) {
            gdni_rows v = gdni_rows_v(plan, c, h);
            float *U = plan->U ? gdni_delta_at(plan, plan->U, c, h) : NULL;
            float *to = gdni_exit_state(plan, c, h);
            v.x += j;
            step_forward(plan->chunk[c].length, p->K, width,
                         gdni_rows_k(plan, c, h / (p->Hv / p->Hk)), v, gdni_gates_at(plan, c, h),
                         gdni_window(plan, plan->decayed_T, c, p->Hv, h, GDNI_SQUARE),
                         gdni_entry_state(plan, c, h) + j, U ? U + j : NULL,
                         gdni_delta_at(plan, plan->D, c, h) + j, to ? to + j : NULL, p->V,
                         &scratch);
        }
    }
}

void gdni_chain_transfer(const gdni_plan *plan, int64_t begin, int64_t end, float *M) {
    const gdn_problem *p = plan->p;
    const gdni_scratch scratch = gdni_scratch_of_thread(plan);
    const gdni_rows none = {NULL, 0};
    gdni_gates open; /* gates left out: e^0 everywhere */
    for (int i = 0; i < C; ++i)
        open.in[i] = open.out[i] = 1;
    open.all = 1;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < (int64_t)p->Hv * slices(p->K); ++task) {
        const int64_t h = task / slices(p->K), j = task % slices(p->K) * GDNI_SLICE;
        float *columns = M + h * p->K * p->K + j;
        for (int64_t c = begin; c < end; ++c) {
            memcpy(open.beta, gdni_gates_at(plan, c, h)->beta, sizeof(open.beta));
            step_forward(plan->chunk[c].length, p->K, slice_width(p->K, (int)j),
                         gdni_rows_k(plan, c, h / (p->Hv / p->Hk)), none, &open,
                         gdni_inverse_at(plan, c, h), columns, NULL, scratch.rows[2], columns, p->K,
                         &scratch);
        }
    }
}

/*
 * Columns of one chunk: dD = P^T dO + e^{c_C - c} (K dS'), E = (Gam o T)^T dD, dU = -e^c beta E,
 * dS = s Q^T (e^c dO) + e^{c_C} dS' + K^T dU. E and dS hold their first terms.
 */
static void step_backward(int n, int K, int width, gdni_rows k, const gdni_gates *gates,
                          const float *decayed_T, const float *dS_exit, float *E, float *dS,
                          int64_t ld, const gdni_scratch *scratch) {
    float *dD = scratch->rows[0], *dU = scratch->rows[1];
    gdni_sgemm_serial(0, 0, n, width, K, 1, k.x, k.ld, dS_exit, ld, 0, dD, GDNI_SLICE);
    gdni_scale_add_rows(n, width, gates->out, E, ld, dD, GDNI_SLICE);
    gdni_lower_transposed_times(n, width, decayed_T, dD, GDNI_SLICE, 0, E, ld);
    if (!dS)
        return;
    gdni_scale_rows(n, width, 1, gates->minus_in, E, ld, dU, GDNI_SLICE);
    gdni_scale(K, width, gates->all, dS_exit, ld, 1, dS, ld);
    gdni_sgemm_serial(1, 0, K, width, n, 1, k.x, k.ld, dU, GDNI_SLICE, 1, dS, ld);
}

void gdni_chain_backward(const gdni_plan *plan, int64_t begin, int64_t end) {
    const gdn_problem *p = plan->p;
    const gdni_scratch scratch = gdni_scratch_of_thread(plan);
    const int64_t tasks_a_chunk = (int64_t)p->Hv * slices(p->V);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < (end - begin) * tasks_a_chunk; ++task) {
        const int64_t last = begin + task / tasks_a_chunk, rest = task % tasks_a_chunk;
        const int64_t h = rest / slices(p->V), j = rest % slices(p->V) * GDNI_SLICE;
        const int width = slice_width(p->V, (int)j);
        if (last != end - 1 && !plan->chunk[last].last)
            continue; /* inside a run */
        for (int64_t c = last; c >= begin && (c == last || !plan->chunk[c].last); --c) {
            float *dS = gdni_entry_gradient(plan, c, h);
            step_backward(plan->chunk[c].length, p->K, width,
                          gdni_rows_k(plan, c, h / (p->Hv / p->Hk)), gdni_gates_at(plan, c, h),
                          gdni_window(plan, plan->decayed_T, c, p->Hv, h, GDNI_SQUARE),
                          gdni_exit_gradient(plan, c, h) + j,
                          gdni_window(plan, plan->E, c, p->Hv, h, C * p->V) + j, dS ? dS + j : NULL,
                          p->V, &scratch);
        }
    }
}
