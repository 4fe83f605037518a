#include "trainer.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "batch.h"
#include "error.h"
#include "random.h"
#include "sampler.h"
#include "state.h"

enum {
    PROMPT_TOKENS = 64,
    STREAM_SAMPLE = 0x73616d70,
    SETTINGS = 1000,    /* characters that ranks compare */
    COMPARE_EVERY = 100 /* steps between comparisons of the ranks' parameters */
};

typedef struct trainer {
    const gdni_run *run;
    const gdni_config *config;
    gdn_context *context; /* of the host */
    gdni_backend backend; /* of the operator */
    gdn_io_dataset *dataset;
    gdni_lm *lm;
    gdni_sampler *sampler;
    gdni_batch batch;
    gdni_progress progress;
    gdni_state state;
    char *config_text;
    int64_t predicted;  /* held-out tokens that an evaluation predicts */
    int64_t saved_step; /* of the newest checkpoint; -1 = none */
    int stopping;       /* after this step */
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

/* Settles where the operator runs. The configuration that is kept says so. */
static gdn_status open_backend(trainer *t) {
    gdni_config settled = *t->config;
    GDN_TRY(gdni_backend_open(&t->backend, t->config, t->run->ranks));
    settled.backend = t->backend.backend;
    settled.dtype = t->backend.dtype;
    t->progress.backend = t->backend.text;
    free(t->config_text);
    t->config_text = NULL;
    return gdni_config_text(&settled, &t->config_text);
}

static gdni_lm_setup setup_of(const trainer *t) {
    const gdni_config *c = t->config;
    return (gdni_lm_setup){
        .ranks = t->run->ranks,
        .device = {.context = t->backend.context,
                   .dtype = t->backend.dtype == GDNI_RUN_BF16 ? GDN_DTYPE_BF16 : GDN_DTYPE_FP32,
                   .flags = (c->save_states ? GDN_FLAG_SAVE_STATES : 0) |
                            (c->save_inverse ? GDN_FLAG_SAVE_INVERSE : 0)},
        .recompute = !c->save_states};
}

static gdn_status open_model(trainer *t) {
    const gdni_config *c = t->config;
    const gdni_lm_setup setup = setup_of(t);
    const gdni_lm_shape shape = {.dtype = GDN_DTYPE_FP32,
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
    const int64_t N = c->batch_tokens / c->context;
    const gdni_part part = gdni_part_of(t->run->ranks, N, c->context);
    GDN_TRY(gdni_lm_create(&t->lm, t->context, &shape, c->batch_tokens, N, &setup));
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
    t->saved_step = -1;
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
        t->saved_step = t->state.step;
    } else {
        gdni_lm_initialise(t->lm, t->state.seed);
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
                              "note: the operator on %s now, %s before: the result will differ in "
                              "rounding",
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
    char over[120] = "";
    int64_t parameters = 0;
    if (ranks)
        snprintf(over, sizeof(over), " each of %d ranks, %d a sequence%s", ranks->ranks,
                 ranks->width, gdn_io_can_share() ? ", data through MPI-IO" : "");
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
    gdni_progress_say(&t->progress, "operator on %s%s%s%s%s", t->backend.text, *about ? " (" : "",
                      about, *about ? ")" : "",
                      t->backend.context ? ", all else on cpu in fp32" : "");
}

static gdn_status save(trainer *t) {
    if (!t->state.step)
        return GDN_STATUS_OK;
    GDN_TRY(compare_ranks(t, GDN_STATUS_OK));
    if (t->run->ranks)
        t->run->ranks->note(t->run->ranks, "writing a checkpoint");
    if (t->saved_step != t->state.step && writes(t))
        GDN_TRY(gdni_state_write(t->run->out, t->config->keep, &t->state, t->lm, &t->progress,
                                 t->config_text));
    t->saved_step = t->state.step;
    return writes(t) ? gdni_progress_save(&t->progress, t->run->out, t->config_text)
                     : GDN_STATUS_OK;
}

static void describe_last(const trainer *t, char *text, size_t size) {
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
    describe_last(t, last, sizeof(last));
    snprintf(line, sizeof(line), "%s", gdn_last_error());
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

static gdn_status step_once(trainer *t) {
    const gdni_config *c = t->config;
    const int64_t step = t->state.step + 1;
    const double began = gdni_seconds();
    double loss = 0, heldout = NAN, own = 0;
    gdni_lm_update update = {.count = t->state.updates + 1,
                             .lr = gdni_learning_rate(c, step),
                             .beta1 = c->beta1,
                             .beta2 = c->beta2,
                             .eps = 1e-8,
                             .weight_decay = c->weight_decay,
                             .clip = c->clip};
    GDN_TRY(gdni_batch_draw(&t->batch, t->dataset, t->state.seed, t->state.tokens));
    if (gdni_lm_gradient(t->lm, t->batch.tokens, t->batch.targets, &loss) != GDN_STATUS_OK)
        return failed_pass(t, step);
    if (!isfinite(loss))
        return not_finite(t, step, "loss", loss, t->lm->own_loss);
    GDN_TRY(gdni_lm_step(t->lm, &update));
    if (!isfinite(update.grad_norm))
        return not_finite(t, step, "norm of the gradient", update.grad_norm, t->lm->own_norm);
    t->state.step = step;
    t->state.updates += 1;
    t->state.tokens += c->batch_tokens;
    const double rate = (double)c->batch_tokens / (gdni_seconds() - began);
    if (step == c->steps || (c->eval_every && step % c->eval_every == 0)) {
        if (evaluate(t, &heldout, &own) != GDN_STATUS_OK)
            return failed_pass(t, step);
        if (!isfinite(heldout))
            return not_finite(t, step, "held-out loss", heldout, own);
    }
    const double row[GDNI_LOG_COLUMNS] = {[GDNI_LOG_STEP] = (double)step,
                                          [GDNI_LOG_LOSS] = loss,
                                          [GDNI_LOG_LR] = update.lr,
                                          [GDNI_LOG_GRAD_NORM] = update.grad_norm,
                                          [GDNI_LOG_TOKENS_PER_S] = rate,
                                          [GDNI_LOG_HELDOUT] = heldout,
                                          [GDNI_LOG_TOKENS] = (double)t->state.tokens};
    GDN_TRY(gdni_progress_row(&t->progress, row));
    if (c->checkpoint_every && step % c->checkpoint_every == 0)
        return save(t);
    return step % COMPARE_EVERY ? GDN_STATUS_OK : compare_ranks(t, GDN_STATUS_OK);
}

/* Length of the UTF-8 character at text, 0 if it is none or a control character. */
static size_t character(const unsigned char *text, size_t left) {
    const size_t length = *text < 0x80   ? 1
                          : *text < 0xc2 ? 0
                          : *text < 0xe0 ? 2
                          : *text < 0xf0 ? 3
                          : *text < 0xf5 ? 4
                                         : 0;
    if (length > left || (length == 1 && *text != '\n' && *text != '\t' && iscntrl(*text)))
        return 0;
    for (size_t i = 1; i < length; ++i)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    return length;
}

/* Says tokens as text, '?' for bytes that a terminal had better not see. */
static gdn_status say_text(trainer *t, const char *title, const int32_t *tokens, int64_t count) {
    char *text = NULL;
    size_t bytes, length;
    GDN_TRY(gdn_io_dataset_decode(t->dataset, tokens, count, &text, &bytes));
    for (size_t i = 0; i < bytes; i += length ? length : 1) {
        length = character((const unsigned char *)text + i, bytes - i);
        if (!length)
            text[i] = '?';
    }
    gdni_progress_say(&t->progress, "--- %s\n%.*s", title, (int)bytes, text);
    free(text);
    return GDN_STATUS_OK;
}

/* Text that goes on from the first held-out tokens. */
static gdn_status sample(trainer *t) {
    const int64_t available = gdn_io_dataset_tokens(t->dataset, GDN_IO_HELDOUT);
    const int64_t prompt = available < PROMPT_TOKENS ? available : PROMPT_TOKENS;
    const int64_t total = prompt + t->config->sample_tokens;
    const void *logits = NULL;
    gdn_status status = GDN_STATUS_OK;
    int32_t *tokens = malloc((size_t)total * sizeof(*tokens));
    if (!tokens)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "sample: out of memory");
    GDN_TRY_GOTO(gdn_io_dataset_read(t->dataset, GDN_IO_HELDOUT, 0, prompt, tokens), cleanup);
    gdni_sampler_reset(t->sampler);
    for (int64_t i = 0; i + 1 < total; ++i) {
        GDN_TRY_GOTO(gdni_sampler_feed(t->sampler, tokens[i], &logits), cleanup);
        if (i + 1 >= prompt)
            tokens[i + 1] = gdni_sampler_choose(
                t->lm, logits, t->config->temperature,
                gdni_random_uniform((uint64_t)t->config->sample_seed, STREAM_SAMPLE, (uint64_t)i));
    }
    GDN_TRY_GOTO(say_text(t, "prompt (held-out text)", tokens, prompt), cleanup);
    GDN_TRY_GOTO(say_text(t, "sample", tokens + prompt, total - prompt), cleanup);
    gdni_progress_say(&t->progress, "---");

cleanup:
    free(tokens);
    return status;
}

static gdn_status finish(trainer *t) {
    if (t->state.step < t->config->steps) {
        gdni_progress_say(&t->progress, "stopped after step %lld of %lld; --resume continues",
                          (long long)t->state.step, (long long)t->config->steps);
        return GDN_STATUS_OK;
    }
    const double *last = t->progress.rows + (t->progress.count - 1) * GDNI_LOG_COLUMNS;
    if (t->sampler)
        GDN_TRY(sample(t));
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
    GDN_TRY(save(t));
    return writes(t) ? finish(t) : GDN_STATUS_OK;
}

gdn_status gdni_train(const gdni_run *run) {
    trainer t = {.run = run, .config = &run->config};
    t.progress.screen = run->screen;
    t.progress.terminal = run->terminal;
    t.progress.steps = run->config.steps;
    t.progress.log_every = run->config.log_every;
    const gdn_status status = train(&t);
    gdni_progress_close(&t.progress);
    if (status != GDN_STATUS_OK && run->ranks)
        return status; /* messages may still arrive in this memory: the job is about to end */
    gdni_batch_free(&t.batch);
    gdni_sampler_destroy(t.sampler);
    gdni_lm_destroy(t.lm);
    gdni_backend_close(&t.backend);
    gdn_context_destroy(t.context);
    gdn_io_dataset_close(t.dataset);
    free(t.config_text);
    return status;
}
