/*
 * Backward of the token recurrence, from the last token to the first. dS is the gradient of S_t,
 * first without o_t's part; the gradients of one token, in this order:
 *
 *     dS      += s q_t do_t^T            from o_t = s S_t^T q_t
 *     dq_t     = s S_t do_t
 *     dd_t     = dS^T k_t                from S_t = S~ + k_t d_t^T
 *     dk_t     = dS d_t
 *     dbeta_t  = <dd_t, v_t - S~^T k_t>  from d_t = beta_t (v_t - S~^T k_t)
 *     dv_t     = beta_t dd_t
 *     dS~      = dS - k_t dv_t^T
 *     dk_t    -= S~ dv_t
 *     dg_t     = <dS~, S~>               from S~ = exp(g_t) S_{t-1}
 *     dS      := exp(g_t) dS~            now the gradient of S_{t-1}
 *
 * The states come from a forward pass that keeps one in GDNI_BLOCK; those in between are computed
 * again, block by block.
 */
#include "clones.h"
#include "recurrence.h"

#include <math.h>
#include <string.h>

/* Gradients of one token; dq and dk belong to the q and k that the recurrence sees, so after the
 * norm. */
typedef struct token_gradients {
    double q[GDNI_MAX_DIM], k[GDNI_MAX_DIM], v[GDNI_MAX_DIM];
    double g, beta;
} token_gradients;

enum {
    LANES = 8 /* partial sums of a row, side by side */
};

static double sum_of(const double partial[LANES]) {
    double sum = 0.0;
    for (int l = 0; l < LANES; ++l)
        sum += partial[l];
    return sum;
}

/* Row i of the state, first half of a step: dS += s q do^T, dd += dS^T k, residual -= S~^T k;
 * returns <after, do>. */
static inline double row_of_step(int32_t V, double q, double k, double decay,
                                 const double *restrict before, const double *restrict after,
                                 const double *restrict do_t, double *restrict dS,
                                 double *restrict dd, double *restrict residual) {
    double partial[LANES] = {0.0}, rest = 0.0;
    int32_t j = 0;
    for (int32_t i = 0; i < V; ++i) {
        dS[i] += q * do_t[i];
        dd[i] += dS[i] * k;
        residual[i] -= decay * before[i] * k;
    }
    for (; j + LANES <= V; j += LANES)
        for (int l = 0; l < LANES; ++l)
            partial[l] += after[j + l] * do_t[j + l];
    for (; j < V; ++j)
        rest += after[j] * do_t[j];
    return sum_of(partial) + rest;
}

/* Second half: dS := exp(g) dS~, dg += dS~ S~ by column; returns <dS, d> - <S~, dv>. */
static inline double row_of_gradient(int32_t V, double k, double decay,
                                     const double *restrict before, const double *restrict delta,
                                     const double *restrict dv, double *restrict dS,
                                     double *restrict dg) {
    double partial[LANES] = {0.0}, rest = 0.0;
    int32_t j = 0;
    for (; j + LANES <= V; j += LANES)
        for (int l = 0; l < LANES; ++l)
            partial[l] += dS[j + l] * delta[j + l] - decay * before[j + l] * dv[j + l];
    for (; j < V; ++j)
        rest += dS[j] * delta[j] - decay * before[j] * dv[j];
    for (int32_t i = 0; i < V; ++i) {
        const double decayed = decay * before[i], d_decayed = dS[i] - k * dv[i];
        dg[i] += d_decayed * decayed;
        dS[i] = decay * d_decayed;
    }
    return sum_of(partial) + rest;
}

/* One step back. before = S_{t-1}, after = S_t; dS goes from the gradient of S_t to that of
 * S_{t-1}. */
GDNI_CLONES static void step_back(const gdn_problem *p, const gdni_token *x, const double *before,
                                  const double *after, const double *do_t, double *dS,
                                  token_gradients *d) {
    const int32_t K = p->K, V = p->V;
    const double decay = exp(x->g);
    double residual[GDNI_MAX_DIM], dd[GDNI_MAX_DIM]; /* v_t - S~^T k_t, dd_t */
    double delta[GDNI_MAX_DIM], dg[GDNI_MAX_DIM];    /* d_t, dg_t by column */

    for (int32_t j = 0; j < V; ++j) {
        residual[j] = x->v[j];
        dd[j] = dg[j] = 0.0;
    }
    for (int32_t i = 0; i < K; ++i)
        d->q[i] = p->scale * row_of_step(V, p->scale * x->q[i], x->k[i], decay, before + i * V,
                                         after + i * V, do_t, dS + i * V, dd, residual);
    d->beta = d->g = 0.0;
    for (int32_t j = 0; j < V; ++j) {
        d->beta += dd[j] * residual[j];
        d->v[j] = x->beta * dd[j];
        delta[j] = x->beta * residual[j];
    }
    for (int32_t i = 0; i < K; ++i)
        d->k[i] = row_of_gradient(V, x->k[i], decay, before + i * V, delta, d->v, dS + i * V, dg);
    for (int32_t j = 0; j < V; ++j)
        d->g += dg[j];
}

/* sum += the gradient of x, where y = x / norm and dy is given: (dy - y <y, dy>) / norm. */
static void add_through_norm(double *sum, const double *dy, const double *y, double norm,
                             int normed, int32_t dim) {
    double along = 0.0;
    for (int32_t i = 0; normed && i < dim; ++i)
        along += y[i] * dy[i];
    for (int32_t i = 0; i < dim; ++i)
        sum[i] += (dy[i] - y[i] * along) / norm;
}

/* Adds token t of v-head h to the tensors; dq and dk gather their group. */
static void write_gradients(const gdn_problem *p, const gdn_tensors *x, int64_t t, int64_t h,
                            const gdni_token *token, const token_gradients *d) {
    const int64_t hk = h / (p->Hv / p->Hk);
    const int normed = (p->flags & GDN_FLAG_L2NORM_QK) != 0;
    double *dq = x->dq, *dk = x->dk, *dv = x->dv, *dg = x->dg, *dbeta = x->dbeta;
    add_through_norm(dq + gdni_row(p->q_strides, t, hk), d->q, token->q, token->q_norm, normed,
                     p->K);
    add_through_norm(dk + gdni_row(p->k_strides, t, hk), d->k, token->k, token->k_norm, normed,
                     p->K);
    memcpy(dv + gdni_row(p->v_strides, t, h), d->v, sizeof(*dv) * (size_t)p->V);
    dg[t * p->Hv + h] = d->g;
    dbeta[t * p->Hv + h] = d->beta;
}

/* Zeros everywhere: what padding gets, and where the group's sums begin. */
static void clear_gradients(const gdn_problem *p, const gdn_tensors *x) {
    double *dq = x->dq, *dk = x->dk, *dv = x->dv, *dg = x->dg, *dbeta = x->dbeta;
    for (int64_t t = 0; t < p->T; ++t) {
        for (int64_t h = 0; h < p->Hk; ++h) {
            memset(dq + gdni_row(p->q_strides, t, h), 0, sizeof(*dq) * (size_t)p->K);
            memset(dk + gdni_row(p->k_strides, t, h), 0, sizeof(*dk) * (size_t)p->K);
        }
        for (int64_t h = 0; h < p->Hv; ++h) {
            memset(dv + gdni_row(p->v_strides, t, h), 0, sizeof(*dv) * (size_t)p->V);
            dg[t * p->Hv + h] = dbeta[t * p->Hv + h] = 0.0;
        }
    }
}

/* Tokens start .. end-1 of one v-head. kept: the entry state of every block, states: those inside
 * one block and its exit. dS: in the gradient of the exit state, out that of the entry state. */
static void sequence_back(const gdn_problem *p, const gdn_tensors *x, int64_t start, int64_t end,
                          int64_t h, double *kept, double *states, double *dS) {
    const size_t KV = (size_t)p->K * (size_t)p->V;
    const int64_t blocks = (end - start + GDNI_BLOCK - 1) / GDNI_BLOCK;
    const double *do_ = x->do_;
    double delta[GDNI_MAX_DIM];
    gdni_token token;
    token_gradients d;

    for (int64_t b = 0; b + 1 < blocks; ++b) {
        double *S = kept + (size_t)(b + 1) * KV;
        memcpy(S, kept + (size_t)b * KV, sizeof(*S) * KV);
        for (int64_t t = start + b * GDNI_BLOCK; t < start + (b + 1) * GDNI_BLOCK; ++t) {
            gdni_token_load(p, x, t, h, &token);
            gdni_token_step(p, &token, S, delta);
        }
    }
    for (int64_t b = blocks - 1; b >= 0; --b) {
        const int64_t first = start + b * GDNI_BLOCK;
        const int64_t last = first + GDNI_BLOCK < end ? first + GDNI_BLOCK : end;
        memcpy(states, kept + (size_t)b * KV, sizeof(*states) * KV);
        for (int64_t t = first; t < last; ++t) {
            double *S = states + (size_t)(t - first + 1) * KV;
            memcpy(S, S - KV, sizeof(*S) * KV);
            gdni_token_load(p, x, t, h, &token);
            gdni_token_step(p, &token, S, delta);
        }
        for (int64_t t = last - 1; t >= first; --t) {
            const double *before = states + (size_t)(t - first) * KV;
            gdni_token_load(p, x, t, h, &token);
            step_back(p, &token, before, before + KV, do_ + gdni_row(p->o_strides, t, h), dS, &d);
            write_gradients(p, x, t, h, &token, &d);
        }
    }
}

gdn_status gdni_reference_backward(const gdn_context *context, const gdn_problem *p,
                                   const gdn_tensors *x, gdn_stream stream) {
    const size_t KV = (size_t)p->K * (size_t)p->V;
    double *dS = x->workspace, *states = dS + KV, *kept = states + (GDNI_BLOCK + 1) * KV;
    double *dh0 = x->dh0;

    clear_gradients(p, x);
    for (int64_t h = 0; h < p->Hv; ++h)
        for (int64_t n = 0; n < p->N; ++n) {
            const int64_t start = gdni_sequence_start(p, x->cu_seqlens, n);
            const int64_t end = gdni_sequence_start(p, x->cu_seqlens, n + 1);
            gdni_state_load(p, x->initial_state, n, h, kept);
            gdni_state_load(p, x->dht, n, h, dS);
            sequence_back(p, x, start, end, h, kept, states, dS);
            if (dh0)
                memcpy(dh0 + ((size_t)n * (size_t)p->Hv + (size_t)h) * KV, dS, sizeof(*dS) * KV);
        }
    return GDN_STATUS_OK;
}
