/* Writing safetensors. */
#include "safetensors.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ALIGNMENT = 8,  /* of the data in the file */
    BLOCK = 1 << 18 /* elements converted at a time */
};

/* A header under construction; failed: memory has run out. */
typedef struct header_text {
    char *text;
    size_t used, capacity;
    int failed;
} header_text;

static void put(header_text *t, const char *bytes, size_t size) {
    if (t->used + size > t->capacity) {
        const size_t capacity = 2 * (t->used + size);
        char *grown = t->failed ? NULL : realloc(t->text, capacity);
        if (!grown) {
            t->failed = 1;
            return;
        }
        t->text = grown;
        t->capacity = capacity;
    }
    memcpy(t->text + t->used, bytes, size);
    t->used += size;
}

static void put_string(header_text *t, const char *string) {
    char code[8];
    put(t, "\"", 1);
    for (const char *c = string; *c; ++c) {
        if (*c == '"' || *c == '\\')
            put(t, "\\", 1);
        if ((unsigned char)*c < 32)
            put(t, code, (size_t)snprintf(code, sizeof(code), "\\u%04x", *c));
        else
            put(t, c, 1);
    }
    put(t, "\"", 1);
}

static void put_tensor(header_text *t, const gdni_safetensors_output *o, int64_t begin,
                       int64_t end) {
    char line[128];
    put_string(t, o->name);
    int size = snprintf(line, sizeof(line), ":{\"dtype\":\"%s\",\"shape\":[",
                        gdni_safetensors_name(o->dtype));
    put(t, line, (size_t)size);
    for (int32_t i = 0; i < o->shape.ndim; ++i) {
        size = snprintf(line, sizeof(line), "%s%" PRId64, i ? "," : "", o->shape.dim[i]);
        put(t, line, (size_t)size);
    }
    size =
        snprintf(line, sizeof(line), "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", begin, end);
    put(t, line, (size_t)size);
}

static gdn_status write_header(const gdni_output *out, const gdni_safetensors_output *tensors,
                               size_t count) {
    header_text t = {NULL, 0, 0, 0};
    unsigned char length[8];
    int64_t end = 0;
    put(&t, "{\"__metadata__\":{\"format\":\"pt\"}", 31);
    for (size_t i = 0; i < count; ++i) {
        const int64_t begin = end;
        end += gdni_shape_count(&tensors[i].shape) * (int64_t)gdn_dtype_size(tensors[i].dtype);
        put(&t, ",", 1);
        put_tensor(&t, &tensors[i], begin, end);
    }
    put(&t, "}", 1);
    while (!t.failed && t.used % ALIGNMENT)
        put(&t, " ", 1);
    for (size_t i = 0; i < sizeof(length); ++i)
        length[i] = (unsigned char)((uint64_t)t.used >> 8 * i);
    gdn_status status =
        t.failed ? gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, out->target, "no memory for its header")
                 : gdni_output_write(out, length, sizeof(length));
    if (status == GDN_STATUS_OK)
        status = gdni_output_write(out, t.text, t.used);
    free(t.text);
    return status;
}

/* The first value that is not finite once it is rounded. */
static gdn_status check_range(const gdni_output *out, const gdni_safetensors_output *o,
                              int64_t first, const float *rounded, int64_t count) {
    char index[100];
    for (int64_t i = 0; i < count; ++i)
        if (!isfinite(rounded[i])) {
            gdni_format_index(&o->shape, first + i, index, sizeof(index));
            return gdni_io_fail(GDN_STATUS_BAD_DATA, out->target,
                                "tensor %s: expected finite values that %s holds, found %g at %s",
                                o->name, gdn_dtype_name(o->dtype), (double)o->values[first + i],
                                index);
        }
    return GDN_STATUS_OK;
}

/* Elements of this machine become little-endian ones. */
static void to_file(unsigned char *bytes, int64_t count, size_t element) {
    for (int64_t i = 0; i < count; ++i, bytes += element) {
        uint16_t half;
        uint32_t bits;
        if (element == 2) {
            memcpy(&half, bytes, 2);
            bits = half;
        } else {
            memcpy(&bits, bytes, 4);
        }
        for (size_t b = 0; b < element; ++b)
            bytes[b] = (unsigned char)(bits >> 8 * b);
    }
}

static gdn_status write_tensor(const gdni_output *out, const gdni_safetensors_output *o,
                               unsigned char *block, float *rounded) {
    const int64_t all = gdni_shape_count(&o->shape);
    const size_t element = gdn_dtype_size(o->dtype);
    for (int64_t at = 0; at < all; at += BLOCK) {
        const int64_t count = all - at < BLOCK ? all - at : BLOCK;
        GDN_TRY(gdn_convert(o->dtype, block, GDN_DTYPE_FP32, o->values + at, count));
        GDN_TRY(gdn_convert(GDN_DTYPE_FP32, rounded, o->dtype, block, count));
        GDN_TRY(check_range(out, o, at, rounded, count));
        to_file(block, count, element);
        GDN_TRY(gdni_output_write(out, block, (size_t)count * element));
    }
    return GDN_STATUS_OK;
}

static gdn_status write_all(const gdni_output *out, const gdni_safetensors_output *tensors,
                            size_t count) {
    unsigned char *block = malloc(BLOCK * sizeof(float));
    float *rounded = malloc(BLOCK * sizeof(float));
    gdn_status status = write_header(out, tensors, count);
    if (status == GDN_STATUS_OK && (!block || !rounded))
        status = gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, out->target, "no memory to write it");
    for (size_t i = 0; status == GDN_STATUS_OK && i < count; ++i)
        status = write_tensor(out, &tensors[i], block, rounded);
    free(block);
    free(rounded);
    return status;
}

gdn_status gdni_safetensors_write(const char *path, const gdni_safetensors_output *tensors,
                                  size_t count) {
    gdni_output out;
    gdn_status status = gdni_output_prepare(&out, path);
    if (status == GDN_STATUS_OK)
        status = gdni_output_begin(&out);
    if (status == GDN_STATUS_OK)
        status = write_all(&out, tensors, count);
    return gdni_output_close(&out, status);
}
