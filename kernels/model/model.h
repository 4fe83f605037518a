/* What src/ sees of the model's kernels: C prototypes only. Each call enqueues and returns 0, or a
 * code that gdni_model_error_text explains. */
#ifndef GDNI_KERNELS_MODEL_H
#define GDNI_KERNELS_MODEL_H

#include "gdn_model.h"
#include "launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* CUDA's codes, and those of products. */
const char *gdni_model_error_text(int code);

/*
 * c = a b, or c += a b with accumulate; row-major. a [m, k], or [k, m] if trans_a; b [k, n], or
 * [n, k] if trans_b; c [m, n]; lda, ldb, ldc: elements from row to row, 0: dense. in: fp32 or bf16,
 * of a and b; out: of c, fp32 or in. Sums are fp32, in an order that depends on shapes and
 * alignment alone.
 */
typedef struct gdni_product {
    gdn_dtype in, out;
    int trans_a, trans_b, accumulate;
    int64_t m, n, k;
    const void *a, *b;
    void *c;
    int64_t lda, ldb, ldc;
    void *workspace; /* GDNI_PRODUCT_WORKSPACE bytes */
} gdni_product;
enum {
    GDNI_PRODUCT_WORKSPACE = 32 << 20
};
/* Finds the library and readies the device, once a process; 0, or why products cannot be had. */
int gdni_product_ready(const gdni_cuda_device *device);
int gdni_product_enqueue(const gdni_cuda_device *device, const gdni_product *product,
                         gdn_stream stream);

/* The parts, checked; workspaces of these many bytes or more, 256-byte aligned. */
size_t gdni_embedding_bytes(const gdn_embedding *part);
int gdni_embedding_enqueue(const gdni_cuda_device *device, const gdn_embedding *part, int backward,
                           gdn_stream stream);
size_t gdni_rmsnorm_bytes(const gdni_cuda_device *device, const gdn_rmsnorm *part);
int gdni_rmsnorm_enqueue(const gdni_cuda_device *device, const gdn_rmsnorm *part, int backward,
                         gdn_stream stream);
int gdni_swiglu_enqueue(const gdni_cuda_device *device, const gdn_swiglu *part, int backward,
                        gdn_stream stream);
size_t gdni_cross_entropy_bytes(const gdn_cross_entropy *part);
int gdni_cross_entropy_enqueue(const gdni_cuda_device *device, const gdn_cross_entropy *part,
                               gdn_stream stream);
int gdni_adamw_enqueue(const gdni_cuda_device *device, const gdn_adamw *part, gdn_stream stream);
size_t gdni_grad_norm_bytes(void);
int gdni_grad_norm_enqueue(const gdni_cuda_device *device, const gdn_grad_norm *part,
                           gdn_stream stream);

#ifdef __cplusplus
}
#endif

#endif /* GDNI_KERNELS_MODEL_H */
