#include "lm_sum.h"

#include <stdio.h>
#include <string.h>

#include "error.h"
#include "progress.h"
#include "random.h"

static void scale(const gdni_lm *lm, void *data, int64_t count, double factor) {
    for (int64_t i = 0; i < count; ++i) {
        if (lm->shape.dtype == GDN_DTYPE_FP64)
            ((double *)data)[i] *= factor;
        else
            ((float *)data)[i] *= (float)factor;
    }
}

static double share(double own, double all) {
    return all > 0 ? own / all : 0;
}

/* sum_r n_r loss_r / n, and n. Where sums go over NCCL the device is at its next step meanwhile. */
static gdn_status gather_loss(gdni_lm *lm, double own_loss, double own_count, double *loss,
                              double *count) {
    const double mine[2] = {own_loss * own_count, own_count};
    const double began = gdni_seconds();
    double sum = 0;
    *count = 0;
    GDN_TRY(lm->ranks->gather(lm->ranks, mine, lm->shares, sizeof(mine)));
    if (!lm->ranks->sum_device)
        lm->waited += gdni_seconds() - began;
    for (int32_t r = 0; r < lm->ranks->ranks; ++r) {
        sum += lm->shares[2 * r];
        *count += lm->shares[2 * r + 1];
    }
    *loss = share(sum, *count);
    return GDN_STATUS_OK;
}

gdn_status gdni_lm_join_loss(gdni_lm *lm, int backward) {
    const int32_t head = gdni_lm_head(lm);
    const double own = (double)lm->targets.own;
    double *loss = &lm->numbers->loss[0], count;
    lm->own_loss = *loss;
    GDN_TRY(gather_loss(lm, lm->own_loss, own, loss, &count));
    if (!backward)
        return GDN_STATUS_OK;
    const double factor = share(own, count);
    scale(lm, lm->dnormed, lm->T * lm->shape.width, factor);
    scale(lm, gdni_lm_at(lm, lm->grad, head), lm->params[head].count, factor);
    return GDN_STATUS_OK;
}

gdn_status gdni_lm_join_read(gdni_lm *lm, const gdni_lm_targets *targets, double *loss) {
    double count;
    lm->own_loss = *loss;
    return gather_loss(lm, lm->own_loss, (double)targets->own, loss, &count);
}

/* On a device: the mean of the passes of a range, and this rank's part of it. */
static gdn_status weigh(gdni_lm *lm, int64_t first, int64_t end) {
    const double part = lm->ranks ? share((double)lm->targets.own, lm->targets.all) : 1;
    return lm->memory->scale(lm->memory, (char *)lm->grad + (size_t)first * lm->element,
                             end - first, part / lm->passes);
}

static gdn_status sum_range(gdni_lm *lm, int64_t first, int64_t end) {
    if (first == end)
        return GDN_STATUS_OK;
    GDN_TRY(weigh(lm, first, end));
    return lm->ranks->sum_device(lm->ranks, (float *)lm->grad + first, end - first,
                                 lm->memory->stream);
}

/* Matrices of a block: they lie side by side in the order of the table. */
static int64_t block_begin(const gdni_lm *lm, int32_t block) {
    if (block < lm->shape.layers)
        return lm->params[gdni_lm_index(block, GDNI_LM_QKV)].offset;
    return lm->shape.tied ? lm->decayed : lm->params[gdni_lm_head(lm)].offset;
}

gdn_status gdni_lm_sum_block(gdni_lm *lm, int32_t block) {
    if (!lm->ranks || !lm->memory->device || !lm->ranks->sum_device)
        return GDN_STATUS_OK;
    return sum_range(lm, block_begin(lm, block), block_begin(lm, block + 1));
}

/* Of what the host can read. */
static gdn_status sum_host(gdni_lm *lm, void *data, int64_t count) {
    const double began = gdni_seconds();
    GDN_TRY(lm->ranks->sum(lm->ranks, lm->master, data, count));
    lm->waited += gdni_seconds() - began;
    return GDN_STATUS_OK;
}

/* Messages take what the host can read. */
static gdn_status sum_through_host(gdni_lm *lm) {
    gdni_memory *m = lm->memory;
    GDN_TRY(weigh(lm, 0, lm->count));
    for (int64_t i = 0; i < lm->count; i += GDNI_LM_PIECE) {
        const int64_t count = lm->count - i < GDNI_LM_PIECE ? lm->count - i : GDNI_LM_PIECE;
        const size_t bytes = (size_t)count * lm->element;
        char *at = (char *)lm->grad + (size_t)i * lm->element;
        GDN_TRY(m->copy(m, GDNI_LANE_COMPUTE, lm->piece, at, bytes));
        GDN_TRY(m->mark(m, GDNI_LANE_COMPUTE, GDNI_MARK_STEP));
        GDN_TRY(m->reach(m, GDNI_MARK_STEP, "gradients on their way to the host"));
        GDN_TRY(sum_host(lm, lm->piece, count));
        GDN_TRY(m->copy(m, GDNI_LANE_COMPUTE, at, lm->piece, bytes));
        GDN_TRY(m->mark(m, GDNI_LANE_COMPUTE, GDNI_MARK_STEP));
        GDN_TRY(m->reach(m, GDNI_MARK_STEP, "gradients on their way back"));
    }
    return GDN_STATUS_OK;
}

/* Waits, on the device, for sums that are not over when backward is. */
static gdn_status finish_sums(gdni_lm *lm) {
    const int32_t stamp = GDNI_STAMP_SUMS + 2 * (int32_t)(lm->begun % GDNI_LM_SLOTS);
    GDN_TRY(lm->memory->stamp(lm->memory, stamp));
    GDN_TRY(lm->ranks->finish_device(lm->ranks, lm->memory->stream));
    return lm->memory->stamp(lm->memory, stamp + 1);
}

/* Alone: the mean of the passes. */
static gdn_status average(gdni_lm *lm) {
    if (lm->passes == 1)
        return GDN_STATUS_OK;
    if (lm->memory->device)
        return weigh(lm, 0, lm->count);
    scale(lm, lm->grad, lm->count, 1.0 / lm->passes);
    return GDN_STATUS_OK;
}

gdn_status gdni_lm_sum_rest(gdni_lm *lm) {
    if (!lm->ranks)
        return average(lm);
    if (!lm->memory->device)
        return sum_host(lm, lm->grad, lm->count);
    if (!lm->ranks->sum_device) {
        GDN_TRY(sum_through_host(lm));
    } else {
        GDN_TRY(sum_range(lm, 0, block_begin(lm, 0)));
        GDN_TRY(sum_range(lm, block_begin(lm, lm->shape.layers), lm->count));
        GDN_TRY(finish_sums(lm));
    }
    return gdni_lm_span(lm, GDNI_SPAN_SUM, -1);
}

gdn_grad_norm gdni_lm_norm_part(const gdni_lm *lm, double clip) {
    return (gdn_grad_norm){.size = sizeof(gdn_grad_norm),
                           .dtype = lm->master,
                           .count = lm->count,
                           .max_norm = clip,
                           .grad = lm->grad,
                           .norm = &lm->numbers->norm,
                           .scale = &lm->numbers->scale,
                           .workspace = lm->workspace,
                           .workspace_size = lm->workspace_size};
}

gdn_status gdni_lm_compare(gdni_lm *lm, gdn_status mine, const char *text) {
    const size_t bytes = (size_t)lm->count * lm->element; /* padded to more than a word */
    uint64_t hash = 0, word;
    char line[256];
    if (!lm->ranks)
        return mine;
    if (mine == GDN_STATUS_OK)
        mine = gdni_lm_fetch(lm);
    if (mine == GDN_STATUS_OK)
        mine = gdni_lm_fetched(lm);
    for (size_t i = 0; mine == GDN_STATUS_OK && i < bytes; i += sizeof(word)) {
        memcpy(&word, (const char *)lm->kept.param + i, sizeof(word));
        hash = gdni_mix(hash ^ word);
    }
    snprintf(line, sizeof(line), "%s; hash of the parameters %016llx", text,
             (unsigned long long)hash);
    return lm->ranks->agree(lm->ranks, mine, line);
}
