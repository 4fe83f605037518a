/* The checks that every part of a layer or model starts with. */
#ifndef GDNI_PART_H
#define GDNI_PART_H

#include "internal.h"

#include <stddef.h>

/* Bounds that keep every product of shapes inside int64. */
enum {
    GDNI_MAX_WIDTH = 1 << 24,      /* features, channels */
    GDNI_MAX_HEADS = 65536,        /* as of operator problems */
    GDNI_MAX_HEAD_DIM = 256,       /* as of operator problems */
    GDNI_MAX_CONV_WIDTH = 32,      /* taps of the convolution */
    GDNI_MAX_VOCAB = INT32_MAX - 1 /* -1 marks a target that does not count */
};
#define GDNI_MAX_TOKENS (INT64_C(1) << 32)

/* Copies the caller's struct of known bytes over `copy`, and checks context, size and dtype. */
gdn_status gdni_part_begin(const char *function, const gdn_context *context, void *copy,
                           size_t known, const void *part);
/* fp64 for reference contexts, fp32 for cpu contexts, fp32 or bf16 for cuda contexts. */
gdn_status gdni_part_dtype(const char *function, const gdn_context *context, gdn_dtype dtype);
gdn_status gdni_part_pointer(const char *function, const char *name, const void *pointer);
gdn_status gdni_part_range(const char *function, const char *name, int64_t value, int64_t low,
                           int64_t high);
/* eps > 0 keeps rows of zeros (padding) finite. */
gdn_status gdni_part_eps(const char *function, const char *name, double eps);
/* Replaces 0 by the dense stride. */
gdn_status gdni_part_stride(const char *function, const char *name, int64_t *stride, int64_t dense);

/* Declares `p`, the checked copy of the argument `part`. */
#define GDNI_PART_BEGIN(type)                                                                      \
    type p;                                                                                        \
    GDN_TRY(gdni_part_begin(__func__, context, &p, sizeof(p), part))

/* In checks with `function` and `p`. */
#define GDNI_POINTER(field) GDN_TRY(gdni_part_pointer(function, #field, p->field))
#define GDNI_ROWS(field) /* of T rows: not needed where T is 0 */                                  \
    GDN_TRY(gdni_part_pointer(function, #field, p->T > 0 ? (const void *)p->field : ""))
#define GDNI_RANGE(field, low, high)                                                               \
    GDN_TRY(gdni_part_range(function, #field, p->field, (low), (high)))

#endif /* GDNI_PART_H */
