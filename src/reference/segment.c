/*
 * What a segment hands to its neighbours: N, M and the decay of its last sequence, n of its first.
 * M is the product of (I - beta_t k_t k_t^T), latest token leftmost, without the gates.
 */
#include "recurrence.h"

#include <math.h>
#include <string.h>

/* M := (I - beta k k^T) M */
static void transfer_step(const gdni_token *x, int32_t K, double *M) {
    double row[GDNI_MAX_DIM]; /* beta k^T M */
    memset(row, 0, sizeof(row));
    for (int32_t i = 0; i < K; ++i)
        for (int32_t j = 0; j < K; ++j)
            row[j] += x->beta * x->k[i] * M[i * K + j];
    for (int32_t i = 0; i < K; ++i)
        for (int32_t j = 0; j < K; ++j)
            M[i * K + j] -= x->k[i] * row[j];
}

/* g + log max(1, |1 - beta |k|^2|): how much one token may leave of a state, in log space. */
static double token_bound(const gdni_token *x, int32_t K) {
    double square = 0.0;
    for (int32_t i = 0; i < K; ++i)
        square += x->k[i] * x->k[i];
    return x->g + log(fmax(1.0, fabs(1.0 - x->beta * square)));
}

gdn_status gdni_reference_segment_forward(const gdn_context *context, const gdn_problem *p,
                                          const gdn_tensors *x, const gdn_segment *segment,
                                          gdn_stream stream) {
    const size_t K = (size_t)p->K, KV = K * (size_t)p->V;
    const int64_t start = gdni_sequence_start(p, x->cu_seqlens, p->N - 1);
    const int64_t end = gdni_sequence_start(p, x->cu_seqlens, p->N);
    double *S = x->workspace, *exit_state = segment->exit_state, *M = segment->transfer;
    double *log_decay = segment->log_decay, *decay_bound = segment->decay_bound;
    double delta[GDNI_MAX_DIM];
    gdni_token token;

    for (int64_t h = 0; h < p->Hv; ++h) {
        double decay = 0.0, bound = 0.0, *Mh = M ? M + (size_t)h * K * K : NULL;
        gdni_state_load(p, x->initial_state, p->N - 1, h, S);
        for (size_t i = 0; Mh && i < K * K; ++i)
            Mh[i] = i % (K + 1) == 0;
        for (int64_t t = start; t < end; ++t) {
            gdni_token_load(p, x, t, h, &token);
            gdni_token_step(p, &token, S, delta);
            if (Mh)
                transfer_step(&token, p->K, Mh);
            decay += token.g;
            bound += token_bound(&token, p->K);
        }
        if (exit_state)
            memcpy(exit_state + (size_t)h * KV, S, sizeof(*S) * KV);
        if (log_decay)
            log_decay[h] = decay;
        if (decay_bound)
            decay_bound[h] = bound;
    }
    return GDN_STATUS_OK;
}

gdn_status gdni_reference_segment_backward(const gdn_context *context, const gdn_problem *p,
                                           const gdn_tensors *x, const gdn_segment *segment,
                                           gdn_stream stream) {
    const int32_t K = p->K, V = p->V;
    const int64_t start = gdni_sequence_start(p, x->cu_seqlens, 0);
    const int64_t end = gdni_sequence_start(p, x->cu_seqlens, 1);
    const double *do_ = x->do_;
    double dv[GDNI_MAX_DIM];
    gdni_token token;

    for (int64_t h = 0; h < p->Hv; ++h) {
        double *dS = (double *)segment->entry_gradient + (size_t)h * (size_t)K * (size_t)V;
        gdni_state_load(p, x->dht, 0, h, dS);
        for (int64_t t = end - 1; t >= start; --t) {
            /* dS += s q do^T ; dv = beta dS^T k ; dS := exp(g) (dS - k dv^T): no state needed. */
            const double *do_t = do_ + gdni_row(p->o_strides, t, h);
            gdni_token_load(p, x, t, h, &token);
            memset(dv, 0, sizeof(dv));
            for (int32_t i = 0; i < K; ++i)
                for (int32_t j = 0; j < V; ++j) {
                    dS[i * V + j] += p->scale * token.q[i] * do_t[j];
                    dv[j] += token.beta * dS[i * V + j] * token.k[i];
                }
            for (int32_t i = 0; i < K; ++i)
                for (int32_t j = 0; j < V; ++j)
                    dS[i * V + j] = exp(token.g) * (dS[i * V + j] - token.k[i] * dv[j]);
        }
    }
    return GDN_STATUS_OK;
}
