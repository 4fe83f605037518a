/* The layer over ranks: its own forward and backward, with the halo and the operator hooked in. */
#include "layer.h"

#include "cuda/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ALIGNMENT = 256
};

static size_t aligned(size_t bytes) {
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* ---- Creation ----------------------------------------------------------------------------------
 */

/* The operator as the layer calls it: rows of q, k, v are those of qkv. */
static gdn_problem operator_of(const gdn_layer *layer) {
    gdn_problem p = GDN_PROBLEM_INIT;
    const int64_t C = 2 * (int64_t)layer->Hk * layer->K + (int64_t)layer->Hv * layer->V;
    p.dtype = layer->dtype;
    p.flags = GDN_FLAG_L2NORM_QK | (layer->flags & GDN_LAYER_EXACT ? GDN_FLAG_EXACT : 0) |
              (layer->flags & GDN_LAYER_SAVE_STATES ? GDN_FLAG_SAVE_STATES : 0) |
              (layer->flags & GDN_LAYER_SAVE_INVERSE ? GDN_FLAG_SAVE_INVERSE : 0);
    p.Hk = layer->Hk;
    p.Hv = layer->Hv;
    p.K = layer->K;
    p.V = layer->V;
    p.scale = layer->scale;
    p.decay_threshold = layer->decay_threshold;
    p.q_strides.token = p.k_strides.token = p.v_strides.token = C;
    return p;
}

/* Which rows each rank wants: those before its shard, of the sequence that comes from the left. */
static gdn_status gather_wanted(gdn_dist_layer *l) {
    const gdn_dist_plan *plan = l->plan;
    gdn_transport *t = plan->group;
    const int64_t first = plan->firsts[t->rank], width = l->layer.conv_width - 1;
    int64_t mine = first;
    if (plan->part.from_left && plan->problem.T > 0)
        mine = first - width > plan->sequence_start ? first - width : plan->sequence_start;
    return t->all_gather(t, &mine, l->wanted, sizeof(mine), "gdn_dist_layer_create: rows of halos");
}

static gdn_status find_sizes(gdn_dist_layer *l, const gdn_context *context) {
    const gdn_sizes init = GDN_SIZES_INIT;
    const int64_t C = 2 * (int64_t)l->layer.Hk * l->layer.K + (int64_t)l->layer.Hv * l->layer.V;
    gdn_sizes plan = init;
    l->inner = l->sizes = init;
    l->row_bytes = (size_t)C * gdn_dtype_size(l->layer.dtype);
    l->halo_bytes = l->row_bytes * (size_t)(l->layer.conv_width - 1);
    l->incoming_bytes = gdni_halo_incoming_bytes(l);
    GDN_TRY(gdn_layer_sizes(context, &l->layer, &l->inner));
    GDN_TRY(gdn_dist_plan_sizes(l->plan, &plan));
    l->sizes.forward_workspace = aligned(plan.forward_workspace) + l->inner.forward_workspace;
    l->sizes.backward_workspace = aligned(plan.backward_workspace) + aligned(l->halo_bytes) +
                                  aligned(l->incoming_bytes) + l->inner.backward_workspace;
    l->sizes.saved = aligned(l->halo_bytes) + aligned(plan.saved) + l->inner.saved;
    return GDN_STATUS_OK;
}

/* What a layer on a device keeps besides the caller's memory. */
static gdn_status find_device_memory(gdn_dist_layer *l, const gdn_context *context) {
    const size_t bytes = ((size_t)l->layer.N + 1) * sizeof(*l->device_cu_seqlens);
    const size_t staged = l->halo_bytes + l->incoming_bytes;
    if (!l->plan->on_device)
        return GDN_STATUS_OK;
    GDN_TRY(gdni_device_allocate(context, bytes, (void **)&l->device_cu_seqlens));
    GDN_TRY(gdni_device_copy(context, l->device_cu_seqlens, l->plan->cu_seqlens, bytes));
    if (l->plan->group->device_exchange || staged == 0)
        return GDN_STATUS_OK;
    l->direct = l->plan->dist->direct;
    if (l->direct)
        return GDN_STATUS_OK;
    return gdni_pinned_allocate(context, staged, (void **)&l->pinned);
}

static gdn_status set_up(gdn_dist_layer *l, gdn_dist *dist, const gdn_context *context,
                         const gdn_layer *description, const gdn_shard *shard) {
    static const char *const function = "gdn_dist_layer_create";
    const gdn_layer init = GDN_LAYER_INIT;
    const int32_t ranks = gdn_dist_ranks(dist, GDN_DIST_SEQUENCE);
    char text[256] = "";
    l->layer = init;
    gdn_status mine =
        gdni_copy_struct(function, &l->layer, sizeof(l->layer), description, description->size);
    l->layer.T = shard->T;
    l->layer.N = shard->N;
    l->wanted = calloc((size_t)ranks, sizeof(*l->wanted));
    l->requests = calloc((size_t)ranks, sizeof(*l->requests));
    l->messages = calloc((size_t)ranks, sizeof(*l->messages));
    l->rows = calloc((size_t)ranks, sizeof(*l->rows));
    if (mine == GDN_STATUS_OK)
        mine = gdn_layer_supported(context, &l->layer);
    if (mine == GDN_STATUS_OK && (!l->wanted || !l->requests || !l->messages || !l->rows))
        mine = gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "%s: no memory", function);
    snprintf(text, sizeof(text), "D %d; conv_width %d; norm_eps %.17g; flags 0x%x", l->layer.D,
             l->layer.conv_width, l->layer.norm_eps, l->layer.flags);
    GDN_TRY(gdn_dist_agree(dist, GDN_DIST_SEQUENCE, mine, function, text));
    const gdn_problem problem = operator_of(&l->layer);
    GDN_TRY(gdn_dist_plan_create(&l->plan, dist, context, &problem, shard));
    l->layer.T = l->plan->problem.T;
    l->layer.N = l->plan->problem.N;
    l->layer.flags |= GDN_LAYER_HOOKED_OPERATOR;
    gdn_status status = gather_wanted(l);
    if (status == GDN_STATUS_OK)
        status = find_sizes(l, context);
    if (status == GDN_STATUS_OK)
        status = find_device_memory(l, context);
    return gdni_dist_end(dist, status);
}

gdn_status gdn_dist_layer_create(gdn_dist_layer **out, gdn_dist *dist, const gdn_context *context,
                                 const gdn_layer *description, const gdn_shard *shard) {
    GDNI_REQUIRE(out && dist && context && description && shard,
                 "gdn_dist_layer_create: layer, dist, context, description or shard is NULL");
    *out = NULL;
    gdn_dist_layer *l = calloc(1, sizeof(*l));
    if (!l)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "gdn_dist_layer_create: no memory");
    gdn_status status = set_up(l, dist, context, description, shard);
    if (status != GDN_STATUS_OK) {
        gdn_dist_layer_destroy(l);
        return status;
    }
    *out = l;
    return GDN_STATUS_OK;
}

void gdn_dist_layer_destroy(gdn_dist_layer *l) {
    if (!l)
        return;
    if (l->device_cu_seqlens)
        gdni_device_release(l->plan->context, l->device_cu_seqlens);
    /* After a failure MPI may still read what was being sent. */
    if (l->pinned && !l->sending)
        gdni_pinned_release(l->plan->context, l->pinned);
    gdn_dist_plan_destroy(l->plan);
    free(l->wanted);
    free(l->requests);
    free(l->messages);
    free(l->rows);
    free(l);
}

const gdn_dist_plan *gdn_dist_layer_plan(const gdn_dist_layer *l) {
    return l ? l->plan : NULL;
}

gdn_status gdn_dist_layer_sizes(const gdn_dist_layer *l, gdn_sizes *sizes) {
    GDNI_REQUIRE(l && sizes && sizes->size == sizeof(*sizes),
                 "gdn_dist_layer_sizes: layer or sizes is NULL, or sizes not initialised");
    *sizes = l->sizes;
    return GDN_STATUS_OK;
}

size_t gdn_dist_layer_crossed(const gdn_dist_layer *l) {
    return l ? aligned(l->halo_bytes) + gdni_dist_crossed(l->plan) : 0;
}

gdn_status gdn_dist_layer_traffic(const gdn_dist_layer *l, gdn_dist_traffic *traffic) {
    GDNI_REQUIRE(l != NULL, "gdn_dist_layer_traffic: layer is NULL");
    GDN_TRY(gdn_dist_plan_traffic(l->plan, traffic));
    traffic->forward_bytes += l->forward_bytes;
    traffic->backward_bytes += l->backward_bytes;
    return GDN_STATUS_OK;
}

/* ---- Calls -------------------------------------------------------------------------------------
 */

typedef struct layer_call {
    gdn_dist_layer *layer;
    gdn_layer_tensors tensors;
    gdn_layer_hooks hooks;
    gdn_stream stream;
    char *operator_workspace, *operator_saved, *halo, *dhalo, *incoming;
} layer_call;

static gdn_status on_projected(void *user, const void *qkv) {
    const layer_call *c = user;
    return gdni_halo_fetch(c->layer, qkv, c->halo, c->stream);
}

static gdn_status on_convolved(void *user, void *dqkv) {
    const layer_call *c = user;
    return gdni_halo_return(c->layer, c->dhalo, dqkv, c->incoming, c->stream);
}

static gdn_tensors operator_tensors(const layer_call *c, const gdn_tensors *from, size_t bytes) {
    gdn_tensors t = *from;
    t.saved = c->operator_saved;
    t.workspace = c->operator_workspace;
    t.workspace_size = bytes;
    return t;
}

static gdn_status on_forward(void *user, const gdn_problem *problem, const gdn_tensors *tensors,
                             gdn_stream stream) {
    const layer_call *c = user;
    gdn_dist_plan *plan = c->layer->plan;
    const gdn_tensors t = operator_tensors(c, tensors, plan->sizes.forward_workspace);
    return gdn_dist_forward(plan, &t, stream);
}

static gdn_status on_forward_again(void *user, const gdn_problem *problem,
                                   const gdn_tensors *tensors, gdn_stream stream) {
    const layer_call *c = user;
    gdn_dist_plan *plan = c->layer->plan;
    const gdn_tensors t = operator_tensors(c, tensors, plan->sizes.forward_workspace);
    return gdni_dist_forward_again(plan, &t, stream);
}

static gdn_status on_backward(void *user, const gdn_problem *problem, const gdn_tensors *tensors,
                              gdn_stream stream) {
    const layer_call *c = user;
    gdn_dist_plan *plan = c->layer->plan;
    const gdn_tensors t = operator_tensors(c, tensors, plan->sizes.backward_workspace);
    return gdn_dist_backward(plan, &t, stream);
}

typedef enum pass {
    FORWARD,
    FORWARD_AGAIN,
    BACKWARD
} pass;

/* Checks and divides the caller's memory; backward: also room for dhalo and incoming. */
static gdn_status open_call(gdn_dist_layer *l, const char *function, pass p,
                            const gdn_layer_tensors *in, layer_call *c) {
    const gdn_layer_tensors init = GDN_LAYER_TENSORS_INIT;
    const int again = p == FORWARD_AGAIN, backward = p == BACKWARD;
    const gdn_layer_hooks hooks = {sizeof(hooks),
                                   c,
                                   again ? NULL : on_projected,
                                   again ? on_forward_again : on_forward,
                                   on_backward,
                                   on_convolved};
    const gdn_sizes *plan = &l->plan->sizes;
    const size_t workspace = backward ? l->sizes.backward_workspace : l->sizes.forward_workspace;
    gdn_layer_tensors *t = &c->tensors;
    *t = init;
    GDNI_REQUIRE(in != NULL, "%s: tensors is NULL", function);
    GDN_TRY(gdni_copy_struct(function, t, sizeof(*t), in, in->size));
    GDNI_REQUIRE(t->saved != NULL, "%s: saved is NULL, expected %zu bytes", function,
                 l->sizes.saved);
    GDNI_REQUIRE(t->workspace && (uintptr_t)t->workspace % ALIGNMENT == 0 &&
                     t->workspace_size >= workspace,
                 "%s: workspace is %zu bytes at %p, expected %zu at a multiple of %d", function,
                 t->workspace_size, t->workspace, workspace, ALIGNMENT);
    char *work = t->workspace, *saved = t->saved;
    c->operator_workspace = work;
    work += aligned(backward ? plan->backward_workspace : plan->forward_workspace);
    if (backward) {
        c->dhalo = work;
        work += aligned(l->halo_bytes);
        c->incoming = work;
        work += aligned(l->incoming_bytes);
    }
    c->halo = saved;
    c->operator_saved = saved + aligned(l->halo_bytes);
    t->saved = c->operator_saved + aligned(plan->saved);
    t->workspace = work;
    t->workspace_size = backward ? l->inner.backward_workspace : l->inner.forward_workspace;
    t->cu_seqlens = l->plan->on_device ? l->device_cu_seqlens : l->plan->cu_seqlens;
    t->conv_halo = l->plan->part.from_left ? c->halo : NULL;
    t->dconv_halo = l->plan->part.from_left && backward ? c->dhalo : NULL;
    c->hooks = hooks;
    t->hooks = &c->hooks;
    return GDN_STATUS_OK;
}

typedef gdn_status (*layer_function)(const gdn_context *, const gdn_layer *,
                                     const gdn_layer_tensors *, gdn_stream);

static gdn_status run(gdn_dist_layer *l, const char *function, pass p, layer_function compute,
                      const gdn_layer_tensors *tensors, gdn_stream stream) {
    layer_call c = {.layer = l, .stream = stream};
    gdni_clear_error();
    GDNI_REQUIRE(l != NULL, "%s: layer is NULL", function);
    GDN_TRY(gdni_dist_begin(l->plan->dist, function));
    gdn_status status = open_call(l, function, p, tensors, &c);
    if (status == GDN_STATUS_OK)
        status = compute(l->plan->context, &l->layer, &c.tensors, stream);
    return gdni_dist_end(l->plan->dist, status);
}

gdn_status gdn_dist_layer_forward(gdn_dist_layer *l, const gdn_layer_tensors *tensors,
                                  gdn_stream stream) {
    if (l)
        l->forward_bytes = 0;
    return run(l, "gdn_dist_layer_forward", FORWARD, gdn_layer_forward, tensors, stream);
}

gdn_status gdn_dist_layer_forward_again(gdn_dist_layer *l, const gdn_layer_tensors *tensors,
                                        gdn_stream stream) {
    return run(l, "gdn_dist_layer_forward_again", FORWARD_AGAIN, gdn_layer_forward, tensors,
               stream);
}

gdn_status gdn_dist_layer_backward(gdn_dist_layer *l, const gdn_layer_tensors *tensors,
                                   gdn_stream stream) {
    if (l)
        l->backward_bytes = 0;
    return run(l, "gdn_dist_layer_backward", BACKWARD, gdn_layer_backward, tensors, stream);
}

gdn_status gdn_dist_layer_reduce(gdn_dist *dist, gdn_dist_group group, const gdn_layer *layer,
                                 const gdn_layer_weights *w) {
    static const char *const function = "gdn_dist_layer_reduce";
    gdni_clear_error();
    GDNI_REQUIRE(dist && layer && w, "%s: dist, description or dweights is NULL", function);
    const int64_t HvV = (int64_t)layer->Hv * layer->V, D = layer->D, Hv = layer->Hv;
    const int64_t C = 2 * (int64_t)layer->Hk * layer->K + HvV;
    const struct {
        void *data;
        int64_t count;
    } all[] = {{w->in_proj_qkv, C * D},
               {w->in_proj_z, HvV * D},
               {w->in_proj_b, Hv * D},
               {w->in_proj_a, Hv * D},
               {w->conv1d, C * layer->conv_width},
               {w->A_log, Hv},
               {w->dt_bias, Hv},
               {w->norm, layer->V},
               {w->out_proj, D * HvV}};
    gdn_transport *t = gdn_dist_transport(dist, group);
    GDN_TRY(gdni_dist_begin(dist, function));
    gdn_status status = GDN_STATUS_OK;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]) && status == GDN_STATUS_OK; ++i)
        status = all[i].data
                     ? t->all_reduce(t, gdni_state_dtype(layer->dtype), all[i].data, all[i].count,
                                     "gdn_dist_layer_reduce: weight gradients")
                     : gdni_fail(GDN_STATUS_INVALID_ARGUMENT, "%s: a member of dweights is NULL",
                                 function);
    return gdni_dist_end(dist, status);
}
