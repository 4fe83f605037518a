#include "sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "gdn_model.h"

/* What a block carries from token to token. */
typedef struct block_state {
    void *halo;  /* [conv_width - 1, C] */
    void *state; /* [Hv, K, V] */
} block_state;

struct gdni_sampler {
    const gdni_lm *lm;
    gdn_problem problem;
    size_t workspace_size, halo_size, state_size, memory_size, channels;
    block_state *blocks;
    void *h, *sum, *normed, *branch; /* [width] */
    void *qkv, *conv, *z, *a, *b, *g, *beta, *o, *y, *gate_up, *act, *next_state, *logits,
        *workspace;
    void *memory;
};

static void place(gdni_sampler *s, gdni_arena *a) {
    const gdni_lm_shape *m = &s->lm->shape;
    const size_t e = s->lm->element, D = (size_t)m->width, H = (size_t)m->value_heads,
                 values = H * (size_t)m->value_dim;
    for (int32_t i = 0; i < m->layers; ++i) {
        s->blocks[i].halo = gdni_arena_take(a, s->halo_size + e);
        s->blocks[i].state = gdni_arena_take(a, s->state_size);
    }
    void **const vectors[] = {&s->h, &s->sum, &s->normed, &s->branch};
    for (int i = 0; i < 4; ++i)
        *vectors[i] = gdni_arena_take(a, D * e);
    s->qkv = gdni_arena_take(a, s->channels * e);
    s->conv = gdni_arena_take(a, s->channels * e);
    void **const heads[] = {&s->a, &s->b, &s->g, &s->beta};
    for (int i = 0; i < 4; ++i)
        *heads[i] = gdni_arena_take(a, H * e);
    void **const outputs[] = {&s->z, &s->o, &s->y};
    for (int i = 0; i < 3; ++i)
        *outputs[i] = gdni_arena_take(a, values * e);
    s->gate_up = gdni_arena_take(a, 2 * (size_t)m->mlp * e);
    s->act = gdni_arena_take(a, (size_t)m->mlp * e);
    s->next_state = gdni_arena_take(a, s->state_size);
    s->logits = gdni_arena_take(a, (size_t)m->vocab * e);
    s->workspace = gdni_arena_take(a, s->workspace_size);
}

gdn_status gdni_sampler_create(gdni_sampler **out, const gdni_lm *lm) {
    const gdni_lm_shape *m = &lm->shape;
    gdn_status status = GDN_STATUS_OUT_OF_MEMORY;
    gdn_sizes sizes = GDN_SIZES_INIT;
    *out = NULL;
    gdni_sampler *s = calloc(1, sizeof(*s));
    if (!s)
        goto memory;
    s->lm = lm;
    s->problem = (gdn_problem)GDN_PROBLEM_INIT;
    s->problem.dtype = lm->master;
    s->problem.flags = GDN_FLAG_L2NORM_QK;
    s->problem.T = 1;
    s->problem.Hk = m->key_heads;
    s->problem.Hv = m->value_heads;
    s->problem.K = m->key_dim;
    s->problem.V = m->value_dim;
    GDN_TRY_GOTO(gdn_problem_sizes(lm->host, &s->problem, &sizes), failed);
    s->workspace_size = sizes.forward_workspace;
    s->channels = (size_t)(2 * m->key_heads * m->key_dim + m->value_heads * m->value_dim);
    s->halo_size = (size_t)(m->conv_width - 1) * s->channels * lm->element;
    s->state_size =
        (size_t)m->value_heads * (size_t)m->key_dim * (size_t)m->value_dim * lm->element;
    s->blocks = calloc((size_t)m->layers, sizeof(*s->blocks));
    if (!s->blocks)
        goto memory;
    gdni_arena arena = {NULL, 0};
    place(s, &arena);
    s->memory_size = arena.used;
    s->memory = aligned_alloc(256, arena.used);
    if (!s->memory)
        goto memory;
    arena = (gdni_arena){s->memory, 0};
    place(s, &arena);
    gdni_sampler_reset(s);
    *out = s;
    return GDN_STATUS_OK;

memory:
    status = gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "sampler: out of memory");
failed:
    gdni_sampler_destroy(s);
    return status;
}

void gdni_sampler_destroy(gdni_sampler *sampler) {
    if (!sampler)
        return;
    free(sampler->memory);
    free(sampler->blocks);
    free(sampler);
}

void gdni_sampler_reset(gdni_sampler *sampler) {
    memset(sampler->memory, 0, sampler->memory_size);
}

static gdn_status project(const gdni_sampler *s, int32_t index, const void *x, void *y) {
    const gdni_lm *lm = s->lm;
    const gdn_linear part = {.size = sizeof(part),
                             .dtype = lm->master,
                             .T = 1,
                             .in = (int32_t)lm->params[index].shape[1],
                             .out = (int32_t)lm->params[index].shape[0],
                             .x = x,
                             .weight = gdni_lm_at(lm, lm->kept.param, index),
                             .y = y};
    return gdn_linear_forward(lm->host, &part, NULL);
}

/* With a residual the stream s->h becomes x + s->h. */
static gdn_status normalise(gdni_sampler *s, int32_t index, int add_branch) {
    const gdni_lm *lm = s->lm;
    const gdn_rmsnorm part = {.size = sizeof(part),
                              .dtype = lm->master,
                              .T = 1,
                              .D = lm->shape.width,
                              .eps = GDNI_LM_EPS,
                              .x = add_branch ? s->branch : s->h,
                              .residual = add_branch ? s->h : NULL,
                              .weight = gdni_lm_at(lm, lm->kept.param, index),
                              .h = add_branch ? s->sum : NULL,
                              .y = s->normed};
    GDN_TRY(gdn_rmsnorm_forward(lm->host, &part, NULL));
    if (add_branch)
        memcpy(s->h, s->sum, (size_t)lm->shape.width * lm->element);
    return GDN_STATUS_OK;
}

static gdn_status convolve(gdni_sampler *s, int32_t block) {
    const gdni_lm *lm = s->lm;
    const size_t row = s->channels * lm->element;
    char *halo = s->blocks[block].halo;
    const gdn_conv1d part = {
        .size = sizeof(part),
        .dtype = lm->master,
        .T = 1,
        .N = 1,
        .channels = (int32_t)s->channels,
        .width = lm->shape.conv_width,
        .x = s->qkv,
        .weight = gdni_lm_at(lm, lm->kept.param, gdni_lm_index(block, GDNI_LM_CONV1D)),
        .halo = s->halo_size ? halo : NULL,
        .y = s->conv};
    GDN_TRY(gdn_conv1d_forward(lm->host, &part, NULL));
    if (s->halo_size) {
        memmove(halo, halo + row, s->halo_size - row);
        memcpy(halo + s->halo_size - row, s->qkv, row);
    }
    return GDN_STATUS_OK;
}

static gdn_status mix(gdni_sampler *s, int32_t block) {
    const gdni_lm *lm = s->lm;
    const size_t keys = (size_t)(lm->shape.key_heads * lm->shape.key_dim) * lm->element;
    const gdn_gate gate = {
        .size = sizeof(gate),
        .dtype = lm->master,
        .T = 1,
        .H = lm->shape.value_heads,
        .a = s->a,
        .b = s->b,
        .A_log = gdni_lm_at(lm, lm->kept.param, gdni_lm_index(block, GDNI_LM_ALOG)),
        .dt_bias = gdni_lm_at(lm, lm->kept.param, gdni_lm_index(block, GDNI_LM_DTBIAS)),
        .g = s->g,
        .beta = s->beta};
    const gdn_gated_rmsnorm norm = {
        .size = sizeof(norm),
        .dtype = lm->master,
        .T = 1,
        .H = lm->shape.value_heads,
        .V = lm->shape.value_dim,
        .eps = GDNI_LM_EPS,
        .x = s->o,
        .z = s->z,
        .weight = gdni_lm_at(lm, lm->kept.param, gdni_lm_index(block, GDNI_LM_GATED_NORM)),
        .y = s->y};
    gdn_tensors t = GDN_TENSORS_INIT;
    t.q = s->conv;
    t.k = (const char *)s->conv + keys;
    t.v = (const char *)s->conv + 2 * keys;
    t.g = s->g;
    t.beta = s->beta;
    t.initial_state = s->blocks[block].state;
    t.o = s->o;
    t.final_state = s->next_state;
    t.workspace = s->workspace;
    t.workspace_size = s->workspace_size;
    GDN_TRY(gdn_gate_forward(lm->host, &gate, NULL));
    GDN_TRY(gdn_forward(lm->host, &s->problem, &t, NULL));
    memcpy(s->blocks[block].state, s->next_state, s->state_size);
    return gdn_gated_rmsnorm_forward(lm->host, &norm, NULL);
}

static gdn_status run_block(gdni_sampler *s, int32_t i) {
    const gdn_swiglu act = {.size = sizeof(act),
                            .dtype = s->lm->master,
                            .T = 1,
                            .F = s->lm->shape.mlp,
                            .x = s->gate_up,
                            .y = s->act};
    GDN_TRY(normalise(s, gdni_lm_index(i, GDNI_LM_NORM1), i > 0));
    GDN_TRY(project(s, gdni_lm_index(i, GDNI_LM_QKV), s->normed, s->qkv));
    GDN_TRY(project(s, gdni_lm_index(i, GDNI_LM_Z), s->normed, s->z));
    GDN_TRY(project(s, gdni_lm_index(i, GDNI_LM_B), s->normed, s->b));
    GDN_TRY(project(s, gdni_lm_index(i, GDNI_LM_A), s->normed, s->a));
    GDN_TRY(convolve(s, i));
    GDN_TRY(mix(s, i));
    GDN_TRY(project(s, gdni_lm_index(i, GDNI_LM_OUT), s->y, s->branch));
    GDN_TRY(normalise(s, gdni_lm_index(i, GDNI_LM_NORM2), 1));
    GDN_TRY(project(s, gdni_lm_index(i, GDNI_LM_GATE_UP), s->normed, s->gate_up));
    GDN_TRY(gdn_swiglu_forward(s->lm->host, &act, NULL));
    return project(s, gdni_lm_index(i, GDNI_LM_DOWN), s->act, s->branch);
}

gdn_status gdni_sampler_feed(gdni_sampler *s, int32_t token, const void **logits) {
    const gdni_lm *lm = s->lm;
    const gdn_embedding embedding = {.size = sizeof(embedding),
                                     .dtype = lm->master,
                                     .T = 1,
                                     .vocab = lm->shape.vocab,
                                     .D = lm->shape.width,
                                     .tokens = &token,
                                     .weight = gdni_lm_at(lm, lm->kept.param, 0),
                                     .y = s->h};
    GDN_TRY(gdn_embedding_forward(lm->host, &embedding, NULL));
    for (int32_t i = 0; i < lm->shape.layers; ++i)
        GDN_TRY(run_block(s, i));
    GDN_TRY(normalise(s, gdni_lm_final_norm(lm), 1));
    GDN_TRY(project(s, gdni_lm_head(lm), s->normed, s->logits));
    *logits = s->logits;
    return GDN_STATUS_OK;
}

static double logit(const gdni_lm *lm, const void *logits, int32_t i) {
    return lm->master == GDN_DTYPE_FP64 ? ((const double *)logits)[i]
                                        : (double)((const float *)logits)[i];
}

int32_t gdni_sampler_choose(const gdni_lm *lm, const void *logits, double temperature, double u) {
    int32_t best = 0;
    double sum = 0;
    for (int32_t i = 1; i < lm->shape.vocab; ++i)
        if (logit(lm, logits, i) > logit(lm, logits, best))
            best = i;
    if (temperature <= 0)
        return best;
    const double top = logit(lm, logits, best);
    for (int32_t i = 0; i < lm->shape.vocab; ++i)
        sum += exp((logit(lm, logits, i) - top) / temperature);
    double left = u * sum;
    for (int32_t i = 0; i < lm->shape.vocab; ++i) {
        left -= exp((logit(lm, logits, i) - top) / temperature);
        if (left < 0)
            return i;
    }
    return best;
}
