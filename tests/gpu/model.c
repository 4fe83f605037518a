/* The parts of a model on the device against the float64 reference. */
#include "device_part.h"
#include "part_calls.h"

static gdn_context *cuda;

/* Relative L2. fp32 sums over thousands of terms; bf16 rounds what comes out, by 1.1e-3 on average,
 * and sometimes what goes into a product. */
static const double FP32 = 5e-6, BF16 = 4e-3;

#define AT(member) .name = #member, .offset = offsetof(TYPE, member)
#define PART(label)                                                                                \
    .name = label, .part = &p, .dtype_offset = offsetof(TYPE, dtype), .fp32_tol = FP32,            \
    .bf16_tol = BF16, .fp32_state_tol = FP32, .bf16_state_tol = BF16, .pointwise = 1
#define MANY(elements) .rows = 1, .width = (elements)
#define WITHIN(tolerance) .fp32_tol = (tolerance), .bf16_tol = (tolerance)
#define IN(member, elements)                                                                       \
    { AT(member), .role = ROLE_INPUT, MANY(elements) }
#define OUT(member, elements)                                                                      \
    { AT(member), .role = ROLE_OUTPUT, MANY(elements) }
#define WEIGHT_GRADIENT(member, elements)                                                          \
    { AT(member), .role = ROLE_ADDED, .kind = KIND_STATE, MANY(elements) }

static void check(const device_part *part, int fp32_only) {
    for (int d = 0; d < (fp32_only ? 1 : 2); ++d)
        device_part_check(cuda, part, d ? GDN_DTYPE_BF16 : GDN_DTYPE_FP32);
}

#define TYPE gdn_linear
static void linear(int64_t T, int32_t in, int32_t out, int shift) {
    char label[64];
    gdn_linear p = {.size = sizeof(p), .T = T, .in = in, .out = out};
    snprintf(label, sizeof(label), "linear T%d %d to %d%s", (int)T, in, out, shift ? " off" : "");
    const device_part test = {
        PART(label),
        .accumulate_offset = {offsetof(TYPE, accumulate), offsetof(TYPE, accumulate_dx)},
        .workspace_offset = offsetof(TYPE, workspace),
        .calls = {linear_forward_, linear_backward_},
        .bytes = linear_bytes_,
        .misaligned = shift,
        .field = {IN(x, T * in),
                  IN(weight, (int64_t)in * out),
                  OUT(y, T * out),
                  IN(dy, T * out),
                  {AT(dx), .role = ROLE_ADDED, MANY(T * in)},
                  {AT(dweight), .kind = KIND_STATE, .role = ROLE_ADDED, MANY((int64_t)in * out),
                   WITHIN(1e-5)}}};
    check(&test, 0);
}
#undef TYPE

#define TYPE gdn_embedding
/* Half of the tokens are one of the first three. */
static void embedding(int64_t T, int32_t vocab, int32_t D, int shift) {
    char label[64];
    gdn_embedding p = {.size = sizeof(p), .T = T, .vocab = vocab, .D = D};
    double *tokens = malloc((size_t)(T + 1) * sizeof(double));
    harness_random random = {3};
    snprintf(label, sizeof(label), "embedding T%d vocab %d D%d%s", (int)T, vocab, D,
             shift ? " off" : "");
    for (int64_t t = 0; t < T; ++t) {
        const uint64_t any = harness_next(&random);
        tokens[t] = (double)(any >> 40) * 0x1p-24 < 0.5 ? (double)(any % 3 % (uint64_t)vocab)
                                                        : (double)(any % (uint64_t)vocab);
    }
    const device_part test = {
        PART(label),
        .accumulate_offset = {offsetof(TYPE, accumulate)},
        .workspace_offset = offsetof(TYPE, workspace),
        .calls = {embedding_forward_, embedding_backward_},
        .bytes = embedding_bytes_,
        .misaligned = shift,
        .field = {{AT(tokens), .kind = KIND_INT32, .role = ROLE_INPUT, MANY(T), .values = tokens},
                  IN(weight, (int64_t)vocab * D),
                  {AT(y), .role = ROLE_OUTPUT, MANY(T * D), WITHIN(1e-30)},
                  IN(dy, T * D),
                  {AT(dweight), .kind = KIND_STATE, .role = ROLE_ADDED, .rows = vocab, .width = D,
                   WITHIN(2e-6)}}};
    check(&test, 0);
    free(tokens);
}
#undef TYPE

#define TYPE gdn_rmsnorm
static void rmsnorm(int64_t T, int32_t D, int residual, int shift) {
    char label[64];
    gdn_rmsnorm p = {.size = sizeof(p), .T = T, .D = D, .eps = 1e-6};
    snprintf(label, sizeof(label), "rmsnorm T%d D%d%s%s", (int)T, D, residual ? " residual" : "",
             shift ? " off" : "");
    const device_part test = {
        PART(label),
        .accumulate_offset = {offsetof(TYPE, accumulate)},
        .workspace_offset = offsetof(TYPE, workspace),
        .calls = {rmsnorm_forward_, rmsnorm_backward_},
        .bytes = rmsnorm_bytes_,
        .misaligned = shift,
        .field = {IN(x, T * D),
                  {AT(residual), .role = ROLE_INPUT, MANY(T * D), .absent = !residual},
                  IN(weight, D),
                  {AT(h), .role = ROLE_OUTPUT, MANY(T * D), .absent = !residual},
                  OUT(y, T * D),
                  IN(dy, T * D),
                  {AT(dh), .role = ROLE_INPUT, MANY(T * D), .absent = !residual},
                  OUT(dx, T * D),
                  WEIGHT_GRADIENT(dweight, D)}};
    check(&test, 0);
}
#undef TYPE

#define TYPE gdn_swiglu
static void swiglu(int64_t T, int32_t F, int shift) {
    char label[64];
    gdn_swiglu p = {.size = sizeof(p), .T = T, .F = F};
    snprintf(label, sizeof(label), "swiglu T%d F%d%s", (int)T, F, shift ? " off" : "");
    const device_part test = {
        PART(label), .calls = {swiglu_forward_, swiglu_backward_}, .misaligned = shift,
        .field = {IN(x, 2 * T * F), OUT(y, T * F), IN(dy, T * F), OUT(dx, 2 * T * F)}};
    check(&test, 0);
}
#undef TYPE

#define TYPE gdn_cross_entropy
/* skip: every skip-th target is -1; 1: all, 0: none. gradients: 0 for the loss alone. */
static void cross_entropy(int64_t T, int32_t D, int32_t vocab, int skip, int gradients) {
    char label[64];
    gdn_cross_entropy p = {.size = sizeof(p), .T = T, .D = D, .vocab = vocab};
    const int64_t count = T * D, all = (int64_t)vocab * D;
    double *targets = malloc((size_t)(T + 1) * sizeof(double));
    double *x = malloc((size_t)(count + 1) * sizeof(double));
    harness_random random = {5};
    snprintf(label, sizeof(label), "cross_entropy T%d D%d vocab %d%s", (int)T, D, vocab,
             skip == 1   ? " none"
             : gradients ? ""
                         : " loss");
    for (int64_t t = 0; t < T; ++t)
        targets[t] = skip && t % skip == 0 ? -1 : (double)(harness_next(&random) % (uint64_t)vocab);
    for (int64_t i = 0; i < count; ++i) /* logits of deviation 3 */
        x[i] = 3 * harness_normal(&random) / sqrt((double)D);
    const device_part test = {
        PART(label),
        .accumulate_offset = {gradients ? offsetof(TYPE, accumulate) : 0},
        .workspace_offset = offsetof(TYPE, workspace),
        .calls = {cross_entropy_compute_},
        .bytes = cross_entropy_bytes_,
        .field = {{AT(x), .role = ROLE_INPUT, MANY(count), .values = x},
                  IN(weight, all),
                  {AT(targets), .kind = KIND_INT32, .role = ROLE_INPUT, MANY(T), .values = targets},
                  {AT(loss), .kind = KIND_FP64, .role = ROLE_OUTPUT, MANY(1), WITHIN(2e-6)},
                  {AT(token_loss), .kind = KIND_STATE, .role = ROLE_OUTPUT, MANY(T), WITHIN(5e-6)},
                  {AT(dx), .role = ROLE_OUTPUT, MANY(count), .absent = !gradients},
                  {AT(dweight), .kind = KIND_STATE, .role = ROLE_ADDED, MANY(all),
                   .absent = !gradients}}};
    check(&test, 0);
    free(targets);
    free(x);
}
#undef TYPE

#define TYPE gdn_adamw
static void adamw(int64_t count, int scheduled, double scale, int rounded, int shift) {
    char label[64];
    const double schedule[2] = {7, 3e-3};
    gdn_adamw p = {.size = sizeof(p),
                   .count = count,
                   .step = 3,
                   .lr = 1e-2,
                   .beta1 = 0.9,
                   .beta2 = 0.95,
                   .eps = 1e-8,
                   .weight_decay = 0.1};
    double *v = malloc((size_t)(count + 1) * sizeof(double));
    harness_random random = {9};
    for (int64_t i = 0; i < count; ++i)
        v[i] = pow(harness_normal(&random), 2);
    snprintf(label, sizeof(label), "adamw %d%s scale %g%s", (int)count,
             scheduled ? " scheduled" : "", scale, shift ? " off" : "");
    device_part test = {PART(label), .calls = {adamw_step_}, .misaligned = shift,
                        .field = {{AT(param), .role = ROLE_UPDATED, MANY(count)},
                                  {AT(m), .role = ROLE_UPDATED, MANY(count)},
                                  {AT(v), .role = ROLE_UPDATED, MANY(count), .values = v},
                                  IN(grad, count),
                                  {AT(grad_scale), .kind = KIND_FP64, .role = ROLE_INPUT, MANY(1),
                                   .values = &scale},
                                  {AT(schedule), .kind = KIND_FP64, .role = ROLE_INPUT, MANY(2),
                                   .values = schedule, .absent = !scheduled},
                                  {AT(rounded), .kind = KIND_BF16, .role = ROLE_UPDATED,
                                   MANY(count), .absent = !rounded, WITHIN(BF16)}}};
    if (!isfinite(scale)) /* nothing may change */
        for (int i = 0; test.field[i].name; ++i)
            test.field[i].fp32_tol = 1e-30;
    check(&test, 1);
    free(v);
}
#undef TYPE

#define TYPE gdn_grad_norm
static void grad_norm(int64_t count, double max_norm, double first, int shift) {
    char label[64];
    double *grad = malloc((size_t)(count + 1) * sizeof(double)), norm, scale;
    gdn_grad_norm p = {.size = sizeof(p), .count = count, .max_norm = max_norm};
    harness_random random = {11};
    for (int64_t i = 0; i < count; ++i)
        grad[i] = harness_normal(&random);
    grad[0] = first;
    snprintf(label, sizeof(label), "grad_norm %d, at most %g%s", (int)count, max_norm,
             shift ? " off" : "");
    if (isfinite(first)) {
        const device_part test = {
            PART(label),
            .workspace_offset = offsetof(TYPE, workspace),
            .calls = {grad_norm_compute_},
            .bytes = grad_norm_bytes_,
            .misaligned = shift,
            .field = {{AT(grad), .role = ROLE_INPUT, MANY(count), .values = grad},
                      {AT(norm), .kind = KIND_FP64, .role = ROLE_OUTPUT, MANY(1), WITHIN(1e-13)},
                      {AT(scale), .kind = KIND_FP64, .role = ROLE_OUTPUT, MANY(1), WITHIN(1e-13)}}};
        check(&test, 1);
    } else {
        gdn_grad_norm q = p;
        float *device;
        CUDA(cudaMalloc((void **)&device, (size_t)count * sizeof(float) + 32));
        CUDA(cudaMalloc(&q.workspace, 1 << 20));
        float *host = malloc((size_t)count * sizeof(float));
        for (int64_t i = 0; i < count; ++i)
            host[i] = (float)grad[i];
        CUDA(cudaMemcpy(device + 8, host, (size_t)count * sizeof(float), cudaMemcpyHostToDevice));
        q.grad = device + 8;
        q.norm = (double *)device;
        q.scale = (double *)device + 1;
        q.workspace_size = 1 << 20;
        GDN(gdn_grad_norm_compute(cuda, &q, NULL));
        CUDA(cudaMemcpy(&norm, q.norm, sizeof(norm), cudaMemcpyDeviceToHost));
        CUDA(cudaMemcpy(&scale, q.scale, sizeof(scale), cudaMemcpyDeviceToHost));
        CHECK(!isfinite(norm) && isnan(scale), "norm %g, scale %g", norm, scale);
        CUDA(cudaFree(device));
        CUDA(cudaFree(q.workspace));
        free(host);
    }
    free(grad);
}
#undef TYPE

/* One clear line, and no call, where the workspace is short or out of line. */
static void refusals(void) {
    char *memory;
    gdn_linear p = {.size = sizeof(p), .T = 1, .in = 8, .out = 8};
    size_t bytes;
    CUDA(cudaMalloc((void **)&memory, 64 << 20));
    p.x = p.weight = p.y = memory;
    GDN(gdn_linear_workspace(cuda, &p, &bytes));
    p.workspace = memory + 256;
    p.workspace_size = bytes - 1;
    CHECK(gdn_linear_forward(cuda, &p, NULL) == GDN_STATUS_INVALID_ARGUMENT &&
              strstr(gdn_last_error(), "gdn_linear_forward: workspace_size is"),
          "%s", gdn_last_error());
    p.workspace_size = bytes;
    p.workspace = memory + 16;
    CHECK(gdn_linear_forward(cuda, &p, NULL) == GDN_STATUS_INVALID_ARGUMENT &&
              strstr(gdn_last_error(), "expected a multiple of 256"),
          "%s", gdn_last_error());
    p.workspace = NULL;
    CHECK(gdn_linear_forward(cuda, &p, NULL) == GDN_STATUS_INVALID_ARGUMENT &&
              strstr(gdn_last_error(), "workspace is NULL"),
          "%s", gdn_last_error());
    p.dtype = GDN_DTYPE_FP64;
    CHECK(gdn_linear_forward(cuda, &p, NULL) == GDN_STATUS_UNSUPPORTED &&
              strstr(gdn_last_error(), "expected fp32 or bf16"),
          "%s", gdn_last_error());
    CUDA(cudaFree(memory));
}

/* Tokens and targets outside the vocabulary are not checked: they give NaN, and touch nothing. */
static void outside(void) {
    const int32_t tokens[4] = {1, -3, 7, INT32_MAX};
    float *memory, host[32];
    int32_t *device;
    CUDA(cudaMalloc((void **)&memory, 1 << 20));
    CUDA(cudaMalloc((void **)&device, sizeof(tokens)));
    CUDA(cudaMemset(memory, 0, 1 << 20));
    CUDA(cudaMemcpy(device, tokens, sizeof(tokens), cudaMemcpyHostToDevice));
    gdn_embedding e = {.size = sizeof(e), .T = 4, .vocab = 5, .D = 8, .tokens = device};
    e.weight = memory;
    e.y = memory + 64;
    GDN(gdn_embedding_forward(cuda, &e, NULL));
    CUDA(cudaMemcpy(host, memory + 64, sizeof(host), cudaMemcpyDeviceToHost));
    for (int i = 0; i < 32; ++i)
        CHECK((i < 8) == (host[i] == 0) && (i < 8 || isnan(host[i])), "y[%d] is %g", i,
              (double)host[i]);
    CUDA(cudaMemset(memory, 0, 1 << 20));
    e.dy = memory;
    e.dweight = memory + 64;
    e.workspace = memory + 1024;
    GDN(gdn_embedding_workspace(cuda, &e, &e.workspace_size));
    CHECK(e.workspace_size <= (1 << 20) - 4096, "%zu bytes", e.workspace_size);
    GDN(gdn_embedding_backward(cuda, &e, NULL));
    CUDA(cudaDeviceSynchronize());
    CUDA(cudaFree(memory));
    CUDA(cudaFree(device));
}

int main(void) {
    cuda = gpu_context();
    if (!cuda)
        return 77;
    refusals();
    outside();
    linear(1, 64, 64, 0);
    linear(7, 1000, 24, 0);
    linear(13, 5, 3, 0);
    linear(33, 17, 31, 1);
    linear(200, 1024, 4096, 0);
    linear(8192, 64, 1024, 0);
    linear(8192, 256, 256, 0);
    linear(0, 64, 64, 0);
    embedding(1, 1000, 64, 0);
    embedding(333, 1000, 1000, 0);
    embedding(4096, 3, 64, 0);
    embedding(8192, 1000, 1024, 0);
    embedding(300, 151936, 64, 0);
    embedding(65, 7, 13, 1);
    embedding(0, 50, 64, 0);
    for (int residual = 0; residual < 2; ++residual) {
        rmsnorm(1, 64, residual, 0);
        rmsnorm(7, 1000, residual, 0);
        rmsnorm(8192, 1024, residual, 0);
        rmsnorm(1001, 2048, residual, 0);
        rmsnorm(515, 4096, residual, 0);
        rmsnorm(33, 8192, residual, 0);
        rmsnorm(65, 16384, residual, 0);
        rmsnorm(129, 333, residual, 0);
        rmsnorm(129, 1024, residual, 1);
        rmsnorm(0, 64, residual, 0);
    }
    swiglu(1, 64, 0);
    swiglu(333, 1000, 0);
    swiglu(8192, 1024, 0);
    swiglu(100, 2816, 0);
    swiglu(77, 333, 0);
    swiglu(77, 1024, 1);
    swiglu(0, 64, 0);
    cross_entropy(1, 64, 1000, 0, 1);
    cross_entropy(333, 64, 1000, 3, 1);
    cross_entropy(333, 64, 1001, 3, 1);
    cross_entropy(100, 1000, 5, 7, 1);
    cross_entropy(100, 64, 1000, 1, 1);
    cross_entropy(0, 64, 1000, 0, 1);
    cross_entropy(8500, 64, 1000, 5, 1);
    cross_entropy(64, 128, 151936, 9, 1);
    cross_entropy(64, 128, 151936, 9, 0);
    for (int scheduled = 0; scheduled < 2; ++scheduled) {
        adamw(1, scheduled, 1, 1, 0);
        adamw(4099, scheduled, 0.3, 1, 0);
        adamw(4099, scheduled, 0.3, 0, 1);
        adamw(1 << 20, scheduled, 0.3, 1, 0);
        adamw(4099, scheduled, (double)NAN, 1, 0);
        adamw(4099, scheduled, (double)INFINITY, 1, 0);
    }
    grad_norm(1, 1e-3, 2, 0);
    grad_norm(4099, 1, 0.5, 0);
    grad_norm(4099, 0, 0.5, 1);
    grad_norm((1 << 22) + 3, 1e9, 0.5, 0);
    grad_norm(4099, 1, (double)NAN, 0);
    grad_norm(4099, 0, (double)INFINITY, 0);
    gdn_context_destroy(cuda);
    return harness_finish();
}
