/* What layer cases and layer results share: their weights. */
#ifndef GDNI_IO_LAYER_H
#define GDNI_IO_LAYER_H

#include "internal.h"

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
