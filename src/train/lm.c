/* The model's tensors: their table, their memory, their first values. */
#include "lm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "gdn_model.h"
#include "random.h"

static void add(gdni_lm *lm, const char *name, gdni_lm_kind kind, int64_t rows, int64_t columns) {
    gdni_lm_param *p = &lm->params[lm->param_count++];
    snprintf(p->name, sizeof(p->name), "%s", name);
    p->kind = kind;
    p->ndim = columns ? 2 : 1;
    p->shape[0] = rows;
    p->shape[1] = columns;
    p->count = rows * (columns ? columns : 1);
}

static void add_block(gdni_lm *lm, int32_t block) {
    const gdni_lm_shape *s = &lm->shape;
    const int64_t D = s->width, keys = (int64_t)s->key_heads * s->key_dim,
                  values = (int64_t)s->value_heads * s->value_dim, C = 2 * keys + values;
    const struct {
        const char *name;
        gdni_lm_kind kind;
        int64_t rows, columns;
    } tensors[GDNI_LM_BLOCK_PARAMS] = {
        [GDNI_LM_NORM1] = {"norm1", GDNI_LM_NORM, D, 0},
        [GDNI_LM_QKV] = {"gdn.in_proj_qkv", GDNI_LM_MATRIX, C, D},
        [GDNI_LM_Z] = {"gdn.in_proj_z", GDNI_LM_MATRIX, values, D},
        [GDNI_LM_B] = {"gdn.in_proj_b", GDNI_LM_MATRIX, s->value_heads, D},
        [GDNI_LM_A] = {"gdn.in_proj_a", GDNI_LM_MATRIX, s->value_heads, D},
        [GDNI_LM_CONV1D] = {"gdn.conv1d", GDNI_LM_CONV, C, s->conv_width},
        [GDNI_LM_ALOG] = {"gdn.A_log", GDNI_LM_A_LOG, s->value_heads, 0},
        [GDNI_LM_DTBIAS] = {"gdn.dt_bias", GDNI_LM_DT_BIAS, s->value_heads, 0},
        [GDNI_LM_GATED_NORM] = {"gdn.norm", GDNI_LM_NORM, s->value_dim, 0},
        [GDNI_LM_OUT] = {"gdn.out_proj", GDNI_LM_RESIDUAL, D, values},
        [GDNI_LM_NORM2] = {"norm2", GDNI_LM_NORM, D, 0},
        [GDNI_LM_GATE_UP] = {"mlp.gate_up", GDNI_LM_MATRIX, 2 * (int64_t)s->mlp, D},
        [GDNI_LM_DOWN] = {"mlp.down", GDNI_LM_RESIDUAL, D, s->mlp},
    };
    for (int32_t i = 0; i < GDNI_LM_BLOCK_PARAMS; ++i) {
        char name[56];
        snprintf(name, sizeof(name), "blocks.%d.%s", block, tensors[i].name);
        add(lm, name, tensors[i].kind, tensors[i].rows, tensors[i].columns);
    }
}

/* Weight decay is a range of the flat buffers: its tensors come first. */
static void assign_offsets(gdni_lm *lm) {
    const int64_t step = 64 / (int64_t)lm->element;
    lm->count = 0;
    for (int decayed = 1; decayed >= 0; --decayed) {
        for (int32_t i = 0; i < lm->param_count; ++i) {
            gdni_lm_param *p = &lm->params[i];
            if ((p->kind <= GDNI_LM_EMBEDDING) != decayed)
                continue;
            p->offset = lm->count;
            lm->count += (p->count + step - 1) / step * step;
        }
        if (decayed)
            lm->decayed = lm->count;
    }
}

/* What a block keeps between forward and backward besides h_in. */
static void place_kept(const gdni_lm *lm, gdni_arena *a, gdni_lm_block *b) {
    const size_t T = (size_t)lm->T, stream = T * (size_t)lm->shape.width * lm->active,
                 hidden = T * (size_t)lm->shape.mlp * lm->active;
    b->normed1 = gdni_arena_take(a, stream);
    b->h_mid = gdni_arena_take(a, stream);
    b->normed2 = gdni_arena_take(a, stream);
    b->gate_up = gdni_arena_take(a, 2 * hidden);
    b->act = gdni_arena_take(a, hidden);
    b->saved = gdni_arena_take(a, lm->saved_size);
}

static void place(gdni_lm *lm, gdni_arena *a) {
    const size_t T = (size_t)lm->T, flat = (size_t)lm->count * lm->element,
                 stream = T * (size_t)lm->shape.width * lm->active,
                 hidden = T * (size_t)lm->shape.mlp * lm->active;
    lm->param = gdni_arena_take(a, flat);
    lm->grad = gdni_arena_take(a, flat);
    lm->m = gdni_arena_take(a, flat);
    lm->v = gdni_arena_take(a, flat);
    lm->rounded =
        lm->active != lm->element ? gdni_arena_take(a, (size_t)lm->count * lm->active) : NULL;
    for (int32_t i = 0; i < lm->shape.layers; ++i) {
        gdni_lm_block *b = &lm->blocks[i];
        b->h_in = gdni_arena_take(a, stream);
        if (i == 0 || lm->setup.recompute != GDNI_RECOMPUTE_LAYER) {
            place_kept(lm, a, b);
        } else {
            void *h_in = b->h_in;
            *b = lm->blocks[0];
            b->h_in = h_in;
        }
        if (lm->sharded && lm->setup.recompute == GDNI_RECOMPUTE_LAYER)
            b->crossed = gdni_arena_take(a, lm->ranks->crossed);
    }
    lm->branch = gdni_arena_take(a, stream);
    lm->h_out = gdni_arena_take(a, stream);
    lm->normed = gdni_arena_take(a, stream);
    lm->d[0] = gdni_arena_take(a, stream);
    lm->d[1] = gdni_arena_take(a, stream);
    lm->dnormed = gdni_arena_take(a, stream);
    lm->dgate_up = gdni_arena_take(a, 2 * hidden);
    lm->dact = gdni_arena_take(a, hidden);
    lm->workspace = gdni_arena_take(a, lm->workspace_size);
    lm->numbers = gdni_arena_take(a, sizeof(*lm->numbers));
    const size_t batch = 2 * T * (size_t)lm->passes * sizeof(int32_t);
    lm->batch = gdni_arena_take(a, batch);
    for (int i = 0; i < GDNI_LM_SLOTS; ++i)
        lm->arriving[i] = gdni_arena_take(a, batch);
}

/* What the host keeps for copies to and from the model's memory. */
static void place_host(gdni_lm *lm, gdni_arena *a) {
    for (int i = 0; i < GDNI_LM_SLOTS; ++i)
        lm->sending[i] =
            gdni_arena_take(a, 2 * (size_t)lm->T * (size_t)lm->passes * sizeof(int32_t));
    lm->results = gdni_arena_take(a, (GDNI_LM_SLOTS + 1) * sizeof(*lm->results));
    lm->shares = gdni_arena_take(a, lm->ranks ? 2 * sizeof(double) * (size_t)lm->ranks->ranks : 0);
    lm->piece =
        gdni_arena_take(a, lm->ranks && lm->memory->device ? GDNI_LM_PIECE * sizeof(float) : 0);
}

static gdn_status allocate(gdni_lm *lm) {
    gdni_arena arena = {NULL, 0};
    place(lm, &arena);
    lm->memory_bytes = arena.used;
    GDN_TRY(lm->memory->allocate(lm->memory, arena.used, &lm->block_memory));
    arena = (gdni_arena){lm->block_memory, 0};
    place(lm, &arena);
    arena = (gdni_arena){NULL, 0};
    place_host(lm, &arena);
    GDN_TRY(lm->memory->allocate_host(lm->memory, arena.used, &lm->host_memory));
    arena = (gdni_arena){lm->host_memory, 0};
    place_host(lm, &arena);
    if (!lm->memory->device) {
        lm->kept.param = lm->param;
        lm->kept.m = lm->m;
        lm->kept.v = lm->v;
    }
    return GDN_STATUS_OK;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* The layer's sizes: this rank's part of T tokens in N sequences. */
static gdn_status plan_ranks(gdni_lm *lm, int64_t T, int64_t N) {
    const gdni_part part = gdni_part_of(lm->ranks, N, T / N);
    for (int i = 0; i < GDNI_RANKS_PLANS; ++i) {
        gdn_layer group = i == GDNI_RANKS_LOSS ? lm->layer_loss : lm->layer;
        gdn_sizes sizes = GDN_SIZES_INIT;
        group.T = part.group_count;
        group.N = part.group_count / (T / N);
        GDN_TRY(lm->ranks->plan(lm->ranks, (gdni_ranks_plan)i, lm->context, &group, &part, &sizes));
        lm->saved_size = larger(lm->saved_size, sizes.saved);
        lm->workspace_size = larger(lm->workspace_size, sizes.forward_workspace);
        if (i == GDNI_RANKS_BACKWARD)
            lm->workspace_size = larger(lm->workspace_size, sizes.backward_workspace);
    }
    return GDN_STATUS_OK;
}

static gdn_status plan_alone(gdni_lm *lm) {
    gdn_sizes pass = GDN_SIZES_INIT, loss = GDN_SIZES_INIT;
    GDN_TRY(gdn_layer_supported(lm->context, &lm->layer));
    GDN_TRY(gdn_layer_sizes(lm->context, &lm->layer, &pass));
    GDN_TRY(gdn_layer_sizes(lm->context, &lm->layer_loss, &loss));
    lm->saved_size = pass.saved;
    lm->workspace_size =
        larger(larger(pass.forward_workspace, pass.backward_workspace), loss.forward_workspace);
    return GDN_STATUS_OK;
}

gdn_layer gdni_lm_layer(const gdni_lm_shape *s, const gdni_lm_setup *setup, int64_t T, int64_t N) {
    gdn_layer layer = GDN_LAYER_INIT;
    layer.dtype = s->dtype;
    layer.flags = (setup->recompute != GDNI_RECOMPUTE_STATES ? GDN_LAYER_SAVE_STATES : 0) |
                  (setup->device && setup->save_inverse ? GDN_LAYER_SAVE_INVERSE : 0);
    layer.T = T;
    layer.N = N;
    layer.D = s->width;
    layer.Hk = s->key_heads;
    layer.Hv = s->value_heads;
    layer.K = s->key_dim;
    layer.V = s->value_dim;
    layer.conv_width = s->conv_width;
    layer.norm_eps = GDNI_LM_EPS;
    return layer;
}

static gdn_status plan(gdni_lm *lm, int64_t T, int64_t N) {
    lm->layer = gdni_lm_layer(&lm->shape, &lm->setup, lm->sharded ? T : lm->T,
                              lm->sharded ? N : lm->T / (T / N));
    lm->layer_loss = lm->layer_add = lm->layer;
    lm->layer_add.flags |= GDN_LAYER_ACCUMULATE;
    lm->layer_loss.flags = 0;
    GDN_TRY(lm->sharded ? plan_ranks(lm, T, N) : plan_alone(lm));
    return gdni_lm_find_workspace(lm);
}

static void list_params(gdni_lm *lm) {
    add(lm, "embedding", GDNI_LM_EMBEDDING, lm->shape.vocab, lm->shape.width);
    for (int32_t i = 0; i < lm->shape.layers; ++i)
        add_block(lm, i);
    add(lm, "final_norm", GDNI_LM_NORM, lm->shape.width, 0);
    if (!lm->shape.tied)
        add(lm, "head", GDNI_LM_MATRIX, lm->shape.vocab, lm->shape.width);
    assign_offsets(lm);
}

gdn_status gdni_lm_create(gdni_lm **out, const gdn_context *host, const gdni_lm_shape *shape,
                          int64_t T, int64_t N, const gdni_lm_setup *setup) {
    gdn_status status = GDN_STATUS_OUT_OF_MEMORY;
    gdni_ranks *ranks = setup ? setup->ranks : NULL;
    *out = NULL;
    GDNI_REQUIRE(shape->layers >= 1 && shape->width >= 1 && shape->mlp >= 1 && shape->vocab >= 1,
                 "model: layers %d, width %d, mlp %d, vocab %d, expected each 1 or more",
                 shape->layers, shape->width, shape->mlp, shape->vocab);
    const int64_t groups = ranks ? ranks->ranks / ranks->width : 1,
                  width = ranks ? ranks->width : 1;
    GDNI_REQUIRE(
        N >= groups,
        "[train] batch_tokens: expected a sequence for each of %lld groups of ranks, found "
        "%lld",
        (long long)groups, (long long)N);
    GDNI_REQUIRE(N / groups * (T / N) >= width,
                 "[train] batch_tokens: expected a token for each of %lld ranks of a sequence, "
                 "found %lld",
                 (long long)width, (long long)(N / groups * (T / N)));
    const int32_t passes = setup && setup->passes ? setup->passes : 1;
    GDNI_REQUIRE(passes >= 1 && passes <= GDNI_LM_PASSES,
                 "[train] passes: expected 1 to %d, found %d", (int)GDNI_LM_PASSES, passes);
    GDNI_REQUIRE(
        passes == 1 || !ranks || (setup->device && width == 1),
        "[train] passes: expected 1 on ranks of the cpu, or that share a sequence, found %d",
        passes);
    gdni_lm *lm = calloc(1, sizeof(*lm));
    if (!lm)
        goto memory;
    lm->passes = passes;
    lm->host = host;
    lm->context = setup && setup->device ? setup->device : host;
    lm->shape = *shape;
    if (setup)
        lm->setup = *setup;
    lm->ranks = ranks;
    lm->sharded = width > 1;
    lm->T = gdni_part_of(ranks, N, T / N).count;
    lm->master = shape->dtype == GDN_DTYPE_FP64 ? GDN_DTYPE_FP64 : GDN_DTYPE_FP32;
    lm->element = gdn_dtype_size(lm->master);
    lm->active = gdn_dtype_size(shape->dtype);
    lm->params = calloc((size_t)(3 + shape->layers * GDNI_LM_BLOCK_PARAMS), sizeof(*lm->params));
    lm->blocks = calloc((size_t)shape->layers, sizeof(*lm->blocks));
    if (!lm->params || !lm->blocks)
        goto memory;
    list_params(lm);
    GDN_TRY_GOTO(gdni_memory_create(&lm->memory, lm->context), failed);
    GDN_TRY_GOTO(plan(lm, T, N), failed);
    GDN_TRY_GOTO(allocate(lm), sizes);
    *out = lm;
    return GDN_STATUS_OK;

sizes:
    if (status != GDN_STATUS_OUT_OF_MEMORY)
        goto failed;
memory:
    status = gdni_fail(GDN_STATUS_OUT_OF_MEMORY,
                       "model: out of memory for %d layers of width %d and %lld tokens a batch "
                       "(%.2f GB); [train] recompute takes less",
                       shape->layers, shape->width, (long long)T,
                       lm ? 1e-9 * (double)lm->memory_bytes : 0.0);
failed:
    gdni_lm_destroy(lm);
    return status;
}

void gdni_lm_destroy(gdni_lm *lm) {
    if (!lm)
        return;
    if (lm->memory && lm->block_memory)
        lm->memory->release(lm->memory, lm->block_memory);
    if (lm->memory && lm->host_memory)
        lm->memory->release_host(lm->memory, lm->host_memory);
    if (lm->memory && lm->kept_memory)
        lm->memory->release_host(lm->memory, lm->kept_memory);
    gdni_memory_destroy(lm->memory);
    free(lm->blocks);
    free(lm->params);
    free(lm);
}

double gdni_lm_flops(const gdni_lm *lm) {
    const gdni_lm_shape *s = &lm->shape;
    double weights = 0;
    for (int32_t i = 0; i < lm->param_count; ++i)
        if (lm->params[i].kind == GDNI_LM_MATRIX || lm->params[i].kind == GDNI_LM_RESIDUAL ||
            (s->tied && lm->params[i].kind == GDNI_LM_EMBEDDING))
            weights += (double)lm->params[i].count;
    return 6 * weights + 18.0 * s->layers * s->value_heads * s->key_dim * s->value_dim;
}

static double first_value(const gdni_lm *lm, const gdni_lm_param *p, uint64_t seed, uint64_t stream,
                          uint64_t i) {
    const double inputs = (double)p->shape[p->ndim - 1];
    const double matrix = 0.02 * sqrt(1024.0 / inputs);
    const double u = gdni_random_uniform(seed, stream, i);
    switch (p->kind) {
    case GDNI_LM_MATRIX:
        return matrix * gdni_random_normal(seed, stream, i);
    case GDNI_LM_RESIDUAL:
        return matrix / sqrt(2.0 * lm->shape.layers) * gdni_random_normal(seed, stream, i);
    case GDNI_LM_EMBEDDING:
        return 0.02 * gdni_random_normal(seed, stream, i);
    case GDNI_LM_CONV:
        return (2 * u - 1) / sqrt(inputs);
    case GDNI_LM_NORM:
        return 1.0;
    case GDNI_LM_A_LOG:
        return log(16.0 * (1.0 - u)); /* 1 - u is never 0 */
    case GDNI_LM_DT_BIAS: {
        const double dt = exp(log(1e-3) + u * (log(1e-1) - log(1e-3)));
        return log(expm1(dt));
    }
    }
    return 0.0;
}

gdn_status gdni_lm_initialise(gdni_lm *lm, uint64_t seed) {
    const int32_t threads = gdn_context_threads(lm->host);
    GDN_TRY(gdni_lm_keep(lm));
    for (int32_t t = 0; t < lm->param_count; ++t) {
        const gdni_lm_param *p = &lm->params[t];
        void *at = gdni_lm_at(lm, lm->kept.param, t);
#pragma omp parallel for num_threads(threads)
        for (int64_t i = 0; i < p->count; ++i) {
            const double x = first_value(lm, p, seed, (uint64_t)t, (uint64_t)i);
            if (lm->master == GDN_DTYPE_FP64)
                ((double *)at)[i] = x;
            else
                ((float *)at)[i] = (float)x;
        }
    }
    return gdni_lm_send(lm);
}
