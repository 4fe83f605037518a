/* What src/ sees of the kernels of a layer's parts: C prototypes only. */
#ifndef GDNI_LAYER_LAUNCH_H
#define GDNI_LAYER_LAUNCH_H

#include "../launch.h"
#include "gdn_layer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Parts arrive checked, strides filled in, all memory the device's, workspace large enough. Each
 * call enqueues on stream and returns 0 or the CUDA error code. */
int gdni_layer_conv1d(const gdni_cuda_device *device, const gdn_conv1d *part, int backward,
                      gdn_stream stream);
int gdni_layer_l2norm(const gdni_cuda_device *device, const gdn_l2norm *part, int backward,
                      gdn_stream stream);
int gdni_layer_gate(const gdni_cuda_device *device, const gdn_gate *part, int backward,
                    gdn_stream stream);
int gdni_layer_gated_rmsnorm(const gdni_cuda_device *device, const gdn_gated_rmsnorm *part,
                             int backward, gdn_stream stream);

/* Bytes of workspace that backward needs; forward needs none. */
size_t gdni_layer_conv1d_workspace(const gdni_cuda_device *device, const gdn_conv1d *part);
size_t gdni_layer_gate_workspace(const gdn_gate *part);
size_t gdni_layer_gated_rmsnorm_workspace(const gdn_gated_rmsnorm *part);

#ifdef __cplusplus
}
#endif

#endif /* GDNI_LAYER_LAUNCH_H */
