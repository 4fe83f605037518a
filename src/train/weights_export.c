/* The layers of a checkpoint become tensors of a model. */
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "error.h"
#include "state.h"

/* Place of the vectors among the tensors: A_log, dt_bias, norm. */
enum {
    FIRST_VECTOR = 5,
    LAST_VECTOR = 7
};

/* The shape of a checkpoint's blocks, and how many there are. */
static gdn_status read_shape(const char *path, const char *text, gdn_layer *layer,
                             int32_t *blocks) {
    const gdn_layer init = GDN_LAYER_INIT;
    gdni_config config;
    size_t count;
    const gdni_key *keys = gdni_config_keys(&count);
    gdni_config_defaults(&config);
    for (size_t i = 0; i < count; ++i) {
        char value[40], where[400];
        if (!gdni_weights_is_shape(&keys[i]))
            continue;
        gdni_config_find(text, "model", keys[i].name, value, sizeof(value));
        snprintf(where, sizeof(where), "%.320s: [model] %s", path, keys[i].name);
        if (gdni_config_set(&config, &keys[i], value, where) != GDN_STATUS_OK)
            return GDN_STATUS_BAD_FILE; /* with the line that is there */
    }
    if (config.value_heads % config.key_heads)
        return gdni_fail(GDN_STATUS_BAD_FILE,
                         "%s: [model] value_heads: expected a multiple of %lld, found %lld", path,
                         (long long)config.key_heads, (long long)config.value_heads);
    *layer = init;
    layer->D = (int32_t)config.width;
    layer->Hk = (int32_t)config.key_heads;
    layer->Hv = (int32_t)config.value_heads;
    layer->K = (int32_t)config.key_dim;
    layer->V = (int32_t)config.value_dim;
    layer->conv_width = (int32_t)config.conv_width;
    *blocks = (int32_t)config.layers;
    return GDN_STATUS_OK;
}

static int word_of(const char *const *words, int count, const char *text) {
    for (int i = 0; i < count; ++i)
        if (!strcmp(words[i], text))
            return i;
    return -1;
}

/* Nine words. */
static gdn_status read_dtypes(const char *path, int32_t block, char *line,
                              gdn_dtype dtype[GDN_IO_LAYER_TENSORS]) {
    static const char *const names[] = {"fp32", "bf16", "fp16"};
    char *rest = line;
    for (int i = 0; i < GDN_IO_LAYER_TENSORS; ++i) {
        const char *word = strtok_r(rest, " ", &rest);
        const int d = word ? word_of(names, 3, word) : -1;
        if (d < 0)
            return gdni_fail(GDN_STATUS_BAD_FILE,
                             "%s: [source] dtypes%d: expected %d of fp32, bf16, fp16, found '%s'",
                             path, block, (int)GDN_IO_LAYER_TENSORS, word ? word : "nothing");
        dtype[i] = (gdn_dtype)d;
    }
    return GDN_STATUS_OK;
}

static gdn_status read_source(const char *path, const char *text, int32_t block,
                              gdn_io_model_layer *l) {
    char key[32], value[GDNI_WEIGHTS_LINE_SIZE];
    gdni_config_find(text, "source", "naming", value, sizeof(value));
    const int naming = word_of(gdni_weights_namings, 2, value);
    if (naming < 0)
        return gdni_fail(GDN_STATUS_BAD_FILE,
                         "%s: [source] naming: expected qwen3.5 or qwen3-next, found '%s'", path,
                         value);
    l->naming = (gdn_io_layer_naming)naming;
    snprintf(key, sizeof(key), "prefix%d", block);
    gdni_config_find(text, "source", key, value, sizeof(value));
    if (strlen(value) >= sizeof(l->prefix))
        return gdni_fail(GDN_STATUS_BAD_FILE, "%s: [source] %s: expected at most %d bytes", path,
                         key, GDN_IO_PREFIX_SIZE - 1);
    strcpy(l->prefix, value);
    snprintf(key, sizeof(key), "dtypes%d", block);
    gdni_config_find(text, "source", key, value, sizeof(value));
    return read_dtypes(path, block, value, l->dtype);
}

/* How block `block` is to be written: as the caller wants, the checkpoint says, or by default. */
static gdn_status describe(const gdni_weights_export *export, const char *text, int32_t block,
                           gdn_io_model_layer *l) {
    const int imported = gdni_weights_imported(text);
    if (imported)
        GDN_TRY(read_source(export->checkpoint, text, block, l));
    if (!imported || export->layers || export->prefix) {
        const int length = snprintf(l->prefix, sizeof(l->prefix), "%s.%d.linear_attn.",
                                    export->prefix ? export->prefix : "model.layers",
                                    export->layers ? export->layers[block] : block);
        GDNI_REQUIRE(length < (int)sizeof(l->prefix),
                     "prefix: expected at most %d bytes with what follows, found %d",
                     GDN_IO_PREFIX_SIZE - 1, length);
    }
    if (export->naming >= 0)
        l->naming = (gdn_io_layer_naming) export->naming;
    for (int i = 0; export->dtype >= 0 && i < GDN_IO_LAYER_TENSORS; ++i)
        l->dtype[i] =
            i >= FIRST_VECTOR && i <= LAST_VECTOR ? GDN_DTYPE_FP32 : (gdn_dtype) export->dtype;
    return GDN_STATUS_OK;
}

/* Shapes are checked before memory is taken for them: [model] may say anything. */
static gdn_status read_block(gdn_io_checkpoint *file, const char *path, int32_t block,
                             gdn_io_model_layer *l) {
    gdni_weights_tensor list[GDN_IO_LAYER_TENSORS];
    gdni_weights_list(block, &l->layer, &l->weights, list);
    for (int i = 0; i < GDN_IO_LAYER_TENSORS; ++i) {
        gdn_io_entry *e = &list[i].entry;
        int32_t ndim;
        int64_t shape[4];
        e->name = list[i].name;
        GDN_TRY(gdn_io_checkpoint_shape(file, e->name, e->type, &ndim, shape));
        if (ndim != e->ndim || memcmp(shape, e->shape, sizeof(shape)))
            return gdni_fail(GDN_STATUS_BAD_FILE,
                             "%s: dataset %s: expected the shape that [model] in config says, "
                             "found another",
                             path, e->name);
        *list[i].field =
            malloc((size_t)(e->shape[0] * (e->ndim == 2 ? e->shape[1] : 1)) * sizeof(float));
        if (!*list[i].field)
            return gdni_weights_no_memory(path);
        GDN_TRY(gdn_io_checkpoint_read(file, e, *list[i].field));
    }
    return GDN_STATUS_OK;
}

static gdn_status export_file(gdni_weights_export *export, gdn_io_checkpoint *file,
                              const char *text) {
    gdn_layer layer;
    GDN_TRY(read_shape(export->checkpoint, text, &layer, &export->blocks));
    GDNI_REQUIRE(!export->layers || export->count == export->blocks,
                 "%s: expected the numbers of %d layers, one a block, found %d", export->checkpoint,
                 export->blocks, export->count);
    gdn_io_model_layer *layers = calloc((size_t) export->blocks, sizeof(*layers));
    gdn_status status = layers ? GDN_STATUS_OK : gdni_weights_no_memory(export->checkpoint);
    for (int32_t i = 0; status == GDN_STATUS_OK && i < export->blocks; ++i) {
        layers[i].size = sizeof(layers[i]);
        layers[i].layer = layer;
        status = describe(export, text, i, &layers[i]);
        if (status == GDN_STATUS_OK)
            status = read_block(file, export->checkpoint, i, &layers[i]);
    }
    if (status == GDN_STATUS_OK)
        status = gdn_io_model_layers_write(export->out, layers, (size_t) export->blocks);
    gdni_weights_free(layers, export->blocks);
    return status;
}

gdn_status gdni_weights_write(gdni_weights_export *export) {
    gdni_weights_export e = *export;
    gdn_io_checkpoint *file = NULL;
    char *text = NULL, newest[4096];
    struct stat about;
    if (!stat(e.checkpoint, &about) && S_ISDIR(about.st_mode)) {
        GDN_TRY(gdn_io_checkpoint_latest(e.checkpoint, newest, sizeof(newest)));
        e.checkpoint = newest;
    }
    GDN_TRY(gdn_io_checkpoint_open(e.checkpoint, &file));
    gdn_status status = gdni_state_read_config(file, &text);
    if (status == GDN_STATUS_OK)
        status = export_file(&e, file, text);
    export->blocks = e.blocks;
    free(text);
    gdn_io_checkpoint_close(file);
    return status;
}
