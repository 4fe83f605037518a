/* Models in one file or several. */
#include "model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "json.h"

enum {
    TEXT_LIMIT = 100000000 /* bytes of an index or a config.json */
};

static gdn_status no_memory(const char *path) {
    return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, path, "no memory to open it");
}

/* "A" "B" in new memory. */
static char *join(const char *a, const char *b) {
    const size_t size = strlen(a) + strlen(b) + 1;
    char *text = malloc(size);
    if (text)
        snprintf(text, size, "%s%s", a, b);
    return text;
}

/* Takes file, which may be NULL, into the list in any case. */
static gdn_status add_name(gdni_model *m, const char *name, char *file) {
    if (m->count == m->capacity) {
        const size_t capacity = m->capacity ? 2 * m->capacity : 64;
        gdni_model_name *grown = realloc(m->names, capacity * sizeof(*grown));
        if (!grown) {
            free(file);
            return no_memory(m->path);
        }
        m->names = grown;
        m->capacity = capacity;
    }
    m->names[m->count].file = file;
    m->names[m->count].name = strdup(name);
    return m->names[m->count++].name ? GDN_STATUS_OK : no_memory(m->path);
}

/* --- The index --- */

static gdn_status on_weight(void *user, gdni_json *j, const char *key) {
    char *file;
    GDN_TRY(gdni_json_string(j, &file));
    if (!*file || strchr(file, '/')) {
        const gdn_status status = gdni_io_fail(
            GDN_STATUS_BAD_FILE, j->path,
            "tensor %s: expected the name of a file beside this one, found '%s'", key, file);
        free(file);
        return status;
    }
    return add_name(user, key, file);
}

/* What the index says, and whether its map has been seen. */
typedef struct reading {
    gdni_model *model;
    int seen;
} reading;

static gdn_status on_index(void *user, gdni_json *j, const char *key) {
    reading *r = user;
    if (strcmp(key, "weight_map"))
        return gdni_json_skip(j);
    if (r->seen++)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, j->path, "expected one weight_map, found two");
    return gdni_json_object(j, on_weight, r->model);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const gdni_model_name *)a)->name, ((const gdni_model_name *)b)->name);
}

static gdn_status parse_index(gdni_model *m, const char *text, size_t size) {
    gdni_json j = {m->path, "index", text, size, 0, 0};
    reading r = {m, 0};
    GDN_TRY(gdni_json_object(&j, on_index, &r));
    GDN_TRY(gdni_json_end(&j));
    if (!r.seen)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, m->path, "expected weight_map, found none");
    if (m->count)
        qsort(m->names, m->count, sizeof(*m->names), by_name);
    for (size_t i = 1; i < m->count; ++i)
        if (!strcmp(m->names[i - 1].name, m->names[i].name))
            return gdni_io_fail(GDN_STATUS_BAD_FILE, m->path,
                                "tensor %s: expected it once, found it twice", m->names[i].name);
    return GDN_STATUS_OK;
}

static gdn_status read_index(gdni_model *m) {
    char *text;
    size_t size;
    GDN_TRY(gdni_read_text(m->path, TEXT_LIMIT, &text, &size));
    const gdn_status status = parse_index(m, text, size);
    free(text);
    return status;
}

/* --- Opening --- */

/* Opens a file and keeps it. */
static gdn_status open_file(gdni_model *m, const char *path, const gdni_safetensors **file) {
    gdni_safetensors **grown = realloc(m->files, (m->opened + 1) * sizeof(*grown));
    if (!grown)
        return no_memory(path);
    m->files = grown;
    GDN_TRY(gdni_safetensors_open(path, &m->files[m->opened]));
    *file = m->files[m->opened++];
    return GDN_STATUS_OK;
}

static gdn_status open_single(gdni_model *m) {
    const gdni_safetensors *file = NULL;
    GDN_TRY(open_file(m, m->path, &file));
    for (size_t i = 0; i < file->count; ++i)
        GDN_TRY(add_name(m, file->tensors[i].name, NULL)); /* sorted, as there */
    return GDN_STATUS_OK;
}

static int ends_with(const char *text, const char *end) {
    const size_t length = strlen(text), size = strlen(end);
    return length >= size && !strcmp(text + length - size, end);
}

/* In a folder, the index or else the one file; otherwise path itself. */
static char *resolve(const char *path) {
    struct stat about;
    if (stat(path, &about) || !S_ISDIR(about.st_mode))
        return strdup(path);
    char *folder = join(path, ends_with(path, "/") ? "" : "/");
    char *index = folder ? join(folder, "model.safetensors.index.json") : NULL;
    if (index && stat(index, &about)) {
        free(index);
        index = join(folder, "model.safetensors");
    }
    free(folder);
    return index;
}

gdn_status gdni_model_open(const char *path, gdni_model **out) {
    gdn_status status;
    *out = NULL;
    gdni_model *m = calloc(1, sizeof(*m));
    if (!m)
        return no_memory(path);
    m->path = resolve(path);
    m->folder = m->path ? strdup(m->path) : NULL;
    if (!m->folder) {
        status = no_memory(path);
    } else {
        char *slash = strrchr(m->folder, '/');
        *(slash ? slash + 1 : m->folder) = '\0';
        status = ends_with(m->path, ".json") ? read_index(m) : open_single(m);
    }
    if (status == GDN_STATUS_OK)
        *out = m;
    else
        gdni_model_close(m);
    return status;
}

void gdni_model_close(gdni_model *m) {
    if (!m)
        return;
    for (size_t i = 0; i < m->opened; ++i)
        gdni_safetensors_close(m->files[i]);
    for (size_t i = 0; i < m->count; ++i) {
        free(m->names[i].name);
        free(m->names[i].file);
    }
    free(m->files);
    free(m->names);
    free(m->path);
    free(m->folder);
    free(m);
}

/* The file that the index names, opened now or before. */
static gdn_status shard(gdni_model *m, const char *name, const gdni_safetensors **file) {
    char *path = join(m->folder, name);
    if (!path)
        return no_memory(m->path);
    gdn_status status = GDN_STATUS_OK;
    *file = NULL;
    for (size_t i = 0; i < m->opened; ++i)
        if (!strcmp(m->files[i]->path, path))
            *file = m->files[i];
    if (!*file)
        status = open_file(m, path, file);
    free(path);
    return status;
}

gdn_status gdni_model_find(gdni_model *m, const char *name, const gdni_safetensors **file,
                           const gdni_safetensors_tensor **tensor) {
    const gdni_model_name key = {(char *)name, NULL},
                          *found = m->count
                                       ? bsearch(&key, m->names, m->count, sizeof(key), by_name)
                                       : NULL;
    if (!found)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, m->path, "tensor %s: expected one, found none",
                            name);
    if (found->file)
        GDN_TRY(shard(m, found->file, file));
    else
        *file = m->files[0];
    *tensor = gdni_safetensors_find(*file, name);
    if (!*tensor)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, (*file)->path,
                            "tensor %s: expected one, as %s says, found none", name, m->path);
    return GDN_STATUS_OK;
}

/* --- config.json --- */

static gdn_status on_config(void *user, gdni_json *j, const char *key) {
    gdni_model_config *c = user;
    const struct {
        const char *name;
        int64_t *value;
    } counts[] = {{"hidden_size", &c->width},
                  {"linear_num_key_heads", &c->key_heads},
                  {"linear_num_value_heads", &c->value_heads},
                  {"linear_key_head_dim", &c->key_dim},
                  {"linear_value_head_dim", &c->value_dim},
                  {"linear_conv_kernel_dim", &c->conv_width}};
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); ++i)
        if (!strcmp(key, counts[i].name))
            return gdni_json_count(j, counts[i].value);
    if (!strcmp(key, "rms_norm_eps"))
        return gdni_json_real(j, &c->norm_eps);
    return gdni_json_skip(j);
}

/* A model of text alone says it at the top, one that also sees in text_config. */
static gdn_status find_text_config(void *user, gdni_json *j, const char *key) {
    if (strcmp(key, "text_config") || !gdni_json_at_object(j))
        return gdni_json_skip(j);
    *(size_t *)user = j->at;
    return gdni_json_skip(j);
}

static gdn_status parse_config(gdni_model_config *c, const char *text, size_t size) {
    gdni_json j = {c->path, "config", text, size, 0, 0};
    size_t at = 0;
    GDN_TRY(gdni_json_object(&j, find_text_config, &at));
    GDN_TRY(gdni_json_end(&j));
    j.at = at;
    return gdni_json_object(&j, on_config, c);
}

gdn_status gdni_model_read_config(const gdni_model *m, gdni_model_config *config) {
    const gdni_model_config unknown = {NULL, -1, -1, -1, -1, -1, -1, -1};
    struct stat about;
    char *text;
    size_t size;
    *config = unknown;
    config->path = join(m->folder, "config.json");
    if (!config->path)
        return no_memory(m->path);
    if (stat(config->path, &about) && errno == ENOENT) {
        free(config->path);
        config->path = NULL;
        return GDN_STATUS_OK;
    }
    gdn_status status = gdni_read_text(config->path, TEXT_LIMIT, &text, &size);
    if (status == GDN_STATUS_OK)
        status = parse_config(config, text, size);
    free(text);
    if (status != GDN_STATUS_OK) {
        free(config->path);
        config->path = NULL;
    }
    return status;
}
