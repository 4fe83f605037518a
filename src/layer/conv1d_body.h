/* Body of conv1d.c for one type, see typed.h. Rows are taken at the first channel of a tile. */

/* The weights of a tile, tap by tap. */
typedef struct TYPED(conv_taps) {
    real tap[GDNI_MAX_CONV_WIDTH][CHANNEL_TILE];
} TYPED(conv_taps);

static inline void TYPED(conv_load)(const gdn_conv1d *p, int64_t c0, int64_t n,
                                    TYPED(conv_taps) * taps) {
    const real *weight = (const real *)p->weight + c0 * p->width;
    for (int64_t c = 0; c < n; ++c)
        for (int32_t w = 0; w < p->width; ++w)
            taps->tap[w][c] = weight[c * p->width + w];
}

/* The row of token u <= t of the run, which may lie before it: then a row of the halo, or NULL for
 * zeros. */
static inline const real *TYPED(conv_row)(const gdn_conv1d *p, const conv_run *run, int64_t u,
                                          int64_t c0) {
    if (u >= run->begin)
        return (const real *)p->x + u * p->x_stride + c0;
    if (run->begin > 0 || !p->halo)
        return NULL;
    return (const real *)p->halo + (p->width - 1 + u) * p->channels + c0;
}

/* s_t */
static inline void TYPED(conv_sum)(const gdn_conv1d *p, const conv_run *run, int64_t t, int64_t c0,
                                   int64_t n, const TYPED(conv_taps) * taps, real *sum) {
    for (int64_t c = 0; c < n; ++c)
        sum[c] = 0;
    for (int32_t w = 0; w < p->width; ++w) {
        const real *row = TYPED(conv_row)(p, run, t - (p->width - 1) + w, c0);
        if (row)
            for (int64_t c = 0; c < n; ++c)
                sum[c] += taps->tap[w][c] * row[c];
    }
}

static GDNI_CLONES void TYPED(conv_forward_tile)(const gdn_conv1d *p, int64_t from, int64_t to,
                                                 int64_t c0, int64_t n) {
    TYPED(conv_taps) taps;
    real sum[CHANNEL_TILE];
    TYPED(conv_load)(p, c0, n, &taps);
    conv_run run = run_at(p, from);
    for (int64_t t = from; t < to; ++t) {
        real *y = (real *)p->y + t * p->y_stride + c0;
        if (t >= run.end)
            run = run_at(p, t);
        if (run.padding) {
            memset(y, 0, n * sizeof(real));
            continue;
        }
        TYPED(conv_sum)(p, &run, t, c0, n, &taps, sum);
        for (int64_t c = 0; c < n; ++c)
            y[c] = sum[c] * TYPED(gdni_sigmoid)(sum[c]);
    }
}

static void TYPED(conv_forward)(const gdn_conv1d *p, int32_t threads) {
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
    for (int64_t from = 0; from < p->T; from += TOKEN_BLOCK)
        for (int64_t c0 = 0; c0 < p->channels; c0 += CHANNEL_TILE) {
            const int64_t to = gdni_block_end(from, TOKEN_BLOCK, p->T);
            const int64_t n = gdni_block_end(c0, CHANNEL_TILE, p->channels) - c0;
            TYPED(conv_forward_tile)(p, from, to, c0, n);
        }
}

/* The row that takes the gradient of token u, or NULL. */
static inline real *TYPED(conv_gradient_row)(const gdn_conv1d *p, const conv_run *run, int64_t u,
                                             int64_t c0) {
    if (u >= run->begin)
        return (real *)p->dx + u * p->x_stride + c0;
    if (run->begin > 0 || !p->dhalo)
        return NULL;
    return (real *)p->dhalo + (p->width - 1 + u) * p->channels + c0;
}

/* Moves the sums of the last tokens to float64. */
static inline void TYPED(conv_flush)(int32_t width, int64_t n,
                                     real part[GDNI_MAX_CONV_WIDTH][CHANNEL_TILE],
                                     double dweight[GDNI_MAX_CONV_WIDTH][CHANNEL_TILE]) {
    for (int32_t w = 0; w < width; ++w)
        for (int64_t c = 0; c < n; ++c) {
            dweight[w][c] += (double)part[w][c];
            part[w][c] = 0;
        }
}

static GDNI_CLONES void TYPED(conv_backward_tile)(const gdn_conv1d *p, int64_t c0, int64_t n) {
    TYPED(conv_taps) taps;
    double dweight[GDNI_MAX_CONV_WIDTH][CHANNEL_TILE];
    real part[GDNI_MAX_CONV_WIDTH][CHANNEL_TILE]; /* of up to SUM_TOKENS tokens */
    real sum[CHANNEL_TILE], ds[CHANNEL_TILE];
    const int32_t width = p->width;
    conv_run run = {0, 0, 0};
    TYPED(conv_load)(p, c0, n, &taps);
    memset(dweight, 0, width * sizeof(dweight[0]));
    memset(part, 0, width * sizeof(part[0]));
    for (int32_t w = 0; p->dhalo && w < width - 1; ++w)
        memset((real *)p->dhalo + w * (int64_t)p->channels + c0, 0, n * sizeof(real));
    for (int64_t t = 0; t < p->T; ++t) {
        const real *dy = (const real *)p->dy + t * p->y_stride + c0;
        real *dx = (real *)p->dx + t * p->x_stride + c0;
        if (t >= run.end)
            run = run_at(p, t);
        memset(dx, 0, n * sizeof(real));
        if (t % SUM_TOKENS == 0)
            TYPED(conv_flush)(width, n, part, dweight);
        if (run.padding)
            continue;
        TYPED(conv_sum)(p, &run, t, c0, n, &taps, sum);
        for (int64_t c = 0; c < n; ++c) {
            const real gate = TYPED(gdni_sigmoid)(sum[c]);
            ds[c] = dy[c] * gate * (1 + sum[c] * (1 - gate));
        }
        for (int32_t w = 0; w < width; ++w) {
            const int64_t u = t - (width - 1) + w;
            const real *row = TYPED(conv_row)(p, &run, u, c0);
            real *gradient = TYPED(conv_gradient_row)(p, &run, u, c0);
            if (row)
                for (int64_t c = 0; c < n; ++c)
                    part[w][c] += ds[c] * row[c];
            if (gradient)
                for (int64_t c = 0; c < n; ++c)
                    gradient[c] += ds[c] * taps.tap[w][c];
        }
    }
    TYPED(conv_flush)(width, n, part, dweight);
    real *out = (real *)p->dweight + c0 * width;
    for (int64_t c = 0; c < n; ++c)
        for (int32_t w = 0; w < width; ++w)
            out[c * width + w] =
                (real)(dweight[w][c] + (p->accumulate ? (double)out[c * width + w] : 0.0));
}

static void TYPED(conv_backward)(const gdn_conv1d *p, int32_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t c0 = 0; c0 < p->channels; c0 += CHANNEL_TILE) {
        const int64_t n = gdni_block_end(c0, CHANNEL_TILE, p->channels) - c0;
        TYPED(conv_backward_tile)(p, c0, n);
    }
}
