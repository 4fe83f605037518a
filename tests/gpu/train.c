/*
 * train MODE FOLDER: training on the device.
 *
 *   fp32     losses are those of the host up to what rounding alone does, whatever is computed again
 *   bf16     losses of 300 steps and at the end are near them
 *   graph    steps that are replayed, or end late, are the same bits as plain ones and as ones that
 *            are waited for
 *   resume   either backend continues the other's checkpoint; the same one continues bit for bit,
 *            also from a checkpoint that was written beside the steps after it
 *   nan      a step that is not finite ends the run, at that step, and leaves the last checkpoint
 *   refuse   what the device cannot compute is refused by cuda, and auto takes the host
 */
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gdn_io.h"
#include "gpu.h"
#include "lm.h"
#include "progress.h"
#include "trainer.h"

enum {
    STEPS = 60,
    BF16_STEPS = 300,
    MOST_STEPS = BF16_STEPS,
    EARLY_STEPS = 20,
    WORDS = 40,
    TEXT_WORDS = 4000
};

/* Relative differences of losses. Rounding, of 6e-8 a value, is amplified by training: another
 * order of summation on the host alone is measured beside them, and 20 times as much is rounding
 * too.
 *
 * bf16 rounds every activation and weight, and training amplifies that as well: a run that takes
 * its first step alone in bf16 ends 0.003 to 0.007 nats from the host's, two builds' host runs
 * 0.009 from one another. Averages of 10 steps, as gdn plot draws them, and held-out losses of a
 * run all in bf16 may differ by BF16_GAP, of the 4 nats that the curve falls by (0.015 and 0.012 on
 * an H200). */
static const double EARLY = 5e-7, LATE = 2e-6, ROUNDING = 20;
static const double BF16_GAP = 0.03, BF16_FIRST_STEP = 0.01, BF16_END = 5e-3;
enum {
    SMOOTHING = 10
};

static char data[4096];
static const char *folder;

/* Words of few letters in random order, as a dataset. */
static void make_data(void) {
    char path[4096], words[WORDS][8] = {{0}};
    harness_random random = {4};
    gdn_io_dataset_options options = GDN_IO_DATASET_OPTIONS_INIT;
    for (int i = 0; i < WORDS; ++i)
        for (int n = 2 + (int)(4 * harness_uniform(&random)); n > 0; --n)
            words[i][n - 1] = (char)('a' + (int)(14 * harness_uniform(&random)));
    snprintf(path, sizeof(path), "%s/text.txt", folder);
    snprintf(data, sizeof(data), "%s/text.h5", folder);
    FILE *file = fopen(path, "w");
    if (!file) {
        CHECK(0, "cannot write %s", path);
        return;
    }
    for (int i = 0; i < TEXT_WORDS; ++i)
        fprintf(file, "%s ", words[(int)(WORDS * harness_uniform(&random))]);
    fclose(file);
    options.heldout_fraction = 0.1;
    CHECK(gdn_io_dataset_create(data, path, &options) == GDN_STATUS_OK, "%s", gdn_last_error());
}

/* A configuration under which a curve is smooth enough to be compared step by step. */
static gdni_config configure(int backend, int dtype) {
    gdni_config c;
    gdni_config_defaults(&c);
    c.width = 32;
    c.key_heads = 2;
    c.value_heads = 4;
    c.value_dim = 48;
    c.mlp = 64;
    c.steps = STEPS;
    c.context = 150; /* not of whole chunks */
    c.batch_tokens = 600;
    c.warmup = 20;
    c.lr = 1e-3;
    c.min_lr = 2e-4;
    c.beta2 = 0.999;
    c.eval_every = 30;
    c.eval_tokens = 1000;
    c.checkpoint_every = 0;
    c.threads = 2;
    c.sample_tokens = 0;
    c.backend = backend;
    c.dtype = dtype;
    return c;
}

static void empty(const char *path) {
    char file[8192];
    DIR *dir = opendir(path);
    if (!dir)
        return;
    for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
        snprintf(file, sizeof(file), "%s/%s", path, e->d_name);
        if (e->d_name[0] != '.')
            unlink(file);
    }
    closedir(dir);
}

/* Runs into FOLDER/name, from where it is with resume; the losses and held-out losses of all steps
 * so far, NaN where there is none. */
static gdn_status train(const char *name, gdni_config c, int resume, int64_t stop_at,
                        double loss[2][MOST_STEPS]) {
    char out[4096], log_path[8192];
    gdn_io_log *log = NULL;
    for (int i = 0; i < MOST_STEPS; ++i)
        loss[0][i] = loss[1][i] = NAN;
    snprintf(out, sizeof(out), "%s/%s", folder, name);
    snprintf(log_path, sizeof(log_path), "%s/log.h5", out);
    if (!resume)
        empty(out);
    const gdni_run run = {
        .config = c, .data = data, .out = out, .resume = resume, .stop_at = stop_at};
    gdn_status status = gdni_train(&run);
    if (status == GDN_STATUS_OK)
        status = gdn_io_log_read(log_path, &log);
    if (status != GDN_STATUS_OK)
        return status;
    CHECK(log->rows == (size_t)(stop_at ? stop_at : c.steps), "%s: %zu rows", name, log->rows);
    for (size_t i = 0; i < log->rows && i < MOST_STEPS; ++i) {
        loss[0][i] = log->values[i * log->columns + GDNI_LOG_LOSS];
        loss[1][i] = log->values[i * log->columns + GDNI_LOG_HELDOUT];
    }
    gdn_io_log_free(log);
    return GDN_STATUS_OK;
}

static void train_ok(const char *name, gdni_config c, int resume, int64_t stop_at,
                     double loss[2][MOST_STEPS]) {
    const gdn_status status = train(name, c, resume, stop_at, loss);
    CHECK(status == GDN_STATUS_OK, "%s: %s", name, gdn_last_error());
}

/* Largest relative difference from step `first` to `last`; NaN if a loss is not there. */
static double distance(const double *a, const double *b, int first, int last) {
    double worst = 0;
    for (int i = first; i < last; ++i) {
        const double d = fabs(a[i] - b[i]) / fabs(b[i]);
        if (isnan(d))
            return d;
        worst = fmax(worst, d);
    }
    return worst;
}

/* The same up to rounding; `late` is the bound of all steps. */
static void check_same(const char *name, double a[2][MOST_STEPS], double b[2][MOST_STEPS],
                       double late) {
    const double early = distance(a[0], b[0], 0, EARLY_STEPS);
    const double all = distance(a[0], b[0], 0, STEPS);
    const double heldout = distance(a[1], b[1], STEPS - 1, STEPS);
    printf("%s: loss of %d steps %.1e, of %d %.1e, held-out %.1e; bounds %.0e, %.0e\n", name,
           (int)EARLY_STEPS, early, (int)STEPS, all, heldout, EARLY, late);
    CHECK(early <= EARLY, "%s: the first steps differ by %g", name, early);
    CHECK(all <= late, "%s: losses differ by %g", name, all);
    CHECK(heldout <= late, "%s: held-out losses differ by %g", name, heldout);
}

/* The host's curve, and the bound that its own rounding makes. */
static double train_host(double host[2][MOST_STEPS]) {
    double other[2][MOST_STEPS];
    gdni_config c = configure(GDNI_RUN_CPU, GDNI_RUN_AUTO);
    train_ok("cpu", c, 0, 0, host);
    CHECK(host[0][0] > 1.3 * host[0][STEPS - 1], "nothing was learnt: %g to %g", host[0][0],
          host[0][STEPS - 1]);
    c.threads = 3;
    train_ok("cpu-3-threads", c, 0, 0, other);
    const double rounding = distance(other[0], host[0], 0, STEPS);
    printf("host, 3 threads for 2: loss of %d steps %.1e\n", (int)STEPS, rounding);
    CHECK(rounding < 1e-5, "the host's own rounding makes %g", rounding);
    return fmax(LATE, ROUNDING * rounding);
}

static void check_fp32(void) {
    double host[2][MOST_STEPS], device[2][MOST_STEPS], again[2][MOST_STEPS];
    const double late = train_host(host);
    gdni_config c = configure(GDNI_RUN_CUDA, GDNI_RUN_FP32);
    train_ok("cuda", c, 0, 0, device);
    check_same("cuda fp32", device, host, late);
    train_ok("cuda-again", c, 0, 0, again);
    CHECK(!memcmp(device[0], again[0], sizeof(device[0])), "two runs on the device differ");
    c.recompute = GDNI_RECOMPUTE_STATES;
    train_ok("cuda-states", c, 0, 0, device);
    check_same("cuda fp32, states again", device, host, late);
    c.save_inverse = 1;
    train_ok("cuda-inverse", c, 0, 0, device);
    check_same("cuda fp32, states again, inverse saved", device, host, late);
    c.recompute = GDNI_RECOMPUTE_NONE;
    train_ok("cuda-all-saved", c, 0, 0, device);
    check_same("cuda fp32, states and inverse saved", device, host, late);
    c.recompute = GDNI_RECOMPUTE_LAYER;
    c.save_inverse = 0;
    train_ok("cuda-layer", c, 0, 0, device);
    check_same("cuda fp32, layers again", device, host, late);
    c.recompute = GDNI_RECOMPUTE_NONE;
    c.passes = 2;
    train_ok("cuda-passes", c, 0, 0, device);
    check_same("cuda fp32, two passes", device, host, late);
    c = configure(GDNI_RUN_CPU, GDNI_RUN_FP32);
    c.passes = 4;
    train_ok("cpu-passes", c, 0, 0, device);
    check_same("cpu, four passes", device, host, late);
    c.passes = 1;
    c.recompute = GDNI_RECOMPUTE_STATES;
    train_ok("cpu-states", c, 0, 0, device);
    check_same("cpu, states again", device, host, late);
}

/* Largest difference of averages over SMOOTHING steps; NaN if a loss is not there. */
static double smooth_distance(const double *a, const double *b, int steps) {
    double worst = 0;
    for (int first = 0; first + SMOOTHING <= steps; ++first) {
        double sum = 0;
        for (int i = first; i < first + SMOOTHING; ++i)
            sum += (a[i] - b[i]) / SMOOTHING;
        if (!(fabs(sum) <= worst))
            worst = fabs(sum);
    }
    return worst;
}

static double heldout_distance(const double *a, const double *b, int steps) {
    double worst = 0;
    for (int i = 0; i < steps; ++i)
        if (!isnan(b[i]) && !(fabs(a[i] - b[i]) <= worst))
            worst = fabs(a[i] - b[i]);
    return worst;
}

/* Differences of a run's curves from the host's, in nats: of averages, of held-out losses. */
typedef struct curve_gap {
    double smooth, heldout;
} curve_gap;

static curve_gap gap_of(const char *name, double got[2][MOST_STEPS], double host[2][MOST_STEPS]) {
    const int last = BF16_STEPS - 1;
    const curve_gap gap = {smooth_distance(got[0], host[0], BF16_STEPS),
                           heldout_distance(got[1], host[1], BF16_STEPS)};
    printf("%s, host: loss of step 1 %.5f, %.5f; of step %d %.5f, %.5f; held-out %.5f, %.5f\n",
           name, got[0][0], host[0][0], (int)BF16_STEPS, got[0][last], host[0][last], got[1][last],
           host[1][last]);
    printf("  %d steps: largest difference of a step %.2e of it, of averages over %d %.4f nats, of "
           "held-out losses %.4f\n",
           (int)BF16_STEPS, distance(got[0], host[0], 0, BF16_STEPS), (int)SMOOTHING, gap.smooth,
           gap.heldout);
    return gap;
}

static void check_gap(const char *name, curve_gap gap) {
    CHECK(gap.smooth <= BF16_GAP, "%s: averaged losses differ by %g", name, gap.smooth);
    CHECK(gap.heldout <= BF16_GAP, "%s: held-out losses differ by %g", name, gap.heldout);
}

static void check_bf16(void) {
    double host[2][MOST_STEPS], device[2][MOST_STEPS];
    gdni_config c = configure(GDNI_RUN_CPU, GDNI_RUN_AUTO);
    c.steps = BF16_STEPS;
    c.eval_every = 50;
    train_ok("cpu-long", c, 0, 0, host);
    c.backend = GDNI_RUN_CUDA;
    train_ok("bf16-then-cpu", c, 0, 1, device);
    c.backend = GDNI_RUN_CPU;
    train_ok("bf16-then-cpu", c, 1, 0, device);
    const curve_gap first = gap_of("cuda bf16 for one step, then host", device, host);
    CHECK(first.smooth > EARLY && first.smooth <= BF16_FIRST_STEP &&
              first.heldout <= BF16_FIRST_STEP,
          "one step in bf16 makes %g, %g", first.smooth, first.heldout);
    c.backend = GDNI_RUN_CUDA;
    train_ok("cuda-bf16", c, 0, 0, device);
    check_gap("cuda bf16", gap_of("cuda bf16", device, host));
    CHECK(distance(device[0], host[0], 0, BF16_STEPS) > EARLY, "was bf16 used?");
    c.recompute = GDNI_RECOMPUTE_LAYER;
    train_ok("cuda-bf16-layer", c, 0, 0, device);
    check_gap("layers again", gap_of("cuda bf16, layers again", device, host));
}

static void check_graph(void) {
    double device[2][MOST_STEPS], got[2][MOST_STEPS];
    for (int dtype = GDNI_RUN_FP32; dtype <= GDNI_RUN_BF16; ++dtype) {
        gdni_config c = configure(GDNI_RUN_CUDA, dtype);
        train_ok("graph", c, 0, 0, device);
        c.graph = 0;
        train_ok("plain", c, 0, 0, got);
        CHECK(!memcmp(device[0], got[0], sizeof(got[0])),
              "steps of a graph differ from plain ones");
        c.graph = 1;
        c.profile = 31;
        train_ok("profiled", c, 0, 0, got);
        CHECK(!memcmp(device[0], got[0], sizeof(got[0])), "a profiled step differs");
        c.profile = 0;
        c.eval_every = 1; /* each step is waited for */
        train_ok("waited", c, 0, 0, got);
        CHECK(!memcmp(device[0], got[0], sizeof(got[0])), "steps that end late differ");
        c.eval_every = 30;
        c.checkpoint_every = 7;
        train_ok("saved", c, 0, 0, got);
        CHECK(!memcmp(device[0], got[0], sizeof(got[0])), "steps beside a checkpoint differ");
    }
}

/* Deletes the newest checkpoint of a run. */
static void remove_newest(const char *name) {
    char out[4096], path[4096];
    snprintf(out, sizeof(out), "%s/%s", folder, name);
    const gdn_status status = gdn_io_checkpoint_latest(out, path, sizeof(path));
    CHECK(status == GDN_STATUS_OK && !unlink(path), "%s: no checkpoint to remove", name);
}

static void check_resume(void) {
    double host[2][MOST_STEPS], device[2][MOST_STEPS], part[2][MOST_STEPS], got[2][MOST_STEPS];
    const double late = train_host(host);
    const gdni_config cpu = configure(GDNI_RUN_CPU, GDNI_RUN_AUTO),
                      cuda = configure(GDNI_RUN_CUDA, GDNI_RUN_FP32),
                      bf16 = configure(GDNI_RUN_CUDA, GDNI_RUN_BF16);
    train_ok("whole", cuda, 0, 0, device);
    train_ok("cpu-cuda", cpu, 0, STEPS / 2, part);
    train_ok("cpu-cuda", cuda, 1, 0, got);
    check_same("cpu, then cuda fp32", got, host, late);
    CHECK(memcmp(got[0], host[0], sizeof(got[0])), "it went on on the host");
    train_ok("cuda-cpu", cuda, 0, STEPS / 2, part);
    train_ok("cuda-cpu", cpu, 1, 0, got);
    check_same("cuda fp32, then cpu", got, host, late);
    train_ok("cuda-cuda", cuda, 0, STEPS / 2, part);
    train_ok("cuda-cuda", cuda, 1, 0, got);
    CHECK(!memcmp(got[0], device[0], sizeof(got[0])) && got[1][STEPS - 1] == device[1][STEPS - 1],
          "stopped and resumed on the device, the losses are others");
    gdni_config beside = bf16;
    beside.checkpoint_every = 17;
    beside.keep = 0;
    train_ok("bf16-whole", bf16, 0, 0, device);
    train_ok("bf16-beside", beside, 0, STEPS / 2 + 3, part);
    remove_newest("bf16-beside"); /* what is left was written while steps went on */
    train_ok("bf16-beside", bf16, 1, 0, got);
    CHECK(!memcmp(got[0], device[0], sizeof(got[0])) && got[1][STEPS - 1] == device[1][STEPS - 1],
          "resumed from a checkpoint written beside steps, the losses are others");
    train_ok("bf16-cpu", bf16, 0, STEPS / 2, part);
    train_ok("bf16-cpu", cpu, 1, 0, got);
    CHECK(distance(got[1], host[1], STEPS - 1, STEPS) <= BF16_END, "bf16, then cpu: %g from %g",
          got[1][STEPS - 1], host[1][STEPS - 1]);
}

static void check_nan(void) {
    double loss[2][MOST_STEPS], host[2][MOST_STEPS];
    char said[2][512];
    gdni_config c = configure(GDNI_RUN_CUDA, GDNI_RUN_FP32);
    c.lr = 1e30;
    c.clip = 0;
    c.weight_decay = 0;
    c.checkpoint_every = 1;
    CHECK(train("nan", c, 0, 0, loss) == GDN_STATUS_INTERNAL_ERROR, "%s", gdn_last_error());
    snprintf(said[1], sizeof(said[1]), "%s", gdn_last_error());
    c.backend = GDNI_RUN_CPU;
    CHECK(train("nan-cpu", c, 0, 0, host) == GDN_STATUS_INTERNAL_ERROR, "%s", gdn_last_error());
    snprintf(said[0], sizeof(said[0]), "%s", gdn_last_error());
    printf("cpu: %s\ncuda: %s\n", said[0], said[1]);
    for (int i = 0; i < 2; ++i)
        CHECK(strstr(said[i], "expected a finite number, found") &&
                  strstr(said[i], "the last checkpoint is that of step"),
              "%s", said[i]);
    c.backend = GDNI_RUN_CUDA;
    c.checkpoint_every = 0; /* the step after it has begun by then */
    CHECK(train("nan-late", c, 0, 0, loss) == GDN_STATUS_INTERNAL_ERROR &&
              strstr(gdn_last_error(), "no checkpoint was written"),
          "%s", gdn_last_error());
    CHECK(!strncmp(gdn_last_error(), said[1], strcspn(said[1], ":")), "another step: %s, %s",
          gdn_last_error(), said[1]);
}

static void check_refusals(void) {
    double loss[2][MOST_STEPS], host[2][MOST_STEPS];
    gdni_config c = configure(GDNI_RUN_CUDA, GDNI_RUN_AUTO);
    c.key_dim = 8;
    CHECK(train("refused", c, 0, 0, loss) == GDN_STATUS_UNSUPPORTED &&
              strstr(gdn_last_error(), "K is 8, expected a multiple of 16"),
          "%s", gdn_last_error());
    c.backend = GDNI_RUN_AUTO;
    train_ok("auto", c, 0, 0, loss);
    c.backend = GDNI_RUN_CPU;
    train_ok("chosen", c, 0, 0, host);
    CHECK(!memcmp(loss[0], host[0], sizeof(loss[0])), "auto was not the host");
    c.dtype = GDNI_RUN_BF16;
    CHECK(train("refused", c, 0, 0, loss) == GDN_STATUS_INVALID_ARGUMENT &&
              strstr(gdn_last_error(), "dtype: expected fp32 on the cpu backend"),
          "%s", gdn_last_error());
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*check)(void);
    } modes[] = {{"fp32", check_fp32}, {"bf16", check_bf16},     {"graph", check_graph},
                 {"nan", check_nan},   {"resume", check_resume}, {"refuse", check_refusals}};
    gdn_context *context = gpu_context();
    if (!context)
        return 77;
    gdn_context_destroy(context);
    folder = argc > 2 ? argv[2] : ".";
    mkdir(folder, 0777);
    make_data();
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); ++i)
        if (argc > 1 && !strcmp(argv[1], modes[i].name))
            modes[i].check();
    return harness_finish();
}
