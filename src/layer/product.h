/* The three products of a linear map, for the dtypes of the parts. All dense, row-major. */
#ifndef GDNI_PRODUCT_H
#define GDNI_PRODUCT_H

#include "gdn.h"

/* Rows x features of a linear map y = x w^T: x [T, in], w [out, in], y [T, out]. */
typedef struct gdni_linear_map {
    gdn_dtype dtype;
    int32_t threads;
    int64_t T, in, out;
} gdni_linear_map;

/* y = x w^T */
void gdni_linear_y(const gdni_linear_map *map, const void *x, const void *w, void *y);
/* dx = dy w, or dx += where accumulate */
void gdni_linear_dx(const gdni_linear_map *map, const void *dy, const void *w, int accumulate,
                    void *dx);
/* dw = dy^T x, or dw += where accumulate */
void gdni_linear_dw(const gdni_linear_map *map, const void *dy, const void *x, int accumulate,
                    void *dw);

#endif /* GDNI_PRODUCT_H */
