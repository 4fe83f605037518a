/*
 * A part of a layer on the device against the float64 reference: a table of its tensors, from which
 * device_part_check runs it on both with inputs that are rounded alike, and looks at errors, bits
 * of a second run and of a captured graph, accumulation, and memory beside what was given.
 */
#ifndef GDN_TEST_DEVICE_PART_H
#define GDN_TEST_DEVICE_PART_H

#include "gpu.h"

enum {
    DEVICE_PART_FIELDS = 32,
    DEVICE_PART_BLOCKS = 8 /* workspaces and the like */
};

typedef enum device_role {
    ROLE_INPUT,         /* cotangents too */
    ROLE_OUTPUT,        /* of forward */
    ROLE_GRADIENT,      /* of backward */
    ROLE_PARAM_GRADIENT /* fp32; `accumulate` adds to it */
} device_role;

/* rows x width elements, `stride` from row to row (0: dense), whose pointer is at `offset`. */
typedef struct device_field {
    const char *name;
    size_t offset;
    device_role role;
    int state; /* fp32 on the device whatever the part's dtype; gradients of parameters always */
    int64_t rows, width, stride;
    double scale, shift;       /* inputs: shift + scale * randn */
    const double *values;      /* instead, [rows * width] */
    int per_row;               /* rows are checked one by one */
    const double *row_sizes;   /* of rows that may cancel: no error is measured against less */
    double fp32_tol, bf16_tol; /* relative L2 error; 0: the part's */
} device_field;

/* Memory that a part wants besides its tensors. */
typedef struct device_memory {
    int device; /* or host memory */
    int blocks;
    char *block[DEVICE_PART_BLOCKS];
    size_t bytes[DEVICE_PART_BLOCKS];
} device_memory;

typedef struct device_part {
    const char *name;
    void *part; /* shapes; pointers are set in here */
    size_t dtype_offset;
    ptrdiff_t accumulate_offset, cu_offset; /* -1: none */
    const int64_t *cu;                      /* [cu_count], or NULL */
    int64_t cu_count;
    /* Sizes of and pointers to further memory, into the part. */
    void (*attach)(const gdn_context *context, void *part, device_memory *memory);
    gdn_status (*forward)(const gdn_context *context, void *part, gdn_stream stream);
    gdn_status (*backward)(const gdn_context *context, void *part, gdn_stream stream);
    double fp32_tol, bf16_tol;             /* of tensors of the part's dtype */
    double fp32_state_tol, bf16_state_tol; /* of fp32 ones */
    int fields;
    device_field field[DEVICE_PART_FIELDS];
} device_part;

/* bytes of poison at a multiple of 256 between canaries. */
void *device_take(device_memory *memory, size_t bytes);
void device_part_check(const gdn_context *context, const device_part *part, gdn_dtype dtype);

#endif /* GDN_TEST_DEVICE_PART_H */
