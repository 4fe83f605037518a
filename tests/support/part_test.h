/*
 * Tests one part (see gdn_layer.h, gdn_model.h) that is described by a table of its tensors:
 * gradients in float64 against central differences, fp32 against fp64, outputs that start as NaN
 * between canaries, gaps of strided rows left alone, accumulation, and the same bits for any number
 * of threads (with products: for the same number).
 */
#ifndef GDN_TEST_PART_TEST_H
#define GDN_TEST_PART_TEST_H

#include "gdn.h"
#include "harness.h"

enum {
    PART_MAX_FIELDS = 40,
    PART_GUARD = 64,      /* bytes of canary on both sides */
    PART_DIFFERENCES = 24 /* elements of an input that are checked against differences */
};

typedef enum part_role {
    PART_INPUT,
    PART_OUTPUT,
    PART_COTANGENT,     /* given gradient of the output `of` */
    PART_GRADIENT,      /* of the input `of` */
    PART_PARAM_GRADIENT /* of the input `of`; `accumulate` adds to it */
} part_role;

/* A tensor of rows x width elements, `stride` elements from row to row (0: dense), whose pointer is
 * at `offset` of the part. */
typedef struct part_field {
    const char *name;
    size_t offset;
    part_role role;
    const char *of;
    int64_t rows, width, stride;
    int per_row; /* no row may hide its error behind the others: rows are checked one by one */
} part_field;

typedef gdn_status (*part_call)(const gdn_context *context, void *part);

typedef struct part_test {
    const char *name;
    void *part; /* shapes and everything that is not in the table; pointers are set in here */
    size_t dtype_offset;
    ptrdiff_t accumulate_offset; /* of an int32_t; -1: none */
    part_call forward, backward;
    int products; /* matrix products: their bits may depend on the number of threads */
    double tolerance_difference; /* float64 against differences, relative L2 of a tensor */
    double tolerance_fp32;       /* fp32 against fp64, relative L2 of a tensor */
    int fields;
    part_field field[PART_MAX_FIELDS];
} part_test;

typedef struct part_run {
    double *value[PART_MAX_FIELDS]; /* [rows, width] */
} part_run;

static inline int64_t part_count(const part_field *f) {
    return f->rows * f->width;
}

static inline int64_t part_stride(const part_field *f) {
    return f->stride ? f->stride : f->width;
}

static inline int part_find(const part_test *test, const char *name) {
    for (int i = 0; i < test->fields; ++i)
        if (!strcmp(test->field[i].name, name))
            return i;
    fprintf(stderr, "%s: no field %s\n", test->name, name);
    abort();
}

static inline double part_get(gdn_dtype dtype, const void *data, int64_t i) {
    return dtype == GDN_DTYPE_FP64 ? ((const double *)data)[i] : (double)((const float *)data)[i];
}

static inline void part_set(gdn_dtype dtype, void *data, int64_t i, double value) {
    if (dtype == GDN_DTYPE_FP64)
        ((double *)data)[i] = value;
    else
        ((float *)data)[i] = (float)value;
}

static inline void part_free(part_run *run) {
    for (int i = 0; i < PART_MAX_FIELDS; ++i) {
        free(run->value[i]);
        run->value[i] = NULL;
    }
}

/* Random inputs and cotangents, the same numbers in both types. */
static inline part_run part_inputs(const part_test *test, uint64_t seed) {
    part_run run = {{NULL}};
    harness_random random = {seed};
    for (int i = 0; i < test->fields; ++i) {
        const int64_t count = part_count(&test->field[i]);
        run.value[i] = calloc(count + 1, sizeof(double));
        for (int64_t j = 0; j < count; ++j)
            run.value[i][j] = (double)(float)harness_normal(&random);
    }
    return run;
}

/* One forward, and backward if `gradients`. `in` also holds what accumulation starts from. */
static inline part_run part_execute(const part_test *test, gdn_dtype dtype, int32_t threads,
                                    int32_t accumulate, int gradients, const part_run *in) {
    const size_t element = gdn_dtype_size(dtype);
    part_run out = {{NULL}};
    char *memory[PART_MAX_FIELDS];
    gdn_context *context;
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    config.backend = dtype == GDN_DTYPE_FP64 ? GDN_BACKEND_REFERENCE : GDN_BACKEND_CPU;
    config.threads = threads;
    CHECK(gdn_context_create(&context, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    memcpy((char *)test->part + test->dtype_offset, &dtype, sizeof(dtype));
    if (test->accumulate_offset >= 0)
        memcpy((char *)test->part + test->accumulate_offset, &accumulate, sizeof(accumulate));
    for (int i = 0; i < test->fields; ++i) {
        const part_field *f = &test->field[i];
        const int64_t stride = part_stride(f), elements = f->rows * stride;
        const int given = f->role == PART_INPUT || f->role == PART_COTANGENT ||
                          (f->role == PART_PARAM_GRADIENT && accumulate);
        memory[i] = malloc(2 * PART_GUARD + elements * element);
        memset(memory[i], 0xA5, 2 * PART_GUARD + elements * element);
        char *data = memory[i] + PART_GUARD;
        for (int64_t j = 0; j < elements; ++j)
            part_set(dtype, data, j, (double)NAN);
        for (int64_t j = 0; given && j < part_count(f); ++j)
            part_set(dtype, data, j / f->width * stride + j % f->width, in->value[i][j]);
        memcpy((char *)test->part + f->offset, &data, sizeof(data));
    }
    gdn_status status = test->forward(context, test->part);
    CHECK(status == GDN_STATUS_OK, "%s: forward: %s", test->name, gdn_last_error());
    if (gradients) {
        status = test->backward(context, test->part);
        CHECK(status == GDN_STATUS_OK, "%s: backward: %s", test->name, gdn_last_error());
    }
    for (int i = 0; i < test->fields; ++i) {
        const part_field *f = &test->field[i];
        const int64_t stride = part_stride(f), elements = f->rows * stride;
        const int wanted = gradients || f->role == PART_INPUT || f->role == PART_OUTPUT;
        int64_t broken = 0, gaps = 0, bad = 0;
        for (int64_t j = 0; j < PART_GUARD; ++j)
            broken += (unsigned char)memory[i][j] != 0xA5 ||
                      (unsigned char)memory[i][PART_GUARD + elements * element + j] != 0xA5;
        out.value[i] = calloc(part_count(f) + 1, sizeof(double));
        for (int64_t j = 0; j < elements; ++j) {
            const double x = part_get(dtype, memory[i] + PART_GUARD, j);
            if (j % stride >= f->width) {
                gaps += !isnan(x);
            } else {
                bad += !isfinite(x);
                out.value[i][j / stride * f->width + j % stride] = x;
            }
        }
        CHECK(!broken, "%s %s: written outside", test->name, f->name);
        CHECK(!gaps, "%s %s: gap between rows written", test->name, f->name);
        CHECK(!bad || !wanted, "%s %s: %lld values not finite", test->name, f->name,
              (long long)bad);
        free(memory[i]);
    }
    gdn_context_destroy(context);
    return out;
}

/* Relative L2 error of a against b; NaN counts as infinite. */
static inline double part_error(const double *a, const double *b, int64_t count) {
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < count; ++i) {
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    if (!(difference >= 0) || !(norm >= 0))
        return (double)INFINITY;
    return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}

/* part_error over a tensor, or the worst row's. */
static inline double part_field_error(const part_field *f, const double *a, const double *b) {
    double worst = 0;
    if (!f->per_row)
        return part_error(a, b, part_count(f));
    for (int64_t row = 0; row < f->rows; ++row)
        worst = fmax(worst, part_error(a + row * f->width, b + row * f->width, f->width));
    return worst;
}

/* <cotangents, outputs>. */
static inline double part_loss(const part_test *test, const part_run *in) {
    part_run out = part_execute(test, GDN_DTYPE_FP64, 1, 0, 0, in);
    double sum = 0;
    for (int i = 0; i < test->fields; ++i)
        if (test->field[i].role == PART_COTANGENT) {
            const int of = part_find(test, test->field[i].of);
            for (int64_t j = 0; j < part_count(&test->field[i]); ++j)
                sum += in->value[i][j] * out.value[of][j];
        }
    part_free(&out);
    return sum;
}

static inline void part_check_differences(const part_test *test, const part_run *in,
                                          const part_run *fp64) {
    const double step = 1e-4, weight[] = {8, -1}; /* of fourth order */
    double worst = 0;
    for (int i = 0; i < test->fields; ++i) {
        const part_field *f = &test->field[i];
        if (f->role != PART_GRADIENT && f->role != PART_PARAM_GRADIENT)
            continue;
        double *x = in->value[part_find(test, f->of)];
        const int64_t count = part_count(f);
        const int64_t samples = count < PART_DIFFERENCES ? count : PART_DIFFERENCES;
        double expected[PART_DIFFERENCES], found[PART_DIFFERENCES], error = 0;
        for (int64_t s = 0; s < samples; ++s) {
            const int64_t j = samples < count ? (s * (count - 1)) / (samples - 1) : s;
            const double keep = x[j];
            expected[s] = 0;
            for (int n = 1; n <= 2; ++n) {
                x[j] = keep + n * step;
                const double up = part_loss(test, in);
                x[j] = keep - n * step;
                expected[s] += weight[n - 1] * (up - part_loss(test, in)) / (12 * step);
            }
            x[j] = keep;
            found[s] = fp64->value[i][j];
            if (f->per_row)
                error = fmax(error, part_error(found + s, expected + s, 1));
        }
        if (!f->per_row)
            error = part_error(found, expected, samples);
        worst = fmax(worst, error);
        CHECK(error <= test->tolerance_difference, "%s %s: error %.2e against differences",
              test->name, f->name, error);
    }
    printf("%-28s differences: %.1e", test->name, worst);
}

static inline void part_check_equal(const part_test *test, const part_run *a, const part_run *b,
                                    const char *what) {
    for (int i = 0; i < test->fields; ++i)
        CHECK(!memcmp(a->value[i], b->value[i], part_count(&test->field[i]) * sizeof(double)),
              "%s %s: other bits %s", test->name, test->field[i].name, what);
}

static inline void part_check(const part_test *test, uint64_t seed) {
    part_run in = part_inputs(test, seed);
    part_run fp64 = part_execute(test, GDN_DTYPE_FP64, 1, 0, 1, &in);
    part_run fp32 = part_execute(test, GDN_DTYPE_FP32, 1, 0, 1, &in);
    double worst = 0;
    const char *worst_name = "";
    part_check_differences(test, &in, &fp64);
    for (int i = 0; i < test->fields; ++i) {
        const double error = part_error(fp32.value[i], fp64.value[i], part_count(&test->field[i]));
        CHECK(error <= test->tolerance_fp32, "%s %s: error %.2e of fp32 against fp64", test->name,
              test->field[i].name, error);
        if (error > worst) {
            worst = error;
            worst_name = test->field[i].name;
        }
    }
    printf("   fp32 against fp64: %.1e (%s)\n", worst, worst_name);
    for (int32_t threads = 2; threads <= 3; ++threads)
        for (int dtype = 0; dtype < 2; ++dtype) {
            const gdn_dtype type = dtype ? GDN_DTYPE_FP64 : GDN_DTYPE_FP32;
            part_run once = part_execute(test, type, threads, 0, 1, &in);
            part_run again = part_execute(test, type, threads, 0, 1, &in);
            part_check_equal(test, &again, &once, "in a second run");
            if (!test->products)
                part_check_equal(test, &once, dtype ? &fp64 : &fp32, "with more threads");
            part_free(&once);
            part_free(&again);
        }
    if (test->accumulate_offset >= 0) {
        part_run sum = part_execute(test, GDN_DTYPE_FP64, 1, 1, 1, &in);
        for (int i = 0; i < test->fields; ++i) {
            const int64_t count = part_count(&test->field[i]);
            const double start = test->field[i].role == PART_PARAM_GRADIENT;
            for (int64_t j = 0; j < count; ++j)
                sum.value[i][j] -= start * in.value[i][j];
            const double error = part_error(sum.value[i], fp64.value[i], count);
            CHECK(error <= 1e-13, "%s %s: error %.2e of accumulation", test->name,
                  test->field[i].name, error);
        }
        part_free(&sum);
    }
    part_free(&in);
    part_free(&fp64);
    part_free(&fp32);
}

/* A call that must be refused: with this status, naming these words. */
#define PART_REFUSED(call, expected, ...)                                                          \
    do {                                                                                           \
        const char *const words_[] = {__VA_ARGS__};                                                \
        const gdn_status status_ = (call);                                                         \
        CHECK(status_ == (expected), "%s: %s", gdn_status_string(status_), gdn_last_error());      \
        for (size_t i_ = 0; i_ < sizeof(words_) / sizeof(words_[0]); ++i_)                         \
            CHECK(strstr(gdn_last_error(), words_[i_]), "\"%s\" is not in \"%s\"", words_[i_],     \
                  gdn_last_error());                                                               \
    } while (0)

#endif /* GDN_TEST_PART_TEST_H */
