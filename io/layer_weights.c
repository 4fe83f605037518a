/*
 * Weights of a layer under Hugging Face's names. Qwen3-Next keeps two of its projections
 * interleaved per k-head, with r = Hv / Hk v-heads each:
 *
 *     in_proj_qkvz   Hk groups of  K rows of q, K of k, r V of v, r V of z
 *     in_proj_ba     Hk groups of  r rows of b, r of a
 */
#include "layer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WEIGHTS = 9,
    PROJECTIONS = 4, /* the first of them, which Qwen3-Next keeps in two tensors */
    NAME_SIZE = 48
};

typedef struct weight {
    const char *name;
    void **field;
    gdni_shape shape;
} weight;

static void list_weights(const gdn_layer *l, gdn_layer_weights *w, weight list[WEIGHTS]) {
    const int64_t C = 2 * (int64_t)l->Hk * l->K + (int64_t)l->Hv * l->V;
    const int64_t HV = (int64_t)l->Hv * l->V;
    const weight all[WEIGHTS] = {
        {"in_proj_qkv.weight", &w->in_proj_qkv, {"[2 Hk K + Hv V, D]", 2, {C, l->D}}},
        {"in_proj_z.weight", &w->in_proj_z, {"[Hv V, D]", 2, {HV, l->D}}},
        {"in_proj_b.weight", &w->in_proj_b, {"[Hv, D]", 2, {l->Hv, l->D}}},
        {"in_proj_a.weight", &w->in_proj_a, {"[Hv, D]", 2, {l->Hv, l->D}}},
        {"conv1d.weight", &w->conv1d, {"[2 Hk K + Hv V, 1, W]", 3, {C, 1, l->conv_width}}},
        {"A_log", &w->A_log, {"[Hv]", 1, {l->Hv}}},
        {"dt_bias", &w->dt_bias, {"[Hv]", 1, {l->Hv}}},
        {"norm.weight", &w->norm, {"[V]", 1, {l->V}}},
        {"out_proj.weight", &w->out_proj, {"[D, Hv V]", 2, {l->D, HV}}},
    };
    memcpy(list, all, sizeof(all));
}

static gdni_shape qkvz_shape(const gdn_layer *l) {
    const gdni_shape shape = {
        "[2 Hk K + 2 Hv V, D]", 2, {2 * ((int64_t)l->Hk * l->K + (int64_t)l->Hv * l->V), l->D}};
    return shape;
}

static gdni_shape ba_shape(const gdn_layer *l) {
    const gdni_shape shape = {"[2 Hv, D]", 2, {2 * (int64_t)l->Hv, l->D}};
    return shape;
}

/* Copies `rows` rows a k-head between a plain matrix and an interleaved one, where each k-head has
 * `group` rows and these begin at `offset`. */
static void copy_rows(const gdn_layer *l, double *plain, double *interleaved, int64_t rows,
                      int64_t group, int64_t offset, int to_plain) {
    const size_t bytes = (size_t)(rows * l->D) * sizeof(double);
    for (int64_t h = 0; h < l->Hk; ++h) {
        double *a = plain + h * rows * l->D, *b = interleaved + (h * group + offset) * l->D;
        memcpy(to_plain ? a : b, to_plain ? b : a, bytes);
    }
}

static void convert(const gdn_layer *l, const gdn_layer_weights *w, double *qkvz, double *ba,
                    int to_plain) {
    const int64_t K = l->K, r = l->Hv / l->Hk, group = 2 * (K + r * l->V);
    double *q = w->in_proj_qkv, *k = q + l->Hk * K * l->D, *v = k + l->Hk * K * l->D;
    copy_rows(l, q, qkvz, K, group, 0, to_plain);
    copy_rows(l, k, qkvz, K, group, K, to_plain);
    copy_rows(l, v, qkvz, r * l->V, group, 2 * K, to_plain);
    copy_rows(l, w->in_proj_z, qkvz, r * l->V, group, 2 * K + r * l->V, to_plain);
    copy_rows(l, w->in_proj_b, ba, r, 2 * r, 0, to_plain);
    copy_rows(l, w->in_proj_a, ba, r, 2 * r, r, to_plain);
}

/* --- Reading --- */

gdn_status gdni_layer_read_about(const gdni_file *file, gdn_layer *layer) {
    const gdn_layer init = GDN_LAYER_INIT;
    int64_t Hk, K;
    *layer = init;
    GDN_TRY(gdni_attr_read_int(file, "Hk", 1, 65536, &Hk));
    GDN_TRY(gdni_attr_read_int(file, "K", 1, 65536, &K));
    layer->Hk = (int32_t)Hk;
    layer->K = (int32_t)K;
    return GDN_STATUS_OK;
}

/* One dim of a weight that says a dim of the layer. */
static gdn_status read_dim(const gdni_file *file, const char *prefix, const char *name,
                           gdni_shape shape, int which, int32_t *dim) {
    char full[NAME_SIZE];
    snprintf(full, sizeof(full), "%s%s", prefix, name);
    GDN_TRY(gdni_tensor_check(file, full, GDNI_REAL, &shape));
    if (shape.dim[which] < 1 || shape.dim[which] > 65536)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "dataset %s: expected a dimension from 1 to 65536, found %" PRId64,
                            full, shape.dim[which]);
    *dim = (int32_t)shape.dim[which];
    return GDN_STATUS_OK;
}

/* conv1d.weight may lack its middle dimension of 1. */
static gdn_status conv_shape(const gdni_file *file, const char *prefix, const gdn_layer *l,
                             gdni_shape *shape) {
    char full[NAME_SIZE];
    gdni_shape any = {"[2 Hk K + Hv V, 1, W]", -1, {-1, -1, -1, -1}};
    const int64_t C = 2 * (int64_t)l->Hk * l->K + (int64_t)l->Hv * l->V;
    const gdni_shape plain = {"[2 Hk K + Hv V, W]", 2, {C, -1}},
                     full_shape = {any.symbols, 3, {C, 1, -1}};
    snprintf(full, sizeof(full), "%sconv1d.weight", prefix);
    GDN_TRY(gdni_tensor_check(file, full, GDNI_REAL, &any));
    *shape = any.ndim == 2 ? plain : full_shape;
    return GDN_STATUS_OK;
}

static gdn_status read_interleaved(const gdni_file *file, const char *prefix, const gdn_layer *l,
                                   gdn_layer_weights *w) {
    char name[NAME_SIZE];
    double *qkvz = NULL, *ba = NULL;
    gdni_shape qkvz_is = qkvz_shape(l), ba_is = ba_shape(l);
    weight list[WEIGHTS];
    gdn_status status;
    snprintf(name, sizeof(name), "%sin_proj_qkvz.weight", prefix);
    GDN_TRY_GOTO(gdni_tensor_read_real(file, name, &qkvz_is, &qkvz), cleanup);
    snprintf(name, sizeof(name), "%sin_proj_ba.weight", prefix);
    GDN_TRY_GOTO(gdni_tensor_read_real(file, name, &ba_is, &ba), cleanup);
    list_weights(l, w, list);
    for (int i = 0; i < PROJECTIONS; ++i) {
        const int64_t count = gdni_shape_count(&list[i].shape);
        *list[i].field = malloc((size_t)(count ? count : 1) * sizeof(double));
        if (!*list[i].field) {
            status = gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, file->path, "no memory for %s", name);
            goto cleanup;
        }
    }
    convert(l, w, qkvz, ba, 1);
cleanup:
    free(qkvz);
    free(ba);
    return status;
}

gdn_status gdni_layer_read_weights(const gdni_file *file, const char *prefix, gdn_layer *l,
                                   gdn_io_layer_naming *naming, gdn_layer_weights *w) {
    const gdni_shape heads = {"[Hv]", 1, {-1}}, norm = {"[V]", 1, {-1}};
    gdni_shape conv;
    char name[NAME_SIZE];
    weight list[WEIGHTS];
    int interleaved;
    GDN_TRY(read_dim(file, prefix, "A_log", heads, 0, &l->Hv));
    GDN_TRY(read_dim(file, prefix, "norm.weight", norm, 0, &l->V));
    if (l->Hv % l->Hk)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "dataset %sA_log: expected a multiple of Hk = %d heads, found %d",
                            prefix, l->Hk, l->Hv);
    GDN_TRY(conv_shape(file, prefix, l, &conv));
    GDN_TRY(read_dim(file, prefix, "conv1d.weight", conv, conv.ndim - 1, &l->conv_width));
    conv.dim[conv.ndim - 1] = l->conv_width;
    snprintf(name, sizeof(name), "%sin_proj_qkvz.weight", prefix);
    GDN_TRY(gdni_tensor_exists(file, name, &interleaved));
    *naming = interleaved ? GDN_IO_QWEN3_NEXT : GDN_IO_QWEN3_5;
    if (interleaved)
        GDN_TRY(read_interleaved(file, prefix, l, w));
    list_weights(l, w, list);
    list[PROJECTIONS].shape = conv;
    for (int i = interleaved ? PROJECTIONS : 0; i < WEIGHTS; ++i) {
        snprintf(name, sizeof(name), "%s%s", prefix, list[i].name);
        GDN_TRY(gdni_tensor_read_real(file, name, &list[i].shape, (double **)list[i].field));
    }
    return GDN_STATUS_OK;
}

void gdni_layer_free_weights(gdn_layer_weights *w) {
    const gdn_layer none = GDN_LAYER_INIT;
    weight list[WEIGHTS];
    list_weights(&none, w, list);
    for (int i = 0; i < WEIGHTS; ++i) {
        free(*list[i].field);
        *list[i].field = NULL;
    }
}

/* --- Writing --- */

gdn_status gdni_layer_check(const char *path, const gdn_layer *l) {
    const struct {
        const char *name;
        int64_t value, low;
    } dims[] = {{"T", l->T, 0},   {"N", l->N, 1}, {"D", l->D, 1}, {"Hk", l->Hk, 1},
                {"Hv", l->Hv, 1}, {"K", l->K, 1}, {"V", l->V, 1}, {"conv_width", l->conv_width, 1}};
    for (size_t i = 0; i < sizeof(dims) / sizeof(dims[0]); ++i)
        if (dims[i].value < dims[i].low || (i > 1 && dims[i].value > 65536))
            return gdni_io_fail(GDN_STATUS_INVALID_ARGUMENT, path,
                                "layer.%s is %" PRId64 ", expected %" PRId64 " to 65536",
                                dims[i].name, dims[i].value, dims[i].low);
    if (l->Hv % l->Hk)
        return gdni_io_fail(GDN_STATUS_INVALID_ARGUMENT, path,
                            "layer.Hv is %d, expected a multiple of Hk = %d", l->Hv, l->Hk);
    return GDN_STATUS_OK;
}

gdn_status gdni_layer_check_weights(gdn_status bad, const char *path, const char *prefix,
                                    const gdn_layer *l, const gdn_layer_weights *weights) {
    gdn_layer_weights w = *weights;
    weight list[WEIGHTS];
    list_weights(l, &w, list);
    for (int i = 0; i < WEIGHTS; ++i) {
        char name[NAME_SIZE];
        snprintf(name, sizeof(name), "%s%s", prefix, list[i].name);
        if (!*list[i].field)
            return gdni_io_fail(GDN_STATUS_INVALID_ARGUMENT, path,
                                "dataset %s: expected values, found NULL", name);
        GDN_TRY(gdni_check_finite(bad, path, name, &list[i].shape, *list[i].field));
    }
    return GDN_STATUS_OK;
}

int gdni_layer_weights_fit_float(const gdn_layer *l, const gdn_layer_weights *weights) {
    gdn_layer_weights w = *weights;
    weight list[WEIGHTS];
    int fits = 1;
    list_weights(l, &w, list);
    for (int i = 0; fits && i < WEIGHTS; ++i)
        fits = gdni_fits_float(*list[i].field, gdni_shape_count(&list[i].shape));
    return fits;
}

static gdn_status write_interleaved(const gdni_writer *writer, const char *prefix,
                                    const gdn_layer *l, const gdn_layer_weights *w,
                                    hid_t file_type) {
    const gdni_shape shapes[2] = {qkvz_shape(l), ba_shape(l)};
    double *qkvz = malloc((size_t)gdni_shape_count(&shapes[0]) * sizeof(double));
    double *ba = malloc((size_t)gdni_shape_count(&shapes[1]) * sizeof(double));
    char name[NAME_SIZE];
    gdn_status status;
    if (!qkvz || !ba) {
        status = gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, writer->target, "no memory for weights");
        goto cleanup;
    }
    convert(l, w, qkvz, ba, 0);
    snprintf(name, sizeof(name), "%sin_proj_qkvz.weight", prefix);
    GDN_TRY_GOTO(gdni_tensor_write(writer, name, &shapes[0], file_type, H5T_NATIVE_DOUBLE, qkvz),
                 cleanup);
    snprintf(name, sizeof(name), "%sin_proj_ba.weight", prefix);
    status = gdni_tensor_write(writer, name, &shapes[1], file_type, H5T_NATIVE_DOUBLE, ba);
cleanup:
    free(qkvz);
    free(ba);
    return status;
}

gdn_status gdni_layer_write_weights(const gdni_writer *writer, const char *prefix,
                                    const gdn_layer *l, gdn_io_layer_naming naming,
                                    const gdn_layer_weights *weights, hid_t file_type) {
    gdn_layer_weights w = *weights;
    weight list[WEIGHTS];
    const int interleaved = naming == GDN_IO_QWEN3_NEXT;
    list_weights(l, &w, list);
    if (interleaved)
        GDN_TRY(write_interleaved(writer, prefix, l, &w, file_type));
    for (int i = interleaved ? PROJECTIONS : 0; i < WEIGHTS; ++i) {
        char name[NAME_SIZE];
        snprintf(name, sizeof(name), "%s%s", prefix, list[i].name);
        GDN_TRY(gdni_tensor_write(writer, name, &list[i].shape, file_type, H5T_NATIVE_DOUBLE,
                                  *list[i].field));
    }
    return GDN_STATUS_OK;
}
