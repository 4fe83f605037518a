/* A token at a time gives the losses of the whole sequence at once. */
#include "sampler.h"

#include "harness.h"

enum {
    TOKENS = 70,
    VOCAB = 17
};

static double logit(const gdni_lm *lm, const void *logits, int32_t i) {
    return lm->shape.dtype == GDN_DTYPE_FP64 ? ((const double *)logits)[i]
                                             : (double)((const float *)logits)[i];
}

static double nats(const gdni_lm *lm, const void *logits, int32_t target) {
    double sum = 0;
    for (int32_t i = 0; i < VOCAB; ++i)
        sum += exp(logit(lm, logits, i));
    return log(sum) - logit(lm, logits, target);
}

static double loss_by_token(gdni_sampler *sampler, const gdni_lm *lm, const int32_t *tokens,
                            const int32_t *targets) {
    double sum = 0;
    for (int i = 0; i < TOKENS; ++i) {
        const void *logits = NULL;
        const gdn_status status = gdni_sampler_feed(sampler, tokens[i], &logits);
        CHECK(status == GDN_STATUS_OK, "token %d: %s", i, gdn_last_error());
        if (!logits)
            return NAN;
        sum += nats(lm, logits, targets[i]) / TOKENS;
    }
    return sum;
}

static void check(gdn_backend backend, gdn_dtype dtype, int tied, double tolerance) {
    const gdni_lm_shape shape = {.dtype = dtype,
                                 .vocab = VOCAB,
                                 .width = 16,
                                 .layers = 2,
                                 .key_heads = 1,
                                 .value_heads = 2,
                                 .key_dim = 8,
                                 .value_dim = 8,
                                 .conv_width = tied ? 1 : 4,
                                 .mlp = 12,
                                 .tied = tied};
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context = NULL;
    gdni_lm *lm = NULL;
    gdni_sampler *sampler = NULL;
    harness_random r = {5};
    int32_t tokens[TOKENS], targets[TOKENS];
    double whole = NAN;
    config.backend = backend;
    for (int i = 0; i < TOKENS; ++i) {
        tokens[i] = (int32_t)(harness_next(&r) % VOCAB);
        targets[i] = (int32_t)(harness_next(&r) % VOCAB);
    }
    gdn_status status = gdn_context_create(&context, &config);
    if (status == GDN_STATUS_OK)
        status = gdni_lm_create(&lm, context, &shape, TOKENS, 1, NULL);
    if (status == GDN_STATUS_OK)
        status = gdni_sampler_create(&sampler, lm);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    if (status != GDN_STATUS_OK)
        return;
    gdni_lm_initialise(lm, 11);
    status = gdni_lm_loss(lm, tokens, targets, &whole);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    const double first = loss_by_token(sampler, lm, tokens, targets);
    CHECK(fabs(first - whole) <= tolerance, "by token %.15g, whole %.15g", first, whole);
    gdni_sampler_reset(sampler);
    const double second = loss_by_token(sampler, lm, tokens, targets);
    CHECK(first == second, "after a reset %.17g, before %.17g", second, first);
    gdni_sampler_destroy(sampler);
    gdni_lm_destroy(lm);
    gdn_context_destroy(context);
}

static void check_choice(void) {
    const float logits[4] = {0.0f, logf(2.0f), logf(5.0f), -100.0f};
    const gdni_lm lm = {.shape = {.dtype = GDN_DTYPE_FP32, .vocab = 4}};
    CHECK(gdni_sampler_choose(&lm, logits, 0.0, 0.1) == 2, "the likeliest is 2");
    CHECK(gdni_sampler_choose(&lm, logits, 1.0, 0.12) == 0, "below 1/8");
    CHECK(gdni_sampler_choose(&lm, logits, 1.0, 0.13) == 1, "above 1/8");
    CHECK(gdni_sampler_choose(&lm, logits, 1.0, 0.37) == 1, "below 3/8");
    CHECK(gdni_sampler_choose(&lm, logits, 1.0, 0.38) == 2, "above 3/8");
    CHECK(gdni_sampler_choose(&lm, logits, 0.5, 0.13) == 1, "1 : 4 : 25 at half the temperature");
    CHECK(gdni_sampler_choose(&lm, logits, 0.5, 0.17) == 2, "1 : 4 : 25 at half the temperature");
}

int main(void) {
    check(GDN_BACKEND_REFERENCE, GDN_DTYPE_FP64, 0, 1e-12);
    check(GDN_BACKEND_REFERENCE, GDN_DTYPE_FP64, 1, 1e-12);
    check(GDN_BACKEND_CPU, GDN_DTYPE_FP32, 0, 1e-5);
    check_choice();
    return harness_finish();
}
