/* What src/ sees of the CUDA code: C prototypes only. */
#ifndef GDNI_LAUNCH_H
#define GDNI_LAUNCH_H

#include <stddef.h>
#include <stdint.h>

#include "gdn.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gdni_device_info {
    char name[256];
    int major, minor; /* compute capability */
    int multiprocessors;
    size_t memory;          /* bytes */
    size_t shared_memory;   /* bytes that one CTA may have */
    unsigned char uuid[16]; /* tells devices of all machines apart */
} gdni_device_info;

/* What launches need to know of a device. */
typedef struct gdni_cuda_device {
    int ordinal;
    int multiprocessors;
    int capability; /* 10 x major + minor */
    size_t shared_memory;
} gdni_cuda_device;

/* Number of CUDA devices; 0 without a driver. */
int gdni_cuda_device_count(void);
/* 0, or the CUDA error code. */
int gdni_cuda_device_info(int device, gdni_device_info *info);
/* CUDA's text for an error code. */
const char *gdni_cuda_error_text(int error);

/* Memory of a device for the gdn command and checks, every bit set; copies either way, after all of
 * the device's work. 0 or the CUDA error code. */
int gdni_cuda_allocate(int device, size_t bytes, void **out);
void gdni_cuda_release(int device, void *memory);
int gdni_cuda_copy(int device, void *to, const void *from, size_t bytes);

/* A stream, page-locked host memory for its copies, and copies either way that it enqueues. 0 or
 * the CUDA error code; that of the work before is seen by wait. */
int gdni_cuda_stream_create(int device, gdn_stream *stream);
void gdni_cuda_stream_destroy(int device, gdn_stream stream);
int gdni_cuda_stream_wait(int device, gdn_stream stream);
int gdni_cuda_stream_copy(int device, void *to, const void *from, size_t bytes, gdn_stream stream);
int gdni_cuda_pin(int device, size_t bytes, void **out);
void gdni_cuda_unpin(int device, void *memory);

/* A stream for messages beside the caller's: it waits for no other by itself, and goes first. */
int gdni_cuda_side_stream_create(int device, gdn_stream *stream);
int gdni_cuda_stream_zero(int device, void *to, size_t bytes, gdn_stream stream);
/* `after` goes on once what `before` has now is done. event: from gdni_cuda_event_create. */
typedef struct CUevent_st *gdni_event;
int gdni_cuda_event_create(int device, gdni_event *event);
void gdni_cuda_event_destroy(int device, gdni_event event);
int gdni_cuda_stream_follow(int device, gdn_stream after, gdn_stream before, gdni_event event);
/* The parts of a follow, and a wait of the host; seconds between two events made with times. */
int gdni_cuda_timed_event_create(int device, gdni_event *event);
int gdni_cuda_event_record(int device, gdni_event event, gdn_stream stream);
int gdni_cuda_event_follow(int device, gdn_stream after, gdni_event event);
int gdni_cuda_event_reach(int device, gdni_event event);
int gdni_cuda_event_seconds(int device, gdni_event from, gdni_event to, double *seconds);
/* What a stream gets from this thread between begin and end is not done but becomes a graph. */
typedef struct CUgraphExec_st *gdni_graph;
int gdni_cuda_record_begin(int device, gdn_stream stream);
int gdni_cuda_record_end(int device, gdn_stream stream, gdni_graph *graph);
int gdni_cuda_graph_replay(int device, gdni_graph graph, gdn_stream stream);
void gdni_cuda_graph_destroy(int device, gdni_graph graph);
/* Of all that use the device. */
int gdni_cuda_memory_used(int device, size_t *bytes);
/* data[count] *= factor; data is a multiple of 16 as address. */
int gdni_cuda_scale(const gdni_cuda_device *device, float *data, int64_t count, float factor,
                    gdn_stream stream);
/* Makes a device current for calls of other libraries; *before: the one that was. */
int gdni_cuda_device_enter(int device, int *before);
void gdni_cuda_device_leave(int before);

/*
 * Sequences that go on in other shards; all memory is the device's. A run is `count` tokens of one
 * sequence, those at the front of the tensors. Each call enqueues and returns 0 or the CUDA error
 * code.
 */
enum {
    GDNI_RUN_BLOCK = 64 /* tokens: the shortest part of a run that is read alone */
};
typedef struct gdni_sharding_run {
    int from_start;   /* a shorter part of the run is its start; otherwise its end */
    double threshold; /* of the bound on a head's decay; -INFINITY: no head is final */
    double *sums;     /* [Hv, ceil(T / RUN_BLOCK)]: scratch */
    int32_t *final;   /* [Hv] whether the bound over the run is below the threshold, or NULL */
    /* [0], [1]: the tokens that a segment pass has to read, which are all, or a part over which
     * every head's bound is below the threshold, as it is over every longer one of 64 doubled again
     * and again. [2], [3]: all tokens where a head is not final, none otherwise. */
    int64_t *cut;
} gdni_sharding_run;
int gdni_sharding_decide(const gdni_cuda_device *device, const gdn_problem *problem,
                         const gdn_tensors *tensors, const gdni_sharding_run *run,
                         gdn_stream stream);
/* to = from, or zeros where cut leaves tokens out; elements of fp32. */
int gdni_sharding_choose(const gdni_cuda_device *device, float *to, const float *from,
                         const int64_t *cut, int64_t tokens, int64_t elements, gdn_stream stream);
/* [heads, K, K] */
int gdni_sharding_identity(const gdni_cuda_device *device, float *to, int32_t heads, int32_t K,
                           gdn_stream stream);
/* out[h] += M[h] in[h], or M[h]^T in[h], for the heads that are not final. M [Hv, K, K] */
typedef struct gdni_sharding_step {
    int transposed;
    const int32_t *final;
    const float *M, *in;
    float *out;
} gdni_sharding_step;
int gdni_sharding_apply(const gdni_cuda_device *device, const gdn_problem *problem,
                        const gdni_sharding_step *step, gdn_stream stream);
/* sum[count] += term[count], fp32 or bf16 */
int gdni_sharding_add(int device, gdn_dtype dtype, void *sum, const void *term, int64_t count,
                      gdn_stream stream);
/* words[1] = what, then ++words[0]: for a host that looks on. words: page-locked host memory. */
int gdni_sharding_mark(int device, uint32_t *words, uint32_t what, gdn_stream stream);

/*
 * GDN_FLAG_CHECKED. A place is tensor << GDNI_PLACE_BITS | index: tensor 0 is cu_seqlens, then come
 * the inputs; index is flat in [rows, heads, dim], or of a bound. The smallest one is reported.
 */
enum {
    GDNI_PLACE_BITS = 58,
    GDNI_CHECKED_INPUTS = 8,
    GDNI_CHECKED_MAGIC = 0x67646e43
};
typedef struct gdni_checked_input {
    const void *data; /* NULL: not given */
    int bytes;        /* of an element: 4 for fp32; 2 for the problem's dtype */
    int log_gate;     /* may not be positive */
    int64_t rows, heads, dim;
    gdn_strides strides;
} gdni_checked_input;

typedef struct gdni_checked_report {
    uint64_t place;   /* UINT64_MAX: nothing found */
    double value;     /* there */
    int64_t bound[2]; /* cu_seqlens[n - 1] and [n] */
    uint32_t magic, call;
} gdni_checked_report;

/* Enqueues the checks; cu_seqlens may be NULL. 0 or the CUDA error code. */
int gdni_checked_enqueue(const gdni_cuda_device *device, const gdn_problem *problem,
                         const int64_t *cu_seqlens,
                         const gdni_checked_input inputs[GDNI_CHECKED_INPUTS], uint32_t call,
                         void *report, void *stream);
/* Waits for the stream and copies the report from the device. */
int gdni_checked_fetch(const gdni_cuda_device *device, const void *report, gdni_checked_report *out,
                       void *stream);

/*
 * The portable backend: problems and tensors as gdni_backend_ops get them, in device memory. Each
 * call enqueues on stream and returns 0 or the CUDA error code.
 */
void gdni_portable_sizes(const gdni_cuda_device *device, const gdn_problem *problem,
                         gdn_sizes *sizes);
/* Where in its workspace a forward (or backward) call leaves the number of its work items: segments
 * times v-heads. */
const int32_t *gdni_portable_item_count(const gdni_cuda_device *device, const gdn_problem *problem,
                                        const gdn_tensors *tensors, int backward);
/* Bytes of shared memory that a device must give one CTA for this problem. */
size_t gdni_portable_shared_memory(const gdn_problem *problem);
int gdni_portable_forward(const gdni_cuda_device *device, const gdn_problem *problem,
                          const gdn_tensors *tensors, void *stream);
int gdni_portable_backward(const gdni_cuda_device *device, const gdn_problem *problem,
                           const gdn_tensors *tensors, void *stream);
int gdni_portable_segment_forward(const gdni_cuda_device *device, const gdn_problem *problem,
                                  const gdn_tensors *tensors, const gdn_segment *segment,
                                  void *stream);
int gdni_portable_segment_backward(const gdni_cuda_device *device, const gdn_problem *problem,
                                   const gdn_tensors *tensors, const gdn_segment *segment,
                                   void *stream);

#ifdef __cplusplus
}
#endif

#endif /* GDNI_LAUNCH_H */
