/*
 * The parts of the layer on the CUDA backend against the float64 reference. Tolerances: a value
 * rounded to bf16 is off by at most 2^-8 = 3.9e-3 of itself, 1.7e-3 in the norm over many, and
 * nothing else is rounded within a part; what is left in fp32 is of the order of its rounding,
 * 6e-8, times the terms of a sum.
 */
#include "device_part.h"
#include "part_calls.h"

#define FP32_TOL 3e-6
#define BF16_TOL 3.91e-3

#define AT(member) #member, offsetof(TYPE, member)
#define PART(which)                                                                                \
    .name = name, .part = &p, .dtype_offset = offsetof(TYPE, dtype),                               \
    .calls = {which##_forward_, which##_backward_}, .fp32_tol = FP32_TOL, .bf16_tol = BF16_TOL,    \
    .fp32_state_tol = FP32_TOL, .bf16_state_tol = FP32_TOL
#define PARAMETERS(which)                                                                          \
    .accumulate_offset = {offsetof(TYPE, accumulate)},                                             \
    .workspace_offset = offsetof(TYPE, workspace), .bytes = which##_bytes_

static const gdn_context *cuda;

static void check(const device_part *part) {
    device_part_check(cuda, part, GDN_DTYPE_FP32);
    device_part_check(cuda, part, GDN_DTYPE_BF16);
}

#define TYPE gdn_conv1d
static void conv1d(const char *name, gdn_conv1d shape, const int64_t *cu, int halo) {
    gdn_conv1d p = shape;
    const int64_t T = p.T, C = p.channels, W = p.width, xs = p.x_stride, ys = p.y_stride;
    p.size = sizeof(p);
    device_part part = {PART(conv1d),
                        PARAMETERS(conv1d),
                        .cu_offset = offsetof(TYPE, cu_seqlens),
                        .cu = cu,
                        .cu_count = cu ? p.N + 1 : 0,
                        .field = {{AT(x), ROLE_INPUT, KIND_PART, T, C, xs},
                                  {AT(weight), ROLE_INPUT, KIND_PART, C, W},
                                  {AT(y), ROLE_OUTPUT, KIND_PART, T, C, ys},
                                  {AT(dy), ROLE_INPUT, KIND_PART, T, C, ys},
                                  {AT(dx), ROLE_OUTPUT, KIND_PART, T, C, xs},
                                  {AT(dweight), ROLE_ADDED, KIND_STATE, C, W}}};
    const device_field with_halo[] = {{AT(halo), ROLE_INPUT, KIND_PART, W - 1, C},
                                      {AT(dhalo), ROLE_OUTPUT, KIND_PART, W - 1, C}};
    if (halo)
        memcpy(part.field + 6, with_halo, sizeof(with_halo));
    check(&part);
}
#undef TYPE

static void test_conv1d(void) {
    const int64_t packed[] = {0, 0, 2, 3, 3, 90, 200, 201, 350}, padded[] = {0, 50, 91};
    const int64_t none[] = {0, 0, 0};
    conv1d("conv1d.T1", (gdn_conv1d){.T = 1, .N = 1, .channels = 8, .width = 4}, NULL, 1);
    conv1d("conv1d.T0", (gdn_conv1d){.T = 0, .N = 1, .channels = 8, .width = 4}, NULL, 1);
    conv1d("conv1d.odd", (gdn_conv1d){.T = 131, .N = 1, .channels = 37, .width = 4}, NULL, 1);
    conv1d("conv1d.W1", (gdn_conv1d){.T = 45, .N = 1, .channels = 16, .width = 1}, NULL, 1);
    conv1d("conv1d.W3", (gdn_conv1d){.T = 45, .N = 3, .channels = 16, .width = 3}, NULL, 1);
    conv1d("conv1d.W7", (gdn_conv1d){.T = 77, .N = 7, .channels = 40, .width = 7}, NULL, 1);
    conv1d("conv1d.W32", (gdn_conv1d){.T = 140, .N = 2, .channels = 33, .width = 32}, NULL, 1);
    conv1d("conv1d.W32.packed", (gdn_conv1d){.T = 360, .N = 8, .channels = 16, .width = 32}, packed,
           1);
    conv1d("conv1d.batch", (gdn_conv1d){.T = 1020, .N = 3, .channels = 512, .width = 4}, NULL, 0);
    conv1d("conv1d.long", (gdn_conv1d){.T = 40000, .N = 1, .channels = 24, .width = 4}, NULL, 1);
    conv1d("conv1d.packed", (gdn_conv1d){.T = 350, .N = 8, .channels = 264, .width = 4}, packed, 1);
    conv1d(
        "conv1d.padded",
        (gdn_conv1d){.T = 140, .N = 2, .channels = 64, .width = 4, .x_stride = 72, .y_stride = 96},
        padded, 1);
    conv1d(
        "conv1d.unaligned",
        (gdn_conv1d){.T = 140, .N = 2, .channels = 63, .width = 4, .x_stride = 65, .y_stride = 70},
        padded, 1);
    conv1d("conv1d.all-padding", (gdn_conv1d){.T = 40, .N = 2, .channels = 8, .width = 4}, none, 1);
}

#define TYPE gdn_l2norm
static void l2norm(const char *name, gdn_l2norm shape) {
    gdn_l2norm p = shape;
    const int64_t T = p.T, HK = (int64_t)p.H * p.K, xs = p.x_stride, ys = p.y_stride;
    p.size = sizeof(p);
    p.eps = 1e-6;
    const device_part part = {PART(l2norm), .field = {{AT(x), ROLE_INPUT, KIND_PART, T, HK, xs},
                                                      {AT(y), ROLE_OUTPUT, KIND_PART, T, HK, ys},
                                                      {AT(dy), ROLE_INPUT, KIND_PART, T, HK, ys},
                                                      {AT(dx), ROLE_OUTPUT, KIND_PART, T, HK, xs}}};
    check(&part);
}
#undef TYPE

#define TYPE gdn_gate
static void gate(const char *name, int64_t T, int32_t H, double scale) {
    gdn_gate p = {.size = sizeof(p), .T = T, .H = H};
    const device_part part = {PART(gate), PARAMETERS(gate),
                              .field = {{AT(a), ROLE_INPUT, KIND_PART, T, H, 0, scale},
                                        {AT(b), ROLE_INPUT, KIND_PART, T, H, 0, scale},
                                        {AT(A_log), ROLE_INPUT, KIND_STATE, 1, H},
                                        {AT(dt_bias), ROLE_INPUT, KIND_STATE, 1, H},
                                        {AT(g), ROLE_OUTPUT, KIND_STATE, T, H},
                                        {AT(beta), ROLE_OUTPUT, KIND_STATE, T, H},
                                        {AT(dg), ROLE_INPUT, KIND_STATE, T, H},
                                        {AT(dbeta), ROLE_INPUT, KIND_STATE, T, H},
                                        {AT(da), ROLE_OUTPUT, KIND_PART, T, H},
                                        {AT(db), ROLE_OUTPUT, KIND_PART, T, H},
                                        {AT(dA_log), ROLE_ADDED, KIND_STATE, 1, H},
                                        {AT(ddt_bias), ROLE_ADDED, KIND_STATE, 1, H}}};
    check(&part);
}
#undef TYPE

#define TYPE gdn_gated_rmsnorm
static void gated_rmsnorm(const char *name, int64_t T, int32_t H, int32_t V) {
    gdn_gated_rmsnorm p = {.size = sizeof(p), .T = T, .H = H, .V = V, .eps = 1e-6};
    const int64_t HV = (int64_t)H * V;
    const device_part part = {PART(gated_rmsnorm), PARAMETERS(gated_rmsnorm),
                              .field = {{AT(x), ROLE_INPUT, KIND_PART, T, HV},
                                        {AT(z), ROLE_INPUT, KIND_PART, T, HV},
                                        {AT(weight), ROLE_INPUT, KIND_PART, 1, V},
                                        {AT(y), ROLE_OUTPUT, KIND_PART, T, HV},
                                        {AT(dy), ROLE_INPUT, KIND_PART, T, HV},
                                        {AT(dx), ROLE_OUTPUT, KIND_PART, T, HV},
                                        {AT(dz), ROLE_OUTPUT, KIND_PART, T, HV},
                                        {AT(dweight), ROLE_ADDED, KIND_STATE, 1, V}}};
    check(&part);
}
#undef TYPE

/* One clear line for a workspace that will not do; nothing is enqueued. */
static void test_refusals(void) {
    char x[256] = {0};
    size_t bytes = 0;
    gdn_gate p = {.size = sizeof(p),
                  .dtype = GDN_DTYPE_FP32,
                  .T = 64,
                  .H = 8,
                  .a = x,
                  .b = x,
                  .A_log = x,
                  .dt_bias = x,
                  .dg = x,
                  .dbeta = x,
                  .da = x,
                  .db = x,
                  .dA_log = x,
                  .ddt_bias = x};
    GDN(gdn_gate_workspace(cuda, &p, &bytes));
    CHECK(bytes > 0, "no workspace");
    CHECK(gdn_gate_backward(cuda, &p, NULL) == GDN_STATUS_INVALID_ARGUMENT &&
              strstr(gdn_last_error(), "gdn_gate_backward: workspace is 0 bytes"),
          "%s", gdn_last_error());
    p.workspace = (void *)128;
    p.workspace_size = bytes;
    CHECK(gdn_gate_backward(cuda, &p, NULL) == GDN_STATUS_INVALID_ARGUMENT &&
              strstr(gdn_last_error(), "a multiple of 256"),
          "%s", gdn_last_error());
    p.dtype = GDN_DTYPE_FP16;
    CHECK(gdn_gate_backward(cuda, &p, NULL) == GDN_STATUS_UNSUPPORTED &&
              strstr(gdn_last_error(), "dtype is fp16"),
          "%s", gdn_last_error());
}

int main(void) {
    gdn_context *context = gpu_context();
    if (!context)
        return 77;
    cuda = context;
    test_conv1d();
    l2norm("l2norm.T1", (gdn_l2norm){.T = 1, .H = 1, .K = 128});
    l2norm("l2norm.K128", (gdn_l2norm){.T = 333, .H = 16, .K = 128});
    l2norm("l2norm.K64", (gdn_l2norm){.T = 77, .H = 3, .K = 64});
    l2norm("l2norm.K256.strided",
           (gdn_l2norm){.T = 77, .H = 5, .K = 256, .x_stride = 1304, .y_stride = 1288});
    l2norm("l2norm.K96", (gdn_l2norm){.T = 30, .H = 40, .K = 96});
    l2norm("l2norm.unaligned",
           (gdn_l2norm){.T = 30, .H = 2, .K = 128, .x_stride = 257, .y_stride = 259});
    gate("gate.T1", 1, 1, 1);
    gate("gate.T0", 0, 4, 1);
    gate("gate.H32", 3001, 32, 1);
    gate("gate.H24", 500, 24, 1);
    gate("gate.H7", 500, 7, 1);
    gate("gate.H1500", 40, 1500, 1);
    gate("gate.wide", 100, 4, 40);
    gated_rmsnorm("gated_rmsnorm.T1", 1, 1, 128);
    gated_rmsnorm("gated_rmsnorm.T0", 0, 1, 128);
    gated_rmsnorm("gated_rmsnorm.V128", 1003, 8, 128);
    gated_rmsnorm("gated_rmsnorm.V64", 130, 3, 64);
    gated_rmsnorm("gated_rmsnorm.V256", 130, 3, 256);
    gated_rmsnorm("gated_rmsnorm.V80", 130, 3, 80);
    gated_rmsnorm("gated_rmsnorm.V5", 130, 3, 5);
    test_refusals();
    gdn_context_destroy(context);
    return harness_finish();
}
