#include "recurrence.h"
#include "clones.h"

#include <math.h>
#include <string.h>

/* Under the root of the norm, as in gdn.h's GDN_FLAG_L2NORM_QK. */
static const double NORM_EPSILON = 1e-6;

/* Divides x by sqrt(|x|^2 + epsilon) and returns that root. */
static double normalise(double *x, int32_t dim) {
    double sum = NORM_EPSILON;
    for (int32_t i = 0; i < dim; ++i)
        sum += x[i] * x[i];
    const double norm = sqrt(sum);
    for (int32_t i = 0; i < dim; ++i)
        x[i] /= norm;
    return norm;
}

void gdni_token_load(const gdn_problem *p, const gdn_tensors *x, int64_t t, int64_t h,
                     gdni_token *token) {
    const int64_t hk = h / (p->Hv / p->Hk);
    const int normed = (p->flags & GDN_FLAG_L2NORM_QK) != 0;
    const double *q = x->q, *k = x->k, *v = x->v, *g = x->g, *beta = x->beta;
    token->q_norm = token->k_norm = 1.0;
    if (q) {
        memcpy(token->q, q + gdni_row(p->q_strides, t, hk), sizeof(*q) * (size_t)p->K);
        if (normed)
            token->q_norm = normalise(token->q, p->K);
    }
    memcpy(token->k, k + gdni_row(p->k_strides, t, hk), sizeof(*k) * (size_t)p->K);
    if (normed)
        token->k_norm = normalise(token->k, p->K);
    if (v)
        memcpy(token->v, v + gdni_row(p->v_strides, t, h), sizeof(*v) * (size_t)p->V);
    token->g = g[t * p->Hv + h];
    token->beta = beta[t * p->Hv + h];
}

GDNI_CLONES void gdni_token_step(const gdn_problem *p, const gdni_token *token, double *restrict S,
                                 double *restrict delta) {
    const int32_t K = p->K, V = p->V;
    const double decay = exp(token->g);
    for (int32_t j = 0; j < V; ++j)
        delta[j] = token->v[j];
    for (int32_t i = 0; i < K; ++i) {
        double *row = S + i * V;
        const double k = token->k[i];
        for (int32_t j = 0; j < V; ++j) {
            row[j] *= decay;
            delta[j] -= row[j] * k;
        }
    }
    for (int32_t j = 0; j < V; ++j)
        delta[j] *= token->beta;
    for (int32_t i = 0; i < K; ++i) {
        double *row = S + i * V;
        const double k = token->k[i];
        for (int32_t j = 0; j < V; ++j)
            row[j] += k * delta[j];
    }
}

void gdni_state_load(const gdn_problem *p, const void *states, int64_t n, int64_t h, double *S) {
    const int64_t KV = (int64_t)p->K * p->V;
    if (states)
        memcpy(S, (const double *)states + (n * p->Hv + h) * KV, sizeof(*S) * (size_t)KV);
    else
        memset(S, 0, sizeof(*S) * (size_t)KV);
}
