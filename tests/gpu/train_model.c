/*
 * The trainer's model on the device against itself on the host: loss, every tensor's gradient, and
 * parameters after steps; the same bits however a step is handed over; and what a step does that is
 * not finite.
 */
#include "gpu.h"
#include "lm.h"

enum {
    SEQUENCES = 3,
    CONTEXT = 75,
    TOKENS = SEQUENCES * CONTEXT,
    VOCAB = 61,
    STEPS = 6
};

static int32_t tokens[TOKENS], targets[TOKENS];

static gdni_lm_shape shape_of(gdn_dtype dtype, int tied) {
    return (gdni_lm_shape){.dtype = dtype,
                           .vocab = VOCAB,
                           .width = 48,
                           .layers = 3,
                           .key_heads = 2,
                           .value_heads = 4,
                           .key_dim = 32,
                           .value_dim = 16,
                           .conv_width = 4,
                           .mlp = 80,
                           .tied = tied};
}

static gdni_lm *make(const gdn_context *host, const gdni_lm_setup *setup, gdn_dtype dtype,
                     int tied) {
    const gdni_lm_shape shape = shape_of(dtype, tied);
    gdni_lm *lm = NULL;
    gdn_status status = gdni_lm_create(&lm, host, &shape, TOKENS, SEQUENCES, setup);
    if (status == GDN_STATUS_OK)
        status = gdni_lm_initialise(lm, 5);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    return lm;
}

/* The gradient on the host. */
static float *gradient_of(gdni_lm *lm, double *loss) {
    const size_t bytes = (size_t)lm->count * sizeof(float);
    float *copy = malloc(bytes);
    const gdn_status status = gdni_lm_gradient(lm, tokens, targets, loss);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(cudaMemcpy(copy, lm->grad, bytes, cudaMemcpyDefault) == cudaSuccess, "copying");
    return copy;
}

/* Largest |a - b| / |b| of a tensor, in norms; its name. */
static double worst_tensor(const gdni_lm *lm, const float *a, const float *b, const char **name) {
    double worst = 0;
    for (int32_t i = 0; i < lm->param_count; ++i) {
        const gdni_lm_param *p = &lm->params[i];
        double size = 0, error = 0;
        for (int64_t k = p->offset; k < p->offset + p->count; ++k) {
            size += (double)b[k] * b[k];
            error += ((double)a[k] - b[k]) * ((double)a[k] - b[k]);
        }
        CHECK(size > 0, "%s: nothing to compare with", p->name);
        if (!(sqrt(error / size) <= worst)) {
            worst = sqrt(error / size);
            *name = p->name;
        }
    }
    return worst;
}

/* In bf16 the bound of gradients is what rounding the weights alone does to them on the host, times
 * ROUNDINGS: activations and their gradients are rounded as well. */
enum {
    ROUNDINGS = 3
};
static struct {
    const char *name;
    gdn_dtype dtype;
    double loss, gradient; /* bounds */
} kinds[] = {{"fp32", GDN_DTYPE_FP32, 1e-6, 2e-5}, {"bf16", GDN_DTYPE_BF16, 2e-3, NAN}};

static void measure_rounding(const gdn_context *host) {
    const char *name = "";
    double loss[2];
    gdni_lm *lm = make(host, NULL, GDN_DTYPE_FP32, 0);
    if (!lm)
        return;
    float *exact = gradient_of(lm, &loss[0]);
    uint16_t *rounded = malloc((size_t)lm->count * sizeof(*rounded));
    gdn_status status = gdn_convert(GDN_DTYPE_BF16, rounded, GDN_DTYPE_FP32, lm->param, lm->count);
    if (status == GDN_STATUS_OK)
        status = gdn_convert(GDN_DTYPE_FP32, lm->param, GDN_DTYPE_BF16, rounded, lm->count);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    float *got = gradient_of(lm, &loss[1]);
    const double worst = worst_tensor(lm, got, exact, &name);
    printf("host, weights rounded to bf16: loss %.1e, gradient %.1e (%s)\n",
           fabs(loss[1] - loss[0]) / loss[0], worst, name);
    CHECK(worst > 1e-3 && worst < 0.15, "rounding the weights makes %g", worst);
    kinds[1].gradient = ROUNDINGS * worst;
    free(got);
    free(rounded);
    free(exact);
    gdni_lm_destroy(lm);
}

/* What is computed again changes nothing but memory. */
static void check_gradient(const gdn_context *host, const gdn_context *cuda, int kind, int tied) {
    double expected = NAN, loss = NAN, alone = NAN;
    const char *name = "";
    gdni_lm *on_host = make(host, NULL, GDN_DTYPE_FP32, tied);
    float *want = on_host ? gradient_of(on_host, &expected) : NULL;
    for (int recompute = GDNI_RECOMPUTE_NONE; want && recompute <= GDNI_RECOMPUTE_LAYER;
         ++recompute) {
        const gdni_lm_setup setup = {.device = cuda, .recompute = (gdni_recompute)recompute};
        gdni_lm *lm = make(host, &setup, kinds[kind].dtype, tied);
        if (!lm)
            break;
        float *got = gradient_of(lm, &loss);
        const double off = fabs(loss - expected) / expected,
                     worst = worst_tensor(lm, got, want, &name);
        printf("%s, tied %d, recompute %d: loss %.1e, gradient %.1e (%s), %.1f MB\n",
               kinds[kind].name, tied, recompute, off, worst, name,
               1e-6 * (double)lm->memory_bytes);
        CHECK(off <= kinds[kind].loss, "loss %g, on the host %g", loss, expected);
        CHECK(worst <= kinds[kind].gradient, "%s: gradient differs by %g", name, worst);
        CHECK(gdni_lm_loss(lm, tokens, targets, &alone) == GDN_STATUS_OK &&
                  fabs(alone - loss) <= 1e-6 * loss,
              "loss alone %g, with a gradient %g: %s", alone, loss, gdn_last_error());
        free(got);
        gdni_lm_destroy(lm);
    }
    free(want);
    gdni_lm_destroy(on_host);
}

static gdni_lm_update update_of(int step) {
    return (gdni_lm_update){.count = step,
                            .lr = 1e-3 * step,
                            .beta1 = 0.9,
                            .beta2 = 0.95,
                            .eps = 1e-2, /* far from the sign of what is rounding alone */
                            .weight_decay = 0.1,
                            .clip = 0.5};
}

/* Hands steps over in advance, or one call at a time; results as they come. */
static void run_steps(gdni_lm *lm, int ahead, double loss[STEPS], double norm[STEPS]) {
    gdn_status status = GDN_STATUS_OK;
    int ended = 0;
    for (int i = 0; i < STEPS && status == GDN_STATUS_OK; ++i) {
        gdni_lm_update update = update_of(i + 1);
        if (!ahead) {
            status = gdni_lm_gradient(lm, tokens, targets, &loss[i]);
            if (status == GDN_STATUS_OK)
                status = gdni_lm_step(lm, &update);
            norm[i] = update.grad_norm;
            continue;
        }
        if (lm->given == lm->taken)
            status = gdni_lm_give(lm, tokens, targets);
        if (status == GDN_STATUS_OK)
            status = gdni_lm_begin(lm, &update, NULL);
        if (status == GDN_STATUS_OK && i + 1 < STEPS)
            status = gdni_lm_give(lm, tokens, targets);
        if (status == GDN_STATUS_OK && i > 0) {
            status = gdni_lm_end(lm, &loss[ended], &norm[ended]);
            ++ended;
        }
    }
    if (ahead && status == GDN_STATUS_OK)
        status = gdni_lm_end(lm, &loss[ended], &norm[ended]);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
}

static void fetch(gdni_lm *lm) {
    gdn_status status = gdni_lm_fetch(lm);
    if (status == GDN_STATUS_OK)
        status = gdni_lm_fetched(lm);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
}

static void check_steps(const gdn_context *host, const gdn_context *cuda, int kind) {
    static const char *const ways[] = {"one call at a time", "plain", "graphs"};
    double loss[3][STEPS], norm[3][STEPS], want[STEPS], want_norm[STEPS];
    gdni_lm *one = NULL, *on_host = make(host, NULL, GDN_DTYPE_FP32, 1);
    if (on_host)
        run_steps(on_host, 1, want, want_norm);
    for (int way = 0; way < 3 && on_host; ++way) {
        const gdni_lm_setup setup = {.device = cuda, .plain = way < 2};
        gdni_lm *lm = make(host, &setup, kinds[kind].dtype, 1);
        if (!lm)
            break;
        run_steps(lm, way > 0, loss[way], norm[way]);
        CHECK(lm->has_graph == (way == 2), "%s: has_graph %d", ways[way], lm->has_graph);
        fetch(lm);
        for (int i = 0; i < STEPS; ++i) {
            CHECK(loss[way][i] == loss[0][i] && norm[way][i] == norm[0][i],
                  "%s, step %d: loss %.17g, norm %.17g, expected %.17g, %.17g", ways[way], i + 1,
                  loss[way][i], norm[way][i], loss[0][i], norm[0][i]);
            CHECK(fabs(loss[way][i] - want[i]) <= 3 * kinds[kind].loss * want[i] &&
                      fabs(norm[way][i] - want_norm[i]) <= kinds[kind].gradient * want_norm[i],
                  "%s, step %d: loss %g, norm %g, on the host %g, %g", ways[way], i + 1,
                  loss[way][i], norm[way][i], want[i], want_norm[i]);
        }
        const size_t bytes = (size_t)lm->count * lm->element;
        if (!one) {
            one = lm;
            continue;
        }
        CHECK(!memcmp(lm->kept.param, one->kept.param, bytes) &&
                  !memcmp(lm->kept.m, one->kept.m, bytes) &&
                  !memcmp(lm->kept.v, one->kept.v, bytes),
              "%s: parameters or moments after %d steps differ", ways[way], (int)STEPS);
        gdni_lm_destroy(lm);
    }
    printf("%s: step %d: loss %.6f, norm %.6f; on the host %.6f, %.6f\n", kinds[kind].name,
           (int)STEPS, loss[2][STEPS - 1], norm[2][STEPS - 1], want[STEPS - 1],
           want_norm[STEPS - 1]);
    gdni_lm_destroy(one);
    gdni_lm_destroy(on_host);
}

/* A parameter that is infinite: the step says so and leaves the rest as it was. */
static void check_not_finite(const gdn_context *host, const gdn_context *cuda, int kind) {
    const gdni_lm_setup setup = {.device = cuda};
    double loss[STEPS], norm[STEPS];
    gdni_lm *lm = make(host, &setup, kinds[kind].dtype, 0);
    if (!lm)
        return;
    const size_t bytes = (size_t)lm->count * lm->element;
    float *before = malloc(3 * bytes);
    ((float *)lm->kept.param)[lm->params[gdni_lm_index(1, GDNI_LM_GATE_UP)].offset] = INFINITY;
    for (int64_t i = 0; i < lm->count; ++i)
        ((float *)lm->kept.m)[i] = ((float *)lm->kept.v)[i] = 0.25F;
    memcpy(before, lm->kept.param, 3 * bytes); /* param, m, v are one block */
    CHECK(gdni_lm_send(lm) == GDN_STATUS_OK, "%s", gdn_last_error());
    run_steps(lm, 1, loss, norm);
    CHECK(!isfinite(loss[STEPS - 1]) && !isfinite(norm[STEPS - 1]), "loss %g, norm %g",
          loss[STEPS - 1], norm[STEPS - 1]);
    fetch(lm);
    CHECK(!memcmp(before, lm->kept.param, 3 * bytes),
          "parameters or moments were changed by a gradient that is not finite");
    free(before);
    gdni_lm_destroy(lm);
}

/* The mean of passes over a sequence each is the pass over all of them. */
static void check_passes(const gdn_context *host, const gdn_context *cuda, int kind, int tied) {
    const gdni_lm_setup setup[2] = {{.device = cuda},
                                    {.device = cuda, .passes = SEQUENCES, .recompute = 2}};
    double loss[2] = {NAN, NAN}, norm[2] = {NAN, NAN};
    for (int i = 0; i < 2; ++i) {
        const gdni_lm_shape shape = shape_of(kinds[kind].dtype, tied);
        const int passes = i ? SEQUENCES : 1;
        const gdni_lm_update update = update_of(1);
        gdni_lm *lm = NULL;
        gdn_status status =
            gdni_lm_create(&lm, host, &shape, TOKENS / passes, SEQUENCES / passes, &setup[i]);
        if (status == GDN_STATUS_OK)
            status = gdni_lm_initialise(lm, 5);
        for (int k = 0; k < passes && status == GDN_STATUS_OK; ++k)
            status = gdni_lm_give(lm, tokens + k * CONTEXT, targets + k * CONTEXT);
        if (status == GDN_STATUS_OK)
            status = gdni_lm_begin(lm, &update, NULL);
        if (status == GDN_STATUS_OK)
            status = gdni_lm_end(lm, &loss[i], &norm[i]);
        CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
        gdni_lm_destroy(lm);
    }
    printf("%s, tied %d: loss and norm of %d passes %.8f, %.8f, of one %.8f, %.8f\n",
           kinds[kind].name, tied, (int)SEQUENCES, loss[1], norm[1], loss[0], norm[0]);
    /* fp32: the order of sums alone. bf16 rounds gradients of a mean over a third of the targets
     * elsewhere: a tenth of what rounding the weights does. */
    const double close = kind ? 1e-4 : 1e-6,
                 norm_close = kind ? kinds[kind].gradient / (10 * ROUNDINGS) : 1e-5;
    CHECK(fabs(loss[1] - loss[0]) <= close * loss[0] &&
              fabs(norm[1] - norm[0]) <= norm_close * norm[0],
          "loss %.9g, norm %.9g, in one pass %.9g, %.9g", loss[1], norm[1], loss[0], norm[0]);
}

static void check_tokens(const gdn_context *host, const gdn_context *cuda) {
    const gdni_lm_setup setup = {.device = cuda};
    double loss;
    gdni_lm *lm = make(host, &setup, GDN_DTYPE_FP32, 0);
    if (!lm)
        return;
    const int32_t kept = tokens[7];
    tokens[7] = VOCAB;
    CHECK(gdni_lm_loss(lm, tokens, targets, &loss) == GDN_STATUS_BAD_DATA &&
              strstr(gdn_last_error(), "tokens[7] is 61, expected 0 to 60"),
          "%s", gdn_last_error());
    tokens[7] = kept;
    CHECK(gdni_lm_loss(lm, tokens, targets, &loss) == GDN_STATUS_OK, "%s", gdn_last_error());
    gdni_lm_destroy(lm);
}

int main(void) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *host = NULL, *cuda = gpu_context();
    harness_random r = {11};
    if (!cuda)
        return 77;
    config.backend = GDN_BACKEND_CPU;
    config.threads = 2;
    CHECK(gdn_context_create(&host, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    for (int i = 0; i < TOKENS; ++i) {
        tokens[i] = (int32_t)(harness_next(&r) % VOCAB);
        targets[i] = i % 25 == 4 ? -1 : (int32_t)(harness_next(&r) % VOCAB);
    }
    measure_rounding(host);
    for (int kind = 0; kind < 2; ++kind) {
        check_gradient(host, cuda, kind, 0);
        check_gradient(host, cuda, kind, 1);
        check_steps(host, cuda, kind);
        check_not_finite(host, cuda, kind);
        check_passes(host, cuda, kind, 0);
        check_passes(host, cuda, kind, 1);
    }
    check_tokens(host, cuda);
    gdn_context_destroy(cuda);
    gdn_context_destroy(host);
    return harness_finish();
}
