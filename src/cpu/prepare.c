/* What chunks compute on their own, before the chains of states and gradients. */
#include "chunked.h"

enum {
    C = GDNI_CHUNK
};

/* Converts and normalises what is not read in place. */
static void load(const gdni_plan *plan, int64_t chunk, int64_t hk, int queries) {
    const gdn_problem *p = plan->p;
    const gdn_tensors *x = plan->x;
    const int64_t group = p->Hv / p->Hk, t = plan->chunk[chunk].start;
    const int n = plan->chunk[chunk].length;
    if (plan->k)
        gdni_load_rows(p->dtype, x->k, gdni_offset(p->k_strides, t, hk), p->k_strides.token, n,
                       p->K, gdni_window(plan, plan->k, chunk, p->Hk, hk, C * p->K),
                       plan->k_norm ? gdni_window(plan, plan->k_norm, chunk, p->Hk, hk, C) : NULL);
    if (plan->q && queries)
        gdni_load_rows(p->dtype, x->q, gdni_offset(p->q_strides, t, hk), p->q_strides.token, n,
                       p->K, gdni_window(plan, plan->q, chunk, p->Hk, hk, C * p->K),
                       plan->q_norm ? gdni_window(plan, plan->q_norm, chunk, p->Hk, hk, C) : NULL);
    for (int64_t h = hk * group; h < (hk + 1) * group; ++h) {
        if (plan->v && x->v)
            gdni_load_rows(p->dtype, x->v, gdni_offset(p->v_strides, t, h), p->v_strides.token, n,
                           p->V, gdni_window(plan, plan->v, chunk, p->Hv, h, C * p->V), NULL);
        if (plan->do_ && queries)
            gdni_load_rows(p->dtype, x->do_, gdni_offset(p->o_strides, t, h), p->o_strides.token, n,
                           p->V, gdni_window(plan, plan->do_, chunk, p->Hv, h, C * p->V), NULL);
    }
}

void gdni_prepare(const gdni_plan *plan, int64_t chunk, int64_t hk, int queries) {
    const gdn_problem *p = plan->p;
    const gdn_tensors *x = plan->x;
    const int64_t group = p->Hv / p->Hk, t = plan->chunk[chunk].start;
    const int n = plan->chunk[chunk].length;
    float *N = gdni_window(plan, plan->N, chunk, p->Hk, hk, GDNI_SQUARE);
    float *QK = gdni_window(plan, plan->QK, chunk, p->Hk, hk, GDNI_SQUARE);

    load(plan, chunk, hk, queries);
    const gdni_rows k = gdni_rows_k(plan, chunk, hk);
    gdni_lower_of_product(n, p->K, k.x, k.ld, k.x, k.ld, N);
    if (queries) {
        const gdni_rows q = gdni_rows_q(plan, chunk, hk);
        gdni_lower_of_product(n, p->K, q.x, q.ld, k.x, k.ld, QK);
    }
    for (int64_t h = hk * group; h < (hk + 1) * group; ++h) {
        gdni_gates *gates = gdni_gates_at(plan, chunk, h);
        float *T = gdni_inverse_at(plan, chunk, h);
        float *gamma = gdni_window(plan, plan->gamma, chunk, p->Hv, h, GDNI_SQUARE);
        gdni_gates_make(n, (const float *)x->g + t * p->Hv + h,
                        (const float *)x->beta + t * p->Hv + h, p->Hv, gates);
        gdni_decay_matrix(n, gates, gamma);
        if (!plan->have_inverse)
            gdni_inverse(n, N, gates->beta, T);
        gdni_hadamard(n, 1, gamma, T,
                      gdni_window(plan, plan->decayed_T, chunk, p->Hv, h, GDNI_SQUARE));
        if (queries)
            gdni_hadamard(n, (float)p->scale, gamma, QK,
                          gdni_window(plan, plan->P, chunk, p->Hv, h, GDNI_SQUARE));
    }
}

void gdni_prepare_delta(const gdni_plan *plan, int64_t chunk, int64_t h,
                        const gdni_scratch *scratch) {
    const gdn_problem *p = plan->p;
    const int n = plan->chunk[chunk].length, V = p->V;
    const gdni_rows k = gdni_rows_k(plan, chunk, h / (p->Hv / p->Hk));
    const gdni_rows v = gdni_rows_v(plan, chunk, h);
    float *U = gdni_delta_at(plan, plan->U, chunk, h), *R = scratch->rows[0];
    gdni_sgemm_serial(0, 0, n, V, p->K, 1, k.x, k.ld, gdni_entry_state(plan, chunk, h), V, 0, U, V);
    gdni_residual(n, V, gdni_gates_at(plan, chunk, h), v.x, v.ld, U, V, R, V);
    gdni_lower_times(n, V, gdni_window(plan, plan->decayed_T, chunk, p->Hv, h, GDNI_SQUARE), R, V,
                     0, gdni_delta_at(plan, plan->D, chunk, h), V);
}

void gdni_prepare_gradients(const gdni_plan *plan, int64_t chunk, int64_t h,
                            const gdni_scratch *scratch) {
    const gdn_problem *p = plan->p;
    const int n = plan->chunk[chunk].length, V = p->V;
    const gdni_rows q = gdni_rows_q(plan, chunk, h / (p->Hv / p->Hk));
    const gdni_rows d_o = gdni_rows_do(plan, chunk, h);
    const gdni_gates *gates = gdni_gates_at(plan, chunk, h);
    float *dS = gdni_entry_gradient(plan, chunk, h), *x = scratch->rows[0];
    gdni_lower_transposed_times(n, V, gdni_window(plan, plan->P, chunk, p->Hv, h, GDNI_SQUARE),
                                d_o.x, d_o.ld, 0,
                                gdni_window(plan, plan->E, chunk, p->Hv, h, C * V), V);
    if (!dS)
        return;
    gdni_scale_rows(n, V, (float)p->scale, gates->in, d_o.x, d_o.ld, x, V);
    gdni_sgemm_serial(1, 0, p->K, V, n, 1, q.x, q.ld, x, V, 0, dS, V);
}
