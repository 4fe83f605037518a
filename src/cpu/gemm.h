/*
 * Matrix products on the host: BLAS, or a plain blocked product where there is none.
 *
 *     C := alpha op(A) op(B) + beta C        row-major; op is the transpose where trans_ is not 0
 *
 * C is m x n, op(A) m x k, op(B) k x n; ld* count elements from one row to the next as stored.
 * beta == 0 never reads C. n, k and each ld must fit an int.
 *
 * threads == 1 computes in the calling thread, whatever OpenMP would do; it is the only value to
 * use inside a parallel region. threads > 1 cuts C into bands, one a thread, each a serial product:
 * the same inputs and the same thread count give the same bits.
 */
#ifndef GDNI_GEMM_H
#define GDNI_GEMM_H

#include <stdint.h>

void gdni_sgemm(int threads, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                int64_t ldc);

void gdni_dgemm(int threads, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k,
                double alpha, const double *a, int64_t lda, const double *b, int64_t ldb,
                double beta, double *c, int64_t ldc);

/* gdni_sgemm with one thread, for callers inside an active parallel region or between
 * gdni_blas_serial_begin() and _end(): nothing is switched per call. */
void gdni_sgemm_serial(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                       const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                       float *c, int64_t ldc);

/* Makes BLAS serial in the calling thread; begin returns what end restores. A parallel region of
 * one thread is not active, so BLAS would start a team inside it. */
int gdni_blas_serial_begin(void);
void gdni_blas_serial_end(int previous);

#endif /* GDNI_GEMM_H */
