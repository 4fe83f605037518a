/* What every CUDA call promises: the same bits each time, nothing but enqueued work (so that a
 * graph can hold it), segments that fit together, refusals with a reason. */
#include "gpu.h"

static const int64_t packed[] = {0, 0, 1, 64, 64, 129, 193, 200};
static const int64_t other[] = {0, 100, 100, 101, 190, 190, 200, 200};

static const gpu_case mixed = {"rules", GDN_DTYPE_BF16, 200,       7, packed, 2, 4, 128,
                               128,     GATES_MIXED,    KEYS_UNIT, 1, 0,      0, 0};

static void run_both(gpu_run *r, const gdn_context *context, cudaStream_t stream) {
    GDN(gdn_forward(context, &r->problem, &r->tensors, stream));
    GDN(gdn_backward(context, &r->problem, &r->tensors, stream));
}

/* got of all outputs, in one block. */
static double *outputs(gpu_run *r, int64_t *count) {
    *count = 0;
    for (int i = GPU_O; i < GPU_COUNT; ++i)
        *count += r->x[i].rows * r->x[i].heads * r->x[i].dim;
    double *all = malloc(sizeof(double) * (size_t)*count), *at = all;
    CHECK(gpu_fetch(r), "%s", r->c.name);
    for (int i = GPU_O; i < GPU_COUNT; ++i) {
        const int64_t n = r->x[i].rows * r->x[i].heads * r->x[i].dim;
        memcpy(at, r->x[i].got, sizeof(double) * (size_t)n);
        at += n;
    }
    return all;
}

static void test_repeatable(const gdn_context *context, gdn_dtype dtype) {
    gpu_run r;
    gpu_case c = mixed;
    int64_t count, again;
    cudaStream_t streams[4];
    c.dtype = dtype;
    gpu_prepare(&r, context, &c);
    run_both(&r, context, NULL);
    double *first = outputs(&r, &count);
    for (int i = 0; i < 4; ++i)
        CUDA(cudaStreamCreateWithFlags(&streams[i], cudaStreamNonBlocking));
    for (int i = 0; i < 100; ++i) {
        gpu_poison(&r);
        CUDA(cudaDeviceSynchronize());
        run_both(&r, context, streams[i % 4]);
        double *next = outputs(&r, &again);
        CHECK(memcmp(first, next, sizeof(double) * (size_t)count) == 0,
              "%s: run %d gave other bits", gdn_dtype_name(dtype), i + 1);
        free(next);
    }
    for (int i = 0; i < 4; ++i)
        CUDA(cudaStreamDestroy(streams[i]));
    free(first);
    gpu_release(&r);
}

/* Two streams at once, each with memory of its own, give the bits of one alone. */
static void test_streams(const gdn_context *context) {
    gpu_run r[2];
    cudaStream_t stream[2];
    double *alone[2];
    int64_t count;
    for (int s = 0; s < 2; ++s) {
        gpu_case c = mixed;
        c.gates = s ? GATES_WEAK : GATES_MIXED;
        gpu_prepare(&r[s], context, &c);
        CUDA(cudaStreamCreateWithFlags(&stream[s], cudaStreamNonBlocking));
        run_both(&r[s], context, NULL);
        alone[s] = outputs(&r[s], &count);
        gpu_poison(&r[s]);
    }
    CUDA(cudaDeviceSynchronize());
    for (int i = 0; i < 50; ++i)
        for (int s = 0; s < 2; ++s)
            run_both(&r[s], context, stream[s]);
    for (int s = 0; s < 2; ++s) {
        double *together = outputs(&r[s], &count);
        CHECK(memcmp(alone[s], together, sizeof(double) * (size_t)count) == 0,
              "stream %d of two gave other bits", s);
        free(together);
        free(alone[s]);
        CUDA(cudaStreamDestroy(stream[s]));
        gpu_release(&r[s]);
    }
}

/* A capture fails on any allocation, synchronisation or copy to the host inside the calls. */
static void test_graph(const gdn_context *context) {
    gpu_run r;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    int64_t count;
    gpu_prepare(&r, context, &mixed);
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    run_both(&r, context, stream);
    CUDA(cudaStreamEndCapture(stream, &graph));
    CUDA(cudaGraphInstantiate(&executable, graph, 0));
    /* Again with other boundaries of the same tokens, which only the device knows. */
    for (int i = 0; i < 3; ++i) {
        const int64_t *cu = i == 1 ? other : packed;
        CUDA(cudaMemcpy(r.cu_device, cu, sizeof(packed), cudaMemcpyHostToDevice));
        gpu_poison(&r);
        CUDA(cudaDeviceSynchronize());
        CUDA(cudaGraphLaunch(executable, stream));
        CUDA(cudaStreamSynchronize(stream));
        double *replayed = outputs(&r, &count);
        gpu_poison(&r);
        run_both(&r, context, NULL);
        double *plain = outputs(&r, &count);
        CHECK(memcmp(plain, replayed, sizeof(double) * (size_t)count) == 0,
              "replay %d of the graph differs from a plain run", i);
        r.reference_tensors.cu_seqlens = cu;
        gpu_reference(&r);
        CHECK(gpu_check(&r, GPU_O, GPU_DS0), "%s", r.c.name);
        free(replayed);
        free(plain);
    }
    CUDA(cudaGraphExecDestroy(executable));
    CUDA(cudaGraphDestroy(graph));
    CUDA(cudaStreamDestroy(stream));
    gpu_release(&r);
}

typedef struct segment_memory {
    gpu_tensor x[5];
    gdn_segment device, host;
} segment_memory;

static void segment_allocate(segment_memory *m, const gpu_case *c) {
    static const char *const names[] = {"exit_state", "transfer", "log_decay", "decay_bound",
                                        "entry_gradient"};
    const gdn_segment init = GDN_SEGMENT_INIT;
    const int64_t dims[] = {c->K * c->V, c->K * c->K, 1, 1, c->K * c->V};
    memset(m, 0, sizeof(*m));
    m->device = m->host = init;
    void **device[] = {&m->device.exit_state, &m->device.transfer, &m->device.log_decay,
                       &m->device.decay_bound, &m->device.entry_gradient};
    void **host[] = {&m->host.exit_state, &m->host.transfer, &m->host.log_decay,
                     &m->host.decay_bound, &m->host.entry_gradient};
    for (int i = 0; i < 5; ++i) {
        gpu_tensor *x = &m->x[i];
        const size_t n = (size_t)(c->Hv * dims[i]);
        x->name = names[i];
        x->rows = 1;
        x->heads = c->Hv;
        x->dim = dims[i];
        x->host = calloc(n, sizeof(double));
        x->got = calloc(n, sizeof(double));
        CUDA(cudaMalloc((void **)&x->device, 4 * n));
        CUDA(cudaMemset(x->device, 0xff, 4 * n));
        *device[i] = x->device;
        *host[i] = x->host;
    }
}

static void test_segments(const gdn_context *context, gpu_case c) {
    gpu_run r;
    segment_memory m;
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_context *reference = NULL;
    void *block = NULL;
    gpu_prepare(&r, context, &c);
    segment_allocate(&m, &c);
    GDN(gdn_segment_forward(context, &r.problem, &r.tensors, &m.device, NULL));
    GDN(gdn_segment_backward(context, &r.problem, &r.tensors, &m.device, NULL));
    CUDA(cudaDeviceSynchronize());
    config.backend = GDN_BACKEND_REFERENCE;
    GDN(gdn_context_create(&reference, &config));
    GDN(gdn_problem_sizes(reference, &r.reference_problem, &sizes));
    if (posix_memalign(&block, 256, sizes.segment_workspace))
        exit(1);
    r.reference_tensors.workspace = block;
    r.reference_tensors.workspace_size = sizes.segment_workspace;
    GDN(gdn_segment_forward(reference, &r.reference_problem, &r.reference_tensors, &m.host, NULL));
    GDN(gdn_segment_backward(reference, &r.reference_problem, &r.reference_tensors, &m.host, NULL));
    printf("%-20s", c.name);
    for (int i = 0; i < 5; ++i) {
        gpu_tensor *x = &m.x[i];
        const int64_t n = x->heads * x->dim;
        float *got = malloc(4 * (size_t)n);
        int head = 0;
        /* Only exit_state and entry_gradient pass through 16-bit operands. */
        const int wide = i == 1 || i == 2 || i == 3;
        const double limit = wide ? 2e-5 : gpu_tolerance(c.dtype, i == 4 ? GPU_DS0 : GPU_ST);
        CUDA(cudaMemcpy(got, x->device, 4 * (size_t)n, cudaMemcpyDeviceToHost));
        for (int64_t j = 0; j < n; ++j)
            x->got[j] = got[j];
        const double error = gpu_error(x, &head);
        printf(" %s %.1e", x->name, error);
        CHECK(error <= limit, "%s: %s of head %d is off by %.2e, expected at most %.0e", c.name,
              x->name, head, error, limit);
        free(got);
        free(x->host);
        free(x->got);
        CUDA(cudaFree(x->device));
    }
    printf("\n");
    free(block);
    gdn_context_destroy(reference);
    gpu_release(&r);
}

static void test_refusals(const gdn_context *context) {
    gdn_problem p = GDN_PROBLEM_INIT;
    p.T = 64;
    p.K = 80;
    CHECK(gdn_problem_supported(context, &p) == GDN_STATUS_OK, "%s", gdn_last_error());
    p.K = 72;
    CHECK(gdn_problem_supported(context, &p) == GDN_STATUS_UNSUPPORTED &&
              strstr(gdn_last_error(), "K is 72"),
          "%s", gdn_last_error());
    p.K = 128;
    p.V = 8;
    CHECK(gdn_problem_supported(context, &p) == GDN_STATUS_UNSUPPORTED &&
              strstr(gdn_last_error(), "V is 8"),
          "%s", gdn_last_error());
    p.V = 128;
    p.dtype = GDN_DTYPE_FP64;
    CHECK(gdn_problem_supported(context, &p) == GDN_STATUS_UNSUPPORTED &&
              strstr(gdn_last_error(), "fp64"),
          "%s", gdn_last_error());
}

int main(void) {
    gdn_context *context = gpu_context();
    if (!context)
        return 77;
    test_refusals(context);
    test_repeatable(context, GDN_DTYPE_BF16);
    test_repeatable(context, GDN_DTYPE_FP32);
    test_streams(context);
    test_graph(context);
    gpu_case c = mixed;
    c.name = "segment.bf16";
    test_segments(context, c);
    c.name = "segment.fp32.K64";
    c.dtype = GDN_DTYPE_FP32;
    c.K = 64;
    test_segments(context, c);
    c.name = "segment.fp16.long";
    c.dtype = GDN_DTYPE_FP16;
    c.N = 1;
    c.cu = NULL;
    c.gates = GATES_NONE;
    c.keys = KEYS_LONG;
    c.T = 120;
    c.states = 0;
    test_segments(context, c);
    c.name = "segment.bf16.l2norm";
    c.dtype = GDN_DTYPE_BF16;
    c.T = 300;
    c.flags = GDN_FLAG_L2NORM_QK;
    test_segments(context, c);
    gdn_context_destroy(context);
    return harness_finish();
}
