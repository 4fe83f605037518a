/*
 * Operator calls for tests: draws a problem, runs forward and backward of any backend in guarded,
 * poisoned memory, gives the results back in float64.
 */
#ifndef GDN_TEST_OPERATOR_CASE_H
#define GDN_TEST_OPERATOR_CASE_H

#include "gdn.h"
#include "harness.h"

enum {
    CASE_MAX_SEQUENCES = 40
};

typedef enum case_gate {
    GATE_NONE,
    GATE_WEAK,
    GATE_MIXED, /* A in (0, 16) over the heads */
    GATE_STRONG,
    GATE_SATURATING /* -60 now and then */
} case_gate;

typedef enum case_layout {
    LAYOUT_DENSE,
    LAYOUT_GAPS, /* room between heads and between tokens */
    LAYOUT_HEADS /* [H, T, dim] */
} case_layout;

/* Lengths end with the first negative one, or after `sequences`. Zero members mean the plain
 * choice. */
typedef struct case_shape {
    const char *name;
    int64_t length[CASE_MAX_SEQUENCES];
    int sequences;
    int64_t padding;
    int32_t Hk, Hv, K, V;
    case_gate gate;
    int correlated_keys, beta_edges, no_states, equal_lengths, raw_keys;
    case_layout layout;
    uint32_t flags;
    double scale;
} case_shape;

/* Tensors of a call, float64, dense; NULL where the call does not have them. */
enum {
    IN_Q,
    IN_K,
    IN_V,
    IN_G,
    IN_BETA,
    IN_STATE,
    IN_DO,
    IN_DHT,
    INPUTS
};
enum {
    OUT_O,
    OUT_STATE,
    OUT_DQ,
    OUT_DK,
    OUT_DV,
    OUT_DG,
    OUT_DBETA,
    OUT_DH0,
    OUTPUTS
};
extern const char *const case_output_names[OUTPUTS];

typedef struct case_data {
    gdn_problem problem; /* fp64, dense */
    int64_t cu_seqlens[CASE_MAX_SEQUENCES + 1];
    int equal_lengths;
    double *in[INPUTS];
} case_data;

typedef struct case_results {
    double *out[OUTPUTS];
} case_results;

/* Rows, heads and elements of a row of a tensor. */
typedef struct case_dims {
    int64_t rows, heads, dim;
} case_dims;
case_dims case_input_dims(const gdn_problem *problem, int input);
case_dims case_output_dims(const gdn_problem *problem, int output);
static inline int64_t case_count(case_dims d) {
    return d.rows * d.heads * d.dim;
}

/* Draws inputs, rounded to bf16 and fp16 (q, k, v, do) and fp32, so that every dtype sees the same.
 */
void case_draw(const case_shape *shape, uint64_t seed, case_data *data);
void case_free(case_data *data);

/* Forward, then backward. Checks every status, the canaries and the gaps of strided tensors. */
typedef struct case_run {
    gdn_backend backend;
    gdn_dtype dtype;
    int32_t threads;
    uint32_t flags;
    case_layout layout;
} case_run;
void case_compute(const case_data *data, case_run run, case_results *results);
void case_results_free(case_results *results);

/* Relative L2 error per head within the standing tolerances of dtype; exact zeros in padding. */
void case_compare(const char *name, const case_data *data, gdn_dtype dtype, const case_results *got,
                  const case_results *want);

/* x as dtype holds it. */
double case_round(gdn_dtype dtype, double x);

/* Every bit the same. */
void case_same(const char *name, const case_data *data, const case_results *a,
               const case_results *b);

/* Memory with canaries on both sides, filled with NaN (0xff bytes). */
void *guarded_alloc(size_t bytes);
/* Whether the canaries are untouched; frees the memory. */
int guarded_free(void *memory);

#endif /* GDN_TEST_OPERATOR_CASE_H */
