/* A small model learns a short text by heart, and two runs agree bit for bit. */
#include "harness.h"
#include "lm.h"
#include "trainer.h"

enum {
    SEQUENCES = 2,
    CONTEXT = 66,
    TOKENS = SEQUENCES * CONTEXT,
    STEPS = 150
};

static const char text[] =
    "In the beginning God created the heaven and the earth. And the earth was without form, and "
    "void; and darkness was upon the face of the deep.";

static double train(const gdn_context *context, const int32_t *tokens, const int32_t *targets,
                    double *first, float **parameters, int64_t *count) {
    const gdni_lm_shape shape = {.dtype = GDN_DTYPE_FP32,
                                 .vocab = 256,
                                 .width = 48,
                                 .layers = 2,
                                 .key_heads = 1,
                                 .value_heads = 2,
                                 .key_dim = 16,
                                 .value_dim = 16,
                                 .conv_width = 4,
                                 .mlp = 64,
                                 .tied = 1};
    gdni_lm *lm = NULL;
    double loss = NAN;
    const gdn_status made = gdni_lm_create(&lm, context, &shape, TOKENS, SEQUENCES, NULL);
    CHECK(made == GDN_STATUS_OK, "%s", gdn_last_error());
    if (!lm)
        return loss;
    gdni_lm_initialise(lm, 1);
    for (int step = 1; step <= STEPS; ++step) {
        gdni_lm_update update = {
            .count = step, .lr = 5e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .clip = 1.0};
        gdn_status status = gdni_lm_gradient(lm, tokens, targets, &loss);
        if (status == GDN_STATUS_OK)
            status = gdni_lm_step(lm, &update);
        if (status != GDN_STATUS_OK) {
            CHECK(0, "step %d: %s", step, gdn_last_error());
            break;
        }
        if (step == 1)
            *first = loss;
    }
    *count = lm->count;
    *parameters = malloc((size_t)lm->count * sizeof(float));
    memcpy(*parameters, lm->param, (size_t)lm->count * sizeof(float));
    gdni_lm_destroy(lm);
    return loss;
}

static void check_learning_rate(void) {
    const gdni_config c = {.steps = 110, .warmup = 10, .lr = 1e-2, .min_lr = 1e-3};
    CHECK(fabs(gdni_learning_rate(&c, 1) - 1e-3) < 1e-15, "first of ten steps of warm-up");
    CHECK(fabs(gdni_learning_rate(&c, 10) - 1e-2) < 1e-15, "end of warm-up");
    CHECK(fabs(gdni_learning_rate(&c, 60) - 5.5e-3) < 1e-15, "middle of the cosine");
    CHECK(fabs(gdni_learning_rate(&c, 110) - 1e-3) < 1e-15, "floor");
}

int main(void) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context = NULL;
    int32_t tokens[TOKENS], targets[TOKENS];
    float *parameters[2] = {NULL, NULL};
    double first[2] = {NAN, NAN}, last[2];
    int64_t count = 0;
    config.backend = GDN_BACKEND_CPU;
    config.threads = 2;
    for (int i = 0; i < TOKENS; ++i) {
        tokens[i] = (unsigned char)text[i];
        targets[i] = (unsigned char)text[i + 1];
    }
    const gdn_status status = gdn_context_create(&context, &config);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    for (int run = 0; run < 2; ++run)
        last[run] = train(context, tokens, targets, &first[run], &parameters[run], &count);
    printf("loss %.4f -> %.4f\n", first[0], last[0]);
    CHECK(fabs(first[0] - log(256)) < 0.5, "a new model's loss is %g, expected about log 256",
          first[0]);
    CHECK(last[0] < 0.05, "after %d steps the loss is %g", STEPS, last[0]);
    CHECK(last[0] == last[1], "two runs end at %.17g and %.17g", last[0], last[1]);
    CHECK(parameters[0] && parameters[1] &&
              !memcmp(parameters[0], parameters[1], (size_t)count * sizeof(float)),
          "two runs end with different parameters");
    check_learning_rate();
    for (int run = 0; run < 2; ++run)
        free(parameters[run]);
    gdn_context_destroy(context);
    return harness_finish();
}
