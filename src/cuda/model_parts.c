/* The parts of a model on the cuda backend: what they need of a workspace, and the way to their
 * kernels. */
#include "cuda/device.h"
#include "cuda/parts.h"
#include "model/model.h"

#include <stdint.h>

static gdn_status enqueued(const char *function, const gdn_context *context, int code) {
    if (code)
        return gdni_fail(GDN_STATUS_CUDA_ERROR, "%s: device %d: %s", function, context->device,
                         gdni_model_error_text(code));
    return GDN_STATUS_OK;
}

static gdn_status check_workspace(const char *function, const void *workspace, size_t size,
                                  size_t needed) {
    if (needed == 0)
        return GDN_STATUS_OK;
    GDNI_REQUIRE(size >= needed, "%s: workspace_size is %zu, expected at least %zu bytes", function,
                 size, needed);
    GDNI_REQUIRE(workspace != NULL, "%s: workspace is NULL, expected memory", function);
    GDNI_REQUIRE((uintptr_t)workspace % 256 == 0,
                 "%s: workspace is at %p, expected a multiple of 256", function, workspace);
    return GDN_STATUS_OK;
}

static gdn_status linear_forward(const gdni_cuda_device *device, const gdn_context *context,
                                 const gdn_linear *p, gdn_stream stream) {
    const gdni_product y = {.in = p->dtype,
                            .out = p->dtype,
                            .trans_b = 1,
                            .m = p->T,
                            .n = p->out,
                            .k = p->in,
                            .a = p->x,
                            .b = p->weight,
                            .c = p->y,
                            .workspace = p->workspace};
    return enqueued("gdn_linear_forward", context, gdni_product_enqueue(device, &y, stream));
}

static gdn_status linear_backward(const gdni_cuda_device *device, const gdn_context *context,
                                  const gdn_linear *p, gdn_stream stream) {
    static const char *const function = "gdn_linear_backward";
    const gdni_product dx = {.in = p->dtype,
                             .out = p->dtype,
                             .accumulate = p->accumulate_dx,
                             .m = p->T,
                             .n = p->in,
                             .k = p->out,
                             .a = p->dy,
                             .b = p->weight,
                             .c = p->dx,
                             .workspace = p->workspace};
    const gdni_product dweight = {.in = p->dtype,
                                  .out = GDN_DTYPE_FP32,
                                  .trans_a = 1,
                                  .accumulate = p->accumulate,
                                  .m = p->out,
                                  .n = p->in,
                                  .k = p->T,
                                  .a = p->dy,
                                  .b = p->x,
                                  .c = p->dweight,
                                  .workspace = p->workspace};
    if (p->dx)
        GDN_TRY(enqueued(function, context, gdni_product_enqueue(device, &dx, stream)));
    if (p->dweight)
        GDN_TRY(enqueued(function, context, gdni_product_enqueue(device, &dweight, stream)));
    return GDN_STATUS_OK;
}

GDNI_CUDA_PART(linear) {
    const gdni_cuda_device device = gdni_device_of(context);
    GDN_TRY(check_workspace(backward ? "gdn_linear_backward" : "gdn_linear_forward",
                            part->workspace, part->workspace_size, GDNI_PRODUCT_WORKSPACE));
    return backward ? linear_backward(&device, context, part, stream)
                    : linear_forward(&device, context, part, stream);
}

GDNI_CUDA_PART(embedding) {
    const char *const function = backward ? "gdn_embedding_backward" : "gdn_embedding_forward";
    const gdni_cuda_device device = gdni_device_of(context);
    if (backward)
        GDN_TRY(check_workspace(function, part->workspace, part->workspace_size,
                                gdni_embedding_bytes(part)));
    return enqueued(function, context, gdni_embedding_enqueue(&device, part, backward, stream));
}

GDNI_CUDA_PART(rmsnorm) {
    const char *const function = backward ? "gdn_rmsnorm_backward" : "gdn_rmsnorm_forward";
    const gdni_cuda_device device = gdni_device_of(context);
    if (backward)
        GDN_TRY(check_workspace(function, part->workspace, part->workspace_size,
                                gdni_rmsnorm_bytes(&device, part)));
    return enqueued(function, context, gdni_rmsnorm_enqueue(&device, part, backward, stream));
}

GDNI_CUDA_PART(swiglu) {
    const gdni_cuda_device device = gdni_device_of(context);
    return enqueued(backward ? "gdn_swiglu_backward" : "gdn_swiglu_forward", context,
                    gdni_swiglu_enqueue(&device, part, backward, stream));
}

GDNI_CUDA_PART(cross_entropy) {
    static const char *const function = "gdn_cross_entropy_compute";
    const gdni_cuda_device device = gdni_device_of(context);
    (void)backward;
    GDN_TRY(check_workspace(function, part->workspace, part->workspace_size,
                            gdni_cross_entropy_bytes(part)));
    return enqueued(function, context, gdni_cross_entropy_enqueue(&device, part, stream));
}

GDNI_CUDA_PART(adamw) {
    const gdni_cuda_device device = gdni_device_of(context);
    (void)backward;
    return enqueued("gdn_adamw_step", context, gdni_adamw_enqueue(&device, part, stream));
}

GDNI_CUDA_PART(grad_norm) {
    static const char *const function = "gdn_grad_norm_compute";
    const gdni_cuda_device device = gdni_device_of(context);
    (void)backward;
    GDN_TRY(
        check_workspace(function, part->workspace, part->workspace_size, gdni_grad_norm_bytes()));
    return enqueued(function, context, gdni_grad_norm_enqueue(&device, part, stream));
}

/* Products that cannot be had are refused by the calls, with the reason. */
GDNI_CUDA_PART_BYTES(linear) {
    const gdni_cuda_device device = gdni_device_of(context);
    (void)part;
    (void)gdni_product_ready(&device);
    return GDNI_PRODUCT_WORKSPACE;
}

GDNI_CUDA_PART_BYTES(embedding) {
    (void)context;
    return gdni_embedding_bytes(part);
}

GDNI_CUDA_PART_BYTES(rmsnorm) {
    const gdni_cuda_device device = gdni_device_of(context);
    return gdni_rmsnorm_bytes(&device, part);
}

GDNI_CUDA_PART_BYTES(cross_entropy) {
    const gdni_cuda_device device = gdni_device_of(context);
    (void)gdni_product_ready(&device);
    return gdni_cross_entropy_bytes(part);
}

GDNI_CUDA_PART_BYTES(grad_norm) {
    (void)context;
    (void)part;
    return gdni_grad_norm_bytes();
}
