// Queries of the CUDA devices of this machine.
#include "launch.h"

#include <cstdio>

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
    return 0;
}

const char *gdni_cuda_error_text(int error) {
    return cudaGetErrorString(static_cast<cudaError_t>(error));
}
