// What a training step on a device needs beside its kernels: places in streams, recorded work, the
// memory in use, and a range times a number.
#include "guard.h"
#include "launch.h"

#include <cuda_runtime.h>

namespace {

constexpr int THREADS = 256, CTAS_A_MULTIPROCESSOR = 8;

// [count] floats, in fours as far as they go; data is a multiple of 16 as address.
__global__ void __launch_bounds__(THREADS) scale_kernel(float *data, int64_t count, float factor) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * THREADS;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    float4 *fours = reinterpret_cast<float4 *>(data);
    for (int64_t i = first; i < count / 4; i += step) {
        float4 x = fours[i];
        x.x *= factor;
        x.y *= factor;
        x.z *= factor;
        x.w *= factor;
        fours[i] = x;
    }
    const int64_t tail = count / 4 * 4 + first;
    if (tail < count)
        data[tail] *= factor;
}

} // namespace

int gdni_cuda_scale(const gdni_cuda_device *device, float *data, int64_t count, float factor,
                    gdn_stream stream) {
    const gdni::DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess || count == 0)
        return guard.error();
    const int64_t wanted = (count / 4 + THREADS) / THREADS;
    const int64_t most = static_cast<int64_t>(device->multiprocessors) * CTAS_A_MULTIPROCESSOR;
    const unsigned ctas = static_cast<unsigned>(wanted < most ? wanted : most);
    scale_kernel<<<ctas, THREADS, 0, stream>>>(data, count, factor);
    return cudaGetLastError();
}

int gdni_cuda_timed_event_create(int device, gdni_event *event) {
    const gdni::DeviceGuard guard(device);
    return guard.error() != cudaSuccess ? guard.error() : cudaEventCreate(event);
}

int gdni_cuda_event_record(int device, gdni_event event, gdn_stream stream) {
    const gdni::DeviceGuard guard(device);
    return guard.error() != cudaSuccess ? guard.error() : cudaEventRecord(event, stream);
}

int gdni_cuda_event_follow(int device, gdn_stream after, gdni_event event) {
    const gdni::DeviceGuard guard(device);
    return guard.error() != cudaSuccess ? guard.error() : cudaStreamWaitEvent(after, event, 0);
}

int gdni_cuda_event_reach(int device, gdni_event event) {
    const gdni::DeviceGuard guard(device);
    return guard.error() != cudaSuccess ? guard.error() : cudaEventSynchronize(event);
}

int gdni_cuda_event_seconds(int device, gdni_event from, gdni_event to, double *seconds) {
    const gdni::DeviceGuard guard(device);
    float milliseconds = 0;
    if (guard.error() != cudaSuccess)
        return guard.error();
    const cudaError_t error = cudaEventElapsedTime(&milliseconds, from, to);
    *seconds = 1e-3 * milliseconds;
    return error;
}

int gdni_cuda_record_begin(int device, gdn_stream stream) {
    const gdni::DeviceGuard guard(device);
    return guard.error() != cudaSuccess
               ? guard.error()
               : cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
}

int gdni_cuda_record_end(int device, gdn_stream stream, gdni_graph *graph) {
    const gdni::DeviceGuard guard(device);
    cudaGraph_t recorded = nullptr;
    *graph = nullptr;
    if (guard.error() != cudaSuccess)
        return guard.error();
    cudaError_t error = cudaStreamEndCapture(stream, &recorded);
    if (error == cudaSuccess)
        error = cudaGraphInstantiate(graph, recorded, 0);
    if (recorded)
        cudaGraphDestroy(recorded);
    return error;
}

int gdni_cuda_graph_replay(int device, gdni_graph graph, gdn_stream stream) {
    const gdni::DeviceGuard guard(device);
    return guard.error() != cudaSuccess ? guard.error() : cudaGraphLaunch(graph, stream);
}

void gdni_cuda_graph_destroy(int device, gdni_graph graph) {
    const gdni::DeviceGuard guard(device);
    cudaGraphExecDestroy(graph);
}

int gdni_cuda_memory_used(int device, size_t *bytes) {
    const gdni::DeviceGuard guard(device);
    size_t free = 0, total = 0;
    if (guard.error() != cudaSuccess)
        return guard.error();
    const cudaError_t error = cudaMemGetInfo(&free, &total);
    *bytes = total - free;
    return error;
}
