/* Names and shapes of the operator's and the layer's tensors. */
#include "check.h"
#include "internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static gdni_shape make(const char *name, int32_t ndim, int32_t head_axis, int64_t a, int64_t b,
                       int64_t c, int64_t d) {
    gdni_shape s = {name, ndim, head_axis, {a, b, c, d}, 1};
    for (int i = 0; i < ndim; ++i)
        s.count *= s.shape[i];
    return s;
}

static int is(const char *name, const char *a, const char *b) {
    return !strcmp(name, a) || !strcmp(name, b);
}

void gdni_format_place(const gdni_shape *s, int64_t index, char text[96]) {
    int64_t place[GDN_CHECK_MAX_DIMS];
    int used = 0;
    for (int i = s->ndim - 1; i >= 0; index /= s->shape[i--])
        place[i] = index % s->shape[i];
    for (int i = 0; i < s->ndim; ++i)
        used += snprintf(text + used, 96 - (size_t)used, "%s%" PRId64, i ? ", " : "[", place[i]);
    snprintf(text + used, 96 - (size_t)used, "]");
}

gdni_shape gdni_operator_shape(const gdn_problem *p, const char *name) {
    if (is(name, "q", "k") || is(name, "dq", "dk"))
        return make(name, 3, 1, p->T, p->Hk, p->K, 0);
    if (is(name, "v", "dv") || is(name, "o", "do"))
        return make(name, 3, 1, p->T, p->Hv, p->V, 0);
    if (is(name, "g", "dg") || is(name, "beta", "dbeta"))
        return make(name, 2, 1, p->T, p->Hv, 0, 0);
    return make(name, 4, 1, p->N, p->Hv, p->K, p->V);
}

gdni_shape gdni_layer_weight_shape(const gdn_layer *l, int i) {
    const int64_t values = (int64_t)l->Hv * l->V, channels = 2 * (int64_t)l->Hk * l->K + values;
    switch (i) {
    case 0:
        return make("in_proj_qkv", 2, -1, channels, l->D, 0, 0);
    case 1:
        return make("in_proj_z", 2, -1, values, l->D, 0, 0);
    case 2:
        return make("in_proj_b", 2, 0, l->Hv, l->D, 0, 0);
    case 3:
        return make("in_proj_a", 2, 0, l->Hv, l->D, 0, 0);
    case 4:
        return make("conv1d", 2, -1, channels, l->conv_width, 0, 0);
    case GDNI_LAYER_A_LOG:
        return make("A_log", 1, 0, l->Hv, 0, 0, 0);
    case GDNI_LAYER_DT_BIAS:
        return make("dt_bias", 1, 0, l->Hv, 0, 0, 0);
    case GDNI_LAYER_NORM:
        return make("norm", 1, -1, l->V, 0, 0, 0);
    default:
        return make("out_proj", 2, -1, l->D, values, 0, 0);
    }
}

void **gdni_layer_weight(const gdn_layer_weights *weights, int i) {
    gdn_layer_weights *w = (gdn_layer_weights *)weights;
    void **const members[GDNI_LAYER_WEIGHTS] = {&w->in_proj_qkv, &w->in_proj_z, &w->in_proj_b,
                                                &w->in_proj_a,   &w->conv1d,    &w->A_log,
                                                &w->dt_bias,     &w->norm,      &w->out_proj};
    return members[i];
}

gdn_dtype gdni_layer_weight_dtype(gdn_dtype dtype, int i) {
    return i == GDNI_LAYER_A_LOG || i == GDNI_LAYER_DT_BIAS ? gdni_state_dtype(dtype) : dtype;
}

gdni_shape gdni_layer_activation_shape(const gdn_layer *l, const char *name) {
    return make(name, 2, -1, l->T, l->D, 0, 0);
}

/* A run of heads of a weight, named by its part; `first` counts elements. */
static gdn_status compare_part(const gdni_shape *part, const double *got, const double *want,
                               int64_t first, gdn_dtype dtype, double factor, const char *against,
                               gdn_check_report *report) {
    return gdni_compare_standing(part, got + first, want + first, dtype, factor, against, report);
}

gdn_status gdni_compare_layer_weight(const gdn_layer *l, int i, const double *got,
                                     const double *want, double factor, const char *against,
                                     gdn_check_report *report) {
    const gdni_shape whole = gdni_layer_weight_shape(l, i);
    const int64_t keys = (int64_t)l->Hk * l->K;
    if (i == 0 || i == 4) {
        /* Rows are channels: the heads of q, of k, of v. */
        const int64_t row = whole.shape[1];
        const gdni_shape parts[3] = {
            make(i ? "conv1d.q" : "in_proj_qkv.q", 3, 0, l->Hk, l->K, row, 0),
            make(i ? "conv1d.k" : "in_proj_qkv.k", 3, 0, l->Hk, l->K, row, 0),
            make(i ? "conv1d.v" : "in_proj_qkv.v", 3, 0, l->Hv, l->V, row, 0)};
        for (int part = 0; part < 3; ++part)
            GDN_TRY(compare_part(&parts[part], got, want, part * keys * row, l->dtype, factor,
                                 against, report));
        return GDN_STATUS_OK;
    }
    gdni_shape split = whole;
    if (i == 1)
        split = make("in_proj_z", 3, 0, l->Hv, l->V, l->D, 0);
    if (i == GDNI_LAYER_OUT_PROJ)
        split = make("out_proj", 3, 1, l->D, l->Hv, l->V, 0);
    return compare_part(&split, got, want, 0, l->dtype, factor, against, report);
}
