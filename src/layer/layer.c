/*
 * The whole layer: the linear maps, the parts and the operator one after the other. q, k, v are
 * strided views of the convolution's output, which the operator reads, and their gradients views
 * of its gradient; nothing is copied. The tokens behind the last sequence take no part: on host
 * backends the calls below see T as if they were not there, and their rows of out and dx are set to
 * zeros. Where only the device knows how many there are, zeros come out by themselves: the operator
 * and the convolution give zeros for them, o, dg, dbeta and dqkv, and what follows keeps them.
 */
#include "gdn_layer.h"

#include "gdn_model.h"
#include "part.h"
#include "plan.h"

#include <string.h>

/* A call, checked. */
typedef struct layer_call {
    gdni_layer_plan plan;
    gdn_layer_tensors tensors;
    gdn_layer_weights weights, dweights;
    gdn_layer_hooks hooks;
    gdni_layer_activations activations;
    gdni_layer_scratch scratch;
    int64_t tokens;               /* of sequences; on host backends without the padding */
    gdn_linear qkv, z, b, a, out; /* the maps */
    gdn_conv1d conv;
    gdn_gate gate;
    gdn_gated_rmsnorm norm;
} layer_call;

static gdn_status copy_weights(const char *function, const char *name,
                               const gdn_layer_weights *from, gdn_layer_weights *w) {
    const gdn_layer_weights init = GDN_LAYER_WEIGHTS_INIT;
    const struct {
        const char *name;
        size_t offset;
    } fields[] = {{"in_proj_qkv", offsetof(gdn_layer_weights, in_proj_qkv)},
                  {"in_proj_z", offsetof(gdn_layer_weights, in_proj_z)},
                  {"in_proj_b", offsetof(gdn_layer_weights, in_proj_b)},
                  {"in_proj_a", offsetof(gdn_layer_weights, in_proj_a)},
                  {"conv1d", offsetof(gdn_layer_weights, conv1d)},
                  {"A_log", offsetof(gdn_layer_weights, A_log)},
                  {"dt_bias", offsetof(gdn_layer_weights, dt_bias)},
                  {"norm", offsetof(gdn_layer_weights, norm)},
                  {"out_proj", offsetof(gdn_layer_weights, out_proj)}};
    *w = init;
    GDN_TRY(gdni_part_pointer(function, name, from));
    GDN_TRY(gdni_copy_struct(function, w, sizeof(*w), from, from->size));
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); ++i) {
        void *pointer;
        memcpy(&pointer, (const char *)w + fields[i].offset, sizeof(pointer));
        GDNI_REQUIRE(pointer != NULL, "%s: %s.%s is NULL, expected memory", function, name,
                     fields[i].name);
    }
    return GDN_STATUS_OK;
}

static gdn_status check_tensors(const char *function, const gdn_context *context,
                                const gdni_layer_plan *plan, const gdn_layer_tensors *p,
                                int backward) {
    gdni_layer_activations activations;
    gdni_layer_scratch scratch;
    size_t needed = gdni_layer_scratch_at(plan, backward, NULL, &scratch);
    if (!backward) /* whether or not `saved` is given: one size for both */
        needed += gdni_layer_activations_at(plan, NULL, &activations);
    if (plan->layer.T > 0) {
        GDNI_POINTER(x);
        if (backward) {
            GDNI_POINTER(dout);
            GDNI_POINTER(dx);
            GDNI_POINTER(saved);
        } else {
            GDNI_POINTER(out);
        }
    }
    GDNI_REQUIRE(p->workspace_size >= needed,
                 "%s: workspace_size is %zu, expected at least %zu bytes", function,
                 p->workspace_size, needed);
    GDNI_REQUIRE(p->workspace != NULL || needed == 0, "%s: workspace is NULL, expected %zu bytes",
                 function, needed);
    GDNI_REQUIRE((uintptr_t)p->workspace % 256 == 0,
                 "%s: workspace is at %p, expected a multiple of 256", function, p->workspace);
    if (context->ops->parts && p->cu_seqlens)
        return GDN_STATUS_OK; /* on the device */
    return gdni_check_cu_seqlens(function, p->cu_seqlens, plan->layer.N, plan->layer.T);
}

static gdn_linear describe_map(const layer_call *call, int64_t in, int64_t out, const void *x,
                               const void *weight, void *y) {
    const gdn_layer *l = &call->plan.layer;
    return (gdn_linear){.size = sizeof(gdn_linear),
                        .dtype = l->dtype,
                        .accumulate = (l->flags & GDN_LAYER_ACCUMULATE) != 0,
                        .T = call->tokens,
                        .in = (int32_t)in,
                        .out = (int32_t)out,
                        .x = x,
                        .weight = weight,
                        .y = y,
                        .workspace = call->scratch.part_workspace,
                        .workspace_size = call->plan.part_workspace};
}

/* The gradients of a map that was described. */
static gdn_linear gradients_of(const gdn_linear *map, const void *dy, void *dx, int accumulate_dx,
                               void *dweight) {
    gdn_linear p = *map;
    p.dy = dy;
    p.dx = dx;
    p.accumulate_dx = accumulate_dx;
    p.dweight = dweight;
    return p;
}

/* What the parts of both directions share. */
static void describe_parts(layer_call *call) {
    const gdn_layer *l = &call->plan.layer;
    const gdni_layer_activations *x = &call->activations;
    const gdn_layer_weights *w = &call->weights;
    const int32_t accumulate = (l->flags & GDN_LAYER_ACCUMULATE) != 0;
    const int64_t T = call->tokens, HvV = call->plan.HvV;
    void *workspace = call->scratch.part_workspace;
    const size_t workspace_size = call->plan.part_workspace;
    const void *in = call->tensors.x;
    call->qkv = describe_map(call, l->D, call->plan.C, in, w->in_proj_qkv, x->qkv);
    call->z = describe_map(call, l->D, HvV, in, w->in_proj_z, x->z);
    call->b = describe_map(call, l->D, l->Hv, in, w->in_proj_b, x->b);
    call->a = describe_map(call, l->D, l->Hv, in, w->in_proj_a, x->a);
    call->out = describe_map(call, HvV, l->D, call->scratch.y, w->out_proj, call->tensors.out);
    call->conv = (gdn_conv1d){.size = sizeof(gdn_conv1d),
                              .dtype = l->dtype,
                              .accumulate = accumulate,
                              .T = T,
                              .N = l->N,
                              .channels = (int32_t)call->plan.C,
                              .width = l->conv_width,
                              .cu_seqlens = call->tensors.cu_seqlens,
                              .x = x->qkv,
                              .weight = w->conv1d,
                              .halo = call->tensors.conv_halo,
                              .y = x->conv,
                              .dy = call->scratch.dconv,
                              .dx = call->scratch.dqkv,
                              .dweight = call->dweights.conv1d,
                              .dhalo = call->tensors.dconv_halo,
                              .workspace = workspace,
                              .workspace_size = workspace_size};
    call->gate = (gdn_gate){.size = sizeof(gdn_gate),
                            .dtype = l->dtype,
                            .accumulate = accumulate,
                            .T = T,
                            .H = l->Hv,
                            .a = x->a,
                            .b = x->b,
                            .A_log = w->A_log,
                            .dt_bias = w->dt_bias,
                            .g = x->g,
                            .beta = x->beta,
                            .dg = call->scratch.dg,
                            .dbeta = call->scratch.dbeta,
                            .da = call->scratch.da,
                            .db = call->scratch.db,
                            .dA_log = call->dweights.A_log,
                            .ddt_bias = call->dweights.dt_bias,
                            .workspace = workspace,
                            .workspace_size = workspace_size};
    call->norm = (gdn_gated_rmsnorm){.size = sizeof(gdn_gated_rmsnorm),
                                     .dtype = l->dtype,
                                     .accumulate = accumulate,
                                     .T = T,
                                     .H = l->Hv,
                                     .V = l->V,
                                     .eps = l->norm_eps,
                                     .x = x->o,
                                     .z = x->z,
                                     .weight = w->norm,
                                     .y = call->scratch.y,
                                     .dy = call->scratch.dy,
                                     .dx = call->scratch.y, /* y is not needed by then */
                                     .dz = call->scratch.dz,
                                     .dweight = call->dweights.norm,
                                     .workspace = workspace,
                                     .workspace_size = workspace_size};
}

static gdn_status begin(const char *function, const gdn_context *context, const gdn_layer *layer,
                        const gdn_layer_tensors *tensors, int backward, layer_call *call) {
    const gdn_layer_tensors init = GDN_LAYER_TENSORS_INIT;
    gdn_layer_tensors *t = &call->tensors;
    memset(call, 0, sizeof(*call));
    *t = init;
    GDN_TRY(gdni_layer_plan_make(function, context, layer, &call->plan));
    GDN_TRY(gdni_part_pointer(function, "tensors", tensors));
    GDN_TRY(gdni_copy_struct(function, t, sizeof(*t), tensors, tensors->size));
    if (t->hooks)
        GDN_TRY(gdni_copy_struct(function, &call->hooks, sizeof(call->hooks), t->hooks,
                                 t->hooks->size));
    GDNI_REQUIRE(!(layer->flags & GDN_LAYER_HOOKED_OPERATOR) ||
                     (backward ? call->hooks.backward : call->hooks.forward),
                 "%s: flags has HOOKED_OPERATOR, expected hooks.%s", function,
                 backward ? "backward" : "forward");
    GDN_TRY(copy_weights(function, "weights", t->weights, &call->weights));
    if (backward)
        GDN_TRY(copy_weights(function, "dweights", t->dweights, &call->dweights));
    GDN_TRY(check_tensors(function, context, &call->plan, t, backward));
    char *workspace = t->workspace;
    const size_t used = gdni_layer_scratch_at(&call->plan, backward, workspace, &call->scratch);
    gdni_layer_activations_at(&call->plan, t->saved ? t->saved : workspace + used,
                              &call->activations);
    const int padded = t->cu_seqlens && !context->ops->parts;
    call->tokens = padded ? t->cu_seqlens[call->plan.layer.N] : call->plan.layer.T;
    call->plan.problem.T = call->tokens;
    describe_parts(call);
    return GDN_STATUS_OK;
}

/* A row of qkv is q, k, v: where k and v begin. */
static char *at_k(const layer_call *call, void *qkv) {
    const gdn_layer *l = &call->plan.layer;
    return (char *)qkv + (int64_t)l->Hk * l->K * (int64_t)gdn_dtype_size(l->dtype);
}

static char *at_v(const layer_call *call, void *qkv) {
    const gdn_layer *l = &call->plan.layer;
    return (char *)qkv + 2 * (int64_t)l->Hk * l->K * (int64_t)gdn_dtype_size(l->dtype);
}

static gdn_tensors operator_tensors(const layer_call *call) {
    const gdni_layer_activations *x = &call->activations;
    gdn_tensors t = GDN_TENSORS_INIT;
    t.q = x->conv;
    t.k = at_k(call, x->conv);
    t.v = at_v(call, x->conv);
    t.g = x->g;
    t.beta = x->beta;
    t.cu_seqlens = call->tensors.cu_seqlens;
    t.initial_state = call->tensors.initial_state;
    t.saved = x->operator_saved;
    t.workspace = call->scratch.operator_workspace;
    return t;
}

static void clear_padding(const layer_call *call, void *rows) {
    const size_t row = (size_t)call->plan.layer.D * gdn_dtype_size(call->plan.layer.dtype);
    const int64_t padding = call->plan.layer.T - call->tokens;
    if (padding > 0)
        memset((char *)rows + (size_t)call->tokens * row, 0, (size_t)padding * row);
}

gdn_status gdn_layer_supported(const gdn_context *context, const gdn_layer *layer) {
    gdni_layer_plan plan;
    return gdni_layer_plan_make(__func__, context, layer, &plan);
}

gdn_status gdn_layer_sizes(const gdn_context *context, const gdn_layer *layer, gdn_sizes *sizes) {
    gdni_layer_plan plan;
    gdni_layer_activations activations;
    gdni_layer_scratch scratch;
    gdn_sizes all = GDN_SIZES_INIT;
    GDN_TRY(gdni_layer_plan_make(__func__, context, layer, &plan));
    GDN_TRY(gdni_part_pointer(__func__, "sizes", sizes));
    GDNI_REQUIRE(sizes->size == sizeof(*sizes), "%s: size is %zu, expected %zu", __func__,
                 sizes->size, sizeof(*sizes));
    all.saved = gdni_layer_activations_at(&plan, NULL, &activations);
    all.forward_workspace = gdni_layer_scratch_at(&plan, 0, NULL, &scratch) + all.saved;
    all.backward_workspace = gdni_layer_scratch_at(&plan, 1, NULL, &scratch);
    *sizes = all;
    return GDN_STATUS_OK;
}

gdn_status gdn_layer_forward(const gdn_context *context, const gdn_layer *layer,
                             const gdn_layer_tensors *tensors, gdn_stream stream) {
    layer_call call;
    GDN_TRY(begin(__func__, context, layer, tensors, 0, &call));
    const gdni_layer_activations *x = &call.activations;
    const gdn_linear *const maps[] = {&call.qkv, &call.z, &call.b, &call.a};
    for (int i = 0; i < 4; ++i)
        GDN_TRY(gdn_linear_forward(context, maps[i], stream));
    if (call.hooks.projected)
        GDN_TRY(call.hooks.projected(call.hooks.user, x->qkv));
    GDN_TRY(gdn_conv1d_forward(context, &call.conv, stream));
    GDN_TRY(gdn_gate_forward(context, &call.gate, stream));
    gdn_tensors t = operator_tensors(&call);
    t.o = x->o;
    t.final_state = call.tensors.final_state;
    t.workspace_size = call.plan.operator_sizes.forward_workspace;
    if (call.hooks.forward)
        GDN_TRY(call.hooks.forward(call.hooks.user, &call.plan.problem, &t, stream));
    else
        GDN_TRY(gdn_forward(context, &call.plan.problem, &t, stream));
    GDN_TRY(gdn_gated_rmsnorm_forward(context, &call.norm, stream));
    GDN_TRY(gdn_linear_forward(context, &call.out, stream));
    clear_padding(&call, call.tensors.out);
    return GDN_STATUS_OK;
}

gdn_status gdn_layer_backward(const gdn_context *context, const gdn_layer *layer,
                              const gdn_layer_tensors *tensors, gdn_stream stream) {
    layer_call call;
    GDN_TRY(begin(__func__, context, layer, tensors, 1, &call));
    const gdn_layer_weights *dw = &call.dweights;
    const gdni_layer_scratch *s = &call.scratch;
    void *dx = call.tensors.dx;
    /* out = y out_proj^T, with y computed again */
    GDN_TRY(gdn_gated_rmsnorm_forward(context, &call.norm, stream));
    const gdn_linear out = gradients_of(&call.out, call.tensors.dout, s->dy, 0, dw->out_proj);
    GDN_TRY(gdn_linear_backward(context, &out, stream));
    GDN_TRY(gdn_gated_rmsnorm_backward(context, &call.norm, stream));
    gdn_tensors t = operator_tensors(&call);
    t.do_ = call.norm.dx;
    t.dht = call.tensors.dht;
    t.dq = s->dconv;
    t.dk = at_k(&call, s->dconv);
    t.dv = at_v(&call, s->dconv);
    t.dg = s->dg;
    t.dbeta = s->dbeta;
    t.dh0 = call.tensors.dh0;
    t.workspace_size = call.plan.operator_sizes.backward_workspace;
    if (call.hooks.backward)
        GDN_TRY(call.hooks.backward(call.hooks.user, &call.plan.problem, &t, stream));
    else
        GDN_TRY(gdn_backward(context, &call.plan.problem, &t, stream));
    GDN_TRY(gdn_gate_backward(context, &call.gate, stream));
    GDN_TRY(gdn_conv1d_backward(context, &call.conv, stream));
    if (call.hooks.convolved)
        GDN_TRY(call.hooks.convolved(call.hooks.user, s->dqkv));
    const gdn_linear of_x[] = {gradients_of(&call.qkv, s->dqkv, dx, 0, dw->in_proj_qkv),
                               gradients_of(&call.z, s->dz, dx, 1, dw->in_proj_z),
                               gradients_of(&call.b, s->db, dx, 1, dw->in_proj_b),
                               gradients_of(&call.a, s->da, dx, 1, dw->in_proj_a)};
    for (int i = 0; i < 4; ++i)
        GDN_TRY(gdn_linear_backward(context, &of_x[i], stream));
    clear_padding(&call, dx);
    return GDN_STATUS_OK;
}
