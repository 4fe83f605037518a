/* Body of gate.c for one type, see typed.h. EXP and LOG1P are libm's for `real`. */
#define EXP(x) (sizeof(real) == sizeof(float) ? (real)expf((float)(x)) : (real)exp(x))
#define LOG1P(x) (sizeof(real) == sizeof(float) ? (real)log1pf((float)(x)) : (real)log1p(x))

/* sigmoid(x), and sigmoid(-x) without 1 - sigmoid(x), which cancels. */
static inline void TYPED(gate_sigmoids)(real x, real *plus, real *minus) {
    const real e = EXP(x < 0 ? x : -x);
    *plus = (x < 0 ? e : 1) / (1 + e);
    *minus = (x < 0 ? 1 : e) / (1 + e);
}

static inline real TYPED(gate_softplus)(real x) {
    return (x > 0 ? x : 0) + LOG1P(EXP(x > 0 ? -x : x));
}

static void TYPED(gate_forward)(const gdn_gate *p, int32_t threads) {
    const real *a = p->a, *b = p->b, *A_log = p->A_log, *dt_bias = p->dt_bias;
    real *g = p->g, *beta = p->beta;
#pragma omp parallel for num_threads(threads) schedule(static, TOKEN_BLOCK)
    for (int64_t t = 0; t < p->T; ++t)
        for (int64_t h = 0; h < p->H; ++h) {
            const int64_t i = t * p->H + h;
            real minus;
            TYPED(gate_sigmoids)(b[i], &beta[i], &minus);
            g[i] = -EXP(A_log[h]) * TYPED(gate_softplus)(a[i] + dt_bias[h]);
        }
}

static void TYPED(gate_backward_heads)(const gdn_gate *p, int64_t from, int64_t to) {
    const real *a = p->a, *b = p->b, *A_log = p->A_log, *dt_bias = p->dt_bias;
    const real *dg = p->dg, *dbeta = p->dbeta;
    real *da = p->da, *db = p->db, *dA_log = p->dA_log, *ddt_bias = p->ddt_bias;
    double sum_A[HEAD_GROUP] = {0}, sum_dt[HEAD_GROUP] = {0};
    real decay[HEAD_GROUP];
    for (int64_t h = from; h < to; ++h)
        decay[h - from] = -EXP(A_log[h]);
    for (int64_t t = 0; t < p->T; ++t)
        for (int64_t h = from; h < to; ++h) {
            const int64_t i = t * p->H + h;
            const real u = a[i] + dt_bias[h];
            real plus, minus;
            TYPED(gate_sigmoids)(b[i], &plus, &minus);
            db[i] = dbeta[i] * plus * minus;
            TYPED(gate_sigmoids)(u, &plus, &minus);
            da[i] = dg[i] * decay[h - from] * plus;
            sum_dt[h - from] += (double)da[i];
            sum_A[h - from] += (double)(dg[i] * decay[h - from] * TYPED(gate_softplus)(u));
        }
    for (int64_t h = from; h < to; ++h) {
        dA_log[h] = (real)(sum_A[h - from] + (p->accumulate ? (double)dA_log[h] : 0.0));
        ddt_bias[h] = (real)(sum_dt[h - from] + (p->accumulate ? (double)ddt_bias[h] : 0.0));
    }
}

static void TYPED(gate_backward)(const gdn_gate *p, int32_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t from = 0; from < p->H; from += HEAD_GROUP) {
        const int64_t to = gdni_block_end(from, HEAD_GROUP, p->H);
        TYPED(gate_backward_heads)(p, from, to);
    }
}

#undef EXP
#undef LOG1P
