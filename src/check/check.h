/* What the gradient checks share among themselves and with the gdn command. All data float64,
 * dense, host. */
#ifndef GDNI_CHECK_H
#define GDNI_CHECK_H

#include "error.h"
#include "gdn_check.h"

/* ---- Shapes ------------------------------------------------------------------------------------
 */

/* A tensor's name, shape and elements. */
typedef struct gdni_shape {
    const char *name;
    int32_t ndim, head_axis; /* -1: no heads */
    int64_t shape[GDN_CHECK_MAX_DIMS];
    int64_t count;
} gdni_shape;

/* The place of a flat index, such as "[3, 0, 17]". */
GDN_API void gdni_format_place(const gdni_shape *shape, int64_t index, char text[96]);

/* Operator tensors by name: q k v g beta initial_state do dht o final_state dq dk dv dg dbeta dh0.
 */
GDN_API gdni_shape gdni_operator_shape(const gdn_problem *problem, const char *name);

enum {
    GDNI_LAYER_A_LOG = 5,
    GDNI_LAYER_DT_BIAS = 6,
    GDNI_LAYER_NORM = 7,
    GDNI_LAYER_OUT_PROJ = 8,
    GDNI_LAYER_WEIGHTS = 9
};
/* Weight i of a layer in the order of gdn_layer_weights, and its pointer. */
GDN_API gdni_shape gdni_layer_weight_shape(const gdn_layer *layer, int i);
GDN_API void **gdni_layer_weight(const gdn_layer_weights *weights, int i);
/* A_log and dt_bias have the state type. */
gdn_dtype gdni_layer_weight_dtype(gdn_dtype layer_dtype, int i);
/* x, dout, dx, out: [T, D]. */
GDN_API gdni_shape gdni_layer_activation_shape(const gdn_layer *layer, const char *name);

/* ---- Evaluation --------------------------------------------------------------------------------
 */

/* Inputs and outputs of one operator call. Outputs that are NULL are not wanted; do_ NULL: forward
 * only; o NULL: backward only. */
typedef struct gdni_operator_values {
    const double *q, *k, *v, *g, *beta, *initial_state, *do_, *dht;
    const int64_t *cu_seqlens;
    double *o, *final_state, *dq, *dk, *dv, *dg, *dbeta, *dh0;
} gdni_operator_values;

/* Runs the operator on float64 data in problem's dtype. Unwritten outputs come back as NaN.
 * BAD_DATA: an input that overflows the dtype. */
GDN_API GDN_CHECK_RESULT gdn_status gdni_evaluate_operator(const gdn_context *context,
                                                           const gdn_problem *problem,
                                                           const gdni_operator_values *values);

/* The same for a layer; dout NULL: forward only; out NULL: the forward's result is not wanted. */
typedef struct gdni_layer_values {
    const double *x, *dout;
    const int64_t *cu_seqlens;
    const gdn_layer_weights *weights;
    double *out, *dx;
    const gdn_layer_weights *dweights;
    const gdn_layer_hooks *hooks; /* NULL: none */
} gdni_layer_values;

GDN_API GDN_CHECK_RESULT gdn_status gdni_evaluate_layer(const gdn_context *context,
                                                        const gdn_layer *layer,
                                                        const gdni_layer_values *values);

/* Of each head the product of norms that bounds what an error of dg does to these sums of it:
 *     dA_log = sum_t dg_t g_t,   ddt_bias = sum_t -dg_t A sigmoid(u_t),   g = -A softplus(u)
 * from g and dg of a backward in float64 on the host. */
GDN_API void gdni_gate_sum_sizes(const gdn_problem *problem, const gdn_tensors *tensors,
                                 const double *A_log, double *of_A_log, double *of_dt_bias);

/* Rounds count values to dtype, still as float64. BAD_DATA where a finite value overflows. */
GDN_CHECK_RESULT gdn_status gdni_round(const gdni_shape *shape, gdn_dtype dtype, const double *from,
                                       double *to);

/* count zeros, released with free(). */
GDN_CHECK_RESULT gdn_status gdni_zeros(const char *function, double **out, int64_t count);

/* ---- Comparison --------------------------------------------------------------------------------
 */

GDN_CHECK_RESULT gdn_status gdni_report_add(gdn_check_report *report, const gdn_check_row *row);
GDN_CHECK_RESULT gdn_status gdni_report_check(const char *function, const gdn_check_report *report);

/* Compares by the standing tolerances of dtype times factor: a row per head, and where a head has
 * few elements a row for the whole (see tolerance.c). */
GDN_API GDN_CHECK_RESULT gdn_status gdni_compare_standing(const gdni_shape *shape,
                                                          const double *got, const double *want,
                                                          gdn_dtype dtype, double factor,
                                                          const char *against,
                                                          gdn_check_report *report);

/* The same for a layer's weight i; in_proj_qkv, conv1d, in_proj_z and out_proj are split by head.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdni_compare_layer_weight(const gdn_layer *layer, int i,
                                                              const double *got, const double *want,
                                                              double factor, const char *against,
                                                              gdn_check_report *report);

/* As gdn_check_compare; besides the tolerance every element may be off by `quantum`. */
GDN_CHECK_RESULT gdn_status gdni_compare(const gdn_check_tensor *tensor, double quantum,
                                         const char *against, gdn_check_report *report);

/* Spacing of the subnormals of the type that a tensor has in a run in dtype. */
double gdni_tensor_quantum(const char *name, gdn_dtype dtype);
/* On scale_error. */
double gdni_scale_tolerance(gdn_dtype dtype);

/* ---- Finite differences ------------------------------------------------------------------------
 */

/* A directional derivative of a float64 function, and what it is worth. */
typedef struct gdni_difference {
    double value;
    double noise; /* rounding of the evaluations, divided by the step */
} gdni_difference;

/* The derivative is the sum of weight L(x + offset s d), divided by s. */
typedef struct gdni_point {
    double offset, weight;
} gdni_point;

/* Two points where L is affine, otherwise four. */
const gdni_point *gdni_stencil(int affine, int *count);

/* Keeps the larger of row->error and the error of `derivative`, in units of `size`, which is what a
 * random direction gives on average; NaN stays. Raises row->tolerance to the noise. */
void gdni_difference_error(gdn_check_row *row, double derivative, const gdni_difference *difference,
                           double size);

/* A row without errors yet. */
gdn_check_row gdni_difference_row(const char *name, const char *against, int64_t head,
                                  double tolerance);

/* Relative tolerance for a gradient that is computed with `tolerance`; see difference.c. */
double gdni_difference_tolerance(double tolerance);
/* The noise of a sum of terms with the given sum of squares, over a central difference. */
double gdni_difference_noise(double sum_of_squares, double step);

/* The caller's options with the defaults filled in. */
GDN_CHECK_RESULT gdn_status gdni_gradcheck_options(const char *function,
                                                   const gdn_gradcheck_options *in,
                                                   gdn_gradcheck_options *out);

/* splitmix64 and Box-Muller; the state is the seed. */
double gdni_normal(uint64_t *state);

#endif /* GDNI_CHECK_H */
