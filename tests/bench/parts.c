/*
 * bench_parts: what the parts of a model take on the device, as CSV. A call is timed as a graph of
 * many, which go round several copies of the tensors, so that none is found in the cache. Beside
 * it, its share of what a copy reaches in the same run (read and written bytes alike; the better of
 * the runtime's copy and a kernel's): a copy of 1 GiB, and one that moves as many bytes as the
 * call. And what a call takes the host.
 *
 *     bench_parts [WORD|T]...    rows whose names have one of the words, at these T
 */
#include "parts.h"

#include "../gpu/gpu.h"

#include <time.h>

enum {
    CALLS = 20, /* of a graph; fewer where a call takes long */
    REPEATS = 7,
    COPIES = 16
};
static const double CACHED = 512e6; /* bytes that no cache holds */

static gdn_context *context;
static cudaStream_t stream;
static double copy_bandwidth;
static char *words[BENCH_FIELDS];
static int word_count;

static int calls_of(double bytes, double flops) {
    return bytes > 2e9 || flops > 1e12 ? 4 : CALLS;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

/* Median microseconds of one of the calls that `captured` holds. */
static double time_graph(cudaGraph_t captured, int calls) {
    cudaGraphExec_t executable;
    cudaEvent_t from, to;
    double times[REPEATS];
    CUDA(cudaGraphInstantiate(&executable, captured, 0));
    CUDA(cudaEventCreate(&from));
    CUDA(cudaEventCreate(&to));
    CUDA(cudaGraphLaunch(executable, stream));
    for (int i = 0; i < REPEATS; ++i) {
        float ms;
        CUDA(cudaEventRecord(from, stream));
        CUDA(cudaGraphLaunch(executable, stream));
        CUDA(cudaEventRecord(to, stream));
        CUDA(cudaEventSynchronize(to));
        CUDA(cudaEventElapsedTime(&ms, from, to));
        times[i] = (double)ms * 1e3 / calls;
    }
    qsort(times, REPEATS, sizeof(times[0]), by_size);
    CUDA(cudaEventDestroy(from));
    CUDA(cudaEventDestroy(to));
    CUDA(cudaGraphExecDestroy(executable));
    CUDA(cudaGraphDestroy(captured));
    return times[REPEATS / 2];
}

/* GB/s of a copy that reads and writes `bytes` in all, as calls are timed. */
static double time_copy(double bytes, int by_kernel) {
    static char *memory;
    static size_t size;
    const size_t half = (size_t)bytes / 512 * 256, needed = (size_t)(2 * CACHED);
    const size_t all = 2 * half > needed ? 2 * half : needed;
    const int copies = (int)(all / (2 * half)), calls = calls_of(bytes, 0);
    cudaGraph_t captured;
    if (all > size) {
        CUDA(cudaFree(memory));
        CUDA(cudaMalloc((void **)&memory, all));
        CUDA(cudaMemset(memory, 1, all));
        size = all;
    }
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < calls; ++i) {
        char *const from = memory + 2 * half * (size_t)(i % copies);
        if (by_kernel)
            CUDA(bench_copy(from + half, from, half, stream));
        else
            CUDA(cudaMemcpyAsync(from + half, from, half, cudaMemcpyDeviceToDevice, stream));
    }
    CUDA(cudaStreamEndCapture(stream, &captured));
    return 2.0 * (double)half / time_graph(captured, calls) * 1e-3;
}

static double best_copy(double bytes) {
    const double runtime = time_copy(bytes, 0), kernel = time_copy(bytes, 1);
    return runtime > kernel ? runtime : kernel;
}

static void measure_copy(void) {
    const double bytes = 0x1p31;
    const double speed[2] = {time_copy(bytes, 0), time_copy(bytes, 1)};
    for (int i = 0; i < 2; ++i)
        printf("copy by %s,,,,%.1f,%.1f,,,,\n", i ? "a kernel" : "the runtime",
               bytes / speed[i] * 1e-3, speed[i]);
    copy_bandwidth = speed[0] > speed[1] ? speed[0] : speed[1];
}

/* Small numbers of both signs, whether read as bf16 or as fp32. */
static void fill(char *to, size_t bytes) {
    static uint32_t block[1 << 20];
    static int drawn;
    harness_random random = {1};
    for (; drawn < 1 << 20; ++drawn)
        for (int half = 0; half < 2; ++half) {
            const float x = (float)harness_normal(&random);
            uint32_t word;
            memcpy(&word, &x, sizeof(word));
            block[drawn] |= word >> 16 << (16 * half);
        }
    size_t filled = bytes < sizeof(block) ? bytes : sizeof(block);
    CUDA(cudaMemcpy(to, block, filled, cudaMemcpyHostToDevice));
    while (filled < bytes) {
        const size_t more = bytes - filled < filled ? bytes - filled : filled;
        CUDA(cudaMemcpy(to + filled, to, more, cudaMemcpyDeviceToDevice));
        filled += more;
    }
}

/* Sets the pointers of a part into memory of its own; the bytes it takes, memory NULL: only those.
 */
static size_t place(const bench_row *row, char *part, char *memory) {
    size_t at = 0, workspace = 0;
    for (int i = 0; i < BENCH_FIELDS; ++i) {
        const bench_field *f = &row->field[i];
        const size_t bytes = (size_t)f->bytes;
        char *const here = memory + at;
        if (bytes == 0)
            continue;
        at += (bytes + 255) / 256 * 256;
        if (!memory)
            continue;
        memcpy(part + f->offset, &here, sizeof(here));
        if (f->indices)
            CUDA(cudaMemcpy(here, f->indices, bytes, cudaMemcpyHostToDevice));
        else
            fill(here, bytes);
    }
    if (!row->workspace)
        return at;
    GDN(row->workspace(context, row->part, &workspace));
    if (memory) {
        char *const here = memory + at;
        memcpy(part + row->workspace_offset, &here, sizeof(here));
        memcpy(part + row->workspace_offset + sizeof(here), &workspace, sizeof(workspace));
    }
    return at + (workspace + 255) / 256 * 256;
}

static int asked_for(const bench_row *row) {
    for (int i = 0; i < word_count; ++i)
        if (strstr(row->name, words[i]))
            return 1;
    return word_count == 0;
}

void bench_row_run(const bench_row *row) {
    static _Alignas(16) char parts[COPIES][BENCH_PART_BYTES];
    const size_t bytes = place(row, NULL, NULL);
    const int most = (int)(CACHED / (double)bytes) + 1, copies = most < COPIES ? most : COPIES;
    const int calls = calls_of(row->bytes, row->flops);
    cudaGraph_t captured;
    char *memory;
    if (!asked_for(row))
        return;
    CUDA(cudaMalloc((void **)&memory, bytes * (size_t)copies));
    for (int i = 0; i < copies; ++i) {
        memcpy(parts[i], row->part, row->size);
        place(row, parts[i], memory + bytes * (size_t)i);
    }
    GDN(row->call(context, parts[0], stream)); /* loads what it needs */
    CUDA(cudaStreamSynchronize(stream));
    const double before = now();
    for (int i = 0; i < calls; ++i)
        GDN(row->call(context, parts[i % copies], stream));
    const double host = (now() - before) * 1e6 / calls;
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < calls; ++i)
        GDN(row->call(context, parts[i % copies], stream));
    CUDA(cudaStreamEndCapture(stream, &captured));
    const double us = time_graph(captured, calls), speed = row->bytes / us * 1e-3;
    printf("%s,%s,%lld,%d,%.1f,", row->name, gdn_dtype_name(row->dtype), (long long)row->T, row->D,
           us);
    if (row->bytes > 0)
        printf("%.1f,%.3f,%.3f,", speed, speed / copy_bandwidth, speed / best_copy(row->bytes));
    else
        printf(",,,");
    if (row->flops > 0)
        printf("%.1f", row->flops / us * 1e-6);
    printf(",%.1f\n", host);
    fflush(stdout);
    CUDA(cudaFree(memory));
}

int main(int argc, char **argv) {
    int64_t T[BENCH_FIELDS] = {8192, 32768, 131072};
    int count = 0;
    for (int i = 1; i < argc && i < BENCH_FIELDS; ++i)
        if (argv[i][0] >= '0' && argv[i][0] <= '9')
            T[count++] = atoll(argv[i]);
        else
            words[word_count++] = argv[i];
    count = count ? count : 3;
    context = gpu_context();
    if (!context)
        return 77;
    CUDA(cudaStreamCreate(&stream));
    printf("part,dtype,T,D,us,GB/s,share of copy,share of a copy as large,TFLOP/s,host us\n");
    measure_copy();
    bench_layer_rows(T, count);
    bench_model_rows(T, count);
    CUDA(cudaStreamDestroy(stream));
    gdn_context_destroy(context);
    return 0;
}
