/*
 * y = SiLU(a) b,   da = dy b SiLU'(a),   db = dy SiLU(a),   where a row of x is [a, b].
 */
#include "gdn_model.h"
#include "layer/part.h"
#include "layer/part_ops.h"

enum {
    TOKEN_BLOCK = 32
};

#define GDNI_BODY "model/swiglu_body.h"
#include "layer/typed.h"

static gdn_status check(const char *function, const gdn_swiglu *p, int backward) {
    GDNI_RANGE(T, 0, GDNI_MAX_TOKENS);
    GDNI_RANGE(F, 1, GDNI_MAX_WIDTH);
    GDNI_ROWS(x);
    if (backward) {
        GDNI_ROWS(dy);
        GDNI_ROWS(dx);
    } else {
        GDNI_ROWS(y);
    }
    return GDN_STATUS_OK;
}

gdn_status gdn_swiglu_forward(const gdn_context *context, const gdn_swiglu *part,
                              gdn_stream stream) {
    GDNI_PART_BEGIN(gdn_swiglu);
    GDN_TRY(check(__func__, &p, 0));
    if (context->ops->parts)
        return context->ops->parts->swiglu(context, &p, 0, stream);
    GDNI_PICK(p.dtype, swiglu_forward)(&p, context->threads);
    return GDN_STATUS_OK;
}

gdn_status gdn_swiglu_backward(const gdn_context *context, const gdn_swiglu *part,
                               gdn_stream stream) {
    GDNI_PART_BEGIN(gdn_swiglu);
    GDN_TRY(check(__func__, &p, 1));
    if (context->ops->parts)
        return context->ops->parts->swiglu(context, &p, 1, stream);
    GDNI_PICK(p.dtype, swiglu_backward)(&p, context->threads);
    return GDN_STATUS_OK;
}
