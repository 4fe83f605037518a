/* Body of swiglu.c for one type, see layer/typed.h. */

static GDNI_CLONES void TYPED(swiglu_forward_rows)(const gdn_swiglu *p, int64_t from, int64_t to) {
    const int64_t F = p->F;
    for (int64_t t = from; t < to; ++t) {
        const real *a = (const real *)p->x + t * 2 * F, *b = a + F;
        real *y = (real *)p->y + t * F;
        for (int64_t i = 0; i < F; ++i)
            y[i] = a[i] * TYPED(gdni_sigmoid)(a[i]) * b[i];
    }
}

static GDNI_CLONES void TYPED(swiglu_backward_rows)(const gdn_swiglu *p, int64_t from, int64_t to) {
    const int64_t F = p->F;
    for (int64_t t = from; t < to; ++t) {
        const real *a = (const real *)p->x + t * 2 * F, *b = a + F;
        const real *dy = (const real *)p->dy + t * F;
        real *da = (real *)p->dx + t * 2 * F, *db = da + F;
        for (int64_t i = 0; i < F; ++i) {
            const real gate = TYPED(gdni_sigmoid)(a[i]), ai = a[i], bi = b[i];
            da[i] = dy[i] * bi * gate * (1 + ai * (1 - gate));
            db[i] = dy[i] * ai * gate;
        }
    }
}

static void TYPED(swiglu_forward)(const gdn_swiglu *p, int32_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t from = 0; from < p->T; from += TOKEN_BLOCK) {
        const int64_t to = gdni_block_end(from, TOKEN_BLOCK, p->T);
        TYPED(swiglu_forward_rows)(p, from, to);
    }
}

static void TYPED(swiglu_backward)(const gdn_swiglu *p, int32_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t from = 0; from < p->T; from += TOKEN_BLOCK) {
        const int64_t to = gdni_block_end(from, TOKEN_BLOCK, p->T);
        TYPED(swiglu_backward_rows)(p, from, to);
    }
}
