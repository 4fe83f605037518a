/* What files that hold layers share: their weights. */
#ifndef GDNI_IO_LAYER_H
#define GDNI_IO_LAYER_H

#include "internal.h"

/* ---- Names, shapes, orders (layer_names.c) -----------------------------------------------------
 */

enum {
    GDNI_LAYER_TENSORS = 9,
    GDNI_LAYER_PROJECTIONS = 4 /* the first of them, which Qwen3-Next keeps in two tensors */
};

/* A weight under its name in Qwen3.5. */
typedef struct gdni_layer_tensor {
    const char *name;
    void **field;
    gdni_shape shape;
} gdni_layer_tensor;

/* The weights in the order of gdn_layer_weights. */
void gdni_layer_list(const gdn_layer *layer, gdn_layer_weights *weights,
                     gdni_layer_tensor list[GDNI_LAYER_TENSORS]);

/* A tensor of a naming, and the first and last of the weights that it holds, in that order. */
typedef struct gdni_layer_named {
    const char *name;
    gdni_shape shape;
    int first, last;
} gdni_layer_named;

/* Returns how many there are; Qwen3-Next's in_proj_qkvz and in_proj_ba come first. */
int gdni_layer_list_named(const gdn_layer *layer, gdn_io_layer_naming naming,
                          gdni_layer_named list[GDNI_LAYER_TENSORS]);

/* Qwen3-Next's projections: in_proj_qkvz and in_proj_ba. */
typedef struct gdni_layer_packed {
    void *qkvz, *ba;
} gdni_layer_packed;

gdni_shape gdni_layer_qkvz_shape(const gdn_layer *layer);
gdni_shape gdni_layer_ba_shape(const gdn_layer *layer);
/* Copies the projections from one naming's order of rows to the other's; element: bytes of one. */
void gdni_layer_interleave(const gdn_layer *layer, const gdn_layer_weights *weights,
                           const gdni_layer_packed *packed, size_t element, int to_plain);

/* ---- In HDF5 files (layer_weights.c) -----------------------------------------------------------
 */

/* Attributes Hk and K into a layer of defaults. */
gdn_status gdni_layer_read_about(const gdni_file *file, gdn_layer *layer);

/* Reads the weights, whose names begin with prefix ("" or "d"), as float64, and with them the
 * naming and the dims Hv, V and conv_width. Hk, K and D are known. */
gdn_status gdni_layer_read_weights(const gdni_file *file, const char *prefix, gdn_layer *layer,
                                   gdn_io_layer_naming *naming, gdn_layer_weights *weights);
/* Checks that a layer to be written has sensible dims. */
gdn_status gdni_layer_check(const char *path, const gdn_layer *layer);
/* All set and finite; status: of a value that is not finite. */
gdn_status gdni_layer_check_weights(gdn_status status, const char *path, const char *prefix,
                                    const gdn_layer *layer, const gdn_layer_weights *weights);
int gdni_layer_weights_fit_float(const gdn_layer *layer, const gdn_layer_weights *weights);
gdn_status gdni_layer_write_weights(const gdni_writer *writer, const char *prefix,
                                    const gdn_layer *layer, gdn_io_layer_naming naming,
                                    const gdn_layer_weights *weights, hid_t file_type);
void gdni_layer_free_weights(gdn_layer_weights *weights);

#endif /* GDNI_IO_LAYER_H */
