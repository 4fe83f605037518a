#include "model_part.h"

enum {
    CANARY = 256,
    CANARY_BYTE = 0x5a,
    POISON = 0xff
};

/* One field of one run. */
typedef struct tensor {
    const device_field *f;
    gdn_dtype dtype; /* on the device; int32 as fp32, bit by bit */
    size_t bytes;
    char *device, *start, *got[3]; /* start: what the run begins with, or NULL */
    void *reference;
} tensor;

typedef struct run {
    const model_part *p;
    gdn_dtype dtype;
    int accumulate, fields;
    tensor x[MODEL_PART_FIELDS];
    char *workspace;
    size_t workspace_bytes;
    _Alignas(16) char part[MODEL_PART_BYTES], reference[MODEL_PART_BYTES];
} run;

static char *guarded(size_t bytes, size_t shift) {
    char *p;
    CUDA(cudaMalloc((void **)&p, bytes + shift + 2 * CANARY));
    CUDA(cudaMemset(p, CANARY_BYTE, bytes + shift + 2 * CANARY));
    return p + CANARY + shift;
}

static int intact(const char *p, size_t bytes) {
    unsigned char edge[2 * CANARY];
    CUDA(cudaMemcpy(edge, p - CANARY, CANARY, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(edge + CANARY, p + bytes, CANARY, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 2 * CANARY; ++i)
        if (edge[i] != CANARY_BYTE)
            return 0;
    return 1;
}

static gdn_dtype dtype_of(const device_field *f, gdn_dtype part) {
    return f->kind == KIND_PART   ? part
           : f->kind == KIND_BF16 ? GDN_DTYPE_BF16
           : f->kind == KIND_FP64 ? GDN_DTYPE_FP64
                                  : GDN_DTYPE_FP32;
}

static int starts_set(const run *r, const device_field *f) {
    return f->role == ROLE_IN || f->role == ROLE_UPDATED ||
           (f->role == ROLE_ADDED && r->accumulate);
}

/* Number i of a sequence that comes again after a prime number of them. */
enum {
    DRAWN = 65537
};
static double drawn(uint64_t i) {
    static double values[DRAWN];
    static int ready;
    harness_random random = {41};
    for (; ready < DRAWN; ++ready)
        values[ready] = harness_normal(&random);
    return values[i % DRAWN];
}

/* Draws a field's start, rounded as the device has it, and the reference's copy of it. */
static void prepare_field(run *r, tensor *x, uint64_t first) {
    const device_field *f = x->f;
    const size_t element = f->kind == KIND_INT32 ? 4 : gdn_dtype_size(x->dtype);
    const size_t n = (size_t)f->count;
    double *values = malloc((n + 1) * sizeof(double));
    x->bytes = n * element;
    x->device = guarded(x->bytes, (size_t)r->p->shift * element);
    x->start = malloc(x->bytes + 1);
    for (int i = 0; i < 3; ++i)
        x->got[i] = malloc(x->bytes + 1);
    for (size_t i = 0; i < n; ++i)
        values[i] = f->values ? f->values[i] : drawn(first + i);
    x->reference = malloc((n + 1) * sizeof(double));
    if (f->kind == KIND_INT32) {
        for (size_t i = 0; i < n; ++i)
            ((int32_t *)x->start)[i] = ((int32_t *)x->reference)[i] = (int32_t)values[i];
    } else {
        const gdn_dtype to = f->kind == KIND_BF16 ? GDN_DTYPE_BF16 : GDN_DTYPE_FP64;
        GDN(gdn_convert(x->dtype, x->start, GDN_DTYPE_FP64, values, f->count));
        GDN(gdn_convert(to, x->reference, x->dtype, x->start, f->count));
    }
    free(values);
    if (starts_set(r, f))
        return;
    memset(x->start, POISON, x->bytes);
    memset(x->reference, POISON, n * sizeof(double));
}

static void set_pointer(char *part, size_t offset, const void *pointer) {
    memcpy(part + offset, &pointer, sizeof(pointer));
}

static void prepare(run *r, const gdn_context *cuda, const gdn_context *reference) {
    const gdn_dtype fp64 = GDN_DTYPE_FP64;
    const model_part *p = r->p;
    memcpy(r->part, p->part, p->size);
    for (int i = 0; i < 2; ++i)
        if (p->accumulate_offset[i])
            memcpy(r->part + p->accumulate_offset[i], &r->accumulate, sizeof(int32_t));
    memcpy(r->reference, r->part, p->size);
    memcpy(r->part + p->dtype_offset, &r->dtype, sizeof(r->dtype));
    memcpy(r->reference + p->dtype_offset, &fp64, sizeof(fp64));
    for (int i = 0; i < MODEL_PART_FIELDS && p->field[i].name; ++i) {
        tensor *x = &r->x[r->fields];
        if (p->field[i].absent)
            continue;
        x->f = &p->field[i];
        x->dtype = dtype_of(x->f, r->dtype);
        prepare_field(r, x, 7919 * (uint64_t)i);
        set_pointer(r->part, x->f->offset, x->device);
        set_pointer(r->reference, x->f->offset, x->reference);
        ++r->fields;
    }
    if (!p->workspace_offset)
        return;
    GDN(p->bytes(cuda, r->part, &r->workspace_bytes));
    r->workspace = guarded(r->workspace_bytes, 0);
    set_pointer(r->part, p->workspace_offset, r->workspace);
    memcpy(r->part + p->workspace_offset + sizeof(void *), &r->workspace_bytes, sizeof(size_t));
    size_t bytes;
    GDN(p->bytes(reference, r->reference, &bytes));
    set_pointer(r->reference, p->workspace_offset, malloc(bytes + 1));
    memcpy(r->reference + p->workspace_offset + sizeof(void *), &bytes, sizeof(size_t));
}

static void call(const run *r, const gdn_context *context, const char *part, gdn_stream stream) {
    for (int i = 0; i < 2 && r->p->calls[i]; ++i) {
        const gdn_status status = r->p->calls[i](context, part, stream);
        CHECK(status == GDN_STATUS_OK, "%s: %s", r->p->name, gdn_last_error());
    }
}

/* Runs on the device from the start: plainly, or as a graph. */
static void execute(run *r, const gdn_context *cuda, int attempt, int graph) {
    cudaStream_t stream;
    cudaGraph_t captured;
    cudaGraphExec_t executable;
    for (int i = 0; i < r->fields; ++i)
        CUDA(cudaMemcpy(r->x[i].device, r->x[i].start, r->x[i].bytes, cudaMemcpyHostToDevice));
    if (r->workspace)
        CUDA(cudaMemset(r->workspace, POISON, r->workspace_bytes));
    CUDA(cudaStreamCreate(&stream));
    if (graph) {
        CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
        call(r, cuda, r->part, stream);
        CUDA(cudaStreamEndCapture(stream, &captured));
        CUDA(cudaGraphInstantiate(&executable, captured, 0));
        CUDA(cudaGraphLaunch(executable, stream));
        CUDA(cudaStreamSynchronize(stream));
        CUDA(cudaGraphExecDestroy(executable));
        CUDA(cudaGraphDestroy(captured));
    } else {
        call(r, cuda, r->part, stream);
        CUDA(cudaStreamSynchronize(stream));
    }
    CUDA(cudaStreamDestroy(stream));
    CHECK(!r->workspace || intact(r->workspace, r->workspace_bytes), "%s: wrote past the workspace",
          r->p->name);
    for (int i = 0; i < r->fields; ++i) {
        tensor *x = &r->x[i];
        CHECK(intact(x->device, x->bytes), "%s: wrote past %s", r->p->name, x->f->name);
        CUDA(cudaMemcpy(x->got[attempt], x->device, x->bytes, cudaMemcpyDeviceToHost));
        CHECK(x->f->role != ROLE_IN || !memcmp(x->got[attempt], x->start, x->bytes),
              "%s: changed %s", r->p->name, x->f->name);
        CHECK(!attempt || !memcmp(x->got[attempt], x->got[0], x->bytes), "%s: %s: other bits %s",
              r->p->name, x->f->name, graph ? "from a graph" : "in a second run");
    }
}

/* In norm, and each element within a few times the tolerance of what is usual. */
static double check_field(const run *r, const tensor *x) {
    const device_field *f = x->f;
    const double all = r->dtype == GDN_DTYPE_BF16 ? r->p->bf16 : r->p->fp32;
    const double tolerance = f->tolerance > 0 ? f->tolerance : all;
    const size_t n = (size_t)f->count;
    double *got = malloc((n + 1) * sizeof(double)), *want = malloc((n + 1) * sizeof(double));
    double difference = 0, norm = 0;
    size_t far = 0, worst = 0;
    GDN(gdn_convert(GDN_DTYPE_FP64, got, x->dtype, x->got[0], f->count));
    GDN(gdn_convert(GDN_DTYPE_FP64, want, f->kind == KIND_BF16 ? GDN_DTYPE_BF16 : GDN_DTYPE_FP64,
                    x->reference, f->count));
    for (size_t i = 0; i < n; ++i) {
        difference += (got[i] - want[i]) * (got[i] - want[i]);
        norm += want[i] * want[i];
    }
    const double usual = n ? sqrt(norm / (double)n) : 0;
    for (size_t i = 0; i < n; ++i)
        if (!(fabs(got[i] - want[i]) <= tolerance * (8 * usual + 4 * fabs(want[i])))) {
            worst = far ? worst : i;
            ++far;
        }
    const double error = norm > 0 ? sqrt(difference / norm) : sqrt(difference);
    CHECK(error <= tolerance, "%s %s %s%s: error %.2e, at most %.1e", r->p->name,
          gdn_dtype_name(r->dtype), f->name, r->accumulate ? " added" : "", error, tolerance);
    CHECK(!far, "%s %s %s%s: %zu elements far off, first [%zu] %g, expected %g", r->p->name,
          gdn_dtype_name(r->dtype), f->name, r->accumulate ? " added" : "", far, worst, got[worst],
          want[worst]);
    free(got);
    free(want);
    return error;
}

static void release(run *r) {
    void *workspace = NULL;
    if (r->p->workspace_offset)
        memcpy(&workspace, r->reference + r->p->workspace_offset, sizeof(workspace));
    free(workspace);
    if (r->workspace)
        CUDA(cudaFree(r->workspace - CANARY));
    for (int i = 0; i < r->fields; ++i) {
        tensor *x = &r->x[i];
        const size_t element = x->f->count ? x->bytes / (size_t)x->f->count : 0;
        CUDA(cudaFree(x->device - CANARY - (size_t)r->p->shift * element));
        free(x->start);
        free(x->reference);
        for (int j = 0; j < 3; ++j)
            free(x->got[j]);
    }
}

static void check_once(const gdn_context *cuda, const gdn_context *reference, const model_part *p,
                       gdn_dtype dtype, int accumulate) {
    static run r;
    memset(&r, 0, sizeof(r));
    r.p = p;
    r.dtype = dtype;
    r.accumulate = accumulate;
    prepare(&r, cuda, reference);
    execute(&r, cuda, 0, 0);
    execute(&r, cuda, 1, 0);
    execute(&r, cuda, 2, 1);
    call(&r, reference, r.reference, NULL);
    printf("%-34s %s%s:", p->name, gdn_dtype_name(dtype), accumulate ? " +=" : "");
    for (int i = 0; i < r.fields; ++i)
        if (r.x[i].f->role != ROLE_IN)
            printf(" %s %.1e", r.x[i].f->name, check_field(&r, &r.x[i]));
    printf("\n");
    fflush(stdout);
    release(&r);
}

void model_part_check(const gdn_context *cuda, const gdn_context *reference, const model_part *part,
                      int fp32_only) {
    for (int d = 0; d < (fp32_only ? 1 : 2); ++d)
        for (int accumulate = 0; accumulate < (part->accumulate_offset[0] ? 2 : 1); ++accumulate)
            check_once(cuda, reference, part, d ? GDN_DTYPE_BF16 : GDN_DTYPE_FP32, accumulate);
}
