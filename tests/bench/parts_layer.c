/* The rows of a layer's parts at K = V = 128, Hk = 16, Hv 32 and 64. */
#include "../gpu/part_calls.h"
#include "parts.h"

enum {
    HK = 16,
    DIM = 128,
    WIDTH = 4
};

#define TYPE gdn_conv1d
static void conv1d(gdn_dtype dtype, int64_t T, int32_t D) {
    const double weight = (double)gdn_dtype_size(dtype) * WIDTH * D;
    const double x = (double)gdn_dtype_size(dtype) * (double)T * D;
    const gdn_conv1d p = {
        .size = sizeof(p), .dtype = dtype, .T = T, .N = 1, .channels = D, .width = WIDTH};
    const bench_row forward = {ROW("conv1d, forward"), .bytes = 2 * x, .call = conv1d_forward_,
                               .field = {AT(x, x), AT(weight, weight), AT(y, x)}};
    const bench_row backward = {ROW("conv1d, backward"), .bytes = 3 * x, .call = conv1d_backward_,
                                WORKSPACE(conv1d_bytes_),
                                .field = {AT(x, x), AT(weight, weight), AT(dy, x), AT(dx, x),
                                          AT(dweight, 4.0 * WIDTH * D)}};
    bench_row_run(&forward);
    bench_row_run(&backward);
}
#undef TYPE

#define TYPE gdn_l2norm
static void l2norm(gdn_dtype dtype, int64_t T, int32_t D) {
    const double x = (double)gdn_dtype_size(dtype) * (double)T * D;
    const gdn_l2norm p = {
        .size = sizeof(p), .dtype = dtype, .T = T, .H = D / DIM, .K = DIM, .eps = 1e-6};
    const bench_row forward = {ROW("l2norm, forward"), .bytes = 2 * x, .call = l2norm_forward_,
                               .field = {AT(x, x), AT(y, x)}};
    const bench_row backward = {ROW("l2norm, backward"), .bytes = 3 * x, .call = l2norm_backward_,
                                .field = {AT(x, x), AT(dy, x), AT(dx, x)}};
    bench_row_run(&forward);
    bench_row_run(&backward);
}
#undef TYPE

#define TYPE gdn_gate
static void gate(gdn_dtype dtype, int64_t T, int32_t D) {
    const double a = (double)gdn_dtype_size(dtype) * (double)T * D, g = 4.0 * (double)T * D;
    const double head = 4.0 * D;
    const gdn_gate p = {.size = sizeof(p), .dtype = dtype, .T = T, .H = D};
    const bench_row forward = {
        ROW("gate, forward"), .bytes = 2 * a + 2 * g, .call = gate_forward_,
        .field = {AT(a, a), AT(b, a), AT(A_log, head), AT(dt_bias, head), AT(g, g), AT(beta, g)}};
    const bench_row backward = {ROW("gate, backward"), .bytes = 4 * a + 2 * g,
                                .call = gate_backward_, WORKSPACE(gate_bytes_),
                                .field = {AT(a, a), AT(b, a), AT(A_log, head), AT(dt_bias, head),
                                          AT(dg, g), AT(dbeta, g), AT(da, a), AT(db, a),
                                          AT(dA_log, head), AT(ddt_bias, head)}};
    bench_row_run(&forward);
    bench_row_run(&backward);
}
#undef TYPE

#define TYPE gdn_gated_rmsnorm
static void gated_rmsnorm(gdn_dtype dtype, int64_t T, int32_t D) {
    const double x = (double)gdn_dtype_size(dtype) * (double)T * D, weight = 4.0 * DIM;
    const gdn_gated_rmsnorm p = {
        .size = sizeof(p), .dtype = dtype, .T = T, .H = D / DIM, .V = DIM, .eps = 1e-6};
    const bench_row forward = {ROW("gated rmsnorm, forward"), .bytes = 3 * x,
                               .call = gated_rmsnorm_forward_,
                               .field = {AT(x, x), AT(z, x), AT(weight, weight), AT(y, x)}};
    const bench_row backward = {ROW("gated rmsnorm, backward"), .bytes = 5 * x,
                                .call = gated_rmsnorm_backward_, WORKSPACE(gated_rmsnorm_bytes_),
                                .field = {AT(x, x), AT(z, x), AT(weight, weight), AT(dy, x),
                                          AT(dx, x), AT(dz, x), AT(dweight, weight)}};
    bench_row_run(&forward);
    bench_row_run(&backward);
}
#undef TYPE

void bench_layer_rows(const int64_t *T, int count) {
    for (int32_t Hv = 32; Hv <= 64; Hv *= 2)
        for (int i = 0; i < count; ++i) {
            conv1d(GDN_DTYPE_BF16, T[i], (2 * HK + Hv) * DIM);
            gate(GDN_DTYPE_BF16, T[i], Hv);
            gated_rmsnorm(GDN_DTYPE_BF16, T[i], Hv * DIM);
        }
    for (int i = 0; i < count; ++i)
        l2norm(GDN_DTYPE_BF16, T[i], HK * DIM);
}
