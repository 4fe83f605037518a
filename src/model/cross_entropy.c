/*
 *     l = x weight^T,   p = softmax(l),   loss = -1/n sum_t log p_t[target_t]
 *     dl_t = (p_t - onehot(target_t)) / n,   dx = dl weight,   dweight = dl^T x
 *
 * n tokens count; dl is 0 for the others. Logits exist for one tile of tokens at a time, in the
 * workspace, where dl replaces them:
 *
 *     token losses  [tile] float64, then logits [tile, vocab] real
 */
#include "gdn_model.h"
#include "layer/part.h"
#include "layer/part_ops.h"
#include "layer/product.h"

#include <inttypes.h>

enum {
    /* Each tile reads weight and updates dweight once; 128 tokens or more of vocabulary 32768
     * make that cheap beside the products, and small vocabularies stay within the cache. */
    TILE_LOGITS = 1 << 22,
    TILE_LOW = 32,
    TILE_HIGH = 512,
    VOCAB_BLOCK = 1024 /* logits that are summed in `real` before float64 takes over */
};

/* Tokens of a full tile. */
static int64_t tile_size(const gdn_cross_entropy *p) {
    int64_t tile = TILE_LOGITS / p->vocab / TILE_LOW * TILE_LOW;
    tile = tile < TILE_LOW ? TILE_LOW : tile > TILE_HIGH ? TILE_HIGH : tile;
    return tile < p->T ? tile : p->T;
}

static size_t workspace_bytes(const gdn_cross_entropy *p) {
    const size_t tile = (size_t)tile_size(p);
    return tile * (sizeof(double) + (size_t)p->vocab * gdn_dtype_size(p->dtype));
}

#define GDNI_BODY "model/cross_entropy_body.h"
#include "layer/typed.h"

static gdn_status check_shape(const char *function, const gdn_cross_entropy *p) {
    GDNI_RANGE(T, 0, INT32_MAX); /* what the matrix product takes */
    GDNI_RANGE(D, 1, GDNI_MAX_WIDTH);
    GDNI_RANGE(vocab, 1, GDNI_MAX_VOCAB);
    return GDN_STATUS_OK;
}

static gdn_status check(const char *function, const gdn_cross_entropy *p) {
    GDN_TRY(check_shape(function, p));
    GDNI_ROWS(x);
    GDNI_POINTER(weight);
    GDNI_ROWS(targets);
    GDNI_POINTER(loss);
    return GDN_STATUS_OK;
}

/* What memory of the host's holds; counts the tokens that have a target. */
static gdn_status check_host(const char *function, const gdn_cross_entropy *p, int64_t *count) {
    GDNI_ROWS(workspace);
    GDNI_REQUIRE(p->workspace_size >= workspace_bytes(p),
                 "%s: workspace_size is %zu, expected at least %zu bytes", function,
                 p->workspace_size, workspace_bytes(p));
    *count = 0;
    for (int64_t t = 0; t < p->T; ++t) {
        if (p->targets[t] < -1 || p->targets[t] >= p->vocab)
            return gdni_fail(GDN_STATUS_BAD_DATA,
                             "%s: targets[%" PRId64 "] is %" PRId32 ", expected -1 to %" PRId32,
                             function, t, p->targets[t], p->vocab - 1);
        *count += p->targets[t] >= 0;
    }
    return GDN_STATUS_OK;
}

gdn_status gdn_cross_entropy_workspace(const gdn_context *context, const gdn_cross_entropy *part,
                                       size_t *bytes) {
    GDNI_PART_BEGIN(gdn_cross_entropy);
    GDN_TRY(check_shape(__func__, &p));
    GDNI_REQUIRE(bytes != NULL, "%s: bytes is NULL", __func__);
    *bytes = context->ops->parts ? context->ops->parts->cross_entropy_workspace(context, &p)
                                 : workspace_bytes(&p);
    return GDN_STATUS_OK;
}

gdn_status gdn_cross_entropy_compute(const gdn_context *context, const gdn_cross_entropy *part,
                                     gdn_stream stream) {
    int64_t count = 0;
    GDNI_PART_BEGIN(gdn_cross_entropy);
    GDN_TRY(check(__func__, &p));
    if (context->ops->parts)
        return context->ops->parts->cross_entropy(context, &p, 0, stream);
    GDN_TRY(check_host(__func__, &p, &count));
    const int64_t tile = tile_size(&p), D = p.D;
    const int64_t row = D * (int64_t)gdn_dtype_size(p.dtype);
    double *losses = p.workspace;
    void *logits = losses + tile;
    double sum = 0;
    int accumulate = p.accumulate != 0;
    gdni_linear_map map = {p.dtype, context->threads, 0, D, p.vocab};
    if (p.T == 0 && p.dweight)
        gdni_linear_dw(&map, NULL, NULL, accumulate, p.dweight);
    for (int64_t from = 0; from < p.T; from += tile) {
        const int64_t to = gdni_block_end(from, tile, p.T);
        const void *x = (const char *)p.x + from * row;
        map.T = to - from;
        gdni_linear_y(&map, x, p.weight, logits);
        GDNI_PICK(p.dtype, cross_entropy_tile)
        (&p, from, to, count, logits, losses, context->threads);
        for (int64_t t = 0; t < to - from; ++t)
            sum += losses[t];
        if (p.dx)
            gdni_linear_dx(&map, logits, p.weight, 0, (char *)p.dx + from * row);
        if (p.dweight)
            gdni_linear_dw(&map, logits, x, accumulate, p.dweight);
        accumulate = 1;
    }
    *p.loss = count ? sum / (double)count : 0.0;
    return GDN_STATUS_OK;
}
