/*
 * Tests a part of gdn_model.h on the device against the float64 reference backend, from
 * inputs that are rounded alike. The part is described by a table of its tensors. Outputs and the
 * workspace start as NaN between canaries; inputs keep their bits; a second run and a captured
 * graph give the same bits.
 */
#ifndef GDN_TEST_MODEL_PART_H
#define GDN_TEST_MODEL_PART_H

#include "gpu.h"

#include <stddef.h>

enum {
    MODEL_PART_FIELDS = 24,
    MODEL_PART_BYTES = 512 /* the largest part */
};

typedef enum device_kind {
    KIND_PART,  /* of the part's dtype */
    KIND_STATE, /* fp32 */
    KIND_BF16,  /* on all backends */
    KIND_FP64,  /* on all backends */
    KIND_INT32
} device_kind;

typedef enum device_role {
    ROLE_IN,
    ROLE_OUT,
    ROLE_UPDATED, /* read and written */
    ROLE_ADDED    /* written, or added to where the test accumulates */
} device_role;

typedef struct device_field {
    const char *name;
    size_t offset; /* of its pointer */
    device_kind kind;
    device_role role;
    int64_t count;
    const double *values; /* NULL: random; absent: the pointer is NULL */
    int absent;
    double tolerance; /* 0: the test's */
} device_field;

typedef gdn_status (*device_call)(const gdn_context *context, const void *part, gdn_stream stream);
typedef gdn_status (*device_bytes)(const gdn_context *context, const void *part, size_t *bytes);

typedef struct model_part {
    const char *name;
    const void *part; /* shapes and constants; all pointers NULL */
    size_t size, dtype_offset;
    size_t accumulate_offset[2]; /* 0: none; all are switched together */
    size_t workspace_offset;     /* of workspace and of workspace_size behind it; 0: none */
    device_call calls[2];        /* in this order; NULL: none */
    device_bytes bytes;
    double fp32, bf16; /* tolerances of tensors */
    int shift;         /* elements by which tensors miss their alignment */
    device_field field[MODEL_PART_FIELDS];
} model_part;

/* All of the above for fp32 and bf16 (fp32_only: the first), with and without accumulation. */
void model_part_check(const gdn_context *cuda, const gdn_context *reference, const model_part *part,
                      int fp32_only);

#endif /* GDN_TEST_MODEL_PART_H */
