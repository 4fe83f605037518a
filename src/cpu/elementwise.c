#include "elementwise.h"

#include "clones.h"
#include "internal.h"

#include <math.h>
#include <string.h>

enum {
    C = GDNI_CHUNK
};

/* exp in a form that the compiler turns into vector code: 2^m e^r with |r| <= log(2)/2, within
 * 2 ulp; below -87, where the result would leave the normal numbers, 0. */
static inline float fast_exp(float x) {
    const float shift = 0x1.8p23f; /* adding it rounds to an integer, kept in the low bits */
    const float capped = x < 88.0f ? x : 88.0f;
    const float shifted = capped * 1.44269504f + shift, m = shifted - shift;
    const float r = (capped - m * 0.693359375f) + m * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits + 127u) << 23;
    float power;
    memcpy(&power, &bits, sizeof(power));
    return x < -87.0f ? 0.0f : p * power;
}

void gdni_gates_make(int n, const float *g, const float *beta, int64_t stride, gdni_gates *gates) {
    double c = 0.0;
    for (int i = 0; i < n; ++i) {
        c += g[i * stride];
        gates->c[i] = c;
        gates->beta[i] = beta[i * stride];
    }
    for (int i = 0; i < n; ++i) {
        gates->in[i] = fast_exp((float)gates->c[i]);
        gates->out[i] = fast_exp((float)(c - gates->c[i]));
        gates->minus_in[i] = -gates->in[i] * gates->beta[i];
    }
    gates->all = fast_exp((float)c);
}

GDNI_CLONES void gdni_decay_matrix(int n, const gdni_gates *gates, float *gamma) {
    for (int i = 0; i < n; ++i) {
        float *row = gamma + i * C;
        const double c = gates->c[i];
        for (int j = 0; j < C; ++j)
            row[j] = 0.0f;
        for (int j = 0; j <= i; ++j)
            row[j] = fast_exp((float)(c - gates->c[j]));
    }
}

GDNI_CLONES void gdni_inverse(int n, const float *N, const float *beta, float *T) {
    for (int i = 0; i < n; ++i) {
        float row[GDNI_CHUNK] = {0};
        for (int j = 0; j < i; ++j) {
            const float factor = beta[i] * N[i * C + j];
            for (int l = 0; l < C; ++l)
                row[l] -= factor * T[j * C + l];
        }
        row[i] = 1.0f;
        memcpy(T + i * C, row, sizeof(row));
    }
}

GDNI_CLONES void gdni_hadamard(int n, float scale, const float *a, const float *b, float *out) {
    for (int i = 0; i < n * C; ++i)
        out[i] = scale * a[i] * b[i];
}

GDNI_CLONES void gdni_residual(int n, int width, const gdni_gates *gates, const float *V,
                               int64_t ldv, const float *U, int64_t ldu, float *out, int64_t ldo) {
    for (int i = 0; i < n; ++i) {
        const float in = gates->in[i], beta = gates->beta[i];
        const float *u = U + i * ldu;
        float *o = out + i * ldo;
        if (V) {
            const float *v = V + i * ldv;
#pragma omp simd
            for (int j = 0; j < width; ++j)
                o[j] = beta * (v[j] - in * u[j]);
        } else {
#pragma omp simd
            for (int j = 0; j < width; ++j)
                o[j] = -beta * in * u[j];
        }
    }
}

GDNI_CLONES void gdni_scale_rows(int rows, int width, float scale, const float *factor,
                                 const float *x, int64_t ldx, float *out, int64_t ldo) {
    for (int i = 0; i < rows; ++i) {
        const float f = scale * factor[i];
#pragma omp simd
        for (int j = 0; j < width; ++j)
            out[i * ldo + j] = f * x[i * ldx + j];
    }
}

GDNI_CLONES void gdni_scale(int rows, int width, float scale, const float *x, int64_t ldx, int add,
                            float *out, int64_t ldo) {
    for (int i = 0; i < rows; ++i) {
        if (add) {
#pragma omp simd
            for (int j = 0; j < width; ++j)
                out[i * ldo + j] += scale * x[i * ldx + j];
        } else {
#pragma omp simd
            for (int j = 0; j < width; ++j)
                out[i * ldo + j] = scale * x[i * ldx + j];
        }
    }
}

GDNI_CLONES void gdni_scale_add_rows(int n, int width, const float *factor, const float *a,
                                     int64_t lda, float *x, int64_t ldx) {
    for (int i = 0; i < n; ++i) {
        const float f = factor[i];
#pragma omp simd
        for (int j = 0; j < width; ++j)
            x[i * ldx + j] = a[i * lda + j] + f * x[i * ldx + j];
    }
}

GDNI_CLONES void gdni_gather_rows(int n, int width, const float *factor, const float *y,
                                  int64_t ldy, float *x, float *sum, double *dots) {
    for (int i = 0; i < n; ++i) {
        const float f = factor[i];
        double dot = 0.0;
#pragma omp simd reduction(+ : dot)
        for (int j = 0; j < width; ++j) {
            const float value = f * x[i * width + j];
            sum[i * width + j] += value;
            dot += (double)(value * y[i * ldy + j]);
        }
        dots[i] += dot;
    }
}

GDNI_CLONES void gdni_row_dots(int rows, int width, const float *x, int64_t ldx, const float *y,
                               int64_t ldy, double *dots) {
    for (int i = 0; i < rows; ++i) {
        double dot = 0.0;
#pragma omp simd reduction(+ : dot)
        for (int j = 0; j < width; ++j)
            dot += (double)(x[i * ldx + j] * y[i * ldy + j]);
        dots[i] += dot;
    }
}

GDNI_CLONES void gdni_write_gradients(int n, int width, const gdni_gates *gates, const float *V,
                                      int64_t ldv, const float *U, const float *E, float *dV,
                                      double *dbeta) {
    for (int i = 0; i < n; ++i) {
        const float in = gates->in[i], beta = gates->beta[i];
        const float *v = V + i * ldv, *u = U + i * width, *e = E + i * width;
        double dot = 0.0;
#pragma omp simd reduction(+ : dot)
        for (int j = 0; j < width; ++j) {
            dot += (double)(e[j] * (v[j] - in * u[j]));
            dV[i * width + j] = beta * e[j];
        }
        dbeta[i] += dot;
    }
}

GDNI_CLONES void gdni_pair_gradients(int n, float scale, const gdni_gates *gates,
                                     const float *gamma, const float *QK, const float *N, float *dP,
                                     float *Z, double *dbeta, double *dg) {
    double below[GDNI_CHUNK] = {0}; /* sum of B_ij over the rows i seen so far */
    for (int i = n - 1; i >= 0; --i) {
        const float beta = gates->beta[i], *gam = gamma + i * C;
        const float *qk = QK + i * C, *kk = N + i * C;
        float *dp = dP + i * C, *z = Z + i * C;
        double write = 0.0, rectangle = 0.0;
#pragma omp simd reduction(+ : write, rectangle)
        for (int j = 0; j < i; ++j) {
            const float gz = gam[j] * z[j], gd = scale * gam[j] * dp[j];
            write += (double)(gz * kk[j]);
            below[j] += (double)(gd * qk[j]) - (double)(beta * kk[j] * gz);
            rectangle += below[j];
            dp[j] = gd;
            z[j] = -beta * gz;
        }
        dp[i] *= scale;
        z[i] = 0.0f;
        for (int j = i + 1; j < n; ++j)
            dp[j] = 0.0f;
        dbeta[i] -= write;
        dg[i] += rectangle;
    }
    for (int i = 0; i < n; ++i)
        for (int j = i + 1; j < n; ++j)
            Z[i * C + j] = Z[j * C + i];
}

/* bf16 by the loop, so that it becomes vector code; fp16 by the library's own conversion. */
GDNI_CLONES static void load_bf16(const uint16_t *x, int count, float *out) {
#pragma omp simd
    for (int i = 0; i < count; ++i) {
        const uint32_t bits = (uint32_t)x[i] << 16;
        memcpy(out + i, &bits, sizeof(bits));
    }
}

GDNI_CLONES static void store_bf16(const float *x, int count, uint16_t *out) {
#pragma omp simd
    for (int i = 0; i < count; ++i) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof(bits));
        const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        const uint32_t nan = (bits >> 16) | 0x40u;
        out[i] = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
    }
}

/* Divides x by sqrt(|x|^2 + epsilon) and returns that root. */
static float normalise(float *x, int dim) {
    double sum = GDNI_NORM_EPSILON;
    for (int i = 0; i < dim; ++i)
        sum += (double)x[i] * x[i];
    const double norm = sqrt(sum);
    for (int i = 0; i < dim; ++i)
        x[i] = (float)(x[i] / norm);
    return (float)norm;
}

void gdni_load_rows(gdn_dtype dtype, const void *data, int64_t offset, int64_t stride, int rows,
                    int dim, float *out, float *norms) {
    for (int i = 0; i < rows; ++i) {
        const int64_t at = offset + i * stride;
        float *row = out + (int64_t)i * dim;
        if (dtype == GDN_DTYPE_BF16)
            load_bf16((const uint16_t *)data + at, dim, row);
        else if (dtype == GDN_DTYPE_FP16)
            for (int j = 0; j < dim; ++j)
                row[j] = gdni_fp16_to_float(((const uint16_t *)data)[at + j]);
        else
            memcpy(row, (const float *)data + at, sizeof(*row) * (size_t)dim);
        if (norms)
            norms[i] = normalise(row, dim);
    }
}

void gdni_store_rows(gdn_dtype dtype, void *data, int64_t offset, int64_t stride, int rows, int dim,
                     const float *x, int64_t ldx) {
    for (int i = 0; i < rows; ++i) {
        const int64_t at = offset + i * stride;
        const float *row = x + i * ldx;
        if (dtype == GDN_DTYPE_BF16)
            store_bf16(row, dim, (uint16_t *)data + at);
        else if (dtype == GDN_DTYPE_FP16)
            for (int j = 0; j < dim; ++j)
                ((uint16_t *)data)[at + j] = gdni_float_to_fp16(row[j]);
        else
            memcpy((float *)data + at, row, sizeof(*row) * (size_t)dim);
    }
}

void gdni_norm_gradient(int rows, int dim, const float *y, int64_t ldy, const float *norms,
                        float *dy) {
    for (int i = 0; i < rows; ++i) {
        float *row = dy + (int64_t)i * dim;
        double along = 0.0;
        for (int j = 0; j < dim; ++j)
            along += (double)y[i * ldy + j] * row[j];
        for (int j = 0; j < dim; ++j)
            row[j] = (float)((row[j] - y[i * ldy + j] * along) / norms[i]);
    }
}
