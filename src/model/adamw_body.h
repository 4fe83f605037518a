/* Body of adamw.c for one type, see layer/typed.h. */

static GDNI_CLONES void TYPED(adamw_range)(const gdn_adamw *p, const adamw_step *step, int64_t from,
                                           int64_t to) {
    const real scale = (real)step->grad_scale;
    const real beta1 = (real)p->beta1, rest1 = (real)(1 - p->beta1);
    const real beta2 = (real)p->beta2, rest2 = (real)(1 - p->beta2);
    const real c1 = (real)step->correction1, c2 = (real)step->correction2;
    const real lr = (real)step->lr, eps = (real)p->eps, decay = (real)p->weight_decay;
    const real *grads = p->grad;
    real *param = p->param, *ms = p->m, *vs = p->v;
#pragma omp simd
    for (int64_t i = from; i < to; ++i) {
        const real grad = grads[i] * scale;
        const real m = beta1 * ms[i] + rest1 * grad;
        const real v = beta2 * vs[i] + rest2 * grad * grad;
        ms[i] = m;
        vs[i] = v;
        const real root =
            sizeof(real) == sizeof(float) ? (real)sqrtf((float)(v * c2)) : (real)sqrt(v * c2);
        param[i] -= lr * (m * c1 / (root + eps) + decay * param[i]);
    }
    uint16_t *rounded = p->rounded;
    for (int64_t i = from; rounded && i < to; ++i)
        rounded[i] = gdni_float_to_bf16((float)param[i]);
}

static void TYPED(adamw)(const gdn_adamw *p, const adamw_step *step, int32_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t from = 0; from < p->count; from += BLOCK) {
        const int64_t to = gdni_block_end(from, BLOCK, p->count);
        TYPED(adamw_range)(p, step, from, to);
    }
}
