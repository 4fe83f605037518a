/* Body of rmsnorm.c for one type, see layer/typed.h. */

static inline real TYPED(rmsnorm_root)(const real *h, int64_t D, double eps) {
    real sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < D; ++i)
        sum += h[i] * h[i];
    return (real)(1.0 / sqrt((double)sum / (double)D + eps));
}

static GDNI_CLONES void TYPED(rmsnorm_forward_rows)(const gdn_rmsnorm *p, int64_t from,
                                                    int64_t to) {
    const int64_t D = p->D;
    const real *weight = p->weight;
    for (int64_t t = from; t < to; ++t) {
        const real *h = (const real *)p->x + t * D;
        real *y = (real *)p->y + t * D;
        if (p->residual) {
            const real *residual = (const real *)p->residual + t * D;
            real *sum = (real *)p->h + t * D;
            for (int64_t i = 0; i < D; ++i)
                sum[i] = h[i] + residual[i];
            h = sum;
        }
        const real r = TYPED(rmsnorm_root)(h, D, p->eps);
        for (int64_t i = 0; i < D; ++i)
            y[i] = weight[i] * (r * h[i]);
    }
}

static void TYPED(rmsnorm_forward)(const gdn_rmsnorm *p, int32_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t from = 0; from < p->T; from += TOKEN_BLOCK) {
        const int64_t to = gdni_block_end(from, TOKEN_BLOCK, p->T);
        TYPED(rmsnorm_forward_rows)(p, from, to);
    }
}

/* dx of these tokens; keeps their r. */
static GDNI_CLONES void TYPED(rmsnorm_backward_rows)(const gdn_rmsnorm *p, int64_t from, int64_t to,
                                                     real *roots) {
    const int64_t D = p->D;
    const real *weight = p->weight;
    for (int64_t t = from; t < to; ++t) {
        const real *h = (const real *)(p->residual ? p->h : p->x) + t * D;
        const real *dy = (const real *)p->dy + t * D;
        const real *dh = p->dh ? (const real *)p->dh + t * D : NULL;
        real *dx = (real *)p->dx + t * D;
        const real r = TYPED(rmsnorm_root)(h, D, p->eps);
        real sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < D; ++i)
            sum += dy[i] * weight[i] * h[i];
        const real slope = r * r * sum / (real)D;
        if (dh)
            for (int64_t i = 0; i < D; ++i)
                dx[i] = r * (dy[i] * weight[i] - slope * h[i]) + dh[i];
        else
            for (int64_t i = 0; i < D; ++i)
                dx[i] = r * (dy[i] * weight[i] - slope * h[i]);
        roots[t - from] = r;
    }
}

static GDNI_CLONES void TYPED(rmsnorm_backward_columns)(const gdn_rmsnorm *p, int64_t from,
                                                        int64_t to, const real *roots,
                                                        int64_t column, int64_t n) {
    double sum[COLUMN_BLOCK] = {0};
    real *dweight = (real *)p->dweight + column;
    for (int64_t t = from; t < to; ++t) {
        const real *h = (const real *)(p->residual ? p->h : p->x) + t * p->D + column;
        const real *dy = (const real *)p->dy + t * p->D + column;
        const real r = roots[t - from];
        for (int64_t i = 0; i < n; ++i)
            sum[i] += (double)(dy[i] * (r * h[i]));
    }
    for (int64_t i = 0; i < n; ++i)
        dweight[i] = (real)((double)dweight[i] + sum[i]);
}

static void TYPED(rmsnorm_backward)(const gdn_rmsnorm *p, int32_t threads) {
    real roots[TOKEN_TILE];
    if (!p->accumulate)
        memset(p->dweight, 0, p->D * sizeof(real));
    for (int64_t tile = 0; tile < p->T; tile += TOKEN_TILE) {
        const int64_t end = gdni_block_end(tile, TOKEN_TILE, p->T);
#pragma omp parallel num_threads(threads)
        {
#pragma omp for schedule(static)
            for (int64_t from = tile; from < end; from += TOKEN_BLOCK) {
                const int64_t to = gdni_block_end(from, TOKEN_BLOCK, end);
                TYPED(rmsnorm_backward_rows)(p, from, to, roots + (from - tile));
            }
#pragma omp for schedule(static)
            for (int64_t column = 0; column < p->D; column += COLUMN_BLOCK) {
                const int64_t n = gdni_block_end(column, COLUMN_BLOCK, p->D) - column;
                TYPED(rmsnorm_backward_columns)(p, tile, end, roots, column, n);
            }
        }
    }
}
