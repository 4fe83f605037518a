/* Device memory for checks and the gdn command, which hand host data to any backend. */
#ifndef GDNI_CUDA_MEMORY_H
#define GDNI_CUDA_MEMORY_H

#include "internal.h"

#ifdef GDNI_HAVE_CUDA
/* Memory of the context's device, every bit of it set. */
gdn_status gdni_device_allocate(const gdn_context *context, size_t bytes, void **out);
void gdni_device_release(const gdn_context *context, void *memory);
/* Either way; waits for the device's work first. */
gdn_status gdni_device_copy(const gdn_context *context, void *to, const void *from, size_t bytes);
#else
/* No context has a device here. */
static inline gdn_status gdni_device_allocate(const gdn_context *context, size_t bytes,
                                              void **out) {
    *out = NULL;
    return gdni_fail(GDN_STATUS_NO_BACKEND, "backend cuda is not part of this build");
}
static inline void gdni_device_release(const gdn_context *context, void *memory) {}
static inline gdn_status gdni_device_copy(const gdn_context *context, void *to, const void *from,
                                          size_t bytes) {
    return gdni_fail(GDN_STATUS_NO_BACKEND, "backend cuda is not part of this build");
}
#endif

#endif /* GDNI_CUDA_MEMORY_H */
