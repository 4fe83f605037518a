/* Parts of a shard: a run of its tokens as a call of its own, and how short a run may be. */
#include "plan.h"

#include <math.h>

int32_t gdni_dist_below(const gdn_dist_plan *plan, const void *bounds, int32_t h) {
    const double bound = plan->state_dtype == GDN_DTYPE_FP64 ? ((const double *)bounds)[h]
                                                             : (double)((const float *)bounds)[h];
    return bound < plan->problem.decay_threshold;
}

gdn_problem gdni_dist_segment(const gdn_dist_plan *plan, int64_t count) {
    gdn_problem problem = plan->problem;
    problem.T = count;
    problem.N = 1;
    problem.flags &= ~(uint32_t)(GDN_FLAG_CHECKED | GDN_FLAG_SAVE_STATES | GDN_FLAG_SAVE_INVERSE |
                                 GDN_FLAG_CU_SEQLENS_HOST);
    return problem;
}

gdn_problem gdni_dist_transfer(const gdn_dist_plan *plan, int64_t count) {
    const gdn_strides dense = {0, 0}, overlapping = {plan->problem.K, plan->problem.K};
    gdn_problem problem = gdni_dist_segment(plan, count);
    problem.V = problem.K;
    problem.v_strides = overlapping;
    problem.o_strides = dense;
    return problem;
}

size_t gdni_dist_zeros(const gdn_dist_plan *plan) {
    const gdn_problem *p = &plan->problem;
    return gdn_dtype_size(p->dtype) * (size_t)((p->T + p->Hv) * p->K);
}

static const void *row(const void *data, size_t element, int64_t index) {
    return data ? (const char *)data + element * (size_t)index : NULL;
}

void gdni_dist_slice(const gdn_dist_plan *plan, const gdn_tensors *x, int64_t first, int64_t count,
                     int64_t sequence, gdn_problem *problem, gdn_tensors *slice) {
    const gdn_problem *p = &plan->problem;
    const size_t element = gdn_dtype_size(p->dtype), state = gdn_dtype_size(plan->state_dtype);
    const gdn_tensors init = GDN_TENSORS_INIT;
    *problem = gdni_dist_segment(plan, count);
    *slice = init;
    slice->q = row(x->q, element, first * p->q_strides.token);
    slice->k = row(x->k, element, first * p->k_strides.token);
    slice->v = row(x->v, element, first * p->v_strides.token);
    slice->do_ = row(x->do_, element, first * p->o_strides.token);
    slice->g = row(x->g, state, first * p->Hv);
    slice->beta = row(x->beta, state, first * p->Hv);
    if (sequence >= 0) {
        slice->initial_state = row(x->initial_state, plan->states_bytes, sequence);
        slice->dht = row(x->dht, plan->states_bytes, sequence);
    }
    slice->workspace = x->workspace;
    slice->workspace_size = x->workspace_size;
}

/* Bounds over a run; *all: whether every head is below the threshold. */
static gdn_status find_bounds(const gdn_dist_plan *plan, const gdn_tensors *tensors, int64_t first,
                              int64_t count, void *bounds, int32_t *all) {
    gdn_segment segment = GDN_SEGMENT_INIT;
    gdn_problem problem;
    gdn_tensors slice;
    gdni_dist_slice(plan, tensors, first, count, -1, &problem, &slice);
    segment.decay_bound = bounds;
    GDN_TRY(gdn_segment_forward(plan->context, &problem, &slice, &segment, NULL));
    *all = 1;
    for (int32_t h = 0; h < plan->problem.Hv; ++h)
        *all = *all && gdni_dist_below(plan, bounds, h);
    return GDN_STATUS_OK;
}

gdn_status gdni_dist_warm_up(const gdn_dist_plan *plan, const gdn_tensors *tensors, int64_t first,
                             int64_t count, int32_t from_start, void *bounds, void *scratch,
                             int64_t *length) {
    int32_t all = 0;
    int64_t tail = GDNI_WARM_UP;
    *length = count;
    GDN_TRY(find_bounds(plan, tensors, first, count, bounds, &all));
    while (2 * tail < count)
        tail *= 2;
    for (; all && tail >= GDNI_WARM_UP && tail < count; tail /= 2) {
        const int64_t start = from_start ? first : first + count - tail;
        GDN_TRY(find_bounds(plan, tensors, start, tail, scratch, &all));
        if (all)
            *length = tail;
    }
    return GDN_STATUS_OK;
}
