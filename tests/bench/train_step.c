/*
 * bench_train_step [NAME=VALUE...]: a training step of a language model on the device, on random
 * tokens: tokens a second, model FLOP utilisation, memory, and the step's time by part.
 *
 * The defaults are a model of 0.4 billion parameters at 262,144 tokens a step. Names: tokens,
 * context, layers, width, heads, dim, mlp, vocab, steps, passes, recompute (0 none, 1 states, 2
 * layer), inverse, fp32, plain, sequence_ranks, warm_up, slow
 * (heads of each layer that forget nothing; the others are those of a new model). With svg=PATH the
 * timeline is drawn.
 *
 * Under mpirun the ranks take the devices in turn and share the step's tokens as those of gdn train
 * do: every sequence, or the batch with sequence_ranks=1. Rank 0 prints: its own memory and times,
 * MFU a device, and how much of a step sums over ranks took beside nothing else.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#ifdef GDNI_HAVE_MPI
#include "gdn_dist.h"
#endif
#include "harness.h"
#include "lm.h"
#include "progress.h"

/* In this order. */
enum {
    TOKENS,
    CONTEXT,
    LAYERS,
    WIDTH,
    HEADS,
    DIM,
    MLP,
    VOCAB,
    STEPS,
    PASSES,
    RECOMPUTE,
    INVERSE,
    FP32,
    PLAIN,
    SEQUENCE_RANKS,
    WARM_UP,
    SLOW,
    OPTIONS
};
static const char *const names[OPTIONS] = {
    "tokens", "context", "layers",         "width",   "heads",     "dim",
    "mlp",    "vocab",   "steps",          "passes",  "recompute", "inverse",
    "fp32",   "plain",   "sequence_ranks", "warm_up", "slow"};
static long option[] = {262144, 32768, 24, 1024, 16, 128, 2048, 32768, 5, 1, 2, 0, 0, 0, 0, 3, 0};
_Static_assert(sizeof(option) / sizeof(option[0]) == OPTIONS, "a value for each name");

/* ---- Ranks -------------------------------------------------------------------------------------
 */

static gdni_ranks all_ranks, *ranks; /* NULL: alone */

static void must(gdn_status status);

#ifdef GDNI_HAVE_MPI
static gdn_dist *dist;

static void must(gdn_status status) {
    if (status == GDN_STATUS_OK)
        return;
    if (dist)
        gdn_dist_abort(dist, 1, NULL);
    fprintf(stderr, "bench_train_step: %s\n", gdn_last_error());
    exit(1);
}

static void open_ranks(void) {
    gdn_dist_config config = GDN_DIST_CONFIG_INIT;
    int32_t started = 0;
    must(gdn_dist_start(config.deadline, &started));
    if (!started)
        return;
    config.sequence_ranks = (int32_t)option[SEQUENCE_RANKS];
    must(gdn_dist_create(&dist, &config));
    if (gdn_dist_ranks(dist, GDN_DIST_WORLD) == 1)
        return;
    must(gdni_ranks_open(&all_ranks, dist));
    ranks = &all_ranks;
}

/* Before the device's context. */
static void close_ranks(void) {
    if (ranks)
        gdni_ranks_close(ranks);
    gdn_dist_destroy(dist);
}

static void finish_ranks(void) {
    if (dist)
        gdn_dist_finish(0);
}
#else
static void must(gdn_status status) {
    if (status == GDN_STATUS_OK)
        return;
    fprintf(stderr, "bench_train_step: %s\n", gdn_last_error());
    exit(1);
}

static void open_ranks(void) {}
static void close_ranks(void) {}
static void finish_ranks(void) {}
#endif

/* The others are silent. */
static int prints(void) {
    return !ranks || ranks->rank == 0;
}

/* ---- The model ---------------------------------------------------------------------------------
 */

static const char *parse(int argc, char **argv) {
    const char *svg = NULL;
    for (int i = 1; i < argc; ++i) {
        const char *value = strchr(argv[i], '=');
        int k = 0;
        while (value && k < OPTIONS &&
               (strncmp(argv[i], names[k], (size_t)(value - argv[i])) || names[k][value - argv[i]]))
            ++k;
        if (value && !strncmp(argv[i], "svg=", 4)) {
            svg = value + 1;
        } else if (value && k < OPTIONS) {
            option[k] = strtol(value + 1, NULL, 10);
        } else {
            fprintf(stderr, "bench_train_step: %s: unknown option\n", argv[i]);
            exit(2);
        }
    }
    return svg;
}

static gdni_lm *make(const gdn_context *host, const gdn_context *cuda) {
    const gdni_lm_shape shape = {.dtype = option[FP32] ? GDN_DTYPE_FP32 : GDN_DTYPE_BF16,
                                 .vocab = (int32_t)option[VOCAB],
                                 .width = (int32_t)option[WIDTH],
                                 .layers = (int32_t)option[LAYERS],
                                 .key_heads = (int32_t)option[HEADS],
                                 .value_heads = (int32_t)option[HEADS],
                                 .key_dim = (int32_t)option[DIM],
                                 .value_dim = (int32_t)option[DIM],
                                 .conv_width = 4,
                                 .mlp = (int32_t)option[MLP],
                                 .tied = 1};
    const gdni_lm_setup setup = {.ranks = ranks,
                                 .device = cuda,
                                 .recompute = (gdni_recompute)option[RECOMPUTE],
                                 .save_inverse = (int32_t)option[INVERSE],
                                 .plain = (int32_t)option[PLAIN],
                                 .passes = (int32_t)option[PASSES]};
    const int64_t tokens = option[TOKENS] / option[PASSES];
    gdni_lm *lm = NULL;
    if (ranks)
        must(gdni_ranks_use_device(ranks, cuda));
    must(gdni_lm_create(&lm, host, &shape, tokens, tokens / option[CONTEXT], &setup));
    must(gdni_lm_initialise(lm, 1));
    for (int32_t i = 0; i < shape.layers && option[SLOW] > 0; ++i) {
        float *A_log = gdni_lm_at(lm, lm->kept.param, gdni_lm_index(i, GDNI_LM_ALOG));
        for (int32_t h = 0; h < shape.value_heads && h < option[SLOW]; ++h)
            A_log[h] = -20;
    }
    must(gdni_lm_send(lm));
    return lm;
}

static void describe(const gdni_lm *lm, const char *about) {
    int64_t parameters = 0;
    for (int32_t i = 0; i < lm->param_count; ++i)
        parameters += lm->params[i].count;
    if (!prints())
        return;
    if (ranks)
        printf("%d ranks, %d a sequence, messages %s; rank 0: ", ranks->ranks, ranks->width,
               ranks->sum_device ? "over NCCL" : "through the host");
    printf("%s\n%.3f billion parameters, %ld layers, D %ld, heads %ld of %ld, MLP %ld, vocabulary "
           "%ld; %ld tokens a step in %ld passes, sequences of %ld, %s, recompute %ld%s%s%s\n",
           about, 1e-9 * (double)parameters, option[LAYERS], option[WIDTH], option[HEADS],
           option[DIM], option[MLP], option[VOCAB], option[TOKENS], option[PASSES], option[CONTEXT],
           gdn_dtype_name(lm->shape.dtype), option[RECOMPUTE],
           option[INVERSE] ? ", inverse kept" : "", option[PLAIN] ? ", no graph" : "",
           option[SLOW] ? ", heads that forget nothing" : "");
}

/* This rank's part of every pass. */
static void give(gdni_lm *lm, const int32_t *tokens) {
    const int64_t count = option[TOKENS] / option[PASSES];
    const gdni_part part = gdni_part_of(ranks, count / option[CONTEXT], option[CONTEXT]);
    for (int32_t i = 0; i < lm->passes; ++i, tokens += count)
        must(gdni_lm_give(lm, tokens + part.first, tokens + part.first + 1));
}

/* Steps as the trainer takes them: one is handed over while the one before it runs. waited: of the
 * steps after the first ones. */
static void run(gdni_lm *lm, const int32_t *tokens, gdni_timeline *timeline, double *seconds,
                double *waited) {
    const int steps = (int)(option[WARM_UP] + option[STEPS]);
    double loss = 0, norm = 0, before = gdni_seconds();
    give(lm, tokens);
    for (int i = 0; i < steps; ++i) {
        const gdni_lm_update update = {.count = i + 1,
                                       .lr = 1e-4,
                                       .beta1 = 0.9,
                                       .beta2 = 0.95,
                                       .eps = 1e-8,
                                       .weight_decay = 0.1,
                                       .clip = 1};
        must(gdni_lm_begin(lm, &update, NULL));
        give(lm, tokens);
        if (i == 0)
            continue;
        must(gdni_lm_end(lm, &loss, &norm));
        const double now = gdni_seconds();
        seconds[i - 1] = now - before;
        before = now;
        if (i == option[WARM_UP])
            lm->waited = 0;
        if (prints())
            printf("step %d: loss %.5f, norm %.4f, %.2f ms\n", i, loss, norm, 1e3 * seconds[i - 1]);
        fflush(stdout);
    }
    must(gdni_lm_end(lm, &loss, &norm));
    seconds[steps - 1] = gdni_seconds() - before;
    *waited = lm->waited;
    const gdni_lm_update last = {.count = steps + 1,
                                 .lr = 0,
                                 .beta1 = 0.9,
                                 .beta2 = 0.95,
                                 .eps = 1e-8,
                                 .weight_decay = 0.1,
                                 .clip = 1};
    must(gdni_lm_begin(lm, &last, timeline));
    must(gdni_lm_end(lm, &loss, &norm));
}

static void print_timeline(gdni_lm *lm, gdni_timeline *t) {
    double sums[GDNI_SPAN_PARTS][GDNI_SPAN_PASSES] = {{0}}, all = 0;
    must(gdni_lm_read_spans(lm, t, &all));
    if (!prints())
        return;
    for (int32_t i = 0; i < t->count; ++i)
        sums[t->spans[i].part][t->spans[i].pass] += t->spans[i].end - t->spans[i].begin;
    printf("%-20s", "ms");
    for (int pass = 0; pass < GDNI_SPAN_PASSES; ++pass)
        printf(" %14s", gdni_span_passes[pass]);
    printf(" %9s %6s\n", "all", "%");
    for (int part = 0; part < GDNI_SPAN_PARTS; ++part) {
        double sum = 0;
        for (int pass = 0; pass < GDNI_SPAN_PASSES; ++pass)
            sum += sums[part][pass];
        if (!(sum > 0))
            continue;
        printf("%-20s", gdni_span_parts[part]);
        for (int pass = 0; pass < GDNI_SPAN_PASSES; ++pass)
            printf(" %14.2f", 1e3 * sums[part][pass]);
        printf(" %9.2f %6.1f\n", 1e3 * sum, 100 * sum / all);
    }
    printf("%-20s %69.2f\n", "profiled step", 1e3 * all);
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median, rates and memory, as rank 0 sees them. */
static void print_result(const gdni_lm *lm, double *seconds, double waited, const char *about) {
    const long steps = option[STEPS];
    double all = 0;
    size_t used = 0;
    must(lm->memory->used(lm->memory, &used));
    for (long i = 0; i < steps; ++i)
        all += seconds[option[WARM_UP] + i];
    qsort(seconds + option[WARM_UP], (size_t)steps, sizeof(*seconds), by_size);
    const double *sorted = seconds + option[WARM_UP], median = sorted[steps / 2];
    const double rate = (double)option[TOKENS] / median, peak = gdni_backend_peak(about);
    if (!prints())
        return;
    printf("median step %.2f ms (%.2f to %.2f), %.0f tokens/s, %.1f TFLOP/s of the model",
           1e3 * median, 1e3 * sorted[0], 1e3 * sorted[steps - 1], rate,
           1e-12 * rate * gdni_lm_flops(lm));
    if (peak > 0)
        printf(", MFU %.1f%%", 100 * rate * gdni_lm_flops(lm) / peak / (ranks ? ranks->ranks : 1));
    if (ranks)
        printf(", sums beside nothing else %.1f%%", 100 * waited / all);
    printf("; the model takes %.2f GB, in use on the device %.2f GB\n",
           1e-9 * (double)lm->memory_bytes, 1e-9 * (double)used);
}

int main(int argc, char **argv) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *host = NULL, *cuda = NULL;
    gdni_timeline timeline = {0};
    harness_random r = {3};
    char about[400];
    double waited = 0;
    const char *svg = parse(argc, argv);
    open_ranks();
    const int32_t devices = gdn_device_count();
    config.backend = GDN_BACKEND_CUDA;
    config.device = ranks && devices ? ranks->rank % devices : 0;
    config.threads = 1;
    must(gdn_context_create(&cuda, &config));
    must(gdn_device_describe(config.device, about, sizeof(about)));
    config.backend = GDN_BACKEND_CPU;
    config.threads = 0;
    must(gdn_context_create(&host, &config));
    int32_t *tokens = malloc((size_t)(option[TOKENS] + 1) * sizeof(*tokens));
    double *seconds = calloc((size_t)(option[WARM_UP] + option[STEPS]), sizeof(*seconds));
    for (long i = 0; i <= option[TOKENS]; ++i)
        tokens[i] = (int32_t)(harness_next(&r) % (uint64_t)option[VOCAB]);
    gdni_lm *lm = make(host, cuda);
    describe(lm, about);
    run(lm, tokens, &timeline, seconds, &waited);
    print_result(lm, seconds, waited, about);
    print_timeline(lm, &timeline);
    if (svg && prints())
        must(gdni_timeline_draw(&timeline, "One training step", svg));
    gdni_timeline_free(&timeline);
    gdni_lm_destroy(lm);
    close_ranks();
    gdn_context_destroy(cuda);
    gdn_context_destroy(host);
    free(tokens);
    free(seconds);
    finish_ranks();
    return 0;
}
