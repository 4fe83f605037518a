/* The comparator: what must fail fails, what must pass passes, and the row says where. */
#include "check/check.h"

#include "harness.h"

enum {
    ROWS = 7,
    HEADS = 3,
    DIM = 7,
    COUNT = ROWS * HEADS * DIM
};

static gdn_check_tensor tensor(const double *got, const double *want, int32_t head_axis) {
    const gdn_check_tensor t = {sizeof(t),          "dq",      got,  want, 3,
                                {ROWS, HEADS, DIM}, head_axis, 1e-3, 5e-4, NULL};
    return t;
}

static void fill(double *x, uint64_t seed) {
    harness_random r = {seed};
    for (int i = 0; i < COUNT; ++i)
        x[i] = harness_normal(&r);
}

static gdn_check_report compare(const double *got, const double *want, int32_t head_axis) {
    gdn_check_report report = GDN_CHECK_REPORT_INIT;
    const gdn_check_tensor t = tensor(got, want, head_axis);
    CHECK(gdn_check_compare(&t, &report) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(report.count == (head_axis < 0 ? 1u : HEADS), "%zu rows", report.count);
    return report;
}

/* Whether a comparison by head passes. */
static int passes(const double *got, const double *want) {
    gdn_check_report report = compare(got, want, 1);
    const int pass = report.pass;
    gdn_check_report_free(&report);
    CHECK(report.rows == NULL && report.count == 0 && report.pass == 1, "the report is not reset");
    return pass;
}

/* Where want is small, errors are relative to `least`; a NaN stays one. */
static void test_least(void) {
    static const double least[HEADS] = {2, 2};
    double want[COUNT], got[COUNT];
    for (int i = 0; i < COUNT; ++i) {
        want[i] = i / DIM % HEADS == 0 ? 0 : 1e-6;
        got[i] = want[i];
    }
    got[0] = 1e-3;
    got[DIM] += 1e-3;
    gdn_check_tensor t = tensor(got, want, 1);
    for (int with = 0; with < 2; ++with) {
        gdn_check_report report = GDN_CHECK_REPORT_INIT;
        t.least = with ? least : NULL;
        CHECK(gdn_check_compare(&t, &report) == GDN_STATUS_OK, "%s", gdn_last_error());
        CHECK(report.rows[0].pass == with && report.rows[1].pass == with, "with %d: %d %d", with,
              report.rows[0].pass, report.rows[1].pass);
        CHECK(!with || (fabs(report.rows[0].error - 5e-4) < 1e-12 &&
                        fabs(report.rows[1].error - 5e-4) < 1e-12),
              "errors %g and %g, expected 5e-4", report.rows[0].error, report.rows[1].error);
        gdn_check_report_free(&report);
    }
    for (int of_want = 0; of_want < 2; ++of_want) {
        gdn_check_report report = GDN_CHECK_REPORT_INIT;
        (of_want ? want : got)[1] = NAN;
        CHECK(gdn_check_compare(&t, &report) == GDN_STATUS_OK, "%s", gdn_last_error());
        CHECK(!report.rows[0].pass && report.rows[1].pass, "a NaN passes");
        gdn_check_report_free(&report);
    }
}

static void test_errors(void) {
    double want[COUNT], got[COUNT];
    fill(want, 1);
    memcpy(got, want, sizeof(got));
    CHECK(passes(got, want), "equal tensors");

    /* A hand-worked error: one element of head 2 off by a known amount. */
    const int at = (3 * HEADS + 2) * DIM + 5;
    double square = 0;
    for (int t = 0; t < ROWS; ++t)
        for (int i = 0; i < DIM; ++i)
            square += want[(t * HEADS + 2) * DIM + i] * want[(t * HEADS + 2) * DIM + i];
    got[at] = want[at] + 0.25;
    gdn_check_report report = compare(got, want, 1);
    const gdn_check_row *row = &report.rows[2];
    CHECK(report.rows[0].pass && report.rows[1].pass && !row->pass && !report.pass,
          "only head 2 fails");
    CHECK(fabs(row->error - 0.25 / sqrt(square)) < 1e-15, "error %g", row->error);
    CHECK(fabs(row->scale_error - fabs(0.25 * want[at]) / square) < 1e-15, "scale error %g",
          row->scale_error);
    CHECK(row->head == 2 && row->ndim == 3 && row->worst[0] == 3 && row->worst[1] == 2 &&
              row->worst[2] == 5,
          "worst at [%d, %d, %d]", (int)row->worst[0], (int)row->worst[1], (int)row->worst[2]);
    CHECK(row->worst_got == got[at] && row->worst_want == want[at], "values of the worst");
    CHECK(!strcmp(row->name, "dq") && !strcmp(row->against, "result"), "%s, %s", row->name,
          row->against);
    gdn_check_report_free(&report);

    /* Within the L2 tolerance, but a factor of 1.0008 in one head. */
    memcpy(got, want, sizeof(got));
    for (int t = 0; t < ROWS; ++t)
        for (int i = 0; i < DIM; ++i)
            got[(t * HEADS + 1) * DIM + i] *= 1.0008;
    report = compare(got, want, 1);
    CHECK(report.rows[1].error < 1e-3 && !report.rows[1].pass && report.rows[0].pass,
          "a wrong factor: error %g, scale error %g", report.rows[1].error,
          report.rows[1].scale_error);
    gdn_check_report_free(&report);

    /* The same size of error as noise passes. */
    memcpy(got, want, sizeof(got));
    for (int i = 0; i < COUNT; ++i)
        got[i] *= i % 2 ? 1.0008 : 1 / 1.0008;
    CHECK(passes(got, want), "noise of 8e-4");
}

static void test_wrong(void) {
    double want[COUNT], got[COUNT];
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    fill(want, 2);
    for (int b = 0; b < 3; ++b)
        for (int i = 0; i < COUNT; i += 13) {
            memcpy(got, want, sizeof(got));
            got[i] = bad[b];
            gdn_check_report report = compare(got, want, 1);
            const int head = i / DIM % HEADS;
            const gdn_check_row *row = &report.rows[head];
            CHECK(!report.pass && !row->pass, "%g in got passes", bad[b]);
            CHECK(row->worst[0] * HEADS * DIM + row->worst[1] * DIM + row->worst[2] == i,
                  "%g at %d is not the worst", bad[b], i);
            gdn_check_report_free(&report);
            CHECK(!passes(want, got), "%g in want passes", bad[b]);
            CHECK(!passes(got, got), "%g on both sides passes", bad[b]);
        }

    /* Where the scale is not looked at either. */
    gdn_check_report report = GDN_CHECK_REPORT_INIT;
    gdn_check_tensor t = tensor(got, want, -1);
    t.scale_tolerance = 0;
    memcpy(got, want, sizeof(got));
    got[COUNT - 1] = NAN;
    CHECK(gdn_check_compare(&t, &report) == GDN_STATUS_OK && !report.pass, "NaN passes");
    gdn_check_report_free(&report);

    memset(got, 0, sizeof(got));
    CHECK(!passes(got, want), "zeros pass");
    for (int i = 0; i < COUNT; ++i)
        got[i] = want[(i + 1) % COUNT];
    CHECK(!passes(got, want), "a shifted tensor passes");
    for (int t = 0; t < ROWS; ++t)
        for (int h = 0; h < HEADS; ++h)
            for (int i = 0; i < DIM; ++i)
                got[(t * HEADS + h) * DIM + i] = want[(i * HEADS + h) * DIM + t];
    CHECK(!passes(got, want), "a transposed tensor passes");
    for (int i = 0; i < COUNT; ++i)
        got[i] = -want[i];
    CHECK(!passes(got, want), "a negated tensor passes");

    /* A weak head beside two that are 1e6 times larger. */
    for (int t = 0; t < ROWS; ++t)
        for (int i = 0; i < DIM; ++i)
            want[(t * HEADS + 0) * DIM + i] *= 1e-6;
    memcpy(got, want, sizeof(got));
    for (int t = 0; t < ROWS; ++t)
        for (int i = 0; i < DIM; ++i)
            got[(t * HEADS + 0) * DIM + i] *= 1.01;
    CHECK(!passes(got, want), "a wrong weak head hides behind strong ones");
    gdn_check_report whole = compare(got, want, -1);
    CHECK(whole.pass && whole.rows[0].head == -1, "one norm over all heads does not see it");
    gdn_check_report_free(&whole);
}

static void test_zeros_and_extremes(void) {
    double want[COUNT] = {0}, got[COUNT] = {0};
    CHECK(passes(got, want), "zeros against zeros");
    got[DIM] = 5e-324;
    CHECK(!passes(got, want), "anything but 0 against zeros");
    got[DIM] = NAN;
    CHECK(!passes(got, want), "NaN against zeros");
    got[DIM] = -0.0;
    CHECK(passes(got, want), "-0 is 0");

    static const double scales[] = {5e-324, 1e-310, 1e-200, 1e200, 1e305};
    for (int s = 0; s < 5; ++s) {
        for (int i = 0; i < COUNT; ++i)
            want[i] = scales[s] * (double)(1 + i % 5);
        memcpy(got, want, sizeof(got));
        CHECK(passes(got, want), "equal at %g", scales[s]);
        gdn_check_report report = compare(got, want, 1);
        CHECK(report.rows[0].error == 0 && report.rows[0].scale_error == 0, "error %g at %g",
              report.rows[0].error, scales[s]);
        gdn_check_report_free(&report);
        for (int i = 0; i < COUNT; ++i)
            got[i] = 2 * want[i];
        report = compare(got, want, 1);
        CHECK(!report.pass && fabs(report.rows[0].error - 1) < 1e-12, "error %g at %g, expected 1",
              report.rows[0].error, scales[s]);
        gdn_check_report_free(&report);
    }
}

static void test_report_and_arguments(void) {
    double x[COUNT];
    fill(x, 3);
    gdn_check_report report = GDN_CHECK_REPORT_INIT;
    gdn_check_tensor t = tensor(x, x, 1);
    for (int i = 0; i < 100; ++i)
        CHECK(gdn_check_compare(&t, &report) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(report.count == 300 && report.pass && report.rows[299].head == 2, "%zu rows",
          report.count);

    /* No elements: nothing to find fault with. */
    t.shape[0] = 0;
    t.got = t.want = NULL;
    CHECK(gdn_check_compare(&t, &report) == GDN_STATUS_OK && report.pass, "an empty tensor");
    CHECK(report.rows[300].ndim == 0, "an empty tensor has no worst element");

    const size_t before = report.count;
#define REFUSED(change, word)                                                                      \
    do {                                                                                           \
        t = tensor(x, x, 1);                                                                       \
        change;                                                                                    \
        CHECK(gdn_check_compare(&t, &report) == GDN_STATUS_INVALID_ARGUMENT, "%s accepted",        \
              #change);                                                                            \
        CHECK(strstr(gdn_last_error(), word) && !strchr(gdn_last_error(), '\n'), "'%s'",           \
              gdn_last_error());                                                                   \
    } while (0)
    REFUSED(t.size = 3, "size");
    REFUSED(t.name = NULL, "name");
    REFUSED(t.got = NULL, "got");
    REFUSED(t.want = NULL, "want");
    REFUSED(t.ndim = 0, "ndim");
    REFUSED(t.ndim = 5, "ndim");
    REFUSED(t.shape[1] = -1, "shape[1]");
    REFUSED(t.head_axis = 3, "head_axis");
    REFUSED(t.head_axis = -2, "head_axis");
    REFUSED(t.tolerance = 0, "tolerance");
    REFUSED(t.tolerance = NAN, "tolerance");
    REFUSED(t.scale_tolerance = -1, "scale_tolerance");
#undef REFUSED
    CHECK(gdn_check_compare(NULL, &report) == GDN_STATUS_INVALID_ARGUMENT, "tensor NULL");
    CHECK(gdn_check_compare(&t, NULL) == GDN_STATUS_INVALID_ARGUMENT, "report NULL");
    CHECK(report.count == before, "a refused call leaves the report alone");
    gdn_check_report_free(&report);
    gdn_check_report_free(NULL);
}

static void test_tolerances(void) {
    CHECK(gdn_check_default_tolerance("dq", GDN_DTYPE_FP64) == 1e-10, "fp64");
    CHECK(gdn_check_default_tolerance("dq", GDN_DTYPE_FP32) == 2e-5, "fp32");
    CHECK(gdn_check_default_tolerance("A_log", GDN_DTYPE_FP32) == 4e-5, "fp32 A_log");
    CHECK(gdn_check_default_tolerance("out_proj", GDN_DTYPE_FP32) == 2e-5, "fp32 out_proj");
    CHECK(gdn_check_default_tolerance("o", GDN_DTYPE_BF16) == 1e-2, "bf16");
    CHECK(gdn_check_default_tolerance("dg", GDN_DTYPE_FP16) == 2e-2, "fp16 dg");
}

/* One number a head: the whole is held to the tolerance, each head to that of a wrong factor. */
static void test_few_elements(void) {
    const gdni_shape shape = {"A_log", 1, 0, {4}, 4};
    const double want[4] = {1, -1e-3, 2, 0.5};
    const struct {
        double factor; /* of the small head */
        int pass;
    } tries[] = {{1, 1}, {1.002, 1}, {1.01, 0}, {0.99, 0}, {0, 0}, {NAN, 0}};
    for (size_t i = 0; i < sizeof(tries) / sizeof(tries[0]); ++i) {
        const double got[4] = {1, -1e-3 * tries[i].factor, 2, 0.5};
        gdn_check_report report = GDN_CHECK_REPORT_INIT;
        CHECK(gdni_compare_standing(&shape, got, want, GDN_DTYPE_FP32, 1, "result", &report) ==
                  GDN_STATUS_OK,
              "%s", gdn_last_error());
        CHECK(report.count == 5 && report.rows[0].head == -1, "%zu rows", report.count);
        CHECK(report.pass == tries[i].pass && report.rows[2].pass == tries[i].pass,
              "a factor of %g in a small head", tries[i].factor);
        gdn_check_report_free(&report);
    }
    /* 1e-4 of a large head is noise of that head alone, but not of the whole. */
    const double got[4] = {1, -1e-3, 2 * 1.0001, 0.5};
    gdn_check_report report = GDN_CHECK_REPORT_INIT;
    CHECK(gdni_compare_standing(&shape, got, want, GDN_DTYPE_FP32, 1, "result", &report) ==
              GDN_STATUS_OK,
          "%s", gdn_last_error());
    CHECK(!report.rows[0].pass && report.rows[3].pass, "the whole fails");
    gdn_check_report_free(&report);
}

/* Below a type's subnormals nothing can be told apart. */
static void test_quantum(void) {
    const gdni_shape shape = {"dq", 3, 1, {ROWS, HEADS, DIM}, COUNT};
    double want[COUNT], got[COUNT];
    static const struct {
        gdn_dtype dtype;
        double quantum;
    } types[] = {{GDN_DTYPE_FP16, 0x1p-24}, {GDN_DTYPE_BF16, 0x1p-133}, {GDN_DTYPE_FP32, 0x1p-149}};
    for (int t = 0; t < 3; ++t)
        for (int wrong = 0; wrong < 2; ++wrong) {
            gdn_check_report report = GDN_CHECK_REPORT_INIT;
            for (int i = 0; i < COUNT; ++i) {
                want[i] = types[t].quantum * (double)(1 + i % 5);
                got[i] = want[i] + (wrong ? 3 : 0.5) * types[t].quantum;
            }
            CHECK(gdni_compare_standing(&shape, got, want, types[t].dtype, 1, "result", &report) ==
                      GDN_STATUS_OK,
                  "%s", gdn_last_error());
            CHECK(report.pass == !wrong, "%s: %s quanta off, error %g",
                  gdn_dtype_name(types[t].dtype), wrong ? "3" : "0.5", report.rows[0].error);
            gdn_check_report_free(&report);
        }
}

int main(void) {
    test_few_elements();
    test_quantum();
    test_errors();
    test_least();
    test_wrong();
    test_zeros_and_extremes();
    test_report_and_arguments();
    test_tolerances();
    return harness_finish();
}
