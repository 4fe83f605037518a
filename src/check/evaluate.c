/*
 * Runs the operator on float64 host data in any dtype and on any backend. The buffers of this file
 * are the one place where checks and the gdn command convert, and copy to and from a device.
 */
#include "evaluate.h"
#include "cuda/memory.h"
#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    ALIGNMENT = 256
};

gdn_status gdni_reserve(gdni_buffers *b, size_t bytes, void **out) {
    if (b->device) {
        GDN_TRY(gdni_device_allocate(b->device, bytes, out));
        b->data[b->count++] = *out;
        return GDN_STATUS_OK;
    }
    *out = aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT);
    if (!*out)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "no memory for a tensor of %zu bytes", bytes);
    b->data[b->count++] = *out;
    return GDN_STATUS_OK;
}

void gdni_release(gdni_buffers *b) {
    for (int i = 0; i < b->count; ++i)
        if (b->device)
            gdni_device_release(b->device, b->data[i]);
        else
            free(b->data[i]);
}

/* A finite value that became infinite in dtype. */
static gdn_status check_overflow(const gdni_shape *s, gdn_dtype dtype, const double *from,
                                 const void *rounded) {
    for (int64_t i = 0; i < s->count; ++i) {
        double value;
        GDN_TRY(gdn_convert(GDN_DTYPE_FP64, &value, dtype,
                            (const char *)rounded + (size_t)i * gdn_dtype_size(dtype), 1));
        if (isfinite(from[i]) && !isfinite(value)) {
            char place[96];
            gdni_format_place(s, i, place);
            return gdni_fail(GDN_STATUS_BAD_DATA, "%s at %s is %g, expected a value within %s",
                             s->name, place, from[i], gdn_dtype_name(dtype));
        }
    }
    return GDN_STATUS_OK;
}

gdn_status gdni_upload(gdni_buffers *b, const gdni_shape *s, gdn_dtype dtype, const double *from,
                       const void **out) {
    const size_t bytes = (size_t)s->count * gdn_dtype_size(dtype);
    gdni_buffers host = {.count = 0};
    gdn_status status;
    void *data, *rounded;
    *out = NULL;
    if (!from)
        return GDN_STATUS_OK;
    GDN_TRY(gdni_reserve(b, bytes, &data));
    *out = data;
    if (!b->device) {
        GDN_TRY(gdn_convert(dtype, data, GDN_DTYPE_FP64, from, s->count));
        return check_overflow(s, dtype, from, data);
    }
    GDN_TRY(gdni_reserve(&host, bytes, &rounded));
    GDN_TRY_GOTO(gdn_convert(dtype, rounded, GDN_DTYPE_FP64, from, s->count), cleanup);
    GDN_TRY_GOTO(check_overflow(s, dtype, from, rounded), cleanup);
    GDN_TRY_GOTO(gdni_device_copy(b->device, data, rounded, bytes), cleanup);
cleanup:
    gdni_release(&host);
    return status;
}

gdn_status gdni_reserve_output(gdni_buffers *b, const gdni_shape *s, gdn_dtype dtype,
                               const double *to, void **out) {
    *out = NULL;
    if (!to)
        return GDN_STATUS_OK;
    GDN_TRY(gdni_reserve(b, (size_t)s->count * gdn_dtype_size(dtype), out));
    if (!b->device)
        memset(*out, 0xff, (size_t)s->count * gdn_dtype_size(dtype));
    return GDN_STATUS_OK;
}

gdn_status gdni_download(const gdni_buffers *b, const gdni_shape *s, gdn_dtype dtype,
                         const void *from, double *to) {
    const size_t bytes = (size_t)s->count * gdn_dtype_size(dtype);
    gdni_buffers host = {.count = 0};
    gdn_status status;
    void *copy;
    if (!to)
        return GDN_STATUS_OK;
    if (!b->device)
        return gdn_convert(GDN_DTYPE_FP64, to, dtype, from, s->count);
    GDN_TRY(gdni_reserve(&host, bytes, &copy));
    GDN_TRY_GOTO(gdni_device_copy(b->device, copy, from, bytes), cleanup);
    GDN_TRY_GOTO(gdn_convert(GDN_DTYPE_FP64, to, dtype, copy, s->count), cleanup);
cleanup:
    gdni_release(&host);
    return status;
}

gdn_status gdni_zeros(const char *function, double **out, int64_t count) {
    *out = calloc((size_t)count + 1, sizeof(double));
    if (!*out)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "%s: no memory for %lld numbers", function,
                         (long long)count);
    return GDN_STATUS_OK;
}

gdn_status gdni_round(const gdni_shape *s, gdn_dtype dtype, const double *from, double *to) {
    gdni_buffers b = {.count = 0};
    const void *rounded;
    gdn_status status = gdni_upload(&b, s, dtype, from, &rounded);
    if (status == GDN_STATUS_OK)
        status = gdni_download(&b, s, dtype, rounded, to);
    gdni_release(&b);
    return status;
}

gdn_status gdni_evaluate_operator(const gdn_context *context, const gdn_problem *in,
                                  const gdni_operator_values *v) {
    const gdn_strides dense = {0, 0};
    gdn_status status;
    gdn_problem p = *in;
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_tensors t = GDN_TENSORS_INIT;
    gdni_buffers b = {.count = 0};
    const gdn_dtype real = p.dtype, state = gdni_state_dtype(p.dtype);
    p.q_strides = p.k_strides = p.v_strides = p.o_strides = dense;
    p.flags |= GDN_FLAG_CU_SEQLENS_HOST;
    if (context && context->backend == GDN_BACKEND_CUDA)
        b.device = context;
    GDN_TRY(gdn_problem_sizes(context, &p, &sizes));

    struct {
        const char *name;
        gdn_dtype dtype;
        const double *from;
        const void **in;
    } inputs[] = {{"q", real, v->q, &t.q},
                  {"k", real, v->k, &t.k},
                  {"v", real, v->v, &t.v},
                  {"g", state, v->g, &t.g},
                  {"beta", state, v->beta, &t.beta},
                  {"initial_state", state, v->initial_state, &t.initial_state},
                  {"do", real, v->do_, &t.do_},
                  {"dht", state, v->dht, &t.dht}};
    struct {
        const char *name;
        gdn_dtype dtype;
        double *to;
        void **out;
    } outputs[] = {{"o", real, v->o, &t.o},
                   {"final_state", state, v->final_state, &t.final_state},
                   {"dq", real, v->dq, &t.dq},
                   {"dk", real, v->dk, &t.dk},
                   {"dv", real, v->dv, &t.dv},
                   {"dg", state, v->dg, &t.dg},
                   {"dbeta", state, v->dbeta, &t.dbeta},
                   {"dh0", state, v->dh0, &t.dh0}};
    const size_t n_inputs = sizeof(inputs) / sizeof(inputs[0]);
    const size_t n_outputs = sizeof(outputs) / sizeof(outputs[0]);
    /* Backward of a problem with a SAVE flag reads what forward saved. */
    const int forward = v->o || sizes.saved > 0;

    for (size_t i = 0; i < n_inputs; ++i) {
        const gdni_shape s = gdni_operator_shape(&p, inputs[i].name);
        GDN_TRY_GOTO(gdni_upload(&b, &s, inputs[i].dtype, inputs[i].from, inputs[i].in), cleanup);
    }
    for (size_t i = 0; i < n_outputs; ++i) {
        const gdni_shape s = gdni_operator_shape(&p, outputs[i].name);
        GDN_TRY_GOTO(gdni_reserve_output(&b, &s, outputs[i].dtype, outputs[i].to, outputs[i].out),
                     cleanup);
    }
    if (forward && !t.o)
        GDN_TRY_GOTO(gdni_reserve(&b, (size_t)(p.T * p.Hv * p.V) * gdn_dtype_size(real), &t.o),
                     cleanup);
    if (sizes.saved)
        GDN_TRY_GOTO(gdni_reserve(&b, sizes.saved, &t.saved), cleanup);
    t.workspace_size = sizes.forward_workspace > sizes.backward_workspace
                           ? sizes.forward_workspace
                           : sizes.backward_workspace;
    GDN_TRY_GOTO(gdni_reserve(&b, t.workspace_size, &t.workspace), cleanup);
    if (sizes.checked_report)
        GDN_TRY_GOTO(gdni_reserve(&b, sizes.checked_report, &t.checked_report), cleanup);
    if (!b.device)
        memset(t.workspace, 0xff, t.workspace_size);
    t.cu_seqlens = v->cu_seqlens;

    if (forward)
        GDN_TRY_GOTO(gdn_forward(context, &p, &t, NULL), cleanup);
    if (sizes.checked_report && forward)
        GDN_TRY_GOTO(gdn_checked_status(context, &p, &t, NULL), cleanup);
    if (v->do_)
        GDN_TRY_GOTO(gdn_backward(context, &p, &t, NULL), cleanup);
    if (sizes.checked_report && v->do_)
        GDN_TRY_GOTO(gdn_checked_status(context, &p, &t, NULL), cleanup);
    for (size_t i = 0; i < n_outputs; ++i) {
        const gdni_shape s = gdni_operator_shape(&p, outputs[i].name);
        GDN_TRY_GOTO(gdni_download(&b, &s, outputs[i].dtype, *outputs[i].out, outputs[i].to),
                     cleanup);
    }
cleanup:
    gdni_release(&b);
    return status;
}
