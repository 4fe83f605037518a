/*
 * r = 1 / sqrt(|x|^2 + eps),   y = r x,   dx = r (dy - r^2 <x, dy> x), one row a head.
 */
#include "gdn_layer.h"
#include "part.h"
#include "part_ops.h"

enum {
    TOKEN_BLOCK = 64
};

#define GDNI_BODY "layer/l2norm_body.h"
#include "layer/typed.h"

static gdn_status check(const char *function, gdn_l2norm *p, int backward) {
    GDNI_RANGE(T, 0, GDNI_MAX_TOKENS);
    GDNI_RANGE(H, 1, GDNI_MAX_HEADS);
    GDNI_RANGE(K, 1, GDNI_MAX_HEAD_DIM);
    GDN_TRY(gdni_part_eps(function, "eps", p->eps));
    GDN_TRY(gdni_part_stride(function, "x_stride", &p->x_stride, (int64_t)p->H * p->K));
    GDN_TRY(gdni_part_stride(function, "y_stride", &p->y_stride, (int64_t)p->H * p->K));
    GDNI_ROWS(x);
    if (backward) {
        GDNI_ROWS(dy);
        GDNI_ROWS(dx);
    } else {
        GDNI_ROWS(y);
    }
    return GDN_STATUS_OK;
}

gdn_status gdn_l2norm_forward(const gdn_context *context, const gdn_l2norm *part,
                              gdn_stream stream) {
    GDNI_PART_BEGIN(gdn_l2norm);
    GDN_TRY(check(__func__, &p, 0));
    if (context->ops->parts)
        return context->ops->parts->l2norm(context, &p, 0, stream);
    GDNI_PICK(p.dtype, l2norm_forward)(&p, context->threads);
    return GDN_STATUS_OK;
}

gdn_status gdn_l2norm_backward(const gdn_context *context, const gdn_l2norm *part,
                               gdn_stream stream) {
    GDNI_PART_BEGIN(gdn_l2norm);
    GDN_TRY(check(__func__, &p, 1));
    if (context->ops->parts)
        return context->ops->parts->l2norm(context, &p, 1, stream);
    GDNI_PICK(p.dtype, l2norm_backward)(&p, context->threads);
    return GDN_STATUS_OK;
}
