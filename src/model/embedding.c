/*
 * y_t = weight[tokens_t],   dweight[i] = sum of dy_t over the tokens t that are i.
 *
 * Backward is parallel over columns; each adds its tokens in their order.
 */
#include "gdn_model.h"
#include "layer/part.h"
#include "layer/part_ops.h"

#include <inttypes.h>

enum {
    COLUMN_BLOCK = 64
};

#define GDNI_BODY "model/embedding_body.h"
#include "layer/typed.h"

static gdn_status check_shape(const char *function, const gdn_embedding *p) {
    GDNI_RANGE(T, 0, GDNI_MAX_TOKENS);
    GDNI_RANGE(vocab, 1, GDNI_MAX_VOCAB);
    GDNI_RANGE(D, 1, GDNI_MAX_WIDTH);
    return GDN_STATUS_OK;
}

static gdn_status check(const char *function, const gdn_context *context, const gdn_embedding *p,
                        int backward) {
    GDN_TRY(check_shape(function, p));
    GDNI_ROWS(tokens);
    if (backward) {
        GDNI_ROWS(dy);
        GDNI_POINTER(dweight);
    } else {
        GDNI_POINTER(weight);
        GDNI_ROWS(y);
    }
    for (int64_t t = 0; !context->ops->parts && t < p->T; ++t)
        if (p->tokens[t] < 0 || p->tokens[t] >= p->vocab)
            return gdni_fail(GDN_STATUS_BAD_DATA,
                             "%s: tokens[%" PRId64 "] is %" PRId32 ", expected 0 to %" PRId32,
                             function, t, p->tokens[t], p->vocab - 1);
    return GDN_STATUS_OK;
}

gdn_status gdn_embedding_forward(const gdn_context *context, const gdn_embedding *part,
                                 gdn_stream stream) {
    GDNI_PART_BEGIN(gdn_embedding);
    GDN_TRY(check(__func__, context, &p, 0));
    if (context->ops->parts)
        return context->ops->parts->embedding(context, &p, 0, stream);
    GDNI_PICK(p.dtype, embedding_forward)(&p, context->threads);
    return GDN_STATUS_OK;
}

gdn_status gdn_embedding_backward(const gdn_context *context, const gdn_embedding *part,
                                  gdn_stream stream) {
    GDNI_PART_BEGIN(gdn_embedding);
    GDN_TRY(check(__func__, context, &p, 1));
    if (context->ops->parts)
        return context->ops->parts->embedding(context, &p, 1, stream);
    GDNI_PICK(p.dtype, embedding_backward)(&p, context->threads);
    return GDN_STATUS_OK;
}

gdn_status gdn_embedding_workspace(const gdn_context *context, const gdn_embedding *part,
                                   size_t *bytes) {
    GDNI_PART_BEGIN(gdn_embedding);
    GDN_TRY(check_shape(__func__, &p));
    GDN_TRY(gdni_part_pointer(__func__, "bytes", bytes));
    *bytes = context->ops->parts ? context->ops->parts->embedding_workspace(context, &p) : 0;
    return GDN_STATUS_OK;
}
