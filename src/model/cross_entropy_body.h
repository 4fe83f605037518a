/* Body of cross_entropy.c for one type, see layer/typed.h. */

/* The loss of one token; logits become p, unnormalised, whose sum is returned in total. */
static GDNI_CLONES double TYPED(cross_entropy_row)(real *logits, int64_t vocab, int32_t target,
                                                   double *total) {
    const double wanted = (double)logits[target];
    real top = logits[0];
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < vocab; ++i)
        top = logits[i] > top ? logits[i] : top;
    *total = 0;
    for (int64_t from = 0; from < vocab; from += VOCAB_BLOCK) {
        const int64_t to = gdni_block_end(from, VOCAB_BLOCK, vocab);
        real sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = from; i < to; ++i) {
            logits[i] = TYPED(gdni_exp)(logits[i] - top);
            sum += logits[i];
        }
        *total += (double)sum;
    }
    return log(*total) + (double)top - wanted;
}

static GDNI_CLONES void TYPED(cross_entropy_scale)(real *row, int64_t vocab, real factor) {
    for (int64_t i = 0; i < vocab; ++i)
        row[i] *= factor;
}

/* Losses of a tile's tokens; the logits become dl. */
static void TYPED(cross_entropy_tile)(const gdn_cross_entropy *p, int64_t from, int64_t to,
                                      int64_t count, void *logits, double *losses,
                                      int32_t threads) {
    const int64_t vocab = p->vocab;
    const int gradients = p->dx || p->dweight;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t t = from; t < to; ++t) {
        real *row = (real *)logits + (t - from) * vocab;
        const int32_t target = p->targets[t];
        double total, loss = 0;
        if (target >= 0)
            loss = TYPED(cross_entropy_row)(row, vocab, target, &total);
        losses[t - from] = loss;
        if (p->token_loss)
            ((real *)p->token_loss)[t] = (real)loss;
        if (gradients && target < 0)
            memset(row, 0, vocab * sizeof(real));
        if (gradients && target >= 0) {
            TYPED(cross_entropy_scale)(row, vocab, (real)(1.0 / (total * (double)count)));
            row[target] -= (real)(1.0 / (double)count);
        }
    }
}
