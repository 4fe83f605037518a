/* Conversions: every 16-bit pattern, ties, overflow, NaN. */
#include "gdn.h"
#include "harness.h"

static float round_trip(gdn_dtype dtype, float value) {
    uint16_t bits;
    float back;
    CHECK(gdn_convert(dtype, &bits, GDN_DTYPE_FP32, &value, 1) == GDN_STATUS_OK, "to 16 bits");
    CHECK(gdn_convert(GDN_DTYPE_FP32, &back, dtype, &bits, 1) == GDN_STATUS_OK, "from 16 bits");
    return back;
}

/* Every finite pattern comes back as itself, and the midpoint of neighbours goes to the even one.
 */
static void test_patterns(gdn_dtype dtype, uint16_t infinity) {
    int same = 1, ties = 1;
    for (uint32_t i = 0; i < 0x10000; ++i) {
        uint16_t bits = (uint16_t)i, back;
        double value;
        if ((bits & 0x7fff) > infinity)
            continue;
        same &= gdn_convert(GDN_DTYPE_FP64, &value, dtype, &bits, 1) == GDN_STATUS_OK;
        same &= gdn_convert(dtype, &back, GDN_DTYPE_FP64, &value, 1) == GDN_STATUS_OK;
        same &= back == bits;
        if ((bits & 0x7fff) + 1 >= infinity)
            continue;
        uint16_t next = (uint16_t)(bits + 1), tie;
        double upper;
        ties &= gdn_convert(GDN_DTYPE_FP64, &upper, dtype, &next, 1) == GDN_STATUS_OK;
        const double middle = 0.5 * (value + upper);
        ties &= gdn_convert(dtype, &tie, GDN_DTYPE_FP64, &middle, 1) == GDN_STATUS_OK;
        ties &= tie == (bits & 1 ? next : bits);
    }
    CHECK(same, "%s: a pattern changed", gdn_dtype_name(dtype));
    CHECK(ties, "%s: a tie went to the odd neighbour", gdn_dtype_name(dtype));
}

int main(void) {
    test_patterns(GDN_DTYPE_BF16, 0x7f80);
    test_patterns(GDN_DTYPE_FP16, 0x7c00);
    CHECK(round_trip(GDN_DTYPE_BF16, 1.00390625f) == 1.0f, "tie to even below");
    CHECK(round_trip(GDN_DTYPE_BF16, 1.01171875f) == 1.015625f, "tie to even above");
    CHECK(round_trip(GDN_DTYPE_FP16, 65519.0f) == 65504.0f, "largest fp16");
    CHECK(isinf(round_trip(GDN_DTYPE_FP16, 65520.0f)), "fp16 overflow");
    CHECK(round_trip(GDN_DTYPE_FP16, 1e-9f) == 0.0f, "fp16 underflow");
    CHECK(isnan(round_trip(GDN_DTYPE_FP16, NAN)) && isnan(round_trip(GDN_DTYPE_BF16, NAN)), "NaN");
    CHECK(isnan(round_trip(GDN_DTYPE_BF16, -NAN)), "negative NaN");
    CHECK(gdn_dtype_size(GDN_DTYPE_BF16) == 2 && gdn_dtype_size((gdn_dtype)9) == 0, "sizes");
    CHECK(gdn_convert(GDN_DTYPE_FP32, NULL, GDN_DTYPE_FP32, NULL, 1) == GDN_STATUS_INVALID_ARGUMENT,
          "NULL is refused");
    return harness_finish();
}
