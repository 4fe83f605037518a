/*
 * Times parts on the device: a row of the table is a part with its tensors, one call, and how many
 * bytes that call has to move, or how many floating-point operations it counts for.
 */
#ifndef GDN_BENCH_PARTS_H
#define GDN_BENCH_PARTS_H

#include "gdn.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    BENCH_FIELDS = 16,
    BENCH_PART_BYTES = 512
};

typedef gdn_status (*bench_call)(const gdn_context *context, const void *part, gdn_stream stream);

typedef struct bench_field {
    size_t offset;          /* of the pointer */
    double bytes;           /* 0: the pointer stays NULL */
    const int32_t *indices; /* host values, or NULL: small random numbers */
} bench_field;

typedef struct bench_row {
    const char *name;
    gdn_dtype dtype;
    int64_t T;
    int32_t D;
    double bytes, flops; /* 0: not what bounds it */
    const void *part;    /* pointers NULL */
    size_t size, workspace_offset;
    gdn_status (*workspace)(const gdn_context *context, const void *part, size_t *bytes);
    bench_call call;
    bench_field field[BENCH_FIELDS];
} bench_row;

/* Times one row and prints it. */
void bench_row_run(const bench_row *row);
/* The rows of a layer's parts and of a model's, at each T. */
void bench_layer_rows(const int64_t *T, int count);
void bench_model_rows(const int64_t *T, int count);

/* A table's entries: TYPE is the part's type, p the part. */
#define AT(member, bytes)                                                                          \
    { offsetof(TYPE, member), (bytes), NULL }
#define WORKSPACE(function) .workspace_offset = offsetof(TYPE, workspace), .workspace = function
#define ROW(label) .name = label, .dtype = dtype, .T = T, .D = D, .part = &p, .size = sizeof(p)

/* Enqueues a copy of a multiple of 16 bytes; 0 or the CUDA error code. */
int bench_copy(void *to, const void *from, size_t bytes, gdn_stream stream);

#ifdef __cplusplus
}
#endif

#endif /* GDN_BENCH_PARTS_H */
