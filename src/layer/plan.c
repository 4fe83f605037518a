#include "plan.h"

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
    const uint32_t known = GDN_LAYER_ACCUMULATE | GDN_LAYER_EXACT | GDN_LAYER_SAVE_STATES;
    GDNI_REQUIRE(!(p->flags & ~known), "%s: flags has unknown bits 0x%x", function,
                 p->flags & ~known);
    GDNI_RANGE(T, 0, INT32_MAX); /* what the matrix product takes */
    GDNI_RANGE(D, 1, GDNI_MAX_WIDTH);
    GDNI_RANGE(conv_width, 1, GDNI_MAX_CONV_WIDTH);
    return gdni_part_eps(function, "norm_eps", p->norm_eps);
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
    if (context->backend == GDN_BACKEND_CUDA)
        return gdni_fail(GDN_STATUS_UNSUPPORTED, "%s: backend is cuda, expected reference or cpu",
                         function);
    GDN_TRY(check(function, p));
    gdn_problem problem = problem_init;
    problem.dtype = p->dtype;
    problem.flags = GDN_FLAG_L2NORM_QK | (p->flags & GDN_LAYER_EXACT ? GDN_FLAG_EXACT : 0) |
                    (p->flags & GDN_LAYER_SAVE_STATES ? GDN_FLAG_SAVE_STATES : 0);
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
    context->ops->sizes(context, &plan->problem, &plan->operator_sizes);
    return GDN_STATUS_OK;
}

size_t gdni_layer_activations_at(const gdni_layer_plan *plan, void *base,
                                 gdni_layer_activations *x) {
    const size_t row = (size_t)plan->layer.T * gdn_dtype_size(plan->layer.dtype);
    const size_t wide = row * (size_t)plan->C, values = row * (size_t)plan->HvV;
    const size_t heads = row * (size_t)plan->layer.Hv;
    cursor c = {base, 0};
    x->qkv = take(&c, wide);
    x->conv = take(&c, wide);
    x->z = take(&c, values);
    x->b = take(&c, heads);
    x->a = take(&c, heads);
    x->beta = take(&c, heads);
    x->g = take(&c, heads);
    x->o = take(&c, values);
    x->operator_saved = take(&c, plan->operator_sizes.saved);
    return c.used;
}

size_t gdni_layer_scratch_at(const gdni_layer_plan *plan, int backward, void *base,
                             gdni_layer_scratch *x) {
    const size_t row = (size_t)plan->layer.T * gdn_dtype_size(plan->layer.dtype);
    const size_t wide = row * (size_t)plan->C, values = row * (size_t)plan->HvV;
    const size_t heads = row * (size_t)plan->layer.Hv;
    cursor c = {base, 0};
    x->y = take(&c, values);
    x->operator_workspace = take(&c, backward ? plan->operator_sizes.backward_workspace
                                              : plan->operator_sizes.forward_workspace);
    if (backward) {
        x->dy = take(&c, values);
        x->dz = take(&c, values);
        x->dqkv = take(&c, wide);
        x->dconv = take(&c, wide);
        x->dbeta = take(&c, heads);
        x->dg = take(&c, heads);
        x->db = take(&c, heads);
        x->da = take(&c, heads);
    }
    return c.used;
}
