/*
 * The standing tolerances, on the relative L2 error per head, and how heads are judged by them.
 *
 *   dtype       most tensors   dg, dbeta, dh0, A_log, dt_bias   dx, other weights   scale error
 *   fp64        1e-10          1e-10                            1e-10               1e-10
 *   fp32        2e-5           4e-5                             2e-5                2e-5
 *   bf16, fp16  1e-2           2e-2                             2e-2                5e-3
 *               in_proj_a, in_proj_b: 4e-2, scale error 2e-2
 *
 * fp64        Two orders of summation of the float64 recurrence differ by 1e-14 or so on the
 *             named test cases; 1e-10 leaves room for long sequences and finds any wrong term.
 * fp32        A few hundred roundings of 6e-8 in series (sums over K, over a chunk, over chunks).
 * bf16, fp16  Operands of 8 bits give 2.3e-3 to 3.5e-3 for dq, dk, dv, up to 4.8e-3 for dbeta and
 *             dg; fp16 is computed with the same plan and gets the same bound.
 * wider ones  One number a token and head, from long sums with cancellation.
 * scale       Rounding is noise: in <got, want> / <want, want> - 1 it averages out or, where the
 *             errors of all tokens hang together, as in dg, stays below the L2 error. A wrong factor
 *             does not. Half of 1e-2, so that a factor that is off by 1% in one head never hides in
 *             the noise that bf16 is allowed.
 *
 * A head of few elements (A_log and dt_bias have one, dg in a sequence of one token too) may be a
 * sum that cancels, and then its relative error has no bound from the arithmetic. Such tensors are
 * held to the tolerance as a whole, and each head to that of a wrong factor, which finds 1% in
 * every dtype. In fp64 the noise is so far below the tolerance that every head keeps it.
 *
 * A layer in 16 bits rounds what its parts hand on, some ten times on the way to a weight's
 * gradient, and gets twice what the operator does: up to 1.3e-2 was seen (conv1d, D 64, 301
 * tokens), and in in_proj_a and in_proj_b, products of dg and dbeta with x, 2.1e-2, of one sign in
 * all elements up to 5.5e-3. A_log and dt_bias are one sum over the tokens a head, dg times
 * something, whose terms cancel. An error of dg within its tolerance moves the sum by at most that
 * share of |dg| |something|: the gradient check, which knows both, measures against this or against
 * the sum, whichever is larger. A comparison of results does not know them and wants 1e-1 of the
 * whole. In these four a factor of 1% is found in fp32.
 */
#include "check.h"

#include <math.h>
#include <string.h>

static const double WRONG_FACTOR = 5e-3, SUM_TOLERANCE = 1e-1;
enum {
    FEW_ELEMENTS = 16
};

static int is_wide(const char *name) {
    static const char *const wide[] = {"dg", "dbeta", "dh0", "A_log", "dt_bias"};
    for (size_t i = 0; i < sizeof(wide) / sizeof(wide[0]); ++i)
        if (!strcmp(name, wide[i]))
            return 1;
    return 0;
}

/* A gradient of the layer, split in parts or whole. */
static int is_of_layer(const char *name) {
    static const char *const parts[] = {"dx", "in_proj_", "conv1d", "norm", "out_proj"};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); ++i)
        if (!strncmp(name, parts[i], strlen(parts[i])))
            return 1;
    return 0;
}

/* What the gate's gradients, one number a token and head, are multiplied with. */
static int is_gate_projection(const char *name) {
    return !strcmp(name, "in_proj_a") || !strcmp(name, "in_proj_b");
}

static int is_sum(const char *name) {
    return !strcmp(name, "A_log") || !strcmp(name, "dt_bias");
}

double gdn_check_default_tolerance(const char *name, gdn_dtype dtype) {
    const double twice = name && is_wide(name) ? 2 : 1;
    switch (dtype) {
    case GDN_DTYPE_FP64:
        return 1e-10;
    case GDN_DTYPE_FP32:
        return twice * 2e-5;
    case GDN_DTYPE_BF16:
    case GDN_DTYPE_FP16:
        if (name && is_gate_projection(name))
            return 4e-2;
        return name && is_of_layer(name) ? 2e-2 : twice * 1e-2;
    }
    return 0;
}

double gdni_scale_tolerance(gdn_dtype dtype) {
    switch (dtype) {
    case GDN_DTYPE_FP64:
        return 1e-10;
    case GDN_DTYPE_FP32:
        return 2e-5;
    case GDN_DTYPE_BF16:
    case GDN_DTYPE_FP16:
        return WRONG_FACTOR;
    }
    return 0;
}

double gdni_tensor_quantum(const char *name, gdn_dtype dtype) {
    static const char *const in_dtype[] = {"o", "dq", "dk", "dv"};
    if (dtype == GDN_DTYPE_FP64)
        return 0x1p-1074;
    for (size_t i = 0; i < sizeof(in_dtype) / sizeof(in_dtype[0]); ++i)
        if (!strcmp(name, in_dtype[i]) && dtype != GDN_DTYPE_FP32)
            return dtype == GDN_DTYPE_BF16 ? 0x1p-133 : 0x1p-24;
    return 0x1p-149;
}

gdn_status gdni_compare_standing(const gdni_shape *shape, const double *got, const double *want,
                                 gdn_dtype dtype, double factor, const char *against,
                                 gdn_check_report *report) {
    const double quantum = gdni_tensor_quantum(shape->name, dtype);
    const double scale = gdn_dtype_size(dtype) == 2 && is_gate_projection(shape->name)
                             ? 2e-2
                             : gdni_scale_tolerance(dtype);
    gdn_check_tensor t = {sizeof(t),
                          shape->name,
                          got,
                          want,
                          shape->ndim,
                          {shape->shape[0], shape->shape[1], shape->shape[2], shape->shape[3]},
                          shape->head_axis,
                          factor * gdn_check_default_tolerance(shape->name, dtype),
                          factor * scale,
                          NULL};
    const int64_t heads = shape->head_axis < 0 ? 1 : shape->shape[shape->head_axis];
    if (shape->head_axis >= 0 && heads > 0 && shape->count / heads < FEW_ELEMENTS &&
        dtype != GDN_DTYPE_FP64) {
        t.head_axis = -1;
        if (is_sum(shape->name) && dtype != GDN_DTYPE_FP32) {
            t.tolerance = factor * SUM_TOLERANCE;
            t.scale_tolerance = 0;
            return gdni_compare(&t, quantum, against, report);
        }
        GDN_TRY(gdni_compare(&t, quantum, against, report));
        t.head_axis = shape->head_axis;
        t.tolerance = t.scale_tolerance = factor * fmax(scale, WRONG_FACTOR);
    }
    return gdni_compare(&t, quantum, against, report);
}
