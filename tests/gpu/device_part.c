#include "device_part.h"

enum {
    GUARD = 256,
    GUARD_BYTE = 0x5a,
    POISON_BYTE = 0xff, /* NaN in every dtype */
    MOST_DRAWN = 131101 /* a prime number: larger tensors have the same numbers again and again */
};

/* One field of a run. */
typedef struct tensor {
    const device_field *f;
    gdn_dtype dtype, reference_dtype; /* of no meaning for integers */
    int64_t count;                    /* gaps between rows included */
    size_t bytes;
    double *values; /* [rows * width]: what is given, as the device has it */
    char *reference, *device;
    char *start, *first,
        *got; /* the device's memory on the host: before, after the first run, now */
} tensor;

typedef struct run {
    const device_part *p;
    const gdn_context *context;
    gdn_dtype dtype;
    int fields;
    tensor x[DEVICE_PART_FIELDS];
    device_memory memory;
    int64_t *cu;
} run;

/* ---- Memory -------------------------------------------------------------------------------------
 */

/* `off` bytes behind a multiple of 256. */
static char *guarded(size_t bytes, size_t off) {
    char *p;
    CUDA(cudaMalloc((void **)&p, off + bytes + 2 * GUARD));
    CUDA(cudaMemset(p, GUARD_BYTE, off + bytes + 2 * GUARD));
    CUDA(cudaMemset(p + GUARD + off, POISON_BYTE, bytes));
    return p + GUARD + off;
}

static size_t offset_of(const device_part *p, size_t element) {
    return (size_t)p->misaligned * element;
}

static int guard_intact(const char *p, size_t bytes) {
    unsigned char edge[2 * GUARD];
    CUDA(cudaMemcpy(edge, p - GUARD, GUARD, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(edge + GUARD, p + bytes, GUARD, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 2 * GUARD; ++i)
        if (edge[i] != GUARD_BYTE)
            return 0;
    return 1;
}

void *device_take(device_memory *m, size_t bytes) {
    char *p;
    if (m->blocks == DEVICE_PART_BLOCKS)
        exit(1);
    if (m->device) {
        p = guarded(bytes, 0) - GUARD;
    } else {
        p = aligned_alloc(GUARD, (bytes + GUARD - 1) / GUARD * GUARD + 2 * GUARD);
        memset(p, POISON_BYTE, bytes + 2 * GUARD);
    }
    m->block[m->blocks] = p;
    m->bytes[m->blocks++] = bytes;
    return p + GUARD;
}

static void release_memory(device_memory *m) {
    for (int i = 0; i < m->blocks; ++i)
        if (m->device)
            CUDA(cudaFree(m->block[i]));
        else
            free(m->block[i]);
    m->blocks = 0;
}

/* ---- Fields -------------------------------------------------------------------------------------
 */

static int64_t stride_of(const device_field *f) {
    return f->stride ? f->stride : f->width;
}

static size_t element_of(const device_field *f, gdn_dtype dtype) {
    return f->kind == KIND_INT32 ? sizeof(int32_t) : gdn_dtype_size(dtype);
}

static void write_values(const device_field *f, gdn_dtype dtype, char *to, const double *values,
                         int64_t count) {
    if (f->kind != KIND_INT32)
        GDN(gdn_convert(dtype, to, GDN_DTYPE_FP64, values, count));
    else
        for (int64_t i = 0; i < count; ++i)
            ((int32_t *)to)[i] = (int32_t)values[i];
}

static void read_values(const device_field *f, gdn_dtype dtype, double *to, const char *from,
                        int64_t count) {
    if (f->kind != KIND_INT32)
        GDN(gdn_convert(GDN_DTYPE_FP64, to, dtype, from, count));
    else
        for (int64_t i = 0; i < count; ++i)
            to[i] = ((const int32_t *)from)[i];
}

/* A field's memory before the call: NaN but for what is given, gaps between rows too. */
static void fill(const tensor *x, gdn_dtype dtype, int accumulate, char *to) {
    const device_field *f = x->f;
    const size_t size = element_of(f, dtype), row_bytes = (size_t)stride_of(f) * size;
    const int given =
        f->role == ROLE_INPUT || f->role == ROLE_UPDATED || (f->role == ROLE_ADDED && accumulate);
    memset(to, POISON_BYTE, (size_t)x->count * size);
    if (given && f->width == stride_of(f))
        write_values(f, dtype, to, x->values, x->count);
    else
        for (int64_t row = 0; given && row < f->rows; ++row)
            write_values(f, dtype, to + (size_t)row * row_bytes, x->values + row * f->width,
                         f->width);
}

static void prepare_field(run *r, const device_field *f, harness_random *random) {
    tensor *x = &r->x[r->fields++];
    const int64_t count = f->rows * f->width;
    x->f = f;
    x->dtype = f->kind == KIND_PART   ? r->dtype
               : f->kind == KIND_BF16 ? GDN_DTYPE_BF16
               : f->kind == KIND_FP64 ? GDN_DTYPE_FP64
                                      : GDN_DTYPE_FP32;
    x->reference_dtype = f->kind == KIND_BF16 ? GDN_DTYPE_BF16 : GDN_DTYPE_FP64;
    x->count = f->rows * stride_of(f);
    x->bytes = (size_t)x->count * element_of(f, x->dtype);
    x->values = malloc((size_t)(count + 1) * sizeof(double));
    x->reference = malloc((size_t)(x->count + 1) * sizeof(double));
    x->start = malloc(x->bytes + 1);
    x->first = malloc(x->bytes + 1);
    x->got = malloc(x->bytes + 1);
    x->device = guarded(x->bytes, offset_of(r->p, element_of(f, x->dtype)));
    for (int64_t j = 0; j < count; ++j)
        x->values[j] = f->values ? f->values[j]
                       : j < MOST_DRAWN
                           ? f->shift + (f->scale ? f->scale : 1) * harness_normal(random)
                           : x->values[j - MOST_DRAWN];
    write_values(f, x->dtype, x->got, x->values, count);
    read_values(f, x->dtype, x->values, x->got, count);
}

static void release_field(const run *r, tensor *x) {
    CUDA(cudaFree(x->device - GUARD - offset_of(r->p, element_of(x->f, x->dtype))));
    free(x->values);
    free(x->reference);
    free(x->start);
    free(x->first);
    free(x->got);
}

/* ---- Runs ---------------------------------------------------------------------------------------
 */

static void set_pointer(const device_part *p, size_t offset, const void *pointer) {
    memcpy((char *)p->part + offset, &pointer, sizeof(pointer));
}

/* Dtype, pointers and workspaces of the device, or of the reference. */
static void aim(run *r, const gdn_context *context, int on_device) {
    const device_part *p = r->p;
    const gdn_dtype dtype = on_device ? r->dtype : GDN_DTYPE_FP64;
    size_t bytes;
    memcpy((char *)p->part + p->dtype_offset, &dtype, sizeof(dtype));
    for (int i = 0; i < r->fields; ++i)
        set_pointer(p, r->x[i].f->offset, on_device ? r->x[i].device : r->x[i].reference);
    if (p->cu)
        set_pointer(p, p->cu_offset, on_device ? r->cu : p->cu);
    r->memory.device = on_device;
    if (p->workspace_offset) {
        GDN(p->bytes(context, p->part, &bytes));
        set_pointer(p, p->workspace_offset, device_take(&r->memory, bytes));
        memcpy((char *)p->part + p->workspace_offset + sizeof(void *), &bytes, sizeof(bytes));
    }
    if (p->attach)
        p->attach(context, p->part, &r->memory);
}

static void switch_accumulation(const device_part *p, int32_t accumulate) {
    for (int i = 0; i < 2; ++i)
        if (p->accumulate_offset[i])
            memcpy((char *)p->part + p->accumulate_offset[i], &accumulate, sizeof(accumulate));
}

static void call(const device_part *p, const gdn_context *context, gdn_stream stream) {
    for (int i = 0; i < 2 && p->calls[i]; ++i) {
        const gdn_status status = p->calls[i](context, p->part, stream);
        CHECK(status == GDN_STATUS_OK, "%s: %s", p->name, gdn_last_error());
    }
}

/* As one graph, from a stream of its own. */
static void call_captured(const device_part *p, const gdn_context *context) {
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    call(p, context, (gdn_stream)stream);
    CUDA(cudaStreamEndCapture(stream, &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    CUDA(cudaGraphLaunch(exec, stream));
    CUDA(cudaStreamSynchronize(stream));
    CUDA(cudaGraphExecDestroy(exec));
    CUDA(cudaGraphDestroy(graph));
    CUDA(cudaStreamDestroy(stream));
}

/* Runs on the device from the start; the first run's bits are kept, the others have to have them.
 */
static void execute(run *r, int is_first, int captured) {
    const char *const name = r->p->name;
    for (int i = 0; i < r->fields; ++i)
        CUDA(cudaMemcpy(r->x[i].device, r->x[i].start, r->x[i].bytes, cudaMemcpyHostToDevice));
    for (int i = 0; i < r->memory.blocks; ++i)
        CUDA(cudaMemset(r->memory.block[i] + GUARD, POISON_BYTE, r->memory.bytes[i]));
    CUDA(cudaDeviceSynchronize());
    if (captured)
        call_captured(r->p, r->context);
    else
        call(r->p, r->context, NULL);
    CUDA(cudaDeviceSynchronize());
    for (int i = 0; i < r->memory.blocks; ++i)
        CHECK(guard_intact(r->memory.block[i] + GUARD, r->memory.bytes[i]),
              "%s: written outside of block %d", name, i);
    for (int i = 0; i < r->fields; ++i) {
        tensor *x = &r->x[i];
        char *const to = is_first ? x->first : x->got;
        CUDA(cudaMemcpy(to, x->device, x->bytes, cudaMemcpyDeviceToHost));
        CHECK(guard_intact(x->device, x->bytes), "%s: written outside of %s", name, x->f->name);
        CHECK(x->f->role != ROLE_INPUT || !memcmp(to, x->start, x->bytes), "%s: changed %s", name,
              x->f->name);
        CHECK(is_first || !memcmp(x->got, x->first, x->bytes), "%s.%s: %s: other bits %s",
              gdn_dtype_name(r->dtype), name, x->f->name,
              captured ? "from a graph" : "in a second run");
    }
}

/* ---- Results ------------------------------------------------------------------------------------
 */

static double tolerance_of(const run *r, const device_field *f) {
    const device_part *p = r->p;
    const int fp32 = r->dtype == GDN_DTYPE_FP32;
    const double own = fp32 ? f->fp32_tol : f->bf16_tol;
    if (own > 0)
        return own;
    if (f->kind != KIND_PART)
        return fp32 ? p->fp32_state_tol : p->bf16_state_tol;
    return fp32 ? p->fp32_tol : p->bf16_tol;
}

/* Relative L2 error, of the field or its worst row; INFINITY where something is NaN, or not 0 in a
 * row in which it should be. usual: what an element has. */
static double error_of(const device_field *f, const double *got, const double *want,
                       double *usual) {
    double off = 0, norm = 0, worst = 0;
    for (int64_t row = 0; row < f->rows; ++row) {
        double row_off = 0, row_norm = 0;
        for (int64_t j = row * f->width; j < (row + 1) * f->width; ++j) {
            row_off += (got[j] - want[j]) * (got[j] - want[j]);
            row_norm += want[j] * want[j];
        }
        if (f->row_sizes && row_norm < f->row_sizes[row] * f->row_sizes[row])
            row_norm = f->row_sizes[row] * f->row_sizes[row];
        off += row_off;
        norm += row_norm;
        const double error = row_norm > 0     ? sqrt(row_off / row_norm)
                             : row_off == 0.0 ? 0.0
                                              : (double)INFINITY;
        if (f->per_row || row_norm == 0)
            worst = error <= worst ? worst : error;
    }
    const double all = norm > 0 ? sqrt(off / norm) : off == 0.0 ? 0.0 : (double)INFINITY;
    *usual = f->rows * f->width > 0 ? sqrt(norm / (double)(f->rows * f->width)) : 0;
    if (isnan(all) || isnan(worst))
        return (double)INFINITY;
    return all > worst ? all : worst;
}

/* Whether what lies between rows is as it was. */
static int gaps_intact(const tensor *x) {
    const size_t size = element_of(x->f, x->dtype);
    const int64_t stride = stride_of(x->f);
    if (stride == x->f->width)
        return 1;
    for (int64_t i = 0; i < x->count; ++i)
        for (size_t b = 0; i % stride >= x->f->width && b < size; ++b)
            if ((unsigned char)x->first[(size_t)i * size + b] != POISON_BYTE)
                return 0;
    return 1;
}

/* The rows of a field, one behind the other. */
static double *read_rows(const tensor *x, gdn_dtype dtype, const char *from) {
    const device_field *f = x->f;
    const size_t row_bytes = (size_t)stride_of(f) * element_of(f, dtype);
    double *const to = malloc((size_t)(f->rows * f->width + 1) * sizeof(double));
    if (f->width == stride_of(f))
        read_values(f, dtype, to, from, x->count);
    else
        for (int64_t row = 0; row < f->rows; ++row)
            read_values(f, dtype, to + row * f->width, from + (size_t)row * row_bytes, f->width);
    return to;
}

static void check_field(const run *r, const tensor *x, int accumulate) {
    const device_field *f = x->f;
    const int64_t count = f->rows * f->width;
    const double limit = tolerance_of(r, f);
    const char *const dtype = gdn_dtype_name(r->dtype), *const name = r->p->name;
    const char *const added = accumulate ? " accumulated" : "";
    double *got = read_rows(x, x->dtype, x->first), usual;
    double *want = read_rows(x, x->reference_dtype, x->reference);
    int64_t far = 0, worst = 0;
    for (int64_t i = 0; accumulate && f->role == ROLE_ADDED && i < count; ++i)
        want[i] += x->values[i];
    const double error = error_of(f, got, want, &usual);
    printf(" %s %.1e", f->name, error);
    CHECK(error <= limit, "%s.%s: %s%s is off by %.2e, expected at most %.1e", dtype, name, f->name,
          added, error, limit);
    CHECK(gaps_intact(x), "%s.%s: %s: written between rows", dtype, name, f->name);
    for (int64_t i = 0; r->p->pointwise && i < count; ++i)
        if (!(fabs(got[i] - want[i]) <= limit * (8 * usual + 4 * fabs(want[i])))) {
            worst = far ? worst : i;
            ++far;
        }
    CHECK(!far, "%s.%s: %s%s: %lld elements far off, first [%lld] %g, expected %g", dtype, name,
          f->name, added, (long long)far, (long long)worst, got[worst], want[worst]);
    free(got);
    free(want);
}

/* ---- All of it ----------------------------------------------------------------------------------
 */

static void prepare(run *r) {
    const device_part *p = r->p;
    const device_field *f = p->field;
    harness_random random = {(uint64_t)(f->rows * stride_of(f)) * 31 + 7};
    for (; f < p->field + DEVICE_PART_FIELDS && f->name; ++f)
        if (!f->absent)
            prepare_field(r, f, &random);
    if (p->cu) {
        const size_t bytes = (size_t)p->cu_count * sizeof(int64_t);
        CUDA(cudaMalloc((void **)&r->cu, bytes));
        CUDA(cudaMemcpy(r->cu, p->cu, bytes, cudaMemcpyHostToDevice));
    }
}

static void compute_reference(run *r) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *reference = NULL;
    config.backend = GDN_BACKEND_REFERENCE;
    GDN(gdn_context_create(&reference, &config));
    for (int i = 0; i < r->fields; ++i)
        fill(&r->x[i], r->x[i].reference_dtype, 0, r->x[i].reference);
    switch_accumulation(r->p, 0);
    aim(r, reference, 0);
    call(r->p, reference, NULL);
    release_memory(&r->memory);
    gdn_context_destroy(reference);
}

void device_part_check(const gdn_context *context, const device_part *part, gdn_dtype dtype) {
    run r = {.p = part, .context = context, .dtype = dtype};
    prepare(&r);
    compute_reference(&r);
    switch_accumulation(part, 0);
    aim(&r, context, 1);
    for (int accumulate = 0; accumulate < (part->accumulate_offset[0] ? 2 : 1); ++accumulate) {
        for (int i = 0; i < r.fields; ++i)
            fill(&r.x[i], r.x[i].dtype, accumulate, r.x[i].start);
        switch_accumulation(part, accumulate);
        execute(&r, 1, 0);
        if (!accumulate)
            execute(&r, 0, 0);
        execute(&r, 0, 1);
        printf("%s.%s%s:", gdn_dtype_name(dtype), part->name, accumulate ? " +=" : "");
        for (int i = 0; i < r.fields; ++i)
            if (r.x[i].f->role != ROLE_INPUT)
                check_field(&r, &r.x[i], accumulate);
        printf("\n");
        fflush(stdout);
    }
    for (int i = 0; i < r.fields; ++i)
        release_field(&r, &r.x[i]);
    release_memory(&r.memory);
    if (r.cu)
        CUDA(cudaFree(r.cu));
}
