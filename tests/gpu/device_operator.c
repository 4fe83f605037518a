#include "device_operator.h"

#include <stdlib.h>

#include "arena.h"
#include "cuda/memory.h"

/* What a layer's operator has on the device. q, k, v, g and beta are copied as one block. */
typedef struct device_block {
    void *qkv;      /* [T, C] */
    void *g, *beta; /* [T, Hv] */
    void *saved;
} device_block;

struct gdni_device {
    const gdn_context *context;
    gdn_problem problem, problem_loss; /* of a pass with backward, of one without */
    int32_t blocks;
    int64_t wide, values, heads; /* elements of qkv, of o and of a gate */
    gdn_sizes sizes;
    size_t workspace_size;
    size_t inputs, gradients; /* bytes of a block's inputs, and of what backward brings back */

    device_block *block;
    void *out;               /* [T, Hv V]: o, do */
    void *dqkv, *dg, *dbeta; /* in one block as well */
    void *workspace;
    void *memory;
    /* The same on the host: `staging` holds the inputs or the gradients, each with its parts at the
     * offsets that they have on the device. */
    char *staging;
    gdn_stream stream;
};

static gdn_problem operator_problem(const gdni_device_setup *setup, const gdn_layer *layer) {
    gdn_problem p = GDN_PROBLEM_INIT;
    p.dtype = setup->dtype;
    p.flags =
        setup->flags | GDN_FLAG_L2NORM_QK | (layer->flags & GDN_LAYER_EXACT ? GDN_FLAG_EXACT : 0);
    p.T = layer->T;
    p.N = layer->N;
    p.Hk = layer->Hk;
    p.Hv = layer->Hv;
    p.K = layer->K;
    p.V = layer->V;
    p.scale = layer->scale;
    p.decay_threshold = layer->decay_threshold;
    p.q_strides.token = p.k_strides.token = p.v_strides.token =
        2 * (int64_t)layer->Hk * layer->K + (int64_t)layer->Hv * layer->V;
    return p;
}

static void place(gdni_device *d, gdni_arena *a) {
    const size_t element = gdn_dtype_size(d->problem.dtype);
    const size_t wide = (size_t)d->wide * element, gate = (size_t)d->heads * sizeof(float);
    for (int32_t i = 0; i < d->blocks; ++i) {
        device_block *b = &d->block[i];
        const size_t before = a->used;
        b->qkv = gdni_arena_take(a, wide);
        b->g = gdni_arena_take(a, gate);
        b->beta = gdni_arena_take(a, gate);
        d->inputs = a->used - before;
        b->saved = gdni_arena_take(a, d->sizes.saved);
    }
    const size_t before = a->used;
    d->dqkv = gdni_arena_take(a, wide);
    d->dg = gdni_arena_take(a, gate);
    d->dbeta = gdni_arena_take(a, gate);
    d->gradients = a->used - before;
    d->out = gdni_arena_take(a, (size_t)d->values * element);
    d->workspace = gdni_arena_take(a, d->workspace_size);
}

static gdn_status plan(gdni_device *d, const gdni_device_setup *setup, const gdn_layer *layer) {
    const gdn_sizes init = GDN_SIZES_INIT;
    gdn_sizes loss = init;
    d->problem = d->problem_loss = operator_problem(setup, layer);
    d->problem_loss.flags &= ~(uint32_t)(GDN_FLAG_SAVE_STATES | GDN_FLAG_SAVE_INVERSE);
    d->sizes = init;
    GDN_TRY(gdn_problem_sizes(d->context, &d->problem, &d->sizes));
    GDN_TRY(gdn_problem_sizes(d->context, &d->problem_loss, &loss));
    d->workspace_size = d->sizes.forward_workspace;
    if (d->workspace_size < d->sizes.backward_workspace)
        d->workspace_size = d->sizes.backward_workspace;
    if (d->workspace_size < loss.forward_workspace)
        d->workspace_size = loss.forward_workspace;
    d->wide = layer->T * d->problem.q_strides.token;
    d->values = layer->T * layer->Hv * layer->V;
    d->heads = layer->T * layer->Hv;
    return GDN_STATUS_OK;
}

static gdn_status allocate(gdni_device *d) {
    const size_t out = (size_t)d->values * gdn_dtype_size(d->problem.dtype);
    gdni_arena arena = {NULL, 0};
    place(d, &arena);
    GDN_TRY(gdni_device_allocate(d->context, arena.used, &d->memory));
    arena = (gdni_arena){d->memory, 0};
    place(d, &arena);
    const size_t staging = d->inputs > d->gradients ? d->inputs : d->gradients;
    void *pinned = NULL;
    GDN_TRY(gdni_pinned_allocate(d->context, staging > out ? staging : out, &pinned));
    d->staging = pinned;
    return gdni_stream_create(d->context, &d->stream);
}

gdn_status gdni_device_create(gdni_device **out, const gdni_device_setup *setup,
                              const gdn_layer *layer, int32_t blocks) {
    gdn_status status = GDN_STATUS_OK;
    *out = NULL;
    gdni_device *d = calloc(1, sizeof(*d));
    device_block *block = calloc((size_t)blocks, sizeof(*block));
    if (!d || !block) {
        free(d);
        free(block);
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "model: out of memory");
    }
    d->context = setup->context;
    d->blocks = blocks;
    d->block = block;
    GDN_TRY_GOTO(plan(d, setup, layer), failed);
    GDN_TRY_GOTO(allocate(d), failed);
    *out = d;
    return GDN_STATUS_OK;

failed:
    gdni_device_destroy(d);
    return status;
}

void gdni_device_destroy(gdni_device *d) {
    if (!d)
        return;
    if (d->stream)
        gdni_stream_destroy(d->context, d->stream);
    if (d->staging)
        gdni_pinned_release(d->context, d->staging);
    if (d->memory)
        gdni_device_release(d->context, d->memory);
    free(d->block);
    free(d);
}

/* ---- Calls -------------------------------------------------------------------------------------
 */

/* Host memory that becomes `device` when the block of memory from `base` on is copied. */
static void *staged(const gdni_device *d, const void *device, const void *base) {
    return d->staging + ((const char *)device - (const char *)base);
}

/* The host's tensor is what the device was planned for: q, k, v are one array, without padding. */
static gdn_status check_call(const gdni_device_call *call, const gdn_problem *problem,
                             const gdn_tensors *t) {
    const gdni_device *d = call->device;
    const gdn_problem *p = &d->problem;
    const float *q = t->q;
    const int64_t keys = (int64_t)p->Hk * p->K;
    if (problem->T == p->T && problem->N == p->N && problem->dtype == GDN_DTYPE_FP32 &&
        problem->q_strides.token == p->q_strides.token && !t->cu_seqlens && !t->initial_state &&
        !t->final_state && t->k == q + keys && t->v == q + 2 * keys)
        return GDN_STATUS_OK;
    return gdni_fail(GDN_STATUS_INTERNAL_ERROR,
                     "block %d: the operator is not the one that the device was planned for",
                     call->block);
}

static gdn_tensors device_tensors(const gdni_device *d, const device_block *b) {
    const char *qkv = b->qkv;
    const size_t keys = (size_t)d->problem.Hk * (size_t)d->problem.K,
                 element = gdn_dtype_size(d->problem.dtype);
    gdn_tensors t = GDN_TENSORS_INIT;
    t.q = qkv;
    t.k = qkv + keys * element;
    t.v = qkv + 2 * keys * element;
    t.g = b->g;
    t.beta = b->beta;
    t.saved = d->sizes.saved ? b->saved : NULL;
    t.workspace = d->workspace;
    t.workspace_size = d->workspace_size;
    return t;
}

static gdn_status forward(void *user, const gdn_problem *problem, const gdn_tensors *host,
                          gdn_stream unused) {
    const gdni_device_call *call = user;
    gdni_device *d = call->device;
    const device_block *b = &d->block[call->block];
    const gdn_problem *p = call->save ? &d->problem : &d->problem_loss;
    const gdn_dtype fp32 = GDN_DTYPE_FP32;
    const size_t out = (size_t)d->values * gdn_dtype_size(p->dtype);
    gdn_tensors t = device_tensors(d, b);
    t.o = d->out;
    GDN_TRY(check_call(call, problem, host));
    GDN_TRY(gdn_convert(p->dtype, d->staging, fp32, host->q, d->wide));
    GDN_TRY(gdn_convert(fp32, staged(d, b->g, b->qkv), fp32, host->g, d->heads));
    GDN_TRY(gdn_convert(fp32, staged(d, b->beta, b->qkv), fp32, host->beta, d->heads));
    GDN_TRY(gdni_stream_copy(d->context, b->qkv, d->staging, d->inputs, d->stream));
    GDN_TRY(gdn_forward(d->context, p, &t, d->stream));
    GDN_TRY(gdni_stream_copy(d->context, d->staging, d->out, out, d->stream));
    GDN_TRY(gdni_stream_wait(d->context, d->stream, "forward of the operator"));
    return gdn_convert(fp32, host->o, p->dtype, d->staging, d->values);
}

static gdn_status backward(void *user, const gdn_problem *problem, const gdn_tensors *host,
                           gdn_stream unused) {
    const gdni_device_call *call = user;
    gdni_device *d = call->device;
    const gdn_problem *p = &d->problem;
    const gdn_dtype fp32 = GDN_DTYPE_FP32;
    const size_t element = gdn_dtype_size(p->dtype), keys = (size_t)p->Hk * (size_t)p->K;
    gdn_tensors t = device_tensors(d, &d->block[call->block]);
    t.do_ = d->out;
    t.dq = d->dqkv;
    t.dk = (char *)d->dqkv + keys * element;
    t.dv = (char *)d->dqkv + 2 * keys * element;
    t.dg = d->dg;
    t.dbeta = d->dbeta;
    GDN_TRY(check_call(call, problem, host));
    GDN_TRY(gdn_convert(p->dtype, d->staging, fp32, host->do_, d->values));
    GDN_TRY(
        gdni_stream_copy(d->context, d->out, d->staging, (size_t)d->values * element, d->stream));
    GDN_TRY(gdn_backward(d->context, p, &t, d->stream));
    GDN_TRY(gdni_stream_copy(d->context, d->staging, d->dqkv, d->gradients, d->stream));
    GDN_TRY(gdni_stream_wait(d->context, d->stream, "backward of the operator"));
    GDN_TRY(gdn_convert(fp32, host->dq, p->dtype, d->staging, d->wide));
    GDN_TRY(gdn_convert(fp32, host->dg, fp32, staged(d, d->dg, d->dqkv), d->heads));
    return gdn_convert(fp32, host->dbeta, fp32, staged(d, d->dbeta, d->dqkv), d->heads);
}

const gdn_layer_hooks *gdni_device_hooks(gdni_device *device, int32_t block, int save,
                                         gdni_device_call *call) {
    const gdn_layer_hooks init = GDN_LAYER_HOOKS_INIT;
    *call = (gdni_device_call){.device = device, .block = block, .save = save, .hooks = init};
    call->hooks.user = call;
    call->hooks.forward = forward;
    call->hooks.backward = backward;
    return &call->hooks;
}
