/* AdamW and the gradient norm against their definitions. */
#include "gdn_model.h"
#include "part_test.h"

enum {
    COUNT = 20011, /* several blocks of either part, the last one short */
    STEPS = 5
};

static gdn_context *make_context(gdn_dtype dtype, int32_t threads) {
    gdn_context *context;
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    config.backend = dtype == GDN_DTYPE_FP64 ? GDN_BACKEND_REFERENCE : GDN_BACKEND_CPU;
    config.threads = threads;
    CHECK(gdn_context_create(&context, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    return context;
}

/* Parameters after STEPS steps on gradients that depend on the step. */
static void train(gdn_dtype dtype, int32_t threads, int64_t count, double *params) {
    const double scale = 0.75;
    gdn_context *context = make_context(dtype, threads);
    const size_t bytes = (size_t)(count + 1) * gdn_dtype_size(dtype);
    void *param = malloc(bytes), *grad = malloc(bytes), *m = calloc(1, bytes),
         *v = calloc(1, bytes);
    harness_random random = {1};
    for (int64_t i = 0; i <= count; ++i)
        part_set(dtype, param, i, (double)(float)harness_normal(&random));
    for (int step = 1; step <= STEPS; ++step) {
        for (int64_t i = 0; i <= count; ++i)
            part_set(dtype, grad, i, (double)(float)harness_normal(&random));
        const gdn_adamw p = {.size = sizeof(p),
                             .dtype = dtype,
                             .count = count,
                             .step = step,
                             .lr = 1e-2,
                             .beta1 = 0.9,
                             .beta2 = 0.95,
                             .eps = 1e-8,
                             .weight_decay = 0.1,
                             .param = param,
                             .m = m,
                             .v = v,
                             .grad = grad,
                             .grad_scale = &scale};
        CHECK(gdn_adamw_step(context, &p, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    }
    for (int64_t i = 0; i <= count; ++i)
        params[i] = part_get(dtype, param, i);
    free(param);
    free(grad);
    free(m);
    free(v);
    gdn_context_destroy(context);
}

static void test_adamw(void) {
    static double expected[COUNT + 1], m[COUNT], v[COUNT], fp64[COUNT + 1], fp32[COUNT + 1],
        again[COUNT + 1];
    harness_random random = {1};
    for (int i = 0; i <= COUNT; ++i)
        expected[i] = (double)(float)harness_normal(&random);
    for (int step = 1; step <= STEPS; ++step)
        for (int i = 0; i <= COUNT; ++i) {
            const double grad = (double)(float)harness_normal(&random) * 0.75;
            if (i == COUNT)
                break; /* the element behind the range stays as it is */
            m[i] = 0.9 * m[i] + 0.1 * grad;
            v[i] = 0.95 * v[i] + 0.05 * grad * grad;
            expected[i] -=
                1e-2 * (m[i] / (1 - pow(0.9, step)) / (sqrt(v[i] / (1 - pow(0.95, step))) + 1e-8) +
                        0.1 * expected[i]);
        }
    train(GDN_DTYPE_FP64, 1, COUNT, fp64);
    train(GDN_DTYPE_FP32, 1, COUNT, fp32);
    CHECK(part_error(fp64, expected, COUNT + 1) <= 1e-14, "fp64: %.2e",
          part_error(fp64, expected, COUNT + 1));
    CHECK(part_error(fp32, expected, COUNT + 1) <= 2e-7, "fp32: %.2e",
          part_error(fp32, expected, COUNT + 1));
    CHECK(fp64[COUNT] == expected[COUNT], "wrote behind the range");
    printf("adamw, %d steps: fp32 against float64 %.1e\n", STEPS,
           part_error(fp32, expected, COUNT));
    train(GDN_DTYPE_FP32, 2, COUNT, again);
    CHECK(!memcmp(again, fp32, sizeof(again)), "other bits with 2 threads");
    train(GDN_DTYPE_FP32, 1, 0, again);
}

/* A schedule stands for step and lr; rounded is param in bf16; a scale that is not finite changes
 * nothing. */
static void test_adamw_schedule(gdn_dtype dtype) {
    enum {
        N = 9001
    };
    static double params[2][N];
    static uint16_t rounded[N], expected[N];
    const double schedule[2] = {7, 3e-3}, bad[] = {(double)NAN, (double)INFINITY};
    const size_t bytes = N * gdn_dtype_size(dtype);
    char *memory[4], *before = malloc(4 * bytes + sizeof(rounded));
    gdn_context *context = make_context(dtype, 2);
    gdn_adamw p = {.size = sizeof(p),
                   .dtype = dtype,
                   .count = N,
                   .beta1 = 0.9,
                   .beta2 = 0.95,
                   .eps = 1e-8,
                   .weight_decay = 0.1,
                   .rounded = rounded};
    for (int i = 0; i < 4; ++i)
        memory[i] = malloc(bytes);
    p.param = memory[0];
    p.grad = memory[1];
    p.m = memory[2];
    p.v = memory[3];
    for (int scheduled = 0; scheduled < 2; ++scheduled) {
        harness_random random = {4};
        for (int i = 0; i < 4; ++i)
            for (int64_t j = 0; j < N; ++j)
                part_set(dtype, memory[i], j, fabs(harness_normal(&random)));
        p.schedule = scheduled ? schedule : NULL;
        p.step = scheduled ? 1 : 7;
        p.lr = scheduled ? 1.0 : 3e-3;
        CHECK(gdn_adamw_step(context, &p, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
        for (int64_t j = 0; j < N; ++j)
            params[scheduled][j] = part_get(dtype, p.param, j);
    }
    CHECK(!memcmp(params[0], params[1], sizeof(params[0])), "other bits with a schedule");
    CHECK(gdn_convert(GDN_DTYPE_BF16, expected, dtype, p.param, N) == GDN_STATUS_OK, "%s",
          gdn_last_error());
    CHECK(!memcmp(rounded, expected, sizeof(rounded)), "rounded is not param in bf16");
    memset(rounded, 0xA5, sizeof(rounded));
    for (int i = 0; i < 4; ++i)
        memcpy(before + i * bytes, memory[i], bytes);
    memcpy(before + 4 * bytes, rounded, sizeof(rounded));
    for (int k = 0; k < 2; ++k) {
        p.grad_scale = &bad[k];
        CHECK(gdn_adamw_step(context, &p, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
        for (int i = 0; i < 4; ++i)
            CHECK(!memcmp(before + i * bytes, memory[i], bytes), "grad_scale %g changed tensor %d",
                  bad[k], i);
        CHECK(!memcmp(before + 4 * bytes, rounded, sizeof(rounded)),
              "grad_scale %g changed rounded", bad[k]);
    }
    for (int i = 0; i < 4; ++i)
        free(memory[i]);
    free(before);
    gdn_context_destroy(context);
}

static void test_grad_norm(int64_t count, double max_norm) {
    for (int d = 0; d < 2; ++d) {
        const gdn_dtype dtype = d ? GDN_DTYPE_FP64 : GDN_DTYPE_FP32;
        void *grad = malloc((count + 1) * gdn_dtype_size(dtype));
        double sum = 0, norm[2], scale[2];
        harness_random random = {(uint64_t)count};
        for (int64_t i = 0; i < count; ++i) {
            part_set(dtype, grad, i, harness_normal(&random));
            sum += part_get(dtype, grad, i) * part_get(dtype, grad, i);
        }
        for (int threads = 1; threads <= 2; ++threads) {
            gdn_context *context = make_context(dtype, threads);
            const gdn_grad_norm p = {.size = sizeof(p),
                                     .dtype = dtype,
                                     .count = count,
                                     .max_norm = max_norm,
                                     .grad = grad,
                                     .norm = &norm[threads - 1],
                                     .scale = &scale[threads - 1]};
            CHECK(gdn_grad_norm_compute(context, &p, NULL) == GDN_STATUS_OK, "%s",
                  gdn_last_error());
            gdn_context_destroy(context);
        }
        const double expected = max_norm <= 0 || sqrt(sum) <= max_norm ? 1 : max_norm / sqrt(sum);
        CHECK(fabs(norm[0] - sqrt(sum)) <= 1e-13 * sqrt(sum), "count %lld: %.17g, expected %.17g",
              (long long)count, norm[0], sqrt(sum));
        CHECK(fabs(scale[0] - expected) <= 1e-13, "count %lld: scale %.17g, expected %.17g",
              (long long)count, scale[0], expected);
        CHECK(norm[0] == norm[1] && scale[0] == scale[1], "other bits with 2 threads");
        free(grad);
    }
}

/* A gradient that is not finite must not pass for one of norm 1, whatever max_norm says. */
static void test_grad_norm_not_finite(void) {
    const double values[] = {(double)NAN, (double)INFINITY, -(double)INFINITY};
    gdn_context *context = make_context(GDN_DTYPE_FP32, 1);
    for (int i = 0; i < 3; ++i)
        for (int max_norm = 0; max_norm < 2; ++max_norm) {
            const float grad[3] = {1, (float)values[i], 2};
            double norm, scale;
            const gdn_grad_norm p = {.size = sizeof(p),
                                     .count = 3,
                                     .max_norm = max_norm,
                                     .grad = grad,
                                     .norm = &norm,
                                     .scale = &scale};
            CHECK(gdn_grad_norm_compute(context, &p, NULL) == GDN_STATUS_OK, "%s",
                  gdn_last_error());
            CHECK(!isfinite(norm) && isnan(scale), "of %g: norm %g, scale %g", values[i], norm,
                  scale);
        }
    gdn_context_destroy(context);
}

int main(void) {
    test_adamw();
    test_adamw_schedule(GDN_DTYPE_FP32);
    test_adamw_schedule(GDN_DTYPE_FP64);
    test_grad_norm(0, 1);
    test_grad_norm(1, 1e-3);
    test_grad_norm(255, 1e9);
    test_grad_norm(257, 1);
    test_grad_norm(100003, 1);
    test_grad_norm(100003, 0);
    test_grad_norm_not_finite();
    return harness_finish();
}
