#include "gemm.h"

#include <omp.h>

#ifdef GDNI_HAVE_BLAS

#include <cblas.h>

#define TRANSPOSED(flag) ((flag) ? CblasTrans : CblasNoTrans)

static void serial_s(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                     const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                     int64_t ldc) {
    cblas_sgemm(CblasRowMajor, TRANSPOSED(trans_a), TRANSPOSED(trans_b), (int)m, (int)n, (int)k,
                alpha, a, (int)lda, b, (int)ldb, beta, c, (int)ldc);
}

static void serial_d(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, double alpha,
                     const double *a, int64_t lda, const double *b, int64_t ldb, double beta,
                     double *c, int64_t ldc) {
    cblas_dgemm(CblasRowMajor, TRANSPOSED(trans_a), TRANSPOSED(trans_b), (int)m, (int)n, (int)k,
                alpha, a, (int)lda, b, (int)ldb, beta, c, (int)ldc);
}

#else

enum {
    TILE = 64
};

/* Tiles of op(A) and op(B) are copied to the stack, so that the inner loop runs along rows. Each
 * tile's terms are summed by themselves: one sum over all of a long k would lose digits. */
#define DEFINE_PLAIN(name, real)                                                                   \
    static void name(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, real alpha,        \
                     const real *a, int64_t lda, const real *b, int64_t ldb, real beta, real *c,   \
                     int64_t ldc) {                                                                \
        real ta[TILE * TILE], tb[TILE * TILE];                                                     \
        for (int64_t i = 0; i < m; ++i)                                                            \
            for (int64_t j = 0; j < n; ++j)                                                        \
                c[i * ldc + j] = beta == 0 ? 0 : beta * c[i * ldc + j];                            \
        for (int64_t p0 = 0; p0 < k; p0 += TILE)                                                   \
            for (int64_t j0 = 0; j0 < n; j0 += TILE) {                                             \
                const int64_t np = k - p0 < TILE ? k - p0 : TILE;                                  \
                const int64_t nj = n - j0 < TILE ? n - j0 : TILE;                                  \
                for (int64_t p = 0; p < np; ++p)                                                   \
                    for (int64_t j = 0; j < nj; ++j)                                               \
                        tb[p * TILE + j] =                                                         \
                            trans_b ? b[(j0 + j) * ldb + p0 + p] : b[(p0 + p) * ldb + j0 + j];     \
                for (int64_t i0 = 0; i0 < m; i0 += TILE) {                                         \
                    const int64_t ni = m - i0 < TILE ? m - i0 : TILE;                              \
                    for (int64_t i = 0; i < ni; ++i)                                               \
                        for (int64_t p = 0; p < np; ++p)                                           \
                            ta[i * TILE + p] = alpha * (trans_a ? a[(p0 + p) * lda + i0 + i]       \
                                                                : a[(i0 + i) * lda + p0 + p]);     \
                    for (int64_t i = 0; i < ni; ++i) {                                             \
                        real sum[TILE] = {0}, *row = c + (i0 + i) * ldc + j0;                      \
                        for (int64_t p = 0; p < np; ++p)                                           \
                            for (int64_t j = 0; j < nj; ++j)                                       \
                                sum[j] += ta[i * TILE + p] * tb[p * TILE + j];                     \
                        for (int64_t j = 0; j < nj; ++j)                                           \
                            row[j] += sum[j];                                                      \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
    }

DEFINE_PLAIN(serial_s, float)
DEFINE_PLAIN(serial_d, double)

#endif

int gdni_blas_serial_begin(void) {
    const int previous = omp_get_max_threads();
    if (previous != 1)
        omp_set_num_threads(1);
    return previous;
}

void gdni_blas_serial_end(int previous) {
    if (previous != 1)
        omp_set_num_threads(previous);
}

void gdni_sgemm_serial(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                       const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                       float *c, int64_t ldc) {
    enum {
        COLUMNS = 64 /* of C at a time: OpenBLAS is a fifth faster where m n k stays below 10^6 */
    };
    if (m <= 0)
        return;
    for (int64_t j = 0; j < n; j += COLUMNS)
        serial_s(trans_a, trans_b, m, n - j < COLUMNS ? n - j : COLUMNS, k, alpha, a, lda,
                 b + j * (trans_b ? ldb : 1), ldb, beta, c + j, ldc);
}

enum {
    BAND = 16 /* bands of C begin at multiples of this */
};

/* Band `part` of `parts` of a range: from *first, *count long. */
static void band(int64_t range, int part, int parts, int64_t *first, int64_t *count) {
    const int64_t units = (range + BAND - 1) / BAND;
    const int64_t begin = units * part / parts * BAND;
    const int64_t end = units * (part + 1) / parts * BAND;
    *first = begin;
    *count = (end < range ? end : range) - begin;
}

/* The longer side of C is cut, into as many bands as it was asked for, whatever team OpenMP
 * grants. */
#define DEFINE_GEMM(name, serial, real)                                                            \
    void name(int threads, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, real alpha,  \
              const real *a, int64_t lda, const real *b, int64_t ldb, real beta, real *c,          \
              int64_t ldc) {                                                                       \
        if (m <= 0 || n <= 0)                                                                      \
            return;                                                                                \
        if (threads <= 1) {                                                                        \
            const int previous = gdni_blas_serial_begin();                                         \
            serial(trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);                \
            gdni_blas_serial_end(previous);                                                        \
            return;                                                                                \
        }                                                                                          \
        const int rows = m >= n;                                                                   \
        _Pragma("omp parallel for num_threads(threads) schedule(static, 1)") for (int part = 0;    \
                                                                                  part < threads;  \
                                                                                  ++part) {        \
            int64_t first, count;                                                                  \
            const int previous = gdni_blas_serial_begin();                                         \
            band(rows ? m : n, part, threads, &first, &count);                                     \
            if (count > 0 && rows)                                                                 \
                serial(trans_a, trans_b, count, n, k, alpha, a + first * (trans_a ? 1 : lda), lda, \
                       b, ldb, beta, c + first * ldc, ldc);                                        \
            else if (count > 0)                                                                    \
                serial(trans_a, trans_b, m, count, k, alpha, a, lda,                               \
                       b + first * (trans_b ? ldb : 1), ldb, beta, c + first, ldc);                \
            gdni_blas_serial_end(previous);                                                        \
        }                                                                                          \
    }

DEFINE_GEMM(gdni_sgemm, serial_s, float)
DEFINE_GEMM(gdni_dgemm, serial_d, double)
