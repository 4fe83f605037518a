/* Inputs drawn on the device, and questions about its memory: for tests too large for the host. */
#ifndef GDN_TEST_DEVICE_DATA_H
#define GDN_TEST_DEVICE_DATA_H

#include "gdn.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum device_draw {
    DRAW_NORMAL,     /* size * randn */
    DRAW_UNIT,       /* rows of length `size` */
    DRAW_CORRELATED, /* the same, all close to one direction a head: cosines of 0.96 */
    DRAW_RELATED,    /* of 0.5 */
    DRAW_GATE,       /* -size * softplus(randn) */
    DRAW_GATE_MIXED, /* -A softplus(randn), A from 0.001 to 16 over the heads */
    DRAW_SATURATING, /* every tenth token forgets everything */
    DRAW_BETA,       /* sigmoid(randn) */
    DRAW_BETA_EDGES, /* every third token 0, every third 1 */
    DRAW_CONSTANT    /* size */
} device_draw;

/* [rows, heads, dim], dense. Numbers depend on the seed and the place alone. */
typedef struct device_tensor {
    void *data;
    gdn_dtype dtype;
    int64_t rows;
    int32_t heads, dim;
} device_tensor;

/* Functions return 0 or the CUDA error code, and have waited for the device. */
int device_fill(const device_tensor *x, device_draw draw, double size, uint64_t seed);
/* Elements that are NaN or Inf. */
int device_count_bad(const device_tensor *x, int64_t *count);
/* Whether two blocks differ in any bit; bytes is a multiple of 2. */
int device_differs(const void *a, const void *b, int64_t bytes, int *differs);

#ifdef __cplusplus
}
#endif

#endif /* GDN_TEST_DEVICE_DATA_H */
