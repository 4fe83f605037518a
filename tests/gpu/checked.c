/* GDN_FLAG_CHECKED on the CUDA backend: the same line as the reference backend gives on the same
 * data, and no access outside the tensors whatever cu_seqlens holds. */
#include "gpu.h"

enum {
    N = 7,
    T = 210
};
static const int64_t packed[N + 1] = {0, 0, 1, 64, 64, 129, 193, 200};

static const gpu_case mixed = {
    "checked", GDN_DTYPE_BF16,  T, N, packed, 2, 4, 128, 64, GATES_MIXED, KEYS_UNIT, 1, 0,
    0,         GDN_FLAG_CHECKED};

typedef gdn_status (*operator_call)(const gdn_context *, const gdn_problem *, const gdn_tensors *,
                                    gdn_stream);

/* What the reference says of a call; "" if nothing. */
static void reference_line(gpu_run *r, operator_call call, char line[256]) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_context *context = NULL;
    gdn_problem p = r->reference_problem;
    void *block = NULL;
    p.flags |= GDN_FLAG_CHECKED;
    config.backend = GDN_BACKEND_REFERENCE;
    GDN(gdn_context_create(&context, &config));
    GDN(gdn_problem_sizes(context, &p, &sizes));
    if (posix_memalign(&block, 256, sizes.forward_workspace + sizes.backward_workspace + 256))
        exit(1);
    r->reference_tensors.workspace = block;
    r->reference_tensors.workspace_size = sizes.forward_workspace + sizes.backward_workspace;
    const gdn_status status = call(context, &p, &r->reference_tensors, NULL);
    snprintf(line, 256, "%s", status == GDN_STATUS_OK ? "" : gdn_last_error());
    CHECK(status == GDN_STATUS_OK || status == GDN_STATUS_BAD_DATA, "%s", line);
    free(block);
    gdn_context_destroy(context);
}

/* One call on the device; its report is what the reference says. */
static void check_line(gpu_run *r, const gdn_context *context, operator_call call,
                       const char *what) {
    char line[256];
    reference_line(r, call, line);
    CUDA(cudaMemset(r->checked_report, 0xff, r->sizes.checked_report));
    GDN(call(context, &r->problem, &r->tensors, NULL));
    const gdn_status status = gdn_checked_status(context, &r->problem, &r->tensors, NULL);
    CHECK(status == (*line ? GDN_STATUS_BAD_DATA : GDN_STATUS_OK), "%s: status %d, %s", what,
          (int)status, gdn_last_error());
    if (*line)
        CHECK(!strcmp(gdn_last_error(), line), "%s:\n  got  %s\n  want %s", what, gdn_last_error(),
              line);
}

/* One bad element a time, then several. */
static void test_values(const gdn_context *context, gpu_case c) {
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    gpu_run r;
    harness_random random = {5};
    gpu_prepare(&r, context, &c);
    check_line(&r, context, gdn_forward, "good data");
    check_line(&r, context, gdn_backward, "good data");
    for (int i = GPU_Q; i < GPU_O; ++i)
        for (int j = 0; j < 4; ++j) {
            gpu_tensor *x = &r.x[i];
            const int64_t count = x->rows * x->heads * x->dim;
            const int64_t last = count - 1,
                          at = j == 0   ? 0
                               : j == 1 ? last
                                        : (int64_t)(harness_next(&random) % (uint64_t)count);
            const double was = x->host[at];
            x->host[at] = i == GPU_G && j == 2 ? 0x1p-20 : bad[j % 3];
            gpu_upload(&r);
            check_line(&r, context, j % 2 ? gdn_backward : gdn_forward, x->name);
            x->host[at] = was;
        }
    for (int j = 0; j < 50; ++j) {
        gpu_tensor *x = &r.x[harness_next(&random) % GPU_O];
        const int64_t count = x->rows * x->heads * x->dim;
        x->host[(int64_t)(harness_next(&random) % (uint64_t)count)] = bad[j % 3];
    }
    for (int i = GPU_O - 1; i >= GPU_Q; --i) {
        gpu_upload(&r);
        check_line(&r, context, gdn_backward, "many bad values");
    }
    CHECK(gpu_fetch(&r), "%s", c.name);
    gpu_release(&r);
}

/* Every call with bad boundaries: reported, and the canaries live. */
static void test_boundaries(const gdn_context *context, gpu_case c) {
    static const int64_t bad[][N + 1] = {
        {1, 1, 1, 64, 64, 129, 193, 200},
        {-5, 0, 1, 64, 64, 129, 193, 200},
        {0, 0, 1, 64, 63, 129, 193, 200},
        {0, 0, 1, 64, 64, 129, 193, T + 1},
        {0, T, 0, T, 0, T, 0, T},
        {0, T, -T, 3 * T, 0, T, 5, T},
        {T, T, T, T, T, T, T, 0},
        {0, 0, 0, 0, 0, 0, 0, INT64_MAX},
        {INT64_MIN, 0, 0, 0, 0, 0, 0, INT64_MIN},
        {0, INT64_MAX, INT64_MIN, 7, INT64_MAX, 1, INT64_MIN, 200}};
    const size_t state = sizeof(float) * (size_t)(c.Hv * c.K) * (size_t)(c.K > c.V ? c.K : c.V);
    gdn_segment segment = GDN_SEGMENT_INIT;
    gpu_run r;
    gpu_prepare(&r, context, &c);
    CUDA(cudaMalloc(&segment.exit_state, state));
    CUDA(cudaMalloc(&segment.transfer, state));
    CUDA(cudaMalloc(&segment.entry_gradient, state));
    CUDA(cudaMalloc(&segment.log_decay, state));
    CUDA(cudaMalloc(&segment.decay_bound, state));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); ++i) {
        char what[32];
        snprintf(what, sizeof(what), "boundaries %d", (int)i);
        r.reference_tensors.cu_seqlens = bad[i];
        CUDA(cudaMemcpy(r.cu_device, bad[i], sizeof(bad[i]), cudaMemcpyHostToDevice));
        check_line(&r, context, gdn_forward, what);
        check_line(&r, context, gdn_backward, what);
        GDN(gdn_segment_forward(context, &r.problem, &r.tensors, &segment, NULL));
        CHECK(gdn_checked_status(context, &r.problem, &r.tensors, NULL) == GDN_STATUS_BAD_DATA &&
                  !strncmp(gdn_last_error(), "gdn_segment_forward: cu_seqlens[", 32),
              "%s: %s", what, gdn_last_error());
        GDN(gdn_segment_backward(context, &r.problem, &r.tensors, &segment, NULL));
        CHECK(gdn_checked_status(context, &r.problem, &r.tensors, NULL) == GDN_STATUS_BAD_DATA &&
                  !strncmp(gdn_last_error(), "gdn_segment_backward: cu_seqlens[", 33),
              "%s: %s", what, gdn_last_error());
        CHECK(gpu_fetch(&r), "%s", what);
    }
    CUDA(cudaFree(segment.exit_state));
    CUDA(cudaFree(segment.transfer));
    CUDA(cudaFree(segment.entry_gradient));
    CUDA(cudaFree(segment.log_decay));
    CUDA(cudaFree(segment.decay_bound));
    gpu_release(&r);
}

/* A captured call writes its report at every replay. */
static void test_graph(const gdn_context *context) {
    gpu_run r;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    gpu_prepare(&r, context, &mixed);
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    GDN(gdn_forward(context, &r.problem, &r.tensors, stream));
    CUDA(cudaStreamEndCapture(stream, &graph));
    CUDA(cudaGraphInstantiate(&executable, graph, 0));
    double *v = &r.x[GPU_V].host[17];
    const double was = *v;
    for (int i = 0; i < 4; ++i) {
        *v = i % 2 ? NAN : was;
        gpu_upload(&r);
        CUDA(cudaDeviceSynchronize());
        CUDA(cudaGraphLaunch(executable, stream));
        const gdn_status status = gdn_checked_status(context, &r.problem, &r.tensors, stream);
        CHECK(status == (i % 2 ? GDN_STATUS_BAD_DATA : GDN_STATUS_OK), "replay %d: %s", i,
              gdn_last_error());
    }
    CUDA(cudaGraphExecDestroy(executable));
    CUDA(cudaGraphDestroy(graph));
    CUDA(cudaStreamDestroy(stream));
    gpu_release(&r);
}

static void test_refusals(const gdn_context *context) {
    gpu_run r;
    gpu_prepare(&r, context, &mixed);
    CUDA(cudaMemset(r.checked_report, 0, r.sizes.checked_report));
    CHECK(gdn_checked_status(context, &r.problem, &r.tensors, NULL) ==
                  GDN_STATUS_INVALID_ARGUMENT &&
              strstr(gdn_last_error(), "holds no report"),
          "%s", gdn_last_error());
    r.tensors.checked_report = r.checked_report + 4;
    CHECK(gdn_forward(context, &r.problem, &r.tensors, NULL) == GDN_STATUS_INVALID_ARGUMENT &&
              strstr(gdn_last_error(), "expected a multiple of 8"),
          "%s", gdn_last_error());
    r.tensors.checked_report = NULL;
    CHECK(gdn_forward(context, &r.problem, &r.tensors, NULL) == GDN_STATUS_INVALID_ARGUMENT &&
              strstr(gdn_last_error(), "checked_report is NULL"),
          "%s", gdn_last_error());
    r.problem.flags = 0;
    CHECK(gdn_checked_status(context, &r.problem, &r.tensors, NULL) ==
                  GDN_STATUS_INVALID_ARGUMENT &&
              strstr(gdn_last_error(), "GDN_FLAG_CHECKED"),
          "%s", gdn_last_error());
    GDN(gdn_forward(context, &r.problem, &r.tensors, NULL));
    CUDA(cudaDeviceSynchronize());
    gpu_release(&r);
}

int main(void) {
    gdn_context *context = gpu_context();
    if (!context)
        return 77;
    gpu_case c = mixed;
    test_refusals(context);
    test_graph(context);
    test_values(context, c);
    c.strided = 3;
    c.dtype = GDN_DTYPE_FP16;
    c.name = "checked.fp16.strided";
    test_values(context, c);
    c.strided = 8;
    c.dtype = GDN_DTYPE_FP32;
    c.name = "checked.fp32.strided";
    test_values(context, c);
    c = mixed;
    test_boundaries(context, c);
    c.name = "checked.l2norm.saved";
    c.flags |= GDN_FLAG_L2NORM_QK | GDN_FLAG_SAVE_STATES | GDN_FLAG_SAVE_INVERSE;
    test_boundaries(context, c);
    gdn_context_destroy(context);
    return harness_finish();
}
