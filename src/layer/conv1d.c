/*
 * Causal depthwise convolution over time, then SiLU.
 *
 *     s_t = sum_w weight[w] x_{t - (W-1) + w},   y_t = SiLU(s_t)
 *     ds_t = dy_t SiLU'(s_t)
 *     dx_{t - (W-1) + w} += weight[w] ds_t,   dweight[w] += ds_t x_{t - (W-1) + w}
 *
 * Forward is parallel over blocks of tokens, backward over tiles of channels, which own their
 * dweight: no sum depends on the number of threads. s is computed again in backward.
 */
#include "gdn_layer.h"
#include "part.h"
#include "part_ops.h"

enum {
    CHANNEL_TILE = 128,
    TOKEN_BLOCK = 256,
    SUM_TOKENS = 16 /* whose part of dweight is summed in `real` before float64 takes over */
};

/* The tokens [begin, end) of one sequence, or of the padding behind the last one. */
typedef struct conv_run {
    int64_t begin, end;
    int padding;
} conv_run;

static conv_run run_at(const gdn_conv1d *p, int64_t t) {
    if (!p->cu_seqlens) {
        const int64_t length = p->T / p->N;
        return (conv_run){t / length * length, (t / length + 1) * length, 0};
    }
    if (t >= p->cu_seqlens[p->N])
        return (conv_run){p->cu_seqlens[p->N], p->T, 1};
    int64_t low = 0, high = p->N; /* cu[low] <= t < cu[high] */
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (p->cu_seqlens[middle] <= t)
            low = middle;
        else
            high = middle;
    }
    return (conv_run){p->cu_seqlens[low], p->cu_seqlens[high], 0};
}

#define GDNI_BODY "layer/conv1d_body.h"
#include "layer/typed.h"

static gdn_status check_shape(const char *function, const gdn_conv1d *p) {
    GDNI_RANGE(T, 0, GDNI_MAX_TOKENS);
    GDNI_RANGE(N, 1, GDNI_MAX_TOKENS);
    GDNI_RANGE(channels, 1, GDNI_MAX_WIDTH);
    GDNI_RANGE(width, 1, GDNI_MAX_CONV_WIDTH);
    return GDN_STATUS_OK;
}

static gdn_status check(const char *function, const gdn_context *context, gdn_conv1d *p,
                        int backward) {
    GDN_TRY(check_shape(function, p));
    GDN_TRY(gdni_part_stride(function, "x_stride", &p->x_stride, p->channels));
    GDN_TRY(gdni_part_stride(function, "y_stride", &p->y_stride, p->channels));
    GDNI_ROWS(x);
    GDNI_POINTER(weight);
    if (backward) {
        GDNI_ROWS(dy);
        GDNI_ROWS(dx);
        GDNI_POINTER(dweight);
    } else {
        GDNI_ROWS(y);
    }
    if (context->ops->parts && p->cu_seqlens)
        return GDN_STATUS_OK; /* on the device */
    return gdni_check_cu_seqlens(function, p->cu_seqlens, p->N, p->T);
}

gdn_status gdn_conv1d_forward(const gdn_context *context, const gdn_conv1d *part,
                              gdn_stream stream) {
    GDNI_PART_BEGIN(gdn_conv1d);
    GDN_TRY(check(__func__, context, &p, 0));
    if (context->ops->parts)
        return context->ops->parts->conv1d(context, &p, 0, stream);
    GDNI_PICK(p.dtype, conv_forward)(&p, context->threads);
    return GDN_STATUS_OK;
}

gdn_status gdn_conv1d_backward(const gdn_context *context, const gdn_conv1d *part,
                               gdn_stream stream) {
    GDNI_PART_BEGIN(gdn_conv1d);
    GDN_TRY(check(__func__, context, &p, 1));
    if (context->ops->parts)
        return context->ops->parts->conv1d(context, &p, 1, stream);
    GDNI_PICK(p.dtype, conv_backward)(&p, context->threads);
    return GDN_STATUS_OK;
}

gdn_status gdn_conv1d_workspace(const gdn_context *context, const gdn_conv1d *part, size_t *bytes) {
    GDNI_PART_BEGIN(gdn_conv1d);
    GDN_TRY(check_shape(__func__, &p));
    GDN_TRY(gdni_part_pointer(__func__, "bytes", bytes));
    *bytes = context->ops->parts ? context->ops->parts->conv1d_workspace(context, &p) : 0;
    return GDN_STATUS_OK;
}
