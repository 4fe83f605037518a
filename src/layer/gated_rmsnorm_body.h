/* Body of gated_rmsnorm.c for one type, see typed.h. */

static inline real TYPED(gated_rmsnorm_root)(const real *x, int64_t V, double eps) {
    real sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < V; ++i)
        sum += x[i] * x[i];
    return (real)(1.0 / sqrt((double)sum / (double)V + eps));
}

static GDNI_CLONES void TYPED(gated_rmsnorm_forward_rows)(const gdn_gated_rmsnorm *p, int64_t from,
                                                          int64_t to) {
    const int64_t V = p->V;
    const real *weight = p->weight;
    for (int64_t row = from; row < to; ++row) {
        const real *x = (const real *)p->x + row * V, *z = (const real *)p->z + row * V;
        real *y = (real *)p->y + row * V;
        const real r = TYPED(gated_rmsnorm_root)(x, V, p->eps);
        for (int64_t i = 0; i < V; ++i)
            y[i] = weight[i] * (r * x[i]) * (z[i] * TYPED(gdni_sigmoid)(z[i]));
    }
}

static void TYPED(gated_rmsnorm_forward)(const gdn_gated_rmsnorm *p, int32_t threads) {
    const int64_t rows = p->T * p->H;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t from = 0; from < rows; from += ROW_BLOCK) {
        const int64_t to = gdni_block_end(from, ROW_BLOCK, rows);
        TYPED(gated_rmsnorm_forward_rows)(p, from, to);
    }
}

/* Overwrites dweight [V] with the sum over these rows. */
static GDNI_CLONES void TYPED(gated_rmsnorm_backward_rows)(const gdn_gated_rmsnorm *p, int64_t from,
                                                           int64_t to, double *dweight) {
    const int64_t V = p->V;
    const real *weight = p->weight;
    memset(dweight, 0, V * sizeof(double));
    for (int64_t row = from; row < to; ++row) {
        const real *x = (const real *)p->x + row * V, *z = (const real *)p->z + row * V;
        const real *dy = (const real *)p->dy + row * V;
        real *dx = (real *)p->dx + row * V, *dz = (real *)p->dz + row * V;
        const real r = TYPED(gated_rmsnorm_root)(x, V, p->eps);
        real sum = 0, u[GDNI_MAX_HEAD_DIM];
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < V; ++i) {
            const real n = r * x[i], gate = TYPED(gdni_sigmoid)(z[i]), silu = z[i] * gate;
            u[i] = dy[i] * weight[i] * silu;
            sum += u[i] * n;
            dz[i] = dy[i] * weight[i] * n * gate * (1 + z[i] * (1 - gate));
            dweight[i] += (double)(dy[i] * n * silu);
        }
        const real mean = sum / (real)V;
        for (int64_t i = 0; i < V; ++i)
            dx[i] = r * (u[i] - mean * (r * x[i]));
    }
}

static void TYPED(gated_rmsnorm_backward)(const gdn_gated_rmsnorm *p, int32_t threads) {
    double total[GDNI_MAX_HEAD_DIM] = {0}, partial[BLOCKS][GDNI_MAX_HEAD_DIM];
    const int64_t rows = p->T * p->H;
    real *dweight = p->dweight;
    for (int64_t group = 0; group < rows; group += BLOCKS * ROW_BLOCK) {
        const int64_t end = gdni_block_end(group, BLOCKS * ROW_BLOCK, rows);
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t from = group; from < end; from += ROW_BLOCK) {
            const int64_t to = gdni_block_end(from, ROW_BLOCK, end);
            TYPED(gated_rmsnorm_backward_rows)(p, from, to, partial[(from - group) / ROW_BLOCK]);
        }
        for (int64_t block = 0; block * ROW_BLOCK < end - group; ++block)
            for (int64_t i = 0; i < p->V; ++i)
                total[i] += partial[block][i];
    }
    for (int64_t i = 0; i < p->V; ++i)
        dweight[i] = (real)(total[i] + (p->accumulate ? (double)dweight[i] : 0.0));
}
