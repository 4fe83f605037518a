/* Steps of a model: batches, gradient and update, and the host's copy of what they make. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "lm.h"
#include "lm_sum.h"

/* ---- Batches -----------------------------------------------------------------------------------
 */

/* Host backends look at them themselves. */
static gdn_status check_range(const char *name, const int32_t *data, int64_t count, int32_t low,
                              int32_t high) {
    for (int64_t t = 0; t < count; ++t)
        if (data[t] < low || data[t] > high)
            return gdni_fail(GDN_STATUS_BAD_DATA,
                             "%s[%" PRId64 "] is %" PRId32 ", expected %" PRId32 " to %" PRId32,
                             name, t, data[t], low, high);
    return GDN_STATUS_OK;
}

static gdn_status check_batch(const gdni_lm *lm, const int32_t *tokens, const int32_t *targets) {
    if (!lm->memory->device)
        return GDN_STATUS_OK;
    GDN_TRY(check_range("tokens", tokens, lm->T, 0, lm->shape.vocab - 1));
    return check_range("targets", targets, lm->T, -1, lm->shape.vocab - 1);
}

/* Of one pass. */
static gdn_status count_targets(gdni_lm *lm, const int32_t *targets, gdni_lm_targets *count) {
    count->own = 0;
    for (int64_t t = 0; t < lm->T; ++t)
        count->own += targets[t] >= 0;
    count->all = (double)count->own;
    if (!lm->ranks || !lm->memory->device)
        return GDN_STATUS_OK;
    GDN_TRY(lm->ranks->gather(lm->ranks, &count->all, lm->shares, sizeof(count->all)));
    count->all = 0;
    for (int32_t r = 0; r < lm->ranks->ranks; ++r)
        count->all += lm->shares[r];
    return GDN_STATUS_OK;
}

static void put(const gdni_lm *lm, int32_t *to, const int32_t *tokens, const int32_t *targets) {
    const size_t bytes = (size_t)lm->T * sizeof(int32_t);
    memcpy(to, tokens, bytes);
    memcpy(to + lm->T, targets, bytes);
}

gdn_status gdni_lm_give(gdni_lm *lm, const int32_t *tokens, const int32_t *targets) {
    gdni_memory *m = lm->memory;
    const int slot = (int)(lm->given / lm->passes % GDNI_LM_SLOTS);
    const int64_t pass = lm->given % lm->passes, at = 2 * lm->T * pass;
    gdni_lm_targets *all = &lm->coming[slot], one;
    GDNI_REQUIRE(lm->given - lm->taken < GDNI_LM_SLOTS * (int64_t)lm->passes,
                 "model: a batch more than it takes ahead was given");
    GDN_TRY(check_batch(lm, tokens, targets));
    GDN_TRY(count_targets(lm, targets, &one));
    GDNI_REQUIRE(pass == 0 || one.own * pass == all->own,
                 "model: the passes of a step: expected %" PRId64 " targets each, found %" PRId64,
                 all->own / pass, one.own);
    all->own = one.own + (pass ? all->own : 0);
    all->all = one.all + (pass ? all->all : 0);
    if (pass == 0) {
        GDN_TRY(m->reach(m, GDNI_MARK_SENT + slot, "a batch on its way"));
        GDN_TRY(m->follow(m, GDNI_LANE_BATCH, GDNI_MARK_TAKEN + slot));
    }
    put(lm, lm->sending[slot] + at, tokens, targets);
    GDN_TRY(m->copy(m, GDNI_LANE_BATCH, lm->arriving[slot] + at, lm->sending[slot] + at,
                    2 * (size_t)lm->T * sizeof(int32_t)));
    GDN_TRY(m->mark(m, GDNI_LANE_BATCH, GDNI_MARK_SENT + slot));
    ++lm->given;
    return GDN_STATUS_OK;
}

/* The oldest batches given become those at hand. */
static gdn_status take(gdni_lm *lm) {
    gdni_memory *m = lm->memory;
    const int slot = (int)(lm->taken / lm->passes % GDNI_LM_SLOTS);
    GDNI_REQUIRE(lm->given - lm->taken >= lm->passes, "model: a step without a batch");
    GDN_TRY(m->follow(m, GDNI_LANE_COMPUTE, GDNI_MARK_SENT + slot));
    GDN_TRY(m->copy(m, GDNI_LANE_COMPUTE, lm->batch, lm->arriving[slot],
                    2 * (size_t)lm->T * (size_t)lm->passes * sizeof(int32_t)));
    GDN_TRY(m->mark(m, GDNI_LANE_COMPUTE, GDNI_MARK_TAKEN + slot));
    lm->targets = lm->coming[slot];
    lm->taken += lm->passes;
    return GDN_STATUS_OK;
}

/* ---- One call at a time ------------------------------------------------------------------------
 */

/* Waits for the numbers of what was enqueued. */
static gdn_status read_numbers(gdni_lm *lm, const char *what, gdni_lm_numbers *numbers) {
    gdni_memory *m = lm->memory;
    gdni_lm_numbers *to = &lm->results[GDNI_LM_SLOTS];
    GDN_TRY(m->copy(m, GDNI_LANE_COMPUTE, to, lm->numbers, sizeof(*to)));
    GDN_TRY(m->mark(m, GDNI_LANE_COMPUTE, GDNI_MARK_STEP));
    GDN_TRY(m->reach(m, GDNI_MARK_STEP, what));
    *numbers = *to;
    return GDN_STATUS_OK;
}

/* One pass; all batches that were given have been taken. */
static gdn_status pass(gdni_lm *lm, const int32_t *tokens, const int32_t *targets, int backward,
                       double *loss) {
    gdni_memory *m = lm->memory;
    gdni_lm_numbers numbers;
    GDNI_REQUIRE(lm->given == lm->taken && lm->begun == lm->ended,
                 "model: a pass while steps are under way");
    GDN_TRY(check_batch(lm, tokens, targets));
    GDN_TRY(count_targets(lm, targets, &lm->targets));
    GDN_TRY(m->reach(m, GDNI_MARK_SENT, "a batch on its way"));
    put(lm, lm->sending[0], tokens, targets);
    GDN_TRY(m->copy(m, GDNI_LANE_COMPUTE, lm->batch, lm->sending[0],
                    2 * (size_t)lm->T * sizeof(int32_t)));
    GDN_TRY(gdni_lm_run(lm, (gdni_lm_pass){0, backward, 1}));
    GDN_TRY(read_numbers(lm, backward ? "a pass with backward" : "a pass", &numbers));
    *loss = numbers.loss[0];
    if (m->device && lm->ranks)
        return gdni_lm_join_read(lm, &lm->targets, loss);
    if (!lm->ranks)
        lm->own_loss = *loss;
    return GDN_STATUS_OK;
}

gdn_status gdni_lm_loss(gdni_lm *lm, const int32_t *tokens, const int32_t *targets, double *loss) {
    return pass(lm, tokens, targets, 0, loss);
}

static gdn_status measure_gradient(gdni_lm *lm, double clip) {
    const gdn_grad_norm norm = gdni_lm_norm_part(lm, clip);
    return gdn_grad_norm_compute(lm->context, &norm, lm->memory->stream);
}

/* What ranks do after a pass with backward. */
static gdn_status sum_gradients(gdni_lm *lm) {
    lm->pass = GDNI_SPAN_UPDATE;
    if (lm->ranks && !lm->memory->device) {
        if (!isfinite(lm->numbers->loss[0]))
            return GDN_STATUS_OK;
        GDN_TRY(measure_gradient(lm, 0.0));
        lm->own_norm = lm->numbers->norm;
    }
    return gdni_lm_sum_rest(lm);
}

gdn_status gdni_lm_gradient(gdni_lm *lm, const int32_t *tokens, const int32_t *targets,
                            double *loss) {
    GDNI_REQUIRE(lm->passes == 1, "model: a gradient of one pass among %d", lm->passes);
    GDN_TRY(pass(lm, tokens, targets, 1, loss));
    return sum_gradients(lm);
}

/* ---- Update ------------------------------------------------------------------------------------
 */

static gdn_status adamw(gdni_lm *lm, const gdni_lm_update *update, int decayed) {
    const size_t first = decayed ? 0 : (size_t)lm->decayed;
    const size_t bytes = first * lm->element;
    const gdn_adamw part = {.size = sizeof(part),
                            .dtype = lm->master,
                            .count = decayed ? lm->decayed : lm->count - lm->decayed,
                            .step = update->count,
                            .lr = update->lr,
                            .beta1 = update->beta1,
                            .beta2 = update->beta2,
                            .eps = update->eps,
                            .weight_decay = decayed ? update->weight_decay : 0.0,
                            .param = (char *)lm->param + bytes,
                            .m = (char *)lm->m + bytes,
                            .v = (char *)lm->v + bytes,
                            .grad = (char *)lm->grad + bytes,
                            .grad_scale = &lm->numbers->scale,
                            .rounded =
                                lm->rounded ? (char *)lm->rounded + first * lm->active : NULL,
                            .schedule = lm->memory->device ? lm->numbers->schedule : NULL};
    return gdn_adamw_step(lm->context, &part, lm->memory->stream);
}

/* Norm and AdamW. On a device AdamW itself leaves all alone where the norm is not finite. */
static gdn_status apply(gdni_lm *lm, const gdni_lm_update *update) {
    gdni_memory *m = lm->memory;
    lm->pass = GDNI_SPAN_UPDATE;
    GDN_TRY(measure_gradient(lm, update->clip));
    if (!m->device && !isfinite(lm->numbers->norm))
        return GDN_STATUS_OK;
    if (lm->copying)
        GDN_TRY(m->follow(m, GDNI_LANE_COMPUTE, GDNI_MARK_FETCHED));
    for (int decayed = 1; decayed >= 0; --decayed)
        GDN_TRY(adamw(lm, update, decayed));
    return gdni_lm_span(lm, GDNI_SPAN_ADAMW, -1);
}

static gdn_status set_schedule(gdni_lm *lm, const gdni_lm_update *update,
                               gdni_lm_numbers *numbers) {
    numbers->schedule[0] = (double)update->count;
    numbers->schedule[1] = update->lr;
    return lm->memory->copy(lm->memory, GDNI_LANE_COMPUTE, lm->numbers->schedule, numbers->schedule,
                            sizeof(numbers->schedule));
}

gdn_status gdni_lm_step(gdni_lm *lm, gdni_lm_update *update) {
    gdni_lm_numbers numbers;
    GDN_TRY(set_schedule(lm, update, &lm->results[GDNI_LM_SLOTS]));
    GDN_TRY(apply(lm, update));
    GDN_TRY(read_numbers(lm, "an update", &numbers));
    update->grad_norm = numbers.norm;
    return GDN_STATUS_OK;
}

/* ---- Steps that overlap ------------------------------------------------------------------------
 */

static gdn_status enqueue_step(gdni_lm *lm, const gdni_lm_update *update) {
    for (int32_t i = 0; i < lm->passes; ++i) {
        GDN_TRY(gdni_lm_run(lm, (gdni_lm_pass){i, 1, i == lm->passes - 1}));
        if (!lm->memory->device && !isfinite(lm->numbers->loss[i])) {
            lm->numbers->norm = NAN;
            return GDN_STATUS_OK;
        }
    }
    GDN_TRY(sum_gradients(lm));
    return apply(lm, update);
}

/* All that a step enqueues but for its batch and schedule, which lie at the same place each time.
 */
static gdn_status record_step(gdni_lm *lm, const gdni_lm_update *update) {
    GDN_TRY(lm->memory->record(lm->memory));
    const gdn_status status = enqueue_step(lm, update);
    if (status != GDN_STATUS_OK) {
        char line[256];
        snprintf(line, sizeof(line), "%s", gdn_last_error());
        (void)lm->memory->keep(lm->memory); /* the stream is free again */
        return gdni_fail(status, "%s", line);
    }
    GDN_TRY(lm->memory->keep(lm->memory));
    lm->has_graph = 1;
    lm->recorded = *update;
    return GDN_STATUS_OK;
}

/* The first steps are plain ones: what libraries set up when they are first called is not for a
 * graph. */
static int wants_graph(const gdni_lm *lm) {
    return lm->memory->device && !lm->setup.plain && !lm->ranks && !lm->timeline && !lm->copying &&
           lm->begun >= GDNI_LM_SLOTS;
}

static int same_constants(const gdni_lm_update *a, const gdni_lm_update *b) {
    return a->beta1 == b->beta1 && a->beta2 == b->beta2 && a->eps == b->eps &&
           a->weight_decay == b->weight_decay && a->clip == b->clip;
}

gdn_status gdni_lm_begin(gdni_lm *lm, const gdni_lm_update *update, gdni_timeline *timeline) {
    gdni_memory *m = lm->memory;
    const int slot = (int)(lm->begun % GDNI_LM_SLOTS);
    gdni_lm_numbers *numbers = &lm->results[slot];
    GDNI_REQUIRE(lm->begun - lm->ended < GDNI_LM_SLOTS, "model: too many steps have begun");
    lm->timeline = timeline;
    GDN_TRY(take(lm));
    GDN_TRY(set_schedule(lm, update, numbers));
    if (timeline)
        GDN_TRY(m->stamp(m, GDNI_STAMP_SPANS));
    if (wants_graph(lm)) {
        if (!lm->has_graph || !same_constants(update, &lm->recorded))
            GDN_TRY(record_step(lm, update));
        GDN_TRY(m->replay(m));
    } else {
        GDN_TRY(enqueue_step(lm, update));
    }
    lm->timeline = NULL;
    GDN_TRY(m->copy(m, GDNI_LANE_COMPUTE, numbers, lm->numbers, sizeof(*numbers)));
    GDN_TRY(m->mark(m, GDNI_LANE_COMPUTE, GDNI_MARK_ENDED + slot));
    lm->stepping[slot] = lm->targets;
    ++lm->begun;
    return GDN_STATUS_OK;
}

gdn_status gdni_lm_end(gdni_lm *lm, double *loss, double *norm) {
    const int slot = (int)(lm->ended % GDNI_LM_SLOTS);
    GDNI_REQUIRE(lm->ended < lm->begun, "model: no step has begun");
    GDN_TRY(lm->memory->reach(lm->memory, GDNI_MARK_ENDED + slot, "a step"));
    if (++lm->ended > lm->copied_after)
        lm->copying = 0; /* the step that has ended waited for it */
    *loss = 0;
    for (int32_t i = 0; i < lm->passes; ++i)
        *loss += lm->results[slot].loss[i] / lm->passes;
    *norm = lm->results[slot].norm;
    if (!lm->memory->device) {
        if (!lm->ranks)
            lm->own_loss = *loss;
        return GDN_STATUS_OK;
    }
    lm->own_loss = *loss;
    lm->own_norm = *norm;
    if (!lm->ranks)
        return GDN_STATUS_OK;
    if (lm->ranks->sum_device) {
        double waited[2];
        GDN_TRY(lm->memory->stamps(lm->memory, GDNI_STAMP_SUMS + 2 * slot, 2, waited));
        lm->waited += waited[1];
    }
    return gdni_lm_join_read(lm, &lm->stepping[slot], loss);
}

gdn_status gdni_lm_read_spans(const gdni_lm *lm, gdni_timeline *timeline, double *seconds) {
    const int32_t count = timeline->count + 1;
    double *at = malloc((size_t)count * sizeof(*at));
    if (!at)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "timeline: out of memory");
    const gdn_status status = lm->memory->stamps(lm->memory, GDNI_STAMP_SPANS, count, at);
    for (int32_t i = 0; status == GDN_STATUS_OK && i < timeline->count; ++i) {
        timeline->spans[i].begin = at[i];
        timeline->spans[i].end = at[i + 1];
    }
    *seconds = status == GDN_STATUS_OK ? at[count - 1] : 0;
    free(at);
    return status;
}

/* ---- The host's copy ---------------------------------------------------------------------------
 */

gdn_status gdni_lm_keep(gdni_lm *lm) {
    const size_t bytes = (size_t)lm->count * lm->element;
    if (lm->kept.param)
        return GDN_STATUS_OK;
    GDN_TRY(lm->memory->allocate_host(lm->memory, 3 * bytes, &lm->kept_memory));
    memset(lm->kept_memory, 0, 3 * bytes);
    lm->kept.param = lm->kept_memory;
    lm->kept.m = (char *)lm->kept_memory + bytes;
    lm->kept.v = (char *)lm->kept_memory + 2 * bytes;
    return GDN_STATUS_OK;
}

/* The copy in the dtype of products. */
static gdn_status send_rounded(gdni_lm *lm) {
    gdni_memory *m = lm->memory;
    void *rounded = NULL;
    GDN_TRY(m->allocate_host(m, (size_t)lm->count * lm->active, &rounded));
    gdn_status status =
        gdn_convert(lm->shape.dtype, rounded, lm->master, lm->kept.param, lm->count);
    if (status == GDN_STATUS_OK)
        status =
            m->copy(m, GDNI_LANE_COMPUTE, lm->rounded, rounded, (size_t)lm->count * lm->active);
    if (status == GDN_STATUS_OK)
        status = m->mark(m, GDNI_LANE_COMPUTE, GDNI_MARK_STEP);
    if (status == GDN_STATUS_OK)
        status = m->reach(m, GDNI_MARK_STEP, "parameters on their way");
    m->release_host(m, rounded);
    return status;
}

gdn_status gdni_lm_send(gdni_lm *lm) {
    gdni_memory *m = lm->memory;
    const size_t bytes = (size_t)lm->count * lm->element;
    GDN_TRY(gdni_lm_keep(lm));
    GDN_TRY(m->copy(m, GDNI_LANE_COMPUTE, lm->param, lm->kept.param, bytes));
    GDN_TRY(m->copy(m, GDNI_LANE_COMPUTE, lm->m, lm->kept.m, bytes));
    GDN_TRY(m->copy(m, GDNI_LANE_COMPUTE, lm->v, lm->kept.v, bytes));
    GDN_TRY(m->mark(m, GDNI_LANE_COMPUTE, GDNI_MARK_STEP));
    GDN_TRY(m->reach(m, GDNI_MARK_STEP, "parameters on their way"));
    return lm->rounded ? send_rounded(lm) : GDN_STATUS_OK;
}

gdn_status gdni_lm_fetch(gdni_lm *lm) {
    gdni_memory *m = lm->memory;
    const size_t bytes = (size_t)lm->count * lm->element;
    if (!m->device)
        return GDN_STATUS_OK;
    GDN_TRY(gdni_lm_keep(lm));
    GDN_TRY(m->mark(m, GDNI_LANE_COMPUTE, GDNI_MARK_STEP));
    GDN_TRY(m->follow(m, GDNI_LANE_SAVE, GDNI_MARK_STEP));
    GDN_TRY(m->copy(m, GDNI_LANE_SAVE, lm->kept.param, lm->param, bytes));
    GDN_TRY(m->copy(m, GDNI_LANE_SAVE, lm->kept.m, lm->m, bytes));
    GDN_TRY(m->copy(m, GDNI_LANE_SAVE, lm->kept.v, lm->v, bytes));
    GDN_TRY(m->mark(m, GDNI_LANE_SAVE, GDNI_MARK_FETCHED));
    lm->copying = 1;
    lm->copied_after = lm->begun;
    return GDN_STATUS_OK;
}

gdn_status gdni_lm_fetched(gdni_lm *lm) {
    if (lm->copying)
        GDN_TRY(lm->memory->reach(lm->memory, GDNI_MARK_FETCHED, "the copy of a checkpoint"));
    lm->copying = 0;
    return GDN_STATUS_OK;
}
