/* One pass of the model: forward and backward. */
#include "lm.h"

#include <math.h>

#include "error.h"
#include "gdn_model.h"
#include "lm_sum.h"

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

/* Those that the layer computes with: A_log and dt_bias are of the state type. */
static gdn_layer_weights weights_of(const gdni_lm *lm, int32_t block) {
    gdn_layer_weights w = gdni_lm_layer_weights(lm, lm->param, block);
    const struct {
        void **field;
        int32_t place;
    } rounded[] = {{&w.in_proj_qkv, GDNI_LM_QKV}, {&w.in_proj_z, GDNI_LM_Z},
                   {&w.in_proj_b, GDNI_LM_B},     {&w.in_proj_a, GDNI_LM_A},
                   {&w.conv1d, GDNI_LM_CONV1D},   {&w.norm, GDNI_LM_GATED_NORM},
                   {&w.out_proj, GDNI_LM_OUT}};
    for (size_t i = 0; i < sizeof(rounded) / sizeof(rounded[0]); ++i)
        *rounded[i].field = (void *)gdni_lm_weight(lm, gdni_lm_index(block, rounded[i].place));
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
                         .weight = gdni_lm_weight(lm, index),
                         .h = h,
                         .y = y,
                         .workspace = lm->workspace,
                         .workspace_size = lm->workspace_size};
}

static gdn_linear linear_part(const gdni_lm *lm, int32_t index, const void *x, void *y) {
    return (gdn_linear){.size = sizeof(gdn_linear),
                        .dtype = lm->shape.dtype,
                        .T = lm->T,
                        .in = (int32_t)lm->params[index].shape[1],
                        .out = (int32_t)lm->params[index].shape[0],
                        .x = x,
                        .weight = gdni_lm_weight(lm, index),
                        .y = y,
                        .workspace = lm->workspace,
                        .workspace_size = lm->workspace_size};
}

static gdn_swiglu swiglu_part(const gdni_lm *lm, const gdni_lm_block *b) {
    return (gdn_swiglu){.size = sizeof(gdn_swiglu),
                        .dtype = lm->shape.dtype,
                        .T = lm->T,
                        .F = lm->shape.mlp,
                        .x = b->gate_up,
                        .y = b->act};
}

static gdn_embedding embedding_part(const gdni_lm *lm, int32_t pass) {
    return (gdn_embedding){.size = sizeof(gdn_embedding),
                           .dtype = lm->shape.dtype,
                           .T = lm->T,
                           .vocab = lm->shape.vocab,
                           .D = lm->shape.width,
                           .tokens = lm->batch + 2 * lm->T * pass,
                           .weight = gdni_lm_weight(lm, 0),
                           .y = lm->blocks[0].h_in,
                           .workspace = lm->workspace,
                           .workspace_size = lm->workspace_size};
}

static gdn_cross_entropy entropy_part(const gdni_lm *lm, int32_t pass) {
    return (gdn_cross_entropy){.size = sizeof(gdn_cross_entropy),
                               .dtype = lm->shape.dtype,
                               .T = lm->T,
                               .D = lm->shape.width,
                               .vocab = lm->shape.vocab,
                               .x = lm->normed,
                               .weight = gdni_lm_weight(lm, gdni_lm_head(lm)),
                               .targets = lm->batch + 2 * lm->T * pass + lm->T,
                               .loss = &lm->numbers->loss[pass],
                               .workspace = lm->workspace,
                               .workspace_size = lm->workspace_size};
}

/* The first norm of block i, or with i == layers the last norm: its stream is the sum of the MLP
 * before it and h_mid of that block, or where summed it is there already, as the first one of all
 * is. */
static gdn_rmsnorm stream_norm(const gdni_lm *lm, int32_t i, int summed) {
    const int last = i == lm->shape.layers;
    void *h = last ? lm->h_out : lm->blocks[i].h_in;
    void *y = last ? lm->normed : lm->blocks[i].normed1;
    const int32_t index = last ? gdni_lm_final_norm(lm) : gdni_lm_index(i, GDNI_LM_NORM1);
    if (i == 0 || summed)
        return norm_part(lm, index, h, NULL, NULL, y);
    return norm_part(lm, index, lm->branch, lm->blocks[i - 1].h_mid, h, y);
}

gdn_status gdni_lm_span(gdni_lm *lm, gdni_span_part part, int32_t block) {
    if (!lm->timeline)
        return GDN_STATUS_OK;
    GDN_TRY(gdni_timeline_add(lm->timeline, part, lm->pass, block));
    return lm->memory->stamp(lm->memory, GDNI_STAMP_SPANS + lm->timeline->count);
}

/* Within a layer, for the timeline: where one of its parts ends. */
typedef struct layer_spans {
    gdni_lm *lm;
    int32_t block;
} layer_spans;

static gdn_status on_projected(void *user, const void *qkv) {
    const layer_spans *s = user;
    return gdni_lm_span(s->lm, GDNI_SPAN_PROJECTIONS, s->block);
}

static gdn_status on_forward(void *user, const gdn_problem *problem, const gdn_tensors *tensors,
                             gdn_stream stream) {
    const layer_spans *s = user;
    GDN_TRY(gdni_lm_span(s->lm, GDNI_SPAN_CONVOLUTION, s->block));
    GDN_TRY(gdn_forward(s->lm->context, problem, tensors, stream));
    return gdni_lm_span(s->lm, GDNI_SPAN_OPERATOR, s->block);
}

static gdn_status on_backward(void *user, const gdn_problem *problem, const gdn_tensors *tensors,
                              gdn_stream stream) {
    const layer_spans *s = user;
    GDN_TRY(gdni_lm_span(s->lm, GDNI_SPAN_OUTPUT, s->block));
    GDN_TRY(gdn_backward(s->lm->context, problem, tensors, stream));
    return gdni_lm_span(s->lm, GDNI_SPAN_OPERATOR, s->block);
}

static gdn_status on_convolved(void *user, void *dqkv) {
    const layer_spans *s = user;
    return gdni_lm_span(s->lm, GDNI_SPAN_CONVOLUTION, s->block);
}

/* With what other ranks sent in this pass's first forward, where they share blocks' memory. */
static gdn_status shared_forward(gdni_lm *lm, int32_t i, gdn_layer_tensors *t, int save,
                                 int again) {
    const gdni_lm_block *b = &lm->blocks[i];
    gdni_memory *m = lm->memory;
    gdni_ranks *ranks = lm->ranks;
    if (again) {
        GDN_TRY(m->copy(m, GDNI_LANE_COMPUTE, b->saved, b->crossed, ranks->crossed));
        return ranks->forward_again(ranks, t, m->stream);
    }
    GDN_TRY(ranks->forward(ranks, save ? GDNI_RANKS_BACKWARD : GDNI_RANKS_LOSS, t, m->stream));
    if (!b->crossed)
        return GDN_STATUS_OK;
    return m->copy(m, GDNI_LANE_COMPUTE, b->crossed, b->saved, ranks->crossed);
}

typedef enum layer_pass {
    LAYER_FORWARD,
    LAYER_AGAIN,
    LAYER_BACKWARD
} layer_pass;

static gdn_status layer_call(gdni_lm *lm, int32_t i, gdn_layer_tensors *t, const gdn_layer *layer,
                             layer_pass p) {
    layer_spans spans = {lm, i};
    const gdn_layer_hooks hooks = {sizeof(hooks), &spans,      on_projected,
                                   on_forward,    on_backward, on_convolved};
    gdn_stream stream = lm->memory->stream;
    if (lm->sharded) {
        GDN_TRY(p == LAYER_BACKWARD
                    ? lm->ranks->backward(lm->ranks, t, stream)
                    : shared_forward(lm, i, t, layer == &lm->layer, p == LAYER_AGAIN));
        return gdni_lm_span(lm, GDNI_SPAN_LAYER, i);
    }
    t->hooks = lm->timeline ? &hooks : NULL;
    if (p == LAYER_BACKWARD) {
        GDN_TRY(gdn_layer_backward(lm->context, layer, t, stream));
        return gdni_lm_span(lm, GDNI_SPAN_PROJECTIONS, i);
    }
    GDN_TRY(gdn_layer_forward(lm->context, layer, t, stream));
    return gdni_lm_span(lm, GDNI_SPAN_OUTPUT, i);
}

/* save: a backward of this block follows before any other's forward, or nothing is shared. again:
 * for backward, from h_in. */
static gdn_status block_forward(gdni_lm *lm, int32_t i, int save, int again) {
    const gdni_lm_block *b = &lm->blocks[i];
    const gdn_context *context = lm->context;
    const gdn_layer_weights weights = weights_of(lm, i);
    gdn_stream stream = lm->memory->stream;
    gdn_layer_tensors t = GDN_LAYER_TENSORS_INIT;
    t.x = b->normed1;
    t.weights = &weights;
    t.out = lm->branch;
    t.workspace = lm->workspace;
    t.workspace_size = lm->workspace_size;
    t.saved = save || lm->sharded ? b->saved : NULL; /* other ranks need what is kept there */
    const gdn_rmsnorm norm1 = stream_norm(lm, i, again);
    const gdn_rmsnorm norm2 =
        norm_part(lm, gdni_lm_index(i, GDNI_LM_NORM2), lm->branch, b->h_in, b->h_mid, b->normed2);
    const gdn_linear up =
        linear_part(lm, gdni_lm_index(i, GDNI_LM_GATE_UP), b->normed2, b->gate_up);
    const gdn_swiglu act = swiglu_part(lm, b);
    const gdn_linear down = linear_part(lm, gdni_lm_index(i, GDNI_LM_DOWN), b->act, lm->branch);
    GDN_TRY(gdn_rmsnorm_forward(context, &norm1, stream));
    GDN_TRY(gdni_lm_span(lm, GDNI_SPAN_NORM, i));
    GDN_TRY(layer_call(lm, i, &t, save ? &lm->layer : &lm->layer_loss,
                       again ? LAYER_AGAIN : LAYER_FORWARD));
    GDN_TRY(gdn_rmsnorm_forward(context, &norm2, stream));
    GDN_TRY(gdni_lm_span(lm, GDNI_SPAN_NORM, i));
    GDN_TRY(gdn_linear_forward(context, &up, stream));
    GDN_TRY(gdn_swiglu_forward(context, &act, stream));
    if (!again) /* its sum is h_in of the block after, which is there */
        GDN_TRY(gdn_linear_forward(context, &down, stream));
    return gdni_lm_span(lm, GDNI_SPAN_MLP, i);
}

/* In: lm->d[0], the gradient of the stream after the block. Out: lm->d[0], before it. add: to the
 * gradients of parameters that are there. */
static gdn_status block_backward(gdni_lm *lm, int32_t i, int add) {
    const gdni_lm_block *b = &lm->blocks[i];
    const gdn_context *context = lm->context;
    gdn_stream stream = lm->memory->stream;
    const gdn_layer_weights weights = weights_of(lm, i);
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
    gdn_rmsnorm norm1 = stream_norm(lm, i, lm->setup.recompute == GDNI_RECOMPUTE_LAYER);
    norm1.dy = lm->dnormed;
    norm1.dh = lm->d[1];
    norm1.dx = lm->d[0];
    norm1.dweight = gdni_lm_at(lm, lm->grad, gdni_lm_index(i, GDNI_LM_NORM1));
    down.accumulate = up.accumulate = norm1.accumulate = norm2.accumulate = add;
    GDN_TRY(gdn_linear_backward(context, &down, stream));
    GDN_TRY(gdn_swiglu_backward(context, &act, stream));
    GDN_TRY(gdn_linear_backward(context, &up, stream));
    GDN_TRY(gdni_lm_span(lm, GDNI_SPAN_MLP, i));
    GDN_TRY(gdn_rmsnorm_backward(context, &norm2, stream));
    GDN_TRY(gdni_lm_span(lm, GDNI_SPAN_NORM, i));
    GDN_TRY(layer_call(lm, i, &t, add ? &lm->layer_add : &lm->layer, LAYER_BACKWARD));
    GDN_TRY(gdn_rmsnorm_backward(context, &norm1, stream));
    return gdni_lm_span(lm, GDNI_SPAN_NORM, i);
}

/* Forward of all blocks. Where they share what they keep, only the last one's is worth keeping. */
static gdn_status blocks_forward(gdni_lm *lm, int backward) {
    const int32_t layers = lm->shape.layers;
    const int shared = lm->setup.recompute == GDNI_RECOMPUTE_LAYER;
    for (int32_t i = 0; i < layers; ++i)
        GDN_TRY(block_forward(lm, i, backward && (!shared || i == layers - 1), 0));
    return GDN_STATUS_OK;
}

static gdn_status blocks_backward(gdni_lm *lm, gdni_lm_pass pass) {
    const int32_t layers = lm->shape.layers;
    for (int32_t i = layers - 1; i >= 0; --i) {
        if (lm->setup.recompute == GDNI_RECOMPUTE_LAYER && i < layers - 1) {
            lm->pass = GDNI_SPAN_AGAIN;
            GDN_TRY(block_forward(lm, i, 1, 1));
            lm->pass = GDNI_SPAN_BACKWARD;
        }
        GDN_TRY(block_backward(lm, i, pass.number > 0));
        if (pass.last)
            GDN_TRY(gdni_lm_sum_block(lm, i));
    }
    return GDN_STATUS_OK;
}

gdn_status gdni_lm_run(gdni_lm *lm, gdni_lm_pass pass) {
    const int32_t layers = lm->shape.layers, head = gdni_lm_head(lm);
    const gdn_context *context = lm->context;
    gdn_stream stream = lm->memory->stream;
    gdn_embedding embedding = embedding_part(lm, pass.number);
    gdn_cross_entropy entropy = entropy_part(lm, pass.number);
    lm->pass = GDNI_SPAN_FORWARD;
    GDN_TRY(gdn_embedding_forward(context, &embedding, stream));
    GDN_TRY(gdni_lm_span(lm, GDNI_SPAN_EMBEDDING, -1));
    GDN_TRY(blocks_forward(lm, pass.backward));
    gdn_rmsnorm last = stream_norm(lm, layers, 0);
    GDN_TRY(gdn_rmsnorm_forward(context, &last, stream));
    GDN_TRY(gdni_lm_span(lm, GDNI_SPAN_NORM, -1));
    if (pass.backward) {
        entropy.accumulate = pass.number > 0;
        entropy.dx = lm->dnormed;
        entropy.dweight = gdni_lm_at(lm, lm->grad, head);
    }
    GDN_TRY(gdn_cross_entropy_compute(context, &entropy, stream));
    GDN_TRY(gdni_lm_span(lm, GDNI_SPAN_HEAD, -1));
    if (!lm->memory->device && lm->ranks) {
        GDN_TRY(gdni_lm_join_loss(lm, pass.backward));
        if (!isfinite(lm->numbers->loss[pass.number]))
            return GDN_STATUS_OK; /* on all ranks; a NaN does not go on to the others' states */
    }
    if (!pass.backward)
        return GDN_STATUS_OK;
    lm->pass = GDNI_SPAN_BACKWARD;
    last.dy = lm->dnormed;
    last.dx = lm->d[0];
    last.accumulate = pass.number > 0;
    last.dweight = gdni_lm_at(lm, lm->grad, gdni_lm_final_norm(lm));
    GDN_TRY(gdn_rmsnorm_backward(context, &last, stream));
    GDN_TRY(gdni_lm_span(lm, GDNI_SPAN_NORM, -1));
    GDN_TRY(blocks_backward(lm, pass));
    embedding.accumulate = lm->shape.tied || pass.number > 0; /* the head's part is there already */
    embedding.dy = lm->d[0];
    embedding.dweight = gdni_lm_at(lm, lm->grad, 0);
    GDN_TRY(gdn_embedding_backward(context, &embedding, stream));
    return gdni_lm_span(lm, GDNI_SPAN_EMBEDDING, -1);
}

/* ---- Workspace ---------------------------------------------------------------------------------
 */

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

gdn_status gdni_lm_find_workspace(gdni_lm *lm) {
    const gdni_lm_shape *s = &lm->shape;
    const gdn_rmsnorm norm = {
        .size = sizeof(norm), .dtype = s->dtype, .T = lm->T, .D = s->width, .eps = GDNI_LM_EPS};
    gdn_linear linear = {.size = sizeof(linear), .dtype = s->dtype, .T = lm->T};
    const gdn_embedding embedding = {
        .size = sizeof(embedding), .dtype = s->dtype, .T = lm->T, .vocab = s->vocab, .D = s->width};
    const gdn_cross_entropy entropy = {
        .size = sizeof(entropy), .dtype = s->dtype, .T = lm->T, .D = s->width, .vocab = s->vocab};
    const gdn_grad_norm gradient = {
        .size = sizeof(gradient), .dtype = lm->master, .count = lm->count};
    size_t bytes = 0, most = lm->workspace_size;
    for (int down = 0; down < 2; ++down) {
        linear.in = down ? s->mlp : s->width;
        linear.out = down ? s->width : 2 * s->mlp;
        GDN_TRY(gdn_linear_workspace(lm->context, &linear, &bytes));
        most = larger(most, bytes);
    }
    GDN_TRY(gdn_rmsnorm_workspace(lm->context, &norm, &bytes));
    most = larger(most, bytes);
    GDN_TRY(gdn_embedding_workspace(lm->context, &embedding, &bytes));
    most = larger(most, bytes);
    GDN_TRY(gdn_cross_entropy_workspace(lm->context, &entropy, &bytes));
    most = larger(most, bytes);
    GDN_TRY(gdn_grad_norm_workspace(lm->context, &gradient, &bytes));
    lm->workspace_size = larger(most, bytes);
    return GDN_STATUS_OK;
}
