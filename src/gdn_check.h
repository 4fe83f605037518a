/*
 * Proving results: comparison of tensors, and gradient checks against the float64 recurrence. Host
 * memory only; these calls allocate, synchronise and take their time. Rules on structs and errors
 * as in gdn.h.
 */
#ifndef GDN_CHECK_H
#define GDN_CHECK_H

#include "gdn.h"
#include "gdn_layer.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GDN_CHECK_MAX_DIMS 4

/* One tensor, or one head of one tensor, against its reference. */
typedef struct gdn_check_row {
    char name[32];    /* of the tensor: "dq", "out_proj", ... */
    char against[24]; /* "result", "float64", "finite difference"; "float64 v. difference": the
                         float64 gradient itself; "zero padding" */
    int32_t head;     /* -1: the tensor has no heads */
    double error; /* |got - want| / |want| (relative L2); against differences: of the directional
                     derivative */
    double scale_error; /* |<got, want> / <want, want> - 1|: a wrong factor, which rounding noise
                           does not make */
    double tolerance, scale_tolerance; /* what error and scale_error had to stay within */
    int32_t ndim;                      /* of worst; 0: no single element (directional derivative) */
    int64_t worst[GDN_CHECK_MAX_DIMS]; /* index of the element with the largest |got - want| */
    double worst_got, worst_want;
    int32_t pass; /* a NaN anywhere never passes */
} gdn_check_row;

/* Rows belong to the report: gdn_check_report_free() releases them. Failing rows set pass to 0. */
typedef struct gdn_check_report {
    size_t size;
    gdn_check_row *rows;
    size_t count, capacity;
    int32_t pass;
} gdn_check_report;

#define GDN_CHECK_REPORT_INIT                                                                      \
    { sizeof(gdn_check_report), NULL, 0, 0, 1 }

GDN_API void gdn_check_report_free(gdn_check_report *report);

/* One tensor to compare, dense, row-major. */
typedef struct gdn_check_tensor {
    size_t size;
    const char *name;
    const double *got, *want;
    int32_t ndim;
    int64_t shape[GDN_CHECK_MAX_DIMS];
    int32_t head_axis;      /* one row per index of this axis; -1: one row for the whole */
    double tolerance;       /* on the relative L2 error */
    double scale_tolerance; /* on scale_error; 0 = not looked at */
    const double *least;    /* [heads] or NULL: errors are relative to this norm where that of want
                               is smaller, for sums of known terms that cancel */
} gdn_check_tensor;

/*
 * Appends a row per head to report. A reference head of all zeros wants exact zeros. Returns OK
 * whatever the verdict (it is in report->pass); an error only for bad arguments or memory.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_check_compare(const gdn_check_tensor *tensor,
                                                      gdn_check_report *report);

/* The standing tolerances for a tensor by name ("o", "dq", ... or a layer weight) computed in
 * dtype; see tests. */
GDN_API double gdn_check_default_tolerance(const char *name, gdn_dtype dtype);

typedef struct gdn_gradcheck_options {
    size_t size;
    int32_t directions; /* random directions a tensor for finite differences; 0 = none; default 2 */
    uint64_t seed;      /* of the directions, and of do where none is given */
    double step; /* of the central differences, relative to the direction's size; 0 = 1e-4; 1e-5
                    where it goes through an l2 norm, 1 where the loss is affine */
    double tolerance_factor; /* multiplies the standing tolerances; 0 = 1 */
} gdn_gradcheck_options;

#define GDN_GRADCHECK_OPTIONS_INIT                                                                 \
    { sizeof(gdn_gradcheck_options), 2, 1, 0.0, 0.0 }

/*
 * Inputs of an operator check in float64, dense, shapes as gdn_tensors. q, k, v, do are rounded to
 * the problem's dtype and the rest to its state type before anything is computed, so that every
 * side sees the same numbers. do_ NULL: drawn from the seed. cu_seqlens, initial_state, dht
 * nullable.
 */
typedef struct gdn_gradcheck_inputs {
    size_t size;
    const double *q, *k, *v, *g, *beta;
    const int64_t *cu_seqlens;
    const double *initial_state, *do_, *dht;
} gdn_gradcheck_inputs;

/* Gradients to check, in float64, dense; NULL = not checked. */
typedef struct gdn_gradcheck_gradients {
    size_t size;
    const double *dq, *dk, *dv, *dg, *dbeta, *dh0;
} gdn_gradcheck_gradients;

/*
 * Checks an operator's backward: the gradients that context's backend computes in problem's dtype
 * or, where `given` is not NULL, somebody else's, against (1) the backward of the recurrence in
 * float64 and (2) central finite differences of the recurrence in float64, in random directions.
 * Per tensor and per head. problem's strides are ignored. Returns OK whatever the verdict, which is
 * in report->pass.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_gradcheck_operator(const gdn_context *context,
                                                           const gdn_problem *problem,
                                                           const gdn_gradcheck_inputs *inputs,
                                                           const gdn_gradcheck_gradients *given,
                                                           const gdn_gradcheck_options *options,
                                                           gdn_check_report *report);

/* Inputs of a layer check in float64; weights point to float64. dout NULL: drawn from the seed. */
typedef struct gdn_gradcheck_layer_inputs {
    size_t size;
    const double *x, *dout;
    const int64_t *cu_seqlens;
    const gdn_layer_weights *weights;
} gdn_gradcheck_layer_inputs;

/* Layer gradients to check: dx [T, D] and, by weight, float64; NULL members are not checked. */
typedef struct gdn_gradcheck_layer_gradients {
    size_t size;
    const double *dx;
    const gdn_layer_weights *dweights;
} gdn_gradcheck_layer_gradients;

/* As gdn_gradcheck_operator, for the whole layer: dx and every weight, A_log and dt_bias per head.
 * These two are sums over tokens of dg times something; in bf16 and fp16 their errors are relative
 * to the product of both norms, where that is larger than the sum: dg is known no better. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_gradcheck_layer(const gdn_context *context,
                                                        const gdn_layer *layer,
                                                        const gdn_gradcheck_layer_inputs *inputs,
                                                        const gdn_gradcheck_layer_gradients *given,
                                                        const gdn_gradcheck_options *options,
                                                        gdn_check_report *report);

#ifdef __cplusplus
}
#endif

#endif /* GDN_CHECK_H */
