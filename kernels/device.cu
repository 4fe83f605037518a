// The CUDA devices of this machine, and memory on them.
#include "guard.h"
#include "launch.h"

#include <cstdio>
#include <cstring>

#include <cuda_runtime.h>

int gdni_cuda_device_count(void) {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

int gdni_cuda_device_info(int device, gdni_device_info *info) {
    cudaDeviceProp properties;
    const cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error != cudaSuccess)
        return static_cast<int>(error);
    std::snprintf(info->name, sizeof(info->name), "%s", properties.name);
    info->major = properties.major;
    info->minor = properties.minor;
    info->multiprocessors = properties.multiProcessorCount;
    info->memory = properties.totalGlobalMem;
    info->shared_memory = properties.sharedMemPerBlockOptin;
    static_assert(sizeof(info->uuid) == sizeof(properties.uuid), "bytes of a UUID");
    std::memcpy(info->uuid, &properties.uuid, sizeof(info->uuid));
    return 0;
}

const char *gdni_cuda_error_text(int error) {
    return cudaGetErrorString(static_cast<cudaError_t>(error));
}

int gdni_cuda_allocate(int device, size_t bytes, void **out) {
    const gdni::DeviceGuard guard(device);
    if (guard.error() != cudaSuccess)
        return guard.error();
    const cudaError_t error = cudaMalloc(out, bytes ? bytes : 1);
    return error != cudaSuccess ? error : cudaMemset(*out, 0xff, bytes);
}

void gdni_cuda_release(int device, void *memory) {
    const gdni::DeviceGuard guard(device);
    cudaFree(memory);
}

int gdni_cuda_copy(int device, void *to, const void *from, size_t bytes) {
    const gdni::DeviceGuard guard(device);
    if (guard.error() != cudaSuccess)
        return guard.error();
    const cudaError_t error = cudaDeviceSynchronize();
    return error != cudaSuccess ? error : cudaMemcpy(to, from, bytes, cudaMemcpyDefault);
}

int gdni_cuda_stream_create(int device, gdn_stream *stream) {
    const gdni::DeviceGuard guard(device);
    return guard.error() != cudaSuccess ? guard.error() : cudaStreamCreate(stream);
}

void gdni_cuda_stream_destroy(int device, gdn_stream stream) {
    const gdni::DeviceGuard guard(device);
    cudaStreamDestroy(stream);
}

int gdni_cuda_stream_wait(int device, gdn_stream stream) {
    const gdni::DeviceGuard guard(device);
    return guard.error() != cudaSuccess ? guard.error() : cudaStreamSynchronize(stream);
}

int gdni_cuda_stream_copy(int device, void *to, const void *from, size_t bytes, gdn_stream stream) {
    const gdni::DeviceGuard guard(device);
    if (guard.error() != cudaSuccess)
        return guard.error();
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream);
}

int gdni_cuda_side_stream_create(int device, gdn_stream *stream) {
    const gdni::DeviceGuard guard(device);
    int least = 0, greatest = 0;
    if (guard.error() != cudaSuccess)
        return guard.error();
    const cudaError_t error = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (error != cudaSuccess)
        return error;
    return cudaStreamCreateWithPriority(stream, cudaStreamNonBlocking, greatest);
}

int gdni_cuda_stream_zero(int device, void *to, size_t bytes, gdn_stream stream) {
    const gdni::DeviceGuard guard(device);
    return guard.error() != cudaSuccess ? guard.error() : cudaMemsetAsync(to, 0, bytes, stream);
}

int gdni_cuda_event_create(int device, gdni_event *event) {
    const gdni::DeviceGuard guard(device);
    if (guard.error() != cudaSuccess)
        return guard.error();
    return cudaEventCreateWithFlags(event, cudaEventDisableTiming);
}

void gdni_cuda_event_destroy(int device, gdni_event event) {
    const gdni::DeviceGuard guard(device);
    cudaEventDestroy(event);
}

int gdni_cuda_stream_follow(int device, gdn_stream after, gdn_stream before, gdni_event event) {
    const gdni::DeviceGuard guard(device);
    if (guard.error() != cudaSuccess)
        return guard.error();
    const cudaError_t error = cudaEventRecord(event, before);
    return error != cudaSuccess ? error : cudaStreamWaitEvent(after, event, 0);
}

int gdni_cuda_device_enter(int device, int *before) {
    const cudaError_t error = cudaGetDevice(before);
    return error != cudaSuccess ? error : cudaSetDevice(device);
}

void gdni_cuda_device_leave(int before) {
    cudaSetDevice(before);
}

int gdni_cuda_pin(int device, size_t bytes, void **out) {
    const gdni::DeviceGuard guard(device);
    return guard.error() != cudaSuccess ? guard.error() : cudaMallocHost(out, bytes ? bytes : 1);
}

void gdni_cuda_unpin(int device, void *memory) {
    const gdni::DeviceGuard guard(device);
    cudaFreeHost(memory);
}
