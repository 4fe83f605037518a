/*
 * A model of Hugging Face on disk: one safetensors file, or several with an index that says which
 * tensor is in which; and what config.json beside them says of its GDN layers.
 */
#ifndef GDNI_IO_MODEL_H
#define GDNI_IO_MODEL_H

#include "safetensors.h"

enum {
    GDNI_MODEL_NAME_SIZE = GDN_IO_PREFIX_SIZE + 32 /* a prefix and the name of a layer's tensor */
};

/* A tensor's name, and the file that holds it; NULL: the only one. */
typedef struct gdni_model_name {
    char *name, *file;
} gdni_model_name;

typedef struct gdni_model {
    char *path, *folder;    /* folder: "" or with a slash at its end */
    gdni_model_name *names; /* sorted */
    size_t count, capacity;
    gdni_safetensors **files; /* those opened so far */
    size_t opened;
} gdni_model;

/* path: a safetensors file, an index (*.json), or a folder with model.safetensors.index.json or
 * model.safetensors. */
gdn_status gdni_model_open(const char *path, gdni_model **out);
void gdni_model_close(gdni_model *model);
/* The tensor of that name and its file. BAD_FILE if there is none. */
gdn_status gdni_model_find(gdni_model *model, const char *name, const gdni_safetensors **file,
                           const gdni_safetensors_tensor **tensor);

/* -1: not said. */
typedef struct gdni_model_config {
    char *path; /* NULL: there is no config.json */
    int64_t width, key_heads, value_heads, key_dim, value_dim, conv_width;
    double norm_eps;
} gdni_model_config;

/* Release path with free(). */
gdn_status gdni_model_read_config(const gdni_model *model, gdni_model_config *config);

#endif /* GDNI_IO_MODEL_H */
