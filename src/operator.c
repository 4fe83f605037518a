/* The operator's entry points: check the call, then hand it to the context's backend. */
#include "internal.h"
#include "plan/model.h"

#include <stdint.h>
#include <string.h>

static const char *const SAVE_HINT = "a SAVE flag is set";

/* Checks context and problem, fills in defaults, asks the backend. */
static gdn_status check_problem(const char *function, const gdn_context *context,
                                const gdn_problem *in, gdn_problem *problem) {
    gdni_clear_error();
    GDNI_REQUIRE(context != NULL, "%s: context is NULL", function);
    GDN_TRY(gdni_problem_check(function, in, problem));
    return context->ops->supported(context, problem);
}

static gdn_status check_pointer(const char *function, const char *name, const void *pointer,
                                int needed, const char *why) {
    GDNI_REQUIRE(pointer || !needed, "%s: %s is NULL, expected memory because %s", function, name,
                 why);
    return GDN_STATUS_OK;
}

static gdn_status check_workspace(const char *function, const gdn_tensors *t, size_t needed) {
    GDNI_REQUIRE(t->workspace_size >= needed,
                 "%s: workspace_size is %zu, expected at least %zu bytes", function,
                 t->workspace_size, needed);
    GDN_TRY(check_pointer(function, "workspace", t->workspace, needed > 0, "its size is not 0"));
    GDNI_REQUIRE((uintptr_t)t->workspace % 256 == 0,
                 "%s: workspace is at %p, expected a multiple of 256", function, t->workspace);
    return GDN_STATUS_OK;
}

static gdn_status check_report(const char *function, const gdn_tensors *t, size_t needed) {
    GDN_TRY(check_pointer(function, "checked_report", t->checked_report, needed > 0,
                          "CHECKED on the cuda backend writes it"));
    GDNI_REQUIRE(!needed || (uintptr_t)t->checked_report % 8 == 0,
                 "%s: checked_report is at %p, expected a multiple of 8", function,
                 t->checked_report);
    return GDN_STATUS_OK;
}

/* The sequences, and with CHECKED the values, where the host can read them. */
static gdn_status check_data(const char *function, const gdn_context *context,
                             const gdn_problem *problem, const gdn_tensors *tensors) {
    const int host = context->backend != GDN_BACKEND_CUDA;
    if (host || (problem->flags & GDN_FLAG_CU_SEQLENS_HOST) || !tensors->cu_seqlens)
        GDN_TRY(gdni_check_cu_seqlens(function, tensors->cu_seqlens, problem->N, problem->T));
    if (host && (problem->flags & GDN_FLAG_CHECKED))
        GDN_TRY(gdni_check_values(function, problem, tensors));
    return GDN_STATUS_OK;
}

typedef struct gdni_call {
    gdn_problem problem;
    gdn_tensors tensors;
    gdn_sizes sizes;
} gdni_call;

static gdn_status begin(const char *function, const gdn_context *context,
                        const gdn_problem *problem, const gdn_tensors *tensors, gdni_call *call) {
    const gdn_tensors tensors_init = GDN_TENSORS_INIT;
    const gdn_sizes sizes_init = GDN_SIZES_INIT;
    call->tensors = tensors_init;
    call->sizes = sizes_init;
    GDN_TRY(check_problem(function, context, problem, &call->problem));
    GDNI_REQUIRE(tensors != NULL, "%s: tensors is NULL", function);
    GDN_TRY(
        gdni_copy_struct(function, &call->tensors, sizeof(call->tensors), tensors, tensors->size));
    context->ops->sizes(context, &call->problem, &call->sizes);
    return check_report(function, &call->tensors, call->sizes.checked_report);
}

#define NEED(name, why) GDN_TRY(check_pointer(function, #name, t->name, t_needed, why))

gdn_status gdn_problem_supported(const gdn_context *context, const gdn_problem *problem) {
    gdn_problem checked;
    return check_problem("gdn_problem_supported", context, problem, &checked);
}

const char *gdn_problem_kernels(const gdn_context *context, const gdn_problem *problem) {
    gdn_problem p;
    if (check_problem("gdn_problem_kernels", context, problem, &p) != GDN_STATUS_OK)
        return "none";
    if (context->backend != GDN_BACKEND_CUDA)
        return gdn_backend_name(context->backend);
    return gdni_plan_on_hopper(context->capability, &p) ? "cuda hopper" : "cuda portable";
}

gdn_status gdn_problem_sizes(const gdn_context *context, const gdn_problem *problem,
                             gdn_sizes *sizes) {
    gdn_problem checked;
    gdn_sizes all = GDN_SIZES_INIT;
    GDN_TRY(check_problem("gdn_problem_sizes", context, problem, &checked));
    GDNI_REQUIRE(sizes != NULL, "gdn_problem_sizes: sizes is NULL");
    GDNI_REQUIRE(sizes->size >= sizeof(size_t) && sizes->size <= sizeof(*sizes),
                 "gdn_problem_sizes: size is %zu, expected at most %zu", sizes->size,
                 sizeof(*sizes));
    context->ops->sizes(context, &checked, &all);
    all.size = sizes->size; /* the caller's header may have fewer fields */
    memcpy(sizes, &all, all.size);
    return GDN_STATUS_OK;
}

gdn_status gdn_forward(const gdn_context *context, const gdn_problem *problem,
                       const gdn_tensors *tensors, gdn_stream stream) {
    static const char *const function = "gdn_forward";
    gdni_call call;
    GDN_TRY(begin(function, context, problem, tensors, &call));
    const gdn_tensors *t = &call.tensors;
    const int t_needed = call.problem.T > 0;
    NEED(q, "T > 0");
    NEED(k, "T > 0");
    NEED(v, "T > 0");
    NEED(g, "T > 0");
    NEED(beta, "T > 0");
    NEED(o, "T > 0");
    GDN_TRY(check_pointer(function, "saved", t->saved, call.sizes.saved > 0, SAVE_HINT));
    GDN_TRY(check_workspace(function, t, call.sizes.forward_workspace));
    GDN_TRY(check_data(function, context, &call.problem, t));
    return context->ops->forward(context, &call.problem, t, stream);
}

gdn_status gdn_backward(const gdn_context *context, const gdn_problem *problem,
                        const gdn_tensors *tensors, gdn_stream stream) {
    static const char *const function = "gdn_backward";
    gdni_call call;
    GDN_TRY(begin(function, context, problem, tensors, &call));
    const gdn_tensors *t = &call.tensors;
    const int t_needed = call.problem.T > 0;
    NEED(q, "T > 0");
    NEED(k, "T > 0");
    NEED(v, "T > 0");
    NEED(g, "T > 0");
    NEED(beta, "T > 0");
    NEED(do_, "T > 0");
    NEED(dq, "T > 0");
    NEED(dk, "T > 0");
    NEED(dv, "T > 0");
    NEED(dg, "T > 0");
    NEED(dbeta, "T > 0");
    GDN_TRY(check_pointer(function, "saved", t->saved, call.sizes.saved > 0, SAVE_HINT));
    GDN_TRY(check_workspace(function, t, call.sizes.backward_workspace));
    GDN_TRY(check_data(function, context, &call.problem, t));
    return context->ops->backward(context, &call.problem, t, stream);
}

gdn_status gdn_segment_forward(const gdn_context *context, const gdn_problem *problem,
                               const gdn_tensors *tensors, const gdn_segment *segment,
                               gdn_stream stream) {
    static const char *const function = "gdn_segment_forward";
    gdni_call call;
    gdn_segment s = GDN_SEGMENT_INIT;
    GDN_TRY(begin(function, context, problem, tensors, &call));
    GDNI_COPY_STRUCT(&s, segment, "gdn_segment_forward");
    const gdn_tensors *t = &call.tensors;
    const int t_needed = call.problem.T > 0;
    NEED(k, "T > 0");
    NEED(v, "T > 0");
    NEED(g, "T > 0");
    NEED(beta, "T > 0");
    GDN_TRY(check_workspace(function, t, call.sizes.segment_workspace));
    GDN_TRY(check_data(function, context, &call.problem, t));
    return context->ops->segment_forward(context, &call.problem, t, &s, stream);
}

gdn_status gdn_segment_backward(const gdn_context *context, const gdn_problem *problem,
                                const gdn_tensors *tensors, const gdn_segment *segment,
                                gdn_stream stream) {
    static const char *const function = "gdn_segment_backward";
    gdni_call call;
    gdn_segment s = GDN_SEGMENT_INIT;
    GDN_TRY(begin(function, context, problem, tensors, &call));
    GDNI_COPY_STRUCT(&s, segment, "gdn_segment_backward");
    const gdn_tensors *t = &call.tensors;
    const int t_needed = call.problem.T > 0;
    NEED(q, "T > 0");
    NEED(k, "T > 0");
    NEED(g, "T > 0");
    NEED(beta, "T > 0");
    NEED(do_, "T > 0");
    GDN_TRY(check_pointer(function, "entry_gradient", s.entry_gradient, 1, "it is the output"));
    GDN_TRY(check_workspace(function, t, call.sizes.segment_workspace));
    GDN_TRY(check_data(function, context, &call.problem, t));
    return context->ops->segment_backward(context, &call.problem, t, &s, stream);
}

gdn_status gdn_checked_status(const gdn_context *context, const gdn_problem *problem,
                              const gdn_tensors *tensors, gdn_stream stream) {
    static const char *const function = "gdn_checked_status";
    gdni_call call;
    GDN_TRY(begin(function, context, problem, tensors, &call));
    GDNI_REQUIRE(call.problem.flags & GDN_FLAG_CHECKED,
                 "%s: flags are 0x%x, expected GDN_FLAG_CHECKED among them", function,
                 call.problem.flags);
    if (!context->ops->checked_status)
        return GDN_STATUS_OK;
    return context->ops->checked_status(context, &call.problem, &call.tensors, stream);
}
