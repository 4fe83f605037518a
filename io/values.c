/* Shapes and values, in memory. */
#include "internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

int64_t gdni_shape_count(const gdni_shape *shape) {
    int64_t count = 1;
    for (int32_t i = 0; i < shape->ndim; ++i)
        count *= shape->dim[i];
    return count;
}

void gdni_format_shape(const gdni_shape *shape, char *text, size_t size) {
    size_t used = (size_t)snprintf(text, size, "%s%s[", shape->symbols ? shape->symbols : "",
                                   shape->symbols ? " = " : "");
    for (int32_t i = 0; i < shape->ndim && used < size; ++i) {
        const char *comma = i ? ", " : "";
        used += (size_t)(shape->dim[i] < 0 ? snprintf(text + used, size - used, "%s?", comma)
                                           : snprintf(text + used, size - used, "%s%" PRId64, comma,
                                                      shape->dim[i]));
    }
    if (used < size)
        snprintf(text + used, size - used, "]");
}

void gdni_format_index(const gdni_shape *shape, int64_t flat, char *text, size_t size) {
    gdni_shape index = {NULL, shape->ndim, {0}};
    for (int32_t i = shape->ndim - 1; i >= 0; --i) {
        index.dim[i] = flat % shape->dim[i];
        flat /= shape->dim[i];
    }
    gdni_format_shape(&index, text, size);
}

gdn_status gdni_check_finite(gdn_status status, const char *path, const char *name,
                             const gdni_shape *shape, const double *data) {
    const int64_t count = gdni_shape_count(shape);
    char index[100];
    for (int64_t i = 0; i < count; ++i)
        if (!isfinite(data[i])) {
            gdni_format_index(shape, i, index, sizeof(index));
            return gdni_io_fail(status, path, "dataset %s: expected finite values, found %g at %s",
                                name, data[i], index);
        }
    return GDN_STATUS_OK;
}

int gdni_fits_float(const double *data, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
        if ((double)(float)data[i] != data[i])
            return 0;
    return 1;
}
