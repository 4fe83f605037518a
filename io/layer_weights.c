/* Weights of a layer in HDF5 files, under either naming. */
#include "layer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    NAME_SIZE = 48
};

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
    gdni_layer_packed packed = {NULL, NULL};
    gdni_shape qkvz_is = gdni_layer_qkvz_shape(l), ba_is = gdni_layer_ba_shape(l);
    gdni_layer_tensor list[GDNI_LAYER_TENSORS];
    gdn_status status;
    snprintf(name, sizeof(name), "%sin_proj_qkvz.weight", prefix);
    GDN_TRY_GOTO(gdni_tensor_read_real(file, name, &qkvz_is, (double **)&packed.qkvz), cleanup);
    snprintf(name, sizeof(name), "%sin_proj_ba.weight", prefix);
    GDN_TRY_GOTO(gdni_tensor_read_real(file, name, &ba_is, (double **)&packed.ba), cleanup);
    gdni_layer_list(l, w, list);
    for (int i = 0; i < GDNI_LAYER_PROJECTIONS; ++i) {
        const int64_t count = gdni_shape_count(&list[i].shape);
        *list[i].field = malloc((size_t)(count ? count : 1) * sizeof(double));
        if (!*list[i].field) {
            status = gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, file->path, "no memory for %s", name);
            goto cleanup;
        }
    }
    gdni_layer_interleave(l, w, &packed, sizeof(double), 1);
cleanup:
    free(packed.qkvz);
    free(packed.ba);
    return status;
}

gdn_status gdni_layer_read_weights(const gdni_file *file, const char *prefix, gdn_layer *l,
                                   gdn_io_layer_naming *naming, gdn_layer_weights *w) {
    const gdni_shape heads = {"[Hv]", 1, {-1}}, norm = {"[V]", 1, {-1}};
    gdni_shape conv;
    char name[NAME_SIZE];
    gdni_layer_tensor list[GDNI_LAYER_TENSORS];
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
    gdni_layer_list(l, w, list);
    list[GDNI_LAYER_PROJECTIONS].shape = conv;
    for (int i = interleaved ? GDNI_LAYER_PROJECTIONS : 0; i < GDNI_LAYER_TENSORS; ++i) {
        snprintf(name, sizeof(name), "%s%s", prefix, list[i].name);
        GDN_TRY(gdni_tensor_read_real(file, name, &list[i].shape, (double **)list[i].field));
    }
    return GDN_STATUS_OK;
}

void gdni_layer_free_weights(gdn_layer_weights *w) {
    const gdn_layer none = GDN_LAYER_INIT;
    gdni_layer_tensor list[GDNI_LAYER_TENSORS];
    gdni_layer_list(&none, w, list);
    for (int i = 0; i < GDNI_LAYER_TENSORS; ++i) {
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
    gdni_layer_tensor list[GDNI_LAYER_TENSORS];
    gdni_layer_list(l, &w, list);
    for (int i = 0; i < GDNI_LAYER_TENSORS; ++i) {
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
    gdni_layer_tensor list[GDNI_LAYER_TENSORS];
    int fits = 1;
    gdni_layer_list(l, &w, list);
    for (int i = 0; fits && i < GDNI_LAYER_TENSORS; ++i)
        fits = gdni_fits_float(*list[i].field, gdni_shape_count(&list[i].shape));
    return fits;
}

static gdn_status write_interleaved(const gdni_writer *writer, const char *prefix,
                                    const gdn_layer *l, const gdn_layer_weights *w,
                                    hid_t file_type) {
    const gdni_shape shapes[2] = {gdni_layer_qkvz_shape(l), gdni_layer_ba_shape(l)};
    const gdni_layer_packed packed = {
        malloc((size_t)gdni_shape_count(&shapes[0]) * sizeof(double)),
        malloc((size_t)gdni_shape_count(&shapes[1]) * sizeof(double))};
    char name[NAME_SIZE];
    gdn_status status;
    if (!packed.qkvz || !packed.ba) {
        status = gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, writer->target, "no memory for weights");
        goto cleanup;
    }
    gdni_layer_interleave(l, w, &packed, sizeof(double), 0);
    snprintf(name, sizeof(name), "%sin_proj_qkvz.weight", prefix);
    GDN_TRY_GOTO(
        gdni_tensor_write(writer, name, &shapes[0], file_type, H5T_NATIVE_DOUBLE, packed.qkvz),
        cleanup);
    snprintf(name, sizeof(name), "%sin_proj_ba.weight", prefix);
    status = gdni_tensor_write(writer, name, &shapes[1], file_type, H5T_NATIVE_DOUBLE, packed.ba);
cleanup:
    free(packed.qkvz);
    free(packed.ba);
    return status;
}

gdn_status gdni_layer_write_weights(const gdni_writer *writer, const char *prefix,
                                    const gdn_layer *l, gdn_io_layer_naming naming,
                                    const gdn_layer_weights *weights, hid_t file_type) {
    gdn_layer_weights w = *weights;
    gdni_layer_tensor list[GDNI_LAYER_TENSORS];
    const int interleaved = naming == GDN_IO_QWEN3_NEXT;
    gdni_layer_list(l, &w, list);
    if (interleaved)
        GDN_TRY(write_interleaved(writer, prefix, l, &w, file_type));
    for (int i = interleaved ? GDNI_LAYER_PROJECTIONS : 0; i < GDNI_LAYER_TENSORS; ++i) {
        char name[NAME_SIZE];
        snprintf(name, sizeof(name), "%s%s", prefix, list[i].name);
        GDN_TRY(gdni_tensor_write(writer, name, &list[i].shape, file_type, H5T_NATIVE_DOUBLE,
                                  *list[i].field));
    }
    return GDN_STATUS_OK;
}
