/* The matrix products against sums in double: shapes, transposes, strides, threads. */
#include "cpu/gemm.h"

#include "harness.h"

enum {
    MOST = 200,
    LD = 207,
    SIZE = MOST * LD
};

static float sa[SIZE], sb[SIZE], sc[SIZE], sc_before[SIZE], sc_again[SIZE];
static double da[SIZE], db[SIZE], dc[SIZE], dc_before[SIZE];

static double want(int ta, int tb, int k, int i, int j, double alpha, double beta) {
    double sum = 0;
    for (int p = 0; p < k; ++p)
        sum += da[ta ? p * LD + i : i * LD + p] * db[tb ? j * LD + p : p * LD + j];
    return alpha * sum + (beta == 0 ? 0 : beta * dc_before[i * LD + j]);
}

static void check_shape(int threads, int ta, int tb, int m, int n, int k, double alpha,
                        double beta) {
    double worst_s = 0, worst_d = 0;
    int outside = 0;
    memcpy(sc, sc_before, sizeof(sc));
    memcpy(dc, dc_before, sizeof(dc));
    if (beta == 0)
        for (int i = 0; i < m; ++i)
            for (int j = 0; j < n; ++j)
                sc[i * LD + j] = NAN, dc[i * LD + j] = NAN;
    gdni_sgemm(threads, ta, tb, m, n, k, (float)alpha, sa, LD, sb, LD, (float)beta, sc, LD);
    gdni_dgemm(threads, ta, tb, m, n, k, alpha, da, LD, db, LD, beta, dc, LD);
    for (int i = 0; i < MOST; ++i)
        for (int j = 0; j < LD; ++j) {
            const int at = i * LD + j;
            if (i >= m || j >= n) {
                outside += sc[at] != sc_before[at] || dc[at] != dc_before[at];
                continue;
            }
            const double value = want(ta, tb, k, i, j, alpha, beta);
            const double s = fabs(sc[at] - value), d = fabs(dc[at] - value);
            worst_s = s <= worst_s ? worst_s : s; /* a NaN stays */
            worst_d = d <= worst_d ? worst_d : d;
        }
    CHECK(worst_s <= 1e-5 && worst_d <= 1e-13 && !outside,
          "threads %d, transposed %d %d, %d x %d x %d: off by %.1e and %.1e, %d outside", threads,
          ta, tb, m, n, k, worst_s, worst_d, outside);

    /* Serial products and second calls. */
    memcpy(sc_again, sc_before, sizeof(sc));
    gdni_sgemm(threads, ta, tb, m, n, k, (float)alpha, sa, LD, sb, LD, (float)beta, sc_again, LD);
    CHECK(!memcmp(sc, sc_again, sizeof(sc)), "the second call differs");
    memcpy(sc_again, sc_before, sizeof(sc));
    gdni_sgemm_serial(ta, tb, m, n, k, (float)alpha, sa, LD, sb, LD, (float)beta, sc_again, LD);
    double worst = 0;
    for (int at = 0; at < SIZE; ++at)
        worst = fmax(worst, fabs(sc[at] - sc_again[at]));
    CHECK(worst <= 1e-5, "the serial product is off by %.1e", worst);
}

int main(void) {
    static const int shapes[][3] = {{1, 1, 1},   {1, 7, 3},      {64, 64, 128},  {33, 65, 17},
                                    {5, 190, 2}, {190, 5, 70},   {128, 128, 64}, {3, 3, 0},
                                    {0, 5, 5},   {200, 200, 200}};
    harness_random r = {1};
    for (int i = 0; i < SIZE; ++i) {
        sa[i] = (float)(harness_uniform(&r) - 0.5), da[i] = sa[i];
        sb[i] = (float)(harness_uniform(&r) - 0.5), db[i] = sb[i];
        sc_before[i] = (float)(harness_uniform(&r) - 0.5), dc_before[i] = sc_before[i];
    }
    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); ++s)
        for (int transposed = 0; transposed < 4; ++transposed)
            for (int threads = 1; threads <= 3; ++threads)
                check_shape(threads, transposed & 1, transposed >> 1, shapes[s][0], shapes[s][1],
                            shapes[s][2], 0.5, threads == 2 ? 0 : -1.5);
    return harness_finish();
}
