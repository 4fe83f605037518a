/* Layers of a model become a checkpoint. */
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

static gdn_status check_layer(const gdni_weights_import *import, int32_t block,
                              const gdn_io_model_layer *layers) {
    const gdn_io_model_layer *l = &layers[block];
    const gdn_layer *a = &l->layer, *b = &layers[0].layer;
    const int32_t number = import->layers[block];
    if (a->norm_eps != GDNI_LM_EPS)
        return gdni_fail(GDN_STATUS_UNSUPPORTED,
                         "%s: layer %d: expected rms_norm_eps = %g, found %g", import->model,
                         number, GDNI_LM_EPS, a->norm_eps);
    if (a->D != b->D || a->Hk != b->Hk || a->Hv != b->Hv || a->K != b->K || a->V != b->V ||
        a->conv_width != b->conv_width || l->naming != layers[0].naming)
        return gdni_fail(GDN_STATUS_UNSUPPORTED,
                         "%s: layer %d: expected shape and naming of layer %d, found others",
                         import->model, number, import->layers[0]);
    for (const char *c = l->prefix; *c; ++c)
        if (*c <= ' ' || *c > '~')
            return gdni_fail(GDN_STATUS_UNSUPPORTED,
                             "%s: layer %d: expected tensor names of printable ASCII, found others",
                             import->model, number);
    return GDN_STATUS_OK;
}

static gdn_status make_config(const gdni_weights_import *import, const gdn_io_model_layer *layers,
                              char **text) {
    const gdn_layer *l = &import->layer;
    const size_t size = 512 + (size_t)import->count * GDNI_WEIGHTS_LINE_SIZE;
    *text = malloc(size);
    if (!*text)
        return gdni_weights_no_memory(import->out);
    size_t used = (size_t)snprintf(
        *text, size,
        "[model]\nwidth = %d\nlayers = %d\nkey_heads = %d\nvalue_heads = %d\nkey_dim = %d\n"
        "value_dim = %d\nconv_width = %d\n\n[source]\nnaming = %s\n",
        l->D, import->count, l->Hk, l->Hv, l->K, l->V, l->conv_width,
        gdni_weights_namings[layers[0].naming]);
    for (int32_t i = 0; i < import->count; ++i) {
        used += (size_t)snprintf(*text + used, size - used, "prefix%d = %s\ndtypes%d =", i,
                                 layers[i].prefix, i);
        for (int t = 0; t < GDN_IO_LAYER_TENSORS; ++t)
            used += (size_t)snprintf(*text + used, size - used, " %s",
                                     gdn_dtype_name(layers[i].dtype[t]));
        used += (size_t)snprintf(*text + used, size - used, "\n");
    }
    return GDN_STATUS_OK;
}

static gdn_status write_checkpoint(const gdni_weights_import *import, gdn_io_model_layer *layers) {
    const size_t count = (size_t)import->count * GDN_IO_LAYER_TENSORS;
    gdni_weights_tensor *list = calloc(count, sizeof(*list));
    gdn_io_entry *entries = calloc(count + 1, sizeof(*entries));
    char *config = NULL;
    gdn_status status = list && entries ? make_config(import, layers, &config)
                                        : gdni_weights_no_memory(import->out);
    if (status == GDN_STATUS_OK) {
        for (int32_t b = 0; b < import->count; ++b)
            gdni_weights_list(b, &layers[b].layer, &layers[b].weights,
                              list + b * GDN_IO_LAYER_TENSORS);
        for (size_t i = 0; i < count; ++i) {
            entries[i] = list[i].entry;
            entries[i].name = list[i].name;
            entries[i].data = *list[i].field;
        }
        entries[count] = (gdn_io_entry){.name = "config",
                                        .type = GDN_IO_TEXT,
                                        .ndim = 1,
                                        .shape = {(int64_t)strlen(config)},
                                        .data = config};
        status = gdn_io_checkpoint_write_file(import->out, 0, entries, count + 1);
    }
    free(config);
    free(entries);
    free(list);
    return status;
}

gdn_status gdni_weights_read(gdni_weights_import *import) {
    gdn_io_model_layer *layers = calloc((size_t)import->count, sizeof(*layers));
    gdn_status status = layers ? GDN_STATUS_OK : gdni_weights_no_memory(import->model);
    for (int32_t i = 0; status == GDN_STATUS_OK && i < import->count; ++i) {
        layers[i].size = sizeof(layers[i]);
        status = gdn_io_model_layer_read(import->model, import->layers[i], import->key_heads,
                                         &layers[i]);
        if (status == GDN_STATUS_OK)
            status = check_layer(import, i, layers);
    }
    if (status == GDN_STATUS_OK) {
        import->layer = layers[0].layer;
        import->naming = layers[0].naming;
        status = write_checkpoint(import, layers);
    }
    gdni_weights_free(layers, import->count);
    return status;
}
