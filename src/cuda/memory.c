#include "memory.h"
#include "launch.h"

gdn_status gdni_device_allocate(const gdn_context *context, size_t bytes, void **out) {
    const int error = gdni_cuda_allocate(context->device, bytes, out);
    if (error)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "device %d: no memory for %zu bytes: %s",
                         context->device, bytes, gdni_cuda_error_text(error));
    return GDN_STATUS_OK;
}

void gdni_device_release(const gdn_context *context, void *memory) {
    gdni_cuda_release(context->device, memory);
}

gdn_status gdni_device_copy(const gdn_context *context, void *to, const void *from, size_t bytes) {
    const int error = gdni_cuda_copy(context->device, to, from, bytes);
    if (error)
        return gdni_fail(GDN_STATUS_CUDA_ERROR, "device %d: a copy of %zu bytes: %s",
                         context->device, bytes, gdni_cuda_error_text(error));
    return GDN_STATUS_OK;
}
