/* Reading datasets: checked before anything is allocated. */
#include "internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* H5Lexists wants every group on the way to exist. */
gdn_status gdni_tensor_exists(const gdni_file *file, const char *name, int *exists) {
    char prefix[256];
    if (strlen(name) >= sizeof(prefix))
        return gdni_io_fail(GDN_STATUS_INVALID_ARGUMENT, file->path,
                            "dataset %.64s...: expected a name of at most %zu bytes", name,
                            sizeof(prefix) - 1);
    *exists = 1;
    for (const char *end = name; *exists && end; end = *end ? end : NULL) {
        end = strchr(end + (*end == '/'), '/');
        const size_t length = end ? (size_t)(end - name) : strlen(name);
        memcpy(prefix, name, length);
        prefix[length] = '\0';
        const htri_t found = H5Lexists(file->id, prefix, H5P_DEFAULT);
        if (found < 0)
            return gdni_h5_fail(GDN_STATUS_BAD_FILE, file->path, "dataset %s: cannot be looked up",
                                name);
        *exists = found > 0;
        if (!end)
            break;
    }
    return GDN_STATUS_OK;
}

static const char *class_name(gdni_class class) {
    static const char *const names[] = {
        "float32 or float64", "integers", "uint8", "float32", "float64", "int64", "uint64"};
    return names[class];
}

static int one_of(hid_t type, const hid_t *known, size_t count) {
    for (size_t i = 0; i < count; ++i)
        if (H5Tequal(type, known[i]) > 0)
            return 1;
    return 0;
}

/* Only the standard types: HDF5 also holds floating-point numbers of odd layouts. */
static int has_class(hid_t type, gdni_class class) {
    const hid_t reals[] = {H5T_IEEE_F32LE, H5T_IEEE_F32BE, H5T_IEEE_F64LE, H5T_IEEE_F64BE};
    const hid_t integers[] = {H5T_STD_I8LE,  H5T_STD_U8LE,  H5T_STD_I16LE, H5T_STD_I16BE,
                              H5T_STD_U16LE, H5T_STD_U16BE, H5T_STD_I32LE, H5T_STD_I32BE,
                              H5T_STD_U32LE, H5T_STD_U32BE, H5T_STD_I64LE, H5T_STD_I64BE,
                              H5T_STD_U64LE, H5T_STD_U64BE};
    switch (class) {
    case GDNI_REAL:
        return one_of(type, reals, 4);
    case GDNI_INTEGER:
        return one_of(type, integers, 14);
    case GDNI_BYTES:
        return one_of(type, integers + 1, 1);
    case GDNI_F32:
        return one_of(type, reals, 2);
    case GDNI_F64:
        return one_of(type, reals + 2, 2);
    case GDNI_I64:
        return one_of(type, integers + 10, 2);
    case GDNI_U64:
        return one_of(type, integers + 12, 2);
    }
    return 0;
}

static void describe_type(hid_t type, char *text, size_t size) {
    const int bits = (int)(8 * H5Tget_size(type));
    switch (H5Tget_class(type)) {
    case H5T_FLOAT:
        snprintf(text, size, "a %d-bit floating-point type", bits);
        break;
    case H5T_INTEGER:
        snprintf(text, size, "%sint%d", H5Tget_sign(type) == H5T_SGN_NONE ? "u" : "", bits);
        break;
    case H5T_STRING:
        snprintf(text, size, "strings");
        break;
    default:
        snprintf(text, size, "another type");
    }
}

static gdn_status check_shape(const gdni_file *file, const char *name, hid_t space,
                              gdni_shape *shape) {
    char expected[160], got[160];
    hsize_t dim[H5S_MAX_RANK];
    gdni_shape found = {NULL, 0, {0}};
    const int ndim = H5Sget_simple_extent_ndims(space);
    if (ndim < 0 || H5Sget_simple_extent_type(space) == H5S_NULL)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path, "dataset %s: it has no shape", name);
    H5Sget_simple_extent_dims(space, dim, NULL);
    found.ndim = ndim < GDNI_MAX_DIMS ? ndim : GDNI_MAX_DIMS;
    if (shape->ndim < 0)
        shape->ndim = found.ndim;
    int match = ndim == shape->ndim;
    for (int32_t i = 0; i < found.ndim; ++i) {
        found.dim[i] = dim[i] > INT64_MAX ? INT64_MAX : (int64_t)dim[i];
        match = match && (shape->dim[i] < 0 || shape->dim[i] == found.dim[i]);
    }
    if (!match) {
        gdni_format_shape(shape, expected, sizeof(expected));
        gdni_format_shape(&found, got, sizeof(got));
        if (ndim > GDNI_MAX_DIMS)
            snprintf(got, sizeof(got), "rank %d", ndim);
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "dataset %s: expected shape %s, found %s", name, expected, got);
    }
    memcpy(shape->dim, found.dim, sizeof(found.dim));
    return GDN_STATUS_OK;
}

/* What one byte on file can grow to: deflate's limit is 1032; checksums and shuffling add nothing.
 */
static int64_t growth(hid_t properties) {
    int64_t factor = 1;
    for (int i = H5Pget_nfilters(properties) - 1; i >= 0; --i) {
        unsigned flags;
        size_t values = 0;
        const H5Z_filter_t filter =
            H5Pget_filter2(properties, (unsigned)i, &flags, &values, NULL, 0, NULL, NULL);
        if (filter != H5Z_FILTER_FLETCHER32 && filter != H5Z_FILTER_SHUFFLE)
            factor = 1100;
    }
    return factor;
}

gdn_status gdni_check_storage(const gdni_file *file, const char *name, hid_t dataset,
                              size_t element, const gdni_shape *shape) {
    const hid_t properties = H5Dget_create_plist(dataset);
    const H5D_layout_t layout = H5Pget_layout(properties);
    const int external = layout == H5D_CONTIGUOUS && H5Pget_external_count(properties) > 0;
    int64_t bytes = (int64_t)element, limit;
    int overflow = 0;
    if (__builtin_mul_overflow(file->bytes, growth(properties), &limit))
        limit = INT64_MAX;
    H5Pclose(properties);
    if (external || (layout != H5D_COMPACT && layout != H5D_CONTIGUOUS && layout != H5D_CHUNKED))
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "dataset %s: expected values stored in this file, found external ones",
                            name);
    for (int32_t i = 0; i < shape->ndim; ++i)
        if (shape->dim[i] == 0)
            return GDN_STATUS_OK;
    for (int32_t i = 0; i < shape->ndim; ++i)
        overflow |= __builtin_mul_overflow(bytes, shape->dim[i], &bytes);
    if (overflow || bytes > limit) {
        char declared[160];
        gdni_format_shape(shape, declared, sizeof(declared));
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "dataset %s: expected values of shape %s, found a file of %" PRId64
                            " bytes, too few for them",
                            name, declared, file->bytes);
    }
    if (H5Dget_storage_size(dataset) == 0)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "dataset %s: expected values, found none written", name);
    return GDN_STATUS_OK;
}

/* Opens and checks; *dataset is open only if the result is OK. */
static gdn_status open_checked(const gdni_file *file, const char *name, gdni_class class,
                               gdni_shape *shape, hid_t *dataset) {
    gdn_status status = GDN_STATUS_OK;
    hid_t type = -1, space = -1;
    int exists;
    char found[64];
    *dataset = -1;
    GDN_TRY(gdni_tensor_exists(file, name, &exists));
    if (!exists)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "dataset %s: expected one of shape %s, found none", name,
                            shape->symbols ? shape->symbols : "as asked");
    *dataset = H5Dopen2(file->id, name, H5P_DEFAULT);
    if (*dataset < 0)
        return gdni_h5_fail(GDN_STATUS_BAD_FILE, file->path, "dataset %s: cannot be opened", name);
    type = H5Dget_type(*dataset);
    space = H5Dget_space(*dataset);
    if (type < 0 || space < 0) {
        status = gdni_h5_fail(GDN_STATUS_BAD_FILE, file->path, "dataset %s: damaged header", name);
    } else if (!has_class(type, class)) {
        describe_type(type, found, sizeof(found));
        status = gdni_io_fail(GDN_STATUS_BAD_FILE, file->path, "dataset %s: expected %s, found %s",
                              name, class_name(class), found);
    } else {
        status = check_shape(file, name, space, shape);
        if (status == GDN_STATUS_OK)
            status = gdni_check_storage(file, name, *dataset, H5Tget_size(type), shape);
    }
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    if (status != GDN_STATUS_OK) {
        H5Dclose(*dataset);
        *dataset = -1;
    }
    return status;
}

gdn_status gdni_tensor_check(const gdni_file *file, const char *name, gdni_class class,
                             gdni_shape *shape) {
    hid_t dataset;
    GDN_TRY(open_checked(file, name, class, shape, &dataset));
    H5Dclose(dataset);
    return GDN_STATUS_OK;
}

static gdn_status read_all(const gdni_file *file, const char *name, hid_t dataset,
                           const gdni_shape *shape, hid_t memory_type, void *data) {
    if (gdni_shape_count(shape) &&
        H5Dread(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
        return gdni_h5_fail(GDN_STATUS_BAD_FILE, file->path, "dataset %s: cannot be read", name);
    return GDN_STATUS_OK;
}

gdn_status gdni_tensor_read_into(const gdni_file *file, const char *name, gdni_class class,
                                 gdni_shape *shape, hid_t memory_type, void *data) {
    hid_t dataset;
    GDN_TRY(open_checked(file, name, class, shape, &dataset));
    const gdn_status status = read_all(file, name, dataset, shape, memory_type, data);
    H5Dclose(dataset);
    return status;
}

gdn_status gdni_tensor_read(const gdni_file *file, const char *name, gdni_class class,
                            gdni_shape *shape, hid_t memory_type, void **data) {
    hid_t dataset;
    gdn_status status;
    *data = NULL;
    GDN_TRY(open_checked(file, name, class, shape, &dataset));
    const size_t count = (size_t)gdni_shape_count(shape);
    /* One element at least: NULL means absent. */
    *data = malloc((count ? count : 1) * H5Tget_size(memory_type));
    if (!*data)
        status = gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, file->path,
                              "dataset %s: no memory for its %zu elements", name, count);
    else
        status = read_all(file, name, dataset, shape, memory_type, *data);
    H5Dclose(dataset);
    if (status != GDN_STATUS_OK) {
        free(*data);
        *data = NULL;
    }
    return status;
}

gdn_status gdni_tensor_read_rows(const gdni_file *file, const char *name, gdni_class class,
                                 gdni_shape *shape, int64_t first, int64_t rows, hid_t memory_type,
                                 void *data) {
    hid_t dataset;
    hsize_t start[GDNI_MAX_DIMS] = {(hsize_t)first}, count[GDNI_MAX_DIMS];
    gdn_status status = GDN_STATUS_OK;
    GDN_TRY(open_checked(file, name, class, shape, &dataset));
    for (int32_t i = 0; i < shape->ndim; ++i)
        count[i] = (hsize_t)(i ? shape->dim[i] : rows);
    const hid_t space = H5Dget_space(dataset), memory = H5Screate_simple(shape->ndim, count, NULL);
    if (H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL) < 0 ||
        H5Dread(dataset, memory_type, memory, space, H5P_DEFAULT, data) < 0)
        status = gdni_h5_fail(GDN_STATUS_BAD_FILE, file->path, "dataset %s: cannot be read", name);
    H5Sclose(memory);
    H5Sclose(space);
    H5Dclose(dataset);
    return status;
}

gdn_status gdni_tensor_read_real(const gdni_file *file, const char *name, gdni_shape *shape,
                                 double **data) {
    GDN_TRY(gdni_tensor_read(file, name, GDNI_REAL, shape, H5T_NATIVE_DOUBLE, (void **)data));
    const gdn_status status =
        gdni_check_finite(GDN_STATUS_BAD_FILE, file->path, name, shape, *data);
    if (status != GDN_STATUS_OK) {
        free(*data);
        *data = NULL;
    }
    return status;
}
