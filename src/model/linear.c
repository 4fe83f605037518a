#include "gdn_model.h"
#include "layer/part.h"
#include "layer/part_ops.h"
#include "layer/product.h"

static gdn_status check_shape(const char *function, const gdn_linear *p) {
    GDNI_RANGE(T, 0, INT32_MAX); /* what the matrix product takes */
    GDNI_RANGE(in, 1, GDNI_MAX_WIDTH);
    GDNI_RANGE(out, 1, INT32_MAX);
    return GDN_STATUS_OK;
}

static gdn_status check(const char *function, const gdn_linear *p, int backward) {
    GDN_TRY(check_shape(function, p));
    if (backward)
        GDNI_ROWS(dy);
    else
        GDNI_ROWS(y);
    if (!backward || p->dweight)
        GDNI_ROWS(x);
    if (!backward || p->dx)
        GDNI_POINTER(weight);
    return GDN_STATUS_OK;
}

gdn_status gdn_linear_forward(const gdn_context *context, const gdn_linear *part,
                              gdn_stream stream) {
    GDNI_PART_BEGIN(gdn_linear);
    GDN_TRY(check(__func__, &p, 0));
    if (context->ops->parts)
        return context->ops->parts->linear(context, &p, 0, stream);
    const gdni_linear_map map = {p.dtype, context->threads, p.T, p.in, p.out};
    gdni_linear_y(&map, p.x, p.weight, p.y);
    return GDN_STATUS_OK;
}

gdn_status gdn_linear_backward(const gdn_context *context, const gdn_linear *part,
                               gdn_stream stream) {
    GDNI_PART_BEGIN(gdn_linear);
    GDN_TRY(check(__func__, &p, 1));
    if (context->ops->parts)
        return context->ops->parts->linear(context, &p, 1, stream);
    const gdni_linear_map map = {p.dtype, context->threads, p.T, p.in, p.out};
    if (p.dx)
        gdni_linear_dx(&map, p.dy, p.weight, p.accumulate_dx != 0, p.dx);
    if (p.dweight)
        gdni_linear_dw(&map, p.dy, p.x, p.accumulate != 0, p.dweight);
    return GDN_STATUS_OK;
}

gdn_status gdn_linear_workspace(const gdn_context *context, const gdn_linear *part, size_t *bytes) {
    GDNI_PART_BEGIN(gdn_linear);
    GDN_TRY(check_shape(__func__, &p));
    GDN_TRY(gdni_part_pointer(__func__, "bytes", bytes));
    *bytes = context->ops->parts ? context->ops->parts->linear_workspace(context, &p) : 0;
    return GDN_STATUS_OK;
}
