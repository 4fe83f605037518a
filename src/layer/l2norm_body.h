/* Body of l2norm.c for one type, see typed.h. */

static inline real TYPED(l2norm_root)(const real *x, int64_t K, double eps) {
    real sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < K; ++i)
        sum += x[i] * x[i];
    return (real)(1.0 / sqrt((double)sum + eps));
}

static GDNI_CLONES void TYPED(l2norm_forward_rows)(const gdn_l2norm *p, int64_t from, int64_t to) {
    for (int64_t t = from; t < to; ++t)
        for (int64_t h = 0; h < p->H; ++h) {
            const real *x = (const real *)p->x + t * p->x_stride + h * p->K;
            real *y = (real *)p->y + t * p->y_stride + h * p->K;
            const real r = TYPED(l2norm_root)(x, p->K, p->eps);
            for (int64_t i = 0; i < p->K; ++i)
                y[i] = r * x[i];
        }
}

static GDNI_CLONES void TYPED(l2norm_backward_rows)(const gdn_l2norm *p, int64_t from, int64_t to) {
    for (int64_t t = from; t < to; ++t)
        for (int64_t h = 0; h < p->H; ++h) {
            const real *x = (const real *)p->x + t * p->x_stride + h * p->K;
            const real *dy = (const real *)p->dy + t * p->y_stride + h * p->K;
            real *dx = (real *)p->dx + t * p->x_stride + h * p->K;
            const real r = TYPED(l2norm_root)(x, p->K, p->eps);
            real dot = 0;
#pragma omp simd reduction(+ : dot)
            for (int64_t i = 0; i < p->K; ++i)
                dot += x[i] * dy[i];
            for (int64_t i = 0; i < p->K; ++i)
                dx[i] = r * (dy[i] - r * r * dot * x[i]);
        }
}

static void TYPED(l2norm_forward)(const gdn_l2norm *p, int32_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t from = 0; from < p->T; from += TOKEN_BLOCK) {
        const int64_t to = gdni_block_end(from, TOKEN_BLOCK, p->T);
        TYPED(l2norm_forward_rows)(p, from, to);
    }
}

static void TYPED(l2norm_backward)(const gdn_l2norm *p, int32_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t from = 0; from < p->T; from += TOKEN_BLOCK) {
        const int64_t to = gdni_block_end(from, TOKEN_BLOCK, p->T);
        TYPED(l2norm_backward_rows)(p, from, to);
    }
}
