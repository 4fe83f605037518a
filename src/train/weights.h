/*
 * GDN layers of Hugging Face models in checkpoints of the trainer. A checkpoint that is imported
 * holds, for each block, the layer's tensors under the names that a run gives them, and
 *
 *   config   [model] with the layer's shape, and [source]:
 *              naming = qwen3-next
 *              prefix0 = model.layers.4.linear_attn.
 *              dtypes0 = bf16 bf16 ...             of block 0, in the order of gdn_layer_weights
 */
#ifndef GDNI_TRAIN_WEIGHTS_H
#define GDNI_TRAIN_WEIGHTS_H

#include "config.h"
#include "gdn_io.h"
#include "lm.h"

typedef struct gdni_weights_import {
    const char *model, *out; /* as gdn_io_model_layer_read; the checkpoint to write */
    const int32_t *layers;   /* layer layers[i] of the model becomes block i */
    int32_t count, key_heads;
    gdn_layer layer;            /* written: the shape of the layers */
    gdn_io_layer_naming naming; /* written */
} gdni_weights_import;

gdn_status gdni_weights_read(gdni_weights_import *import);

/* What is not given is as [source] says, or else Qwen3.5's naming, fp32, and model.layers.BLOCK. */
typedef struct gdni_weights_export {
    const char *checkpoint, *out; /* a file, or a folder's newest; a safetensors file */
    const int32_t *layers;        /* block i becomes layer layers[i]; NULL: not given */
    int32_t count;
    const char *prefix; /* "model.layers"; NULL: not given */
    int naming;         /* gdn_io_layer_naming; -1: not given */
    int dtype;          /* gdn_dtype, of the matrices, with fp32 for vectors; -1: not given */
    int32_t blocks;     /* written: how many there were */
} gdni_weights_export;

gdn_status gdni_weights_write(gdni_weights_export *export);

/* Whether a checkpoint's configuration says that it was imported. */
int gdni_weights_imported(const char *config);
/* Takes the layers of an imported checkpoint into the host's copy of the model's parameters, whose
 * other tensors stay. */
gdn_status gdni_weights_take(gdn_io_checkpoint *file, const char *path, const char *then,
                             const gdni_config *config, const gdni_lm *lm);

/* ---- Shared by import and export ---------------------------------------------------------------
 */

enum {
    GDNI_WEIGHTS_NAME_SIZE = 72,                      /* of an entry */
    GDNI_WEIGHTS_LINE_SIZE = GDN_IO_PREFIX_SIZE + 128 /* of a block in [source] */
};

/* A weight as a checkpoint's entry, whose name and data are not set, and as a field of weights. */
typedef struct gdni_weights_tensor {
    char name[GDNI_WEIGHTS_NAME_SIZE];
    gdn_io_entry entry;
    void **field;
} gdni_weights_tensor;

/* The namings' words in [source] and on the command line. */
extern const char *const gdni_weights_namings[2];

void gdni_weights_list(int32_t block, const gdn_layer *layer, gdn_layer_weights *weights,
                       gdni_weights_tensor list[GDN_IO_LAYER_TENSORS]);
/* Whether it is a key of [model] that an imported checkpoint has. */
int gdni_weights_is_shape(const gdni_key *key);
gdn_status gdni_weights_no_memory(const char *path);
/* Frees the array too; NULL is fine. */
void gdni_weights_free(gdn_io_model_layer *layers, int32_t count);

#endif /* GDNI_TRAIN_WEIGHTS_H */
