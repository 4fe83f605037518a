/*
 * gdn_gradcheck_operator: an operator's gradients against the float64 backward, and both against
 * central differences of the float64 recurrence.
 *
 * v-heads do not touch one another, so the loss L = <o, do> + <S, dht> is a sum over v-heads, and
 * one pair of forward passes along a direction that moves all heads gives the derivative of each
 * head's own part; a k-head's is the sum over its group.
 */
#include "check.h"
#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const FUNCTION = "gdn_gradcheck_operator";

enum {
    Q,
    K,
    V,
    G,
    BETA,
    H0,
    GRADIENTS, /* inputs with a gradient, in the order of gdn_gradcheck_gradients */
    DO = GRADIENTS,
    DHT,
    INPUTS
};

static const char *const input_names[INPUTS] = {"q",  "k",  "v", "g", "beta", "initial_state",
                                                "do", "dht"};
static const char *const gradient_names[GRADIENTS] = {"dq", "dk", "dv", "dg", "dbeta", "dh0"};

/* Everything that one check works on. */
typedef struct operator_check {
    gdn_context *reference;
    gdn_problem problem; /* as given, dense */
    gdn_problem exact;   /* the same in float64 */
    const int64_t *cu_seqlens;
    gdni_shape shapes[INPUTS];
    double *inputs[INPUTS]; /* rounded; never NULL */
    double *want[GRADIENTS], *computed[GRADIENTS];
    const double *got[GRADIENTS]; /* NULL: not checked */
    double factor;
    gdn_check_report *report;
} operator_check;

/* The inputs rounded to the types of the tested run; what is absent is zero, do is drawn. */
static gdn_status prepare_inputs(operator_check *c, const gdn_gradcheck_inputs *in,
                                 uint64_t *random) {
    const double *given[INPUTS] = {in->q,   in->k,  in->v, in->g, in->beta, in->initial_state,
                                   in->do_, in->dht};
    const gdn_dtype real = c->problem.dtype;
    const gdn_dtype state = gdni_state_dtype(real);
    for (int i = 0; i < INPUTS; ++i) {
        const gdni_shape *s = &c->shapes[i];
        GDNI_REQUIRE(given[i] || i >= H0 || s->count == 0, "%s: inputs->%s is NULL", FUNCTION,
                     input_names[i]);
        GDN_TRY(gdni_zeros(FUNCTION, &c->inputs[i], s->count));
        if (given[i])
            memcpy(c->inputs[i], given[i], (size_t)s->count * sizeof(double));
        else if (i == DO)
            for (int64_t j = 0; j < s->count; ++j)
                c->inputs[i][j] = gdni_normal(random);
        GDN_TRY(gdni_round(s, i <= V || i == DO ? real : state, c->inputs[i], c->inputs[i]));
    }
    return GDN_STATUS_OK;
}

static gdni_operator_values values_of(const operator_check *c, double *const inputs[INPUTS]) {
    const gdni_operator_values v = {.q = inputs[Q],
                                    .k = inputs[K],
                                    .v = inputs[V],
                                    .g = inputs[G],
                                    .beta = inputs[BETA],
                                    .initial_state = inputs[H0],
                                    .do_ = inputs[DO],
                                    .dht = inputs[DHT],
                                    .cu_seqlens = c->cu_seqlens};
    return v;
}

static gdn_status backward(const operator_check *c, const gdn_context *context,
                           const gdn_problem *problem, double *const gradients[GRADIENTS]) {
    gdni_operator_values v = values_of(c, c->inputs);
    v.dq = gradients[Q];
    v.dk = gradients[K];
    v.dv = gradients[V];
    v.dg = gradients[G];
    v.dbeta = gradients[BETA];
    v.dh0 = gradients[H0];
    return gdni_evaluate_operator(context, problem, &v);
}

/* Tokens past the last sequence get a gradient of exactly 0. */
static gdn_status compare_padding(operator_check *c, int i) {
    gdni_shape s = c->shapes[i];
    if (i == H0 || !c->cu_seqlens || c->cu_seqlens[c->problem.N] == s.shape[0])
        return GDN_STATUS_OK;
    const int64_t end = c->cu_seqlens[c->problem.N], offset = end * (s.count / s.shape[0]);
    const gdn_check_tensor t = {sizeof(t),
                                gradient_names[i],
                                c->got[i] + offset,
                                c->want[i] + offset,
                                s.ndim,
                                {s.shape[0] - end, s.shape[1], s.shape[2], s.shape[3]},
                                -1,
                                1,
                                0,
                                NULL};
    GDN_TRY(gdni_compare(&t, 0, "zero padding", c->report));
    gdn_check_row *row = &c->report->rows[c->report->count - 1];
    row->worst[0] += end;
    return GDN_STATUS_OK;
}

static gdn_status compare_all(operator_check *c) {
    for (int i = 0; i < GRADIENTS; ++i) {
        gdni_shape s = c->shapes[i];
        if (!c->got[i])
            continue;
        s.name = gradient_names[i];
        GDN_TRY(gdni_compare_standing(&s, c->got[i], c->want[i], c->problem.dtype, c->factor,
                                      "float64", c->report));
        GDN_TRY(compare_padding(c, i));
    }
    return GDN_STATUS_OK;
}

/* ---- Finite differences ------------------------------------------------------------------------
 * Every tensor here is [rows, heads, inner]. */

static int64_t inner_size(const gdni_shape *s) {
    return s->ndim == 2 ? 1 : s->ndim == 3 ? s->shape[2] : s->shape[2] * s->shape[3];
}

static double head_dot(const gdni_shape *s, int64_t head, const double *x, const double *y) {
    const int64_t heads = s->shape[1], inner = inner_size(s);
    double sum = 0;
    for (int64_t r = 0; r < s->shape[0]; ++r)
        for (int64_t i = (r * heads + head) * inner, end = i + inner; i < end; ++i)
            sum += x[i] * y[i];
    return sum;
}

/* A direction's size in one head: the root mean square of q, k, v and the state. beta is a number
 * of order 1 whatever its value, and so is the sum of g over all tokens. */
static double direction_size(const operator_check *c, int i, int64_t head) {
    const gdni_shape *s = &c->shapes[i];
    const double square = head_dot(s, head, c->inputs[i], c->inputs[i]);
    if (i == G)
        return 1 / sqrt((double)(s->shape[0] > 0 ? s->shape[0] : 1));
    if (i == BETA || !(square > 0))
        return 1;
    return sqrt(square * (double)s->shape[1] / (double)s->count);
}

/* L is affine in these inputs: a central difference is exact at any step. */
static int is_affine(const operator_check *c, int i) {
    return i == V || i == H0 || (i == Q && !(c->problem.flags & GDN_FLAG_L2NORM_QK));
}

/* Memory for the differences of one input. */
typedef struct difference_space {
    double *direction, *moved;
    double *o, *S;    /* of one evaluation */
    double *do_, *dS; /* their derivatives along the direction */
    gdni_difference *differences;
    gdn_check_row *rows; /* [heads][2] */
} difference_space;

/* Adds <dy, cotangent> of one head, and the squares of the terms y cotangent, which cancelled in
 * it. */
static void add_head(const gdni_shape *s, int64_t head, const double *y, const double *dy,
                     const double *cotangent, double *derivative, double *squares) {
    const int64_t heads = s->shape[1], inner = inner_size(s);
    for (int64_t r = 0; r < s->shape[0]; ++r)
        for (int64_t i = (r * heads + head) * inner, end = i + inner; i < end; ++i) {
            *derivative += dy[i] * cotangent[i];
            *squares += y[i] * y[i] * cotangent[i] * cotangent[i];
        }
}

static void accumulate(double *sum, double weight, const double *x, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
        sum[i] += weight * x[i];
}

/* The derivatives of all heads of input i along m->direction. */
static gdn_status differentiate(const operator_check *c, int i,
                                const gdn_gradcheck_options *options, const difference_space *m) {
    const int64_t o_count = c->shapes[DO].count, S_count = c->shapes[DHT].count;
    const int bent = i <= K && (c->problem.flags & GDN_FLAG_L2NORM_QK);
    const double step = options->step > 0 ? options->step
                        : is_affine(c, i) ? 1
                        : bent            ? 1e-5
                                          : 1e-4;
    double *inputs[INPUTS];
    int points;
    const gdni_point *stencil = gdni_stencil(is_affine(c, i), &points);
    memcpy(inputs, c->inputs, sizeof(inputs));
    inputs[i] = m->moved;
    memset(m->do_, 0, (size_t)o_count * sizeof(double));
    memset(m->dS, 0, (size_t)S_count * sizeof(double));
    for (int p = 0; p < points; ++p) {
        for (int64_t j = 0; j < c->shapes[i].count; ++j)
            m->moved[j] = c->inputs[i][j] + stencil[p].offset * step * m->direction[j];
        gdni_operator_values v = values_of(c, inputs);
        v.do_ = NULL;
        v.o = m->o;
        v.final_state = m->S;
        GDN_TRY(gdni_evaluate_operator(c->reference, &c->exact, &v));
        accumulate(m->do_, stencil[p].weight, m->o, o_count);
        accumulate(m->dS, stencil[p].weight, m->S, S_count);
    }
    const int64_t heads = c->shapes[i].shape[1], group = c->problem.Hv / heads;
    for (int64_t h = 0; h < heads; ++h) {
        double derivative = 0, squares = 0;
        for (int64_t hv = h * group; hv < (h + 1) * group; ++hv) {
            add_head(&c->shapes[DO], hv, m->o, m->do_, c->inputs[DO], &derivative, &squares);
            add_head(&c->shapes[DHT], hv, m->S, m->dS, c->inputs[DHT], &derivative, &squares);
        }
        m->differences[h].value = derivative / step;
        m->differences[h].noise = gdni_difference_noise(squares, step);
    }
    return GDN_STATUS_OK;
}

/* One row a head and gradient, with the largest error over the directions. */
static gdn_status difference_input(operator_check *c, int i, const gdn_gradcheck_options *options,
                                   uint64_t *random, const difference_space *m) {
    const gdni_shape *s = &c->shapes[i];
    const int64_t heads = s->shape[1], inner = inner_size(s);
    const double standing = gdn_check_default_tolerance(gradient_names[i], c->problem.dtype);
    for (int64_t h = 0; h < heads; ++h) {
        m->rows[2 * h] = gdni_difference_row(gradient_names[i], "float64 v. difference", h,
                                             gdni_difference_tolerance(0));
        m->rows[2 * h + 1] = gdni_difference_row(gradient_names[i], "finite difference", h,
                                                 gdni_difference_tolerance(c->factor * standing));
    }
    for (int d = 0; d < options->directions; ++d) {
        for (int64_t h = 0; h < heads; ++h) {
            const double size = direction_size(c, i, h);
            for (int64_t r = 0; r < s->shape[0]; ++r)
                for (int64_t j = (r * heads + h) * inner, end = j + inner; j < end; ++j)
                    m->direction[j] = size * gdni_normal(random);
        }
        GDN_TRY(differentiate(c, i, options, m));
        for (int64_t h = 0; h < heads; ++h) {
            const double size =
                direction_size(c, i, h) * sqrt(head_dot(s, h, c->want[i], c->want[i]));
            const double *gradients[2] = {c->want[i], c->got[i]};
            for (int which = 0; which < 2; ++which)
                if (gradients[which])
                    gdni_difference_error(&m->rows[2 * h + which],
                                          head_dot(s, h, gradients[which], m->direction),
                                          &m->differences[h], size);
        }
    }
    for (int which = 0; which < (c->got[i] ? 2 : 1); ++which)
        for (int64_t h = 0; h < heads; ++h) {
            gdn_check_row *row = &m->rows[2 * h + which];
            row->pass = row->error <= row->tolerance;
            GDN_TRY(gdni_report_add(c->report, row));
        }
    return GDN_STATUS_OK;
}

static gdn_status difference_all(operator_check *c, const gdn_gradcheck_options *options,
                                 uint64_t *random) {
    gdn_status status = GDN_STATUS_OK;
    difference_space m = {0};
    int64_t most = 0;
    for (int i = 0; i < GRADIENTS; ++i)
        most = c->shapes[i].count > most ? c->shapes[i].count : most;
    GDN_TRY_GOTO(gdni_zeros(FUNCTION, &m.direction, most), cleanup);
    GDN_TRY_GOTO(gdni_zeros(FUNCTION, &m.moved, most), cleanup);
    GDN_TRY_GOTO(gdni_zeros(FUNCTION, &m.o, c->shapes[DO].count), cleanup);
    GDN_TRY_GOTO(gdni_zeros(FUNCTION, &m.do_, c->shapes[DO].count), cleanup);
    GDN_TRY_GOTO(gdni_zeros(FUNCTION, &m.S, c->shapes[DHT].count), cleanup);
    GDN_TRY_GOTO(gdni_zeros(FUNCTION, &m.dS, c->shapes[DHT].count), cleanup);
    m.differences = calloc((size_t)c->problem.Hv, sizeof(*m.differences));
    m.rows = calloc(2 * (size_t)c->problem.Hv, sizeof(*m.rows));
    if (!m.differences || !m.rows) {
        status = gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "%s: no memory for the report", FUNCTION);
        goto cleanup;
    }
    for (int i = 0; i < GRADIENTS; ++i)
        GDN_TRY_GOTO(difference_input(c, i, options, random, &m), cleanup);
cleanup:
    free(m.rows);
    free(m.differences);
    free(m.dS);
    free(m.S);
    free(m.do_);
    free(m.o);
    free(m.moved);
    free(m.direction);
    return status;
}

/* ---- The check ---------------------------------------------------------------------------------
 */

/* Fills in the problems and shapes and asks the backends. */
static gdn_status prepare(operator_check *c, const gdn_context *context, const gdn_problem *problem,
                          int compute) {
    const gdn_problem init = GDN_PROBLEM_INIT;
    const gdn_context_config config = {
        .size = sizeof(config), .backend = GDN_BACKEND_REFERENCE, .threads = 1};
    const gdn_strides dense = {0, 0};
    GDNI_REQUIRE(problem != NULL, "%s: problem is NULL", FUNCTION);
    GDNI_REQUIRE(problem->size >= sizeof(size_t) && problem->size <= sizeof(*problem),
                 "%s: problem->size is %zu, expected at most %zu", FUNCTION, problem->size,
                 sizeof(*problem));
    c->problem = init;
    memcpy(&c->problem, problem, problem->size);
    c->problem.size = sizeof(c->problem);
    c->problem.q_strides = c->problem.k_strides = dense;
    c->problem.v_strides = c->problem.o_strides = dense;
    GDNI_REQUIRE(gdn_dtype_size(c->problem.dtype) > 0, "%s: dtype is %d, expected a gdn_dtype",
                 FUNCTION, (int)c->problem.dtype);
    c->exact = c->problem;
    c->exact.dtype = GDN_DTYPE_FP64;
    c->exact.decay_threshold = 0;
    c->exact.flags &= GDN_FLAG_L2NORM_QK;
    GDN_TRY(gdn_context_create(&c->reference, &config));
    GDN_TRY(gdn_problem_supported(c->reference, &c->exact));
    if (compute) {
        GDNI_REQUIRE(context != NULL, "%s: context is NULL, and no gradients are given", FUNCTION);
        GDN_TRY(gdn_problem_supported(context, &c->problem));
    }
    for (int i = 0; i < INPUTS; ++i)
        c->shapes[i] = gdni_operator_shape(&c->problem, input_names[i]);
    return GDN_STATUS_OK;
}

static gdn_status check(operator_check *c, const gdn_context *context,
                        const gdn_gradcheck_inputs *inputs, const gdn_gradcheck_gradients *given,
                        const gdn_gradcheck_options *options) {
    uint64_t random = options->seed;
    GDN_TRY(prepare_inputs(c, inputs, &random));
    for (int i = 0; i < GRADIENTS; ++i)
        GDN_TRY(gdni_zeros(FUNCTION, &c->want[i], c->shapes[i].count));
    /* The one run whose inputs are looked at: differences may move g above 0. */
    gdn_problem checked = c->exact;
    checked.flags |= GDN_FLAG_CHECKED;
    GDN_TRY(backward(c, c->reference, &checked, c->want));
    if (given) {
        const double *const got[GRADIENTS] = {given->dq, given->dk,    given->dv,
                                              given->dg, given->dbeta, given->dh0};
        memcpy(c->got, got, sizeof(c->got));
    } else {
        for (int i = 0; i < GRADIENTS; ++i) {
            GDN_TRY(gdni_zeros(FUNCTION, &c->computed[i], c->shapes[i].count));
            c->got[i] = c->computed[i];
        }
        GDN_TRY(backward(c, context, &c->problem, c->computed));
    }
    GDN_TRY(compare_all(c));
    return options->directions ? difference_all(c, options, &random) : GDN_STATUS_OK;
}

gdn_status gdn_gradcheck_operator(const gdn_context *context, const gdn_problem *problem,
                                  const gdn_gradcheck_inputs *inputs,
                                  const gdn_gradcheck_gradients *given,
                                  const gdn_gradcheck_options *options, gdn_check_report *report) {
    gdn_gradcheck_options o;
    operator_check c = {.report = report};
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
    gdn_status status = prepare(&c, context, problem, given == NULL);
    if (status == GDN_STATUS_OK)
        status = check(&c, context, inputs, given, &o);
    for (int i = 0; i < INPUTS; ++i)
        free(c.inputs[i]);
    for (int i = 0; i < GRADIENTS; ++i) {
        free(c.want[i]);
        free(c.computed[i]);
    }
    gdn_context_destroy(c.reference);
    return status;
}
