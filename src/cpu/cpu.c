/* The CPU backend: the chunked algorithm in fp32, OpenMP and BLAS; bf16 and fp16 in memory only. */
#include "chunked.h"

static gdn_status supported(const gdn_context *context, const gdn_problem *p) {
    if (p->dtype == GDN_DTYPE_FP64)
        return gdni_fail(GDN_STATUS_UNSUPPORTED,
                         "cpu backend: dtype is fp64, expected fp32, bf16 or fp16 (the reference "
                         "backend computes fp64)");
    return GDN_STATUS_OK;
}

static void sizes(const gdn_context *context, const gdn_problem *p, gdn_sizes *s) {
    const gdn_tensors none = GDN_TENSORS_INIT;
    gdni_plan plan;
    s->forward_workspace = gdni_plan_init(&plan, context, p, &none, GDNI_FORWARD);
    s->backward_workspace = gdni_plan_init(&plan, context, p, &none, GDNI_BACKWARD);
    const size_t forward = gdni_plan_init(&plan, context, p, &none, GDNI_SEGMENT_FORWARD);
    const size_t backward = gdni_plan_init(&plan, context, p, &none, GDNI_SEGMENT_BACKWARD);
    s->segment_workspace = forward > backward ? forward : backward;
    s->saved = gdni_plan_saved(p);
}

const gdni_backend_ops gdni_cpu_ops = {
    .supported = supported,
    .sizes = sizes,
    .forward = gdni_cpu_forward,
    .backward = gdni_cpu_backward,
    .segment_forward = gdni_cpu_segment_forward,
    .segment_backward = gdni_cpu_segment_backward,
};
