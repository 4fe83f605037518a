/*
 * gdn_gradcheck_layer: a layer's gradients against the float64 layer, and both against central
 * differences of it. out_proj mixes the heads, so the loss <out, dout> has no parts by head: a
 * difference tests a whole tensor, the comparison with float64 every head.
 */
#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const FUNCTION = "gdn_gradcheck_layer";

enum {
    X = GDNI_LAYER_WEIGHTS, /* tensor i < X is weight i */
    TENSORS
};

typedef struct layer_check {
    gdn_context *reference;
    gdn_layer layer, exact; /* as given; in float64 */
    const int64_t *cu_seqlens;
    gdni_shape shapes[TENSORS];
    double *inputs[TENSORS], *dout; /* rounded */
    double *want[TENSORS], *computed[TENSORS];
    const double *got[TENSORS]; /* NULL: not checked */
    double *sum_sizes[2]; /* [Hv] |dg| |dg_t/dx| of x = A_log, dt_bias (backward_with_sizes) */
    double factor;
    gdn_check_report *report;
} layer_check;

/* A finite copy rounded to dtype. */
static gdn_status copy_input(const gdni_shape *s, gdn_dtype dtype, const double *from,
                             double **to) {
    GDNI_REQUIRE(from || s->count == 0, "%s: inputs->%s is NULL", FUNCTION, s->name);
    GDN_TRY(gdni_zeros(FUNCTION, to, s->count));
    for (int64_t i = 0; i < s->count; ++i)
        if (!isfinite(from[i])) {
            char place[96];
            gdni_format_place(s, i, place);
            return gdni_fail(GDN_STATUS_BAD_DATA, "%s: %s at %s is %g, expected a finite number",
                             FUNCTION, s->name, place, from[i]);
        }
    return from ? gdni_round(s, dtype, from, *to) : GDN_STATUS_OK;
}

static gdn_status prepare_inputs(layer_check *c, const gdn_gradcheck_layer_inputs *in,
                                 uint64_t *random) {
    const gdn_dtype real = c->layer.dtype;
    const gdni_shape dout = gdni_layer_activation_shape(&c->layer, "dout");
    GDNI_REQUIRE(in->weights != NULL, "%s: inputs->weights is NULL", FUNCTION);
    GDNI_REQUIRE(in->weights->size == sizeof(*in->weights),
                 "%s: inputs->weights->size is %zu, expected %zu", FUNCTION, in->weights->size,
                 sizeof(*in->weights));
    for (int i = 0; i < X; ++i)
        GDN_TRY(copy_input(&c->shapes[i], gdni_layer_weight_dtype(real, i),
                           *gdni_layer_weight(in->weights, i), &c->inputs[i]));
    GDN_TRY(copy_input(&c->shapes[X], real, in->x, &c->inputs[X]));
    if (in->dout)
        return copy_input(&dout, real, in->dout, &c->dout);
    GDN_TRY(gdni_zeros(FUNCTION, &c->dout, dout.count));
    for (int64_t i = 0; i < dout.count; ++i)
        c->dout[i] = gdni_normal(random);
    return gdni_round(&dout, real, c->dout, c->dout);
}

static gdn_layer_weights weights_of(double *const tensors[TENSORS]) {
    gdn_layer_weights w = GDN_LAYER_WEIGHTS_INIT;
    for (int i = 0; i < X; ++i)
        *gdni_layer_weight(&w, i) = tensors[i];
    return w;
}

static gdn_status forward(const layer_check *c, double *const inputs[TENSORS], double *out) {
    const gdn_layer_weights weights = weights_of(inputs);
    const gdni_layer_values v = {
        .x = inputs[X], .cu_seqlens = c->cu_seqlens, .weights = &weights, .out = out};
    return gdni_evaluate_layer(c->reference, &c->exact, &v);
}

static gdn_status backward(const layer_check *c, const gdn_context *context, const gdn_layer *layer,
                           const gdn_layer_hooks *hooks, double *const gradients[TENSORS]) {
    const gdn_layer_weights weights = weights_of(c->inputs), dweights = weights_of(gradients);
    const gdni_layer_values v = {.x = c->inputs[X],
                                 .dout = c->dout,
                                 .cu_seqlens = c->cu_seqlens,
                                 .weights = &weights,
                                 .dx = gradients[X],
                                 .dweights = &dweights,
                                 .hooks = hooks};
    return gdni_evaluate_layer(context, layer, &v);
}

/* The operator's backward in float64, and what its dg adds up to. */
static gdn_status backward_with_sizes(void *user, const gdn_problem *problem,
                                      const gdn_tensors *tensors, gdn_stream stream) {
    const layer_check *c = user;
    GDN_TRY(gdn_backward(c->reference, problem, tensors, stream));
    gdni_gate_sum_sizes(problem, tensors, c->inputs[GDNI_LAYER_A_LOG], c->sum_sizes[0],
                        c->sum_sizes[1]);
    return GDN_STATUS_OK;
}

/* A_log or dt_bias in 16 bits (tolerance.c). */
static gdn_status compare_sums(const layer_check *c, int i) {
    const gdn_check_tensor t = {.size = sizeof(t),
                                .name = c->shapes[i].name,
                                .got = c->got[i],
                                .want = c->want[i],
                                .ndim = 1,
                                .shape = {c->layer.Hv},
                                .tolerance =
                                    c->factor * gdn_check_default_tolerance("dg", c->layer.dtype),
                                .least = c->sum_sizes[i - GDNI_LAYER_A_LOG]};
    return gdni_compare(&t, 0, "float64", c->report);
}

static gdn_status compare_all(layer_check *c) {
    const int narrow = gdn_dtype_size(c->layer.dtype) == 2;
    gdni_shape dx = c->shapes[X];
    dx.name = "dx";
    if (c->got[X])
        GDN_TRY(gdni_compare_standing(&dx, c->got[X], c->want[X], c->layer.dtype, c->factor,
                                      "float64", c->report));
    for (int i = 0; i < X; ++i)
        if (c->got[i] && narrow && (i == GDNI_LAYER_A_LOG || i == GDNI_LAYER_DT_BIAS))
            GDN_TRY(compare_sums(c, i));
        else if (c->got[i])
            GDN_TRY(gdni_compare_layer_weight(&c->layer, i, c->got[i], c->want[i], c->factor,
                                              "float64", c->report));
    return GDN_STATUS_OK;
}

static double dot(const double *x, const double *y, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i)
        sum += x[i] * y[i];
    return sum;
}

/* Root mean square; A_log and dt_bias are numbers of order 1 whatever their values. */
static double direction_size(const layer_check *c, int i) {
    const double square = dot(c->inputs[i], c->inputs[i], c->shapes[i].count);
    if (i == GDNI_LAYER_A_LOG || i == GDNI_LAYER_DT_BIAS || !(square > 0))
        return 1;
    return sqrt(square / (double)c->shapes[i].count);
}

/* Memory for the differences of one tensor. */
typedef struct difference_space {
    double *direction, *moved;
    double *out, *derivative; /* of one evaluation; along the direction */
} difference_space;

static gdn_status differentiate(const layer_check *c, int i, const gdn_gradcheck_options *options,
                                const difference_space *m, gdni_difference *difference) {
    const int64_t count = c->shapes[X].count;
    const int affine = i == GDNI_LAYER_NORM || i == GDNI_LAYER_OUT_PROJ;
    const double step = options->step > 0 ? options->step : affine ? 1 : 1e-5;
    double *inputs[TENSORS], sum = 0, squares = 0;
    int points;
    const gdni_point *stencil = gdni_stencil(affine, &points);
    memcpy(inputs, c->inputs, sizeof(inputs));
    inputs[i] = m->moved;
    memset(m->derivative, 0, (size_t)count * sizeof(double));
    for (int p = 0; p < points; ++p) {
        for (int64_t j = 0; j < c->shapes[i].count; ++j)
            m->moved[j] = c->inputs[i][j] + stencil[p].offset * step * m->direction[j];
        GDN_TRY(forward(c, inputs, m->out));
        for (int64_t j = 0; j < count; ++j)
            m->derivative[j] += stencil[p].weight * m->out[j];
    }
    for (int64_t j = 0; j < count; ++j) {
        sum += m->derivative[j] * c->dout[j];
        squares += m->out[j] * m->out[j] * c->dout[j] * c->dout[j];
    }
    difference->value = sum / step;
    difference->noise = gdni_difference_noise(squares, step);
    return GDN_STATUS_OK;
}

static gdn_status difference_tensor(layer_check *c, int i, const gdn_gradcheck_options *options,
                                    uint64_t *random, const difference_space *m) {
    const char *name = i == X ? "dx" : c->shapes[i].name;
    const int64_t count = c->shapes[i].count;
    const double standing = gdn_check_default_tolerance(name, c->layer.dtype);
    const double unit = direction_size(c, i);
    const double size = unit * sqrt(dot(c->want[i], c->want[i], count));
    const double *gradients[2] = {c->want[i], c->got[i]};
    gdn_check_row rows[2] = {
        gdni_difference_row(name, "float64 v. difference", -1, gdni_difference_tolerance(0)),
        gdni_difference_row(name, "finite difference", -1,
                            gdni_difference_tolerance(c->factor * standing))};
    for (int d = 0; d < options->directions; ++d) {
        gdni_difference difference;
        for (int64_t j = 0; j < count; ++j)
            m->direction[j] = unit * gdni_normal(random);
        GDN_TRY(differentiate(c, i, options, m, &difference));
        for (int which = 0; which < 2; ++which)
            if (gradients[which])
                gdni_difference_error(&rows[which], dot(gradients[which], m->direction, count),
                                      &difference, size);
    }
    for (int which = 0; which < 2; ++which)
        if (gradients[which]) {
            rows[which].pass = rows[which].error <= rows[which].tolerance;
            GDN_TRY(gdni_report_add(c->report, &rows[which]));
        }
    return GDN_STATUS_OK;
}

static gdn_status difference_all(layer_check *c, const gdn_gradcheck_options *options,
                                 uint64_t *random) {
    gdn_status status = GDN_STATUS_OK;
    difference_space m = {0};
    int64_t most = 0;
    for (int i = 0; i < TENSORS; ++i)
        most = c->shapes[i].count > most ? c->shapes[i].count : most;
    GDN_TRY_GOTO(gdni_zeros(FUNCTION, &m.direction, most), cleanup);
    GDN_TRY_GOTO(gdni_zeros(FUNCTION, &m.moved, most), cleanup);
    GDN_TRY_GOTO(gdni_zeros(FUNCTION, &m.out, c->shapes[X].count), cleanup);
    GDN_TRY_GOTO(gdni_zeros(FUNCTION, &m.derivative, c->shapes[X].count), cleanup);
    GDN_TRY_GOTO(difference_tensor(c, X, options, random, &m), cleanup);
    for (int i = 0; i < X; ++i)
        GDN_TRY_GOTO(difference_tensor(c, i, options, random, &m), cleanup);
cleanup:
    free(m.derivative);
    free(m.out);
    free(m.moved);
    free(m.direction);
    return status;
}

static gdn_status prepare(layer_check *c, const gdn_context *context, const gdn_layer *layer,
                          int compute) {
    const gdn_layer init = GDN_LAYER_INIT;
    const gdn_context_config config = {
        .size = sizeof(config), .backend = GDN_BACKEND_REFERENCE, .threads = 1};
    GDNI_REQUIRE(layer != NULL, "%s: layer is NULL", FUNCTION);
    GDNI_REQUIRE(layer->size >= sizeof(size_t) && layer->size <= sizeof(*layer),
                 "%s: layer->size is %zu, expected at most %zu", FUNCTION, layer->size,
                 sizeof(*layer));
    c->layer = init;
    memcpy(&c->layer, layer, layer->size);
    c->layer.size = sizeof(c->layer);
    /* The gradients compared are those of one call. */
    c->layer.flags &= ~(uint32_t)GDN_LAYER_ACCUMULATE;
    GDNI_REQUIRE(gdn_dtype_size(c->layer.dtype) > 0, "%s: dtype is %d, expected a gdn_dtype",
                 FUNCTION, (int)c->layer.dtype);
    c->exact = c->layer;
    c->exact.dtype = GDN_DTYPE_FP64;
    c->exact.decay_threshold = 0;
    c->exact.flags = 0;
    GDN_TRY(gdn_context_create(&c->reference, &config));
    GDN_TRY(gdn_layer_supported(c->reference, &c->exact));
    if (compute) {
        GDNI_REQUIRE(context != NULL, "%s: context is NULL, and no gradients are given", FUNCTION);
        GDN_TRY(gdn_layer_supported(context, &c->layer));
    }
    for (int i = 0; i < X; ++i)
        c->shapes[i] = gdni_layer_weight_shape(&c->layer, i);
    c->shapes[X] = gdni_layer_activation_shape(&c->layer, "x");
    return GDN_STATUS_OK;
}

static gdn_status check(layer_check *c, const gdn_context *context,
                        const gdn_gradcheck_layer_inputs *inputs,
                        const gdn_gradcheck_layer_gradients *given,
                        const gdn_gradcheck_options *options) {
    uint64_t random = options->seed;
    gdn_layer_hooks looking = GDN_LAYER_HOOKS_INIT;
    looking.user = c;
    looking.backward = backward_with_sizes;
    GDN_TRY(prepare_inputs(c, inputs, &random));
    for (int i = 0; i < TENSORS; ++i)
        GDN_TRY(gdni_zeros(FUNCTION, &c->want[i], c->shapes[i].count));
    for (int i = 0; i < 2; ++i)
        GDN_TRY(gdni_zeros(FUNCTION, &c->sum_sizes[i], c->layer.Hv));
    GDN_TRY(backward(c, c->reference, &c->exact, &looking, c->want));
    if (given) {
        c->got[X] = given->dx;
        for (int i = 0; given->dweights && i < X; ++i)
            c->got[i] = *gdni_layer_weight(given->dweights, i);
    } else {
        for (int i = 0; i < TENSORS; ++i) {
            GDN_TRY(gdni_zeros(FUNCTION, &c->computed[i], c->shapes[i].count));
            c->got[i] = c->computed[i];
        }
        GDN_TRY(backward(c, context, &c->layer, NULL, c->computed));
    }
    GDN_TRY(compare_all(c));
    return options->directions ? difference_all(c, options, &random) : GDN_STATUS_OK;
}

gdn_status gdn_gradcheck_layer(const gdn_context *context, const gdn_layer *layer,
                               const gdn_gradcheck_layer_inputs *inputs,
                               const gdn_gradcheck_layer_gradients *given,
                               const gdn_gradcheck_options *options, gdn_check_report *report) {
    gdn_gradcheck_options o;
    layer_check c = {.report = report};
    gdni_clear_error();
    GDN_TRY(gdni_report_check(FUNCTION, report));
    GDN_TRY(gdni_gradcheck_options(FUNCTION, options, &o));
    GDNI_REQUIRE(inputs != NULL, "%s: inputs is NULL", FUNCTION);
    GDNI_REQUIRE(inputs->size == sizeof(*inputs), "%s: inputs->size is %zu, expected %zu", FUNCTION,
                 inputs->size, sizeof(*inputs));
    GDNI_REQUIRE(!given || given->size == sizeof(*given), "%s: given->size is %zu, expected %zu",
                 FUNCTION, given ? given->size : 0, sizeof(*given));
    c.factor = o.tolerance_factor;
    c.cu_seqlens = inputs->cu_seqlens;
    gdn_status status = prepare(&c, context, layer, given == NULL);
    if (status == GDN_STATUS_OK)
        status = check(&c, context, inputs, given, &o);
    free(c.dout);
    free(c.sum_sizes[0]);
    free(c.sum_sizes[1]);
    for (int i = 0; i < TENSORS; ++i) {
        free(c.inputs[i]);
        free(c.want[i]);
        free(c.computed[i]);
    }
    gdn_context_destroy(c.reference);
    return status;
}
