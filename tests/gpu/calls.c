/*
 * What compute calls ask of the CUDA driver, counted by CUPTI: they launch kernels and set memory
 * on the caller's stream, and neither allocate, nor wait, nor copy to the host.
 */
#include "gdn_model.h"
#include "gpu.h"

#include <cupti.h>

enum {
    NAMES = 64
};
static struct {
    const char *name;
    int count;
} seen[NAMES];
static int counting, kinds;

#define CUPTI(call)                                                                                \
    do {                                                                                           \
        const CUptiResult result_ = (call);                                                        \
        if (result_ != CUPTI_SUCCESS) {                                                            \
            const char *text_ = "";                                                                \
            cuptiGetResultString(result_, &text_);                                                 \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, text_);                  \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static void CUPTIAPI on_call(void *user, CUpti_CallbackDomain domain, CUpti_CallbackId id,
                             const void *parameters) {
    const CUpti_CallbackData *data = parameters;
    (void)user, (void)id;
    if (!counting || domain != CUPTI_CB_DOMAIN_DRIVER_API || data->callbackSite != CUPTI_API_ENTER)
        return;
    for (int i = 0; i < kinds; ++i)
        if (!strcmp(seen[i].name, data->functionName)) {
            ++seen[i].count;
            return;
        }
    if (kinds < NAMES) {
        seen[kinds].name = data->functionName;
        seen[kinds++].count = 1;
    }
}

static void begin(void) {
    kinds = 0;
    counting = 1;
}

static int starts(const char *name, const char *with) {
    return !strncmp(name, with, strlen(with));
}

/* Whether a call enqueues work or asks what the host knows. Everything else counts as forbidden. */
static int allowed(const char *name) {
    static const char *const good[] = {"cuLaunchKernel",
                                       "cuMemsetD",
                                       "cuFuncSetAttribute",
                                       "cuFuncGet",
                                       "cuKernel",
                                       "cuCtxGet",
                                       "cuCtxPushCurrent",
                                       "cuCtxPop",
                                       "cuCtxSetCurrent",
                                       "cuDeviceGet",
                                       "cuStreamGet",
                                       "cuStreamIsCapturing",
                                       "cuThreadExchangeStreamCaptureMode",
                                       "cuTensorMapEncode",
                                       "cuGetErrorString",
                                       "cuGetErrorName",
                                       "cuOccupancy"};
    if (starts(name, "cuMemset") && !strstr(name, "Async"))
        return 0;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); ++i)
        if (starts(name, good[i]))
            return 1;
    return 0;
}

static int end(const char *what, int *launches) {
    int forbidden = 0;
    counting = 0;
    *launches = 0;
    printf("%s:", what);
    for (int i = 0; i < kinds; ++i) {
        printf(" %s %d", seen[i].name, seen[i].count);
        *launches += starts(seen[i].name, "cuLaunchKernel") ? seen[i].count : 0;
        forbidden += allowed(seen[i].name) ? 0 : seen[i].count;
    }
    printf("\n");
    return forbidden;
}

/* The counter sees what it is there for. */
static void test_counter(void) {
    void *memory, *host = malloc(16);
    int launches;
    begin();
    CUDA(cudaMalloc(&memory, 16));
    CHECK(end("cudaMalloc", &launches) > 0, "an allocation was not seen");
    begin();
    CUDA(cudaMemcpy(host, memory, 16, cudaMemcpyDeviceToHost));
    CHECK(end("cudaMemcpy", &launches) > 0, "a copy was not seen");
    begin();
    CUDA(cudaStreamSynchronize(NULL));
    CHECK(end("cudaStreamSynchronize", &launches) > 0, "a synchronisation was not seen");
    begin();
    CUDA(cudaDeviceSynchronize());
    CHECK(end("cudaDeviceSynchronize", &launches) > 0, "a synchronisation was not seen");
    begin();
    CUDA(cudaFree(memory));
    CHECK(end("cudaFree", &launches) > 0, "a release was not seen");
    free(host);
}

/* Each call twice: the first may load kernels, once a process; the second counts. */
static void test_calls(const gdn_context *context, gpu_case c) {
    const size_t state = sizeof(float) * (size_t)(c.Hv * c.K) * (size_t)(c.K > c.V ? c.K : c.V);
    gdn_segment s = GDN_SEGMENT_INIT;
    gpu_run r;
    int launches;
    gpu_prepare(&r, context, &c);
    CUDA(cudaMalloc(&s.exit_state, state));
    CUDA(cudaMalloc(&s.transfer, state));
    CUDA(cudaMalloc(&s.entry_gradient, state));
    CUDA(cudaMalloc(&s.log_decay, state));
    CUDA(cudaMalloc(&s.decay_bound, state));
    for (int warm = 1; warm >= 0; --warm)
        for (int call = 0; call < 4; ++call) {
            char what[96];
            size_t before, after, total;
            CUDA(cudaDeviceSynchronize());
            CUDA(cudaMemGetInfo(&before, &total));
            begin();
            if (call == 0)
                GDN(gdn_forward(context, &r.problem, &r.tensors, NULL));
            else if (call == 1)
                GDN(gdn_backward(context, &r.problem, &r.tensors, NULL));
            else if (call == 2)
                GDN(gdn_segment_forward(context, &r.problem, &r.tensors, &s, NULL));
            else
                GDN(gdn_segment_backward(context, &r.problem, &r.tensors, &s, NULL));
            snprintf(what, sizeof(what), "%s call %d%s", c.name, call, warm ? " first time" : "");
            const int forbidden = end(what, &launches);
            CUDA(cudaDeviceSynchronize());
            CUDA(cudaMemGetInfo(&after, &total));
            if (warm)
                continue;
            CHECK(forbidden == 0, "%s: %d calls that may wait, copy or allocate", what, forbidden);
            CHECK(launches > 0, "%s launched nothing", what);
            CHECK(before == after, "%s: %zu bytes free before, %zu after", what, before, after);
        }
    CUDA(cudaFree(s.exit_state));
    CUDA(cudaFree(s.transfer));
    CUDA(cudaFree(s.entry_gradient));
    CUDA(cudaFree(s.log_decay));
    CUDA(cudaFree(s.decay_bound));
    gpu_release(&r);
}

/* The parts of a model that go through other libraries, in the same way. */
static void test_parts(const gdn_context *context) {
    enum {
        T = 300,
        D = 64,
        VOCAB = 500
    };
    char *memory;
    size_t linear_bytes, embedding_bytes, cross_entropy_bytes;
    gdn_linear linear = {
        .size = sizeof(linear), .dtype = GDN_DTYPE_BF16, .T = T, .in = D, .out = VOCAB};
    gdn_embedding embedding = {
        .size = sizeof(embedding), .dtype = GDN_DTYPE_BF16, .T = T, .vocab = VOCAB, .D = D};
    gdn_cross_entropy cross_entropy = {
        .size = sizeof(cross_entropy), .dtype = GDN_DTYPE_BF16, .T = T, .D = D, .vocab = VOCAB};
    GDN(gdn_linear_workspace(context, &linear, &linear_bytes));
    GDN(gdn_embedding_workspace(context, &embedding, &embedding_bytes));
    GDN(gdn_cross_entropy_workspace(context, &cross_entropy, &cross_entropy_bytes));
    const size_t most = linear_bytes + embedding_bytes + cross_entropy_bytes, block = 1 << 20;
    CUDA(cudaMalloc((void **)&memory, most + 8 * block));
    CUDA(cudaMemset(memory, 0, most + 8 * block)); /* tokens and targets too */
    char *const workspace = memory + 8 * block;
    linear.x = memory;
    linear.weight = memory + block;
    linear.dy = memory + 2 * block;
    linear.dx = memory + 3 * block;
    linear.dweight = memory + 4 * block;
    linear.workspace = embedding.workspace = cross_entropy.workspace = workspace;
    linear.workspace_size = embedding.workspace_size = cross_entropy.workspace_size = most;
    embedding.tokens = cross_entropy.targets = (int32_t *)(memory + 5 * block);
    embedding.dy = cross_entropy.x = memory;
    cross_entropy.weight = memory + block;
    cross_entropy.dx = memory + 3 * block;
    embedding.dweight = cross_entropy.dweight = memory + 4 * block;
    cross_entropy.loss = (double *)(memory + 6 * block);
    for (int warm = 1; warm >= 0; --warm)
        for (int call = 0; call < 3; ++call) {
            static const char *const names[] = {"linear", "embedding", "cross_entropy"};
            size_t before, after, total;
            int launches;
            CUDA(cudaDeviceSynchronize());
            CUDA(cudaMemGetInfo(&before, &total));
            begin();
            if (call == 0)
                GDN(gdn_linear_backward(context, &linear, NULL));
            else if (call == 1)
                GDN(gdn_embedding_backward(context, &embedding, NULL));
            else
                GDN(gdn_cross_entropy_compute(context, &cross_entropy, NULL));
            const int forbidden = end(names[call], &launches);
            CUDA(cudaDeviceSynchronize());
            CUDA(cudaMemGetInfo(&after, &total));
            if (warm)
                continue;
            CHECK(forbidden == 0, "%s: %d calls that may wait, copy or allocate", names[call],
                  forbidden);
            CHECK(launches > 0, "%s launched nothing", names[call]);
            CHECK(before == after, "%s: %zu bytes free before, %zu after", names[call], before,
                  after);
        }
    CUDA(cudaFree(memory));
}

int main(void) {
    static const int64_t packed[] = {0, 0, 1, 64, 64, 129, 193, 200};
    gpu_case c = {"bf16", GDN_DTYPE_BF16, 210,       7, packed, 2, 4, 128,
                  128,    GATES_MIXED,    KEYS_UNIT, 1, 0,      0, 0};
    CUpti_SubscriberHandle subscriber;
    gdn_context *context = gpu_context();
    if (!context)
        return 77;
    CUPTI(cuptiSubscribe(&subscriber, (CUpti_CallbackFunc)on_call, NULL));
    CUPTI(cuptiEnableDomain(1, subscriber, CUPTI_CB_DOMAIN_DRIVER_API));
    test_counter();
    test_calls(context, c);
    c.name = "bf16 checked, saved, l2norm, host";
    c.flags = GDN_FLAG_CHECKED | GDN_FLAG_SAVE_STATES | GDN_FLAG_SAVE_INVERSE | GDN_FLAG_L2NORM_QK |
              GDN_FLAG_CU_SEQLENS_HOST;
    test_calls(context, c);
    c.name = "fp32 exact K256";
    c.dtype = GDN_DTYPE_FP32;
    c.K = 256;
    c.flags = GDN_FLAG_EXACT;
    test_calls(context, c);
    test_parts(context);
    CUPTI(cuptiUnsubscribe(subscriber));
    gdn_context_destroy(context);
    return harness_finish();
}
