/* Device memory and streams for checks, the trainer and the gdn command, which hand host data to
 * any backend. */
#ifndef GDNI_CUDA_MEMORY_H
#define GDNI_CUDA_MEMORY_H

#include "internal.h"

#ifdef GDNI_HAVE_CUDA
/* Memory of the context's device, every bit of it set. */
GDN_API gdn_status gdni_device_allocate(const gdn_context *context, size_t bytes, void **out);
GDN_API void gdni_device_release(const gdn_context *context, void *memory);
/* Either way; waits for the device's work first. */
GDN_API gdn_status gdni_device_copy(const gdn_context *context, void *to, const void *from,
                                    size_t bytes);

/* Page-locked memory of the host: what copies of a stream need to run beside the host. */
GDN_API gdn_status gdni_pinned_allocate(const gdn_context *context, size_t bytes, void **out);
GDN_API void gdni_pinned_release(const gdn_context *context, void *memory);
GDN_API gdn_status gdni_stream_create(const gdn_context *context, gdn_stream *stream);
GDN_API void gdni_stream_destroy(const gdn_context *context, gdn_stream stream);
/* Enqueues a copy, either way. */
GDN_API gdn_status gdni_stream_copy(const gdn_context *context, void *to, const void *from,
                                    size_t bytes, gdn_stream stream);
/* Waits for all that was enqueued; what: for the line about a failure. */
GDN_API gdn_status gdni_stream_wait(const gdn_context *context, gdn_stream stream,
                                    const char *what);
GDN_API gdn_status gdni_stream_zero(const gdn_context *context, void *to, size_t bytes,
                                    gdn_stream stream);
/* Enqueues sum[count] += term[count], fp32 or bf16. */
GDN_API gdn_status gdni_stream_add(const gdn_context *context, gdn_dtype dtype, void *sum,
                                   const void *term, int64_t count, gdn_stream stream);
#else
/* No context has a device here. */
static inline gdn_status gdni_no_device(void) {
    return gdni_fail(GDN_STATUS_NO_BACKEND, "backend cuda is not part of this build");
}
static inline gdn_status gdni_device_allocate(const gdn_context *context, size_t bytes,
                                              void **out) {
    *out = NULL;
    return gdni_no_device();
}
static inline void gdni_device_release(const gdn_context *context, void *memory) {}
static inline gdn_status gdni_device_copy(const gdn_context *context, void *to, const void *from,
                                          size_t bytes) {
    return gdni_no_device();
}
static inline gdn_status gdni_pinned_allocate(const gdn_context *context, size_t bytes,
                                              void **out) {
    *out = NULL;
    return gdni_no_device();
}
static inline void gdni_pinned_release(const gdn_context *context, void *memory) {}
static inline gdn_status gdni_stream_create(const gdn_context *context, gdn_stream *stream) {
    *stream = NULL;
    return gdni_no_device();
}
static inline void gdni_stream_destroy(const gdn_context *context, gdn_stream stream) {}
static inline gdn_status gdni_stream_copy(const gdn_context *context, void *to, const void *from,
                                          size_t bytes, gdn_stream stream) {
    return gdni_no_device();
}
static inline gdn_status gdni_stream_wait(const gdn_context *context, gdn_stream stream,
                                          const char *what) {
    return gdni_no_device();
}
static inline gdn_status gdni_stream_zero(const gdn_context *context, void *to, size_t bytes,
                                          gdn_stream stream) {
    return gdni_no_device();
}
static inline gdn_status gdni_stream_add(const gdn_context *context, gdn_dtype dtype, void *sum,
                                         const void *term, int64_t count, gdn_stream stream) {
    return gdni_no_device();
}
#endif

/* In builds with CUDA: into how many segments, over all sequences, the last forward (or backward)
 * with these tensors cut the problem; waits for the device's work first. */
GDN_API gdn_status gdni_device_segments(const gdn_context *context, const gdn_problem *problem,
                                        const gdn_tensors *tensors, int backward,
                                        int64_t *segments);
/* In builds with CUDA: whether forward (or backward) with this problem makes a plan, which may cut
 * sequences; packed: cu_seqlens are given. Where not, segments = 1 changes nothing. */
GDN_API gdn_status gdni_device_plans(const gdn_context *context, const gdn_problem *problem,
                                     int packed, int backward, int *plans);

#endif /* GDNI_CUDA_MEMORY_H */
