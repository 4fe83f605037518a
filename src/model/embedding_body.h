/* Body of embedding.c for one type, see layer/typed.h. */

static void TYPED(embedding_forward)(const gdn_embedding *p, int32_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t t = 0; t < p->T; ++t)
        memcpy((real *)p->y + t * p->D, (const real *)p->weight + p->tokens[t] * (int64_t)p->D,
               p->D * sizeof(real));
}

static void TYPED(embedding_backward_columns)(const gdn_embedding *p, int64_t from, int64_t to) {
    if (!p->accumulate)
        for (int64_t row = 0; row < p->vocab; ++row)
            memset((real *)p->dweight + row * p->D + from, 0, (to - from) * sizeof(real));
    for (int64_t t = 0; t < p->T; ++t) {
        const real *dy = (const real *)p->dy + t * p->D;
        real *dweight = (real *)p->dweight + p->tokens[t] * (int64_t)p->D;
        for (int64_t i = from; i < to; ++i)
            dweight[i] += dy[i];
    }
}

static void TYPED(embedding_backward)(const gdn_embedding *p, int32_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t from = 0; from < p->D; from += COLUMN_BLOCK) {
        const int64_t to = gdni_block_end(from, COLUMN_BLOCK, p->D);
        TYPED(embedding_backward_columns)(p, from, to);
    }
}
