/*
 * The whole layer on the CUDA backend against the float64 reference: fp32 and bf16, states, packed
 * and padded sequences, halos, hooks. Tolerances in bf16: between x and out lie six roundings to
 * bf16 (qkv, conv, z, o, y, out), each of up to 2^-9 of a value and of 1.1e-3 in the norm, and the
 * operator's own, which is allowed 1e-2, and 2e-2 for dg and dbeta (tests/gpu/gpu.c); gradients
 * pass them both ways.
 *
 * dA_log and ddt_bias of a head are sums over tokens of terms of either sign, which may cancel to
 * anything. Their errors are measured against the head's number or the root of the sum of the
 * terms' squares, whichever is larger: the size of such a sum where signs are random. In bf16 they
 * get 1e-1, since the errors of dg hang together: each dg is itself a sum over the tokens after it.
 * A wrong formula shows in fp32, and in layer_gates.c, where the operator alone is in bf16.
 */
#include "device_part.h"
#include "gdn_layer.h"

typedef struct layer_case {
    gdn_layer layer;
    gdn_layer_tensors tensors;
    gdn_layer_weights weights, dweights;
    gdn_sizes sizes;
} layer_case;

enum {
    MAX_HEADS = 64
};

static const gdn_context *cuda;

static gdn_status forward(const gdn_context *context, const void *part, gdn_stream stream) {
    const layer_case *c = part;
    return gdn_layer_forward(context, &c->layer, &c->tensors, stream);
}

static gdn_status backward(const gdn_context *context, const void *part, gdn_stream stream) {
    const layer_case *c = part;
    return gdn_layer_backward(context, &c->layer, &c->tensors, stream);
}

/* Of the reference's last backward: the roots of the sums of squares, over tokens, of what dA_log
 * and ddt_bias of each head add up. */
static double dA_sizes[MAX_HEADS], ddt_sizes[MAX_HEADS];
static const gdn_context *reference;
static const double *reference_A_log;

static gdn_status on_reference_backward(void *user, const gdn_problem *problem,
                                        const gdn_tensors *tensors, gdn_stream stream) {
    (void)user;
    const gdn_status status = gdn_backward(reference, problem, tensors, stream);
    const double *g = tensors->g, *dg = tensors->dg;
    for (int32_t h = 0; h < problem->Hv; ++h) {
        const double A = exp(reference_A_log[h]);
        double dA = 0, ddt = 0;
        for (int64_t i = h; i < problem->T * problem->Hv; i += problem->Hv) {
            const double da = dg[i] * A * (1 - exp(g[i] / A)); /* softplus' is 1 - e^-softplus */
            dA += dg[i] * g[i] * dg[i] * g[i];
            ddt += da * da;
        }
        dA_sizes[h] = sqrt(dA);
        ddt_sizes[h] = sqrt(ddt);
    }
    return status;
}

static void attach(const gdn_context *context, void *part, device_memory *memory) {
    layer_case *c = part;
    const gdn_sizes init = GDN_SIZES_INIT;
    c->sizes = init;
    GDN(gdn_layer_supported(context, &c->layer));
    GDN(gdn_layer_sizes(context, &c->layer, &c->sizes));
    static gdn_layer_hooks looking = GDN_LAYER_HOOKS_INIT;
    looking.backward = on_reference_backward;
    reference = context;
    reference_A_log = c->weights.A_log;
    c->tensors.hooks = gdn_context_backend(context) == GDN_BACKEND_REFERENCE ? &looking : NULL;
    c->tensors.weights = &c->weights;
    c->tensors.dweights = &c->dweights;
    c->tensors.saved = device_take(memory, c->sizes.saved);
    c->tensors.workspace_size = c->sizes.forward_workspace > c->sizes.backward_workspace
                                    ? c->sizes.forward_workspace
                                    : c->sizes.backward_workspace;
    c->tensors.workspace = device_take(memory, c->tensors.workspace_size);
}

#define TENSOR(member) #member, offsetof(layer_case, tensors.member)
#define WEIGHT(member) #member, offsetof(layer_case, weights.member), ROLE_INPUT
#define DWEIGHT(member) "d" #member, offsetof(layer_case, dweights.member), ROLE_ADDED, KIND_STATE

/* A from 0.001 to 16, over and over. */
static const double *log_A(int32_t heads) {
    static const double A[] = {0.001, 0.01, 0.1, 1, 4, 16};
    static double values[MAX_HEADS];
    for (int32_t h = 0; h < heads; ++h)
        values[h] = log(A[h % 6]);
    return values;
}

typedef struct extras {
    int states, halo;
    uint32_t flags;
} extras;

static void check(const char *name, gdn_dtype dtype, gdn_layer l, const int64_t *cu, extras e) {
    layer_case c = {.layer = l,
                    .tensors = GDN_LAYER_TENSORS_INIT,
                    .weights = GDN_LAYER_WEIGHTS_INIT,
                    .dweights = GDN_LAYER_WEIGHTS_INIT};
    const int64_t T = l.T, D = l.D, Hv = l.Hv, HvV = (int64_t)l.Hv * l.V, S = (int64_t)l.K * l.V;
    const int64_t C = 2 * (int64_t)l.Hk * l.K + HvV, W = l.conv_width;
    const double in = 1 / sqrt((double)D), out = 1 / sqrt((double)HvV);
    c.layer.flags = e.flags;
    device_part part = {
        .name = name,
        .part = &c,
        .dtype_offset = offsetof(layer_case, layer.dtype),
        .accumulate_offset = {e.flags ? 0 : offsetof(layer_case, layer.flags)},
        .cu_offset = offsetof(layer_case, tensors.cu_seqlens),
        .cu = cu,
        .cu_count = cu ? l.N + 1 : 0,
        .attach = attach,
        .calls = {forward, backward},
        .fp32_tol = 2e-5,
        .bf16_tol = 1e-2,
        .fp32_state_tol = 2e-5,
        .bf16_state_tol = 1.5e-2,
        .field = {{TENSOR(x), ROLE_INPUT, KIND_PART, T, D},
                  {WEIGHT(in_proj_qkv), KIND_PART, C, D, 0, in},
                  {WEIGHT(in_proj_z), KIND_PART, HvV, D, 0, in},
                  {WEIGHT(in_proj_b), KIND_PART, Hv, D, 0, in},
                  {WEIGHT(in_proj_a), KIND_PART, Hv, D, 0, in},
                  {WEIGHT(conv1d), KIND_PART, C, W, 0, 0.5},
                  {WEIGHT(A_log), KIND_STATE, Hv, 1, 0, 0, 0, log_A(l.Hv)},
                  {WEIGHT(dt_bias), KIND_STATE, Hv, 1},
                  {WEIGHT(norm), KIND_PART, 1, l.V, 0, 0.1, 1},
                  {WEIGHT(out_proj), KIND_PART, D, HvV, 0, out},
                  {TENSOR(out), ROLE_OUTPUT, KIND_PART, T, D},
                  {TENSOR(dout), ROLE_INPUT, KIND_PART, T, D},
                  {TENSOR(dx), ROLE_OUTPUT, KIND_PART, T, D},
                  {DWEIGHT(in_proj_qkv), C, D},
                  {DWEIGHT(in_proj_z), HvV, D},
                  {DWEIGHT(in_proj_b), Hv, D, .per_row = 1, .bf16_tol = 2.5e-2},
                  {DWEIGHT(in_proj_a), Hv, D, .per_row = 1, .bf16_tol = 2.5e-2},
                  {DWEIGHT(conv1d), C, W},
                  {DWEIGHT(A_log), Hv, 1, .per_row = 1, .row_sizes = dA_sizes, .bf16_tol = 1e-1},
                  {DWEIGHT(dt_bias), Hv, 1, .per_row = 1, .row_sizes = ddt_sizes, .bf16_tol = 1e-1},
                  {DWEIGHT(norm), 1, l.V},
                  {DWEIGHT(out_proj), D, HvV}}};
    const device_field states[] = {
        {TENSOR(initial_state), ROLE_INPUT, KIND_STATE, l.N * Hv, S, 0, 0.1},
        {TENSOR(final_state), ROLE_OUTPUT, KIND_STATE, l.N * Hv, S, .fp32_tol = 2e-5,
         .bf16_tol = 1e-2},
        {TENSOR(dht), ROLE_INPUT, KIND_STATE, l.N * Hv, S, 0, 0.1},
        {TENSOR(dh0), ROLE_OUTPUT, KIND_STATE, l.N * Hv, S, .fp32_tol = 4e-5, .bf16_tol = 2e-2}};
    const device_field halo[] = {{TENSOR(conv_halo), ROLE_INPUT, KIND_PART, W - 1, C},
                                 {TENSOR(dconv_halo), ROLE_OUTPUT, KIND_PART, W - 1, C}};
    device_field *more = part.field + 22;
    if (e.states) {
        memcpy(more, states, sizeof(states));
        more += 4;
    }
    if (e.halo)
        memcpy(more, halo, sizeof(halo));
    device_part_check(cuda, &part, dtype);
}

static gdn_layer shape(int64_t T, int64_t N, int32_t D, int32_t Hk, int32_t Hv, int32_t K,
                       int32_t V) {
    gdn_layer l = GDN_LAYER_INIT;
    l.T = T;
    l.N = N;
    l.D = D;
    l.Hk = Hk;
    l.Hv = Hv;
    l.K = K;
    l.V = V;
    return l;
}

/* Hooks that do what the layer would do itself, and count. */
typedef struct hook_counts {
    int projected, forward, backward, convolved;
} hook_counts;

static gdn_status on_projected(void *user, const void *qkv) {
    ((hook_counts *)user)->projected += qkv != NULL;
    return GDN_STATUS_OK;
}
static gdn_status on_convolved(void *user, void *dqkv) {
    ((hook_counts *)user)->convolved += dqkv != NULL;
    return GDN_STATUS_OK;
}
static gdn_status on_forward(void *user, const gdn_problem *problem, const gdn_tensors *tensors,
                             gdn_stream stream) {
    ++((hook_counts *)user)->forward;
    return gdn_forward(cuda, problem, tensors, stream);
}
static gdn_status on_backward(void *user, const gdn_problem *problem, const gdn_tensors *tensors,
                              gdn_stream stream) {
    ++((hook_counts *)user)->backward;
    return gdn_backward(cuda, problem, tensors, stream);
}

/* One run on the device, out and dx on the host. */
static void run_with(layer_case *c, const gdn_layer_hooks *hooks, void *host[2], size_t bytes) {
    c->tensors.hooks = hooks;
    CUDA(cudaMemset(c->tensors.out, 0xff, bytes));
    CUDA(cudaMemset(c->tensors.dx, 0xff, bytes));
    GDN(gdn_layer_forward(cuda, &c->layer, &c->tensors, NULL));
    GDN(gdn_layer_backward(cuda, &c->layer, &c->tensors, NULL));
    CUDA(cudaMemcpy(host[0], c->tensors.out, bytes, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(host[1], c->tensors.dx, bytes, cudaMemcpyDeviceToHost));
}

static void *random_floats(device_memory *memory, int64_t count, double scale) {
    harness_random random = {(uint64_t)count};
    float *host = malloc((size_t)count * sizeof(float));
    void *device = device_take(memory, (size_t)count * sizeof(float));
    for (int64_t i = 0; i < count; ++i)
        host[i] = (float)(scale * harness_normal(&random));
    CUDA(cudaMemcpy(device, host, (size_t)count * sizeof(float), cudaMemcpyHostToDevice));
    free(host);
    return device;
}

/* The same bits with hooks as without. */
static void test_hooks(void) {
    enum {
        T = 150,
        D = 32,
        HK = 1,
        HV = 2,
        K = 64,
        C = 2 * HK * K + HV * K
    };
    device_memory of[20], own = {.device = 1};
    hook_counts counts = {0};
    const gdn_layer_hooks hooks = {sizeof(hooks), &counts,     on_projected,
                                   on_forward,    on_backward, on_convolved};
    layer_case c = {.layer = shape(T, 1, D, HK, HV, K, K),
                    .tensors = GDN_LAYER_TENSORS_INIT,
                    .weights = GDN_LAYER_WEIGHTS_INIT,
                    .dweights = GDN_LAYER_WEIGHTS_INIT};
    const int64_t counts_of[] = {C * D, HV * K * D, HV * D, HV * D, C * 4, HV, HV, K, D * HV * K};
    const size_t bytes = (size_t)T * D * sizeof(float);
    void *plain[2] = {malloc(bytes), malloc(bytes)}, *with[2] = {malloc(bytes), malloc(bytes)};
    void **weights = &c.weights.in_proj_qkv, **dweights = &c.dweights.in_proj_qkv;
    for (int i = 0; i < 20; ++i)
        of[i] = (device_memory){.device = 1};
    for (int i = 0; i < 9; ++i) {
        weights[i] = random_floats(&of[2 * i], counts_of[i], 0.3);
        dweights[i] = random_floats(&of[2 * i + 1], counts_of[i], 0.3);
    }
    c.tensors.x = random_floats(&of[18], T * D, 1);
    c.tensors.dout = random_floats(&of[18], T * D, 1);
    c.tensors.out = random_floats(&of[19], T * D, 1);
    c.tensors.dx = random_floats(&of[19], T * D, 1);
    attach(cuda, &c, &own);
    run_with(&c, NULL, plain, bytes);
    run_with(&c, &hooks, with, bytes);
    CHECK(!memcmp(plain[0], with[0], bytes) && !memcmp(plain[1], with[1], bytes),
          "other bits with hooks");
    CHECK(counts.projected == 1 && counts.forward == 1 && counts.backward == 1 &&
              counts.convolved == 1,
          "%d %d %d %d calls of hooks", counts.projected, counts.forward, counts.backward,
          counts.convolved);
    for (int i = 0; i < 2; ++i) {
        free(plain[i]);
        free(with[i]);
    }
    for (int i = 0; i < 20; ++i)
        for (int j = 0; j < of[i].blocks; ++j)
            CUDA(cudaFree(of[i].block[j]));
    for (int j = 0; j < own.blocks; ++j)
        CUDA(cudaFree(own.block[j]));
}

static void test_shapes(gdn_dtype d) {
    const int64_t packed[] = {0, 0, 1, 64, 64, 129, 193, 300}, padded[] = {0, 130, 231};
    const int64_t empty[] = {0, 0};
    const uint32_t save = GDN_LAYER_SAVE_STATES, all = save | GDN_LAYER_SAVE_INVERSE;
    check("layer.T1", d, shape(1, 1, 64, 1, 1, 128, 128), NULL, (extras){1, 1, 0});
    check("layer.T0", d, shape(0, 1, 64, 1, 2, 128, 128), NULL, (extras){1, 1, 0});
    check("layer.GVA1", d, shape(301, 1, 128, 2, 2, 128, 128), NULL, (extras){1, 0, 0});
    check("layer.GVA2", d, shape(257, 1, 96, 2, 4, 128, 128), NULL, (extras){0, 1, 0});
    check("layer.GVA4.mixed", d, shape(509, 1, 128, 2, 8, 128, 128), NULL, (extras){1, 1, 0});
    check("layer.K64", d, shape(200, 2, 64, 2, 4, 64, 64), NULL, (extras){1, 0, 0});
    check("layer.packed", d, shape(320, 7, 64, 1, 2, 128, 128), packed, (extras){1, 1, 0});
    check("layer.K64.packed", d, shape(320, 7, 64, 1, 4, 64, 64), packed, (extras){1, 1, 0});
    check("layer.padded", d, shape(300, 2, 64, 1, 2, 128, 128), padded, (extras){1, 0, 0});
    check("layer.only-padding", d, shape(5, 1, 64, 1, 2, 64, 64), empty, (extras){1, 1, 0});
    check("layer.saved-states", d, shape(300, 1, 64, 1, 2, 128, 128), NULL, (extras){1, 0, save});
    check("layer.saved-all", d, shape(300, 2, 64, 1, 2, 128, 128), padded, (extras){1, 0, all});
}

int main(void) {
    gdn_context *context = gpu_context();
    if (!context)
        return 77;
    cuda = context;
    test_shapes(GDN_DTYPE_FP32);
    test_shapes(GDN_DTYPE_BF16);
    test_hooks();
    gdn_context_destroy(context);
    return harness_finish();
}
