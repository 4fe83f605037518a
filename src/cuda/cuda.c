/* The CUDA backend: what it accepts, and the way to its kernels. */
#include "internal.h"
#include "cuda/device.h"
#include "cuda/parts.h"

#include <inttypes.h>

gdn_status gdni_cuda_context_init(gdn_context *context) {
    gdni_device_info info;
    const int count = gdni_cuda_device_count();
    if (context->device >= count)
        return gdni_fail(GDN_STATUS_NO_BACKEND,
                         "gdn_context_create: backend cuda: device is %d, but this machine shows "
                         "%d CUDA devices",
                         context->device, count);
    const int error = gdni_cuda_device_info(context->device, &info);
    if (error)
        return gdni_fail(GDN_STATUS_CUDA_ERROR, "gdn_context_create: device %d: %s",
                         context->device, gdni_cuda_error_text(error));
    if (info.major < 8)
        return gdni_fail(GDN_STATUS_NO_BACKEND,
                         "gdn_context_create: device %d has compute capability %d.%d, expected 8.0 "
                         "or later",
                         context->device, info.major, info.minor);
    context->multiprocessors = info.multiprocessors;
    context->capability = 10 * info.major + info.minor;
    context->shared_memory = info.shared_memory;
    return GDN_STATUS_OK;
}

static gdn_status check_dim(const char *name, int32_t dim) {
    if (dim % 16)
        return gdni_fail(GDN_STATUS_UNSUPPORTED,
                         "cuda backend: %s is %d, expected a multiple of 16 up to 256", name, dim);
    return GDN_STATUS_OK;
}

static gdn_status supported(const gdn_context *context, const gdn_problem *p) {
    const int64_t most = INT32_MAX;
    if (p->dtype == GDN_DTYPE_FP64)
        return gdni_fail(GDN_STATUS_UNSUPPORTED,
                         "cuda backend: dtype is fp64, expected fp32, bf16 or fp16 (the reference "
                         "backend computes fp64)");
    GDN_TRY(check_dim("K", p->K));
    GDN_TRY(check_dim("V", p->V));
    /* Grids: a CTA per sequence, v-head and slice of V; per eight rows of q; k-heads in y. */
    if (p->N > most / p->Hv / 16 || p->T > most / p->Hk)
        return gdni_fail(GDN_STATUS_UNSUPPORTED,
                         "cuda backend: T = %" PRId64 ", N = %" PRId64 ", Hk = %d, Hv = %d are "
                         "more than one launch can take",
                         p->T, p->N, p->Hk, p->Hv);
    if (p->Hk > 65535)
        return gdni_fail(GDN_STATUS_UNSUPPORTED, "cuda backend: Hk is %d, expected at most 65535",
                         p->Hk);
    if (gdni_portable_shared_memory(p) > context->shared_memory)
        return gdni_fail(GDN_STATUS_UNSUPPORTED,
                         "cuda backend: K = %d in %s needs %zu bytes of shared memory a CTA, this "
                         "device has %zu",
                         p->K, gdn_dtype_name(p->dtype), gdni_portable_shared_memory(p),
                         context->shared_memory);
    return GDN_STATUS_OK;
}

static void sizes(const gdn_context *context, const gdn_problem *p, gdn_sizes *s) {
    const gdni_cuda_device device = gdni_device_of(context);
    gdni_portable_sizes(&device, p, s);
    s->checked_report = p->flags & GDN_FLAG_CHECKED ? sizeof(gdni_checked_report) : 0;
}

static gdn_status status_of(const char *function, const gdn_context *context, int error) {
    if (error)
        return gdni_fail(GDN_STATUS_CUDA_ERROR, "%s: device %d: %s", function, context->device,
                         gdni_cuda_error_text(error));
    return GDN_STATUS_OK;
}

/* The calls, as a checked report names them. */
static const char *const calls[] = {"gdn_forward", "gdn_backward", "gdn_segment_forward",
                                    "gdn_segment_backward"};
enum {
    FORWARD,
    BACKWARD,
    SEGMENT_FORWARD,
    SEGMENT_BACKWARD,
    CALLS
};
_Static_assert((int)GDNI_INPUTS == (int)GDNI_CHECKED_INPUTS,
               "kernels/launch.h has room for the inputs");

/* With CHECKED: enqueues the look at what is given. */
static gdn_status check(uint32_t call, const gdn_context *context, const gdn_problem *p,
                        const gdn_tensors *t, gdn_stream stream) {
    const gdni_cuda_device device = gdni_device_of(context);
    gdni_input inputs[GDNI_INPUTS];
    gdni_checked_input checked[GDNI_INPUTS];
    if (!(p->flags & GDN_FLAG_CHECKED))
        return GDN_STATUS_OK;
    gdni_inputs(p, t, inputs);
    for (int i = 0; i < GDNI_INPUTS; ++i) {
        const gdni_input *in = &inputs[i];
        const gdni_checked_input to = {
            in->data,   (int)gdn_dtype_size(in->dtype), in->log_gate, in->rows, in->heads, in->dim,
            in->strides};
        checked[i] = to;
    }
    /* The host has looked at bounds of its own. */
    const int64_t *cu = p->flags & GDN_FLAG_CU_SEQLENS_HOST ? NULL : t->cu_seqlens;
    return status_of(
        calls[call], context,
        gdni_checked_enqueue(&device, p, cu, checked, call, t->checked_report, stream));
}

static gdn_status checked_status(const gdn_context *context, const gdn_problem *p,
                                 const gdn_tensors *t, gdn_stream stream) {
    static const char *const function = "gdn_checked_status";
    const gdni_cuda_device device = gdni_device_of(context);
    gdni_input inputs[GDNI_INPUTS];
    gdni_checked_report r;
    GDN_TRY(
        status_of(function, context, gdni_checked_fetch(&device, t->checked_report, &r, stream)));
    GDNI_REQUIRE(r.magic == GDNI_CHECKED_MAGIC && r.call < CALLS,
                 "%s: checked_report holds no report, expected that of a call before", function);
    if (r.place == UINT64_MAX)
        return GDN_STATUS_OK;
    const uint64_t tensor = r.place >> GDNI_PLACE_BITS;
    const int64_t index = (int64_t)(r.place & ((UINT64_C(1) << GDNI_PLACE_BITS) - 1));
    if (tensor == 0)
        return gdni_check_bound(calls[r.call], p->N, p->T, index, r.bound[0], r.bound[1]);
    gdni_inputs(p, t, inputs);
    return gdni_bad_value(calls[r.call], &inputs[tensor - 1], index, r.value);
}

static gdn_status forward(const gdn_context *context, const gdn_problem *p, const gdn_tensors *t,
                          gdn_stream stream) {
    const gdni_cuda_device device = gdni_device_of(context);
    GDN_TRY(check(FORWARD, context, p, t, stream));
    return status_of(calls[FORWARD], context, gdni_portable_forward(&device, p, t, stream));
}

static gdn_status backward(const gdn_context *context, const gdn_problem *p, const gdn_tensors *t,
                           gdn_stream stream) {
    const gdni_cuda_device device = gdni_device_of(context);
    GDN_TRY(check(BACKWARD, context, p, t, stream));
    return status_of(calls[BACKWARD], context, gdni_portable_backward(&device, p, t, stream));
}

static gdn_status segment_forward(const gdn_context *context, const gdn_problem *p,
                                  const gdn_tensors *t, const gdn_segment *s, gdn_stream stream) {
    const gdni_cuda_device device = gdni_device_of(context);
    GDN_TRY(check(SEGMENT_FORWARD, context, p, t, stream));
    return status_of(calls[SEGMENT_FORWARD], context,
                     gdni_portable_segment_forward(&device, p, t, s, stream));
}

static gdn_status segment_backward(const gdn_context *context, const gdn_problem *p,
                                   const gdn_tensors *t, const gdn_segment *s, gdn_stream stream) {
    const gdni_cuda_device device = gdni_device_of(context);
    GDN_TRY(check(SEGMENT_BACKWARD, context, p, t, stream));
    return status_of(calls[SEGMENT_BACKWARD], context,
                     gdni_portable_segment_backward(&device, p, t, s, stream));
}

const gdni_backend_ops gdni_cuda_ops = {
    .supported = supported,
    .sizes = sizes,
    .forward = forward,
    .backward = backward,
    .segment_forward = segment_forward,
    .segment_backward = segment_backward,
    .parts = &gdni_cuda_part_ops,
    .checked_status = checked_status,
};
