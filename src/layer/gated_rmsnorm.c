/*
 *     r = 1 / sqrt(mean(x^2) + eps),   n = r x,   y = weight n SiLU(z)
 *     u = dy weight SiLU(z),           dx = r (u - mean(u n) n)
 *     dz = dy weight n SiLU'(z),       dweight = sum dy n SiLU(z)
 *
 * One row is one head of one token. dweight is summed in float64 over blocks of rows, and the sums
 * of the blocks in their order: the same bits for any number of threads.
 */
#include "gdn_layer.h"
#include "part.h"
#include "part_ops.h"

enum {
    ROW_BLOCK = 128,
    BLOCKS = 32 /* whose sums are kept until they are added up */
};

#define GDNI_BODY "layer/gated_rmsnorm_body.h"
#include "layer/typed.h"

static gdn_status check_shape(const char *function, const gdn_gated_rmsnorm *p) {
    GDNI_RANGE(T, 0, GDNI_MAX_TOKENS);
    GDNI_RANGE(H, 1, GDNI_MAX_HEADS);
    GDNI_RANGE(V, 1, GDNI_MAX_HEAD_DIM);
    return GDN_STATUS_OK;
}

static gdn_status check(const char *function, const gdn_gated_rmsnorm *p, int backward) {
    GDN_TRY(check_shape(function, p));
    GDN_TRY(gdni_part_eps(function, "eps", p->eps));
    GDNI_ROWS(x);
    GDNI_ROWS(z);
    GDNI_POINTER(weight);
    if (backward) {
        GDNI_ROWS(dy);
        GDNI_ROWS(dx);
        GDNI_ROWS(dz);
        GDNI_POINTER(dweight);
    } else {
        GDNI_ROWS(y);
    }
    return GDN_STATUS_OK;
}

gdn_status gdn_gated_rmsnorm_forward(const gdn_context *context, const gdn_gated_rmsnorm *part,
                                     gdn_stream stream) {
    GDNI_PART_BEGIN(gdn_gated_rmsnorm);
    GDN_TRY(check(__func__, &p, 0));
    if (context->ops->parts)
        return context->ops->parts->gated_rmsnorm(context, &p, 0, stream);
    GDNI_PICK(p.dtype, gated_rmsnorm_forward)(&p, context->threads);
    return GDN_STATUS_OK;
}

gdn_status gdn_gated_rmsnorm_backward(const gdn_context *context, const gdn_gated_rmsnorm *part,
                                      gdn_stream stream) {
    GDNI_PART_BEGIN(gdn_gated_rmsnorm);
    GDN_TRY(check(__func__, &p, 1));
    if (context->ops->parts)
        return context->ops->parts->gated_rmsnorm(context, &p, 1, stream);
    GDNI_PICK(p.dtype, gated_rmsnorm_backward)(&p, context->threads);
    return GDN_STATUS_OK;
}

gdn_status gdn_gated_rmsnorm_workspace(const gdn_context *context, const gdn_gated_rmsnorm *part,
                                       size_t *bytes) {
    GDNI_PART_BEGIN(gdn_gated_rmsnorm);
    GDN_TRY(check_shape(__func__, &p));
    GDN_TRY(gdni_part_pointer(__func__, "bytes", bytes));
    *bytes = context->ops->parts ? context->ops->parts->gated_rmsnorm_workspace(context, &p) : 0;
    return GDN_STATUS_OK;
}
