/* The parts of a layer on the device: the workspace they are given, and the way to their kernels.
 */
#include "cuda/device.h"
#include "cuda/parts.h"
#include "layer/launch.h"

/* Forward needs no workspace. */
static gdn_status check_workspace(const char *part, int backward, const void *workspace,
                                  size_t given, size_t needed) {
    if (!backward || needed == 0)
        return GDN_STATUS_OK;
    GDNI_REQUIRE(workspace && (uintptr_t)workspace % 256 == 0 && given >= needed,
                 "gdn_%s_backward: workspace is %zu bytes at %p, expected %zu at a multiple of 256",
                 part, given, workspace, needed);
    return GDN_STATUS_OK;
}

static gdn_status status_of(const char *part, int backward, const gdn_context *context, int error) {
    if (error)
        return gdni_fail(GDN_STATUS_CUDA_ERROR, "gdn_%s_%s: device %d: %s", part,
                         backward ? "backward" : "forward", context->device,
                         gdni_cuda_error_text(error));
    return GDN_STATUS_OK;
}

GDNI_CUDA_PART(conv1d) {
    const gdni_cuda_device device = gdni_device_of(context);
    GDN_TRY(check_workspace("conv1d", backward, part->workspace, part->workspace_size,
                            gdni_layer_conv1d_workspace(&device, part)));
    return status_of("conv1d", backward, context,
                     gdni_layer_conv1d(&device, part, backward, stream));
}

GDNI_CUDA_PART(l2norm) {
    const gdni_cuda_device device = gdni_device_of(context);
    return status_of("l2norm", backward, context,
                     gdni_layer_l2norm(&device, part, backward, stream));
}

GDNI_CUDA_PART(gate) {
    const gdni_cuda_device device = gdni_device_of(context);
    GDN_TRY(check_workspace("gate", backward, part->workspace, part->workspace_size,
                            gdni_layer_gate_workspace(part)));
    return status_of("gate", backward, context, gdni_layer_gate(&device, part, backward, stream));
}

GDNI_CUDA_PART(gated_rmsnorm) {
    const gdni_cuda_device device = gdni_device_of(context);
    GDN_TRY(check_workspace("gated_rmsnorm", backward, part->workspace, part->workspace_size,
                            gdni_layer_gated_rmsnorm_workspace(part)));
    return status_of("gated_rmsnorm", backward, context,
                     gdni_layer_gated_rmsnorm(&device, part, backward, stream));
}

GDNI_CUDA_PART_BYTES(conv1d) {
    const gdni_cuda_device device = gdni_device_of(context);
    return gdni_layer_conv1d_workspace(&device, part);
}

GDNI_CUDA_PART_BYTES(gate) {
    (void)context;
    return gdni_layer_gate_workspace(part);
}

GDNI_CUDA_PART_BYTES(gated_rmsnorm) {
    (void)context;
    return gdni_layer_gated_rmsnorm_workspace(part);
}
