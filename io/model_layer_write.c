/* GDN layers of models, written. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "layer.h"
#include "model.h"

static gdn_status check_layer(const char *path, const gdn_io_model_layer *layer) {
    gdn_io_model_layer l = *layer;
    gdni_layer_tensor plain[GDNI_LAYER_TENSORS];
    GDNI_REQUIRE(memchr(l.prefix, 0, sizeof(l.prefix)) &&
                     gdni_utf8_valid(l.prefix, strlen(l.prefix)),
                 "gdn_io_model_layers_write: prefix: expected UTF-8 of at most %d bytes",
                 GDN_IO_PREFIX_SIZE - 1);
    GDN_TRY(gdni_layer_check(path, &l.layer));
    gdni_layer_list(&l.layer, &l.weights, plain);
    for (int i = 0; i < GDNI_LAYER_TENSORS; ++i) {
        GDNI_REQUIRE(*plain[i].field, "%s: tensor %s%s: expected values, found NULL", path,
                     l.prefix, plain[i].name);
        GDNI_REQUIRE(gdni_safetensors_name(l.dtype[i]),
                     "%s: tensor %s%s: expected dtype fp32, bf16 or fp16, found %s", path, l.prefix,
                     plain[i].name, gdn_dtype_name(l.dtype[i]));
    }
    GDNI_REQUIRE(
        l.naming == GDN_IO_QWEN3_5 ||
            (l.naming == GDN_IO_QWEN3_NEXT && l.dtype[0] == l.dtype[1] && l.dtype[2] == l.dtype[3]),
        "%s: tensors %s*: expected Qwen3-Next's naming with one dtype for in_proj_qkv and "
        "z, and one for b and a, or Qwen3.5's",
        path, l.prefix);
    return GDN_STATUS_OK;
}

/* What is written of one layer. */
typedef struct written {
    char names[GDNI_LAYER_TENSORS][GDNI_MODEL_NAME_SIZE];
    gdni_layer_packed packed;
} written;

/* Appends a layer's tensors to the list, and returns how many, or 0 for want of memory. */
static int list_outputs(const gdn_io_model_layer *layer, written *w,
                        gdni_safetensors_output *outputs) {
    gdn_io_model_layer l = *layer;
    gdni_layer_tensor plain[GDNI_LAYER_TENSORS];
    gdni_layer_named list[GDNI_LAYER_TENSORS];
    const int packed = l.naming == GDN_IO_QWEN3_NEXT,
              n = gdni_layer_list_named(&l.layer, l.naming, list);
    gdni_layer_list(&l.layer, &l.weights, plain);
    if (packed) {
        w->packed.qkvz = malloc((size_t)gdni_shape_count(&list[0].shape) * sizeof(float));
        w->packed.ba = malloc((size_t)gdni_shape_count(&list[1].shape) * sizeof(float));
        if (!w->packed.qkvz || !w->packed.ba)
            return 0;
        gdni_layer_interleave(&l.layer, &l.weights, &w->packed, sizeof(float), 0);
    }
    for (int i = 0; i < n; ++i) {
        const float *values =
            packed && i < 2 ? (i ? w->packed.ba : w->packed.qkvz) : *plain[list[i].first].field;
        snprintf(w->names[i], sizeof(w->names[i]), "%s%s", l.prefix, list[i].name);
        outputs[i] =
            (gdni_safetensors_output){w->names[i], l.dtype[list[i].first], list[i].shape, values};
    }
    return n;
}

/* The larger types first, which aligns all; then by name. */
static int by_dtype(const void *a, const void *b) {
    const gdni_safetensors_output *x = a, *y = b;
    return x->dtype != y->dtype ? (x->dtype > y->dtype) - (x->dtype < y->dtype)
                                : strcmp(x->name, y->name);
}

static gdn_status write_layers(const char *path, const gdn_io_model_layer *layers, size_t count) {
    gdn_status status = GDN_STATUS_OK;
    written *w = calloc(count, sizeof(*w));
    gdni_safetensors_output *outputs = calloc(count * GDNI_LAYER_TENSORS, sizeof(*outputs));
    size_t n = 0;
    int added = w && outputs;
    for (size_t i = 0; added && i < count; n += (size_t)added, ++i)
        added = list_outputs(&layers[i], &w[i], outputs + n);
    if (!added)
        status = gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, path, "no memory for the layers");
    if (status == GDN_STATUS_OK) {
        qsort(outputs, n, sizeof(*outputs), by_dtype);
        status = gdni_safetensors_write(path, outputs, n);
    }
    for (size_t i = 0; w && i < count; ++i) {
        free(w[i].packed.qkvz);
        free(w[i].packed.ba);
    }
    free(w);
    free(outputs);
    return status;
}

gdn_status gdn_io_model_layers_write(const char *path, const gdn_io_model_layer *layers,
                                     size_t count) {
    gdni_clear_error();
    GDNI_REQUIRE(path && layers && count, "gdn_io_model_layers_write: expected a path and layers");
    for (size_t i = 0; i < count; ++i) {
        GDNI_REQUIRE(layers[i].size == sizeof(layers[i]),
                     "gdn_io_model_layers_write: size is %zu, expected that of the struct, %zu",
                     layers[i].size, sizeof(layers[i]));
        GDN_TRY(check_layer(path, &layers[i]));
        for (size_t j = 0; j < i; ++j)
            GDNI_REQUIRE(strcmp(layers[i].prefix, layers[j].prefix),
                         "%s: tensors %s*: expected one layer of that prefix, found two", path,
                         layers[i].prefix);
    }
    return write_layers(path, layers, count);
}
