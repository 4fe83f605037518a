#include "host.h"

#include <stdlib.h>
#include <string.h>

#include "internal.h"

static int64_t sequence_start(const gdn_problem *p, const gdni_plan_data *data, int64_t n) {
    return data->cu_seqlens ? data->cu_seqlens[n] : n * (p->T / p->N);
}

/* Sum over tokens of g + log max(1, |1 - beta |k|^2|), for one v-head. */
static double bound_of(const gdn_problem *p, const gdni_plan_data *data, int64_t first,
                       int64_t last, int64_t head) {
    double sum = 0;
    for (int64_t t = first; t < last; ++t) {
        const double *k = data->k + (t * p->Hk + head / (p->Hv / p->Hk)) * p->K;
        const double g = data->g[t * p->Hv + head];
        double square = 0;
        for (int64_t i = 0; i < p->K; ++i)
            square += k[i] * k[i];
        if (p->flags & GDN_FLAG_L2NORM_QK)
            square /= square + 1e-6;
        sum +=
            (g < -1000 ? -1000 : g) + log(fmax(1, fabs(1 - data->beta[t * p->Hv + head] * square)));
    }
    return sum;
}

/* What the device's choose kernel does, in the same order of results. */
static void summarise(gdni_plan *plan) {
    const gdni_plan_problem *p = &plan->problem;
    const int64_t total = plan->chunk_start[p->N];
    const int64_t stride = gdni_plan_stride(total);
    int64_t longest = 1;
    for (int64_t n = 0; n < p->N; ++n)
        if (plan->chunk_start[n + 1] - plan->chunk_start[n] > longest)
            longest = plan->chunk_start[n + 1] - plan->chunk_start[n];
    for (int i = 0; i < GDNI_PLAN_CANDIDATES; ++i) {
        gdni_plan_candidate *c = &plan->candidates[i];
        memset(c, 0, sizeof(*c));
        c->length = gdni_plan_divide(longest + gdni_plan_parts(i) - 1, gdni_plan_parts(i));
        const gdni_plan_choice tried = {c->length, INT64_MAX, 0};
        for (int64_t n = 0; n < p->N; ++n) {
            const int64_t chunks = plan->chunk_start[n + 1] - plan->chunk_start[n];
            const int64_t count = gdni_plan_segments(&tried, chunks);
            c->segments += count;
            c->cut += count > 1;
        }
        for (int32_t h = 0; h < p->Hv; ++h) {
            int32_t falls = 0;
            for (int64_t chunk = 0; chunk < total; chunk += stride)
                falls += gdni_plan_fall(p->bounds[chunk * p->Hv + h]);
            const int64_t warm = gdni_plan_estimate(p, falls, total);
            if (warm <= c->length) {
                c->warm_sum += warm;
                c->warm_max = warm > c->warm_max ? warm : c->warm_max;
            } else {
                ++c->exact_heads;
            }
        }
        gdni_plan_cost(p, c, total);
    }
}

/* The border on the left of segment j. */
static gdni_plan_border border_of(const gdni_plan_problem *p, int64_t n, int64_t j, int64_t count,
                                  int32_t head) {
    return j < 1 || j >= count ? gdni_plan_cross(0, 0)
                               : gdni_plan_cross(gdni_plan_side(p, n, j, count, head, 0),
                                                 gdni_plan_side(p, n, j, count, head, 1));
}

static gdn_status make_items(gdni_plan *plan) {
    const gdni_plan_problem *p = &plan->problem;
    int64_t segments = 0, segment = 0;
    for (int64_t n = 0; n < p->N; ++n)
        segments +=
            gdni_plan_segments(&plan->choice, plan->chunk_start[n + 1] - plan->chunk_start[n]);
    plan->count = segments * p->Hv;
    plan->items = malloc(sizeof(*plan->items) * (size_t)plan->count);
    if (!plan->items)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "plan: no memory for the work items");
    for (int64_t n = 0; n < p->N; ++n) {
        const int64_t count =
            gdni_plan_segments(&plan->choice, plan->chunk_start[n + 1] - plan->chunk_start[n]);
        for (int64_t j = 0; j < count; ++j, ++segment)
            for (int32_t h = 0; h < p->Hv; ++h)
                plan->items[segment * p->Hv + h] =
                    gdni_plan_item(p, n, segment, j, count, h, border_of(p, n, j, count, h),
                                   border_of(p, n, j + 1, count, h));
    }
    return GDN_STATUS_OK;
}

gdn_status gdni_plan_make(const gdni_plan_device *device, const gdn_problem *p,
                          const gdni_plan_data *data, gdni_plan *plan) {
    const int64_t C = GDNI_PORTABLE_CHUNK(gdn_dtype_size(p->dtype));
    gdn_status status = GDN_STATUS_OK;
    memset(plan, 0, sizeof(*plan));
    plan->chunk_start = malloc(sizeof(*plan->chunk_start) * (size_t)(p->N + 1));
    plan->bounds = malloc(sizeof(*plan->bounds) * (size_t)((p->T / C + p->N) * p->Hv));
    if (!plan->chunk_start || !plan->bounds)
        GDN_TRY_GOTO(gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "plan: no memory for the chunks"),
                     cleanup);
    plan->chunk_start[0] = 0;
    for (int64_t n = 0; n < p->N; ++n) {
        const int64_t start = sequence_start(p, data, n), end = sequence_start(p, data, n + 1);
        int64_t chunk = plan->chunk_start[n];
        for (int64_t t = start; t < end; t += C, ++chunk)
            for (int64_t h = 0; h < p->Hv; ++h)
                plan->bounds[chunk * p->Hv + h] =
                    (float)bound_of(p, data, t, t + C < end ? t + C : end, h);
        plan->chunk_start[n + 1] = chunk;
    }
    plan->problem.N = p->N;
    plan->problem.Hv = p->Hv;
    plan->problem.chunk_start = plan->chunk_start;
    plan->problem.bounds = plan->bounds;
    plan->problem.threshold = gdni_plan_threshold(p);
    plan->problem.max_borders =
        gdni_plan_max_borders(device, p, data->cu_seqlens != NULL, 0, &plan->problem.shortest);
    plan->problem.segments = plan->problem.max_borders ? p->segments : 1;
    plan->problem.model = gdni_plan_model_of(device, p, 0);
    summarise(plan);
    if (plan->problem.segments || plan->candidates[0].length < plan->problem.shortest) {
        plan->choice.length = plan->problem.segments ? 1 : plan->candidates[0].length;
        plan->choice.most = plan->problem.segments ? plan->problem.segments : 1;
    } else {
        plan->choice = gdni_plan_choose(&plan->problem, plan->candidates);
    }
    GDN_TRY_GOTO(make_items(plan), cleanup);
cleanup:
    if (status != GDN_STATUS_OK)
        gdni_plan_free(plan);
    return status;
}

void gdni_plan_free(gdni_plan *plan) {
    free(plan->chunk_start);
    free(plan->bounds);
    free(plan->items);
    memset(plan, 0, sizeof(*plan));
}
