/* The vectorised exponential and sigmoid of fp32 against libm's in float64, over all of their
 * range. */
#include "layer/vector_math.h"
#include "harness.h"

int main(void) {
    double worst_exp = 0, worst_sigmoid = 0;
    for (double x = -87.3; x <= 88.3; x += 3.1e-5) {
        const float f = (float)x;
        const double e = exp((double)f), s = 1 / (1 + exp(-(double)f));
        worst_exp = fmax(worst_exp, fabs((double)gdni_exp_fp32(f) / e - 1));
        if (x > -80)
            worst_sigmoid = fmax(worst_sigmoid, fabs((double)gdni_sigmoid_fp32(f) / s - 1));
    }
    printf("relative error: exp %.2e, sigmoid %.2e\n", worst_exp, worst_sigmoid);
    CHECK(worst_exp <= 1.2e-7, "%.2e", worst_exp);
    CHECK(worst_sigmoid <= 2.4e-7, "%.2e", worst_sigmoid);
    CHECK(gdni_exp_fp32(0.0f) == 1.0f, "%.9g", (double)gdni_exp_fp32(0.0f));
    CHECK(isnan(gdni_exp_fp32(NAN)) && isnan(gdni_sigmoid_fp32(NAN)), "NaN was lost");
    CHECK(isfinite(gdni_exp_fp32(INFINITY)) && gdni_exp_fp32(INFINITY) > 2e38f, "%g",
          (double)gdni_exp_fp32(INFINITY));
    CHECK(gdni_exp_fp32(-INFINITY) > 0 && gdni_exp_fp32(-INFINITY) < 1.3e-38f, "%g",
          (double)gdni_exp_fp32(-INFINITY));
    CHECK(gdni_sigmoid_fp32(INFINITY) == 1.0f && gdni_sigmoid_fp32(-INFINITY) < 1e-38f,
          "sigmoid at infinity");
    return harness_finish();
}
