// Kernels that are launched while the one before them on the stream still runs.
#pragma once

#include "hopper/launch.h"
#include "launch.h"
#include "portable/stages.h"

namespace gdni {

// Whether this device's kernels know how to wait for the one before: those built for 9.0 do.
inline bool can_start_early(const gdni_cuda_device *device) {
    constexpr int BUILT[] = {__CUDA_ARCH_LIST__};
    bool any = false;
    for (const int arch : BUILT) {
        any = any || arch == 900;
        if (arch < 900 && device->capability > 90)
            return false; // it may be this one that is compiled for the device
    }
    return any && device->capability >= 90;
}

// Enqueues a kernel of which every CTA begins with wait_for_previous. It is launched as soon as all
// CTAs of the one before it have called let_next_start or ended.
template <typename... Parameters>
cudaError_t launch_next(const gdni_cuda_device *device, void (*kernel)(Parameters...), dim3 grid,
                        int threads, cudaStream_t stream, Parameters... values) {
    return can_start_early(device)
               ? hopper::launch_early(kernel, grid, threads, 0, stream, values...)
               : launch_kernel(kernel, grid, threads, 0, stream, values...);
}

} // namespace gdni
