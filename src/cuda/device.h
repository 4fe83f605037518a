/* A context's device, as launches want it. */
#ifndef GDNI_CUDA_DEVICE_H
#define GDNI_CUDA_DEVICE_H

#include "internal.h"
#include "launch.h"

static inline gdni_cuda_device gdni_device_of(const gdn_context *context) {
    const gdni_cuda_device device = {.ordinal = context->device,
                                     .multiprocessors = context->multiprocessors,
                                     .capability = context->capability,
                                     .shared_memory = context->shared_memory};
    return device;
}

#endif /* GDNI_CUDA_DEVICE_H */
