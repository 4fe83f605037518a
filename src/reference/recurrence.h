/*
 * The token recurrence in float64, one step at a time.
 *
 *     S~  = exp(g_t) S_{t-1}
 *     d_t = beta_t (v_t - S~^T k_t)
 *     S_t = S~ + k_t d_t^T
 *     o_t = s S_t^T q_t
 */
#ifndef GDNI_RECURRENCE_H
#define GDNI_RECURRENCE_H

#include "internal.h"

enum {
    GDNI_MAX_DIM = 256, /* of a head: gdni_problem_check() lets no larger one through */
    GDNI_BLOCK = 64     /* backward: tokens from one kept state to the next */
};

/* What the recurrence reads at one token, for one v-head. */
typedef struct gdni_token {
    double q[GDNI_MAX_DIM], k[GDNI_MAX_DIM], v[GDNI_MAX_DIM];
    double q_norm, k_norm; /* what q and k were divided by; 1 without L2NORM_QK */
    double g, beta;
} gdni_token;

/* Element offset of row (t, h). */
static inline int64_t gdni_row(gdn_strides strides, int64_t t, int64_t h) {
    return t * strides.token + h * strides.head;
}

/* Reads token t for v-head h: k, g, beta, and q and v where tensors has them. */
void gdni_token_load(const gdn_problem *problem, const gdn_tensors *tensors, int64_t t, int64_t h,
                     gdni_token *token);

/* S_{t-1} to S_t in place; writes d_t to delta [V]. */
void gdni_token_step(const gdn_problem *problem, const gdni_token *token, double *S, double *delta);

/* State h of sequence n, or zeros where states is NULL. */
void gdni_state_load(const gdn_problem *problem, const void *states, int64_t n, int64_t h,
                     double *S);

/* gdni_reference_ops */
gdn_status gdni_reference_forward(const gdn_context *context, const gdn_problem *problem,
                                  const gdn_tensors *tensors, gdn_stream stream);
gdn_status gdni_reference_backward(const gdn_context *context, const gdn_problem *problem,
                                   const gdn_tensors *tensors, gdn_stream stream);
gdn_status gdni_reference_segment_forward(const gdn_context *context, const gdn_problem *problem,
                                          const gdn_tensors *tensors, const gdn_segment *segment,
                                          gdn_stream stream);
gdn_status gdni_reference_segment_backward(const gdn_context *context, const gdn_problem *problem,
                                           const gdn_tensors *tensors, const gdn_segment *segment,
                                           gdn_stream stream);

#endif /* GDNI_RECURRENCE_H */
