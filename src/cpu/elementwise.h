/*
 * Elementwise work on one chunk: gates, the inverse, row scalings, conversions. Matrices of tokens
 * have n <= GDNI_CHUNK rows; those between tokens are GDNI_CHUNK x GDNI_CHUNK with rows and columns
 * from n on left alone or zero.
 */
#ifndef GDNI_ELEMENTWISE_H
#define GDNI_ELEMENTWISE_H

#include "gdn.h"

enum {
    GDNI_CHUNK = 64
};

/* Under the root of the norm, as in gdn.h's GDN_FLAG_L2NORM_QK. */
#define GDNI_NORM_EPSILON 1e-6

/* The gates of a chunk's tokens for one v-head. c in double: a saturated token leaves it large,
 * and the differences after it are small. */
typedef struct gdni_gates {
    double c[GDNI_CHUNK];       /* running sum of g */
    float in[GDNI_CHUNK];       /* e^c */
    float out[GDNI_CHUNK];      /* e^{c_C - c} */
    float beta[GDNI_CHUNK];     /* write strength */
    float minus_in[GDNI_CHUNK]; /* -e^c beta */
    float all;                  /* e^{c_C} */
} gdni_gates;

/* Gates of n tokens; g and beta have `stride` elements from one token to the next. */
void gdni_gates_make(int n, const float *g, const float *beta, int64_t stride, gdni_gates *gates);

/* Gam_ij = exp(c_i - c_j) for i >= j, else 0. */
void gdni_decay_matrix(int n, const gdni_gates *gates, float *gamma);

/* T = (I + strictLower(diag(beta) N))^-1 by substitution; zeros above the diagonal. */
void gdni_inverse(int n, const float *N, const float *beta, float *T);

/* out = scale * (a o b) */
void gdni_hadamard(int n, float scale, const float *a, const float *b, float *out);

/* out_i = beta_i (V_i - e^{c_i} U_i), n x width; V may be NULL: zeros. out may be U. */
void gdni_residual(int n, int width, const gdni_gates *gates, const float *V, int64_t ldv,
                   const float *U, int64_t ldu, float *out, int64_t ldo);

/* out_i = scale * factor_i * x_i, rows x width. */
void gdni_scale_rows(int rows, int width, float scale, const float *factor, const float *x,
                     int64_t ldx, float *out, int64_t ldo);

/* out = scale * x (add == 0) or out += scale * x, rows x width. out may be x. */
void gdni_scale(int rows, int width, float scale, const float *x, int64_t ldx, int add, float *out,
                int64_t ldo);

/* x_i := a_i + factor_i x_i, n x width. */
void gdni_scale_add_rows(int n, int width, const float *factor, const float *a, int64_t lda,
                         float *x, int64_t ldx);

/* sum += x and dots_i += <y_i, x_i> after x_i *= factor_i; n x width. x and sum have ld width. */
void gdni_gather_rows(int n, int width, const float *factor, const float *y, int64_t ldy, float *x,
                      float *sum, double *dots);

/* dots_i += <x_i, y_i>, rows x width. */
void gdni_row_dots(int rows, int width, const float *x, int64_t ldx, const float *y, int64_t ldy,
                   double *dots);

/* dbeta_i += <E_i, V_i - e^{c_i} U_i> and dV_i = beta_i E_i, n x width; U, E, dV have ld width. */
void gdni_write_gradients(int n, int width, const gdni_gates *gates, const float *V, int64_t ldv,
                          const float *U, const float *E, float *dV, double *dbeta);

/*
 * The part of the backward that runs over pairs of tokens i >= j:
 *     G = scale Gam o dP ;  W = -strictLower(diag(beta) (Gam o Z)), written as W + W^T
 *     dbeta_i -= sum_{j<i} Z_ij Gam_ij N_ij ;  dg_t += sum_{i>=t>j} B_ij
 * G overwrites dP, W + W^T overwrites Z.
 */
void gdni_pair_gradients(int n, float scale, const gdni_gates *gates, const float *gamma,
                         const float *QK, const float *N, float *dP, float *Z, double *dbeta,
                         double *dg);

/* Rows of `dim` elements of a tensor to fp32; norms[i] != NULL: each divided by
 * sqrt(|x|^2 + 1e-6), which goes to norms. */
void gdni_load_rows(gdn_dtype dtype, const void *data, int64_t offset, int64_t stride, int rows,
                    int dim, float *out, float *norms);

/* The other way, rounding to nearest even. */
void gdni_store_rows(gdn_dtype dtype, void *data, int64_t offset, int64_t stride, int rows, int dim,
                     const float *x, int64_t ldx);

/* dx := (dy - y <y, dy>) / norm for y = x / norm, in place; dy has ld dim. */
void gdni_norm_gradient(int rows, int dim, const float *y, int64_t ldy, const float *norms,
                        float *dy);

#endif /* GDNI_ELEMENTWISE_H */
