/* Checkpoints: one file of named tensors. Which of a directory's is the newest: rotation.c. */
#include "checkpoint.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct gdn_io_checkpoint {
    gdni_file file;
    char *path;
    int64_t step;
};

/* Type on file, type in memory and class of an entry. */
static int entry_types(gdn_io_type type, hid_t *file, hid_t *memory, gdni_class *class) {
    switch (type) {
    case GDN_IO_F32:
        *file = H5T_IEEE_F32LE, *memory = H5T_NATIVE_FLOAT, *class = GDNI_F32;
        return 1;
    case GDN_IO_F64:
        *file = H5T_IEEE_F64LE, *memory = H5T_NATIVE_DOUBLE, *class = GDNI_F64;
        return 1;
    case GDN_IO_I64:
        *file = H5T_STD_I64LE, *memory = H5T_NATIVE_INT64, *class = GDNI_I64;
        return 1;
    case GDN_IO_U64:
        *file = H5T_STD_U64LE, *memory = H5T_NATIVE_UINT64, *class = GDNI_U64;
        return 1;
    case GDN_IO_TEXT:
        *file = H5T_STD_U8LE, *memory = H5T_NATIVE_UCHAR, *class = GDNI_BYTES;
        return 1;
    }
    return 0;
}

/* Groups and datasets in between slashes, none of them empty. */
static int valid_name(const char *name) {
    if (!name || !*name || *name == '/' || name[strlen(name) - 1] == '/' || strstr(name, "//"))
        return 0;
    return strlen(name) < 256 && strcmp(name, ".");
}

static gdn_status check_entry(const char *function, const gdn_io_entry *e) {
    hid_t file, memory;
    gdni_class class;
    int64_t count = 1;
    GDNI_REQUIRE(valid_name(e->name),
                 "%s: entry name '%s': expected 1 to 255 bytes without empty parts", function,
                 e->name ? e->name : "");
    GDNI_REQUIRE(entry_types(e->type, &file, &memory, &class),
                 "%s: entry %s: type is %d, expected a gdn_io_type", function, e->name,
                 (int)e->type);
    GDNI_REQUIRE(e->ndim >= 0 && e->ndim <= GDNI_MAX_DIMS,
                 "%s: entry %s: ndim is %d, expected 0 to %d", function, e->name, e->ndim,
                 GDNI_MAX_DIMS);
    GDNI_REQUIRE(e->type != GDN_IO_TEXT || e->ndim == 1, "%s: entry %s: text has one dimension",
                 function, e->name);
    for (int32_t i = 0; i < e->ndim; ++i)
        GDNI_REQUIRE(e->shape[i] >= 0 && !__builtin_mul_overflow(count, e->shape[i], &count),
                     "%s: entry %s: shape[%d] is %" PRId64 ", expected 0 or more", function,
                     e->name, i, e->shape[i]);
    return GDN_STATUS_OK;
}

static gdni_shape entry_shape(const gdn_io_entry *e) {
    gdni_shape shape = {NULL, e->ndim, {0}};
    memcpy(shape.dim, e->shape, sizeof(shape.dim));
    return shape;
}

gdn_status gdni_checkpoint_write_file(const char *path, int64_t step, const gdn_io_entry *entries,
                                      size_t count) {
    gdni_writer writer;
    gdn_status status = GDN_STATUS_OK;
    for (size_t i = 0; i < count; ++i) {
        GDN_TRY(check_entry("gdn_io_checkpoint_write", &entries[i]));
        const gdni_shape shape = entry_shape(&entries[i]);
        GDNI_REQUIRE(entries[i].data || !gdni_shape_count(&shape),
                     "gdn_io_checkpoint_write: entry %s: data is NULL", entries[i].name);
        for (size_t j = 0; j < i; ++j)
            GDNI_REQUIRE(strcmp(entries[i].name, entries[j].name),
                         "gdn_io_checkpoint_write: entry %s: given twice", entries[i].name);
    }
    GDN_TRY(gdni_writer_open(&writer, path, "gdn-checkpoint"));
    GDN_TRY_GOTO(gdni_attr_write_int(&writer, "step", step), cleanup);
    for (size_t i = 0; i < count; ++i) {
        const gdni_shape shape = entry_shape(&entries[i]);
        hid_t file, memory;
        gdni_class class;
        entry_types(entries[i].type, &file, &memory, &class);
        GDN_TRY_GOTO(
            gdni_tensor_write(&writer, entries[i].name, &shape, file, memory, entries[i].data),
            cleanup);
    }
cleanup:
    return gdni_writer_close(&writer, status);
}

gdn_status gdn_io_checkpoint_write_file(const char *path, int64_t step, const gdn_io_entry *entries,
                                        size_t count) {
    gdni_quiet quiet;
    gdni_clear_error();
    GDNI_REQUIRE(path && (entries || !count),
                 "gdn_io_checkpoint_write_file: path or entries is NULL");
    GDNI_REQUIRE(step >= 0, "gdn_io_checkpoint_write_file: step is %" PRId64 ", expected 0 or more",
                 step);
    gdni_quiet_begin(&quiet);
    const gdn_status status = gdni_checkpoint_write_file(path, step, entries, count);
    gdni_quiet_end(&quiet);
    return status;
}

static gdn_status open_file(const char *path, gdn_io_checkpoint *c) {
    GDN_TRY(gdni_file_open(&c->file, path));
    c->file.path = c->path;
    GDN_TRY(gdni_file_expect(&c->file, "gdn-checkpoint"));
    return gdni_attr_read_int(&c->file, "step", 0, INT64_MAX, &c->step);
}

static gdn_status checkpoint_open(const char *path, gdn_io_checkpoint **out) {
    *out = NULL;
    gdn_io_checkpoint *c = calloc(1, sizeof(*c));
    char *copy = strdup(path);
    if (!c || !copy) {
        free(c);
        free(copy);
        return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, path, "no memory to open it");
    }
    c->file.id = -1;
    c->path = copy;
    const gdn_status status = open_file(path, c);
    if (status == GDN_STATUS_OK)
        *out = c;
    else
        gdn_io_checkpoint_close(c);
    return status;
}

void gdn_io_checkpoint_close(gdn_io_checkpoint *c) {
    if (!c)
        return;
    gdni_file_close(&c->file);
    free(c->path);
    free(c);
}

int64_t gdn_io_checkpoint_step(const gdn_io_checkpoint *c) {
    return c ? c->step : -1;
}

/* Rows of about 16 MiB. */
static hsize_t block_rows(hsize_t row_bytes, hsize_t rows) {
    const hsize_t block = 16 << 20, fit = row_bytes && row_bytes < block ? block / row_bytes : 1;
    return fit < rows ? fit : rows;
}

/* Reads a dataset of one dim or more in blocks, which verifies its checksums. */
static gdn_status read_blocks(const gdni_file *file, const char *name, hid_t dataset, hid_t type,
                              const gdni_shape *shape) {
    hsize_t start[GDNI_MAX_DIMS] = {0}, count[GDNI_MAX_DIMS];
    const hsize_t rows = (hsize_t)shape->dim[0];
    const hsize_t row_bytes =
        rows ? (hsize_t)gdni_shape_count(shape) / rows * H5Tget_size(type) : 0;
    const hsize_t step = block_rows(row_bytes, rows);
    for (int32_t i = 0; i < shape->ndim; ++i)
        count[i] = (hsize_t)shape->dim[i];
    if (!rows || !row_bytes)
        return GDN_STATUS_OK;
    void *block = malloc(step * row_bytes);
    const hid_t space = H5Dget_space(dataset);
    gdn_status status = GDN_STATUS_OK;
    if (!block)
        status = gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, file->path, "no memory to verify it");
    for (; status == GDN_STATUS_OK && start[0] < rows; start[0] += step) {
        count[0] = rows - start[0] < step ? rows - start[0] : step;
        const hid_t memory = H5Screate_simple(shape->ndim, count, NULL);
        if (H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL) < 0 ||
            H5Dread(dataset, type, memory, space, H5P_DEFAULT, block) < 0)
            status =
                gdni_h5_fail(GDN_STATUS_BAD_FILE, file->path, "dataset %s: cannot be read", name);
        H5Sclose(memory);
    }
    H5Sclose(space);
    free(block);
    return status;
}

static gdn_status verify_dataset(const gdni_file *file, const char *name, hid_t dataset) {
    const hid_t type = H5Dget_type(dataset), space = H5Dget_space(dataset);
    const int ndim = space >= 0 ? H5Sget_simple_extent_ndims(space) : -1;
    gdn_status status = GDN_STATUS_OK;
    gdni_shape shape = {NULL, ndim, {0}};
    hsize_t dim[GDNI_MAX_DIMS];
    double scalar;
    if (type < 0 || ndim < 0 || ndim > GDNI_MAX_DIMS || H5Tget_size(type) > sizeof(scalar)) {
        status = gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                              "dataset %s: expected numbers of up to %d dimensions", name,
                              GDNI_MAX_DIMS);
    } else if (ndim == 0) {
        if (H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, &scalar) < 0)
            status =
                gdni_h5_fail(GDN_STATUS_BAD_FILE, file->path, "dataset %s: cannot be read", name);
    } else {
        H5Sget_simple_extent_dims(space, dim, NULL);
        for (int i = 0; i < ndim; ++i)
            shape.dim[i] = dim[i] > INT64_MAX ? INT64_MAX : (int64_t)dim[i];
        status = gdni_check_storage(file, name, dataset, H5Tget_size(type), &shape);
        if (status == GDN_STATUS_OK)
            status = read_blocks(file, name, dataset, type, &shape);
    }
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    return status;
}

/* The visit of a file, and what it has found. */
typedef struct visit {
    const gdni_file *file;
    gdn_status status;
} visit;

static herr_t verify_object(hid_t group, const char *name, const H5O_info_t *info, void *user) {
    visit *v = user;
    if (info->type != H5O_TYPE_DATASET)
        return 0;
    const hid_t dataset = H5Dopen2(group, name, H5P_DEFAULT);
    if (dataset < 0) {
        v->status =
            gdni_h5_fail(GDN_STATUS_BAD_FILE, v->file->path, "dataset %s: cannot be opened", name);
        return -1;
    }
    v->status = verify_dataset(v->file, name, dataset);
    H5Dclose(dataset);
    return v->status == GDN_STATUS_OK ? 0 : -1;
}

static gdn_status rehearse_checkpoint(const char *path) {
    gdn_io_checkpoint *c;
    GDN_TRY(checkpoint_open(path, &c));
    visit v = {&c->file, GDN_STATUS_OK};
    if (H5Ovisit(c->file.id, H5_INDEX_NAME, H5_ITER_NATIVE, verify_object, &v) < 0 &&
        v.status == GDN_STATUS_OK)
        v.status = gdni_h5_fail(GDN_STATUS_BAD_FILE, path, "expected a whole checkpoint");
    gdn_io_checkpoint_close(c);
    return v.status;
}

gdn_status gdni_checkpoint_verify(const char *path) {
    return gdni_rehearse(path, rehearse_checkpoint);
}

gdn_status gdn_io_checkpoint_open(const char *path, gdn_io_checkpoint **out) {
    gdni_quiet quiet;
    gdni_clear_error();
    GDNI_REQUIRE(path && out, "gdn_io_checkpoint_open: path or out is NULL");
    *out = NULL;
    gdni_quiet_begin(&quiet);
    gdn_status status = gdni_checkpoint_verify(path);
    if (status == GDN_STATUS_OK)
        status = checkpoint_open(path, out);
    gdni_quiet_end(&quiet);
    return status;
}

static gdn_status checkpoint_shape(gdn_io_checkpoint *c, const char *name, gdn_io_type type,
                                   int32_t *ndim, int64_t shape[4]) {
    hid_t file, memory;
    gdni_class class;
    GDNI_REQUIRE(c && valid_name(name) && ndim && shape,
                 "gdn_io_checkpoint_shape: an argument is NULL or the name is empty");
    GDNI_REQUIRE(entry_types(type, &file, &memory, &class),
                 "gdn_io_checkpoint_shape: type is %d, expected a gdn_io_type", (int)type);
    gdni_shape found = {NULL, -1, {-1, -1, -1, -1}};
    GDN_TRY(gdni_tensor_check(&c->file, name, class, &found));
    *ndim = found.ndim;
    memset(shape, 0, 4 * sizeof(*shape));
    memcpy(shape, found.dim, (size_t)found.ndim * sizeof(*shape));
    return GDN_STATUS_OK;
}

gdn_status gdn_io_checkpoint_shape(gdn_io_checkpoint *checkpoint, const char *name,
                                   gdn_io_type type, int32_t *ndim, int64_t shape[4]) {
    gdni_quiet quiet;
    gdni_quiet_begin(&quiet);
    const gdn_status status = checkpoint_shape(checkpoint, name, type, ndim, shape);
    gdni_quiet_end(&quiet);
    return status;
}

static gdn_status checkpoint_read(gdn_io_checkpoint *c, const gdn_io_entry *want, void *data) {
    hid_t file, memory;
    gdni_class class;
    GDNI_REQUIRE(c && want, "gdn_io_checkpoint_read: checkpoint or want is NULL");
    GDN_TRY(check_entry("gdn_io_checkpoint_read", want));
    entry_types(want->type, &file, &memory, &class);
    gdni_shape shape = entry_shape(want);
    GDNI_REQUIRE(data || !gdni_shape_count(&shape), "gdn_io_checkpoint_read: %s: data is NULL",
                 want->name);
    return gdni_tensor_read_into(&c->file, want->name, class, &shape, memory, data);
}

gdn_status gdn_io_checkpoint_read(gdn_io_checkpoint *checkpoint, const gdn_io_entry *want,
                                  void *data) {
    gdni_quiet quiet;
    gdni_quiet_begin(&quiet);
    const gdn_status status = checkpoint_read(checkpoint, want, data);
    gdni_quiet_end(&quiet);
    return status;
}
