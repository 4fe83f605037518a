/* The parts of the layer: gradients, precision, threads, accumulation (see part_test.h). */
#include "gdn_layer.h"
#include "part_test.h"

#define CALLS(part)                                                                                \
    static gdn_status part##_forward(const gdn_context *context, void *p) {                        \
        return gdn_##part##_forward(context, p, NULL);                                             \
    }                                                                                              \
    static gdn_status part##_backward(const gdn_context *context, void *p) {                       \
        return gdn_##part##_backward(context, p, NULL);                                            \
    }
CALLS(conv1d)
CALLS(l2norm)
CALLS(gate)
CALLS(gated_rmsnorm)

#define AT(member) #member, offsetof(TYPE, member)

#define TYPE gdn_conv1d
static void conv1d(const char *name, gdn_conv1d shape, int halo) {
    gdn_conv1d p = shape;
    const int64_t T = p.T, C = p.channels, W = p.width, xs = p.x_stride, ys = p.y_stride;
    p.size = sizeof(p);
    part_test test = {name,
                      &p,
                      offsetof(TYPE, dtype),
                      offsetof(TYPE, accumulate),
                      conv1d_forward,
                      conv1d_backward,
                      0,
                      1e-8,
                      1e-6,
                      6,
                      {{AT(x), PART_INPUT, NULL, T, C, xs, 0},
                       {AT(weight), PART_INPUT, NULL, C, W, 0, 0},
                       {AT(y), PART_OUTPUT, NULL, T, C, ys, 0},
                       {AT(dy), PART_COTANGENT, "y", T, C, ys, 0},
                       {AT(dx), PART_GRADIENT, "x", T, C, xs, 0},
                       {AT(dweight), PART_PARAM_GRADIENT, "weight", C, W, 0, 0}}};
    const part_field with_halo[] = {{AT(halo), PART_INPUT, NULL, W - 1, C, 0, 0},
                                    {AT(dhalo), PART_GRADIENT, "halo", W - 1, C, 0, 0}};
    if (halo) {
        memcpy(test.field + test.fields, with_halo, sizeof(with_halo));
        test.fields += 2;
    }
    part_check(&test, (uint64_t)(T * 131 + C));
}
#undef TYPE

static void test_conv1d(void) {
    const int64_t packed[] = {0, 0, 2, 3, 3, 20}, padded[] = {0, 5, 9}, none[] = {0, 0, 0};
    conv1d("conv1d one token", (gdn_conv1d){.T = 1, .N = 1, .channels = 3, .width = 4}, 0);
    conv1d("conv1d no token", (gdn_conv1d){.T = 0, .N = 1, .channels = 3, .width = 4}, 1);
    conv1d("conv1d width 1", (gdn_conv1d){.T = 5, .N = 1, .channels = 2, .width = 1}, 1);
    conv1d("conv1d width 32", (gdn_conv1d){.T = 40, .N = 2, .channels = 3, .width = 32}, 1);
    conv1d("conv1d equal lengths", (gdn_conv1d){.T = 12, .N = 3, .channels = 5, .width = 4}, 0);
    conv1d("conv1d tiles", (gdn_conv1d){.T = 600, .N = 1, .channels = 261, .width = 4}, 1);
    conv1d("conv1d packed",
           (gdn_conv1d){.T = 20, .N = 5, .channels = 7, .width = 4, .cu_seqlens = packed}, 1);
    conv1d("conv1d padded, strided",
           (gdn_conv1d){.T = 14,
                        .N = 2,
                        .channels = 6,
                        .width = 3,
                        .x_stride = 9,
                        .y_stride = 11,
                        .cu_seqlens = padded},
           1);
    conv1d("conv1d all padding",
           (gdn_conv1d){.T = 4, .N = 2, .channels = 2, .width = 4, .cu_seqlens = none}, 1);
}

/* A sequence cut in two, with the halo handed over, is the sequence. */
static void test_conv1d_halo(void) {
    enum {
        T = 11,
        CUT = 2, /* shorter than the halo: the first part hands on its own halo's rows too */
        C = 5,
        W = 4,
        H = W - 1
    };
    double x[T * C], dy[T * C], weight[C * W], y[T * C], dx[T * C], dweight[C * W];
    double joined_y[T * C], joined_dx[T * C], joined_dweight[C * W];
    double halo[H * C] = {0}, dhalo[H * C];
    harness_random random = {5};
    for (int i = 0; i < T * C; ++i) {
        x[i] = harness_normal(&random);
        dy[i] = harness_normal(&random);
    }
    for (int i = 0; i < C * W; ++i)
        weight[i] = harness_normal(&random);
    gdn_context *context;
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    config.backend = GDN_BACKEND_REFERENCE;
    CHECK(gdn_context_create(&context, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    gdn_conv1d whole = {.size = sizeof(whole),
                        .dtype = GDN_DTYPE_FP64,
                        .T = T,
                        .N = 1,
                        .channels = C,
                        .width = W,
                        .x = x,
                        .weight = weight,
                        .y = y,
                        .dy = dy,
                        .dx = dx,
                        .dweight = dweight};
    gdn_conv1d left = whole, right = whole;
    left.T = CUT;
    left.y = joined_y;
    left.dx = joined_dx;
    left.dweight = right.dweight = joined_dweight;
    right.T = T - CUT;
    right.x = x + CUT * C;
    right.dy = dy + CUT * C;
    right.y = joined_y + CUT * C;
    right.dx = joined_dx + CUT * C;
    right.halo = halo;
    right.dhalo = dhalo;
    right.accumulate = 1;
    memcpy(halo + (H - CUT) * C, x, CUT * C * sizeof(double));
    CHECK(gdn_conv1d_forward(context, &whole, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_conv1d_backward(context, &whole, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_conv1d_forward(context, &left, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_conv1d_backward(context, &left, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_conv1d_forward(context, &right, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_conv1d_backward(context, &right, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    for (int i = 0; i < CUT * C; ++i)
        joined_dx[i] += dhalo[(H - CUT) * C + i];
    CHECK(!memcmp(y, joined_y, sizeof(y)), "y of two parts is not y of the whole");
    CHECK(part_error(joined_dx, dx, T * C) <= 1e-15, "dx: %.2e", part_error(joined_dx, dx, T * C));
    CHECK(part_error(joined_dweight, dweight, C * W) <= 1e-15, "dweight: %.2e",
          part_error(joined_dweight, dweight, C * W));
    gdn_context_destroy(context);
}

#define TYPE gdn_l2norm
static void l2norm(const char *name, gdn_l2norm shape) {
    gdn_l2norm p = shape;
    const int64_t T = p.T, HK = (int64_t)p.H * p.K, xs = p.x_stride, ys = p.y_stride;
    p.size = sizeof(p);
    p.eps = 1e-6;
    const part_test test = {name,
                            &p,
                            offsetof(TYPE, dtype),
                            -1,
                            l2norm_forward,
                            l2norm_backward,
                            0,
                            1e-8,
                            1e-6,
                            4,
                            {{AT(x), PART_INPUT, NULL, T, HK, xs, 0},
                             {AT(y), PART_OUTPUT, NULL, T, HK, ys, 0},
                             {AT(dy), PART_COTANGENT, "y", T, HK, ys, 0},
                             {AT(dx), PART_GRADIENT, "x", T, HK, xs, 0}}};
    part_check(&test, 7);
}
#undef TYPE

#define TYPE gdn_gate
static void gate(const char *name, int64_t T, int32_t H) {
    gdn_gate p = {.size = sizeof(p), .T = T, .H = H};
    const part_test test = {name,
                            &p,
                            offsetof(TYPE, dtype),
                            offsetof(TYPE, accumulate),
                            gate_forward,
                            gate_backward,
                            0,
                            1e-8,
                            1e-6,
                            12,
                            {{AT(a), PART_INPUT, NULL, T, H, 0, 0},
                             {AT(b), PART_INPUT, NULL, T, H, 0, 0},
                             {AT(A_log), PART_INPUT, NULL, 1, H, 0, 0},
                             {AT(dt_bias), PART_INPUT, NULL, 1, H, 0, 0},
                             {AT(g), PART_OUTPUT, NULL, T, H, 0, 0},
                             {AT(beta), PART_OUTPUT, NULL, T, H, 0, 0},
                             {AT(dg), PART_COTANGENT, "g", T, H, 0, 0},
                             {AT(dbeta), PART_COTANGENT, "beta", T, H, 0, 0},
                             {AT(da), PART_GRADIENT, "a", T, H, 0, 0},
                             {AT(db), PART_GRADIENT, "b", T, H, 0, 0},
                             {AT(dA_log), PART_PARAM_GRADIENT, "A_log", 1, H, 0, 0},
                             {AT(ddt_bias), PART_PARAM_GRADIENT, "dt_bias", 1, H, 0, 0}}};
    part_check(&test, 11);
}
#undef TYPE

/* Far from zero nothing overflows, cancels or gets stuck, in either type. */
static void test_gate_extremes(void) {
    enum {
        T = 8
    };
    const float a[T] = {-200, -90, -20, 0, 20, 90, 200, 1e-30f};
    const float zero[1] = {0}, one[T] = {1, 1, 1, 1, 1, 1, 1, 1};
    float g[T], beta[T], da[T], db[T], dA[1], dt[1];
    gdn_gate p = {.size = sizeof(p),
                  .T = T,
                  .H = 1,
                  .a = a,
                  .b = a,
                  .A_log = zero,
                  .dt_bias = zero,
                  .g = g,
                  .beta = beta,
                  .dg = one,
                  .dbeta = one,
                  .da = da,
                  .db = db,
                  .dA_log = dA,
                  .ddt_bias = dt};
    gdn_context *context;
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    config.backend = GDN_BACKEND_CPU;
    CHECK(gdn_context_create(&context, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_gate_forward(context, &p, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_gate_backward(context, &p, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    for (int t = 0; t < T; ++t) {
        const double u = (double)a[t], s = 1 / (1 + exp(-u)), minus = 1 / (1 + exp(u));
        const double softplus = (u > 0 ? u : 0) + log1p(exp(-fabs(u)));
        const double expected[] = {-softplus, s, -s, s * minus};
        const double found[] = {(double)g[t], (double)beta[t], (double)da[t], (double)db[t]};
        for (int i = 0; i < 4; ++i)
            CHECK(fabs(found[i] - expected[i]) <= 3e-7 * fabs(expected[i]) + 1e-37,
                  "a = %g, value %d: %.9g, expected %.9g", u, i, found[i], expected[i]);
    }
    gdn_context_destroy(context);
}

#define TYPE gdn_gated_rmsnorm
static void gated_rmsnorm(const char *name, int64_t T, int32_t H, int32_t V) {
    gdn_gated_rmsnorm p = {.size = sizeof(p), .T = T, .H = H, .V = V, .eps = 1e-6};
    const int64_t HV = (int64_t)H * V;
    const part_test test = {name,
                            &p,
                            offsetof(TYPE, dtype),
                            offsetof(TYPE, accumulate),
                            gated_rmsnorm_forward,
                            gated_rmsnorm_backward,
                            0,
                            1e-8,
                            1e-6,
                            8,
                            {{AT(x), PART_INPUT, NULL, T, HV, 0, 0},
                             {AT(z), PART_INPUT, NULL, T, HV, 0, 0},
                             {AT(weight), PART_INPUT, NULL, 1, V, 0, 0},
                             {AT(y), PART_OUTPUT, NULL, T, HV, 0, 0},
                             {AT(dy), PART_COTANGENT, "y", T, HV, 0, 0},
                             {AT(dx), PART_GRADIENT, "x", T, HV, 0, 0},
                             {AT(dz), PART_GRADIENT, "z", T, HV, 0, 0},
                             {AT(dweight), PART_PARAM_GRADIENT, "weight", 1, V, 0, 0}}};
    part_check(&test, 13);
}
#undef TYPE

int main(void) {
    test_conv1d();
    test_conv1d_halo();
    l2norm("l2norm", (gdn_l2norm){.T = 9, .H = 2, .K = 16});
    l2norm("l2norm strided", (gdn_l2norm){.T = 70, .H = 3, .K = 5, .x_stride = 21, .y_stride = 16});
    l2norm("l2norm no token", (gdn_l2norm){.T = 0, .H = 1, .K = 4});
    l2norm("l2norm wide", (gdn_l2norm){.T = 130, .H = 1, .K = 256});
    gate("gate", 9, 3);
    gate("gate long", 700, 17);
    gate("gate no token", 0, 4);
    test_gate_extremes();
    gated_rmsnorm("gated_rmsnorm", 7, 3, 16);
    gated_rmsnorm("gated_rmsnorm long", 2100, 2, 20);
    gated_rmsnorm("gated_rmsnorm one token", 1, 1, 3);
    gated_rmsnorm("gated_rmsnorm no token", 0, 2, 8);
    return harness_finish();
}
