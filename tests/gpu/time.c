/* Times of the operator on the CUDA backend, one graph a call, as the published table has them:
 * time PASS HK HV LENGTH[+LENGTH...] [PASS HK HV LENGTHS ...]. Inputs as described there. */
#include "gpu.h"

static int compare(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void *filled(size_t count, gdn_dtype dtype, const float *values) {
    const size_t size = gdn_dtype_size(dtype);
    void *host = malloc(count * size), *device;
    GDN(gdn_convert(dtype, host, GDN_DTYPE_FP32, values, (int64_t)count));
    CUDA(cudaMalloc(&device, count * size));
    CUDA(cudaMemcpy(device, host, count * size, cudaMemcpyHostToDevice));
    free(host);
    return device;
}

static float *normals(size_t count, harness_random *random, float scale) {
    float *x = malloc(count * sizeof(*x));
    /* A long random block, repeated: drawing all would take longer than the measurement. */
    const size_t block = count < 1000003 ? count : 1000003;
    for (size_t i = 0; i < count; ++i)
        x[i] = i < block ? scale * (float)harness_normal(random) : x[i - block];
    return x;
}

static void *room(size_t bytes) {
    void *p;
    CUDA(cudaMalloc(&p, bytes));
    return p;
}

static void time_row(const gdn_context *context, int backward, int Hk, int Hv, const char *text) {
    int64_t cu[256] = {0};
    int N = 0;
    for (const char *p = text; p; p = strchr(p, '+') ? strchr(p, '+') + 1 : NULL, ++N)
        cu[N + 1] = cu[N] + atoll(p);
    const size_t T = (size_t)cu[N], d = 128, hk = (size_t)Hk, hv = (size_t)Hv;
    harness_random random = {7};
    gdn_problem p = GDN_PROBLEM_INIT;
    gdn_tensors t = GDN_TENSORS_INIT;
    gdn_sizes sizes = GDN_SIZES_INIT;
    p.dtype = GDN_DTYPE_BF16;
    p.T = (int64_t)T;
    p.N = N;
    p.Hk = Hk;
    p.Hv = Hv;
    if (backward)
        p.flags = GDN_FLAG_SAVE_INVERSE; /* the published backward gets the inverse */
    float *q = normals(T * hk * d, &random, 1), *k = normals(T * hk * d, &random, 1);
    float *v = normals(T * hv * d, &random, 1), *o = normals(T * hv * d, &random, 1);
    float *g = normals(T * hv, &random, 1), *beta = normals(T * hv, &random, 1);
    float *s = normals((size_t)N * hv * d * d, &random, 1);
    for (size_t row = 0; row < T * hk; ++row) {
        float a = 0, b = 0;
        for (size_t i = 0; i < d; ++i) {
            a += q[row * d + i] * q[row * d + i];
            b += k[row * d + i] * k[row * d + i];
        }
        for (size_t i = 0; i < d; ++i) {
            q[row * d + i] /= sqrtf(a);
            k[row * d + i] /= sqrtf(b);
        }
    }
    for (size_t i = 0; i < T * hv; ++i) {
        g[i] = i % hv % 4 == 3 ? 0.0f : -log1pf(expf(-g[i])) / 16;
        beta[i] = 1 / (1 + expf(-beta[i]));
    }
    t.q = filled(T * hk * d, p.dtype, q);
    t.k = filled(T * hk * d, p.dtype, k);
    t.v = filled(T * hv * d, p.dtype, v);
    t.do_ = filled(T * hv * d, p.dtype, o);
    t.g = filled(T * hv, GDN_DTYPE_FP32, g);
    t.beta = filled(T * hv, GDN_DTYPE_FP32, beta);
    t.initial_state = filled((size_t)N * hv * d * d, GDN_DTYPE_FP32, s);
    t.dht = filled((size_t)N * hv * d * d, GDN_DTYPE_FP32, s);
    t.o = room(T * hv * d * 2);
    t.dv = room(T * hv * d * 2);
    t.dq = room(T * hk * d * 2);
    t.dk = room(T * hk * d * 2);
    t.dg = room(T * hv * 4);
    t.dbeta = room(T * hv * 4);
    t.final_state = room((size_t)N * hv * d * d * 4);
    t.dh0 = room((size_t)N * hv * d * d * 4);
    int64_t *cu_device = room(sizeof(cu));
    CUDA(cudaMemcpy(cu_device, cu, sizeof(cu), cudaMemcpyHostToDevice));
    t.cu_seqlens = cu_device;
    GDN(gdn_problem_sizes(context, &p, &sizes));
    t.workspace_size = sizes.backward_workspace;
    t.workspace = room(t.workspace_size);
    t.saved = sizes.saved ? room(sizes.saved) : NULL;
    free(q), free(k), free(v), free(o), free(g), free(beta), free(s);

    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    cudaEvent_t start, stop;
    float ms[30];
    CUDA(cudaStreamCreate(&stream));
    CUDA(cudaEventCreate(&start));
    CUDA(cudaEventCreate(&stop));
    GDN(gdn_forward(context, &p, &t, stream));
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    if (backward)
        GDN(gdn_backward(context, &p, &t, stream));
    else
        GDN(gdn_forward(context, &p, &t, stream));
    CUDA(cudaStreamEndCapture(stream, &graph));
    CUDA(cudaGraphInstantiate(&executable, graph, 0));
    for (int i = -5; i < 30; ++i) {
        CUDA(cudaEventRecord(start, stream));
        CUDA(cudaGraphLaunch(executable, stream));
        CUDA(cudaEventRecord(stop, stream));
        CUDA(cudaEventSynchronize(stop));
        if (i >= 0)
            CUDA(cudaEventElapsedTime(&ms[i], start, stop));
    }
    qsort(ms, 30, sizeof(ms[0]), compare);
    printf("%s,%d,%d,%s,%.3f,%.3f,%.3f,%zu\n", backward ? "bwd" : "fwd", Hk, Hv, text, ms[15],
           ms[0], ms[29], backward ? sizes.backward_workspace : sizes.forward_workspace);
    fflush(stdout);
    const void *all[] = {
        t.q,           t.k,   t.v,       t.do_,       t.g,    t.beta, t.initial_state,
        t.dht,         t.o,   t.dv,      t.dq,        t.dk,   t.dg,   t.dbeta,
        t.final_state, t.dh0, cu_device, t.workspace, t.saved};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); ++i)
        CUDA(cudaFree((void *)all[i]));
    CUDA(cudaGraphExecDestroy(executable));
    CUDA(cudaGraphDestroy(graph));
    CUDA(cudaStreamDestroy(stream));
}

int main(int argc, char **argv) {
    gdn_context *context = gpu_context();
    if (!context)
        return 77;
    printf("pass,h_k,h_v,lengths,ms,min_ms,max_ms,workspace_bytes\n");
    for (int i = 1; i + 3 < argc; i += 4)
        time_row(context, argv[i][0] == 'b', atoi(argv[i + 1]), atoi(argv[i + 2]), argv[i + 3]);
    gdn_context_destroy(context);
    return 0;
}
