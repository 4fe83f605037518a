#include "memory.h"
#include "device.h"
#include "plan/model.h"

/* What a CUDA call came to; the format names what was tried. */
#define STATUS(error, failure, format, ...)                                                        \
    ((error) ? gdni_fail(failure, "device %d: " format ": %s", context->device, __VA_ARGS__,       \
                         gdni_cuda_error_text(error))                                              \
             : GDN_STATUS_OK)

gdn_status gdni_device_allocate(const gdn_context *context, size_t bytes, void **out) {
    const int error = gdni_cuda_allocate(context->device, bytes, out);
    return STATUS(error, GDN_STATUS_OUT_OF_MEMORY, "no memory for %zu bytes", bytes);
}

gdn_status gdni_device_segments(const gdn_context *context, const gdn_problem *problem,
                                const gdn_tensors *tensors, int backward, int64_t *segments) {
    const gdni_cuda_device device = gdni_device_of(context);
    gdn_problem checked;
    int32_t items = 0;
    GDN_TRY(gdni_problem_check("gdni_device_segments", problem, &checked));
    GDN_TRY(gdni_device_copy(context, &items,
                             gdni_portable_item_count(&device, &checked, tensors, backward),
                             sizeof(items)));
    *segments = items / checked.Hv;
    return GDN_STATUS_OK;
}

gdn_status gdni_device_plans(const gdn_context *context, const gdn_problem *problem, int packed,
                             int backward, int *plans) {
    const gdni_plan_device device = {context->multiprocessors, context->capability,
                                     context->shared_memory};
    gdn_problem checked;
    int64_t shortest;
    GDN_TRY(gdni_problem_check("gdni_device_plans", problem, &checked));
    *plans = gdni_plan_max_borders(&device, &checked, packed, backward, &shortest) > 0;
    return GDN_STATUS_OK;
}

void gdni_device_release(const gdn_context *context, void *memory) {
    gdni_cuda_release(context->device, memory);
}

gdn_status gdni_device_copy(const gdn_context *context, void *to, const void *from, size_t bytes) {
    const int error = gdni_cuda_copy(context->device, to, from, bytes);
    return STATUS(error, GDN_STATUS_CUDA_ERROR, "a copy of %zu bytes", bytes);
}

gdn_status gdni_pinned_allocate(const gdn_context *context, size_t bytes, void **out) {
    const int error = gdni_cuda_pin(context->device, bytes, out);
    return STATUS(error, GDN_STATUS_OUT_OF_MEMORY, "no page-locked host memory for %zu bytes",
                  bytes);
}

void gdni_pinned_release(const gdn_context *context, void *memory) {
    gdni_cuda_unpin(context->device, memory);
}

gdn_status gdni_stream_create(const gdn_context *context, gdn_stream *stream) {
    const int error = gdni_cuda_stream_create(context->device, stream);
    return STATUS(error, GDN_STATUS_CUDA_ERROR, "%s", "making a stream");
}

void gdni_stream_destroy(const gdn_context *context, gdn_stream stream) {
    gdni_cuda_stream_destroy(context->device, stream);
}

gdn_status gdni_stream_copy(const gdn_context *context, void *to, const void *from, size_t bytes,
                            gdn_stream stream) {
    const int error = gdni_cuda_stream_copy(context->device, to, from, bytes, stream);
    return STATUS(error, GDN_STATUS_CUDA_ERROR, "a copy of %zu bytes", bytes);
}

gdn_status gdni_stream_wait(const gdn_context *context, gdn_stream stream, const char *what) {
    const int error = gdni_cuda_stream_wait(context->device, stream);
    return STATUS(error, GDN_STATUS_CUDA_ERROR, "%s", what);
}

gdn_status gdni_stream_zero(const gdn_context *context, void *to, size_t bytes, gdn_stream stream) {
    const int error = gdni_cuda_stream_zero(context->device, to, bytes, stream);
    return STATUS(error, GDN_STATUS_CUDA_ERROR, "clearing %zu bytes", bytes);
}

gdn_status gdni_stream_add(const gdn_context *context, gdn_dtype dtype, void *sum, const void *term,
                           int64_t count, gdn_stream stream) {
    const int error = gdni_sharding_add(context->device, dtype, sum, term, count, stream);
    return STATUS(error, GDN_STATUS_CUDA_ERROR, "adding %lld numbers", (long long)count);
}
