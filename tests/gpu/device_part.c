#include "device_part.h"

enum {
    GUARD = 256,
    GUARD_BYTE = 0x5a,
    POISON_BYTE = 0xff, /* NaN in every dtype */
    RUNS = 4
};

/* What one run leaves: every field's memory on the host. */
typedef struct part_outcome {
    char *bytes[DEVICE_PART_FIELDS];
} part_outcome;

static gdn_dtype dtype_of(const device_field *f, gdn_dtype dtype) {
    if (dtype == GDN_DTYPE_FP64)
        return dtype;
    return f->state || f->role == ROLE_PARAM_GRADIENT ? GDN_DTYPE_FP32 : dtype;
}

static int64_t elements_of(const device_field *f) {
    return f->rows * (f->stride ? f->stride : f->width);
}

static size_t bytes_of(const device_field *f, gdn_dtype dtype) {
    return (size_t)elements_of(f) * gdn_dtype_size(dtype_of(f, dtype));
}

void *device_take(device_memory *m, size_t bytes) {
    char *p;
    if (m->blocks == DEVICE_PART_BLOCKS)
        exit(1);
    if (m->device) {
        CUDA(cudaMalloc((void **)&p, bytes + 2 * GUARD));
        CUDA(cudaMemset(p, GUARD_BYTE, bytes + 2 * GUARD));
        CUDA(cudaMemset(p + GUARD, POISON_BYTE, bytes));
    } else {
        p = aligned_alloc(GUARD, (bytes + GUARD - 1) / GUARD * GUARD + 2 * GUARD);
        memset(p, POISON_BYTE, bytes + 2 * GUARD);
    }
    m->block[m->blocks] = p;
    m->bytes[m->blocks++] = bytes;
    return p + GUARD;
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

static void release_memory(device_memory *m) {
    for (int i = 0; i < m->blocks; ++i)
        if (m->device)
            CUDA(cudaFree(m->block[i]));
        else
            free(m->block[i]);
    m->blocks = 0;
}

/* Inputs, and what accumulation starts from: rounded to what the device holds. */
static void draw_values(const device_part *part, gdn_dtype dtype,
                        double *values[DEVICE_PART_FIELDS]) {
    harness_random random = {(uint64_t)elements_of(&part->field[0]) * 31 + 7};
    for (int i = 0; i < part->fields; ++i) {
        const device_field *f = &part->field[i];
        const int64_t count = f->rows * f->width;
        const gdn_dtype d = dtype_of(f, dtype);
        void *rounded = malloc((size_t)count * gdn_dtype_size(d) + 1);
        values[i] = calloc((size_t)count + 1, sizeof(double));
        for (int64_t j = 0; j < count; ++j)
            values[i][j] = f->values
                               ? f->values[j]
                               : f->shift + (f->scale ? f->scale : 1) * harness_normal(&random);
        GDN(gdn_convert(d, rounded, GDN_DTYPE_FP64, values[i], count));
        GDN(gdn_convert(GDN_DTYPE_FP64, values[i], d, rounded, count));
        free(rounded);
    }
}

/* A field's memory before the call; given: with values. Gaps between rows are poisoned too. */
static char *fill_host(const device_field *f, gdn_dtype dtype, const double *values, int given) {
    const gdn_dtype d = dtype_of(f, dtype);
    const size_t size = gdn_dtype_size(d);
    const int64_t stride = f->stride ? f->stride : f->width;
    char *data = malloc(bytes_of(f, dtype) + 1);
    memset(data, POISON_BYTE, bytes_of(f, dtype));
    for (int64_t row = 0; given && row < f->rows; ++row)
        GDN(gdn_convert(d, data + (size_t)(row * stride) * size, GDN_DTYPE_FP64,
                        values + row * f->width, f->width));
    return data;
}

typedef enum run_mode {
    MODE_PLAIN,
    MODE_GRAPH
} run_mode;

static void call_both(const gdn_context *context, const device_part *part, gdn_stream stream) {
    GDN(part->forward(context, part->part, stream));
    GDN(part->backward(context, part->part, stream));
}

/* As one graph, from a stream of its own. */
static void call_captured(const gdn_context *context, const device_part *part) {
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    call_both(context, part, (gdn_stream)stream);
    CUDA(cudaStreamEndCapture(stream, &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    CUDA(cudaGraphLaunch(exec, stream));
    CUDA(cudaStreamSynchronize(stream));
    CUDA(cudaGraphExecDestroy(exec));
    CUDA(cudaGraphDestroy(graph));
    CUDA(cudaStreamDestroy(stream));
}

static part_outcome execute(const gdn_context *context, const device_part *part, gdn_dtype dtype,
                            int32_t accumulate, run_mode mode,
                            double *const values[DEVICE_PART_FIELDS]) {
    part_outcome out = {{NULL}};
    const int device = dtype != GDN_DTYPE_FP64;
    char *data[DEVICE_PART_FIELDS], *cu = NULL;
    const size_t cu_bytes = (size_t)part->cu_count * sizeof(int64_t);
    device_memory memory = {.device = device};
    memcpy((char *)part->part + part->dtype_offset, &dtype, sizeof(dtype));
    if (part->accumulate_offset >= 0)
        memcpy((char *)part->part + part->accumulate_offset, &accumulate, sizeof(accumulate));
    for (int i = 0; i < part->fields; ++i) {
        const device_field *f = &part->field[i];
        const int given = f->role == ROLE_INPUT || (f->role == ROLE_PARAM_GRADIENT && accumulate);
        const size_t bytes = bytes_of(f, dtype);
        char *host = fill_host(f, dtype, values[i], given);
        if (device) {
            CUDA(cudaMalloc((void **)&data[i], bytes + 2 * GUARD));
            CUDA(cudaMemset(data[i], GUARD_BYTE, bytes + 2 * GUARD));
            data[i] += GUARD;
            CUDA(cudaMemcpy(data[i], host, bytes, cudaMemcpyHostToDevice));
            free(host);
        } else {
            data[i] = host;
        }
        memcpy((char *)part->part + f->offset, &data[i], sizeof(data[i]));
    }
    if (part->cu) {
        const void *bounds = part->cu;
        if (device) {
            CUDA(cudaMalloc((void **)&cu, cu_bytes));
            CUDA(cudaMemcpy(cu, part->cu, cu_bytes, cudaMemcpyHostToDevice));
            bounds = cu;
        }
        memcpy((char *)part->part + part->cu_offset, &bounds, sizeof(bounds));
    }
    if (part->attach)
        part->attach(context, part->part, &memory);
    if (mode == MODE_GRAPH)
        call_captured(context, part);
    else
        call_both(context, part, NULL);
    if (device)
        CUDA(cudaDeviceSynchronize());
    for (int i = 0; i < part->fields; ++i) {
        const device_field *f = &part->field[i];
        const size_t bytes = bytes_of(f, dtype);
        out.bytes[i] = data[i];
        if (!device)
            continue;
        out.bytes[i] = malloc(bytes + 1);
        CUDA(cudaMemcpy(out.bytes[i], data[i], bytes, cudaMemcpyDeviceToHost));
        CHECK(guard_intact(data[i], bytes), "%s %s: written outside", part->name, f->name);
        CUDA(cudaFree(data[i] - GUARD));
    }
    for (int i = 0; device && i < memory.blocks; ++i)
        CHECK(guard_intact(memory.block[i] + GUARD, memory.bytes[i]),
              "%s: written outside of block %d", part->name, i);
    release_memory(&memory);
    if (cu)
        CUDA(cudaFree(cu));
    return out;
}

static void release_outcome(part_outcome *out) {
    for (int i = 0; i < DEVICE_PART_FIELDS; ++i)
        free(out->bytes[i]);
}

/* One row of a field as float64. */
static void read_row(const device_field *f, gdn_dtype dtype, const char *bytes, int64_t row,
                     double *to) {
    const gdn_dtype d = dtype_of(f, dtype);
    const int64_t stride = f->stride ? f->stride : f->width;
    GDN(gdn_convert(GDN_DTYPE_FP64, to, d, bytes + (size_t)(row * stride) * gdn_dtype_size(d),
                    f->width));
}

/* Relative L2 error against the reference plus `start`, of the field or its worst row; INFINITY
 * where something is NaN, or not 0 in a row in which the reference is 0. */
static double error_of(const device_field *f, gdn_dtype dtype, const char *got,
                       const char *reference, const double *start) {
    double *a = malloc((size_t)f->width * sizeof(double));
    double *b = malloc((size_t)f->width * sizeof(double));
    double off = 0, norm = 0, worst = 0;
    for (int64_t row = 0; row < f->rows; ++row) {
        double row_off = 0, row_norm = 0;
        read_row(f, dtype, got, row, a);
        read_row(f, GDN_DTYPE_FP64, reference, row, b);
        for (int64_t j = 0; j < f->width; ++j) {
            const double expected = b[j] + (start ? start[row * f->width + j] : 0.0);
            row_off += (a[j] - expected) * (a[j] - expected);
            row_norm += expected * expected;
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
    free(a);
    free(b);
    const double all = norm > 0 ? sqrt(off / norm) : off == 0.0 ? 0.0 : (double)INFINITY;
    if (isnan(all) || isnan(worst))
        return (double)INFINITY;
    return all > worst ? all : worst;
}

/* Whether what lies between rows is as it was. */
static int gaps_intact(const device_field *f, gdn_dtype dtype, const char *bytes) {
    const size_t size = gdn_dtype_size(dtype_of(f, dtype));
    const int64_t stride = f->stride ? f->stride : f->width;
    for (int64_t i = 0; i < elements_of(f); ++i)
        for (size_t b = 0; i % stride >= f->width && b < size; ++b)
            if ((unsigned char)bytes[(size_t)i * size + b] != POISON_BYTE)
                return 0;
    return 1;
}

static double tolerance_of(const device_part *part, const device_field *f, gdn_dtype dtype) {
    const int fp32 = dtype == GDN_DTYPE_FP32;
    const double own = fp32 ? f->fp32_tol : f->bf16_tol;
    if (own > 0)
        return own;
    if (dtype_of(f, dtype) == GDN_DTYPE_FP32 && (f->state || f->role == ROLE_PARAM_GRADIENT))
        return fp32 ? part->fp32_state_tol : part->bf16_state_tol;
    return fp32 ? part->fp32_tol : part->bf16_tol;
}

void device_part_check(const gdn_context *context, const device_part *part, gdn_dtype dtype) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *reference = NULL;
    double *values[DEVICE_PART_FIELDS] = {NULL};
    const int32_t accumulate[RUNS] = {0, 0, 0, 1};
    part_outcome run[RUNS];
    config.backend = GDN_BACKEND_REFERENCE;
    GDN(gdn_context_create(&reference, &config));
    draw_values(part, dtype, values);
    part_outcome expected = execute(reference, part, GDN_DTYPE_FP64, 0, MODE_PLAIN, values);
    for (int r = 0; r < RUNS; ++r)
        run[r] =
            execute(context, part, dtype, accumulate[r], r == 2 ? MODE_GRAPH : MODE_PLAIN, values);
    printf("%s.%s:", gdn_dtype_name(dtype), part->name);
    for (int i = 0; i < part->fields; ++i) {
        const device_field *f = &part->field[i];
        const double limit = tolerance_of(part, f, dtype);
        if (f->role == ROLE_INPUT)
            continue;
        const double error = error_of(f, dtype, run[0].bytes[i], expected.bytes[i], NULL);
        printf(" %s %.1e", f->name, error);
        CHECK(error <= limit, "%s.%s: %s is off by %.2e, expected at most %.1e",
              gdn_dtype_name(dtype), part->name, f->name, error, limit);
        CHECK(gaps_intact(f, dtype, run[0].bytes[i]), "%s.%s: %s: written between rows",
              gdn_dtype_name(dtype), part->name, f->name);
        CHECK(!memcmp(run[0].bytes[i], run[1].bytes[i], bytes_of(f, dtype)),
              "%s.%s: %s: other bits in a second run", gdn_dtype_name(dtype), part->name, f->name);
        CHECK(!memcmp(run[0].bytes[i], run[2].bytes[i], bytes_of(f, dtype)),
              "%s.%s: %s: other bits from a graph", gdn_dtype_name(dtype), part->name, f->name);
        if (f->role != ROLE_PARAM_GRADIENT || part->accumulate_offset < 0)
            continue;
        const double sum = error_of(f, dtype, run[3].bytes[i], expected.bytes[i], values[i]);
        CHECK(sum <= limit, "%s.%s: %s accumulated is off by %.2e, expected at most %.1e",
              gdn_dtype_name(dtype), part->name, f->name, sum, limit);
    }
    printf("\n");
    fflush(stdout);
    release_outcome(&expected);
    for (int r = 0; r < RUNS; ++r)
        release_outcome(&run[r]);
    for (int i = 0; i < part->fields; ++i)
        free(values[i]);
    gdn_context_destroy(reference);
}
