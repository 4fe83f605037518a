/* Attributes of the root group. */
#include "internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

int gdni_attr_exists(const gdni_file *file, const char *name) {
    return H5Aexists(file->id, name) > 0;
}

/* Opens an attribute of one element and of one class; what: for the message. */
static gdn_status open_scalar(const gdni_file *file, const char *name, H5T_class_t class,
                              const char *what, hid_t *attribute, hid_t *type) {
    *type = -1;
    *attribute = gdni_attr_exists(file, name) ? H5Aopen(file->id, name, H5P_DEFAULT) : -1;
    if (*attribute < 0)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "attribute %s: expected %s, found none", name, what);
    *type = H5Aget_type(*attribute);
    const hid_t space = H5Aget_space(*attribute);
    const int64_t count = space >= 0 ? (int64_t)H5Sget_simple_extent_npoints(space) : -1;
    if (space >= 0)
        H5Sclose(space);
    if (*type < 0 || H5Tget_class(*type) != class || count != 1)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path, "attribute %s: expected %s, found %s",
                            name, what, count != 1 ? "another count of values" : "another type");
    return GDN_STATUS_OK;
}

static void close_scalar(hid_t attribute, hid_t type) {
    if (type >= 0)
        H5Tclose(type);
    if (attribute >= 0)
        H5Aclose(attribute);
}

static gdn_status read_scalar(const gdni_file *file, const char *name, H5T_class_t class,
                              const char *what, hid_t memory_type, void *value) {
    hid_t attribute, type;
    gdn_status status = open_scalar(file, name, class, what, &attribute, &type);
    if (status == GDN_STATUS_OK && H5Aread(attribute, memory_type, value) < 0)
        status =
            gdni_h5_fail(GDN_STATUS_BAD_FILE, file->path, "attribute %s: cannot be read", name);
    close_scalar(attribute, type);
    return status;
}

gdn_status gdni_attr_read_int(const gdni_file *file, const char *name, int64_t low, int64_t high,
                              int64_t *value) {
    char what[80];
    if (low == high)
        snprintf(what, sizeof(what), "the integer %" PRId64, low);
    else
        snprintf(what, sizeof(what), "an integer from %" PRId64 " to %" PRId64, low, high);
    GDN_TRY(read_scalar(file, name, H5T_INTEGER, what, H5T_NATIVE_INT64, value));
    if (*value < low || *value > high)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "attribute %s: expected %s, found %" PRId64, name, what, *value);
    return GDN_STATUS_OK;
}

gdn_status gdni_attr_read_real(const gdni_file *file, const char *name, double *value) {
    const char *what = "a finite floating-point number";
    GDN_TRY(read_scalar(file, name, H5T_FLOAT, what, H5T_NATIVE_DOUBLE, value));
    if (!isfinite(*value))
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path, "attribute %s: expected %s, found %g",
                            name, what, *value);
    return GDN_STATUS_OK;
}

/* h5py writes str as variable-length strings, bytes as fixed ones: both are read. */
gdn_status gdni_attr_read_text(const gdni_file *file, const char *name, char *text, size_t size) {
    hid_t attribute, type, memory = -1;
    char *variable = NULL;
    size_t length = 0;
    gdn_status status = open_scalar(file, name, H5T_STRING, "a string", &attribute, &type);
    if (status != GDN_STATUS_OK)
        goto cleanup;
    memset(text, 0, size);
    memory = H5Tcopy(H5T_C_S1);
    H5Tset_cset(memory, H5Tget_cset(type));
    int read;
    if (H5Tis_variable_str(type) > 0) {
        H5Tset_size(memory, H5T_VARIABLE);
        read = H5Aread(attribute, memory, &variable) >= 0;
        length = read && variable ? strlen(variable) : 0;
        if (read && variable)
            memcpy(text, variable, length < size ? length : 0);
        H5free_memory(variable);
    } else {
        length = H5Tget_size(type);
        if (length < size)
            H5Tset_size(memory, size);
        read = length >= size || H5Aread(attribute, memory, text) >= 0;
    }
    if (!read)
        status =
            gdni_h5_fail(GDN_STATUS_BAD_FILE, file->path, "attribute %s: cannot be read", name);
    else if (length >= size)
        status = gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                              "attribute %s: expected at most %zu bytes, found %zu", name, size - 1,
                              length);
cleanup:
    if (memory >= 0)
        H5Tclose(memory);
    close_scalar(attribute, type);
    return status;
}

static gdn_status write_scalar(const gdni_writer *writer, const char *name, hid_t file_type,
                               hid_t memory_type, const void *value) {
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t attribute =
        H5Acreate2(writer->id, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    gdn_status status = GDN_STATUS_OK;
    if (attribute < 0 || H5Awrite(attribute, memory_type, value) < 0)
        status = gdni_h5_fail(GDN_STATUS_IO_ERROR, writer->target,
                              "attribute %s: cannot be written", name);
    if (attribute >= 0)
        H5Aclose(attribute);
    H5Sclose(space);
    return status;
}

/* Variable length, which h5py gives back as str. */
gdn_status gdni_attr_write_text(const gdni_writer *writer, const char *name, const char *text) {
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    const gdn_status status = write_scalar(writer, name, type, type, &text);
    H5Tclose(type);
    return status;
}

gdn_status gdni_attr_write_int(const gdni_writer *writer, const char *name, int64_t value) {
    return write_scalar(writer, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

gdn_status gdni_attr_write_real(const gdni_writer *writer, const char *name, double value) {
    return write_scalar(writer, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
}
