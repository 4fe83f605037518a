// Times of `gdn bench`: CUDA graphs, replayed between events.
#include "device.h"

#include <new>

#include <cuda_runtime.h>

struct gdni_bench_timer {
    cudaStream_t stream;
    cudaGraphExec_t graphs[GDNI_BENCH_GRAPHS];
    cudaEvent_t *events; // [graph][most][2]: before and behind a replay
    int most, repeats[GDNI_BENCH_GRAPHS];
    void *flush;
    size_t flush_bytes;
};

#define BENCH_TRY(call)                                                                            \
    do {                                                                                           \
        const cudaError_t error_ = (call);                                                         \
        if (error_ != cudaSuccess)                                                                 \
            return error_;                                                                         \
    } while (0)

int gdni_bench_timer_create(gdni_bench_timer **out, int most_repeats, size_t flush_bytes) {
    gdni_bench_timer *t = *out = new (std::nothrow) gdni_bench_timer();
    if (!t)
        return cudaErrorMemoryAllocation;
    const int events = 2 * GDNI_BENCH_GRAPHS * most_repeats;
    t->events = new (std::nothrow) cudaEvent_t[events]();
    if (!t->events)
        return cudaErrorMemoryAllocation;
    t->most = most_repeats;
    t->flush_bytes = flush_bytes;
    BENCH_TRY(cudaStreamCreateWithFlags(&t->stream, cudaStreamNonBlocking));
    for (int i = 0; i < events; ++i)
        BENCH_TRY(cudaEventCreate(&t->events[i]));
    return cudaMalloc(&t->flush, flush_bytes);
}

void gdni_bench_timer_destroy(gdni_bench_timer *t) {
    if (!t)
        return;
    for (int i = 0; t->events && i < 2 * GDNI_BENCH_GRAPHS * t->most; ++i)
        if (t->events[i])
            cudaEventDestroy(t->events[i]);
    delete[] t->events;
    for (cudaGraphExec_t graph : t->graphs)
        if (graph)
            cudaGraphExecDestroy(graph);
    if (t->stream)
        cudaStreamDestroy(t->stream);
    cudaFree(t->flush);
    delete t;
}

gdn_stream gdni_bench_timer_stream(const gdni_bench_timer *t) {
    return t->stream;
}

int gdni_bench_capture_begin(gdni_bench_timer *t) {
    return cudaStreamBeginCapture(t->stream, cudaStreamCaptureModeThreadLocal);
}

int gdni_bench_capture_end(gdni_bench_timer *t, int graph) {
    cudaGraphExec_t &to = t->graphs[graph];
    cudaGraph_t captured;
    BENCH_TRY(cudaStreamEndCapture(t->stream, &captured));
    if (to)
        cudaGraphExecDestroy(to);
    to = nullptr;
    const cudaError_t error = cudaGraphInstantiate(&to, captured, 0);
    cudaGraphDestroy(captured);
    return error;
}

int gdni_bench_enqueue(gdni_bench_timer *t, int graph, int untimed, int repeats, int cold) {
    int &done = t->repeats[graph];
    if (repeats > t->most - done)
        return cudaErrorInvalidValue;
    for (int i = -untimed; i < repeats; ++i) {
        cudaEvent_t *const events = t->events + 2 * (graph * t->most + done);
        if (cold)
            BENCH_TRY(cudaMemsetAsync(t->flush, 0, t->flush_bytes, t->stream));
        if (i >= 0)
            BENCH_TRY(cudaEventRecord(events[0], t->stream));
        BENCH_TRY(cudaGraphLaunch(t->graphs[graph], t->stream));
        if (i >= 0) {
            BENCH_TRY(cudaEventRecord(events[1], t->stream));
            ++done;
        }
    }
    return cudaSuccess;
}

int gdni_bench_wait(gdni_bench_timer *t, int graph, float *ms) {
    BENCH_TRY(cudaStreamSynchronize(t->stream));
    const int count = t->repeats[graph];
    t->repeats[graph] = 0;
    for (int i = 0; i < count; ++i) {
        const cudaEvent_t *const events = t->events + 2 * (graph * t->most + i);
        BENCH_TRY(cudaEventElapsedTime(&ms[i], events[0], events[1]));
    }
    return cudaSuccess;
}
