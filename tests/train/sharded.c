/* The model over ranks: loss and gradient of the whole batch, on every rank and bit for bit the
 * same there, whatever the groups, and whatever backward computes again; and a parameter that
 * differs on one rank is found. */
#include "gdn_dist.h"
#include "harness.h"
#include "lm.h"

enum {
    SEQUENCES = 5,
    CONTEXT = 11,
    TOKENS = SEQUENCES * CONTEXT,
    VOCAB = 13
};

static int32_t tokens[TOKENS], targets[TOKENS];

static gdni_lm *make_model(const gdn_context *context, int tied, gdni_recompute recompute,
                           gdni_ranks *ranks) {
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
    const gdni_lm_setup setup = {.ranks = ranks, .recompute = recompute};
    gdni_lm *lm = NULL;
    const gdn_status status = gdni_lm_create(&lm, context, &shape, TOKENS, SEQUENCES, &setup);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    if (lm)
        gdni_lm_initialise(lm, 3);
    return lm;
}

/* Both losses and the gradient of this rank's part of the batch. */
static void compute(gdni_lm *lm, const gdni_part *part, double loss[2]) {
    gdn_status status = gdni_lm_loss(lm, tokens + part->first, targets + part->first, &loss[0]);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    status = gdni_lm_gradient(lm, tokens + part->first, targets + part->first, &loss[1]);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
}

/* Largest difference over a tensor's largest value, of all tensors. */
static double largest_error(const gdni_lm *lm, const double *a, const double *b) {
    double worst = 0;
    for (int32_t i = 0; i < lm->param_count; ++i) {
        const gdni_lm_param *p = &lm->params[i];
        double size = 0, error = 0;
        for (int64_t k = p->offset; k < p->offset + p->count; ++k) {
            size = fmax(size, fabs(b[k]));
            error = fmax(error, fabs(a[k] - b[k]));
        }
        CHECK(size > 0, "%s: no gradient", p->name);
        worst = fmax(worst, error / size);
    }
    return worst;
}

static void check_difference(gdni_lm *lm, int32_t rank) {
    gdn_status status = gdni_lm_compare(lm, GDN_STATUS_OK, "step 7");
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    if (rank == 1)
        ((double *)lm->param)[lm->params[2].offset + 5] += 1e-15;
    status = gdni_lm_compare(lm, GDN_STATUS_OK, "step 7");
    CHECK(status == GDN_STATUS_INVALID_ARGUMENT &&
              strstr(gdn_last_error(), "hash of the parameters") &&
              strstr(gdn_last_error(), "on rank 1: expected the same"),
          "another parameter on rank 1: status %d, %s", (int)status, gdn_last_error());
}

static void check_model(const gdn_context *context, gdn_dist *dist, int tied,
                        gdni_recompute recompute) {
    gdni_ranks ranks;
    const gdni_part whole = gdni_part_of(NULL, SEQUENCES, CONTEXT);
    double alone[2] = {NAN, NAN}, shared[2] = {NAN, NAN};
    CHECK(gdni_ranks_open(&ranks, dist) == GDN_STATUS_OK, "%s", gdn_last_error());
    const gdni_part part = gdni_part_of(&ranks, SEQUENCES, CONTEXT);
    gdni_lm *one = make_model(context, tied, GDNI_RECOMPUTE_NONE, NULL),
            *many = make_model(context, tied, recompute, &ranks);
    if (one && many) {
        compute(one, &whole, alone);
        compute(many, &part, shared);
        for (int i = 0; i < 2; ++i)
            CHECK(fabs(shared[i] - alone[i]) <= 1e-13 * alone[i],
                  "%d ranks, %d a sequence: loss %.17g, alone %.17g", ranks.ranks, ranks.width,
                  shared[i], alone[i]);
        const double error = largest_error(one, many->grad, one->grad);
        CHECK(error <= 1e-11, "%d ranks, %d a sequence: error of the gradient %.3g", ranks.ranks,
              ranks.width, error);
        memcpy(many->param, many->grad, (size_t)many->count * sizeof(double));
        check_difference(many, ranks.rank);
        if (ranks.rank == 0)
            printf("%d ranks, %d a sequence, tied %d, recompute %d: error of the gradient %.2e\n",
                   ranks.ranks, ranks.width, tied, (int)recompute, error);
    }
    gdni_lm_destroy(many);
    gdni_lm_destroy(one);
    gdni_ranks_close(&ranks);
}

static void check_width(const gdn_context *context, int32_t width) {
    gdn_dist_config config = GDN_DIST_CONFIG_INIT;
    gdn_dist *dist = NULL;
    config.sequence_ranks = width;
    const gdn_status status = gdn_dist_create(&dist, &config);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    if (!dist)
        return;
    check_model(context, dist, 0, GDNI_RECOMPUTE_NONE);
    check_model(context, dist, 1, GDNI_RECOMPUTE_NONE);
    check_model(context, dist, 1, GDNI_RECOMPUTE_STATES);
    check_model(context, dist, 0, GDNI_RECOMPUTE_LAYER);
    gdn_dist_destroy(dist);
}

/* widths: ranks a sequence, one after the other */
int main(int argc, char **argv) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context = NULL;
    harness_random r = {7};
    int32_t started = 0;
    config.backend = GDN_BACKEND_REFERENCE;
    gdn_status status = gdn_context_create(&context, &config);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    status = gdn_dist_start(0.0, &started);
    CHECK(status == GDN_STATUS_OK && started, "not under mpirun");
    for (int i = 0; i < TOKENS; ++i) {
        tokens[i] = (int32_t)(harness_next(&r) % VOCAB);
        /* Ranks have different numbers of targets, and the end of the batch none. */
        targets[i] = i % 9 == 4 || i >= TOKENS - 8 ? -1 : (int32_t)(harness_next(&r) % VOCAB);
    }
    for (int i = 1; started && i < argc; ++i)
        check_width(context, atoi(argv[i]));
    gdn_context_destroy(context);
    if (started)
        gdn_dist_finish(0.0);
    return harness_finish();
}
