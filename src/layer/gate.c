/*
 *     beta = sigmoid(b),   g = -exp(A_log) softplus(u),   u = a + dt_bias
 *     db = dbeta sigmoid(b) sigmoid(-b),   da = -dg exp(A_log) sigmoid(u)
 *     dA_log = sum_t dg g,   ddt_bias = sum_t da
 *
 * Few elements ([T, H]) and delicate ones: libm throughout. Backward is parallel over groups of
 * heads, which own their sums.
 */
#include "gdn_layer.h"
#include "part.h"
#include "part_ops.h"

enum {
    TOKEN_BLOCK = 256,
    HEAD_GROUP = 8
};

#define GDNI_BODY "layer/gate_body.h"
#include "layer/typed.h"

static gdn_status check_shape(const char *function, const gdn_gate *p) {
    GDNI_RANGE(T, 0, GDNI_MAX_TOKENS);
    GDNI_RANGE(H, 1, GDNI_MAX_HEADS);
    return GDN_STATUS_OK;
}

static gdn_status check(const char *function, const gdn_gate *p, int backward) {
    GDN_TRY(check_shape(function, p));
    GDNI_ROWS(a);
    GDNI_ROWS(b);
    GDNI_POINTER(A_log);
    GDNI_POINTER(dt_bias);
    if (backward) {
        GDNI_ROWS(dg);
        GDNI_ROWS(dbeta);
        GDNI_ROWS(da);
        GDNI_ROWS(db);
        GDNI_POINTER(dA_log);
        GDNI_POINTER(ddt_bias);
    } else {
        GDNI_ROWS(g);
        GDNI_ROWS(beta);
    }
    return GDN_STATUS_OK;
}

gdn_status gdn_gate_forward(const gdn_context *context, const gdn_gate *part, gdn_stream stream) {
    GDNI_PART_BEGIN(gdn_gate);
    GDN_TRY(check(__func__, &p, 0));
    if (context->ops->parts)
        return context->ops->parts->gate(context, &p, 0, stream);
    GDNI_PICK(p.dtype, gate_forward)(&p, context->threads);
    return GDN_STATUS_OK;
}

gdn_status gdn_gate_backward(const gdn_context *context, const gdn_gate *part, gdn_stream stream) {
    GDNI_PART_BEGIN(gdn_gate);
    GDN_TRY(check(__func__, &p, 1));
    if (context->ops->parts)
        return context->ops->parts->gate(context, &p, 1, stream);
    GDNI_PICK(p.dtype, gate_backward)(&p, context->threads);
    return GDN_STATUS_OK;
}

gdn_status gdn_gate_workspace(const gdn_context *context, const gdn_gate *part, size_t *bytes) {
    GDNI_PART_BEGIN(gdn_gate);
    GDN_TRY(check_shape(__func__, &p));
    GDN_TRY(gdni_part_pointer(__func__, "bytes", bytes));
    *bytes = context->ops->parts ? context->ops->parts->gate_workspace(context, &p) : 0;
    return GDN_STATUS_OK;
}
