#include "gpu.h"

enum {
    CANARY = 256,
    POISON = 0xff, /* NaN in every dtype */
    CANARY_BYTE = 0x5a
};

gdn_context *gpu_context(void) {
    return gpu_context_of(GDN_KERNELS_AUTO);
}

gdn_context *gpu_context_of(gdn_kernels kernels) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context = NULL;
    config.backend = GDN_BACKEND_CUDA;
    config.kernels = kernels;
    if (gdn_context_create(&context, &config) != GDN_STATUS_OK) {
        printf("skipped: %s\n", gdn_last_error());
        return NULL;
    }
    return context;
}

/* Device memory of size bytes between two canaries. */
static char *allocate(size_t size) {
    char *p;
    CUDA(cudaMalloc((void **)&p, size + 2 * CANARY));
    CUDA(cudaMemset(p, CANARY_BYTE, size + 2 * CANARY));
    return p + CANARY;
}

static int check_canaries(const gpu_run *r, const char *name, const char *p, size_t size) {
    unsigned char edge[2 * CANARY];
    int intact = 1;
    if (!p)
        return 1;
    CUDA(cudaMemcpy(edge, p - CANARY, CANARY, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(edge + CANARY, p + size, CANARY, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 2 * CANARY; ++i)
        intact &= edge[i] == CANARY_BYTE;
    if (!intact)
        fprintf(stderr, "%s: memory beside %s was written\n", r->c.name, name);
    return intact;
}

static double softplus(double x) {
    return x > 30 ? x : log1p(exp(x));
}

static double draw_gate(const gpu_case *c, harness_random *random, int64_t t, int64_t h) {
    const double g = -softplus(harness_normal(random));
    const double A = c->Hv > 1 ? 0.001 * pow(16000.0, (double)h / (double)(c->Hv - 1)) : 16.0;
    switch (c->gates) {
    case GATES_NORMAL:
        return g;
    case GATES_NONE:
        return 0.0;
    case GATES_WEAK:
        return 0.002 * g;
    case GATES_MIXED:
        return A * g;
    case GATES_STRONG:
        return 16.0 * g;
    case GATES_SATURATING:
        return t % 10 == 7 ? -5000.0 : 0.05 * g;
    }
    return g;
}

static void draw_keys(const gpu_case *c, harness_random *random, gpu_tensor *x, int correlated) {
    double *direction = malloc(sizeof(double) * (size_t)x->dim);
    for (int64_t i = 0; i < x->dim; ++i)
        direction[i] = harness_normal(random);
    for (int64_t row = 0; row < x->rows * x->heads; ++row) {
        double sum = 0.0, *y = x->host + row * x->dim;
        for (int64_t i = 0; i < x->dim; ++i) {
            y[i] = harness_normal(random);
            if (correlated)
                y[i] = direction[i] + 0.2 * y[i];
            sum += y[i] * y[i];
        }
        const double scale = c->flags & GDN_FLAG_L2NORM_QK ? 3.0
                             : c->keys == KEYS_LONG        ? sqrt(2.0)
                                                           : 1.0;
        for (int64_t i = 0; i < x->dim; ++i)
            y[i] *= scale / sqrt(sum);
    }
    free(direction);
}

static void draw(gpu_run *r, harness_random *random, gpu_name name) {
    const gpu_case *c = &r->c;
    gpu_tensor *x = &r->x[name];
    const int64_t count = x->rows * x->heads * x->dim;
    if (name == GPU_Q || name == GPU_K) {
        draw_keys(c, random, x, name == GPU_K && c->keys == KEYS_CORRELATED);
        return;
    }
    for (int64_t i = 0; i < count; ++i) {
        const int64_t t = i / x->heads;
        if (name == GPU_G)
            x->host[i] = draw_gate(c, random, t, i % x->heads);
        else if (name == GPU_BETA)
            x->host[i] = c->beta_edges && t % 3 == 0   ? 0.0
                         : c->beta_edges && t % 3 == 1 ? 1.0
                         : c->keys == KEYS_LONG        ? 0.95
                                                       : 1.0 / (1.0 + exp(-harness_normal(random)));
        else
            x->host[i] = harness_normal(random) * (name == GPU_DHT ? 0.125 : 1.0);
    }
}

static void describe(gpu_run *r, gpu_name name, const char *text, gdn_dtype dtype, int64_t rows,
                     int64_t heads, int64_t dim, int pad) {
    gpu_tensor *x = &r->x[name];
    x->name = text;
    x->dtype = dtype;
    x->rows = rows;
    x->heads = heads;
    x->dim = dim;
    x->strides.head = dim + pad;
    x->strides.token = heads * x->strides.head + 2 * pad;
    x->bytes = (size_t)(rows * x->strides.token) * gdn_dtype_size(dtype);
    x->host = calloc((size_t)(rows * heads * dim + 1), sizeof(double));
    x->got = calloc((size_t)(rows * heads * dim + 1), sizeof(double));
    x->device = allocate(x->bytes);
}

/* Rounds the host values to the device's dtype and copies them there. */
static void upload(gpu_tensor *x) {
    const size_t size = gdn_dtype_size(x->dtype);
    const int64_t n = x->rows * x->heads * x->dim;
    char *dense = malloc((size_t)n * size + 1), *strided = malloc(x->bytes + 1);
    GDN(gdn_convert(x->dtype, dense, GDN_DTYPE_FP64, x->host, n));
    GDN(gdn_convert(GDN_DTYPE_FP64, x->host, x->dtype, dense, n));
    memset(strided, POISON, x->bytes);
    for (int64_t row = 0; row < x->rows; ++row)
        for (int64_t h = 0; h < x->heads; ++h)
            memcpy(strided + (size_t)(row * x->strides.token + h * x->strides.head) * size,
                   dense + (size_t)((row * x->heads + h) * x->dim) * size, (size_t)x->dim * size);
    CUDA(cudaMemcpy(x->device, strided, x->bytes, cudaMemcpyHostToDevice));
    free(dense);
    free(strided);
}

static void download(gpu_tensor *x) {
    const size_t size = gdn_dtype_size(x->dtype);
    char *strided = malloc(x->bytes + 1);
    CUDA(cudaMemcpy(strided, x->device, x->bytes, cudaMemcpyDeviceToHost));
    for (int64_t row = 0; row < x->rows; ++row)
        for (int64_t h = 0; h < x->heads; ++h)
            GDN(gdn_convert(GDN_DTYPE_FP64, x->got + (row * x->heads + h) * x->dim, x->dtype,
                            strided + (size_t)(row * x->strides.token + h * x->strides.head) * size,
                            x->dim));
    free(strided);
}

static void set_tensors(gdn_tensors *t, void *const *p, const int64_t *cu) {
    const gdn_tensors init = GDN_TENSORS_INIT;
    *t = init;
    t->q = p[GPU_Q];
    t->k = p[GPU_K];
    t->v = p[GPU_V];
    t->do_ = p[GPU_DO];
    t->g = p[GPU_G];
    t->beta = p[GPU_BETA];
    t->initial_state = p[GPU_S0];
    t->dht = p[GPU_DHT];
    t->o = p[GPU_O];
    t->final_state = p[GPU_ST];
    t->dq = p[GPU_DQ];
    t->dk = p[GPU_DK];
    t->dv = p[GPU_DV];
    t->dg = p[GPU_DG];
    t->dbeta = p[GPU_DBETA];
    t->dh0 = p[GPU_DS0];
    t->cu_seqlens = cu;
}

void gpu_prepare(gpu_run *r, const gdn_context *context, const gpu_case *c) {
    const gdn_problem problem_init = GDN_PROBLEM_INIT;
    const gdn_sizes sizes_init = GDN_SIZES_INIT;
    harness_random random = {(uint64_t)(c->T * 1000003 + c->K * 1009 + c->V * 31 + c->Hv)};
    void *device[GPU_COUNT], *host[GPU_COUNT];
    const gdn_dtype d = c->dtype, f = GDN_DTYPE_FP32;
    const int64_t KV = (int64_t)c->K * c->V;

    memset(r, 0, sizeof(*r));
    r->c = *c;
    describe(r, GPU_Q, "q", d, c->T, c->Hk, c->K, c->strided);
    describe(r, GPU_K, "k", d, c->T, c->Hk, c->K, c->strided);
    describe(r, GPU_V, "v", d, c->T, c->Hv, c->V, c->strided);
    describe(r, GPU_DO, "do", d, c->T, c->Hv, c->V, c->strided);
    describe(r, GPU_G, "g", f, c->T, c->Hv, 1, 0);
    describe(r, GPU_BETA, "beta", f, c->T, c->Hv, 1, 0);
    describe(r, GPU_S0, "initial_state", f, c->N, c->Hv, KV, 0);
    describe(r, GPU_DHT, "dht", f, c->N, c->Hv, KV, 0);
    describe(r, GPU_O, "o", d, c->T, c->Hv, c->V, c->strided);
    describe(r, GPU_ST, "final_state", f, c->N, c->Hv, KV, 0);
    describe(r, GPU_DQ, "dq", d, c->T, c->Hk, c->K, c->strided);
    describe(r, GPU_DK, "dk", d, c->T, c->Hk, c->K, c->strided);
    describe(r, GPU_DV, "dv", d, c->T, c->Hv, c->V, c->strided);
    describe(r, GPU_DG, "dg", f, c->T, c->Hv, 1, 0);
    describe(r, GPU_DBETA, "dbeta", f, c->T, c->Hv, 1, 0);
    describe(r, GPU_DS0, "dh0", f, c->N, c->Hv, KV, 0);
    for (int i = GPU_Q; i < GPU_O; ++i) {
        draw(r, &random, i);
        upload(&r->x[i]);
    }
    for (int i = 0; i < GPU_COUNT; ++i) {
        const int state = i == GPU_S0 || i == GPU_DHT || i == GPU_ST || i == GPU_DS0;
        const int given = c->states || !state;
        device[i] = given ? r->x[i].device : NULL;
        host[i] = given ? r->x[i].host : NULL;
    }

    r->problem = problem_init;
    r->problem.dtype = c->dtype;
    r->problem.flags = c->flags;
    r->problem.segments = c->segments;
    r->problem.T = c->T;
    r->problem.N = c->N;
    r->problem.Hk = c->Hk;
    r->problem.Hv = c->Hv;
    r->problem.K = c->K;
    r->problem.V = c->V;
    r->reference_problem = r->problem;
    r->reference_problem.dtype = GDN_DTYPE_FP64;
    r->reference_problem.flags = c->flags & GDN_FLAG_L2NORM_QK;
    r->problem.q_strides = r->x[GPU_Q].strides;
    r->problem.k_strides = r->x[GPU_K].strides;
    r->problem.v_strides = r->x[GPU_V].strides;
    r->problem.o_strides = r->x[GPU_O].strides;
    r->sizes = sizes_init;
    GDN(gdn_problem_sizes(context, &r->problem, &r->sizes));

    r->workspace_bytes = r->sizes.forward_workspace;
    if (r->sizes.backward_workspace > r->workspace_bytes)
        r->workspace_bytes = r->sizes.backward_workspace;
    if (r->sizes.segment_workspace > r->workspace_bytes)
        r->workspace_bytes = r->sizes.segment_workspace;
    r->workspace = allocate(r->workspace_bytes);
    r->saved_bytes = r->sizes.saved;
    r->saved = r->saved_bytes ? allocate(r->saved_bytes) : NULL;
    r->checked_report = allocate(r->sizes.checked_report);
    if (c->cu) {
        const size_t bytes = sizeof(int64_t) * (size_t)(c->N + 1);
        r->cu_device = (int64_t *)allocate(bytes);
        CUDA(cudaMemcpy(r->cu_device, c->cu, bytes, cudaMemcpyHostToDevice));
    }
    set_tensors(&r->tensors, device, c->flags & GDN_FLAG_CU_SEQLENS_HOST ? c->cu : r->cu_device);
    set_tensors(&r->reference_tensors, host, c->cu);
    r->tensors.workspace = r->workspace;
    r->tensors.workspace_size = r->workspace_bytes;
    r->tensors.saved = r->saved;
    r->tensors.checked_report = r->sizes.checked_report ? r->checked_report : NULL;
    gpu_poison(r);
}

void gpu_upload(gpu_run *r) {
    for (int i = GPU_Q; i < GPU_O; ++i)
        upload(&r->x[i]);
}

void gpu_poison(gpu_run *r) {
    for (int i = GPU_O; i < GPU_COUNT; ++i)
        CUDA(cudaMemset(r->x[i].device, POISON, r->x[i].bytes));
    CUDA(cudaMemset(r->workspace, POISON, r->workspace_bytes));
    if (r->saved)
        CUDA(cudaMemset(r->saved, POISON, r->saved_bytes));
}

void gpu_reference(gpu_run *r) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_context *context = NULL;
    config.backend = GDN_BACKEND_REFERENCE;
    GDN(gdn_context_create(&context, &config));
    GDN(gdn_problem_sizes(context, &r->reference_problem, &sizes));
    r->reference_tensors.workspace_size = sizes.backward_workspace + sizes.forward_workspace;
    void *block = NULL;
    if (posix_memalign(&block, 256, r->reference_tensors.workspace_size))
        exit(1);
    r->reference_tensors.workspace = block;
    GDN(gdn_forward(context, &r->reference_problem, &r->reference_tensors, NULL));
    GDN(gdn_backward(context, &r->reference_problem, &r->reference_tensors, NULL));
    free(block);
    gdn_context_destroy(context);
}

int gpu_fetch(gpu_run *r) {
    int intact = 1;
    CUDA(cudaDeviceSynchronize());
    for (int i = 0; i < GPU_COUNT; ++i) {
        download(&r->x[i]);
        intact &= check_canaries(r, r->x[i].name, r->x[i].device, r->x[i].bytes);
    }
    intact &= check_canaries(r, "workspace", r->workspace, r->workspace_bytes);
    intact &= check_canaries(r, "saved", r->saved, r->saved_bytes);
    intact &= check_canaries(r, "checked_report", r->checked_report, r->sizes.checked_report);
    return intact;
}

void gpu_release(gpu_run *r) {
    for (int i = 0; i < GPU_COUNT; ++i) {
        free(r->x[i].host);
        free(r->x[i].got);
        CUDA(cudaFree(r->x[i].device - CANARY));
    }
    CUDA(cudaFree(r->workspace - CANARY));
    CUDA(cudaFree(r->checked_report - CANARY));
    if (r->saved)
        CUDA(cudaFree(r->saved - CANARY));
    if (r->cu_device)
        CUDA(cudaFree((char *)r->cu_device - CANARY));
}

double gpu_error(const gpu_tensor *x, int *worst_head) {
    double worst = 0.0, largest = 0.0;
    double *norm = calloc((size_t)x->heads, sizeof(double)), *off = calloc((size_t)x->heads, 8);
    for (int64_t i = 0; i < x->rows * x->heads * x->dim; ++i) {
        const int64_t h = i / x->dim % x->heads;
        const double d = x->got[i] - x->host[i];
        norm[h] += x->host[i] * x->host[i];
        off[h] += d * d;
        if (norm[h] > largest)
            largest = norm[h];
    }
    *worst_head = 0;
    for (int64_t h = 0; h < x->heads; ++h) {
        /* A head that is 1e-7 of the largest one is measured against that: what is left of a
         * gradient behind saturating gates is below what fp32 can hold. */
        const double floor = fmax(largest * 1e-14, 1e-60);
        const double error = sqrt(off[h] / fmax(norm[h], floor));
        if (!(error <= worst)) {
            worst = error;
            *worst_head = (int)h;
        }
        if (isnan(error))
            break;
    }
    free(norm);
    free(off);
    return worst;
}

double gpu_tolerance(gdn_dtype dtype, gpu_name name) {
    const int sums = name == GPU_DG || name == GPU_DBETA || name == GPU_DS0;
    return (dtype == GDN_DTYPE_FP32 ? 2e-5 : 1e-2) * (sums ? 2.0 : 1.0);
}

int gpu_check(gpu_run *r, gpu_name first, gpu_name last) {
    int good = 1;
    for (int i = (int)first; i <= (int)last; ++i) {
        const gpu_tensor *x = &r->x[i];
        if (!r->c.states && (i == GPU_ST || i == GPU_DS0))
            continue;
        int head = 0;
        const double error = gpu_error(x, &head), limit = gpu_tolerance(r->c.dtype, i);
        printf(" %s %.1e", x->name, error);
        if (!(error <= limit)) {
            fprintf(stderr, "%s: %s of head %d is off by %.2e, expected at most %.0e\n", r->c.name,
                    x->name, head, error, limit);
            good = 0;
        }
    }
    printf("\n");
    return good;
}
