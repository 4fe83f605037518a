/*
 * Backward. Without saved states a first pass runs the chain of states through all chunks. Then,
 * window by window from the last to the first: the chunks' own work, the chain of gradients, and
 * the gradients of the inputs.
 */
#include "chunked.h"

#include <string.h>

enum {
    C = GDNI_CHUNK
};

/* dg_t = z + sum_{i>=t} r_i + sum_{j<t} w_j + what dg holds (the pairs of tokens). */
static void finish_gates(int n, double z, const double *r, const double *w, const double *dbeta,
                         double *dg, int64_t stride, float *to_dg, float *to_dbeta) {
    double sum = 0.0;
    for (int t = n - 1; t >= 0; --t) {
        sum += r[t];
        dg[t] += z + sum;
    }
    sum = 0.0;
    for (int t = 0; t < n; ++t) {
        to_dg[t * stride] = (float)(dg[t] + sum);
        to_dbeta[t * stride] = (float)dbeta[t];
        sum += w[t];
    }
}

/* dV, dg and dbeta of one v-head; adds its part to the group's dQ and dK [n, K]. */
static void head_gradients(const gdni_plan *plan, int64_t chunk, int64_t h, float *dQ, float *dK,
                           const gdni_scratch *scratch) {
    const gdn_problem *p = plan->p;
    const gdn_tensors *x = plan->x;
    const int n = plan->chunk[chunk].length, K = p->K, V = p->V;
    const int64_t hk = h / (p->Hv / p->Hk), start = plan->chunk[chunk].start;
    const gdni_rows q = gdni_rows_q(plan, chunk, hk), k = gdni_rows_k(plan, chunk, hk);
    const gdni_rows v = gdni_rows_v(plan, chunk, h), d_o = gdni_rows_do(plan, chunk, h);
    const gdni_gates *gates = gdni_gates_at(plan, chunk, h);
    const float *S = gdni_entry_state(plan, chunk, h), *dS = gdni_exit_gradient(plan, chunk, h);
    const float *U = gdni_delta_at(plan, plan->U, chunk, h);
    const float *D = gdni_delta_at(plan, plan->D, chunk, h);
    const float *E = gdni_window(plan, plan->E, chunk, p->Hv, h, C * V);
    float *G = scratch->square[0], *W = scratch->square[1]; /* first dP and Z */
    float *part = scratch->rows[2], *dU = scratch->rows[3];
    double r[GDNI_CHUNK] = {0}, w[GDNI_CHUNK] = {0}, z = 0.0;
    double dbeta[GDNI_CHUNK] = {0}, dg[GDNI_CHUNK] = {0};

    /* Between tokens. */
    gdni_lower_of_product(n, V, d_o.x, d_o.ld, D, V, G);
    gdni_lower_of_product(n, V, E, V, D, V, W);
    gdni_pair_gradients(n, (float)p->scale, gates,
                        gdni_window(plan, plan->gamma, chunk, p->Hv, h, GDNI_SQUARE),
                        gdni_window(plan, plan->QK, chunk, p->Hk, hk, GDNI_SQUARE),
                        gdni_window(plan, plan->N, chunk, p->Hk, hk, GDNI_SQUARE), G, W, dbeta, dg);
    gdni_lower_times(n, K, G, k.x, k.ld, 1, dQ, K);
    gdni_lower_transposed_times(n, K, G, q.x, q.ld, 1, dK, K);
    gdni_sgemm_serial(0, 0, n, K, n, 1, W, C, k.x, k.ld, 1, dK, K);

    /* Through the states. */
    gdni_sgemm_serial(0, 1, n, K, V, (float)p->scale, d_o.x, d_o.ld, S, V, 0, part, K);
    gdni_gather_rows(n, K, gates->in, q.x, q.ld, part, dQ, r);
    gdni_sgemm_serial(0, 1, n, K, V, 1, D, V, dS, V, 0, part, K);
    gdni_gather_rows(n, K, gates->out, k.x, k.ld, part, dK, w);
    gdni_scale_rows(n, V, 1, gates->minus_in, E, V, dU, V);
    gdni_sgemm_serial(0, 1, n, K, V, 1, dU, V, S, V, 1, dK, K);
    gdni_row_dots(n, V, U, V, dU, V, r);
    double products[256] = {0};
    gdni_row_dots(K, V, S, V, dS, V, products);
    for (int i = 0; i < K; ++i)
        z += products[i];

    /* dbeta_i also has <E_i, R_i>, R = V - e^c U; dV = beta E. */
    gdni_write_gradients(n, V, gates, v.x, v.ld, U, E, part, dbeta);
    gdni_store_rows(p->dtype, x->dv, gdni_offset(p->v_strides, start, h), p->v_strides.token, n, V,
                    part, V);
    finish_gates(n, gates->all * z, r, w, dbeta, dg, p->Hv, (float *)x->dg + start * p->Hv + h,
                 (float *)x->dbeta + start * p->Hv + h);
}

/* All gradients of a k-head and its v-heads; the group's sums are rounded once. */
static void chunk_gradients(const gdni_plan *plan, int64_t chunk, int64_t hk,
                            const gdni_scratch *scratch) {
    const gdn_problem *p = plan->p;
    const int64_t group = p->Hv / p->Hk, start = plan->chunk[chunk].start;
    const int n = plan->chunk[chunk].length, K = p->K;
    float *dQ = scratch->rows[0], *dK = scratch->rows[1];
    memset(dQ, 0, sizeof(*dQ) * (size_t)n * (size_t)K);
    memset(dK, 0, sizeof(*dK) * (size_t)n * (size_t)K);
    for (int64_t h = hk * group; h < (hk + 1) * group; ++h)
        head_gradients(plan, chunk, h, dQ, dK, scratch);
    if (plan->q_norm) {
        const gdni_rows q = gdni_rows_q(plan, chunk, hk), k = gdni_rows_k(plan, chunk, hk);
        gdni_norm_gradient(n, K, q.x, q.ld, gdni_window(plan, plan->q_norm, chunk, p->Hk, hk, C),
                           dQ);
        gdni_norm_gradient(n, K, k.x, k.ld, gdni_window(plan, plan->k_norm, chunk, p->Hk, hk, C),
                           dK);
    }
    gdni_store_rows(p->dtype, plan->x->dq, gdni_offset(p->q_strides, start, hk), p->q_strides.token,
                    n, K, dQ, K);
    gdni_store_rows(p->dtype, plan->x->dk, gdni_offset(p->k_strides, start, hk), p->k_strides.token,
                    n, K, dK, K);
}

/* The chain of states through one window, forward in time. */
static void recompute_window(const gdni_plan *plan, int64_t begin, int64_t end) {
    const int64_t Hk = plan->p->Hk;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < (end - begin) * Hk; ++task)
        gdni_prepare(plan, begin + task / Hk, task % Hk, 0);
    gdni_chain_forward(plan, begin, end);
}

static void run_window(const gdni_plan *plan, int64_t begin, int64_t end, int have_delta) {
    const int64_t Hk = plan->p->Hk, group = plan->p->Hv / Hk;
    const gdni_scratch scratch = gdni_scratch_of_thread(plan);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < (end - begin) * Hk; ++task) {
        const int64_t chunk = begin + task / Hk, hk = task % Hk;
        gdni_prepare(plan, chunk, hk, 1);
        for (int64_t h = hk * group; h < (hk + 1) * group; ++h) {
            if (!have_delta)
                gdni_prepare_delta(plan, chunk, h, &scratch);
            gdni_prepare_gradients(plan, chunk, h, &scratch);
        }
    }
    gdni_chain_backward(plan, begin, end);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < (end - begin) * Hk; ++task)
        chunk_gradients(plan, begin + task / Hk, task % Hk, &scratch);
}

/* Gradients of empty sequences' states pass through; those of padding are 0. */
static void write_rest(const gdn_problem *p, const gdn_tensors *x) {
    const size_t size = gdn_dtype_size(p->dtype);
    for (int64_t t = gdni_sequence_start(p, x->cu_seqlens, p->N); t < p->T; ++t) {
        for (int64_t h = 0; h < p->Hk; ++h) {
            memset((char *)x->dq + (size_t)gdni_offset(p->q_strides, t, h) * size, 0,
                   (size_t)p->K * size);
            memset((char *)x->dk + (size_t)gdni_offset(p->k_strides, t, h) * size, 0,
                   (size_t)p->K * size);
        }
        for (int64_t h = 0; h < p->Hv; ++h) {
            memset((char *)x->dv + (size_t)gdni_offset(p->v_strides, t, h) * size, 0,
                   (size_t)p->V * size);
            ((float *)x->dg)[t * p->Hv + h] = ((float *)x->dbeta)[t * p->Hv + h] = 0;
        }
    }
    if (x->dh0)
        gdni_pass_states(p, x, x->dht, x->dh0);
}

gdn_status gdni_cpu_backward(const gdn_context *context, const gdn_problem *p, const gdn_tensors *x,
                             gdn_stream stream) {
    const int have_states = (p->flags & GDN_FLAG_SAVE_STATES) != 0;
    gdni_plan plan;
    gdni_plan_init(&plan, context, p, x, GDNI_BACKWARD);
    plan.entry_gradient = x->dh0;
    write_rest(p, x);
    gdni_plan first = plan;
    if (!have_states)
        plan.have_inverse = 1; /* the first pass leaves T, U and D of all chunks behind */
#pragma omp parallel num_threads(plan.threads)
    {
        const int previous = gdni_blas_serial_begin();
        for (int64_t begin = 0; !have_states && begin < plan.chunks; begin += plan.window)
            recompute_window(&first, begin, gdni_window_end(&plan, begin));
        for (int64_t windows = gdni_windows(&plan); windows-- > 0;)
            run_window(&plan, windows * plan.window, gdni_window_end(&plan, windows * plan.window),
                       !have_states);
        gdni_blas_serial_end(previous);
    }
    return GDN_STATUS_OK;
}
