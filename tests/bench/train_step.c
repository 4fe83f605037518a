/*
 * bench_train_step [NAME=VALUE...]: a training step of a language model on the device, on random
 * tokens: tokens a second, model FLOP utilisation, memory, and the step's time by part.
 *
 * The defaults are a model of 0.4 billion parameters at 262,144 tokens a step. Names: tokens,
 * context, layers, width, heads, dim, mlp, vocab, steps, passes, recompute (0 none, 1 states, 2
 * layer), inverse, fp32, plain. With svg=PATH the timeline is drawn.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "harness.h"
#include "lm.h"
#include "progress.h"

enum {
    WARM_UP = 3
};

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
    OPTIONS
};
static const char *const names[OPTIONS] = {"tokens",    "context", "layers", "width", "heads",
                                           "dim",       "mlp",     "vocab",  "steps", "passes",
                                           "recompute", "inverse", "fp32",   "plain"};
static long option[OPTIONS] = {262144, 32768, 24, 1024, 16, 128, 2048, 32768, 5, 1, 2, 0, 0, 0};

static void must(gdn_status status) {
    if (status == GDN_STATUS_OK)
        return;
    fprintf(stderr, "bench_train_step: %s\n", gdn_last_error());
    exit(1);
}

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
    const gdni_lm_setup setup = {.device = cuda,
                                 .recompute = (gdni_recompute)option[RECOMPUTE],
                                 .save_inverse = (int32_t)option[INVERSE],
                                 .plain = (int32_t)option[PLAIN],
                                 .passes = (int32_t)option[PASSES]};
    const int64_t tokens = option[TOKENS] / option[PASSES];
    gdni_lm *lm = NULL;
    must(gdni_lm_create(&lm, host, &shape, tokens, tokens / option[CONTEXT], &setup));
    must(gdni_lm_initialise(lm, 1));
    return lm;
}

static void describe(const gdni_lm *lm, const char *about) {
    int64_t parameters = 0;
    for (int32_t i = 0; i < lm->param_count; ++i)
        parameters += lm->params[i].count;
    printf("%s\n%.3f billion parameters, %ld layers, D %ld, heads %ld of %ld, MLP %ld, vocabulary "
           "%ld; %ld tokens a step in %ld passes, sequences of %ld, %s, recompute %ld%s%s\n",
           about, 1e-9 * (double)parameters, option[LAYERS], option[WIDTH], option[HEADS],
           option[DIM], option[MLP], option[VOCAB], option[TOKENS], option[PASSES], option[CONTEXT],
           gdn_dtype_name(lm->shape.dtype), option[RECOMPUTE],
           option[INVERSE] ? ", inverse kept" : "", option[PLAIN] ? ", no graph" : "");
}

static void give(gdni_lm *lm, const int32_t *tokens) {
    for (int32_t i = 0; i < lm->passes; ++i, tokens += lm->T)
        must(gdni_lm_give(lm, tokens, tokens + 1));
}

/* Steps as the trainer takes them: one is handed over while the one before it runs. */
static void run(gdni_lm *lm, const int32_t *tokens, gdni_timeline *timeline, double *seconds) {
    const int steps = WARM_UP + (int)option[STEPS];
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
        printf("step %d: loss %.5f, norm %.4f, %.2f ms\n", i, loss, norm, 1e3 * seconds[i - 1]);
    }
    must(gdni_lm_end(lm, &loss, &norm));
    seconds[steps - 1] = gdni_seconds() - before;
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

int main(int argc, char **argv) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *host = NULL, *cuda = NULL;
    gdni_timeline timeline = {0};
    harness_random r = {3};
    char about[400];
    size_t used = 0;
    const char *svg = parse(argc, argv);
    config.backend = GDN_BACKEND_CUDA;
    config.threads = 1;
    must(gdn_context_create(&cuda, &config));
    must(gdn_device_describe(0, about, sizeof(about)));
    config.backend = GDN_BACKEND_CPU;
    config.threads = 0;
    must(gdn_context_create(&host, &config));
    int32_t *tokens = malloc((size_t)(option[TOKENS] + 1) * sizeof(*tokens));
    double *seconds = calloc((size_t)(WARM_UP + option[STEPS]), sizeof(*seconds));
    for (long i = 0; i <= option[TOKENS]; ++i)
        tokens[i] = (int32_t)(harness_next(&r) % (uint64_t)option[VOCAB]);
    gdni_lm *lm = make(host, cuda);
    describe(lm, about);
    run(lm, tokens, &timeline, seconds);
    must(lm->memory->used(lm->memory, &used));
    qsort(seconds + WARM_UP, (size_t)option[STEPS], sizeof(*seconds), by_size);
    const double median = seconds[WARM_UP + option[STEPS] / 2];
    const double rate = (double)option[TOKENS] / median, peak = gdni_backend_peak(about);
    printf("median step %.2f ms, %.0f tokens/s, %.1f TFLOP/s of the model", 1e3 * median, rate,
           1e-12 * rate * gdni_lm_flops(lm));
    if (peak > 0)
        printf(", MFU %.1f%%", 100 * rate * gdni_lm_flops(lm) / peak);
    printf("; the model takes %.2f GB, in use on the device %.2f GB\n",
           1e-9 * (double)lm->memory_bytes, 1e-9 * (double)used);
    print_timeline(lm, &timeline);
    if (svg)
        must(gdni_timeline_draw(&timeline, "One training step", svg));
    gdni_timeline_free(&timeline);
    gdni_lm_destroy(lm);
    gdn_context_destroy(cuda);
    gdn_context_destroy(host);
    free(tokens);
    free(seconds);
    return 0;
}
