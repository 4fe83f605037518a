/* What the library's parts share: the context, checked problems, the table of a backend. */
#ifndef GDNI_INTERNAL_H
#define GDNI_INTERNAL_H

#include "error.h"
#include "gdn.h"

struct gdn_context {
    gdn_backend backend; /* never AUTO */
    int32_t device;
    int32_t threads;         /* >= 1 */
    int32_t multiprocessors; /* CUDA: of the device */
    int32_t capability;      /* CUDA: 10 x major + minor; 80 where only portable kernels may run */
    size_t shared_memory;    /* CUDA: bytes that one CTA may have */
    const struct gdni_backend_ops *ops;
};

/* What a backend computes. Problems and tensors arrive checked and with defaults filled in: scale,
 * strides and decay_threshold are never 0, every required pointer is set, workspace is large
 * enough. */
typedef struct gdni_backend_ops {
    gdn_status (*supported)(const gdn_context *context, const gdn_problem *problem);
    void (*sizes)(const gdn_context *context, const gdn_problem *problem, gdn_sizes *sizes);
    gdn_status (*forward)(const gdn_context *context, const gdn_problem *problem,
                          const gdn_tensors *tensors, gdn_stream stream);
    gdn_status (*backward)(const gdn_context *context, const gdn_problem *problem,
                           const gdn_tensors *tensors, gdn_stream stream);
    gdn_status (*segment_forward)(const gdn_context *context, const gdn_problem *problem,
                                  const gdn_tensors *tensors, const gdn_segment *segment,
                                  gdn_stream stream);
    gdn_status (*segment_backward)(const gdn_context *context, const gdn_problem *problem,
                                   const gdn_tensors *tensors, const gdn_segment *segment,
                                   gdn_stream stream);
    const struct gdni_part_ops *parts; /* NULL: layers and models have host code of their own */
    /* NULL where the calls themselves answer. */
    gdn_status (*checked_status)(const gdn_context *context, const gdn_problem *problem,
                                 const gdn_tensors *tensors, gdn_stream stream);
} gdni_backend_ops;

extern const gdni_backend_ops gdni_reference_ops;
extern const gdni_backend_ops gdni_cpu_ops;
extern const gdni_backend_ops gdni_cuda_ops; /* in builds with CUDA */

/* Reads the device's properties into a CUDA context; NO_BACKEND without such a device. */
gdn_status gdni_cuda_context_init(gdn_context *context);

/* Copies a caller's struct of `size` bytes into one of `known` bytes whose defaults are already in
 * place. Fails where the caller was built against a newer header. */
GDN_API gdn_status gdni_copy_struct(const char *name, void *to, size_t known, const void *from,
                                    size_t size);
#define GDNI_COPY_STRUCT(to, from, function)                                                       \
    do {                                                                                           \
        GDNI_REQUIRE((from) != NULL, "%s: %s is NULL", function, #from);                           \
        GDN_TRY(gdni_copy_struct(function ": " #from, (to), sizeof(*(to)), (from), (from)->size)); \
    } while (0)

/* Checks a problem on its own (no data) and fills in the defaults. */
GDN_API gdn_status gdni_problem_check(const char *function, const gdn_problem *in,
                                      gdn_problem *out);

/* Host cu_seqlens: starts with 0, never decreases, ends at T or before. NULL: N divides T. */
gdn_status gdni_check_cu_seqlens(const char *function, const int64_t *cu_seqlens, int64_t N,
                                 int64_t T);

/* One of the tensors that CHECKED looks at, [rows, heads, dim]. */
typedef struct gdni_input {
    const char *name;
    const void *data; /* NULL: not given */
    gdn_dtype dtype;
    int64_t rows, heads, dim;
    gdn_strides strides;
    int log_gate; /* may not be positive */
} gdni_input;

enum {
    GDNI_INPUTS = 8
};
/* In the order in which they are looked at. */
void gdni_inputs(const gdn_problem *problem, const gdn_tensors *tensors,
                 gdni_input inputs[GDNI_INPUTS]);

/* BAD_DATA on the element of that flat index, which is x. */
gdn_status gdni_bad_value(const char *function, const gdni_input *input, int64_t index, double x);
/* BAD_DATA if cu_seqlens[n], `bound`, is out of order; `before` is cu_seqlens[n - 1]. */
gdn_status gdni_check_bound(const char *function, int64_t N, int64_t T, int64_t n, int64_t before,
                            int64_t bound);

/* CHECKED on host backends: finite inputs and g <= 0, else BAD_DATA with tensor, token and head. */
GDN_API gdn_status gdni_check_values(const char *function, const gdn_problem *problem,
                                     const gdn_tensors *tensors);

/* First token of sequence n (n == N: end of the last one). */
static inline int64_t gdni_sequence_start(const gdn_problem *problem, const int64_t *cu_seqlens,
                                          int64_t n) {
    return cu_seqlens ? cu_seqlens[n] : n * (problem->T / problem->N);
}

/* Value of one element of a tensor in any dtype. */
double gdni_load(gdn_dtype dtype, const void *data, int64_t index);
/* Rounds to nearest even. */
void gdni_store(gdn_dtype dtype, void *data, int64_t index, double value);
float gdni_bf16_to_float(uint16_t bits);
uint16_t gdni_float_to_bf16(float value);
float gdni_fp16_to_float(uint16_t bits);
uint16_t gdni_float_to_fp16(float value);

/* fp64 in fp64 problems, fp32 in all others. */
static inline gdn_dtype gdni_state_dtype(gdn_dtype dtype) {
    return dtype == GDN_DTYPE_FP64 ? GDN_DTYPE_FP64 : GDN_DTYPE_FP32;
}

#endif /* GDNI_INTERNAL_H */
