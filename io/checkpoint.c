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

/* Reads every dataset in blocks, which is what verifies its checksums. */
static herr_t verify_object(hid_t group, const char *name, const H5O_info_t *info, void *user) {
    enum {
        BLOCK = 16 << 20
    };
    const gdni_file *file = user;
    hsize_t dim[H5S_MAX_RANK], start[H5S_MAX_RANK] = {0};
    herr_t result = 0;
    if (info->type != H5O_TYPE_DATASET)
        return 0;
    const hid_t dataset = H5Dopen2(group, name, H5P_DEFAULT);
    const hid_t type = dataset >= 0 ? H5Dget_type(dataset) : -1;
    const hid_t space = dataset >= 0 ? H5Dget_space(dataset) : -1;
    const int ndim = space >= 0 ? H5Sget_simple_extent_dims(space, dim, NULL) : -1;
    double scalar;
    if (type < 0 || ndim < 0 || ndim > GDNI_MAX_DIMS || H5Tget_size(type) > sizeof(scalar)) {
        result = -1;
    } else if (ndim == 0) {
        result = H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, &scalar);
    } else if (H5Sget_simple_extent_npoints(space) > 0) {
        hsize_t row = H5Tget_size(type), step[H5S_MAX_RANK];
        int overflow = 0;
        memcpy(step, dim, sizeof(step));
        for (int i = 1; i < ndim; ++i)
            overflow |= __builtin_mul_overflow(row, dim[i], &row);
        const hsize_t rows = row < BLOCK ? BLOCK / row : 1, bound = (hsize_t)file->bytes;
        void *block =
            overflow || row > bound ? NULL : malloc((dim[0] < rows ? dim[0] : rows) * row);
        result = block ? 0 : -1;
        for (start[0] = 0; result >= 0 && start[0] < dim[0]; start[0] += rows) {
            step[0] = dim[0] - start[0] < rows ? dim[0] - start[0] : rows;
            const hid_t memory = H5Screate_simple(ndim, step, NULL);
            result = H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, step, NULL);
            if (result >= 0)
                result = H5Dread(dataset, type, memory, space, H5P_DEFAULT, block);
            H5Sclose(memory);
        }
        free(block);
    }
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    if (dataset >= 0)
        H5Dclose(dataset);
    return result < 0 ? -1 : 0;
}

static gdn_status rehearse_checkpoint(const char *path) {
    gdn_io_checkpoint *c;
    gdn_status status = checkpoint_open(path, &c);
    if (status != GDN_STATUS_OK)
        return status;
    if (H5Ovisit(c->file.id, H5_INDEX_NAME, H5_ITER_NATIVE, verify_object, &c->file) < 0)
        status =
            gdni_h5_fail(GDN_STATUS_BAD_FILE, path, "expected a whole checkpoint, found damage");
    gdn_io_checkpoint_close(c);
    return status;
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
