#include "plan.h"

#include "gdn_model.h"
#include "part.h"

typedef struct cursor {
    char *base;
    size_t used;
} cursor;

static void *take(cursor *c, size_t bytes) {
    void *here = c->base ? c->base + c->used : NULL;
    c->used += (bytes + 255) / 256 * 256;
    return here;
}

static gdn_status check(const char *function, const gdn_layer *p) {
    const uint32_t known = GDN_LAYER_ACCUMULATE | GDN_LAYER_EXACT | GDN_LAYER_SAVE_STATES |
                           GDN_LAYER_SAVE_INVERSE | GDN_LAYER_HOOKED_OPERATOR;
    GDNI_REQUIRE(!(p->flags & ~known), "%s: flags has unknown bits 0x%x", function,
                 p->flags & ~known);
    GDNI_RANGE(T, 0, INT32_MAX); /* what the matrix product takes */
    GDNI_RANGE(D, 1, GDNI_MAX_WIDTH);
    GDNI_RANGE(conv_width, 1, GDNI_MAX_CONV_WIDTH);
    return gdni_part_eps(function, "norm_eps", p->norm_eps);
}

/* 0 on host backends. */
static gdn_status find_part_workspace(const gdn_context *context, gdni_layer_plan *plan) {
    const gdn_layer *l = &plan->layer;
    const gdn_conv1d conv = {.size = sizeof(conv),
                             .dtype = l->dtype,
                             .T = l->T,
                             .N = l->N,
                             .channels = (int32_t)plan->C,
                             .width = l->conv_width};
    const gdn_gate gate = {.size = sizeof(gate), .dtype = l->dtype, .T = l->T, .H = l->Hv};
    const gdn_gated_rmsnorm norm = {
        .size = sizeof(norm), .dtype = l->dtype, .T = l->T, .H = l->Hv, .V = l->V};
    gdn_linear linear = {.size = sizeof(linear), .dtype = l->dtype, .T = l->T};
    const int32_t maps[][2] = {{l->D, (int32_t)plan->C},
                               {l->D, (int32_t)plan->HvV},
                               {l->D, l->Hv},
                               {(int32_t)plan->HvV, l->D}};
    size_t bytes[7];
    GDN_TRY(gdn_conv1d_workspace(context, &conv, &bytes[0]));
    GDN_TRY(gdn_gate_workspace(context, &gate, &bytes[1]));
    GDN_TRY(gdn_gated_rmsnorm_workspace(context, &norm, &bytes[2]));
    for (int i = 0; i < 4; ++i) {
        linear.in = maps[i][0];
        linear.out = maps[i][1];
        GDN_TRY(gdn_linear_workspace(context, &linear, &bytes[3 + i]));
    }
    plan->part_workspace = 0;
    for (int i = 0; i < 7; ++i)
        plan->part_workspace = bytes[i] > plan->part_workspace ? bytes[i] : plan->part_workspace;
    return GDN_STATUS_OK;
}

gdn_status gdni_layer_plan_make(const char *function, const gdn_context *context,
                                const gdn_layer *layer, gdni_layer_plan *plan) {
    const gdn_layer layer_init = GDN_LAYER_INIT;
    const gdn_problem problem_init = GDN_PROBLEM_INIT;
    const gdn_sizes sizes_init = GDN_SIZES_INIT;
    gdn_layer *p = &plan->layer;
    *p = layer_init;
    plan->operator_sizes = sizes_init;
    gdni_clear_error();
    GDNI_REQUIRE(layer != NULL, "%s: layer is NULL", function);
    GDN_TRY(gdni_copy_struct(function, p, sizeof(*p), layer, layer->size));
    GDN_TRY(gdni_part_dtype(function, context, p->dtype));
    GDN_TRY(check(function, p));
    gdn_problem problem = problem_init;
    problem.dtype = p->dtype;
    problem.flags = GDN_FLAG_L2NORM_QK | (p->flags & GDN_LAYER_EXACT ? GDN_FLAG_EXACT : 0) |
                    (p->flags & GDN_LAYER_SAVE_STATES ? GDN_FLAG_SAVE_STATES : 0) |
                    (p->flags & GDN_LAYER_SAVE_INVERSE ? GDN_FLAG_SAVE_INVERSE : 0);
    problem.T = p->T;
    problem.N = p->N;
    problem.Hk = p->Hk;
    problem.Hv = p->Hv;
    problem.K = p->K;
    problem.V = p->V;
    problem.scale = p->scale;
    problem.decay_threshold = p->decay_threshold;
    /* The shapes first: the strides follow from them. */
    GDN_TRY(gdni_problem_check(function, &problem, &plan->problem));
    plan->HvV = (int64_t)p->Hv * p->V;
    plan->C = 2 * (int64_t)p->Hk * p->K + plan->HvV;
    GDN_TRY(gdni_part_range(function, "2 Hk K + Hv V", plan->C, 1, GDNI_MAX_WIDTH));
    problem = plan->problem;
    problem.q_strides.token = problem.k_strides.token = problem.v_strides.token = plan->C;
    GDN_TRY(gdni_problem_check(function, &problem, &plan->problem));
    GDN_TRY(context->ops->supported(context, &plan->problem));
    if (!(p->flags & GDN_LAYER_HOOKED_OPERATOR))
        context->ops->sizes(context, &plan->problem, &plan->operator_sizes);
    return find_part_workspace(context, plan);
}

/* Bytes of the arrays that are there for every token. */
typedef struct array_bytes {
    size_t wide, values, heads, gates; /* [T, C], [T, Hv V], [T, Hv], [T, Hv] of the state type */
} array_bytes;

static array_bytes bytes_of(const gdni_layer_plan *plan) {
    const gdn_dtype dtype = plan->layer.dtype;
    const size_t T = (size_t)plan->layer.T, row = T * gdn_dtype_size(dtype);
    return (array_bytes){row * (size_t)plan->C, row * (size_t)plan->HvV,
                         row * (size_t)plan->layer.Hv,
                         T * gdn_dtype_size(gdni_state_dtype(dtype)) * (size_t)plan->layer.Hv};
}

size_t gdni_layer_activations_at(const gdni_layer_plan *plan, void *base,
                                 gdni_layer_activations *x) {
    const array_bytes bytes = bytes_of(plan);
    cursor c = {base, 0};
    x->qkv = take(&c, bytes.wide);
    x->conv = take(&c, bytes.wide);
    x->z = take(&c, bytes.values);
    x->b = take(&c, bytes.heads);
    x->a = take(&c, bytes.heads);
    x->beta = take(&c, bytes.gates);
    x->g = take(&c, bytes.gates);
    x->o = take(&c, bytes.values);
    x->operator_saved = take(&c, plan->operator_sizes.saved);
    return c.used;
}

size_t gdni_layer_scratch_at(const gdni_layer_plan *plan, int backward, void *base,
                             gdni_layer_scratch *x) {
    const array_bytes bytes = bytes_of(plan);
    cursor c = {base, 0};
    x->y = take(&c, bytes.values);
    x->operator_workspace = take(&c, backward ? plan->operator_sizes.backward_workspace
                                              : plan->operator_sizes.forward_workspace);
    x->part_workspace = take(&c, plan->part_workspace);
    if (backward) {
        x->dy = take(&c, bytes.values);
        x->dz = take(&c, bytes.values);
        x->dqkv = take(&c, bytes.wide);
        x->dconv = take(&c, bytes.wide);
        x->dbeta = take(&c, bytes.gates);
        x->dg = take(&c, bytes.gates);
        x->db = take(&c, bytes.heads);
        x->da = take(&c, bytes.heads);
    }
    return c.used;
}
