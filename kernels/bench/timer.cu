// Times of `gdn bench`: one CUDA graph, replayed between events.
#include "device.h"

#include <new>

#include <cuda_runtime.h>

struct gdni_bench_timer {
    cudaStream_t stream;
    cudaGraphExec_t graph;
    cudaEvent_t *start, *stop;
    int most, repeats;
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
    t->start = new (std::nothrow) cudaEvent_t[2 * static_cast<size_t>(most_repeats)]();
    if (!t->start)
        return cudaErrorMemoryAllocation;
    t->stop = t->start + most_repeats;
    t->most = most_repeats;
    t->flush_bytes = flush_bytes;
    BENCH_TRY(cudaStreamCreateWithFlags(&t->stream, cudaStreamNonBlocking));
    for (int i = 0; i < 2 * most_repeats; ++i)
        BENCH_TRY(cudaEventCreate(&t->start[i]));
    return cudaMalloc(&t->flush, flush_bytes);
}

void gdni_bench_timer_destroy(gdni_bench_timer *t) {
    if (!t)
        return;
    for (int i = 0; t->start && i < 2 * t->most; ++i)
        if (t->start[i])
            cudaEventDestroy(t->start[i]);
    delete[] t->start;
    if (t->graph)
        cudaGraphExecDestroy(t->graph);
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

int gdni_bench_capture_end(gdni_bench_timer *t) {
    cudaGraph_t graph;
    BENCH_TRY(cudaStreamEndCapture(t->stream, &graph));
    if (t->graph)
        cudaGraphExecDestroy(t->graph);
    t->graph = nullptr;
    const cudaError_t error = cudaGraphInstantiate(&t->graph, graph, 0);
    cudaGraphDestroy(graph);
    return error;
}

int gdni_bench_enqueue(gdni_bench_timer *t, int untimed, int repeats, int cold) {
    if (repeats > t->most)
        return cudaErrorInvalidValue;
    t->repeats = repeats;
    for (int i = -untimed; i < repeats; ++i) {
        if (cold)
            BENCH_TRY(cudaMemsetAsync(t->flush, 0, t->flush_bytes, t->stream));
        if (i >= 0)
            BENCH_TRY(cudaEventRecord(t->start[i], t->stream));
        BENCH_TRY(cudaGraphLaunch(t->graph, t->stream));
        if (i >= 0)
            BENCH_TRY(cudaEventRecord(t->stop[i], t->stream));
    }
    return cudaSuccess;
}

int gdni_bench_wait(gdni_bench_timer *t, float *ms) {
    BENCH_TRY(cudaStreamSynchronize(t->stream));
    for (int i = 0; i < t->repeats; ++i)
        BENCH_TRY(cudaEventElapsedTime(&ms[i], t->start[i], t->stop[i]));
    return cudaSuccess;
}
