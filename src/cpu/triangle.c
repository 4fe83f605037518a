/* Products with lower triangles, in bands of rows that leave out most of the zeros. */
#include "chunked.h"

enum {
    C = GDNI_CHUNK,
    BAND = 16
};

static int64_t band_end(int64_t begin, int64_t n) {
    return begin + BAND < n ? begin + BAND : n;
}

void gdni_lower_times(int n, int width, const float *L, const float *X, int64_t ldx, float beta,
                      float *Y, int64_t ldy) {
    for (int64_t i = 0; i < n; i += BAND) {
        const int64_t end = band_end(i, n);
        gdni_sgemm_serial(0, 0, end - i, width, end, 1, L + i * C, C, X, ldx, beta, Y + i * ldy,
                          ldy);
    }
}

void gdni_lower_transposed_times(int n, int width, const float *L, const float *X, int64_t ldx,
                                 float beta, float *Y, int64_t ldy) {
    for (int64_t i = 0; i < n; i += BAND)
        gdni_sgemm_serial(1, 0, band_end(i, n) - i, width, n - i, 1, L + i * C + i, C, X + i * ldx,
                          ldx, beta, Y + i * ldy, ldy);
}

void gdni_lower_of_product(int n, int width, const float *X, int64_t ldx, const float *Y,
                           int64_t ldy, float *L) {
    for (int64_t i = 0; i < n; i += BAND) {
        const int64_t end = band_end(i, n);
        gdni_sgemm_serial(0, 1, end - i, end, width, 1, X + i * ldx, ldx, Y, ldy, 0, L + i * C, C);
    }
}
