/*
 * layer: what a layer takes on a GPU, at K = V = 128, Hk = 16; bench_parts times its parts.
 *
 *     bench_layer layer [T]...     forward and backward at D 1024, 2048, 4096 and Hv 16, 32, 64, and
 *                                  what their pieces take, milliseconds
 *
 * Every call is a CUDA graph, replayed back to back between two events; bf16.
 */
#include "../gpu/gpu.h"

#include "gdn_layer.h"

enum {
    HK = 16,
    DIM = 128,
    BLOCKS = 40,
    LEAST_REPEATS = 5,
    MOST_REPEATS = 50
};

typedef gdn_status (*bench_call)(void *what, gdn_stream stream);

static const gdn_context *context;
static void *blocks[BLOCKS];
static int block_count;

/* Device memory of random numbers of size `scale`, bf16 or fp32. */
static void *numbers(gdn_dtype dtype, int64_t count, double scale) {
    enum {
        DRAWN = 1 << 16
    };
    static double drawn[DRAWN];
    static char rounded[DRAWN * sizeof(float)];
    harness_random random = {(uint64_t)count};
    const size_t size = gdn_dtype_size(dtype);
    char *p;
    CUDA(cudaMalloc((void **)&p, (size_t)count * size + 256));
    for (int i = 0; i < DRAWN; ++i)
        drawn[i] = scale * harness_normal(&random);
    GDN(gdn_convert(dtype, rounded, GDN_DTYPE_FP64, drawn, DRAWN));
    int64_t done = count < DRAWN ? count : DRAWN;
    CUDA(cudaMemcpy(p, rounded, (size_t)done * size, cudaMemcpyHostToDevice));
    while (done < count) {
        const int64_t more = done < count - done ? done : count - done;
        CUDA(cudaMemcpy(p + (size_t)done * size, p, (size_t)more * size, cudaMemcpyDeviceToDevice));
        done += more;
    }
    return blocks[block_count++] = p;
}

static void *bf16s(int64_t count, double scale) {
    return numbers(GDN_DTYPE_BF16, count, scale);
}

static void *fp32s(int64_t count, double scale) {
    return numbers(GDN_DTYPE_FP32, count, scale);
}

static void release_all(void) {
    while (block_count > 0)
        CUDA(cudaFree(blocks[--block_count]));
}

/* Milliseconds of one call. */
static double time_of(bench_call call, void *what) {
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t begin, end;
    float ms = 0;
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CUDA(cudaEventCreate(&begin));
    CUDA(cudaEventCreate(&end));
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    GDN(call(what, (gdn_stream)stream));
    CUDA(cudaStreamEndCapture(stream, &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    int repeats = LEAST_REPEATS;
    for (int round = 0; round < 2; ++round) { /* the first one warms up and says how many fit */
        CUDA(cudaEventRecord(begin, stream));
        for (int i = 0; i < repeats; ++i)
            CUDA(cudaGraphLaunch(exec, stream));
        CUDA(cudaEventRecord(end, stream));
        CUDA(cudaStreamSynchronize(stream));
        CUDA(cudaEventElapsedTime(&ms, begin, end));
        ms /= (float)repeats;
        if (round == 0)
            repeats = ms * MOST_REPEATS < 60 ? MOST_REPEATS : LEAST_REPEATS;
    }
    CUDA(cudaGraphExecDestroy(exec));
    CUDA(cudaGraphDestroy(graph));
    CUDA(cudaEventDestroy(begin));
    CUDA(cudaEventDestroy(end));
    CUDA(cudaStreamDestroy(stream));
    return ms;
}

typedef struct layer_call {
    gdn_layer layer;
    gdn_layer_tensors tensors;
    gdn_layer_weights weights, dweights;
} layer_call;

static gdn_status layer_forward(void *what, gdn_stream stream) {
    const layer_call *c = what;
    return gdn_layer_forward(context, &c->layer, &c->tensors, stream);
}

static gdn_status layer_backward(void *what, gdn_stream stream) {
    const layer_call *c = what;
    return gdn_layer_backward(context, &c->layer, &c->tensors, stream);
}

/* An operator that does nothing: what is left is the rest of the layer. */
static gdn_status no_operator(void *user, const gdn_problem *problem, const gdn_tensors *tensors,
                              gdn_stream stream) {
    (void)user;
    (void)problem;
    (void)tensors;
    (void)stream;
    return GDN_STATUS_OK;
}

static void layer(int64_t T, int32_t D, int32_t Hv, uint32_t flags) {
    const int64_t HvV = (int64_t)Hv * DIM, C = 2 * HK * DIM + HvV;
    const double in = 1 / sqrt((double)D);
    gdn_sizes sizes = GDN_SIZES_INIT;
    layer_call c = {GDN_LAYER_INIT, GDN_LAYER_TENSORS_INIT, GDN_LAYER_WEIGHTS_INIT,
                    GDN_LAYER_WEIGHTS_INIT};
    gdn_layer_hooks without = GDN_LAYER_HOOKS_INIT;
    const int64_t counts[] = {C * D, HvV * D, (int64_t)Hv * D, (int64_t)Hv * D, 4 * C, Hv,
                              Hv,    DIM,     D * HvV};
    const double scales[] = {in, in, in, in, 0.5, 1, 1, 1, 1 / sqrt((double)HvV)};
    void **w = &c.weights.in_proj_qkv, **dw = &c.dweights.in_proj_qkv;
    without.forward = without.backward = no_operator;
    c.layer.dtype = GDN_DTYPE_BF16;
    c.layer.flags = flags;
    c.layer.T = T, c.layer.D = D, c.layer.Hk = HK, c.layer.Hv = Hv;
    GDN(gdn_layer_sizes(context, &c.layer, &sizes));
    for (int i = 0; i < 9; ++i) {
        w[i] = i == 5 || i == 6 ? fp32s(counts[i], scales[i]) : bf16s(counts[i], scales[i]);
        dw[i] = fp32s(counts[i], 1);
    }
    gdn_layer_tensors *t = &c.tensors;
    t->weights = &c.weights, t->dweights = &c.dweights;
    t->x = bf16s(T * D, 1), t->out = bf16s(T * D, 1), t->dout = bf16s(T * D, 1);
    t->dx = bf16s(T * D, 1);
    t->saved = bf16s((int64_t)sizes.saved / 2, 0);
    t->workspace_size = sizes.forward_workspace > sizes.backward_workspace
                            ? sizes.forward_workspace
                            : sizes.backward_workspace;
    t->workspace = bf16s((int64_t)t->workspace_size / 2, 0);
    const double forward = time_of(layer_forward, &c), backward = time_of(layer_backward, &c);
    t->hooks = &without;
    const double rest_forward = time_of(layer_forward, &c);
    const double rest_backward = time_of(layer_backward, &c);
    /* Of the maps: x W^T forward, twice as much backward. */
    const double flops = 2.0 * (double)T * (double)D * (double)(C + 2 * HvV + 2 * Hv);
    printf("layer%s T %6lld D %4d Hv %2d forward %8.3f ms (operator %7.3f) backward %8.3f ms "
           "(operator %7.3f), both %8.3f ms; maps %.2f Tflop, saved %.2f GB, workspace %.2f GB\n",
           flags ? " saving" : "", (long long)T, D, Hv, forward, forward - rest_forward, backward,
           backward - rest_backward, forward + backward, 3e-12 * flops, 1e-9 * (double)sizes.saved,
           1e-9 * (double)t->workspace_size);
    fflush(stdout);
    release_all();
}

int main(int argc, char **argv) {
    static const int64_t usual[] = {8192, 32768};
    if (argc < 2 || strcmp(argv[1], "layer") != 0) {
        fprintf(stderr, "usage: bench_layer layer [T]...\n");
        return 2;
    }
    context = gpu_context();
    if (!context)
        return 77;
    for (int i = 0; i < (argc > 2 ? argc - 2 : 2); ++i)
        for (int32_t Hv = 16; Hv <= 64; Hv *= 2)
            for (int32_t D = 1024; D <= 4096; D *= 2)
                layer(argc > 2 ? atoll(argv[2 + i]) : usual[i], D, Hv, 0);
    return 0;
}
