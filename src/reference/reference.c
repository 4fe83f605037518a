/* The reference backend: the token recurrence in float64, the measure of every other backend. */
#include "recurrence.h"

static gdn_status supported(const gdn_context *context, const gdn_problem *p) {
    if (p->dtype != GDN_DTYPE_FP64)
        return gdni_fail(GDN_STATUS_UNSUPPORTED,
                         "reference backend: dtype is %s, expected fp64, the only one it computes",
                         gdn_dtype_name(p->dtype));
    return GDN_STATUS_OK;
}

/* Forward: one state. Backward: dS, the states of one block with its exit, a state a block. */
static void sizes(const gdn_context *context, const gdn_problem *p, gdn_sizes *s) {
    const size_t state = sizeof(double) * (size_t)p->K * (size_t)p->V;
    const size_t blocks = ((size_t)p->T + GDNI_BLOCK - 1) / GDNI_BLOCK;
    s->forward_workspace = state;
    s->backward_workspace = state * (1 + (GDNI_BLOCK + 1) + (blocks ? blocks : 1));
    s->segment_workspace = state;
    s->saved = 0;
}

const gdni_backend_ops gdni_reference_ops = {
    .supported = supported,
    .sizes = sizes,
    .forward = gdni_reference_forward,
    .backward = gdni_reference_backward,
    .segment_forward = gdni_reference_segment_forward,
    .segment_backward = gdni_reference_segment_backward,
};
