#include "trainer.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "batch.h"
#include "error.h"
#include "sample_text.h"
#include "saver.h"
#include "state.h"

enum {
    SETTINGS = 1000,    /* characters that ranks compare */
    COMPARE_EVERY = 100 /* steps between comparisons of the ranks' parameters */
};

/* A step that has begun and whose row of the log is to come. */
typedef struct step_begun {
    int64_t step, tokens; /* tokens: with it, over all runs */
    double lr, began;
} step_begun;

typedef struct trainer {
    const gdni_run *run;
    const gdni_config *config;
    gdn_context *context; /* of the host */
    gdni_backend backend;
    gdni_lm_shape shape;
    gdn_io_dataset *dataset;
    gdni_lm *lm;
    gdni_sampler *sampler;
    gdni_batch batch;
    gdni_progress progress;
    gdni_state state; /* after the last step that has begun */
    gdni_saver saver;
    gdni_timeline timeline;
    step_begun begun[GDNI_LM_SLOTS];
    double last_end; /* seconds: when the last step ended */
    double flops;    /* of the model, a token, forward and backward */
    char *config_text;
    int64_t predicted;   /* held-out tokens that an evaluation predicts */
    int64_t saved_step;  /* of the newest checkpoint; -1 = none */
    int64_t saving_step; /* of the one that the saver is at */
    int stopping;        /* after this step */
} trainer;

double gdni_learning_rate(const gdni_config *config, int64_t step) {
    if (step <= config->warmup)
        return config->lr * (double)step / (double)config->warmup;
    const double part = (double)(step - config->warmup) / (double)(config->steps - config->warmup);
    return config->min_lr + 0.5 * (config->lr - config->min_lr) * (1 + cos(M_PI * part));
}

/* Rank 0 writes, for all. */
static int writes(const trainer *t) {
    return !t->run->ranks || t->run->ranks->rank == 0;
}

/* Ends a part of the run that a rank may fail in by itself, or do otherwise than the others. */
static gdn_status agree(trainer *t, gdn_status mine, const char *description) {
    gdni_ranks *ranks = t->run->ranks;
    return ranks ? ranks->agree(ranks, mine, description) : mine;
}

/* Fails where the ranks are not at the same place, with the same parameters. */
static gdn_status compare_ranks(trainer *t, gdn_status mine) {
    char text[80];
    snprintf(text, sizeof(text), "step %lld; tokens %lld", (long long)t->state.step,
             (long long)t->state.tokens);
    return gdni_lm_compare(t->lm, mine, text);
}

static gdn_status open_dataset(trainer *t) {
    const gdni_config *c = t->config;
    GDN_TRY(gdn_io_dataset_open(t->run->data, &t->dataset));
    const int64_t train = gdn_io_dataset_tokens(t->dataset, GDN_IO_TRAIN);
    const int64_t heldout = gdn_io_dataset_tokens(t->dataset, GDN_IO_HELDOUT);
    GDNI_REQUIRE(train > c->context,
                 "%s: training split: expected more than context (%lld) tokens, found %lld",
                 t->run->data, (long long)c->context, (long long)train);
    GDNI_REQUIRE(heldout >= 2, "%s: held-out split: expected 2 tokens or more, found %lld",
                 t->run->data, (long long)heldout);
    t->predicted = c->eval_tokens < heldout - 1 ? c->eval_tokens : heldout - 1;
    return gdni_state_fingerprint(t->dataset, &t->state.dataset);
}

static gdni_lm_shape shape_of(const trainer *t) {
    const gdni_config *c = t->config;
    return (gdni_lm_shape){.dtype = GDN_DTYPE_FP32,
                           .vocab = gdn_io_dataset_vocab(t->dataset),
                           .width = (int32_t)c->width,
                           .layers = (int32_t)c->layers,
                           .key_heads = (int32_t)c->key_heads,
                           .value_heads = (int32_t)c->value_heads,
                           .key_dim = (int32_t)c->key_dim,
                           .value_dim = (int32_t)c->value_dim,
                           .conv_width = (int32_t)c->conv_width,
                           .mlp = (int32_t)c->mlp,
                           .tied = (int32_t)c->tied};
}

/* Settles where the run computes. The configuration that is kept says so. */
static gdn_status open_backend(trainer *t) {
    gdni_config settled = *t->config;
    t->shape = shape_of(t);
    GDN_TRY(gdni_backend_open(&t->backend, t->config, t->run->ranks, &t->shape));
    settled.backend = t->backend.backend;
    settled.dtype = t->backend.dtype;
    t->progress.backend = t->backend.text;
    free(t->config_text);
    t->config_text = NULL;
    return gdni_config_text(&settled, &t->config_text);
}

static gdn_status open_model(trainer *t) {
    const gdni_config *c = t->config;
    const gdni_lm_setup setup = gdni_backend_setup(&t->backend, c, t->run->ranks);
    const int64_t N = c->batch_tokens / c->context / c->passes; /* sequences of a pass */
    const gdni_part part = gdni_part_of(t->run->ranks, N, c->context);
    if (t->run->ranks && t->backend.context)
        GDN_TRY(gdni_ranks_use_device(t->run->ranks, t->backend.context));
    GDN_TRY(gdni_lm_create(&t->lm, t->context, &t->shape, N * c->context, N, &setup));
    t->flops = gdni_lm_flops(t->lm);
    if (c->sample_tokens && writes(t))
        GDN_TRY(gdni_sampler_create(&t->sampler, t->lm));
    return gdni_batch_create(&t->batch, N, c->context, part.first, part.count);
}

static gdn_status make_folder(const char *path) {
    struct stat about;
    if (mkdir(path, 0777) == 0)
        return GDN_STATUS_OK;
    if (errno == EEXIST && stat(path, &about) == 0 && S_ISDIR(about.st_mode))
        return GDN_STATUS_OK;
    return gdni_fail(GDN_STATUS_IO_ERROR, "--out: cannot make folder %s: %s", path,
                     strerror(errno == EEXIST ? ENOTDIR : errno));
}

/* First values: of the checkpoint to resume, of another run's checkpoint, or random. */
static gdn_status load_state(trainer *t) {
    const gdni_run *run = t->run;
    char path[4096];
    const int64_t threads = gdn_context_threads(t->context);
    const int64_t ranks = run->ranks ? run->ranks->ranks : 1;
    const int64_t width = run->ranks ? run->ranks->width : 1;
    const int present = gdni_state_present(run->out);
    GDNI_REQUIRE(!present || run->resume,
                 "--out: %s already holds a run; add --resume to continue it, or name another "
                 "folder",
                 run->out);
    t->saved_step = t->saving_step = -1;
    t->state.threads = threads;
    t->state.ranks[0] = ranks;
    t->state.ranks[1] = width;
    t->state.seed = (uint64_t)t->config->seed;
    if (present) {
        GDN_TRY(gdn_io_checkpoint_latest(run->out, path, sizeof(path)));
        GDN_TRY(
            gdni_state_resume(path, t->config, t->state.dataset, &t->state, t->lm, &t->progress));
        GDNI_REQUIRE(t->state.step <= t->config->steps,
                     "[train] steps: expected %lld or more as in %s, found %lld",
                     (long long)t->state.step, path, (long long)t->config->steps);
        t->saved_step = t->saving_step = t->state.step;
    } else {
        GDN_TRY(gdni_lm_initialise(t->lm, t->state.seed));
        if (run->init_from)
            GDN_TRY(gdni_state_start_from(run->init_from, t->config, &t->state, t->lm));
    }
    if (writes(t)) {
        GDN_TRY(make_folder(run->out));
        GDN_TRY(gdni_progress_open(&t->progress, run->out));
    }
    if (present) {
        gdni_progress_say(&t->progress, "resumed %s at step %lld", path, (long long)t->state.step);
        if (t->state.threads != threads)
            gdni_progress_say(&t->progress,
                              "note: %lld threads now, %lld before: the result will differ in "
                              "rounding",
                              (long long)threads, (long long)t->state.threads);
        if (t->state.ranks[0] != ranks || t->state.ranks[1] != width)
            gdni_progress_say(&t->progress,
                              "note: %lld ranks, %lld a sequence, now, %lld, %lld a sequence, "
                              "before: the result will differ in rounding",
                              (long long)ranks, (long long)width, (long long)t->state.ranks[0],
                              (long long)t->state.ranks[1]);
        if (strcmp(t->state.backend, t->backend.text))
            gdni_progress_say(&t->progress,
                              "note: on %s now, on %s before: the result will differ in rounding",
                              t->backend.text, t->state.backend);
        t->state.threads = threads;
        t->state.ranks[0] = ranks;
        t->state.ranks[1] = width;
    } else if (run->init_from) {
        gdni_progress_say(&t->progress, "weights and optimiser state of %s, after %lld updates",
                          run->init_from, (long long)t->state.updates);
    }
    return GDN_STATUS_OK;
}

static void describe(trainer *t) {
    const gdni_ranks *ranks = t->run->ranks;
    char over[160] = "";
    int64_t parameters = 0;
    if (ranks)
        snprintf(over, sizeof(over), " each of %d ranks, %d a sequence%s%s", ranks->ranks,
                 ranks->width, gdn_io_can_share() ? ", data through MPI-IO" : "",
                 !t->backend.context ? ""
                 : ranks->sum_device ? ", messages over NCCL"
                                     : ", messages through the host");
    for (int32_t i = 0; i < t->lm->param_count; ++i)
        parameters += t->lm->params[i].count;
    gdni_progress_say(&t->progress,
                      "%lld parameters, vocabulary %d, %lld training tokens, %lld held-out tokens "
                      "to predict, context %lld, %lld tokens a step, %d threads%s",
                      (long long)parameters, t->lm->shape.vocab,
                      (long long)gdn_io_dataset_tokens(t->dataset, GDN_IO_TRAIN),
                      (long long)t->predicted, (long long)t->config->context,
                      (long long)t->config->batch_tokens, gdn_context_threads(t->context), over);
    const char *about = t->backend.about;
    gdni_progress_say(&t->progress, "computing on %s%s%s%s; the model and its batch take %.2f GB",
                      t->backend.text, *about ? " (" : "", about, *about ? ")" : "",
                      1e-9 * (double)t->lm->memory_bytes);
}

/* Waits for the checkpoint that is being written. */
static gdn_status end_save(trainer *t) {
    if (t->saver.running)
        GDN_TRY(gdni_saver_join(&t->saver));
    t->saved_step = t->saving_step;
    return GDN_STATUS_OK;
}

/* No step may have begun and not ended. */
static gdn_status save(trainer *t) {
    if (!t->state.step)
        return GDN_STATUS_OK;
    GDN_TRY(end_save(t));
    GDN_TRY(compare_ranks(t, GDN_STATUS_OK));
    if (t->run->ranks)
        t->run->ranks->note(t->run->ranks, "writing a checkpoint");
    if (t->saved_step != t->state.step && writes(t))
        GDN_TRY(gdni_saver_start(&t->saver, t->lm, t->run->out, t->config->keep, &t->state,
                                 &t->progress, t->config_text));
    t->saving_step = t->state.step;
    if (!t->saver.running)
        t->saved_step = t->saving_step;
    return writes(t) ? gdni_progress_save(&t->progress, t->run->out, t->config_text)
                     : GDN_STATUS_OK;
}

static void describe_last(trainer *t, char *text, size_t size) {
    if (t->saver.running && end_save(t) != GDN_STATUS_OK)
        gdni_progress_say(&t->progress, "%s", gdn_last_error());
    if (t->saved_step >= 0)
        snprintf(text, size, "the last checkpoint is that of step %lld", (long long)t->saved_step);
    else
        snprintf(text, size, "no checkpoint was written");
}

/* own: this rank's part of the value; the rank whose part is not finite is named. */
static gdn_status not_finite(trainer *t, int64_t step, const char *what, double value, double own) {
    static const char *const line = "step %lld: %s: expected a finite number, found %g; %s in %s";
    char last[64];
    gdn_status mine = GDN_STATUS_OK;
    describe_last(t, last, sizeof(last));
    gdni_progress_say(&t->progress, "step %lld: %s is %g; stopped", (long long)step, what, value);
    if (t->run->ranks && !isfinite(own))
        mine = gdni_fail(GDN_STATUS_INTERNAL_ERROR, line, (long long)step, what, own, last,
                         t->run->out);
    GDN_TRY(agree(t, mine, NULL));
    return gdni_fail(GDN_STATUS_INTERNAL_ERROR, line, (long long)step, what, value, last,
                     t->run->out);
}

/* A pass that failed, such as one that met a NaN between two ranks. */
static gdn_status failed_pass(trainer *t, int64_t step) {
    char last[64], line[512];
    snprintf(line, sizeof(line), "%s", gdn_last_error());
    describe_last(t, last, sizeof(last));
    return gdni_fail(GDN_STATUS_INTERNAL_ERROR, "step %lld: %s; %s in %s", (long long)step, line,
                     last, t->run->out);
}

/* own: not finite where this rank's part of the loss is not. */
static gdn_status evaluate(trainer *t, double *heldout, double *own) {
    double sum = 0;
    for (int64_t first = 0, seen = 0; seen < t->predicted; first += t->batch.N) {
        int64_t counted;
        double loss = 0;
        GDN_TRY(gdni_batch_heldout(&t->batch, t->dataset, t->predicted, first, &counted));
        GDN_TRY(gdni_lm_loss(t->lm, t->batch.tokens, t->batch.targets, &loss));
        sum += loss * (double)counted;
        *own += t->lm->own_loss;
        seen += counted;
    }
    *heldout = sum / (double)t->predicted;
    return GDN_STATUS_OK;
}

/* Whether held-out text is read after a step. */
static int is_evaluated(const trainer *t, int64_t step) {
    const gdni_config *c = t->config;
    return step == c->steps || (c->eval_every && step % c->eval_every == 0);
}

static int is_saved(const trainer *t, int64_t step) {
    return t->config->checkpoint_every && step % t->config->checkpoint_every == 0;
}

/* What of the step's time each part took, where it was profiled. */
static gdn_status read_timeline(trainer *t) {
    gdni_timeline *timeline = &t->timeline;
    double sums[GDNI_SPAN_PARTS] = {0}, all = 0;
    char line[600] = "";
    GDN_TRY(gdni_lm_read_spans(t->lm, timeline, &all));
    for (int32_t i = 0; i < timeline->count; ++i)
        sums[timeline->spans[i].part] += timeline->spans[i].end - timeline->spans[i].begin;
    for (int i = 0, used = 0; i < GDNI_SPAN_PARTS; ++i)
        if (sums[i] > 0)
            used += snprintf(line + used, sizeof(line) - (size_t)used, "; %s %.2f ms, %.1f%%",
                             gdni_span_parts[i], 1e3 * sums[i], 100 * sums[i] / all);
    gdni_progress_say(&t->progress, "step %lld took %.2f ms%s", (long long)t->config->profile,
                      1e3 * all, line);
    t->progress.timeline = timeline;
    return GDN_STATUS_OK;
}

/* Ends the oldest step that has begun: its row of the log, after its evaluation. */
static gdn_status end_step(trainer *t) {
    gdni_lm *lm = t->lm;
    const step_begun *b = &t->begun[lm->ended % GDNI_LM_SLOTS];
    const double began = b->began > t->last_end ? b->began : t->last_end;
    double loss = 0, norm = 0, heldout = NAN, own = 0;
    size_t memory = 0;
    if (gdni_lm_end(lm, &loss, &norm) != GDN_STATUS_OK)
        return failed_pass(t, b->step);
    if (!isfinite(loss))
        return not_finite(t, b->step, "loss", loss, lm->own_loss);
    if (!isfinite(norm))
        return not_finite(t, b->step, "norm of the gradient", norm, lm->own_norm);
    t->last_end = gdni_seconds();
    const double rate = (double)t->config->batch_tokens / (t->last_end - began);
    const int32_t ranks = t->run->ranks ? t->run->ranks->ranks : 1;
    if (b->step == t->config->profile)
        GDN_TRY(read_timeline(t));
    if (is_evaluated(t, b->step)) {
        if (evaluate(t, &heldout, &own) != GDN_STATUS_OK)
            return failed_pass(t, b->step);
        if (!isfinite(heldout))
            return not_finite(t, b->step, "held-out loss", heldout, own);
    }
    GDN_TRY(lm->memory->used(lm->memory, &memory));
    const double row[GDNI_LOG_COLUMNS] = {
        [GDNI_LOG_STEP] = (double)b->step,
        [GDNI_LOG_LOSS] = loss,
        [GDNI_LOG_LR] = b->lr,
        [GDNI_LOG_GRAD_NORM] = norm,
        [GDNI_LOG_TOKENS_PER_S] = rate,
        [GDNI_LOG_HELDOUT] = heldout,
        [GDNI_LOG_TOKENS] = (double)b->tokens,
        [GDNI_LOG_MFU] = t->backend.peak > 0 ? rate * t->flops / ranks / t->backend.peak : NAN,
        [GDNI_LOG_MEMORY] = memory ? (double)memory : NAN,
        [GDNI_LOG_COMMUNICATION] = ranks > 1 ? lm->waited / (t->last_end - began) : NAN};
    lm->waited = 0;
    return gdni_progress_row(&t->progress, row);
}

/* Ends steps until at most `left` have begun and not ended. */
static gdn_status end_steps(trainer *t, int64_t left) {
    while (t->lm->begun - t->lm->ended > left)
        GDN_TRY(end_step(t));
    return GDN_STATUS_OK;
}

static gdn_status draw_batch(trainer *t) {
    for (int64_t pass = 0; pass < t->config->passes; ++pass) {
        GDN_TRY(gdni_batch_draw(&t->batch, t->dataset, t->state.seed,
                                t->state.tokens + pass * t->batch.N));
        GDN_TRY(gdni_lm_give(t->lm, t->batch.tokens, t->batch.targets));
    }
    return GDN_STATUS_OK;
}

/* Begins a step. On a device the batch after it is drawn, and the step before it ended, while it
 * runs; nothing stays open where its parameters are looked at, or where sums through the host have
 * waited for it. */
static gdn_status step_once(trainer *t) {
    const gdni_config *c = t->config;
    const int64_t step = t->state.step + 1;
    const gdni_lm_update update = {.count = t->state.updates + 1,
                                   .lr = gdni_learning_rate(c, step),
                                   .beta1 = c->beta1,
                                   .beta2 = c->beta2,
                                   .eps = 1e-8,
                                   .weight_decay = c->weight_decay,
                                   .clip = c->clip};
    step_begun *b = &t->begun[t->lm->begun % GDNI_LM_SLOTS];
    *b = (step_begun){step, t->state.tokens + c->batch_tokens, update.lr, gdni_seconds()};
    if (t->lm->given == t->lm->taken)
        GDN_TRY(draw_batch(t));
    if (gdni_lm_begin(t->lm, &update, step == c->profile ? &t->timeline : NULL) != GDN_STATUS_OK)
        return failed_pass(t, step);
    t->state.step = step;
    t->state.updates += 1;
    t->state.tokens = b->tokens;
    const int compared = t->run->ranks && step % COMPARE_EVERY == 0;
    const int waits = !t->lm->memory->device || (t->run->ranks && !t->run->ranks->sum_device);
    if (waits || is_evaluated(t, step) || is_saved(t, step) || compared) {
        GDN_TRY(end_steps(t, 0));
    } else {
        if (step < c->steps)
            GDN_TRY(draw_batch(t));
        GDN_TRY(end_steps(t, 1));
    }
    if (is_saved(t, step))
        return save(t);
    if (!compared)
        return GDN_STATUS_OK;
    GDN_TRY(end_save(t));
    return compare_ranks(t, GDN_STATUS_OK);
}

static gdn_status finish(trainer *t) {
    if (t->state.step < t->config->steps) {
        gdni_progress_say(&t->progress, "stopped after step %lld of %lld; --resume continues",
                          (long long)t->state.step, (long long)t->config->steps);
        return GDN_STATUS_OK;
    }
    const double *last = t->progress.rows + (t->progress.count - 1) * GDNI_LOG_COLUMNS;
    if (t->sampler)
        GDN_TRY(gdni_sample_text(t->sampler, t->lm, t->config, t->dataset, &t->progress));
    gdni_progress_say(&t->progress, "done: steps=%lld tokens=%lld loss=%.4f heldout_loss=%.4f",
                      (long long)t->state.step, (long long)t->state.tokens, last[GDNI_LOG_LOSS],
                      last[GDNI_LOG_HELDOUT]);
    return GDN_STATUS_OK;
}

/* An interruption of any rank is one of all, after the same step. */
static gdn_status look_for_stop(trainer *t) {
    const gdni_run *run = t->run;
    float stop = run->interrupted && *run->interrupted;
    if (run->ranks)
        GDN_TRY(run->ranks->sum(run->ranks, GDN_DTYPE_FP32, &stop, 1));
    t->stopping = stop > 0;
    return GDN_STATUS_OK;
}

/* What a rank does without the others. */
static gdn_status prepare(trainer *t) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    config.backend = GDN_BACKEND_CPU;
    config.threads = (int32_t)t->config->threads;
    GDN_TRY(gdni_config_check(t->config));
    GDN_TRY(gdni_config_text(t->config, &t->config_text));
    GDN_TRY(gdn_context_create(&t->context, &config));
    return open_dataset(t);
}

/* The settings have to be the same on all ranks. */
static gdn_status agree_on_run(trainer *t, gdn_status mine) {
    char text[SETTINGS];
    snprintf(text, sizeof(text),
             "--stop-at %lld; --resume %d; parallel HDF5 %d; dataset's fingerprint %016llx; %s",
             (long long)t->run->stop_at, t->run->resume, gdn_io_can_share(),
             (unsigned long long)t->state.dataset, t->config_text ? t->config_text : "");
    for (char *at = text; *at; ++at)
        *at = *at == '\n' ? ';' : *at;
    return agree(t, mine, text);
}

/* Ranks read the dataset together where HDF5 can; each opens it for itself otherwise. */
static gdn_status share_dataset(trainer *t) {
    gdni_ranks *ranks = t->run->ranks;
    if (!ranks || !gdn_io_can_share())
        return GDN_STATUS_OK;
    ranks->note(ranks, "opening the dataset through MPI-IO");
    return agree(t, gdn_io_dataset_share(t->dataset, NULL), NULL);
}

static gdn_status train(trainer *t) {
    const gdni_run *run = t->run;
    const int64_t end =
        run->stop_at && run->stop_at < t->config->steps ? run->stop_at : t->config->steps;
    GDN_TRY(agree_on_run(t, prepare(t)));
    GDN_TRY(share_dataset(t));
    const gdn_status opened = open_backend(t);
    GDN_TRY(agree(t, opened, t->backend.text));
    GDN_TRY(agree(t, open_model(t), NULL));
    GDN_TRY(compare_ranks(t, load_state(t)));
    describe(t);
    t->progress.started = gdni_seconds();
    t->progress.first_step = t->state.step;
    GDN_TRY(look_for_stop(t));
    while (t->state.step < end && !t->stopping) {
        GDN_TRY(step_once(t));
        GDN_TRY(look_for_stop(t));
    }
    GDN_TRY(end_steps(t, 0));
    GDN_TRY(save(t));
    GDN_TRY(end_save(t));
    return writes(t) ? finish(t) : GDN_STATUS_OK;
}

gdn_status gdni_train(const gdni_run *run) {
    trainer t = {.run = run, .config = &run->config};
    t.progress.screen = run->screen;
    t.progress.terminal = run->terminal;
    t.progress.steps = run->config.steps;
    t.progress.log_every = run->config.log_every;
    gdn_status status = train(&t);
    if (t.saver.running) { /* after a failure: the file is finished all the same */
        char line[512];
        snprintf(line, sizeof(line), "%s", gdn_last_error());
        (void)gdni_saver_join(&t.saver);
        status = gdni_fail(status, "%s", line);
    }
    gdni_progress_close(&t.progress);
    gdni_timeline_free(&t.timeline);
    if (status != GDN_STATUS_OK && run->ranks)
        return status; /* messages may still arrive in this memory: the job is about to end */
    gdni_batch_free(&t.batch);
    gdni_sampler_destroy(t.sampler);
    gdni_lm_destroy(t.lm);
    if (!run->ranks) /* otherwise their group and layer, which go on, need it: it ends with them */
        gdni_backend_close(&t.backend);
    gdn_context_destroy(t.context);
    gdn_io_dataset_close(t.dataset);
    free(t.config_text);
    return status;
}
