#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "error.h"

enum {
    TENSORS = GDN_IO_LAYER_TENSORS,
    NAME_SIZE = 72,
    LINE_SIZE = GDN_IO_PREFIX_SIZE + 128 /* of a block in [source] */
};

/* Place of the vectors among the tensors: A_log, dt_bias, norm. */
enum {
    FIRST_VECTOR = 5,
    LAST_VECTOR = 7
};

static const char *const namings[] = {
    [GDN_IO_QWEN3_5] = "qwen3.5", [GDN_IO_QWEN3_NEXT] = "qwen3-next"};

/* A weight as a checkpoint's entry. */
typedef struct tensor {
    char name[NAME_SIZE];
    gdn_io_entry entry; /* name and data not set */
    void **field;
} tensor;

static void list_tensors(int32_t block, const gdn_layer *l, gdn_layer_weights *w,
                         tensor list[TENSORS]) {
    const int64_t D = l->D, HV = (int64_t)l->Hv * l->V, C = 2 * (int64_t)l->Hk * l->K + HV;
    const struct {
        const char *name;
        void **field;
        int64_t rows, columns; /* columns 0: a vector */
    } all[TENSORS] = {
        {"in_proj_qkv", &w->in_proj_qkv, C, D},   {"in_proj_z", &w->in_proj_z, HV, D},
        {"in_proj_b", &w->in_proj_b, l->Hv, D},   {"in_proj_a", &w->in_proj_a, l->Hv, D},
        {"conv1d", &w->conv1d, C, l->conv_width}, {"A_log", &w->A_log, l->Hv, 0},
        {"dt_bias", &w->dt_bias, l->Hv, 0},       {"norm", &w->norm, l->V, 0},
        {"out_proj", &w->out_proj, D, HV}};
    for (int i = 0; i < TENSORS; ++i) {
        snprintf(list[i].name, NAME_SIZE, "model/blocks.%d.gdn.%s", block, all[i].name);
        list[i].field = all[i].field;
        list[i].entry = (gdn_io_entry){.type = GDN_IO_F32,
                                       .ndim = all[i].columns ? 2 : 1,
                                       .shape = {all[i].rows, all[i].columns}};
    }
}

static gdn_status no_memory(const char *path) {
    return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "%s: no memory for its layers", path);
}

static void free_layers(gdn_io_model_layer *layers, int32_t count) {
    for (int32_t i = 0; layers && i < count; ++i)
        gdn_io_model_layer_free(&layers[i]);
    free(layers);
}

/* --- From a model to a checkpoint --- */

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
    const size_t size = 512 + (size_t)import->count * LINE_SIZE;
    *text = malloc(size);
    if (!*text)
        return no_memory(import->out);
    size_t used = (size_t)snprintf(
        *text, size,
        "[model]\nwidth = %d\nlayers = %d\nkey_heads = %d\nvalue_heads = %d\nkey_dim = %d\n"
        "value_dim = %d\nconv_width = %d\n\n[source]\nnaming = %s\n",
        l->D, import->count, l->Hk, l->Hv, l->K, l->V, l->conv_width, namings[layers[0].naming]);
    for (int32_t i = 0; i < import->count; ++i) {
        used += (size_t)snprintf(*text + used, size - used, "prefix%d = %s\ndtypes%d =", i,
                                 layers[i].prefix, i);
        for (int t = 0; t < TENSORS; ++t)
            used += (size_t)snprintf(*text + used, size - used, " %s",
                                     gdn_dtype_name(layers[i].dtype[t]));
        used += (size_t)snprintf(*text + used, size - used, "\n");
    }
    return GDN_STATUS_OK;
}

static gdn_status write_checkpoint(const gdni_weights_import *import, gdn_io_model_layer *layers) {
    const size_t count = (size_t)import->count * TENSORS;
    tensor *list = calloc(count, sizeof(*list));
    gdn_io_entry *entries = calloc(count + 1, sizeof(*entries));
    char *config = NULL;
    gdn_status status =
        list && entries ? make_config(import, layers, &config) : no_memory(import->out);
    if (status == GDN_STATUS_OK) {
        for (int32_t b = 0; b < import->count; ++b)
            list_tensors(b, &layers[b].layer, &layers[b].weights, list + b * TENSORS);
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
    gdn_status status = layers ? GDN_STATUS_OK : no_memory(import->model);
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
    free_layers(layers, import->count);
    return status;
}

/* --- The configuration of a checkpoint --- */

/* Keys of [model] that an imported checkpoint has. */
static int is_shape(const gdni_key *key) {
    static const char *const names[] = {"width",   "layers",    "key_heads", "value_heads",
                                        "key_dim", "value_dim", "conv_width"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); ++i)
        if (!strcmp(key->section, "model") && !strcmp(key->name, names[i]))
            return 1;
    return 0;
}

static gdn_status read_text(gdn_io_checkpoint *file, const char *path, char **text) {
    int32_t ndim;
    gdn_io_entry want = {.name = "config", .type = GDN_IO_TEXT, .ndim = 1};
    GDN_TRY(gdn_io_checkpoint_shape(file, want.name, want.type, &ndim, want.shape));
    *text = calloc((size_t)want.shape[0] + 1, 1);
    if (!*text)
        return no_memory(path);
    return gdn_io_checkpoint_read(file, &want, *text);
}

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
        if (!is_shape(&keys[i]))
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

/* --- From a checkpoint to a model --- */

static int word_of(const char *const *words, int count, const char *text) {
    for (int i = 0; i < count; ++i)
        if (!strcmp(words[i], text))
            return i;
    return -1;
}

/* Nine words. */
static gdn_status read_dtypes(const char *path, int32_t block, char *line,
                              gdn_dtype dtype[TENSORS]) {
    static const char *const names[] = {"fp32", "bf16", "fp16"};
    char *rest = line;
    for (int i = 0; i < TENSORS; ++i) {
        const char *word = strtok_r(rest, " ", &rest);
        const int d = word ? word_of(names, 3, word) : -1;
        if (d < 0)
            return gdni_fail(GDN_STATUS_BAD_FILE,
                             "%s: [source] dtypes%d: expected %d of fp32, bf16, fp16, found '%s'",
                             path, block, (int)TENSORS, word ? word : "nothing");
        dtype[i] = (gdn_dtype)d;
    }
    return GDN_STATUS_OK;
}

static gdn_status read_source(const char *path, const char *text, int32_t block,
                              gdn_io_model_layer *l) {
    char key[32], value[LINE_SIZE];
    gdni_config_find(text, "source", "naming", value, sizeof(value));
    const int naming = word_of(namings, 2, value);
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
    for (int i = 0; export->dtype >= 0 && i < TENSORS; ++i)
        l->dtype[i] =
            i >= FIRST_VECTOR && i <= LAST_VECTOR ? GDN_DTYPE_FP32 : (gdn_dtype) export->dtype;
    return GDN_STATUS_OK;
}

/* Shapes are checked before memory is taken for them: [model] may say anything. */
static gdn_status read_block(gdn_io_checkpoint *file, const char *path, int32_t block,
                             gdn_io_model_layer *l) {
    tensor list[TENSORS];
    list_tensors(block, &l->layer, &l->weights, list);
    for (int i = 0; i < TENSORS; ++i) {
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
            return no_memory(path);
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
    gdn_status status = layers ? GDN_STATUS_OK : no_memory(export->checkpoint);
    for (int32_t i = 0; status == GDN_STATUS_OK && i < export->blocks; ++i) {
        layers[i].size = sizeof(layers[i]);
        layers[i].layer = layer;
        status = describe(export, text, i, &layers[i]);
        if (status == GDN_STATUS_OK)
            status = read_block(file, export->checkpoint, i, &layers[i]);
    }
    if (status == GDN_STATUS_OK)
        status = gdn_io_model_layers_write(export->out, layers, (size_t) export->blocks);
    free_layers(layers, export->blocks);
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
    gdn_status status = read_text(file, e.checkpoint, &text);
    if (status == GDN_STATUS_OK)
        status = export_file(&e, file, text);
    export->blocks = e.blocks;
    free(text);
    gdn_io_checkpoint_close(file);
    return status;
}

/* --- From a checkpoint to a run --- */

int gdni_weights_imported(const char *config) {
    char naming[16];
    gdni_config_find(config, "source", "naming", naming, sizeof(naming));
    return strcmp(naming, "nothing") != 0;
}

gdn_status gdni_weights_take(gdn_io_checkpoint *file, const char *path, const char *then,
                             const gdni_config *config, const gdni_lm *lm) {
    size_t count;
    const gdni_key *keys = gdni_config_keys(&count);
    GDNI_REQUIRE(lm->shape.dtype == GDN_DTYPE_FP32, "%s: expected a model in fp32, found %s", path,
                 gdn_dtype_name(lm->shape.dtype));
    for (size_t i = 0; i < count; ++i) {
        char now[40], was[40];
        if (!is_shape(&keys[i]))
            continue;
        gdni_config_value(config, &keys[i], now, sizeof(now));
        gdni_config_find(then, keys[i].section, keys[i].name, was, sizeof(was));
        GDNI_REQUIRE(!strcmp(now, was), "[model] %s: expected %s as in %s, found %s", keys[i].name,
                     was, path, now);
    }
    for (int32_t b = 0; b < lm->shape.layers; ++b) {
        gdn_layer_weights w = gdni_lm_layer_weights(lm, lm->param, b);
        tensor list[TENSORS];
        list_tensors(b, &lm->layer, &w, list);
        for (int i = 0; i < TENSORS; ++i) {
            list[i].entry.name = list[i].name;
            GDN_TRY(gdn_io_checkpoint_read(file, &list[i].entry, *list[i].field));
        }
    }
    return GDN_STATUS_OK;
}
