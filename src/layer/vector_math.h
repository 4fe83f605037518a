/*
 * What the loops of the parts share: exponentials that vectorise in fp32 and are libm's in fp64, a
 * switch that compiles a loop for the vector units of the machine it runs on, blocks.
 */
#ifndef GDNI_VECTOR_MATH_H
#define GDNI_VECTOR_MATH_H

#include "clones.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

/*
 * exp(x) without branches: x = n ln 2 + r, |r| <= ln 2 / 2, a polynomial for exp(r) (relative error
 * 4e-9), times 2^n. Relative error below 1.2e-7 (tests/layer/vector_math.c). Saturates at
 * exp(-87.3) = 1.2e-38 and exp(88.3) = 2.2e38; NaN stays NaN.
 */
static inline float gdni_exp_fp32(float x) {
    const float low = -87.3f, high = 88.3f, log2e = 1.44269504f;
    const float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f; /* ln2_high: 9 bits */
    const float round = 12582912.0f;                                /* 1.5 * 2^23 */
    x = x < low ? low : x;
    x = x > high ? high : x;
    const float rounded = x * log2e + round; /* n in its low bits */
    const float n = rounded - round;
    const float r = (x - n * ln2_high) - n * ln2_low;
    float q = 0.00137520547f;
    q = q * r + 0.00836890843f;
    q = q * r + 0.0416695215f;
    q = q * r + 0.166665182f;
    q = q * r + 0.499999881f;
    const float p = 1.0f + (r + r * r * q);
    uint32_t bits;
    float power;
    memcpy(&bits, &rounded, sizeof(bits));
    bits = (bits + 127) << 23;
    memcpy(&power, &bits, sizeof(power));
    return p * power;
}

static inline double gdni_exp_fp64(double x) {
    return exp(x);
}

static inline float gdni_sigmoid_fp32(float x) {
    return 1.0f / (1.0f + gdni_exp_fp32(-x));
}

static inline double gdni_sigmoid_fp64(double x) {
    return 1.0 / (1.0 + exp(-x));
}

/* End of the block of `size` that starts at `from`, of `total`. */
static inline int64_t gdni_block_end(int64_t from, int64_t size, int64_t total) {
    return from + size < total ? from + size : total;
}

#endif /* GDNI_VECTOR_MATH_H */
