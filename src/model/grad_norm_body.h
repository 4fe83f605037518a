/* Body of grad_norm.c for one type, see layer/typed.h. */

static GDNI_CLONES double TYPED(grad_square_range)(const real *grad, int64_t from, int64_t to) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = from; i < to; ++i)
        sum += (double)grad[i] * (double)grad[i];
    return sum;
}

static double TYPED(grad_square)(const gdn_grad_norm *p, int32_t threads) {
    double part[PARTS], sum = 0;
    const int64_t size = (p->count + PARTS - 1) / PARTS;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < PARTS; ++i) {
        const int64_t from = gdni_block_end(0, i * size, p->count);
        part[i] = TYPED(grad_square_range)(p->grad, from, gdni_block_end(from, size, p->count));
    }
    for (int64_t i = 0; i < PARTS; ++i)
        sum += part[i];
    return sum;
}
