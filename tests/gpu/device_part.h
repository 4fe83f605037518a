/*
 * A part of a layer or of a model, or a whole layer, on the device against the float64 reference: a
 * table of its tensors, from which device_part_check runs it on both with inputs that are rounded
 * alike, and looks at errors, at the bits of a second run and of a captured graph, at accumulation,
 * and at memory beside what was given. Outputs and workspaces start as NaN between guards; inputs
 * keep their bits.
 */
#ifndef GDN_TEST_DEVICE_PART_H
#define GDN_TEST_DEVICE_PART_H

#include "gpu.h"

#include <stddef.h>

enum {
    DEVICE_PART_FIELDS = 32,
    DEVICE_PART_BLOCKS = 8 /* workspaces and the like */
};

typedef enum device_role {
    ROLE_INPUT, /* cotangents too */
    ROLE_OUTPUT,
    ROLE_UPDATED, /* read and written */
    ROLE_ADDED    /* written, or added to where the part accumulates */
} device_role;

typedef enum device_kind {
    KIND_PART,  /* of the part's dtype */
    KIND_STATE, /* fp32 on the device whatever the part's dtype */
    KIND_BF16,  /* these also in the reference */
    KIND_FP64,
    KIND_INT32
} device_kind;

/* rows x width elements, `stride` from row to row (0: dense), whose pointer is at `offset`. */
typedef struct device_field {
    const char *name; /* NULL behind the last one */
    size_t offset;
    device_role role;
    device_kind kind;
    int64_t rows, width, stride;
    double scale, shift;       /* what is given: shift + scale * randn; 0: 1 */
    const double *values;      /* instead, [rows * width] */
    int absent;                /* the pointer is NULL */
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

typedef gdn_status (*device_call)(const gdn_context *context, const void *part, gdn_stream stream);
typedef gdn_status (*device_bytes)(const gdn_context *context, const void *part, size_t *bytes);

/* Offsets are 0 for what there is not. */
typedef struct device_part {
    const char *name;
    void *part; /* shapes; pointers are set in here */
    size_t dtype_offset;
    size_t accumulate_offset[2]; /* all are switched together */
    size_t cu_offset;
    const int64_t *cu; /* [cu_count], or NULL */
    int64_t cu_count;
    size_t workspace_offset; /* of workspace and of workspace_size behind it */
    device_bytes bytes;
    /* Sizes of and pointers to further memory, into the part. */
    void (*attach)(const gdn_context *context, void *part, device_memory *memory);
    device_call calls[2];                  /* in this order; NULL: none */
    double fp32_tol, bf16_tol;             /* of tensors of the part's dtype */
    double fp32_state_tol, bf16_state_tol; /* of the others */
    int pointwise;  /* each element is within a few times the tolerance of what is usual, too */
    int misaligned; /* elements by which tensors miss their alignment */
    device_field field[DEVICE_PART_FIELDS];
} device_part;

/* A block of NaN between guards. */
void *device_take(device_memory *memory, size_t bytes);

void device_part_check(const gdn_context *context, const device_part *part, gdn_dtype dtype);

#endif /* GDN_TEST_DEVICE_PART_H */
