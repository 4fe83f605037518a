/*
 * |grad| in float64: PARTS sums over ranges that depend on count alone, added in their order.
 */
#include "gdn_model.h"
#include "layer/part.h"
#include "layer/part_ops.h"

enum {
    PARTS = 256
};

#define GDNI_BODY "model/grad_norm_body.h"
#include "layer/typed.h"

gdn_status gdn_grad_norm_compute(const gdn_context *context, const gdn_grad_norm *part,
                                 gdn_stream stream) {
    static const char *const function = "gdn_grad_norm_compute";
    GDNI_PART_BEGIN(gdn_grad_norm);
    GDN_TRY(gdni_part_range(function, "count", p.count, 0, INT64_MAX / 16));
    GDNI_REQUIRE(!isnan(p.max_norm), "%s: max_norm is nan, expected a number", function);
    if (p.count > 0)
        GDN_TRY(gdni_part_pointer(function, "grad", p.grad));
    GDN_TRY(gdni_part_pointer(function, "norm", p.norm));
    GDN_TRY(gdni_part_pointer(function, "scale", p.scale));
    if (context->ops->parts)
        return context->ops->parts->grad_norm(context, &p, 0, stream);
    const double norm = sqrt(GDNI_PICK(p.dtype, grad_square)(&p, context->threads));
    *p.norm = norm;
    *p.scale = !isfinite(norm)                         ? (double)NAN
               : p.max_norm <= 0 || norm <= p.max_norm ? 1.0
                                                       : p.max_norm / norm;
    return GDN_STATUS_OK;
}

gdn_status gdn_grad_norm_workspace(const gdn_context *context, const gdn_grad_norm *part,
                                   size_t *bytes) {
    GDNI_PART_BEGIN(gdn_grad_norm);
    GDN_TRY(gdni_part_pointer(__func__, "bytes", bytes));
    *bytes = context->ops->parts ? context->ops->parts->grad_norm_workspace(context, &p) : 0;
    return GDN_STATUS_OK;
}
