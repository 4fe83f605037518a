/*
 *     h = x + residual,   r = 1 / sqrt(mean(h^2) + eps),   n = r h,   y = weight n
 *     u = dy weight,      dx = r (u - mean(u n) n) + dh,    dweight = sum_t dy_t n_t
 *
 * Backward goes over tiles of tokens: first their rows, whose r it keeps, then columns of the tile
 * for dweight. Sums are in float64 within a tile and have one order for any number of threads.
 */
#include "gdn_model.h"
#include "layer/part.h"
#include "layer/part_ops.h"

enum {
    TOKEN_BLOCK = 32,
    TOKEN_TILE = 1024,
    COLUMN_BLOCK = 64
};

#define GDNI_BODY "model/rmsnorm_body.h"
#include "layer/typed.h"

static gdn_status check_shape(const char *function, const gdn_rmsnorm *p) {
    GDNI_RANGE(T, 0, GDNI_MAX_TOKENS);
    GDNI_RANGE(D, 1, GDNI_MAX_WIDTH);
    return GDN_STATUS_OK;
}

static gdn_status check(const char *function, const gdn_rmsnorm *p, int backward) {
    GDN_TRY(check_shape(function, p));
    GDN_TRY(gdni_part_eps(function, "eps", p->eps));
    GDNI_POINTER(weight);
    if (!backward || !p->residual)
        GDNI_ROWS(x);
    if (p->residual)
        GDNI_ROWS(h);
    if (backward) {
        GDNI_ROWS(dy);
        GDNI_ROWS(dx);
        GDNI_POINTER(dweight);
    } else {
        GDNI_ROWS(y);
    }
    return GDN_STATUS_OK;
}

gdn_status gdn_rmsnorm_forward(const gdn_context *context, const gdn_rmsnorm *part,
                               gdn_stream stream) {
    GDNI_PART_BEGIN(gdn_rmsnorm);
    GDN_TRY(check(__func__, &p, 0));
    if (context->ops->parts)
        return context->ops->parts->rmsnorm(context, &p, 0, stream);
    GDNI_PICK(p.dtype, rmsnorm_forward)(&p, context->threads);
    return GDN_STATUS_OK;
}

gdn_status gdn_rmsnorm_backward(const gdn_context *context, const gdn_rmsnorm *part,
                                gdn_stream stream) {
    GDNI_PART_BEGIN(gdn_rmsnorm);
    GDN_TRY(check(__func__, &p, 1));
    if (context->ops->parts)
        return context->ops->parts->rmsnorm(context, &p, 1, stream);
    GDNI_PICK(p.dtype, rmsnorm_backward)(&p, context->threads);
    return GDN_STATUS_OK;
}

gdn_status gdn_rmsnorm_workspace(const gdn_context *context, const gdn_rmsnorm *part,
                                 size_t *bytes) {
    GDNI_PART_BEGIN(gdn_rmsnorm);
    GDN_TRY(check_shape(__func__, &p));
    GDN_TRY(gdni_part_pointer(__func__, "bytes", bytes));
    *bytes = context->ops->parts ? context->ops->parts->rmsnorm_workspace(context, &p) : 0;
    return GDN_STATUS_OK;
}
