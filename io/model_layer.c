/* One GDN layer of a model: found by its number, checked as a whole, then read. */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "layer.h"
#include "model.h"

enum {
    MAX_DIM = 65536
};

#define ATTENTION ".linear_attn.A_log"

/* The model, and the layer that is read from it. */
typedef struct source {
    gdni_model *model;
    gdn_io_model_layer *layer;
} source;

/* --- Names --- */

/* The number N of "...layers.N.linear_attn.A_log", with the place of "layers." in *start; -1: the
 * name is another. */
static long layer_number(const char *name, const char **start) {
    const char *end = strstr(name, ATTENTION), *digits = end, *word = "layers.";
    if (!end || end[strlen(ATTENTION)])
        return -1;
    while (digits > name && digits[-1] >= '0' && digits[-1] <= '9')
        --digits;
    if (digits == end || end - digits > 6 || digits - name < (ptrdiff_t)strlen(word))
        return -1;
    *start = digits - strlen(word);
    if (strncmp(*start, word, strlen(word)) || (*start > name && (*start)[-1] != '.'))
        return -1;
    return strtol(digits, NULL, 10);
}

static gdn_status no_such_layer(const gdni_model *m, int32_t number) {
    char others[160] = "";
    size_t used = 0;
    for (size_t i = 0; i < m->count && used < sizeof(others) - 16; ++i) {
        const char *start;
        const long found = layer_number(m->names[i].name, &start);
        if (found >= 0)
            used += (size_t)snprintf(others + used, sizeof(others) - used, " %ld", found);
    }
    return gdni_io_fail(
        GDN_STATUS_BAD_FILE, m->path,
        "layer %d: expected a tensor layers.%d" ATTENTION ", found none; GDN layers here:%s%s",
        number, number, used ? others : " none", used < sizeof(others) - 16 ? "" : " ...");
}

static gdn_status find_prefix(const source *s, int32_t number) {
    const gdni_model *m = s->model;
    const char *first = NULL;
    for (size_t i = 0; i < m->count; ++i) {
        const char *name = m->names[i].name, *start;
        if (layer_number(name, &start) != number)
            continue;
        if (first)
            return gdni_io_fail(GDN_STATUS_BAD_FILE, m->path,
                                "layer %d: expected one, found %.96s and %.96s", number, first,
                                name);
        first = name;
    }
    if (!first)
        return no_such_layer(m, number);
    const size_t length = strlen(first) - strlen("A_log");
    if (length >= GDN_IO_PREFIX_SIZE)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, m->path,
                            "tensor %.96s...: expected a prefix of at most %d bytes", first,
                            GDN_IO_PREFIX_SIZE - 1);
    snprintf(s->layer->prefix, sizeof(s->layer->prefix), "%.*s", (int)length, first);
    return GDN_STATUS_OK;
}

/* What follows the layer's prefix in a name; NULL: it has another. */
static const char *own_name(const source *s, size_t i) {
    const size_t length = strlen(s->layer->prefix);
    const char *name = s->model->names[i].name;
    return strncmp(name, s->layer->prefix, length) ? NULL : name + length;
}

/* Which naming it is, and that the layer has no tensor beside those, such as a bias. */
static gdn_status check_names(const source *s) {
    const gdni_model *m = s->model;
    gdni_layer_named list[GDNI_LAYER_TENSORS];
    s->layer->naming = GDN_IO_QWEN3_5;
    for (size_t i = 0; i < m->count; ++i) {
        const char *name = own_name(s, i);
        if (name && (!strcmp(name, "in_proj_qkvz.weight") || !strcmp(name, "in_proj_ba.weight")))
            s->layer->naming = GDN_IO_QWEN3_NEXT;
    }
    const int n = gdni_layer_list_named(&s->layer->layer, s->layer->naming, list);
    for (size_t i = 0; i < m->count; ++i) {
        const char *name = own_name(s, i);
        int known = !name;
        for (int k = 0; !known && k < n; ++k)
            known = !strcmp(name, list[k].name);
        if (!known)
            return gdni_io_fail(GDN_STATUS_BAD_FILE, m->path,
                                "tensor %s: expected only those of a GDN layer of %s, found this",
                                m->names[i].name,
                                s->layer->naming == GDN_IO_QWEN3_NEXT ? "Qwen3-Next" : "Qwen3.5");
    }
    return GDN_STATUS_OK;
}

/* --- Shapes --- */

/* One dim of a tensor that says a dim of the layer. */
static gdn_status read_dim(const source *s, const char *name, gdni_shape shape, int which,
                           int32_t *dim) {
    const gdni_safetensors *file;
    const gdni_safetensors_tensor *tensor;
    char full[GDNI_MODEL_NAME_SIZE];
    snprintf(full, sizeof(full), "%s%s", s->layer->prefix, name);
    GDN_TRY(gdni_model_find(s->model, full, &file, &tensor));
    GDN_TRY(gdni_safetensors_check(file, tensor, &shape));
    if (shape.dim[which] < 1 || shape.dim[which] > MAX_DIM)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "tensor %s: expected a dimension from 1 to %d, found %" PRId64, full,
                            MAX_DIM, shape.dim[which]);
    *dim = (int32_t)shape.dim[which];
    return GDN_STATUS_OK;
}

static gdn_status check_config(const source *s, const gdni_model_config *c) {
    const gdn_layer *l = &s->layer->layer;
    const struct {
        const char *name;
        int64_t said, found;
    } dims[] = {{"hidden_size", c->width, l->D},
                {"linear_num_value_heads", c->value_heads, l->Hv},
                {"linear_key_head_dim", c->key_dim, l->K},
                {"linear_value_head_dim", c->value_dim, l->V},
                {"linear_conv_kernel_dim", c->conv_width, l->conv_width}};
    for (size_t i = 0; i < sizeof(dims) / sizeof(dims[0]); ++i)
        if (dims[i].said >= 0 && dims[i].said != dims[i].found)
            return gdni_io_fail(GDN_STATUS_BAD_FILE, s->model->path,
                                "tensors %s*: expected %s = %" PRId64
                                ", as config.json says, found %" PRId64,
                                s->layer->prefix, dims[i].name, dims[i].said, dims[i].found);
    return GDN_STATUS_OK;
}

/* Hk from the caller or config.json, which must not differ. */
static gdn_status settle_heads(const source *s, const gdni_model_config *c, int32_t key_heads) {
    gdn_layer *l = &s->layer->layer;
    const int64_t heads = key_heads ? key_heads : c->key_heads;
    if (heads < 0)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, s->model->path,
                            "expected the number of key heads, or a config.json beside this file "
                            "with linear_num_key_heads, found neither");
    if (c->key_heads >= 0 && c->key_heads != heads)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, c->path,
                            "linear_num_key_heads: expected %" PRId64 ", found %" PRId64, heads,
                            c->key_heads);
    if (heads < 1 || l->Hv % heads)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, s->model->path,
                            "tensor %sA_log: expected a multiple of %" PRId64
                            " key heads, found %d value heads",
                            s->layer->prefix, heads, l->Hv);
    l->Hk = (int32_t)heads;
    return GDN_STATUS_OK;
}

static gdn_status read_dims(const source *s, const gdni_model_config *c, int32_t key_heads) {
    const gdni_shape heads = {"[Hv]", 1, {-1}}, norm = {"[V]", 1, {-1}};
    gdni_shape out = {"[D, Hv V]", 2, {-1, -1}}, conv = {"[2 Hk K + Hv V, 1, W]", 3, {-1, 1, -1}};
    gdn_layer *l = &s->layer->layer;
    int32_t C;
    GDN_TRY(read_dim(s, "A_log", heads, 0, &l->Hv));
    GDN_TRY(read_dim(s, "norm.weight", norm, 0, &l->V));
    out.dim[1] = (int64_t)l->Hv * l->V;
    GDN_TRY(read_dim(s, "out_proj.weight", out, 0, &l->D));
    GDN_TRY(read_dim(s, "conv1d.weight", conv, 2, &l->conv_width));
    GDN_TRY(read_dim(s, "conv1d.weight", conv, 0, &C));
    GDN_TRY(settle_heads(s, c, key_heads));
    const int64_t keys = C - (int64_t)l->Hv * l->V;
    if (keys < 2 * l->Hk || keys % (2 * l->Hk))
        return gdni_io_fail(GDN_STATUS_BAD_FILE, s->model->path,
                            "tensor %sconv1d.weight: expected 2 Hk K + Hv V rows with Hk = %d and "
                            "Hv V = %" PRId64 ", found %d",
                            s->layer->prefix, l->Hk, (int64_t)l->Hv * l->V, C);
    l->K = (int32_t)(keys / (2 * l->Hk));
    if (c->norm_eps >= 0)
        l->norm_eps = c->norm_eps;
    return check_config(s, c);
}

/* --- Values --- */

static gdn_status check_finite(const gdni_safetensors *file, const char *name,
                               const gdni_shape *shape, const float *values) {
    const int64_t count = gdni_shape_count(shape);
    char index[100];
    for (int64_t i = 0; i < count; ++i)
        if (!isfinite(values[i])) {
            gdni_format_index(shape, i, index, sizeof(index));
            return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                                "tensor %s: expected finite values, found %g at %s", name,
                                (double)values[i], index);
        }
    return GDN_STATUS_OK;
}

/* Reads one tensor into new memory, *values. */
static gdn_status read_named(const source *s, gdni_layer_named *n, float **values) {
    const gdni_safetensors *file;
    const gdni_safetensors_tensor *tensor;
    char full[GDNI_MODEL_NAME_SIZE];
    snprintf(full, sizeof(full), "%s%s", s->layer->prefix, n->name);
    GDN_TRY(gdni_model_find(s->model, full, &file, &tensor));
    GDN_TRY(gdni_safetensors_check(file, tensor, &n->shape));
    *values = malloc((size_t)gdni_shape_count(&n->shape) * sizeof(float));
    if (!*values)
        return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, file->path, "no memory for tensor %s", full);
    GDN_TRY(gdni_safetensors_read(file, tensor, *values));
    for (int i = n->first; i <= n->last; ++i)
        s->layer->dtype[i] = tensor->type->dtype;
    return check_finite(file, full, &n->shape, *values);
}

static gdn_status allocate_projections(const source *s) {
    gdni_layer_tensor plain[GDNI_LAYER_TENSORS];
    gdni_layer_list(&s->layer->layer, &s->layer->weights, plain);
    for (int i = 0; i < GDNI_LAYER_PROJECTIONS; ++i) {
        *plain[i].field = malloc((size_t)gdni_shape_count(&plain[i].shape) * sizeof(float));
        if (!*plain[i].field)
            return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, s->model->path, "no memory for tensor %s",
                                plain[i].name);
    }
    return GDN_STATUS_OK;
}

static gdn_status read_packed(const source *s, gdni_layer_named list[2]) {
    gdni_layer_packed packed = {NULL, NULL};
    gdn_status status;
    GDN_TRY_GOTO(read_named(s, &list[0], (float **)&packed.qkvz), cleanup);
    GDN_TRY_GOTO(read_named(s, &list[1], (float **)&packed.ba), cleanup);
    GDN_TRY_GOTO(allocate_projections(s), cleanup);
    gdni_layer_interleave(&s->layer->layer, &s->layer->weights, &packed, sizeof(float), 1);
cleanup:
    free(packed.qkvz);
    free(packed.ba);
    return status;
}

/* All shapes, before anything is allocated. */
static gdn_status check_shapes(const source *s, gdni_layer_named *list, int count) {
    for (int i = 0; i < count; ++i) {
        const gdni_safetensors *file;
        const gdni_safetensors_tensor *tensor;
        char full[GDNI_MODEL_NAME_SIZE];
        snprintf(full, sizeof(full), "%s%s", s->layer->prefix, list[i].name);
        GDN_TRY(gdni_model_find(s->model, full, &file, &tensor));
        GDN_TRY(gdni_safetensors_check(file, tensor, &list[i].shape));
    }
    return GDN_STATUS_OK;
}

static gdn_status read_values(const source *s) {
    gdni_layer_tensor plain[GDNI_LAYER_TENSORS];
    gdni_layer_named list[GDNI_LAYER_TENSORS];
    const int packed = s->layer->naming == GDN_IO_QWEN3_NEXT;
    gdni_layer_list(&s->layer->layer, &s->layer->weights, plain);
    const int n = gdni_layer_list_named(&s->layer->layer, s->layer->naming, list);
    GDN_TRY(check_shapes(s, list, n));
    if (packed)
        GDN_TRY(read_packed(s, list));
    for (int i = packed ? 2 : 0; i < n; ++i)
        GDN_TRY(read_named(s, &list[i], (float **)plain[list[i].first].field));
    return GDN_STATUS_OK;
}

static gdn_status read_layer(const source *s, int32_t number, int32_t key_heads) {
    gdni_model_config config;
    GDN_TRY(find_prefix(s, number));
    GDN_TRY(check_names(s));
    GDN_TRY(gdni_model_read_config(s->model, &config));
    gdn_status status = read_dims(s, &config, key_heads);
    free(config.path);
    if (status == GDN_STATUS_OK)
        status = read_values(s);
    return status;
}

gdn_status gdn_io_model_layer_read(const char *path, int32_t number, int32_t key_heads,
                                   gdn_io_model_layer *out) {
    const gdn_layer layer = GDN_LAYER_INIT;
    const gdn_layer_weights no_weights = GDN_LAYER_WEIGHTS_INIT;
    gdn_io_model_layer l;
    source s = {NULL, &l};
    gdni_clear_error();
    GDNI_REQUIRE(path != NULL, "gdn_io_model_layer_read: path is NULL");
    GDNI_REQUIRE(number >= 0, "gdn_io_model_layer_read: number is %d, expected 0 or more", number);
    GDNI_REQUIRE(key_heads >= 0 && key_heads <= MAX_DIM,
                 "gdn_io_model_layer_read: key_heads is %d, expected 0 to %d", key_heads, MAX_DIM);
    GDNI_TAKE(&l, out, "gdn_io_model_layer_read: out");
    memset(&l, 0, sizeof(l));
    l.layer = layer;
    l.weights = no_weights;
    gdn_status status = gdni_model_open(path, &s.model);
    if (status == GDN_STATUS_OK)
        status = read_layer(&s, number, key_heads);
    gdni_model_close(s.model);
    if (status != GDN_STATUS_OK)
        gdn_io_model_layer_free(&l);
    GDNI_GIVE(out, &l);
    return status;
}

void gdn_io_model_layer_free(gdn_io_model_layer *layer) {
    if (layer)
        gdni_layer_free_weights(&layer->weights);
}
