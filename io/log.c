/* Run logs. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    NAME_BYTES = 64, /* of a column's name, its terminator included */
    SPAN_COLUMNS = 5
};

/* Column names are one attribute of fixed-length strings: it shares the header's checksum. */
static gdn_status write_names(const gdni_writer *writer, const gdn_io_log *log) {
    const hsize_t count = log->columns;
    char *names = calloc(log->columns, NAME_BYTES);
    if (!names)
        return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, writer->target, "no memory for the names");
    for (size_t i = 0; i < log->columns; ++i)
        strcpy(names + i * NAME_BYTES, log->names[i]);
    const hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate_simple(1, &count, NULL);
    H5Tset_size(type, NAME_BYTES);
    H5Tset_cset(type, H5T_CSET_UTF8);
    const hid_t attribute =
        H5Acreate2(writer->id, "columns", type, space, H5P_DEFAULT, H5P_DEFAULT);
    gdn_status status = GDN_STATUS_OK;
    if (attribute < 0 || H5Awrite(attribute, type, names) < 0)
        status = gdni_h5_fail(GDN_STATUS_IO_ERROR, writer->target,
                              "attribute columns: cannot be written");
    if (attribute >= 0)
        H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
    free(names);
    return status;
}

static gdn_status log_write(const char *path, const gdn_io_log *in) {
    gdn_io_log log;
    gdni_writer writer;
    gdn_status status = GDN_STATUS_OK;
    GDNI_REQUIRE(path != NULL, "gdn_io_log_write: path is NULL");
    GDNI_TAKE(&log, in, "gdn_io_log_write: log");
    GDNI_REQUIRE(log.columns >= 1 && log.columns <= 1024 && log.names,
                 "gdn_io_log_write: columns is %zu, expected 1 to 1024 with names", log.columns);
    GDNI_REQUIRE(log.values || !log.rows, "gdn_io_log_write: values is NULL");
    for (size_t i = 0; i < log.columns; ++i)
        GDNI_REQUIRE(log.names[i] && *log.names[i] && strlen(log.names[i]) < NAME_BYTES,
                     "gdn_io_log_write: names[%zu]: expected 1 to %d bytes", i, NAME_BYTES - 1);
    const gdni_shape values = {"[rows, columns]", 2, {(int64_t)log.rows, (int64_t)log.columns}};
    const gdni_shape config = {"[bytes]", 1, {log.config ? (int64_t)strlen(log.config) : 0}};
    const gdni_shape spans = {"[spans, 5]", 2, {(int64_t)log.span_count, SPAN_COLUMNS}};
    GDN_TRY(gdni_writer_open(&writer, path, "gdn-log"));
    GDN_TRY_GOTO(write_names(&writer, &log), cleanup);
    GDN_TRY_GOTO(gdni_tensor_write(&writer, "values", &values, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE,
                                   log.values),
                 cleanup);
    if (log.config)
        GDN_TRY_GOTO(gdni_tensor_write(&writer, "config", &config, H5T_STD_U8LE, H5T_NATIVE_UCHAR,
                                       log.config),
                     cleanup);
    if (log.spans)
        GDN_TRY_GOTO(gdni_tensor_write(&writer, "timeline", &spans, H5T_IEEE_F64LE,
                                       H5T_NATIVE_DOUBLE, log.spans),
                     cleanup);
cleanup:
    return gdni_writer_close(&writer, status);
}

gdn_status gdn_io_log_write(const char *path, const gdn_io_log *log) {
    gdni_quiet quiet;
    gdni_quiet_begin(&quiet);
    const gdn_status status = log_write(path, log);
    gdni_quiet_end(&quiet);
    return status;
}

/* A log that was read: the public struct first, then what it points to. */
typedef struct read_log {
    gdn_io_log log;
    char *text; /* [columns][NAME_BYTES] */
    const char **names;
    double *values, *spans;
    char *config;
} read_log;

static gdn_status read_names(const gdni_file *file, read_log *out) {
    const hid_t attribute =
        gdni_attr_exists(file, "columns") ? H5Aopen(file->id, "columns", H5P_DEFAULT) : -1;
    const hid_t type = attribute >= 0 ? H5Aget_type(attribute) : -1;
    const hid_t space = attribute >= 0 ? H5Aget_space(attribute) : -1;
    const hid_t memory = H5Tcopy(H5T_C_S1);
    gdn_status status = GDN_STATUS_OK;
    const int64_t count = space >= 0 && H5Sget_simple_extent_ndims(space) == 1
                              ? (int64_t)H5Sget_simple_extent_npoints(space)
                              : 0;
    if (count < 1 || count > 1024 || type < 0 || H5Tget_class(type) != H5T_STRING ||
        H5Tis_variable_str(type) > 0 || H5Tget_size(type) > NAME_BYTES) {
        status = gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                              "attribute columns: expected 1 to 1024 fixed-length strings of at "
                              "most %d bytes, found %s",
                              NAME_BYTES, attribute < 0 ? "none" : "something else");
        goto cleanup;
    }
    /* One byte more than the file has, so that each ends with a terminator. */
    H5Tset_size(memory, NAME_BYTES + 1);
    H5Tset_cset(memory, H5Tget_cset(type));
    out->text = calloc((size_t)count, NAME_BYTES + 1);
    out->names = calloc((size_t)count, sizeof(*out->names));
    if (!out->text || !out->names) {
        status = gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, file->path, "no memory for the names");
        goto cleanup;
    }
    if (H5Aread(attribute, memory, out->text) < 0) {
        status = gdni_h5_fail(GDN_STATUS_BAD_FILE, file->path, "attribute columns: cannot be read");
        goto cleanup;
    }
    for (int64_t i = 0; i < count; ++i) {
        out->names[i] = out->text + i * (NAME_BYTES + 1);
        if (!*out->names[i])
            status = gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                                  "attribute columns: expected names, found an empty one");
    }
    out->log.columns = (size_t)count;
cleanup:
    H5Tclose(memory);
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    if (attribute >= 0)
        H5Aclose(attribute);
    return status;
}

static gdn_status read_spans(const gdni_file *file, read_log *out) {
    gdni_shape spans = {"[spans, 5]", 2, {-1, SPAN_COLUMNS}};
    int exists;
    GDN_TRY(gdni_tensor_exists(file, "timeline", &exists));
    if (!exists)
        return GDN_STATUS_OK;
    GDN_TRY(gdni_tensor_read(file, "timeline", GDNI_REAL, &spans, H5T_NATIVE_DOUBLE,
                             (void **)&out->spans));
    out->log.span_count = (size_t)spans.dim[0];
    return GDN_STATUS_OK;
}

static gdn_status read_parts(const gdni_file *file, read_log *out) {
    gdni_shape values = {"[rows, columns]", 2, {-1, -1}}, config = {"[bytes]", 1, {-1}};
    int exists;
    GDN_TRY(gdni_file_expect(file, "gdn-log"));
    GDN_TRY(read_names(file, out));
    values.dim[1] = (int64_t)out->log.columns;
    GDN_TRY(gdni_tensor_read(file, "values", GDNI_REAL, &values, H5T_NATIVE_DOUBLE,
                             (void **)&out->values));
    out->log.rows = (size_t)values.dim[0];
    GDN_TRY(read_spans(file, out));
    GDN_TRY(gdni_tensor_exists(file, "config", &exists));
    if (!exists)
        return GDN_STATUS_OK;
    GDN_TRY(gdni_tensor_check(file, "config", GDNI_BYTES, &config));
    out->config = calloc((size_t)config.dim[0] + 1, 1);
    if (!out->config)
        return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, file->path, "no memory for config");
    if (config.dim[0])
        GDN_TRY(gdni_tensor_read_rows(file, "config", GDNI_BYTES, &config, 0, config.dim[0],
                                      H5T_NATIVE_UCHAR, out->config));
    return GDN_STATUS_OK;
}

static gdn_status log_read(const char *path, gdn_io_log **out) {
    gdni_file file;
    *out = NULL;
    read_log *read = calloc(1, sizeof(*read));
    if (!read)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "gdn_io_log_read: no memory");
    gdn_status status = gdni_file_open(&file, path);
    if (status == GDN_STATUS_OK)
        status = read_parts(&file, read);
    gdni_file_close(&file);
    read->log.size = sizeof(read->log);
    read->log.names = read->names;
    read->log.values = read->values;
    read->log.config = read->config;
    read->log.spans = read->spans;
    if (status == GDN_STATUS_OK)
        *out = &read->log;
    else
        gdn_io_log_free(&read->log);
    return status;
}

/* In a child process; see guard.c. */
static gdn_status rehearse_log(const char *path) {
    gdn_io_log *log;
    const gdn_status status = log_read(path, &log);
    gdn_io_log_free(log);
    return status;
}

gdn_status gdn_io_log_read(const char *path, gdn_io_log **out) {
    gdni_quiet quiet;
    gdni_clear_error();
    GDNI_REQUIRE(path && out, "gdn_io_log_read: path or out is NULL");
    *out = NULL;
    gdni_quiet_begin(&quiet);
    gdn_status status = gdni_rehearse(path, rehearse_log);
    if (status == GDN_STATUS_OK)
        status = log_read(path, out);
    gdni_quiet_end(&quiet);
    return status;
}

void gdn_io_log_free(gdn_io_log *log) {
    read_log *read = (read_log *)log;
    if (!read)
        return;
    free(read->text);
    free(read->names);
    free(read->values);
    free(read->spans);
    free(read->config);
    free(read);
}
