/*
 * The operator's gradient check: it passes what the backends compute, in every dtype, and it finds
 * an error planted in any single head of any gradient.
 */
#include "gdn_check.h"

#include "harness.h"

/* Names as in gdn.h. */
typedef struct sample {
    gdn_problem problem;
    int64_t cu_seqlens[4];
    double *q, *k, *v, *g, *beta, *h0, *do_, *dht;
    double *gradients[6]; /* dq dk dv dg dbeta dh0 of the reference backend */
    int64_t counts[6];
} sample;

static const char *const names[6] = {"dq", "dk", "dv", "dg", "dbeta", "dh0"};

static double *normal(harness_random *r, int64_t count, double scale) {
    double *x = malloc((size_t)count * sizeof(*x));
    for (int64_t i = 0; i < count; ++i)
        x[i] = scale * harness_normal(r);
    return x;
}

static gdn_gradcheck_inputs inputs_of(const sample *s) {
    const gdn_gradcheck_inputs in = {sizeof(in), s->q,          s->k,  s->v,   s->g,
                                     s->beta,    s->cu_seqlens, s->h0, s->do_, s->dht};
    return in;
}

static gdn_context *context(gdn_backend backend) {
    gdn_context *c = NULL;
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    config.backend = backend;
    config.threads = 1;
    CHECK(gdn_context_create(&c, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    return c;
}

static void round_to(gdn_dtype dtype, double *x, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        double rounded[1];
        CHECK(gdn_convert(dtype, rounded, GDN_DTYPE_FP64, &x[i], 1) == GDN_STATUS_OK &&
                  gdn_convert(GDN_DTYPE_FP64, &x[i], dtype, rounded, 1) == GDN_STATUS_OK,
              "%s", gdn_last_error());
    }
}

/* The float64 gradient, and then rounded as a run in dtype would leave it. */
static void solve(sample *s, gdn_dtype dtype) {
    gdn_context *reference = context(GDN_BACKEND_REFERENCE);
    gdn_problem p = s->problem;
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_tensors t = GDN_TENSORS_INIT;
    p.dtype = GDN_DTYPE_FP64;
    CHECK(gdn_problem_sizes(reference, &p, &sizes) == GDN_STATUS_OK, "%s", gdn_last_error());
    t.workspace_size = sizes.backward_workspace;
    t.workspace = aligned_alloc(256, (t.workspace_size + 256) / 256 * 256);
    t.q = s->q, t.k = s->k, t.v = s->v, t.g = s->g, t.beta = s->beta;
    t.cu_seqlens = s->cu_seqlens, t.initial_state = s->h0, t.do_ = s->do_, t.dht = s->dht;
    t.dq = s->gradients[0], t.dk = s->gradients[1], t.dv = s->gradients[2];
    t.dg = s->gradients[3], t.dbeta = s->gradients[4], t.dh0 = s->gradients[5];
    CHECK(gdn_backward(reference, &p, &t, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    for (int i = 0; i < 6; ++i)
        round_to(dtype == GDN_DTYPE_FP64 ? dtype
                 : i < 3                 ? dtype
                                         : GDN_DTYPE_FP32,
                 s->gradients[i], s->counts[i]);
    free(t.workspace);
    gdn_context_destroy(reference);
}

/* Three sequences, one of them empty, and two tokens of padding; heads from weak to strong gates.
 */
static sample make(gdn_dtype dtype) {
    sample s = {.cu_seqlens = {0, 13, 13, 30}};
    const gdn_problem init = GDN_PROBLEM_INIT;
    harness_random r = {7};
    s.problem = init;
    s.problem.dtype = dtype;
    s.problem.T = 32, s.problem.N = 3, s.problem.Hk = 2, s.problem.Hv = 4;
    s.problem.K = 8, s.problem.V = 6;
    const int64_t T = 32, keys = T * 2 * 8, values = T * 4 * 6, gates = T * 4, states = 3 * 4 * 48;
    const gdn_dtype state = dtype == GDN_DTYPE_FP64 ? dtype : GDN_DTYPE_FP32;
    s.q = normal(&r, keys, 0.35), s.k = normal(&r, keys, 0.35), s.v = normal(&r, values, 1);
    s.do_ = normal(&r, values, 1), s.h0 = normal(&r, states, 1), s.dht = normal(&r, states, 0.3);
    s.g = normal(&r, gates, 1), s.beta = normal(&r, gates, 1);
    for (int64_t i = 0; i < gates; ++i) {
        static const double A[4] = {0.001, 0.1, 1, 8};
        s.g[i] = -A[i % 4] * log1p(exp(s.g[i]));
        s.beta[i] = 1 / (1 + exp(-s.beta[i]));
    }
    round_to(dtype, s.q, keys), round_to(dtype, s.k, keys), round_to(dtype, s.v, values);
    round_to(dtype, s.do_, values), round_to(state, s.g, gates), round_to(state, s.beta, gates);
    round_to(state, s.h0, states), round_to(state, s.dht, states);
    const int64_t counts[6] = {keys, keys, values, gates, gates, states};
    for (int i = 0; i < 6; ++i) {
        s.counts[i] = counts[i];
        s.gradients[i] = malloc((size_t)counts[i] * sizeof(double));
    }
    solve(&s, dtype);
    return s;
}

static void release(sample *s) {
    double *all[] = {s->q, s->k, s->v, s->g, s->beta, s->h0, s->do_, s->dht};
    for (int i = 0; i < 8; ++i)
        free(all[i]);
    for (int i = 0; i < 6; ++i)
        free(s->gradients[i]);
}

static gdn_check_report check_given(const sample *s, int32_t directions) {
    const gdn_gradcheck_inputs in = inputs_of(s);
    const gdn_gradcheck_gradients given = {sizeof(given),   s->gradients[0], s->gradients[1],
                                           s->gradients[2], s->gradients[3], s->gradients[4],
                                           s->gradients[5]};
    gdn_gradcheck_options options = GDN_GRADCHECK_OPTIONS_INIT;
    gdn_check_report report = GDN_CHECK_REPORT_INIT;
    options.directions = directions;
    CHECK(gdn_gradcheck_operator(NULL, &s->problem, &in, &given, &options, &report) ==
              GDN_STATUS_OK,
          "%s", gdn_last_error());
    return report;
}

/* The gradients pass with a difference, and `which` has failing rows in head `head` alone (-1: in
 * any). */
static void expect_failure(const sample *s, int which, int64_t head, const char *what) {
    gdn_check_report report = check_given(s, 0);
    int found = 0, elsewhere = 0;
    for (size_t i = 0; i < report.count; ++i) {
        const gdn_check_row *row = &report.rows[i];
        if (row->pass)
            continue;
        if (!strcmp(row->name, names[which]) && (head < 0 || row->head == head || row->head < 0))
            ++found;
        else
            ++elsewhere;
    }
    CHECK(!report.pass && found && !elsewhere, "%s in %s of head %d in %s: %d found, %d elsewhere",
          what, names[which], (int)head, gdn_dtype_name(s->problem.dtype), found, elsewhere);
    gdn_check_report_free(&report);
}

static int64_t heads_of(const sample *s, int which) {
    return which < 2 ? s->problem.Hk : s->problem.Hv;
}

static int64_t inner_of(const sample *s, int which) {
    const int64_t inner[6] = {8, 8, 6, 1, 1, 48};
    (void)s;
    return inner[which];
}

static void test_planted(gdn_dtype dtype) {
    sample s = make(dtype);
    gdn_check_report clean = check_given(&s, 2);
    for (size_t i = 0; i < clean.count; ++i)
        CHECK(clean.rows[i].pass, "clean %s against %s, head %d: error %g, tolerance %g, scale %g",
              clean.rows[i].name, clean.rows[i].against, clean.rows[i].head, clean.rows[i].error,
              clean.rows[i].tolerance, clean.rows[i].scale_error);
    /* float64 by head; padding; two differences by head; padding does not concern dh0. */
    CHECK(clean.count == 3 * 20 + 5, "%zu rows", clean.count);
    gdn_check_report_free(&clean);

    for (int which = 0; which < 6; ++which) {
        const int64_t heads = heads_of(&s, which), inner = inner_of(&s, which);
        const int64_t rows = s.counts[which] / heads / inner;
        double *const gradient = s.gradients[which];
        double *const saved = malloc((size_t)s.counts[which] * sizeof(double));
        memcpy(saved, gradient, (size_t)s.counts[which] * sizeof(double));
#define EACH(expression)                                                                           \
    for (int64_t t = 0; t < rows; ++t)                                                             \
        for (int64_t i = 0; i < inner; ++i) {                                                      \
            const int64_t at = (t * heads + h) * inner + i;                                        \
            gradient[at] = (expression);                                                           \
        }
        for (int64_t h = 0; h < heads; ++h) {
            EACH(saved[at] * 1.01);
            expect_failure(&s, which, h, "a factor of 1.01");
            EACH(saved[at] * 0.99);
            expect_failure(&s, which, h, "a factor of 0.99");
            EACH(0);
            expect_failure(&s, which, h, "zeros");
            EACH(saved[at]);
            gradient[h * inner] = NAN;
            expect_failure(&s, which, h, "a NaN");
            gradient[h * inner] = saved[h * inner];
        }
        if (which < 5) {
            const int64_t h = heads - 1, padding = (31 * heads + h) * inner;
            gradient[padding] = 1e-30;
            expect_failure(&s, which, -1, "a padding token that is not 0");
            gradient[padding] = saved[padding];
            /* Moved on by one token, as a wrong offset would. */
            EACH(saved[((t + 1) % rows * heads + h) * inner + i]);
            expect_failure(&s, which, -1, "a shift by a token");
        }
        if (which == 5) {
            /* V x K instead of K x V. */
            const int64_t h = 1;
            EACH(saved[(t * heads + h) * inner + i % 6 * 8 + i / 6]);
            expect_failure(&s, which, h, "a transposed state");
        }
        memcpy(gradient, saved, (size_t)s.counts[which] * sizeof(double));
        free(saved);
#undef EACH
    }
    release(&s);
}

/* The noise that bf16 operands leave, 4e-3 an element, passes; with a factor of 1.01 it does not.
 */
static void test_noise(void) {
    sample s = make(GDN_DTYPE_BF16);
    harness_random r = {5};
    for (int which = 0; which < 6; ++which)
        for (int64_t i = 0; i < s.counts[which]; ++i)
            s.gradients[which][i] *= 1 + 4e-3 * harness_normal(&r);
    gdn_check_report report = check_given(&s, 2);
    for (size_t i = 0; i < report.count; ++i)
        CHECK(report.rows[i].pass, "%s against %s, head %d: error %g, scale %g",
              report.rows[i].name, report.rows[i].against, report.rows[i].head,
              report.rows[i].error, report.rows[i].scale_error);
    gdn_check_report_free(&report);
    for (int which = 0; which < 6; ++which)
        for (int64_t h = 0, heads = heads_of(&s, which); h < heads; ++h) {
            const int64_t inner = inner_of(&s, which);
            for (int plant = 0; plant < 2; ++plant) {
                for (int64_t i = 0; i < s.counts[which]; ++i)
                    if (i / inner % heads == h)
                        s.gradients[which][i] *= plant ? 1 / 1.01 : 1.01;
                if (!plant)
                    expect_failure(&s, which, h, "a factor of 1.01 in noise");
            }
        }
    release(&s);
}

/* A wrong gradient also disagrees with the differences. */
static void test_differences_find(void) {
    sample s = make(GDN_DTYPE_FP32);
    for (int64_t i = 0; i < s.counts[3]; ++i)
        s.gradients[3][i] *= 1.01;
    gdn_check_report report = check_given(&s, 2);
    int failed = 0, exact = 0;
    for (size_t i = 0; i < report.count; ++i) {
        const gdn_check_row *row = &report.rows[i];
        failed +=
            !strcmp(row->name, "dg") && !strcmp(row->against, "finite difference") && !row->pass;
        if (!strcmp(row->against, "float64 v. difference")) {
            CHECK(row->pass, "%s head %d: %g", row->name, row->head, row->error);
            ++exact;
        }
    }
    CHECK(failed == 4 && exact == 20, "%d of 4 heads, %d rows of the reference", failed, exact);
    gdn_check_report_free(&report);
    release(&s);
}

/* A head whose gate leaves dg and dh0 of 1e-11: differences cannot resolve dg there, pass, and say
 * so by the row's tolerance. L is affine in the state, and its difference still resolves
 * dh0. */
static void test_saturated(void) {
    sample s = make(GDN_DTYPE_FP32);
    for (int64_t i = 3; i < s.counts[3]; i += 4)
        s.g[i] = -25;
    s.cu_seqlens[2] = 14; /* the gradient of an empty sequence's state is dht */
    solve(&s, GDN_DTYPE_FP32);
    gdn_check_report report = check_given(&s, 2);
    double dg = 0, dh0 = INFINITY;
    for (size_t i = 0; i < report.count; ++i) {
        const gdn_check_row *row = &report.rows[i];
        CHECK(row->pass, "%s against %s, head %d: error %g of %g", row->name, row->against,
              row->head, row->error, row->tolerance);
        if (row->head != 3 || strcmp(row->against, "float64 v. difference"))
            continue;
        if (!strcmp(row->name, "dg"))
            dg = row->tolerance;
        if (!strcmp(row->name, "dh0"))
            dh0 = row->tolerance;
    }
    CHECK(dg > 1e-2, "dg of a saturated head is held to %g", dg);
    CHECK(dh0 < 1e-2, "dh0 of a saturated head is held to %g", dh0);
    gdn_check_report_free(&report);
    release(&s);
}

/* What the backends compute passes. */
static void test_backends(void) {
    static const struct {
        gdn_backend backend;
        gdn_dtype dtype;
        uint32_t flags;
    } runs[] = {{GDN_BACKEND_REFERENCE, GDN_DTYPE_FP64, 0},
                {GDN_BACKEND_CPU, GDN_DTYPE_FP32, 0},
                {GDN_BACKEND_CPU, GDN_DTYPE_FP32, GDN_FLAG_SAVE_STATES | GDN_FLAG_SAVE_INVERSE},
                {GDN_BACKEND_CPU, GDN_DTYPE_FP32, GDN_FLAG_L2NORM_QK},
                {GDN_BACKEND_CPU, GDN_DTYPE_BF16, 0},
                {GDN_BACKEND_CPU, GDN_DTYPE_FP16, 0}};
    for (size_t r = 0; r < sizeof(runs) / sizeof(runs[0]); ++r)
        for (int variant = 0; variant < 2; ++variant) {
            sample s = make(runs[r].dtype);
            gdn_context *c = context(runs[r].backend);
            gdn_gradcheck_inputs in = inputs_of(&s);
            gdn_check_report report = GDN_CHECK_REPORT_INIT;
            s.problem.flags = runs[r].flags;
            if (variant) { /* do drawn from the seed, no states, equal lengths */
                in.do_ = in.dht = in.initial_state = NULL;
                in.cu_seqlens = NULL;
                s.problem.N = 2;
            }
            CHECK(gdn_gradcheck_operator(c, &s.problem, &in, NULL, NULL, &report) == GDN_STATUS_OK,
                  "%s", gdn_last_error());
            CHECK(report.count >= 60, "%zu rows", report.count);
            for (size_t i = 0; i < report.count; ++i)
                CHECK(report.rows[i].pass, "%s %s %s against %s, head %d: %g of %g, scale %g",
                      gdn_backend_name(runs[r].backend), gdn_dtype_name(runs[r].dtype),
                      report.rows[i].name, report.rows[i].against, report.rows[i].head,
                      report.rows[i].error, report.rows[i].tolerance, report.rows[i].scale_error);
            gdn_check_report_free(&report);
            gdn_context_destroy(c);
            release(&s);
        }
}

/* fp16 gradients at the bottom of its range keep the check's meaning: rounding passes, 2x fails. */
static void test_subnormal(void) {
    sample s = make(GDN_DTYPE_FP16);
    for (int64_t i = 0; i < s.counts[2]; ++i)
        s.do_[i] *= 0x1p-18;
    for (int64_t i = 0; i < s.counts[5]; ++i)
        s.dht[i] *= 0x1p-18;
    round_to(GDN_DTYPE_FP16, s.do_, s.counts[2]);
    solve(&s, GDN_DTYPE_FP16);
    gdn_check_report report = check_given(&s, 0);
    CHECK(report.pass, "rounding to subnormals fails");
    gdn_check_report_free(&report);
    for (int64_t i = 0; i < s.counts[2]; ++i)
        s.gradients[2][i] *= 2;
    report = check_given(&s, 0);
    CHECK(!report.pass, "twice the gradient passes");
    gdn_check_report_free(&report);
    release(&s);
}

static void test_arguments(void) {
    sample s = make(GDN_DTYPE_FP32);
    gdn_context *cpu = context(GDN_BACKEND_CPU);
    gdn_check_report report = GDN_CHECK_REPORT_INIT;
    gdn_gradcheck_inputs in;
    gdn_gradcheck_options options;
    gdn_problem p;
#define REFUSED(expected, change, word)                                                            \
    do {                                                                                           \
        const gdn_gradcheck_options init = GDN_GRADCHECK_OPTIONS_INIT;                             \
        in = inputs_of(&s), options = init, p = s.problem;                                         \
        change;                                                                                    \
        CHECK(gdn_gradcheck_operator(cpu, &p, &in, NULL, &options, &report) == expected, "%s: %s", \
              #change, gdn_last_error());                                                          \
        CHECK(strstr(gdn_last_error(), word), "%s: '%s'", #change, gdn_last_error());              \
        CHECK(report.count == 0, "%s: rows were added", #change);                                  \
    } while (0)
    REFUSED(GDN_STATUS_INVALID_ARGUMENT, p.Hv = 3, "Hv");
    REFUSED(GDN_STATUS_INVALID_ARGUMENT, p.size = 4, "size");
    REFUSED(GDN_STATUS_INVALID_ARGUMENT, p.dtype = (gdn_dtype)9, "dtype");
    REFUSED(GDN_STATUS_UNSUPPORTED, p.dtype = GDN_DTYPE_FP64, "fp64");
    REFUSED(GDN_STATUS_INVALID_ARGUMENT, in.size = 8, "inputs");
    REFUSED(GDN_STATUS_INVALID_ARGUMENT, in.beta = NULL, "beta");
    REFUSED(GDN_STATUS_INVALID_ARGUMENT, options.directions = -1, "directions");
    REFUSED(GDN_STATUS_INVALID_ARGUMENT, options.step = NAN, "step");
    REFUSED(GDN_STATUS_INVALID_ARGUMENT, options.tolerance_factor = -1, "tolerance_factor");
    s.cu_seqlens[3] = 40;
    REFUSED(GDN_STATUS_BAD_DATA, (void)0, "cu_seqlens");
    s.cu_seqlens[3] = 30;
    const double q = s.q[9], g = s.g[5];
    s.q[9] = NAN;
    REFUSED(GDN_STATUS_BAD_DATA, (void)0, "q");
    s.q[9] = 1e300;
    REFUSED(GDN_STATUS_BAD_DATA, (void)0, "q at [0, 1, 1] is 1e+300");
    s.q[9] = q;
    s.g[5] = 0.5;
    REFUSED(GDN_STATUS_BAD_DATA, (void)0, "g");
    s.g[5] = g;
#undef REFUSED
    in = inputs_of(&s);
    CHECK(gdn_gradcheck_operator(NULL, &s.problem, &in, NULL, NULL, &report) ==
              GDN_STATUS_INVALID_ARGUMENT,
          "no context and no gradients");
    CHECK(gdn_gradcheck_operator(cpu, NULL, &in, NULL, NULL, &report) ==
              GDN_STATUS_INVALID_ARGUMENT,
          "no problem");
    CHECK(gdn_gradcheck_operator(cpu, &s.problem, NULL, NULL, NULL, &report) ==
              GDN_STATUS_INVALID_ARGUMENT,
          "no inputs");
    CHECK(gdn_gradcheck_operator(cpu, &s.problem, &in, NULL, NULL, NULL) ==
              GDN_STATUS_INVALID_ARGUMENT,
          "no report");
    gdn_context_destroy(cpu);
    release(&s);
}

int main(void) {
    test_planted(GDN_DTYPE_FP64);
    test_planted(GDN_DTYPE_FP32);
    test_planted(GDN_DTYPE_BF16);
    test_planted(GDN_DTYPE_FP16);
    test_noise();
    test_saturated();
    test_differences_find();
    test_backends();
    test_subnormal();
    test_arguments();
    return harness_finish();
}
