// How the Hopper stages launch.
#pragma once

#include <cuda_runtime.h>

namespace gdni {
namespace hopper {

#define GDNI_CUDA_TRY(call)                                                                        \
    do {                                                                                           \
        const cudaError_t error_ = (call);                                                         \
        if (error_ != cudaSuccess)                                                                 \
            return error_;                                                                         \
    } while (0)

// Enqueues a kernel that may start before its predecessor on the stream has ended. Every CTA of it
// executes griddepcontrol_wait before it ends, so that its own end says that the predecessor has
// ended; and before it touches anything that another kernel writes or reads, unless it waits for
// that by itself (Arguments::arrivals).
template <typename... Parameters>
cudaError_t launch_early(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared,
                         cudaStream_t stream, Parameters... values) {
    if (grid.x == 0 || grid.y == 0)
        return cudaSuccess;
    const void *function = reinterpret_cast<const void *>(kernel);
    GDNI_CUDA_TRY(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(shared)));
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = &early;
    config.numAttrs = 1;
    void *arguments[] = {static_cast<void *>(&values)...};
    return cudaLaunchKernelExC(&config, function, arguments);
}

} // namespace hopper
} // namespace gdni
