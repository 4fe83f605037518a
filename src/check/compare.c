/* The comparator: relative L2 error, scale error and worst element of each head; the report. */
#include "check.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const FUNCTION = "gdn_check_compare";

void gdn_check_report_free(gdn_check_report *report) {
    if (!report)
        return;
    const gdn_check_report init = GDN_CHECK_REPORT_INIT;
    free(report->rows);
    *report = init;
}

gdn_status gdni_report_check(const char *function, const gdn_check_report *report) {
    GDNI_REQUIRE(report != NULL, "%s: report is NULL", function);
    GDNI_REQUIRE(report->size == sizeof(*report),
                 "%s: report->size is %zu, expected %zu (start from GDN_CHECK_REPORT_INIT)",
                 function, report->size, sizeof(*report));
    return GDN_STATUS_OK;
}

gdn_status gdni_report_add(gdn_check_report *report, const gdn_check_row *row) {
    if (report->count == report->capacity) {
        const size_t capacity = report->capacity ? 2 * report->capacity : 64;
        gdn_check_row *rows = realloc(report->rows, capacity * sizeof(*rows));
        if (!rows)
            return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "%s: no memory for %zu report rows",
                             FUNCTION, capacity);
        report->rows = rows;
        report->capacity = capacity;
    }
    report->rows[report->count++] = *row;
    if (!row->pass)
        report->pass = 0;
    return GDN_STATUS_OK;
}

/* One head: elements base + o * stride + i for o < outer, i < inner. */
typedef struct head_elements {
    int64_t base, outer, stride, inner;
} head_elements;

/* The largest |want|, or NaN. Sums of squares are taken of want / largest, so that neither a
 * denormal nor a huge reference leaves float64's range. */
static double largest(const head_elements *e, const double *want) {
    double most = 0;
    for (int64_t o = 0; o < e->outer; ++o)
        for (int64_t i = 0; i < e->inner; ++i) {
            const double x = fabs(want[e->base + o * e->stride + i]);
            if (isnan(x))
                return x;
            if (x > most)
                most = x;
        }
    return most;
}

/* Fills in errors and worst; returns the flat index of the worst element, -1 without elements. */
static int64_t measure(const head_elements *e, const double *got, const double *want, double least,
                       double quantum, gdn_check_row *row) {
    const double most_wanted = largest(e, want), most = most_wanted < least ? least : most_wanted;
    const double unit = most > 0 ? most : 1;
    const double count = (double)e->outer * (double)e->inner;
    double sum_difference = 0, sum_want = 0, dot = 0, worst = -1;
    int64_t worst_index = -1;
    for (int64_t o = 0; o < e->outer; ++o)
        for (int64_t i = 0; i < e->inner; ++i) {
            const int64_t at = e->base + o * e->stride + i;
            const double difference = (got[at] - want[at]) / unit, w = want[at] / unit;
            sum_difference += difference * difference;
            sum_want += w * w;
            dot += difference * w;
            /* The first NaN is the worst, and stays it. */
            if (!isnan(worst) && !(fabs(difference) <= worst)) {
                worst = fabs(difference);
                worst_index = at;
            }
        }
    if (most == 0) {
        /* A reference of zeros wants exact zeros; NaN is not one. */
        row->error = row->scale_error = worst_index < 0 || worst == 0 ? 0 : INFINITY;
        return worst_index;
    }
    /* Below the type's subnormals nothing can be represented: |got - want| <= tolerance |want| +
     * quantum per element. */
    const double norm_wanted = sqrt(sum_want), slack = sqrt(count) * (quantum / unit);
    const double norm = norm_wanted < least / unit ? least / unit : norm_wanted;
    row->error = fabs(sqrt(sum_difference) / (norm + slack / row->tolerance));
    row->scale_error = fabs(dot) / (norm * (norm + slack / row->scale_tolerance));
    return worst_index;
}

static gdn_status check_tensor(const gdn_check_tensor *t) {
    GDNI_REQUIRE(t != NULL, "%s: tensor is NULL", FUNCTION);
    GDNI_REQUIRE(t->size == sizeof(*t), "%s: tensor->size is %zu, expected %zu", FUNCTION, t->size,
                 sizeof(*t));
    GDNI_REQUIRE(t->name != NULL, "%s: name is NULL", FUNCTION);
    GDNI_REQUIRE(t->ndim >= 1 && t->ndim <= GDN_CHECK_MAX_DIMS,
                 "%s: ndim of %s is %d, expected 1 to %d", FUNCTION, t->name, t->ndim,
                 GDN_CHECK_MAX_DIMS);
    GDNI_REQUIRE(t->head_axis >= -1 && t->head_axis < t->ndim,
                 "%s: head_axis of %s is %d, expected -1 to %d", FUNCTION, t->name, t->head_axis,
                 t->ndim - 1);
    int64_t count = 1;
    for (int i = 0; i < t->ndim; ++i) {
        GDNI_REQUIRE(t->shape[i] >= 0, "%s: shape[%d] of %s is %" PRId64 ", expected 0 or more",
                     FUNCTION, i, t->name, t->shape[i]);
        count *= t->shape[i];
    }
    GDNI_REQUIRE(count == 0 || (t->got && t->want), "%s: %s of %s is NULL", FUNCTION,
                 t->got ? "want" : "got", t->name);
    GDNI_REQUIRE(t->tolerance > 0 && isfinite(t->tolerance),
                 "%s: tolerance of %s is %g, expected a positive number", FUNCTION, t->name,
                 t->tolerance);
    GDNI_REQUIRE(t->scale_tolerance >= 0 && isfinite(t->scale_tolerance),
                 "%s: scale_tolerance of %s is %g, expected 0 or a positive number", FUNCTION,
                 t->name, t->scale_tolerance);
    return GDN_STATUS_OK;
}

gdn_status gdni_compare(const gdn_check_tensor *t, double quantum, const char *against,
                        gdn_check_report *report) {
    GDN_TRY(check_tensor(t));
    GDN_TRY(gdni_report_check(FUNCTION, report));
    const int axis = t->head_axis;
    const int64_t heads = axis < 0 ? 1 : t->shape[axis];
    int64_t inner = 1, outer = 1;
    for (int i = axis + 1; i < t->ndim; ++i)
        inner *= t->shape[i];
    for (int i = 0; i < axis; ++i)
        outer *= t->shape[i];
    for (int64_t h = 0; h < heads; ++h) {
        const head_elements elements = {h * inner, outer, heads * inner, inner};
        gdn_check_row row = {.head = axis < 0 ? -1 : (int32_t)h,
                             .tolerance = t->tolerance,
                             .scale_tolerance = t->scale_tolerance};
        strncpy(row.name, t->name, sizeof(row.name) - 1);
        strncpy(row.against, against, sizeof(row.against) - 1);
        /* Without a scale tolerance the scale error is informative only. */
        if (t->scale_tolerance == 0)
            row.scale_tolerance = INFINITY;
        const double least = t->least ? t->least[h] : 0;
        int64_t at = measure(&elements, t->got, t->want, least, quantum, &row);
        row.pass = row.error <= row.tolerance && row.scale_error <= row.scale_tolerance;
        row.scale_tolerance = t->scale_tolerance;
        if (at >= 0) {
            row.ndim = t->ndim;
            row.worst_got = t->got[at];
            row.worst_want = t->want[at];
            for (int i = t->ndim - 1; i >= 0; at /= t->shape[i--])
                row.worst[i] = at % t->shape[i];
        }
        GDN_TRY(gdni_report_add(report, &row));
    }
    return GDN_STATUS_OK;
}

gdn_status gdn_check_compare(const gdn_check_tensor *tensor, gdn_check_report *report) {
    gdni_clear_error();
    return gdni_compare(tensor, 0, "result", report);
}
