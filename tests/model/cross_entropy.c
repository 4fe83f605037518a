/* Cross-entropy: against a direct computation in float64, against differences, over tiles. */
#include "gdn_model.h"
#include "part_test.h"

typedef struct sizes {
    int64_t T;
    int32_t D, vocab;
    int skip; /* every skip-th target is -1; 0: none */
} sizes;

typedef struct result {
    double loss;
    double *token_loss, *dx, *dweight;
} result;

static gdn_context *make_context(gdn_dtype dtype, int32_t threads) {
    gdn_context *context;
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    config.backend = dtype == GDN_DTYPE_FP64 ? GDN_BACKEND_REFERENCE : GDN_BACKEND_CPU;
    config.threads = threads;
    CHECK(gdn_context_create(&context, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    return context;
}

static double *random_values(int64_t count, uint64_t seed, double scale) {
    harness_random random = {seed};
    double *x = malloc((count + 1) * sizeof(double));
    for (int64_t i = 0; i < count; ++i)
        x[i] = (double)(float)(scale * harness_normal(&random));
    return x;
}

static int32_t *random_targets(const sizes *s) {
    harness_random random = {99};
    int32_t *targets = malloc((s->T + 1) * sizeof(*targets));
    for (int64_t t = 0; t < s->T; ++t)
        targets[t] = s->skip && t % s->skip == 0
                         ? -1
                         : (int32_t)(harness_next(&random) % (uint64_t)s->vocab);
    return targets;
}

/* count elements of dtype between canaries: given values, or NaN. */
static void *guarded(gdn_dtype dtype, const double *values, int64_t count) {
    const size_t element = gdn_dtype_size(dtype);
    char *memory = malloc(2 * PART_GUARD + count * element);
    memset(memory, 0xA5, 2 * PART_GUARD + count * element);
    for (int64_t i = 0; i < count; ++i)
        part_set(dtype, memory + PART_GUARD, i, values ? values[i] : (double)NAN);
    return memory + PART_GUARD;
}

static double *unguard(gdn_dtype dtype, void *data, int64_t count, const char *name) {
    char *memory = (char *)data - PART_GUARD;
    const size_t bytes = count * gdn_dtype_size(dtype);
    double *values = malloc((count + 1) * sizeof(double));
    int64_t broken = 0;
    for (int64_t i = 0; i < PART_GUARD; ++i)
        broken += (unsigned char)memory[i] != 0xA5 ||
                  (unsigned char)memory[PART_GUARD + bytes + i] != 0xA5;
    CHECK(!broken, "%s: written outside", name);
    for (int64_t i = 0; i < count; ++i)
        values[i] = part_get(dtype, data, i);
    free(memory);
    return values;
}

static result compute(const sizes *s, gdn_dtype dtype, int32_t threads, const double *start,
                      const double *x, const double *weight, const int32_t *targets) {
    gdn_context *context = make_context(dtype, threads);
    gdn_cross_entropy p = {
        .size = sizeof(p), .dtype = dtype, .T = s->T, .D = s->D, .vocab = s->vocab};
    result r;
    p.accumulate = start != NULL;
    p.x = guarded(dtype, x, s->T * s->D);
    p.weight = guarded(dtype, weight, (int64_t)s->vocab * s->D);
    p.targets = targets;
    p.loss = &r.loss;
    p.token_loss = guarded(dtype, NULL, s->T);
    p.dx = guarded(dtype, NULL, s->T * s->D);
    p.dweight = guarded(dtype, start, (int64_t)s->vocab * s->D);
    CHECK(gdn_cross_entropy_workspace(context, &p, &p.workspace_size) == GDN_STATUS_OK, "%s",
          gdn_last_error());
    const int64_t doubles = (int64_t)(p.workspace_size / sizeof(double) + 1);
    p.workspace = guarded(GDN_DTYPE_FP64, NULL, doubles);
    CHECK(gdn_cross_entropy_compute(context, &p, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    free(unguard(GDN_DTYPE_FP64, p.workspace, doubles, "workspace"));
    free(unguard(dtype, (void *)p.x, s->T * s->D, "x"));
    free(unguard(dtype, (void *)p.weight, (int64_t)s->vocab * s->D, "weight"));
    r.token_loss = unguard(dtype, p.token_loss, s->T, "token_loss");
    r.dx = unguard(dtype, p.dx, s->T * s->D, "dx");
    r.dweight = unguard(dtype, p.dweight, (int64_t)s->vocab * s->D, "dweight");
    gdn_context_destroy(context);
    return r;
}

static void release(result *r) {
    free(r->token_loss);
    free(r->dx);
    free(r->dweight);
}

/* The definition, with all logits, in float64. */
static result direct(const sizes *s, const double *x, const double *weight,
                     const int32_t *targets) {
    result r = {0, calloc(s->T + 1, sizeof(double)), calloc(s->T * s->D + 1, sizeof(double)),
                calloc((int64_t)s->vocab * s->D + 1, sizeof(double))};
    double *p = malloc(s->vocab * sizeof(double));
    int64_t count = 0;
    for (int64_t t = 0; t < s->T; ++t)
        count += targets[t] >= 0;
    for (int64_t t = 0; t < s->T; ++t) {
        double sum = 0;
        if (targets[t] < 0)
            continue;
        for (int64_t i = 0; i < s->vocab; ++i) {
            p[i] = 0;
            for (int32_t d = 0; d < s->D; ++d)
                p[i] += x[t * s->D + d] * weight[i * s->D + d];
            p[i] = exp(p[i]);
            sum += p[i];
        }
        r.token_loss[t] = -log(p[targets[t]] / sum);
        r.loss += r.token_loss[t] / (double)count;
        for (int64_t i = 0; i < s->vocab; ++i) {
            const double dl = (p[i] / sum - (i == targets[t])) / (double)count;
            for (int32_t d = 0; d < s->D; ++d) {
                r.dx[t * s->D + d] += dl * weight[i * s->D + d];
                r.dweight[i * s->D + d] += dl * x[t * s->D + d];
            }
        }
    }
    free(p);
    return r;
}

static double worst_error(const sizes *s, const result *a, const result *b) {
    const double loss = fabs(a->loss - b->loss) / (fabs(b->loss) + 1e-300);
    const double token = part_error(a->token_loss, b->token_loss, s->T);
    const double dx = part_error(a->dx, b->dx, s->T * s->D);
    const double dweight = part_error(a->dweight, b->dweight, (int64_t)s->vocab * s->D);
    const double first = loss > token ? loss : token, second = dx > dweight ? dx : dweight;
    return first > second ? first : second;
}

static void test_shape(const char *name, sizes s) {
    const int64_t weights = (int64_t)s.vocab * s.D;
    double *x = random_values(s.T * s.D, 1, 1), *weight = random_values(weights, 2, 0.5);
    double *start = random_values(weights, 3, 1);
    int32_t *targets = random_targets(&s);
    result expected = direct(&s, x, weight, targets);
    result fp64 = compute(&s, GDN_DTYPE_FP64, 1, NULL, x, weight, targets);
    result fp32 = compute(&s, GDN_DTYPE_FP32, 1, NULL, x, weight, targets);
    result two = compute(&s, GDN_DTYPE_FP32, 2, NULL, x, weight, targets);
    result again = compute(&s, GDN_DTYPE_FP32, 2, NULL, x, weight, targets);
    result sum = compute(&s, GDN_DTYPE_FP64, 1, start, x, weight, targets);
    for (int64_t i = 0; i < weights; ++i)
        sum.dweight[i] -= start[i];
    printf("%-28s fp32 against fp64: %.1e\n", name, worst_error(&s, &fp32, &fp64));
    CHECK(worst_error(&s, &fp64, &expected) <= 1e-12, "%s: %.2e", name,
          worst_error(&s, &fp64, &expected));
    CHECK(worst_error(&s, &fp32, &fp64) <= 2e-6, "%s: %.2e", name, worst_error(&s, &fp32, &fp64));
    CHECK(worst_error(&s, &sum, &fp64) <= 1e-12, "%s: accumulation: %.2e", name,
          worst_error(&s, &sum, &fp64));
    CHECK(worst_error(&s, &two, &fp64) <= 2e-6, "%s: 2 threads: %.2e", name,
          worst_error(&s, &two, &fp64));
    CHECK(two.loss == again.loss && !memcmp(two.dx, again.dx, s.T * s.D * sizeof(double)) &&
              !memcmp(two.dweight, again.dweight, weights * sizeof(double)),
          "%s: other bits in a second run", name);
    result *const all[] = {&expected, &fp64, &fp32, &two, &again, &sum};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); ++i)
        release(all[i]);
    free(x);
    free(weight);
    free(start);
    free(targets);
}

/* The gradient is that of the loss, by central differences. */
static void test_differences(void) {
    const sizes s = {6, 4, 9, 3};
    double *x = random_values(s.T * s.D, 1, 1), *weight = random_values(s.vocab * s.D, 2, 1);
    int32_t *targets = random_targets(&s);
    result r = compute(&s, GDN_DTYPE_FP64, 1, NULL, x, weight, targets);
    for (int which = 0; which < 2; ++which) {
        double *const value = which ? weight : x, *const found = which ? r.dweight : r.dx;
        double expected[36];
        const int64_t count = which ? s.vocab * s.D : s.T * s.D;
        for (int64_t i = 0; i < count; ++i) {
            const double keep = value[i], step = 1e-5;
            value[i] = keep + step;
            result up = compute(&s, GDN_DTYPE_FP64, 1, NULL, x, weight, targets);
            value[i] = keep - step;
            result down = compute(&s, GDN_DTYPE_FP64, 1, NULL, x, weight, targets);
            value[i] = keep;
            expected[i] = (up.loss - down.loss) / (2 * step);
            release(&up);
            release(&down);
        }
        CHECK(part_error(found, expected, count) <= 1e-8, "gradient %d: %.2e", which,
              part_error(found, expected, count));
    }
    release(&r);
    free(x);
    free(weight);
    free(targets);
}

/* Large logits neither overflow nor lose the loss; a token that is certain has almost none. */
static void test_extremes(void) {
    const sizes s = {2, 1, 3, 0};
    const double x[] = {1, 1}, weight[] = {3000, -3000, 2990};
    const int32_t targets[] = {0, 1};
    result r = compute(&s, GDN_DTYPE_FP32, 1, NULL, x, weight, targets);
    /* 1 + exp(-10) is summed in fp32. */
    CHECK(fabs(r.token_loss[0] - log1p(exp(-10.0))) < 1.2e-7, "%.9g", r.token_loss[0]);
    CHECK(fabs(r.token_loss[1] - 6000) < 1e-3, "%.9g", r.token_loss[1]);
    release(&r);
}

/* The loss alone, with nothing else asked for; no token counts; no token at all. */
static void test_loss_alone(void) {
    const float x[2] = {1, 2}, weight[2] = {0.5f, -0.5f};
    const int32_t targets[2] = {0, 1}, none[2] = {-1, -1};
    const double expected = 0.5 * (log(1 + exp(-1.0)) + log(1 + exp(2.0)));
    double loss = (double)NAN;
    char workspace[256];
    gdn_context *context = make_context(GDN_DTYPE_FP32, 1);
    gdn_cross_entropy p = {.size = sizeof(p),
                           .T = 2,
                           .D = 1,
                           .vocab = 2,
                           .x = x,
                           .weight = weight,
                           .targets = targets,
                           .loss = &loss,
                           .workspace = workspace,
                           .workspace_size = sizeof(workspace)};
    CHECK(gdn_cross_entropy_compute(context, &p, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(fabs(loss - expected) < 1e-7, "%.9g, expected %.9g", loss, expected);
    float dx[2] = {(float)NAN, (float)NAN}, dweight[2] = {(float)NAN, (float)NAN};
    p.targets = none;
    p.dx = dx;
    p.dweight = dweight;
    CHECK(gdn_cross_entropy_compute(context, &p, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(loss == 0 && dx[0] == 0 && dx[1] == 0 && dweight[0] == 0 && dweight[1] == 0,
          "no target: loss %g", loss);
    loss = (double)NAN;
    dweight[0] = (float)NAN;
    p.T = 0;
    CHECK(gdn_cross_entropy_compute(context, &p, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(loss == 0 && dweight[0] == 0 && dweight[1] == 0, "no token: loss %g", loss);
    gdn_context_destroy(context);
}

int main(void) {
    test_shape("one token", (sizes){1, 3, 2, 0});
    test_shape("all logits in one tile", (sizes){40, 8, 50, 4});
    test_shape("512 tokens a tile", (sizes){1100, 5, 33, 7});
    test_shape("32 tokens a tile", (sizes){70, 2, 140001, 3});
    test_shape("vocabulary of one", (sizes){5, 4, 1, 2});
    test_differences();
    test_extremes();
    test_loss_alone();
    return harness_finish();
}
