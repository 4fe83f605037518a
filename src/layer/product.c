#include "product.h"

#include "cpu/gemm.h"

#include <string.h>

static void product(const gdni_linear_map *map, int trans_a, int trans_b, int64_t m, int64_t n,
                    int64_t k, const void *a, const void *b, int accumulate, void *c) {
    const int64_t lda = trans_a ? m : k, ldb = trans_b ? k : n;
    if (m == 0)
        return;
    if (k == 0) {
        if (!accumulate)
            memset(c, 0, (size_t)(m * n) * gdn_dtype_size(map->dtype));
        return;
    }
    if (map->dtype == GDN_DTYPE_FP64)
        gdni_dgemm(map->threads, trans_a, trans_b, m, n, k, 1.0, a, lda, b, ldb, accumulate, c, n);
    else
        gdni_sgemm(map->threads, trans_a, trans_b, m, n, k, 1.0f, a, lda, b, ldb, accumulate, c, n);
}

void gdni_linear_y(const gdni_linear_map *map, const void *x, const void *w, void *y) {
    product(map, 0, 1, map->T, map->out, map->in, x, w, 0, y);
}

void gdni_linear_dx(const gdni_linear_map *map, const void *dy, const void *w, int accumulate,
                    void *dx) {
    product(map, 0, 0, map->T, map->in, map->out, dy, w, accumulate, dx);
}

void gdni_linear_dw(const gdni_linear_map *map, const void *dy, const void *x, int accumulate,
                    void *dw) {
    product(map, 1, 0, map->out, map->in, map->T, dy, x, accumulate, dw);
}
