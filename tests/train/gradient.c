/* The gradient of the whole model in float64 against central differences, tensor by tensor. */
#include "harness.h"
#include "lm.h"

enum {
    SEQUENCES = 2,
    CONTEXT = 11,
    TOKENS = SEQUENCES * CONTEXT,
    VOCAB = 13,
    DIRECTIONS = 3
};

static double loss_at(gdni_lm *lm, const int32_t *tokens, const int32_t *targets) {
    double loss = NAN;
    const gdn_status status = gdni_lm_loss(lm, tokens, targets, &loss);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    return loss;
}

/* <gradient, direction> against the difference quotient, within 1e-7 of the gradient's size. */
static void check_tensor(gdni_lm *lm, const double *grad, const gdni_lm_param *p,
                         const int32_t *tokens, const int32_t *targets, harness_random *r) {
    double *param = (double *)lm->param + p->offset, norm = 0;
    double *direction = malloc((size_t)p->count * sizeof(double));
    double *start = malloc((size_t)p->count * sizeof(double));
    const double step = 1e-5;
    grad += p->offset;
    for (int64_t i = 0; i < p->count; ++i)
        norm += grad[i] * grad[i];
    norm = sqrt(norm);
    CHECK(norm > 1e-8, "%s: gradient's norm is %g", p->name, norm);
    memcpy(start, param, (size_t)p->count * sizeof(double));
    for (int d = 0; d < DIRECTIONS; ++d) {
        static const double place[4] = {-2, -1, 1, 2};
        double slope = 0, loss[4];
        for (int64_t i = 0; i < p->count; ++i) {
            direction[i] = harness_normal(r);
            slope += direction[i] * grad[i];
        }
        for (int at = 0; at < 4; ++at) {
            for (int64_t i = 0; i < p->count; ++i)
                param[i] = start[i] + place[at] * step * direction[i];
            loss[at] = loss_at(lm, tokens, targets);
        }
        memcpy(param, start, (size_t)p->count * sizeof(double));
        /* Of fourth order: what it leaves out is far below the tolerance. */
        const double quotient = (8 * (loss[2] - loss[1]) - (loss[3] - loss[0])) / (12 * step);
        CHECK(fabs(quotient - slope) <= 1e-7 * norm + 1e-9,
              "%s: difference quotient %.12g, gradient %.12g", p->name, quotient, slope);
    }
    free(direction);
    free(start);
}

static void check_model(const gdn_context *context, int tied) {
    const gdni_lm_shape shape = {.dtype = GDN_DTYPE_FP64,
                                 .vocab = VOCAB,
                                 .width = 12,
                                 .layers = 2,
                                 .key_heads = 2,
                                 .value_heads = 4,
                                 .key_dim = 5,
                                 .value_dim = 3,
                                 .conv_width = 4,
                                 .mlp = 9,
                                 .tied = tied};
    harness_random r = {7 + (uint64_t)tied};
    int32_t tokens[TOKENS], targets[TOKENS];
    double loss = NAN, again = NAN;
    gdni_lm *lm = NULL;
    const gdn_status made = gdni_lm_create(&lm, context, &shape, TOKENS, SEQUENCES, NULL);
    CHECK(made == GDN_STATUS_OK, "%s", gdn_last_error());
    if (!lm)
        return;
    gdni_lm_initialise(lm, 3);
    /* Away from the small embedding, at which the norms bend too much for finite differences. */
    for (int64_t i = 0; i < lm->params[0].count; ++i)
        ((double *)lm->param)[lm->params[0].offset + i] *= 25;
    for (int i = 0; i < TOKENS; ++i) {
        tokens[i] = (int32_t)(harness_next(&r) % VOCAB);
        targets[i] = i % 9 == 4 ? -1 : (int32_t)(harness_next(&r) % VOCAB);
    }
    const gdn_status status = gdni_lm_gradient(lm, tokens, targets, &loss);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    again = loss_at(lm, tokens, targets);
    CHECK(fabs(loss - again) <= 1e-14 * loss, "loss %.17g with backward, %.17g without", loss,
          again);
    double *grad = malloc((size_t)lm->count * sizeof(double));
    memcpy(grad, lm->grad, (size_t)lm->count * sizeof(double));
    for (int32_t i = 0; i < lm->param_count; ++i)
        check_tensor(lm, grad, &lm->params[i], tokens, targets, &r);
    free(grad);
    gdni_lm_destroy(lm);
}

int main(void) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context = NULL;
    config.backend = GDN_BACKEND_REFERENCE;
    const gdn_status status = gdn_context_create(&context, &config);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    check_model(context, 0);
    check_model(context, 1);
    gdn_context_destroy(context);
    return harness_finish();
}
