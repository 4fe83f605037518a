/* The rows of a model's parts: 0.4 to 4 billion parameters' widths, a vocabulary of 151936. */
#include "../gpu/part_calls.h"
#include "parts.h"

#include <stdlib.h>

enum {
    VOCAB = 151936
};

/* Every tensor of T rows: x is [T, D]. */
#define TYPE gdn_rmsnorm
static void rmsnorm(gdn_dtype dtype, int64_t T, int32_t D) {
    const double row = (double)gdn_dtype_size(dtype) * D, x = row * (double)T;
    const gdn_rmsnorm p = {.size = sizeof(p), .dtype = dtype, .T = T, .D = D, .eps = 1e-6};
    const bench_row forward = {
        ROW("rmsnorm with residual, forward"), .bytes = 4 * x, .call = rmsnorm_forward_,
        .field = {AT(x, x), AT(residual, x), AT(weight, row), AT(h, x), AT(y, x)}};
    const bench_row plain = {ROW("rmsnorm, forward"), .bytes = 2 * x, .call = rmsnorm_forward_,
                             .field = {AT(x, x), AT(weight, row), AT(y, x)}};
    const bench_row backward = {ROW("rmsnorm with residual, backward"), .bytes = 4 * x,
                                .call = rmsnorm_backward_, WORKSPACE(rmsnorm_bytes_),
                                .field = {AT(h, x), AT(residual, 256), AT(weight, row), AT(dy, x),
                                          AT(dh, x), AT(dx, x), AT(dweight, 4.0 * D)}};
    bench_row_run(&forward);
    bench_row_run(&plain);
    bench_row_run(&backward);
}
#undef TYPE

#define TYPE gdn_swiglu
static void swiglu(gdn_dtype dtype, int64_t T, int32_t D) {
    const int32_t F = D / 4 * 11;
    const double y = (double)gdn_dtype_size(dtype) * (double)T * F;
    const gdn_swiglu p = {.size = sizeof(p), .dtype = dtype, .T = T, .F = F};
    const bench_row forward = {ROW("swiglu of 11/4 D, forward"), .bytes = 3 * y,
                               .call = swiglu_forward_, .field = {AT(x, 2 * y), AT(y, y)}};
    const bench_row backward = {ROW("swiglu of 11/4 D, backward"), .bytes = 5 * y,
                                .call = swiglu_backward_,
                                .field = {AT(x, 2 * y), AT(dy, y), AT(dx, 2 * y)}};
    bench_row_run(&forward);
    bench_row_run(&backward);
}
#undef TYPE

/* Token n with a probability like 1 / (n + 1). */
static int32_t *draw_tokens(int64_t T) {
    int32_t *tokens = malloc((size_t)T * sizeof(*tokens));
    uint64_t state = 1;
    for (int64_t t = 0; t < T; ++t) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const double u = (double)(state >> 40) * 0x1p-24;
        double bound = 1;
        int32_t n = 0;
        while (n < 17 && (n + 1) / 17.2 < u) {
            bound *= 2;
            ++n;
        }
        state = state * 6364136223846793005u + 1442695040888963407u;
        tokens[t] = (int32_t)(bound - 1 + (double)(state >> 40) * 0x1p-24 * bound);
        if (tokens[t] >= VOCAB)
            tokens[t] = VOCAB - 1;
    }
    return tokens;
}

static double count_distinct(const int32_t *tokens, int64_t T) {
    char *seen = calloc(VOCAB, 1);
    double distinct = 0;
    for (int64_t t = 0; t < T; ++t) {
        distinct += !seen[tokens[t]];
        seen[tokens[t]] = 1;
    }
    free(seen);
    return distinct;
}

#define TYPE gdn_embedding
/* A row of the table counts once, however often it is read. */
static void embedding(gdn_dtype dtype, int64_t T, int32_t D) {
    int32_t *tokens = draw_tokens(T);
    const double row = (double)gdn_dtype_size(dtype) * D, x = row * (double)T;
    const double table = (double)D * VOCAB, distinct = count_distinct(tokens, T);
    gdn_embedding p = {.size = sizeof(p), .dtype = dtype, .T = T, .vocab = VOCAB, .D = D};
    const bench_field indices = {offsetof(TYPE, tokens), 4.0 * (double)T, tokens};
    const bench_row forward = {
        ROW("embedding, forward"), .bytes = x + distinct * row, .call = embedding_forward_,
        .field = {indices, AT(weight, table * (double)gdn_dtype_size(dtype)), AT(y, x)}};
    bench_row backward = {ROW("embedding, backward"), .bytes = x + 4 * table,
                          .call = embedding_backward_, WORKSPACE(embedding_bytes_),
                          .field = {indices, AT(dy, x), AT(dweight, 4 * table)}};
    bench_row_run(&forward);
    bench_row_run(&backward);
    p.accumulate = 1;
    backward.name = "embedding, backward added";
    backward.bytes = x + 8 * distinct * D;
    bench_row_run(&backward);
    free(tokens);
}
#undef TYPE

#define TYPE gdn_cross_entropy
static void cross_entropy(gdn_dtype dtype, int64_t T, int32_t D) {
    int32_t *targets = draw_tokens(T);
    const double row = (double)gdn_dtype_size(dtype) * D, x = row * (double)T;
    const gdn_cross_entropy p = {.size = sizeof(p), .dtype = dtype, .T = T, .D = D, .vocab = VOCAB};
    const bench_row gradients = {ROW("cross-entropy with gradients"),
                                 .flops = 6.0 * (double)T * D * VOCAB,
                                 .call = cross_entropy_compute_, WORKSPACE(cross_entropy_bytes_),
                                 .field = {AT(x, x),
                                           AT(weight, row * VOCAB),
                                           {offsetof(TYPE, targets), 4.0 * (double)T, targets},
                                           AT(loss, 8),
                                           AT(dx, x),
                                           AT(dweight, 4.0 * D * VOCAB)}};
    bench_row_run(&gradients);
    free(targets);
}
#undef TYPE

#define TYPE gdn_linear
static void linear(gdn_dtype dtype, int64_t T, int32_t D) {
    const double element = (double)gdn_dtype_size(dtype), x = element * (double)T * D;
    const double flops = 2.0 * (double)T * D * D;
    const gdn_linear p = {.size = sizeof(p), .dtype = dtype, .T = T, .in = D, .out = D};
    const bench_row forward = {ROW("linear, forward"), .flops = flops, .call = linear_forward_,
                               WORKSPACE(linear_bytes_),
                               .field = {AT(x, x), AT(weight, element * D * D), AT(y, x)}};
    const bench_row backward = {ROW("linear, backward"), .flops = 2 * flops,
                                .call = linear_backward_, WORKSPACE(linear_bytes_),
                                .field = {AT(x, x), AT(weight, element * D * D), AT(dy, x),
                                          AT(dx, x), AT(dweight, 4.0 * D * D)}};
    bench_row_run(&forward);
    bench_row_run(&backward);
}
#undef TYPE

/* T: how many parameters. */
static void optimizer(int64_t T) {
    const gdn_dtype dtype = GDN_DTYPE_FP32;
    const int32_t D = 1;
    const double x = 4.0 * (double)T;
#define TYPE gdn_adamw
    {
        const gdn_adamw p = {.size = sizeof(p),
                             .dtype = dtype,
                             .count = T,
                             .step = 3,
                             .lr = 1e-3,
                             .beta1 = 0.9,
                             .beta2 = 0.95,
                             .eps = 1e-8};
        const bench_row row = {
            ROW("adamw with a bf16 copy"), .bytes = 7.5 * x, .call = adamw_step_,
            .field = {AT(param, x), AT(m, x), AT(v, x), AT(grad, x), AT(rounded, x / 2)}};
        bench_row_run(&row);
    }
#undef TYPE
#define TYPE gdn_grad_norm
    const gdn_grad_norm p = {.size = sizeof(p), .dtype = dtype, .count = T, .max_norm = 1};
    const bench_row row = {ROW("grad_norm"), .bytes = x, .call = grad_norm_compute_,
                           WORKSPACE(grad_norm_bytes_),
                           .field = {AT(grad, x), AT(norm, 8), AT(scale, 8)}};
    bench_row_run(&row);
#undef TYPE
}

void bench_model_rows(const int64_t *T, int count) {
    static const int32_t widths[] = {1024, 2048, 4096};
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < count; ++j) {
            rmsnorm(GDN_DTYPE_BF16, T[j], widths[i]);
            swiglu(GDN_DTYPE_BF16, T[j], widths[i]);
            embedding(GDN_DTYPE_BF16, T[j], widths[i]);
            linear(GDN_DTYPE_BF16, T[j], widths[i]);
        }
    for (int i = 0; i < 3; ++i) {
        rmsnorm(GDN_DTYPE_FP32, T[0], widths[i]);
        swiglu(GDN_DTYPE_FP32, T[0], widths[i]);
        cross_entropy(GDN_DTYPE_BF16, T[0], widths[i]);
    }
    embedding(GDN_DTYPE_FP32, T[0], 1024);
    linear(GDN_DTYPE_FP32, T[0], 1024);
    optimizer(1 << 24);
    optimizer(100000000);
}
