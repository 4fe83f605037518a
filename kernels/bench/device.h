/* What `gdn bench` does on a device. It belongs to the command, not to the library. */
#ifndef GDNI_BENCH_DEVICE_H
#define GDNI_BENCH_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#include "gdn.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Functions that return int return 0 or the CUDA error code. They work on the device of
 * gdni_bench_open, which stays the calling thread's. */

typedef struct gdni_bench_device {
    char name[256], bus[32]; /* bus: the PCI address */
    int driver, runtime;     /* CUDA versions, 13000 = 13.0 */
    int multiprocessors;
    size_t l2, memory; /* bytes */
} gdni_bench_device;

int gdni_bench_open(int ordinal, gdni_bench_device *device);
const char *gdni_bench_error_text(int error);

/* Memory with every bit set. */
int gdni_bench_allocate(size_t bytes, void **out);
void gdni_bench_release(void *memory);
int gdni_bench_upload(void *to, const void *from, size_t bytes);
/* Sets every bit again: what nobody writes afterwards is NaN. */
int gdni_bench_poison(void *memory, size_t bytes, gdn_stream stream);

/* ---- Inputs: random numbers that depend on the seed and the place alone ---- */

typedef enum gdni_bench_draw {
    GDNI_BENCH_NORMAL,  /* size * randn */
    GDNI_BENCH_UNIT,    /* rows of randn, each divided by its length */
    GDNI_BENCH_GATE,    /* size * logsigmoid(randn) */
    GDNI_BENCH_SIGMOID, /* sigmoid(randn) */
} gdni_bench_draw;

/* [rows, dim] of dtype bf16 or fp32. */
typedef struct gdni_bench_fill {
    gdni_bench_draw draw;
    gdn_dtype dtype;
    int64_t rows, dim;
    float size;
    uint64_t seed;
} gdni_bench_fill;

int gdni_bench_random(const gdni_bench_fill *fill, void *out, gdn_stream stream);
/* x [rows, heads] fp32: zero in the heads where zero[head] (host memory, at most 256) is set. */
int gdni_bench_clear_heads(float *x, int64_t rows, int heads, const unsigned char *zero,
                           gdn_stream stream);

/* ---- Times ---- */

typedef struct gdni_bench_timer gdni_bench_timer;

int gdni_bench_timer_create(gdni_bench_timer **timer, int most_repeats, size_t flush_bytes);
void gdni_bench_timer_destroy(gdni_bench_timer *timer);
gdn_stream gdni_bench_timer_stream(const gdni_bench_timer *timer);

/* Everything that is enqueued on the timer's stream between the two becomes graph `graph`. */
enum {
    GDNI_BENCH_GRAPHS = 2
};
int gdni_bench_capture_begin(gdni_bench_timer *timer);
int gdni_bench_capture_end(gdni_bench_timer *timer, int graph);

/* Enqueues replays of a graph: some untimed ones, then `repeats` timed ones. warm: back to back;
 * cold: before each, other memory is written, flush_bytes of it. */
int gdni_bench_enqueue(gdni_bench_timer *timer, int graph, int untimed, int repeats, int cold);
/* Waits for all replays. ms: of the graph's timed ones since the last wait for it, at most
 * most_repeats, in order. */
int gdni_bench_wait(gdni_bench_timer *timer, int graph, float *ms);

/* ---- Results ---- */

/* Columns [first, first + count) of x [rows, width] of dtype bf16 or fp32, as fp32 in host memory.
 */
typedef struct gdni_bench_slice {
    const void *x;
    gdn_dtype dtype;
    int64_t rows, width, first, count;
} gdni_bench_slice;

int gdni_bench_fetch(const gdni_bench_slice *slice, float *host, gdn_stream stream);
/* The same in the device's memory; does not wait. */
int gdni_bench_gather(const gdni_bench_slice *slice, float *out, gdn_stream stream);

/* |x - y| / |y| of every head of x, y [rows, heads, dim] of the same dtype; error [heads] in host
 * memory. Where |y| is 0 it is |x|. */
int gdni_bench_difference(const gdni_bench_slice *x, const void *y, int heads, double *error,
                          gdn_stream stream);

#ifdef __cplusplus
}
#endif

#endif /* GDNI_BENCH_DEVICE_H */
