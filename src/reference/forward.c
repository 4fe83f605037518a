/* Forward of the token recurrence. */
#include "recurrence.h"

#include <string.h>

/* o_t = s S_t^T q_t */
static void write_output(const gdn_problem *p, const gdni_token *token, const double *S,
                         double *o) {
    for (int32_t j = 0; j < p->V; ++j)
        o[j] = 0.0;
    for (int32_t i = 0; i < p->K; ++i)
        for (int32_t j = 0; j < p->V; ++j)
            o[j] += p->scale * token->q[i] * S[i * p->V + j];
}

gdn_status gdni_reference_forward(const gdn_context *context, const gdn_problem *p,
                                  const gdn_tensors *x, gdn_stream stream) {
    const size_t KV = (size_t)p->K * (size_t)p->V;
    double *S = x->workspace, *o = x->o, *final_state = x->final_state;
    double delta[GDNI_MAX_DIM];
    gdni_token token;

    for (int64_t h = 0; h < p->Hv; ++h) {
        for (int64_t n = 0; n < p->N; ++n) {
            const int64_t start = gdni_sequence_start(p, x->cu_seqlens, n);
            const int64_t end = gdni_sequence_start(p, x->cu_seqlens, n + 1);
            gdni_state_load(p, x->initial_state, n, h, S);
            for (int64_t t = start; t < end; ++t) {
                gdni_token_load(p, x, t, h, &token);
                gdni_token_step(p, &token, S, delta);
                write_output(p, &token, S, o + gdni_row(p->o_strides, t, h));
            }
            if (final_state)
                memcpy(final_state + ((size_t)n * (size_t)p->Hv + (size_t)h) * KV, S,
                       sizeof(*S) * KV);
        }
        /* Padding. */
        for (int64_t t = gdni_sequence_start(p, x->cu_seqlens, p->N); t < p->T; ++t)
            memset(o + gdni_row(p->o_strides, t, h), 0, sizeof(*o) * (size_t)p->V);
    }
    return GDN_STATUS_OK;
}
