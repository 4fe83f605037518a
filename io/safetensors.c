/* Reading safetensors: the header is checked as a whole before any tensor is read. */
#include "safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "json.h"

enum {
    LENGTH_BYTES = 8,
    HEADER_LIMIT = 100000000, /* that of the format's own library */
    BLOCK = 1 << 20           /* bytes read at a time */
};

static const gdni_safetensors_type types[] = {
    {"F32", 32, 1, GDN_DTYPE_FP32},    {"BF16", 16, 1, GDN_DTYPE_BF16},
    {"F16", 16, 1, GDN_DTYPE_FP16},    {"F64", 64, 0, GDN_DTYPE_FP64},
    {"BOOL", 8, 0, GDN_DTYPE_FP32},    {"U8", 8, 0, GDN_DTYPE_FP32},
    {"I8", 8, 0, GDN_DTYPE_FP32},      {"U16", 16, 0, GDN_DTYPE_FP32},
    {"I16", 16, 0, GDN_DTYPE_FP32},    {"U32", 32, 0, GDN_DTYPE_FP32},
    {"I32", 32, 0, GDN_DTYPE_FP32},    {"U64", 64, 0, GDN_DTYPE_FP32},
    {"I64", 64, 0, GDN_DTYPE_FP32},    {"C64", 64, 0, GDN_DTYPE_FP32},
    {"F4", 4, 0, GDN_DTYPE_FP32},      {"F6_E2M3", 6, 0, GDN_DTYPE_FP32},
    {"F6_E3M2", 6, 0, GDN_DTYPE_FP32}, {"F8_E4M3", 8, 0, GDN_DTYPE_FP32},
    {"F8_E5M2", 8, 0, GDN_DTYPE_FP32}, {"F8_E8M0", 8, 0, GDN_DTYPE_FP32},
};
enum {
    N_TYPES = sizeof(types) / sizeof(types[0])
};

const char *gdni_safetensors_name(gdn_dtype dtype) {
    for (int i = 0; i < N_TYPES; ++i)
        if (types[i].readable && types[i].dtype == dtype)
            return types[i].name;
    return NULL;
}

/* --- Bytes --- */

static gdn_status read_at(const char *path, int fd, int64_t offset, void *to, size_t size) {
    for (size_t done = 0; done < size;) {
        const ssize_t got = pread(fd, (char *)to + done, size - done, offset + (int64_t)done);
        if (got < 0 && errno != EINTR)
            return gdni_io_fail(GDN_STATUS_IO_ERROR, path, "cannot read: %s", strerror(errno));
        if (got == 0)
            return gdni_io_fail(GDN_STATUS_BAD_FILE, path, "it became shorter while it was read");
        done += got > 0 ? (size_t)got : 0;
    }
    return GDN_STATUS_OK;
}

/* Opens a regular file; *fd is -1 on a failure. */
static gdn_status open_file(const char *path, int *fd, int64_t *bytes) {
    struct stat about;
    *fd = -1;
    *bytes = 0;
    if (stat(path, &about))
        return gdni_io_fail(GDN_STATUS_BAD_FILE, path, "cannot open: %s", strerror(errno));
    if (!S_ISREG(about.st_mode))
        return gdni_io_fail(GDN_STATUS_BAD_FILE, path, "expected a file, found %s",
                            S_ISDIR(about.st_mode) ? "a directory" : "no regular file");
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, path, "cannot open: %s", strerror(errno));
    *bytes = about.st_size;
    return GDN_STATUS_OK;
}

gdn_status gdni_read_text(const char *path, int64_t limit, char **text, size_t *size) {
    int fd;
    int64_t bytes;
    gdn_status status = GDN_STATUS_OK;
    *text = NULL;
    GDN_TRY(open_file(path, &fd, &bytes));
    if (bytes > limit)
        status = gdni_io_fail(GDN_STATUS_BAD_FILE, path,
                              "expected at most %" PRId64 " bytes, found %" PRId64, limit, bytes);
    else if (!(*text = malloc((size_t)bytes + 1)))
        status = gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, path, "no memory to read it");
    if (status == GDN_STATUS_OK)
        status = read_at(path, fd, 0, *text, (size_t)bytes);
    close(fd);
    *size = (size_t)bytes;
    if (status != GDN_STATUS_OK) {
        free(*text);
        *text = NULL;
    }
    return status;
}

/* --- The header --- */

/* The tensor that is being read, and which of its fields have been. */
typedef struct entry {
    gdni_safetensors *file;
    gdni_safetensors_tensor *tensor;
    int seen_type, seen_shape, offsets;
} entry;

static gdn_status on_dim(void *user, gdni_json *j) {
    gdni_safetensors_tensor *t = ((entry *)user)->tensor;
    if (t->ndim == GDNI_SAFETENSORS_DIMS)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, j->path,
                            "tensor %s: expected at most %d dimensions", t->name,
                            GDNI_SAFETENSORS_DIMS);
    return gdni_json_count(j, &t->dim[t->ndim++]);
}

static gdn_status on_offset(void *user, gdni_json *j) {
    entry *e = user;
    if (e->offsets == 2)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, j->path,
                            "tensor %s: expected two data_offsets, found more", e->tensor->name);
    return gdni_json_count(j, e->offsets++ ? &e->tensor->end : &e->tensor->begin);
}

static gdn_status read_type(entry *e, gdni_json *j) {
    char *name;
    GDN_TRY(gdni_json_string(j, &name));
    for (int i = 0; i < N_TYPES; ++i)
        if (!strcmp(name, types[i].name))
            e->tensor->type = &types[i];
    const gdn_status status =
        e->tensor->type ? GDN_STATUS_OK
                        : gdni_io_fail(GDN_STATUS_BAD_FILE, j->path,
                                       "tensor %s: expected a dtype of safetensors, found '%.32s'",
                                       e->tensor->name, name);
    free(name);
    return status;
}

static gdn_status on_field(void *user, gdni_json *j, const char *key) {
    entry *e = user;
    if (!strcmp(key, "dtype") && !e->seen_type++)
        return read_type(e, j);
    if (!strcmp(key, "shape") && !e->seen_shape++)
        return gdni_json_array(j, on_dim, e);
    if (!strcmp(key, "data_offsets") && !e->offsets)
        return gdni_json_array(j, on_offset, e);
    return gdni_io_fail(GDN_STATUS_BAD_FILE, j->path,
                        "tensor %s: expected dtype, shape and data_offsets, each once, found '%s'",
                        e->tensor->name, key);
}

/* Elements times their size, rounded up to bytes; -1 where int64 does not hold it. */
static int64_t tensor_bytes(const gdni_safetensors_tensor *t) {
    int64_t bits = t->type->bits;
    int overflow = 0, empty = 0;
    for (int32_t i = 0; i < t->ndim; ++i)
        empty |= t->dim[i] == 0;
    if (empty)
        return 0;
    for (int32_t i = 0; i < t->ndim; ++i)
        overflow |= __builtin_mul_overflow(bits, t->dim[i], &bits);
    return overflow || bits > INT64_MAX - 7 ? -1 : (bits + 7) / 8;
}

static gdn_status check_tensor(const entry *e) {
    const gdni_safetensors_tensor *t = e->tensor;
    const char *path = e->file->path;
    if (!e->seen_type || !e->seen_shape || e->offsets != 2)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, path, "tensor %s: expected %s, found none",
                            t->name,
                            !e->seen_type    ? "dtype"
                            : !e->seen_shape ? "shape"
                                             : "two data_offsets");
    if (t->begin > t->end || t->end > e->file->bytes)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, path,
                            "tensor %s: expected data_offsets within the %" PRId64
                            " bytes of data in this file, found [%" PRId64 ", %" PRId64 "]",
                            t->name, e->file->bytes, t->begin, t->end);
    const int64_t bytes = tensor_bytes(t);
    if (bytes != t->end - t->begin)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, path,
                            "tensor %s: expected data_offsets of as many bytes as its shape has in "
                            "%s, found %" PRId64,
                            t->name, t->type->name, t->end - t->begin);
    return GDN_STATUS_OK;
}

static gdn_status on_text(void *user, gdni_json *j, const char *key) {
    char *text;
    (void)user;
    (void)key;
    GDN_TRY(gdni_json_string(j, &text));
    free(text);
    return GDN_STATUS_OK;
}

/* The file, how many tensors its array holds room for, and whether it had __metadata__. */
typedef struct header {
    gdni_safetensors *file;
    size_t capacity;
    int metadata;
} header;

static gdn_status on_tensor(void *user, gdni_json *j, const char *key) {
    header *h = user;
    gdni_safetensors *f = h->file;
    if (!strcmp(key, "__metadata__")) {
        if (h->metadata++)
            return gdni_io_fail(GDN_STATUS_BAD_FILE, f->path,
                                "header: expected one __metadata__, found two");
        return gdni_json_object(j, on_text, NULL);
    }
    if (f->count == h->capacity) {
        const size_t capacity = h->capacity ? 2 * h->capacity : 64;
        gdni_safetensors_tensor *grown = realloc(f->tensors, capacity * sizeof(*grown));
        if (!grown)
            return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, f->path, "no memory for its header");
        f->tensors = grown;
        h->capacity = capacity;
    }
    entry e = {f, &f->tensors[f->count], 0, 0, 0};
    memset(e.tensor, 0, sizeof(*e.tensor));
    e.tensor->name = strdup(key);
    if (!e.tensor->name)
        return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, f->path, "no memory for its header");
    ++f->count;
    GDN_TRY(gdni_json_object(j, on_field, &e));
    return check_tensor(&e);
}

static int by_offset(const void *a, const void *b) {
    const gdni_safetensors_tensor *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const gdni_safetensors_tensor *)a)->name,
                  ((const gdni_safetensors_tensor *)b)->name);
}

/* The tensors cover the data one after another; no name is there twice. Leaves them by name. */
static gdn_status check_tensors(gdni_safetensors *f) {
    gdni_safetensors_tensor *t = f->tensors;
    int64_t end = 0;
    if (f->count)
        qsort(t, f->count, sizeof(*t), by_offset);
    for (size_t i = 0; i < f->count; end = t[i++].end)
        if (t[i].begin != end)
            return gdni_io_fail(GDN_STATUS_BAD_FILE, f->path,
                                "tensor %s: expected data from byte %" PRId64
                                ", where those before it end, found %" PRId64 ": %s",
                                t[i].name, end, t[i].begin,
                                t[i].begin < end ? "they overlap" : "a gap");
    if (end != f->bytes)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, f->path,
                            "expected %" PRId64
                            " bytes of data, as its header says, found %" PRId64,
                            end, f->bytes);
    if (f->count)
        qsort(t, f->count, sizeof(*t), by_name);
    for (size_t i = 1; i < f->count; ++i)
        if (!strcmp(t[i - 1].name, t[i].name))
            return gdni_io_fail(GDN_STATUS_BAD_FILE, f->path,
                                "tensor %s: expected it once, found it twice", t[i].name);
    return GDN_STATUS_OK;
}

static gdn_status parse_header(gdni_safetensors *f, const char *text, size_t size) {
    gdni_json j = {f->path, "header", text, size, 0, 0};
    header h = {f, 0, 0};
    GDN_TRY(gdni_json_object(&j, on_tensor, &h));
    GDN_TRY(gdni_json_end(&j));
    return check_tensors(f);
}

static gdn_status read_header(gdni_safetensors *f, int64_t bytes) {
    unsigned char length[LENGTH_BYTES];
    uint64_t size = 0;
    if (bytes < LENGTH_BYTES)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, f->path,
                            "expected a safetensors file, found %" PRId64 " bytes", bytes);
    GDN_TRY(read_at(f->path, f->fd, 0, length, sizeof(length)));
    for (int i = LENGTH_BYTES - 1; i >= 0; --i)
        size = size << 8 | length[i];
    if (size > HEADER_LIMIT || (int64_t)size > bytes - LENGTH_BYTES)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, f->path,
                            "expected a safetensors file, whose header lies within its %" PRId64
                            " bytes and has at most %d, found one of %" PRIu64,
                            bytes, HEADER_LIMIT, size);
    f->data = LENGTH_BYTES + (int64_t)size;
    f->bytes = bytes - f->data;
    char *text = malloc(size ? (size_t)size : 1);
    if (!text)
        return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, f->path, "no memory for its header");
    gdn_status status = read_at(f->path, f->fd, LENGTH_BYTES, text, (size_t)size);
    if (status == GDN_STATUS_OK)
        status = parse_header(f, text, (size_t)size);
    free(text);
    return status;
}

gdn_status gdni_safetensors_open(const char *path, gdni_safetensors **out) {
    int64_t bytes;
    *out = NULL;
    gdni_safetensors *f = calloc(1, sizeof(*f));
    if (!f || !(f->path = strdup(path))) {
        free(f);
        return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, path, "no memory to open it");
    }
    gdn_status status = open_file(path, &f->fd, &bytes);
    if (status == GDN_STATUS_OK)
        status = read_header(f, bytes);
    if (status == GDN_STATUS_OK)
        *out = f;
    else
        gdni_safetensors_close(f);
    return status;
}

void gdni_safetensors_close(gdni_safetensors *f) {
    if (!f)
        return;
    if (f->fd >= 0)
        close(f->fd);
    for (size_t i = 0; i < f->count; ++i)
        free(f->tensors[i].name);
    free(f->tensors);
    free(f->path);
    free(f);
}

/* --- Tensors --- */

const gdni_safetensors_tensor *gdni_safetensors_find(const gdni_safetensors *f, const char *name) {
    const gdni_safetensors_tensor key = {.name = (char *)name};
    return f->count ? bsearch(&key, f->tensors, f->count, sizeof(key), by_name) : NULL;
}

gdn_status gdni_safetensors_check(const gdni_safetensors *f, const gdni_safetensors_tensor *t,
                                  gdni_shape *shape) {
    char expected[160], got[160];
    gdni_shape found = {NULL, t->ndim < GDNI_MAX_DIMS ? t->ndim : GDNI_MAX_DIMS, {0}};
    int match = t->ndim == shape->ndim;
    memcpy(found.dim, t->dim, sizeof(found.dim));
    for (int32_t i = 0; match && i < shape->ndim; ++i)
        match = shape->dim[i] < 0 || shape->dim[i] == found.dim[i];
    if (!match) {
        gdni_format_shape(shape, expected, sizeof(expected));
        gdni_format_shape(&found, got, sizeof(got));
        if (t->ndim > GDNI_MAX_DIMS)
            snprintf(got, sizeof(got), "rank %d", t->ndim);
        return gdni_io_fail(GDN_STATUS_BAD_FILE, f->path, "tensor %s: expected shape %s, found %s",
                            t->name, expected, got);
    }
    if (!t->type->readable)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, f->path,
                            "tensor %s: expected dtype F32, BF16 or F16, found %s", t->name,
                            t->type->name);
    memcpy(shape->dim, found.dim, sizeof(found.dim));
    return GDN_STATUS_OK;
}

/* Little-endian elements of 2 or 4 bytes become those of this machine. */
static void to_native(unsigned char *bytes, size_t count, size_t element) {
    for (size_t i = 0; i < count; ++i, bytes += element) {
        uint32_t bits = 0;
        for (size_t b = element; b > 0; --b)
            bits = bits << 8 | bytes[b - 1];
        const uint16_t half = (uint16_t)bits;
        memcpy(bytes, element == 2 ? (const void *)&half : &bits, element);
    }
}

gdn_status gdni_safetensors_read(const gdni_safetensors *f, const gdni_safetensors_tensor *t,
                                 float *values) {
    const size_t element = gdn_dtype_size(t->type->dtype);
    gdn_status status = GDN_STATUS_OK;
    unsigned char *block = malloc(BLOCK);
    if (!block)
        return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, f->path, "no memory to read it");
    for (int64_t at = t->begin; status == GDN_STATUS_OK && at < t->end;) {
        const size_t size = t->end - at < BLOCK ? (size_t)(t->end - at) : BLOCK;
        status = read_at(f->path, f->fd, f->data + at, block, size);
        if (status == GDN_STATUS_OK) {
            to_native(block, size / element, element);
            status = gdn_convert(GDN_DTYPE_FP32, values, t->type->dtype, block,
                                 (int64_t)(size / element));
        }
        values += size / element;
        at += (int64_t)size;
    }
    free(block);
    return status;
}
