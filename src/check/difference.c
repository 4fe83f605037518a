/*
 * What a central difference can prove.
 *
 * The derivative of a float64 function L in a random direction d = u z, z standard normal, is taken
 * from L at x + s d, x - s d and, where L is not affine in x, at twice that distance (fourth
 * order). For a gradient G it is N(0, (u |G|)^2): errors are given in units of u |G|. Three things
 * keep it from <G, d>:
 *
 *   truncation   s^4 L^(5) / 30, below 1e-9 at s = 1e-4. The l2 norm of a small q or k bends L on
 *                a scale of 1e-2 and less: there s = 1e-5. The tolerance of 1e-6 covers both. L is
 *                affine in q, v and the state: there s = 1.
 *   rounding     Every output carries a few roundings of its own size, which the division by s
 *                magnifies. gdni_difference_noise() estimates it, and a row's tolerance is not
 *                below it: where the gate leaves a gradient of e^-30, the difference knows nothing
 *                about it, and the tolerance of the row says so.
 *   the tested   A gradient with a relative L2 error e has <got - G, d> of N(0, (e u |G|)^2). Six
 *   gradient     standard deviations: what passes against float64 does not fail here by bad luck.
 */
#include "check.h"

#include <float.h>
#include <math.h>
#include <string.h>

double gdni_difference_tolerance(double tolerance) {
    return fmax(6 * tolerance, 1e-6);
}

const gdni_point *gdni_stencil(int affine, int *count) {
    static const gdni_point two[] = {{1, 1.0 / 2}, {-1, -1.0 / 2}};
    static const gdni_point four[] = {{1, 2.0 / 3}, {-1, -2.0 / 3}, {2, -1.0 / 12}, {-2, 1.0 / 12}};
    *count = affine ? 2 : 4;
    return affine ? two : four;
}

double gdni_difference_noise(double sum_of_squares, double step) {
    const double roundings = 8;
    return roundings * DBL_EPSILON * sqrt(sum_of_squares) / step;
}

gdn_check_row gdni_difference_row(const char *name, const char *against, int64_t head,
                                  double tolerance) {
    gdn_check_row row = {.head = (int32_t)head, .tolerance = tolerance};
    strncpy(row.name, name, sizeof(row.name) - 1);
    strncpy(row.against, against, sizeof(row.against) - 1);
    return row;
}

void gdni_difference_error(gdn_check_row *row, double derivative, const gdni_difference *difference,
                           double size) {
    const double gap = fabs(derivative - difference->value);
    /* A gradient of zeros has no size: nothing beyond the noise may be seen. */
    const double error = size > 0 ? gap / size : gap <= difference->noise ? 0 : INFINITY;
    if (!isnan(row->error) && !(error <= row->error))
        row->error = error;
    if (size > 0 && isfinite(difference->noise))
        row->tolerance = fmax(row->tolerance, difference->noise / size);
}

double gdni_normal(uint64_t *state) {
    double uniform[2];
    for (int i = 0; i < 2; ++i) {
        uint64_t z = (*state += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        uniform[i] = (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
    }
    return sqrt(-2 * log(1 - uniform[0])) * cos(6.283185307179586 * uniform[1]);
}

gdn_status gdni_gradcheck_options(const char *function, const gdn_gradcheck_options *in,
                                  gdn_gradcheck_options *out) {
    const gdn_gradcheck_options init = GDN_GRADCHECK_OPTIONS_INIT;
    *out = init;
    if (in) {
        GDNI_REQUIRE(in->size == sizeof(*in), "%s: options->size is %zu, expected %zu", function,
                     in->size, sizeof(*in));
        *out = *in;
    }
    GDNI_REQUIRE(out->directions >= 0, "%s: directions is %d, expected 0 or more", function,
                 out->directions);
    GDNI_REQUIRE(out->step >= 0 && out->step < 1,
                 "%s: step is %g, expected a small positive number, or 0 for 1e-5", function,
                 out->step);
    GDNI_REQUIRE(out->tolerance_factor >= 0 && isfinite(out->tolerance_factor),
                 "%s: tolerance_factor is %g, expected a positive number, or 0 for 1", function,
                 out->tolerance_factor);
    if (out->tolerance_factor == 0)
        out->tolerance_factor = 1;
    return GDN_STATUS_OK;
}
