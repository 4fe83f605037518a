/* The parts of a model: gradients, precision, threads, accumulation (see part_test.h). */
#include "gdn_model.h"
#include "part_test.h"

#define CALLS(part)                                                                                \
    static gdn_status part##_forward(const gdn_context *context, void *p) {                        \
        return gdn_##part##_forward(context, p, NULL);                                             \
    }                                                                                              \
    static gdn_status part##_backward(const gdn_context *context, void *p) {                       \
        return gdn_##part##_backward(context, p, NULL);                                            \
    }
CALLS(linear)
CALLS(embedding)
CALLS(rmsnorm)
CALLS(swiglu)

#define AT(member) #member, offsetof(TYPE, member)

#define TYPE gdn_linear
static void linear(const char *name, int64_t T, int32_t in, int32_t out) {
    gdn_linear p = {.size = sizeof(p), .T = T, .in = in, .out = out};
    const part_test test = {name,
                            &p,
                            offsetof(TYPE, dtype),
                            offsetof(TYPE, accumulate),
                            linear_forward,
                            linear_backward,
                            1,
                            1e-8,
                            1e-6,
                            6,
                            {{AT(x), PART_INPUT, NULL, T, in, 0, 0},
                             {AT(weight), PART_INPUT, NULL, out, in, 0, 0},
                             {AT(y), PART_OUTPUT, NULL, T, out, 0, 0},
                             {AT(dy), PART_COTANGENT, "y", T, out, 0, 0},
                             {AT(dx), PART_GRADIENT, "x", T, in, 0, 0},
                             {AT(dweight), PART_PARAM_GRADIENT, "weight", out, in, 0, 0}}};
    part_check(&test, 3);
}
#undef TYPE

/* Only the gradient that is asked for, from what it needs. */
static void test_linear_one_gradient(void) {
    const float x[2] = {1, 2}, weight[2] = {3, 4}, dy[1] = {5};
    float dx[2], dweight[2];
    gdn_context *context;
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    config.backend = GDN_BACKEND_CPU;
    CHECK(gdn_context_create(&context, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    gdn_linear p = {.size = sizeof(p), .T = 1, .in = 2, .out = 1, .dy = dy};
    p.weight = weight;
    p.dx = dx;
    CHECK(gdn_linear_backward(context, &p, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(dx[0] == 15 && dx[1] == 20, "dx = %g, %g", (double)dx[0], (double)dx[1]);
    p.accumulate_dx = 1;
    CHECK(gdn_linear_backward(context, &p, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(dx[0] == 30 && dx[1] == 40, "added: dx = %g, %g", (double)dx[0], (double)dx[1]);
    p.weight = NULL;
    p.dx = NULL;
    p.x = x;
    p.dweight = dweight;
    CHECK(gdn_linear_backward(context, &p, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(dweight[0] == 5 && dweight[1] == 10, "dweight = %g, %g", (double)dweight[0],
          (double)dweight[1]);
    gdn_context_destroy(context);
}

#define TYPE gdn_embedding
static void embedding(const char *name, int64_t T, int32_t vocab, int32_t D) {
    int32_t tokens[256];
    for (int64_t t = 0; t < T; ++t)
        tokens[t] = (int32_t)(t * t) % vocab;
    gdn_embedding p = {.size = sizeof(p), .T = T, .vocab = vocab, .D = D, .tokens = tokens};
    const part_test test = {name,
                            &p,
                            offsetof(TYPE, dtype),
                            offsetof(TYPE, accumulate),
                            embedding_forward,
                            embedding_backward,
                            0,
                            1e-8,
                            1e-6,
                            4,
                            {{AT(weight), PART_INPUT, NULL, vocab, D, 0, 0},
                             {AT(y), PART_OUTPUT, NULL, T, D, 0, 0},
                             {AT(dy), PART_COTANGENT, "y", T, D, 0, 0},
                             {AT(dweight), PART_PARAM_GRADIENT, "weight", vocab, D, 0, 0}}};
    part_check(&test, 5);
}
#undef TYPE

#define TYPE gdn_rmsnorm
/* Without a residual, h is not a tensor of the call; with it, dh is the cotangent of h. */
static void rmsnorm(const char *name, int64_t T, int32_t D, int residual) {
    gdn_rmsnorm p = {.size = sizeof(p), .T = T, .D = D, .eps = 1e-5};
    part_test test = {name,
                      &p,
                      offsetof(TYPE, dtype),
                      offsetof(TYPE, accumulate),
                      rmsnorm_forward,
                      rmsnorm_backward,
                      0,
                      1e-8,
                      1e-6,
                      6,
                      {{AT(x), PART_INPUT, NULL, T, D, 0, 0},
                       {AT(weight), PART_INPUT, NULL, 1, D, 0, 0},
                       {AT(y), PART_OUTPUT, NULL, T, D, 0, 0},
                       {AT(dy), PART_COTANGENT, "y", T, D, 0, 0},
                       {AT(dx), PART_GRADIENT, "x", T, D, 0, 0},
                       {AT(dweight), PART_PARAM_GRADIENT, "weight", 1, D, 0, 0}}};
    const part_field with_residual[] = {{AT(residual), PART_INPUT, NULL, T, D, 0, 0},
                                        {AT(h), PART_OUTPUT, NULL, T, D, 0, 0},
                                        {AT(dh), PART_COTANGENT, "h", T, D, 0, 0}};
    if (residual) {
        memcpy(test.field + test.fields, with_residual, sizeof(with_residual));
        test.fields += 3;
    }
    part_check(&test, 17);
}
#undef TYPE

#define TYPE gdn_swiglu
static void swiglu(const char *name, int64_t T, int32_t F) {
    gdn_swiglu p = {.size = sizeof(p), .T = T, .F = F};
    const part_test test = {name,
                            &p,
                            offsetof(TYPE, dtype),
                            -1,
                            swiglu_forward,
                            swiglu_backward,
                            0,
                            1e-8,
                            1e-6,
                            4,
                            {{AT(x), PART_INPUT, NULL, T, 2 * F, 0, 0},
                             {AT(y), PART_OUTPUT, NULL, T, F, 0, 0},
                             {AT(dy), PART_COTANGENT, "y", T, F, 0, 0},
                             {AT(dx), PART_GRADIENT, "x", T, 2 * F, 0, 0}}};
    part_check(&test, 19);
}
#undef TYPE

int main(void) {
    linear("linear", 7, 5, 3);
    linear("linear one token", 1, 33, 65);
    linear("linear no token", 0, 4, 6);
    linear("linear tiles", 150, 70, 130);
    test_linear_one_gradient();
    embedding("embedding", 30, 11, 7);
    embedding("embedding wide", 200, 5, 200);
    embedding("embedding no token", 0, 3, 4);
    rmsnorm("rmsnorm", 5, 20, 0);
    rmsnorm("rmsnorm residual", 5, 20, 1);
    rmsnorm("rmsnorm residual long", 1100, 70, 1);
    rmsnorm("rmsnorm one token", 1, 3, 1);
    rmsnorm("rmsnorm no token", 0, 8, 1);
    swiglu("swiglu", 5, 9);
    swiglu("swiglu long", 70, 33);
    swiglu("swiglu no token", 0, 4);
    return harness_finish();
}
