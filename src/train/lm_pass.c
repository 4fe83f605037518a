/* One pass of the model: forward, backward, update. */
#include "lm.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "error.h"
#include "gdn_model.h"
#include "random.h"

gdn_layer_weights gdni_lm_layer_weights(const gdni_lm *lm, void *flat, int32_t block) {
    gdn_layer_weights w = GDN_LAYER_WEIGHTS_INIT;
    w.in_proj_qkv = gdni_lm_at(lm, flat, gdni_lm_index(block, GDNI_LM_QKV));
    w.in_proj_z = gdni_lm_at(lm, flat, gdni_lm_index(block, GDNI_LM_Z));
    w.in_proj_b = gdni_lm_at(lm, flat, gdni_lm_index(block, GDNI_LM_B));
    w.in_proj_a = gdni_lm_at(lm, flat, gdni_lm_index(block, GDNI_LM_A));
    w.conv1d = gdni_lm_at(lm, flat, gdni_lm_index(block, GDNI_LM_CONV1D));
    w.A_log = gdni_lm_at(lm, flat, gdni_lm_index(block, GDNI_LM_ALOG));
    w.dt_bias = gdni_lm_at(lm, flat, gdni_lm_index(block, GDNI_LM_DTBIAS));
    w.norm = gdni_lm_at(lm, flat, gdni_lm_index(block, GDNI_LM_GATED_NORM));
    w.out_proj = gdni_lm_at(lm, flat, gdni_lm_index(block, GDNI_LM_OUT));
    return w;
}

/* A norm of the residual stream: h = x + residual, y = RMSNorm(h); parameter `index`. */
static gdn_rmsnorm norm_part(const gdni_lm *lm, int32_t index, const void *x, const void *residual,
                             void *h, void *y) {
    return (gdn_rmsnorm){.size = sizeof(gdn_rmsnorm),
                         .dtype = lm->shape.dtype,
                         .T = lm->T,
                         .D = lm->shape.width,
                         .eps = GDNI_LM_EPS,
                         .x = x,
                         .residual = residual,
                         .weight = gdni_lm_at(lm, lm->param, index),
                         .h = h,
                         .y = y};
}

static gdn_linear linear_part(const gdni_lm *lm, int32_t index, const void *x, void *y) {
    return (gdn_linear){.size = sizeof(gdn_linear),
                        .dtype = lm->shape.dtype,
                        .T = lm->T,
                        .in = (int32_t)lm->params[index].shape[1],
                        .out = (int32_t)lm->params[index].shape[0],
                        .x = x,
                        .weight = gdni_lm_at(lm, lm->param, index),
                        .y = y};
}

static gdn_swiglu swiglu_part(const gdni_lm *lm, const gdni_lm_block *b) {
    return (gdn_swiglu){.size = sizeof(gdn_swiglu),
                        .dtype = lm->shape.dtype,
                        .T = lm->T,
                        .F = lm->shape.mlp,
                        .x = b->gate_up,
                        .y = b->act};
}

/* The first norm of block i, or with i == layers the last norm: its stream is the sum of the MLP
 * before it and h_mid of that block. The first one of all has no residual. */
static gdn_rmsnorm stream_norm(const gdni_lm *lm, int32_t i) {
    const int last = i == lm->shape.layers;
    void *h = last ? lm->h_out : lm->blocks[i].h_in;
    void *y = last ? lm->normed : lm->blocks[i].normed1;
    const int32_t index = last ? gdni_lm_final_norm(lm) : gdni_lm_index(i, GDNI_LM_NORM1);
    if (i == 0)
        return norm_part(lm, index, h, NULL, NULL, y);
    return norm_part(lm, index, lm->branch, lm->blocks[i - 1].h_mid, h, y);
}

static gdn_status layer_forward(gdni_lm *lm, int32_t i, gdn_layer_tensors *t, int save) {
    gdni_device_call call;
    if (lm->sharded)
        return lm->ranks->forward(lm->ranks, t);
    if (lm->device)
        t->hooks = gdni_device_hooks(lm->device, i, save, &call);
    return gdn_layer_forward(lm->context, save ? &lm->layer : &lm->layer_loss, t, NULL);
}

static gdn_status layer_backward(gdni_lm *lm, int32_t i, gdn_layer_tensors *t) {
    gdni_device_call call;
    if (lm->sharded)
        return lm->ranks->backward(lm->ranks, t);
    if (lm->device)
        t->hooks = gdni_device_hooks(lm->device, i, 1, &call);
    return gdn_layer_backward(lm->context, &lm->layer, t, NULL);
}

static gdn_status block_forward(gdni_lm *lm, int32_t i, int save) {
    const gdni_lm_block *b = &lm->blocks[i];
    const gdn_layer_weights weights = gdni_lm_layer_weights(lm, lm->param, i);
    gdn_layer_tensors t = GDN_LAYER_TENSORS_INIT;
    t.x = b->normed1;
    t.weights = &weights;
    t.out = lm->branch;
    t.workspace = lm->workspace;
    t.workspace_size = lm->workspace_size;
    t.saved = save || lm->sharded ? b->saved : NULL; /* other ranks need what is kept there */
    const gdn_rmsnorm norm1 = stream_norm(lm, i);
    const gdn_rmsnorm norm2 =
        norm_part(lm, gdni_lm_index(i, GDNI_LM_NORM2), lm->branch, b->h_in, b->h_mid, b->normed2);
    const gdn_linear up =
        linear_part(lm, gdni_lm_index(i, GDNI_LM_GATE_UP), b->normed2, b->gate_up);
    const gdn_swiglu act = swiglu_part(lm, b);
    const gdn_linear down = linear_part(lm, gdni_lm_index(i, GDNI_LM_DOWN), b->act, lm->branch);
    GDN_TRY(gdn_rmsnorm_forward(lm->context, &norm1, NULL));
    GDN_TRY(layer_forward(lm, i, &t, save));
    GDN_TRY(gdn_rmsnorm_forward(lm->context, &norm2, NULL));
    GDN_TRY(gdn_linear_forward(lm->context, &up, NULL));
    GDN_TRY(gdn_swiglu_forward(lm->context, &act, NULL));
    return gdn_linear_forward(lm->context, &down, NULL);
}

/* In: lm->d[0], the gradient of the stream after the block. Out: lm->d[0], before it. */
static gdn_status block_backward(gdni_lm *lm, int32_t i) {
    const gdni_lm_block *b = &lm->blocks[i];
    const gdn_layer_weights weights = gdni_lm_layer_weights(lm, lm->param, i);
    const gdn_layer_weights dweights = gdni_lm_layer_weights(lm, lm->grad, i);
    gdn_linear down = linear_part(lm, gdni_lm_index(i, GDNI_LM_DOWN), b->act, NULL);
    down.dy = lm->d[0];
    down.dx = lm->dact;
    down.dweight = gdni_lm_at(lm, lm->grad, gdni_lm_index(i, GDNI_LM_DOWN));
    gdn_swiglu act = swiglu_part(lm, b);
    act.dy = lm->dact;
    act.dx = lm->dgate_up;
    gdn_linear up = linear_part(lm, gdni_lm_index(i, GDNI_LM_GATE_UP), b->normed2, NULL);
    up.dy = lm->dgate_up;
    up.dx = lm->dnormed;
    up.dweight = gdni_lm_at(lm, lm->grad, gdni_lm_index(i, GDNI_LM_GATE_UP));
    gdn_rmsnorm norm2 =
        norm_part(lm, gdni_lm_index(i, GDNI_LM_NORM2), lm->branch, b->h_in, b->h_mid, b->normed2);
    norm2.dy = lm->dnormed;
    norm2.dh = lm->d[0];
    norm2.dx = lm->d[1];
    norm2.dweight = gdni_lm_at(lm, lm->grad, gdni_lm_index(i, GDNI_LM_NORM2));
    gdn_layer_tensors t = GDN_LAYER_TENSORS_INIT;
    t.x = b->normed1;
    t.weights = &weights;
    t.saved = b->saved;
    t.dout = lm->d[1];
    t.dx = lm->dnormed;
    t.dweights = &dweights;
    t.workspace = lm->workspace;
    t.workspace_size = lm->workspace_size;
    gdn_rmsnorm norm1 = stream_norm(lm, i);
    norm1.dy = lm->dnormed;
    norm1.dh = lm->d[1];
    norm1.dx = lm->d[0];
    norm1.dweight = gdni_lm_at(lm, lm->grad, gdni_lm_index(i, GDNI_LM_NORM1));
    GDN_TRY(gdn_linear_backward(lm->context, &down, NULL));
    GDN_TRY(gdn_swiglu_backward(lm->context, &act, NULL));
    GDN_TRY(gdn_linear_backward(lm->context, &up, NULL));
    GDN_TRY(gdn_rmsnorm_backward(lm->context, &norm2, NULL));
    GDN_TRY(layer_backward(lm, i, &t));
    return gdn_rmsnorm_backward(lm->context, &norm1, NULL);
}

static void scale(const gdni_lm *lm, void *data, int64_t count, double factor) {
    for (int64_t i = 0; i < count; ++i) {
        if (lm->shape.dtype == GDN_DTYPE_FP64)
            ((double *)data)[i] *= factor;
        else
            ((float *)data)[i] *= (float)factor;
    }
}

/*
 * From the mean over this rank's n_r targets to that over all n: loss = sum_r n_r loss_r / n, and
 * the gradients of the head, from which all others follow, times n_r / n.
 */
static gdn_status join_loss(gdni_lm *lm, const int32_t *targets, int backward, double *loss) {
    const int32_t head = gdni_lm_head(lm);
    double sum = 0, count = 0;
    lm->own_count = 0;
    for (int64_t t = 0; t < lm->T; ++t)
        lm->own_count += targets[t] >= 0;
    lm->own_loss = *loss;
    const double mine[2] = {*loss * (double)lm->own_count, (double)lm->own_count};
    GDN_TRY(lm->ranks->gather(lm->ranks, mine, lm->shares, sizeof(mine)));
    for (int32_t r = 0; r < lm->ranks->ranks; ++r) {
        sum += lm->shares[2 * r];
        count += lm->shares[2 * r + 1];
    }
    *loss = count > 0 ? sum / count : 0;
    if (!backward)
        return GDN_STATUS_OK;
    const double factor = count > 0 ? (double)lm->own_count / count : 0;
    scale(lm, lm->dnormed, lm->T * lm->shape.width, factor);
    scale(lm, gdni_lm_at(lm, lm->grad, head), lm->params[head].count, factor);
    return GDN_STATUS_OK;
}

static gdn_status run(gdni_lm *lm, const int32_t *tokens, const int32_t *targets, int backward,
                      double *loss) {
    const int32_t layers = lm->shape.layers, head = gdni_lm_head(lm);
    gdn_embedding embedding = {.size = sizeof(embedding),
                               .dtype = lm->shape.dtype,
                               .T = lm->T,
                               .vocab = lm->shape.vocab,
                               .D = lm->shape.width,
                               .tokens = tokens,
                               .weight = gdni_lm_at(lm, lm->param, 0),
                               .y = lm->blocks[0].h_in};
    gdn_cross_entropy entropy = {.size = sizeof(entropy),
                                 .dtype = lm->shape.dtype,
                                 .T = lm->T,
                                 .D = lm->shape.width,
                                 .vocab = lm->shape.vocab,
                                 .x = lm->normed,
                                 .weight = gdni_lm_at(lm, lm->param, head),
                                 .targets = targets,
                                 .loss = loss,
                                 .workspace = lm->entropy_workspace,
                                 .workspace_size = lm->entropy_workspace_size};
    GDN_TRY(gdn_embedding_forward(lm->context, &embedding, NULL));
    for (int32_t i = 0; i < layers; ++i)
        GDN_TRY(block_forward(lm, i, backward));
    gdn_rmsnorm last = stream_norm(lm, layers);
    GDN_TRY(gdn_rmsnorm_forward(lm->context, &last, NULL));
    if (backward) {
        entropy.dx = lm->dnormed;
        entropy.dweight = gdni_lm_at(lm, lm->grad, head);
    }
    GDN_TRY(gdn_cross_entropy_compute(lm->context, &entropy, NULL));
    if (lm->ranks)
        GDN_TRY(join_loss(lm, targets, backward, loss));
    if (lm->ranks && !isfinite(*loss))
        return GDN_STATUS_OK; /* on all ranks; a NaN does not go on to the others' states */
    if (!backward)
        return GDN_STATUS_OK;
    last.dy = lm->dnormed;
    last.dx = lm->d[0];
    last.dweight = gdni_lm_at(lm, lm->grad, gdni_lm_final_norm(lm));
    GDN_TRY(gdn_rmsnorm_backward(lm->context, &last, NULL));
    for (int32_t i = layers - 1; i >= 0; --i)
        GDN_TRY(block_backward(lm, i));
    embedding.accumulate = lm->shape.tied; /* the head's part is there already */
    embedding.dy = lm->d[0];
    embedding.dweight = gdni_lm_at(lm, lm->grad, 0);
    return gdn_embedding_backward(lm->context, &embedding, NULL);
}

gdn_status gdni_lm_loss(gdni_lm *lm, const int32_t *tokens, const int32_t *targets, double *loss) {
    return run(lm, tokens, targets, 0, loss);
}

/* The gradient's norm and how to scale it, into step_norm and step_scale. */
static gdn_status measure_gradient(gdni_lm *lm, double clip) {
    const gdn_grad_norm norm = {.size = sizeof(norm),
                                .dtype = lm->shape.dtype,
                                .count = lm->count,
                                .max_norm = clip,
                                .grad = lm->grad,
                                .norm = lm->step_norm,
                                .scale = lm->step_scale};
    return gdn_grad_norm_compute(lm->context, &norm, NULL);
}

gdn_status gdni_lm_gradient(gdni_lm *lm, const int32_t *tokens, const int32_t *targets,
                            double *loss) {
    GDN_TRY(run(lm, tokens, targets, 1, loss));
    if (!lm->ranks || !isfinite(*loss))
        return GDN_STATUS_OK;
    GDN_TRY(measure_gradient(lm, 0.0));
    lm->own_norm = *lm->step_norm;
    return lm->ranks->sum(lm->ranks, lm->shape.dtype, lm->grad, lm->count);
}

gdn_status gdni_lm_step(gdni_lm *lm, gdni_lm_update *update) {
    GDN_TRY(measure_gradient(lm, update->clip));
    update->grad_norm = *lm->step_norm;
    if (!isfinite(update->grad_norm))
        return GDN_STATUS_OK;
    for (int decayed = 1; decayed >= 0; --decayed) {
        const size_t first = decayed ? 0 : (size_t)lm->decayed * lm->element;
        const gdn_adamw adamw = {.size = sizeof(adamw),
                                 .dtype = lm->shape.dtype,
                                 .count = decayed ? lm->decayed : lm->count - lm->decayed,
                                 .step = update->count,
                                 .lr = update->lr,
                                 .beta1 = update->beta1,
                                 .beta2 = update->beta2,
                                 .eps = update->eps,
                                 .weight_decay = decayed ? update->weight_decay : 0.0,
                                 .param = (char *)lm->param + first,
                                 .m = (char *)lm->m + first,
                                 .v = (char *)lm->v + first,
                                 .grad = (char *)lm->grad + first,
                                 .grad_scale = lm->step_scale};
        GDN_TRY(gdn_adamw_step(lm->context, &adamw, NULL));
    }
    return GDN_STATUS_OK;
}

gdn_status gdni_lm_compare(gdni_lm *lm, gdn_status mine, const char *text) {
    const size_t bytes = (size_t)lm->count * lm->element; /* padded to more than a word */
    uint64_t hash = 0, word;
    char line[256];
    if (!lm->ranks)
        return mine;
    for (size_t i = 0; i < bytes; i += sizeof(word)) {
        memcpy(&word, (const char *)lm->param + i, sizeof(word));
        hash = gdni_mix(hash ^ word);
    }
    snprintf(line, sizeof(line), "%s; hash of the parameters %016llx", text,
             (unsigned long long)hash);
    return lm->ranks->agree(lm->ranks, mine, line);
}
