/* What the parts of a model refuse: the status, and a line that names field and values. */
#include "gdn_model.h"
#include "part_test.h"

static void test_linear(const gdn_context *cpu) {
    float memory[16] = {0};
    const gdn_status invalid = GDN_STATUS_INVALID_ARGUMENT;
    gdn_linear p = {.size = sizeof(p), .T = 1, .in = 2, .out = 2};
    PART_REFUSED(gdn_linear_forward(cpu, &p, NULL), invalid, "gdn_linear_forward", "y is NULL");
    p.y = memory;
    PART_REFUSED(gdn_linear_forward(cpu, &p, NULL), invalid, "x is NULL");
    p.x = memory;
    PART_REFUSED(gdn_linear_forward(cpu, &p, NULL), invalid, "weight is NULL");
    PART_REFUSED(gdn_linear_backward(cpu, &p, NULL), invalid, "gdn_linear_backward", "dy is NULL");
    p.dy = p.dx = memory;
    PART_REFUSED(gdn_linear_backward(cpu, &p, NULL), invalid, "weight is NULL");
    p.in = 0;
    PART_REFUSED(gdn_linear_forward(cpu, &p, NULL), invalid, "in is 0");
    p.in = 2;
    p.dtype = GDN_DTYPE_FP64;
    PART_REFUSED(gdn_linear_forward(cpu, &p, NULL), GDN_STATUS_UNSUPPORTED, "dtype is fp64",
                 "expected fp32");
}

static void test_embedding(const gdn_context *cpu) {
    float memory[16] = {0}, y[16];
    const int32_t high[3] = {0, 1, 4}, low[3] = {0, -1, 2};
    const gdn_status invalid = GDN_STATUS_INVALID_ARGUMENT;
    gdn_embedding p = {.size = sizeof(p), .T = 3, .vocab = 4, .D = 2, .weight = memory, .y = y};
    PART_REFUSED(gdn_embedding_forward(cpu, &p, NULL), invalid, "tokens is NULL");
    p.tokens = high;
    PART_REFUSED(gdn_embedding_forward(cpu, &p, NULL), GDN_STATUS_BAD_DATA, "tokens[2] is 4",
                 "0 to 3");
    p.tokens = low;
    PART_REFUSED(gdn_embedding_forward(cpu, &p, NULL), GDN_STATUS_BAD_DATA, "tokens[1] is -1");
    PART_REFUSED(gdn_embedding_backward(cpu, &p, NULL), invalid, "dy is NULL");
    p.vocab = 0;
    PART_REFUSED(gdn_embedding_forward(cpu, &p, NULL), invalid, "vocab is 0");
}

static void test_norms(const gdn_context *cpu) {
    float memory[16] = {0};
    const gdn_status invalid = GDN_STATUS_INVALID_ARGUMENT;
    gdn_rmsnorm p = {.size = sizeof(p), .T = 1, .D = 2, .eps = 1e-6};
    PART_REFUSED(gdn_rmsnorm_forward(cpu, &p, NULL), invalid, "weight is NULL");
    p.weight = p.x = p.residual = memory;
    PART_REFUSED(gdn_rmsnorm_forward(cpu, &p, NULL), invalid, "h is NULL");
    p.residual = NULL;
    PART_REFUSED(gdn_rmsnorm_forward(cpu, &p, NULL), invalid, "y is NULL");
    PART_REFUSED(gdn_rmsnorm_backward(cpu, &p, NULL), invalid, "dy is NULL");
    p.eps = -1;
    PART_REFUSED(gdn_rmsnorm_forward(cpu, &p, NULL), invalid, "eps is -1");
    gdn_swiglu s = {.size = sizeof(s), .T = 1, .F = 0};
    PART_REFUSED(gdn_swiglu_forward(cpu, &s, NULL), invalid, "F is 0");
    s.F = 2;
    s.x = memory;
    PART_REFUSED(gdn_swiglu_forward(cpu, &s, NULL), invalid, "y is NULL");
    PART_REFUSED(gdn_swiglu_backward(cpu, &s, NULL), invalid, "dy is NULL");
}

static void test_cross_entropy(const gdn_context *cpu) {
    float memory[16] = {0};
    char workspace[256];
    const int32_t high[2] = {0, 3}, low[2] = {-2, 0}, good[2] = {-1, 2};
    double loss = 7;
    size_t bytes;
    const gdn_status invalid = GDN_STATUS_INVALID_ARGUMENT;
    gdn_cross_entropy p = {.size = sizeof(p),
                           .T = 2,
                           .D = 2,
                           .vocab = 3,
                           .x = memory,
                           .weight = memory,
                           .targets = high,
                           .workspace = workspace,
                           .workspace_size = sizeof(workspace)};
    PART_REFUSED(gdn_cross_entropy_compute(cpu, &p, NULL), invalid, "loss is NULL");
    p.loss = &loss;
    PART_REFUSED(gdn_cross_entropy_compute(cpu, &p, NULL), GDN_STATUS_BAD_DATA, "targets[1] is 3",
                 "-1 to 2");
    p.targets = low;
    PART_REFUSED(gdn_cross_entropy_compute(cpu, &p, NULL), GDN_STATUS_BAD_DATA, "targets[0] is -2");
    CHECK(loss == 7, "a refused call wrote the loss");
    p.targets = good;
    CHECK(gdn_cross_entropy_workspace(cpu, &p, &bytes) == GDN_STATUS_OK, "%s", gdn_last_error());
    p.workspace_size = bytes - 1;
    PART_REFUSED(gdn_cross_entropy_compute(cpu, &p, NULL), invalid, "workspace_size is");
    p.workspace_size = bytes;
    CHECK(gdn_cross_entropy_compute(cpu, &p, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    PART_REFUSED(gdn_cross_entropy_workspace(cpu, &p, NULL), invalid, "bytes is NULL");
    p.vocab = 0;
    PART_REFUSED(gdn_cross_entropy_workspace(cpu, &p, &bytes), invalid, "vocab is 0");
}

static void test_optimizer(const gdn_context *cpu) {
    float memory[4] = {0};
    double norm;
    const gdn_status invalid = GDN_STATUS_INVALID_ARGUMENT;
    const gdn_adamw good = {.size = sizeof(good),
                            .count = 1,
                            .step = 1,
                            .lr = 1e-3,
                            .beta1 = 0.9,
                            .beta2 = 0.95,
                            .eps = 1e-8,
                            .param = memory,
                            .m = memory + 1,
                            .v = memory + 2,
                            .grad = memory + 3};
    gdn_adamw p;
    CHECK(gdn_adamw_step(cpu, &good, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
#define REFUSED(change, ...)                                                                       \
    p = good;                                                                                      \
    change;                                                                                        \
    PART_REFUSED(gdn_adamw_step(cpu, &p, NULL), invalid, "gdn_adamw_step", __VA_ARGS__)
    REFUSED(p.count = -1, "count is -1");
    REFUSED(p.step = 0, "step is 0");
    REFUSED(p.lr = (double)INFINITY, "lr is inf");
    REFUSED(p.beta1 = 1, "beta1 is 1");
    REFUSED(p.beta2 = -0.5, "beta2 is -0.5");
    REFUSED(p.eps = 0, "eps is 0");
    REFUSED(p.weight_decay = (double)NAN, "weight_decay is nan");
    REFUSED(p.param = NULL, "param is NULL");
    REFUSED(p.grad = NULL, "grad is NULL");
    REFUSED(p.m = NULL, "m is NULL");
    REFUSED(p.v = NULL, "v is NULL");
#undef REFUSED
    gdn_grad_norm n = {.size = sizeof(n), .count = 1, .max_norm = 1, .norm = &norm};
    PART_REFUSED(gdn_grad_norm_compute(cpu, &n, NULL), invalid, "grad is NULL");
    n.grad = memory;
    PART_REFUSED(gdn_grad_norm_compute(cpu, &n, NULL), invalid, "scale is NULL");
    n.max_norm = (double)NAN;
    PART_REFUSED(gdn_grad_norm_compute(cpu, &n, NULL), invalid, "max_norm is nan");
}

int main(void) {
    gdn_context *cpu;
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    config.backend = GDN_BACKEND_CPU;
    CHECK(gdn_context_create(&cpu, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    test_linear(cpu);
    test_embedding(cpu);
    test_norms(cpu);
    test_cross_entropy(cpu);
    test_optimizer(cpu);
    gdn_context_destroy(cpu);
    return harness_finish();
}
