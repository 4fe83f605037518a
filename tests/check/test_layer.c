/*
 * The layer's gradient check: it passes what the backends compute, and it finds an error planted in
 * any single head of any weight's gradient.
 */
#include "gdn_check.h"

#include "harness.h"

enum {
    T = 26,
    D = 10,
    HK = 2,
    HV = 4,
    K = 6,
    V = 5,
    W = 4,
    CHANNELS = 2 * HK * K + HV * V,
    WEIGHTS = 9,
    X = WEIGHTS, /* tensor i < X is weight i in the order of gdn_layer_weights */
    TENSORS
};

static const char *const names[TENSORS] = {"in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a",
                                           "conv1d",      "A_log",     "dt_bias",   "norm",
                                           "out_proj",    "dx"};
static const int64_t counts[TENSORS] = {CHANNELS * D, HV *V *D, HV *D, HV *D,    CHANNELS *W,
                                        HV,           HV,       V,     D *HV *V, T *D};
static const int64_t cu_seqlens[4] = {0, 11, 11, 24}; /* an empty sequence, two tokens of padding */

typedef struct sample {
    gdn_layer layer;
    double *inputs[TENSORS], *gradients[TENSORS], *dout;
} sample;

static gdn_layer_weights weights_of(double *const tensors[TENSORS]) {
    const gdn_layer_weights w = {sizeof(w),  tensors[0], tensors[1], tensors[2], tensors[3],
                                 tensors[4], tensors[5], tensors[6], tensors[7], tensors[8]};
    return w;
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
        double rounded;
        CHECK(gdn_convert(dtype, &rounded, GDN_DTYPE_FP64, &x[i], 1) == GDN_STATUS_OK &&
                  gdn_convert(GDN_DTYPE_FP64, &x[i], dtype, &rounded, 1) == GDN_STATUS_OK,
              "%s", gdn_last_error());
    }
}

/* A_log and dt_bias stay in the state type. */
static gdn_dtype dtype_of(int i, gdn_dtype dtype) {
    return (i == 5 || i == 6) && dtype != GDN_DTYPE_FP64 ? GDN_DTYPE_FP32 : dtype;
}

/* The float64 gradients, rounded as a run in dtype would leave them. */
static void solve(sample *s, gdn_dtype dtype) {
    gdn_context *reference = context(GDN_BACKEND_REFERENCE);
    gdn_layer layer = s->layer;
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_layer_tensors t = GDN_LAYER_TENSORS_INIT;
    const gdn_layer_weights weights = weights_of(s->inputs), dweights = weights_of(s->gradients);
    double out[T * D];
    layer.dtype = GDN_DTYPE_FP64;
    CHECK(gdn_layer_sizes(reference, &layer, &sizes) == GDN_STATUS_OK, "%s", gdn_last_error());
    t.workspace_size = sizes.forward_workspace > sizes.backward_workspace
                           ? sizes.forward_workspace
                           : sizes.backward_workspace;
    t.workspace = aligned_alloc(256, (t.workspace_size + 256) / 256 * 256);
    t.saved = aligned_alloc(256, (sizes.saved + 256) / 256 * 256);
    t.x = s->inputs[X], t.weights = &weights, t.cu_seqlens = cu_seqlens, t.out = out;
    t.dout = s->dout, t.dx = s->gradients[X], t.dweights = &dweights;
    CHECK(gdn_layer_forward(reference, &layer, &t, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_layer_backward(reference, &layer, &t, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    for (int i = 0; i < TENSORS; ++i)
        round_to(dtype_of(i, dtype), s->gradients[i], counts[i]);
    free(t.saved);
    free(t.workspace);
    gdn_context_destroy(reference);
}

static sample make(gdn_dtype dtype) {
    const gdn_layer init = GDN_LAYER_INIT;
    sample s = {.layer = init};
    harness_random r = {11};
    s.layer.dtype = dtype;
    s.layer.T = T, s.layer.N = 3, s.layer.D = D, s.layer.Hk = HK, s.layer.Hv = HV;
    s.layer.K = K, s.layer.V = V, s.layer.conv_width = W;
    for (int i = 0; i < TENSORS; ++i) {
        s.inputs[i] = malloc((size_t)counts[i] * sizeof(double));
        s.gradients[i] = malloc((size_t)counts[i] * sizeof(double));
        for (int64_t j = 0; j < counts[i]; ++j)
            s.inputs[i][j] = (i < 5 || i == 8 ? 0.5 : 1) * harness_normal(&r);
        round_to(dtype_of(i, dtype), s.inputs[i], counts[i]);
    }
    s.dout = malloc(T * D * sizeof(double));
    for (int64_t j = 0; j < T * D; ++j)
        s.dout[j] = harness_normal(&r);
    round_to(dtype, s.dout, T * D);
    solve(&s, dtype);
    return s;
}

static void release(sample *s) {
    for (int i = 0; i < TENSORS; ++i) {
        free(s->inputs[i]);
        free(s->gradients[i]);
    }
    free(s->dout);
}

static gdn_check_report check(const sample *s, const gdn_context *c, int32_t directions) {
    const gdn_layer_weights weights = weights_of(s->inputs), dweights = weights_of(s->gradients);
    const gdn_gradcheck_layer_inputs in = {sizeof(in), s->inputs[X], s->dout, cu_seqlens, &weights};
    const gdn_gradcheck_layer_gradients given = {sizeof(given), s->gradients[X], &dweights};
    gdn_gradcheck_options options = GDN_GRADCHECK_OPTIONS_INIT;
    gdn_check_report report = GDN_CHECK_REPORT_INIT;
    options.directions = directions;
    CHECK(gdn_gradcheck_layer(c, &s->layer, &in, c ? NULL : &given, &options, &report) ==
              GDN_STATUS_OK,
          "%s", gdn_last_error());
    return report;
}

static void expect_pass(const gdn_check_report *report, const char *what) {
    for (size_t i = 0; i < report->count; ++i)
        CHECK(report->rows[i].pass, "%s: %s against %s, head %d: error %g of %g, scale %g", what,
              report->rows[i].name, report->rows[i].against, report->rows[i].head,
              report->rows[i].error, report->rows[i].tolerance, report->rows[i].scale_error);
}

/* The head of element j of tensor i, and -1 where it has none; parts of one weight are told apart
 * by their names. */
static int64_t head_of(int i, int64_t j, const char **part) {
    const int64_t channel = j / (i == 0 ? D : W);
    *part = names[i];
    switch (i) {
    case 0:
    case 4:
        if (channel < HK * K) {
            *part = i ? "conv1d.q" : "in_proj_qkv.q";
            return channel / K;
        }
        if (channel < 2 * HK * K) {
            *part = i ? "conv1d.k" : "in_proj_qkv.k";
            return (channel - HK * K) / K;
        }
        *part = i ? "conv1d.v" : "in_proj_qkv.v";
        return (channel - 2 * HK * K) / V;
    case 1:
        return j / (V * D);
    case 2:
    case 3:
        return j / D;
    case 5:
    case 6:
        return j;
    case 8:
        return j / V % HV;
    default:
        return -1;
    }
}

static void expect_failure(const sample *s, const char *part, int64_t head, const char *what) {
    gdn_check_report report = check(s, NULL, 0);
    int found = 0, elsewhere = 0;
    for (size_t i = 0; i < report.count; ++i) {
        const gdn_check_row *row = &report.rows[i];
        if (row->pass)
            continue;
        /* A head of few elements also fails as part of the whole. */
        if (!strcmp(row->name, part) && (row->head == head || row->head < 0))
            ++found;
        else
            ++elsewhere;
    }
    CHECK(!report.pass && found && !elsewhere, "%s in %s of head %d in %s: %d found, %d elsewhere",
          what, part, (int)head, gdn_dtype_name(s->layer.dtype), found, elsewhere);
    gdn_check_report_free(&report);
}

static void test_planted(gdn_dtype dtype) {
    sample s = make(dtype);
    gdn_check_report clean = check(&s, NULL, 2);
    expect_pass(&clean, "clean");
    /* 10 tensors, two differences each; float64: dx, norm, two split in q, k, v, and by head the
     * others. Few elements: a row for the whole of in_proj_a and in_proj_b; in fp32 also of A_log
     * and dt_bias.
     */
    const int narrow = gdn_dtype_size(dtype) == 2;
    const size_t few = dtype == GDN_DTYPE_FP64 ? 0 : narrow ? 2 : 4;
    CHECK(clean.count == 20 + 2 + 2 * (HK + HK + HV) + 6 * HV + few, "%zu rows", clean.count);
    gdn_check_report_free(&clean);

    for (int i = 0; i < TENSORS; ++i) {
        double *gradient = s.gradients[i];
        double *saved = malloc((size_t)counts[i] * sizeof(double));
        memcpy(saved, gradient, (size_t)counts[i] * sizeof(double));
        for (int64_t j = 0; j < counts[i]; ++j) {
            const char *part, *other;
            const int64_t head = head_of(i, j, &part);
            const char *before = "";
            const int64_t before_head = j ? head_of(i, j - 1, &before) : -2;
            if (head == before_head && part == before)
                continue; /* this head was planted at its first element */
            for (int plant = 0; plant < 3; ++plant) {
                /* What comes of the gates' gradients is known no better in 16 bits. */
                const int sum = narrow && (i == 5 || i == 6), gate = narrow && (i == 2 || i == 3);
                const double factors[3] = {sum ? -1 : gate ? 1.05 : 1.01, sum ? 3 : 0, 1};
                const char *const what[3] = {sum    ? "the sign"
                                             : gate ? "5%"
                                                    : "1%",
                                             sum ? "a factor of 3" : "zeros", "a NaN"};
                for (int64_t e = 0; e < counts[i]; ++e)
                    if (head_of(i, e, &other) == head && other == part)
                        gradient[e] = saved[e] * factors[plant];
                if (plant == 2)
                    gradient[j] = NAN;
                expect_failure(&s, part, head, what[plant]);
            }
            memcpy(gradient, saved, (size_t)counts[i] * sizeof(double));
        }
        free(saved);
    }
    release(&s);
}

/* Shifted by one, every gradient fails; a transposed in_proj_a too. */
static void test_moved(void) {
    sample s = make(GDN_DTYPE_FP32);
    for (int i = 0; i < TENSORS; ++i) {
        double *saved = malloc((size_t)counts[i] * sizeof(double));
        memcpy(saved, s.gradients[i], (size_t)counts[i] * sizeof(double));
        for (int moved = 0; moved < 2; ++moved) {
            const int64_t rows = i == X ? T : counts[i] / D; /* [rows, D] and its transpose */
            if (moved && (i == 4 || i == 7 || i == 5 || i == 6))
                continue;
            for (int64_t j = 0; j < counts[i]; ++j)
                s.gradients[i][j] =
                    moved ? saved[j % rows * D + j / rows] : saved[(j + 1) % counts[i]];
            gdn_check_report report = check(&s, NULL, 0);
            CHECK(!report.pass, "a %s %s passes", moved ? "transposed" : "shifted", names[i]);
            gdn_check_report_free(&report);
        }
        memcpy(s.gradients[i], saved, (size_t)counts[i] * sizeof(double));
        free(saved);
    }
    release(&s);
}

/* A wrong gradient also disagrees with the differences. */
static void test_differences_find(void) {
    sample s = make(GDN_DTYPE_FP32);
    for (int i = 0; i < TENSORS; ++i)
        for (int64_t j = 0; j < counts[i]; ++j)
            s.gradients[i][j] *= 1.01;
    gdn_check_report report = check(&s, NULL, 2);
    int failed = 0;
    for (size_t i = 0; i < report.count; ++i)
        if (!strcmp(report.rows[i].against, "finite difference"))
            failed += !report.rows[i].pass;
        else if (!strcmp(report.rows[i].against, "float64 v. difference"))
            CHECK(report.rows[i].pass, "%s: %g", report.rows[i].name, report.rows[i].error);
    CHECK(failed == TENSORS, "%d of %d tensors", failed, TENSORS);
    gdn_check_report_free(&report);
    release(&s);
}

static void test_backends(void) {
    static const gdn_backend backends[] = {GDN_BACKEND_REFERENCE, GDN_BACKEND_CPU};
    for (int b = 0; b < 2; ++b) {
        sample s = make(b ? GDN_DTYPE_FP32 : GDN_DTYPE_FP64);
        gdn_context *c = context(backends[b]);
        s.layer.flags = GDN_LAYER_ACCUMULATE; /* has no meaning here and must do no harm */
        gdn_check_report report = check(&s, c, 2);
        CHECK(report.count > 20, "%zu rows", report.count);
        expect_pass(&report, gdn_backend_name(backends[b]));
        gdn_check_report_free(&report);
        gdn_context_destroy(c);
        release(&s);
    }
}

static void test_arguments(void) {
    sample s = make(GDN_DTYPE_FP32);
    gdn_context *cpu = context(GDN_BACKEND_CPU);
    gdn_check_report report = GDN_CHECK_REPORT_INIT;
#define REFUSED(expected, change, word)                                                            \
    do {                                                                                           \
        gdn_layer_weights weights = weights_of(s.inputs);                                          \
        gdn_gradcheck_layer_inputs in = {sizeof(in), s.inputs[X], NULL, cu_seqlens, &weights};     \
        gdn_layer layer = s.layer;                                                                 \
        change;                                                                                    \
        CHECK(gdn_gradcheck_layer(cpu, &layer, &in, NULL, NULL, &report) == expected, "%s: %s",    \
              #change, gdn_last_error());                                                          \
        CHECK(strstr(gdn_last_error(), word), "%s: '%s'", #change, gdn_last_error());              \
        CHECK(report.count == 0, "%s: rows were added", #change);                                  \
    } while (0)
    REFUSED(GDN_STATUS_INVALID_ARGUMENT, layer.Hv = 3, "Hv");
    REFUSED(GDN_STATUS_INVALID_ARGUMENT, layer.size = 2, "size");
    REFUSED(GDN_STATUS_INVALID_ARGUMENT, layer.dtype = (gdn_dtype)7, "dtype");
    REFUSED(GDN_STATUS_UNSUPPORTED, layer.dtype = GDN_DTYPE_BF16, "bf16");
    REFUSED(GDN_STATUS_INVALID_ARGUMENT, in.size = 8, "inputs");
    REFUSED(GDN_STATUS_INVALID_ARGUMENT, in.x = NULL, "x");
    REFUSED(GDN_STATUS_INVALID_ARGUMENT, in.weights = NULL, "weights");
    REFUSED(GDN_STATUS_INVALID_ARGUMENT, weights.conv1d = NULL, "conv1d");
    REFUSED(GDN_STATUS_INVALID_ARGUMENT, weights.size = 1, "weights");
    s.inputs[5][2] = NAN;
    REFUSED(GDN_STATUS_BAD_DATA, (void)0, "A_log at [2]");
    s.inputs[5][2] = 0;
    s.inputs[X][D + 3] = INFINITY;
    REFUSED(GDN_STATUS_BAD_DATA, (void)0, "x at [1, 3]");
#undef REFUSED
    gdn_context_destroy(cpu);
    release(&s);
}

int main(void) {
    test_planted(GDN_DTYPE_FP64);
    test_planted(GDN_DTYPE_FP32);
    test_planted(GDN_DTYPE_BF16);
    test_planted(GDN_DTYPE_FP16);
    test_moved();
    test_differences_find();
    test_backends();
    test_arguments();
    return harness_finish();
}
