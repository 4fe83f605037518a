/* The plan of a problem whose data the host holds: for gdn plan and tests. */
#ifndef GDNI_PLAN_HOST_H
#define GDNI_PLAN_HOST_H

#include "model.h"

typedef struct gdni_plan {
    gdni_plan_problem problem; /* over the arrays below */
    int64_t *chunk_start;      /* [N + 1] */
    float *bounds;             /* [chunks, Hv] */
    gdni_plan_candidate candidates[GDNI_PLAN_CANDIDATES];
    gdni_plan_choice choice;
    gdni_work_item *items; /* a segment's heads side by side */
    int64_t count;
} gdni_plan;

/* What decides about a problem's cuts, dense: k [T, Hk, K], g and beta [T, Hv], cu_seqlens [N + 1]
 * or NULL. */
typedef struct gdni_plan_data {
    const double *k, *g, *beta;
    const int64_t *cu_seqlens;
} gdni_plan_data;

/* Defaults of p are filled in. Errors: OUT_OF_MEMORY. */
GDN_API gdn_status gdni_plan_make(const gdni_plan_device *device, const gdn_problem *p,
                                  const gdni_plan_data *data, gdni_plan *plan);
GDN_API void gdni_plan_free(gdni_plan *plan);

#endif /* GDNI_PLAN_HOST_H */
