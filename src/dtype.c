/* Element types: names, sizes and exact conversions. */
#include "internal.h"

#include <string.h>

size_t gdn_dtype_size(gdn_dtype dtype) {
    switch (dtype) {
    case GDN_DTYPE_FP32:
        return 4;
    case GDN_DTYPE_BF16:
    case GDN_DTYPE_FP16:
        return 2;
    case GDN_DTYPE_FP64:
        return 8;
    }
    return 0;
}

const char *gdn_dtype_name(gdn_dtype dtype) {
    switch (dtype) {
    case GDN_DTYPE_FP32:
        return "fp32";
    case GDN_DTYPE_BF16:
        return "bf16";
    case GDN_DTYPE_FP16:
        return "fp16";
    case GDN_DTYPE_FP64:
        return "fp64";
    }
    return "unknown";
}

static uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static float bits_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

float gdni_bf16_to_float(uint16_t bits) {
    return bits_float((uint32_t)bits << 16);
}

uint16_t gdni_float_to_bf16(float value) {
    uint32_t bits = float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) /* NaN: keep it one */
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float gdni_fp16_to_float(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    uint32_t exponent = (bits >> 10) & 0x1fu, fraction = bits & 0x3ffu;
    if (exponent == 0x1f)
        return bits_float(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) { /* subnormal: fraction * 2^-24, exact */
        float value = (float)fraction * 5.9604644775390625e-8f;
        return sign ? -value : value;
    }
    return bits_float(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t gdni_float_to_fp16(float value) {
    uint32_t bits = float_bits(value), magnitude = bits & 0x7fffffffu;
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    if (magnitude > 0x7f800000u)
        return sign | 0x7e00u;
    if (magnitude >= 0x477ff000u) /* rounds to 65536 or more */
        return sign | 0x7c00u;
    if (magnitude < 0x38800000u) {
        /* Subnormal result: adding 0.5 leaves round(value * 2^24) in the fraction's low bits. */
        return sign | (uint16_t)(float_bits(bits_float(magnitude) + 0.5f) - float_bits(0.5f));
    }
    magnitude += 0xfffu + ((magnitude >> 13) & 1u);
    return sign | (uint16_t)((magnitude - 0x38000000u) >> 13);
}

double gdni_load(gdn_dtype dtype, const void *data, int64_t index) {
    switch (dtype) {
    case GDN_DTYPE_FP32:
        return ((const float *)data)[index];
    case GDN_DTYPE_BF16:
        return gdni_bf16_to_float(((const uint16_t *)data)[index]);
    case GDN_DTYPE_FP16:
        return gdni_fp16_to_float(((const uint16_t *)data)[index]);
    case GDN_DTYPE_FP64:
        return ((const double *)data)[index];
    }
    return 0.0;
}

void gdni_store(gdn_dtype dtype, void *data, int64_t index, double value) {
    switch (dtype) {
    case GDN_DTYPE_FP32:
        ((float *)data)[index] = (float)value;
        break;
    case GDN_DTYPE_BF16:
        ((uint16_t *)data)[index] = gdni_float_to_bf16((float)value);
        break;
    case GDN_DTYPE_FP16:
        ((uint16_t *)data)[index] = gdni_float_to_fp16((float)value);
        break;
    case GDN_DTYPE_FP64:
        ((double *)data)[index] = value;
        break;
    }
}

gdn_status gdn_convert(gdn_dtype to_dtype, void *to, gdn_dtype from_dtype, const void *from,
                       int64_t count) {
    gdni_clear_error();
    GDNI_REQUIRE(gdn_dtype_size(to_dtype) && gdn_dtype_size(from_dtype),
                 "gdn_convert: dtypes are %d and %d, expected gdn_dtype", (int)to_dtype,
                 (int)from_dtype);
    GDNI_REQUIRE(count >= 0, "gdn_convert: count is %lld, expected 0 or more", (long long)count);
    GDNI_REQUIRE(count == 0 || (to && from), "gdn_convert: a pointer is NULL");
    for (int64_t i = 0; i < count; ++i)
        gdni_store(to_dtype, to, i, gdni_load(from_dtype, from, i));
    return GDN_STATUS_OK;
}
