/*
 * The operator of layers on a CUDA device in a dtype of its own, while all else runs on the host in
 * fp32.
 *
 * For every layer, forward rounds q, k, v to the device's dtype, copies them with g and beta, and
 * brings o back; what it copied and saved stays on the device until that layer's backward, which
 * copies do and brings the gradients back. All memory is allocated once; one stream, on which each
 * call waits.
 */
#ifndef GDNI_TESTS_DEVICE_OPERATOR_H
#define GDNI_TESTS_DEVICE_OPERATOR_H

#include "gdn.h"
#include "gdn_layer.h"

typedef struct gdni_device gdni_device;

/* Where the operator runs. */
typedef struct gdni_device_setup {
    const gdn_context *context; /* CUDA; outlives the device */
    gdn_dtype dtype;
    uint32_t flags; /* GDN_FLAG_SAVE_...: what forward keeps for backward */
} gdni_device_setup;

/* For `blocks` layers of this shape, which all have sequences of equal length and no states.
 * UNSUPPORTED, OUT_OF_MEMORY, CUDA_ERROR; NO_BACKEND in a build without CUDA. */
gdn_status gdni_device_create(gdni_device **out, const gdni_device_setup *setup,
                              const gdn_layer *layer, int32_t blocks);
void gdni_device_destroy(gdni_device *device);

/* One call's hooks, for gdn_layer_tensors; save: a backward of this block follows. */
typedef struct gdni_device_call {
    gdni_device *device;
    int32_t block, save;
    gdn_layer_hooks hooks;
} gdni_device_call;

const gdn_layer_hooks *gdni_device_hooks(gdni_device *device, int32_t block, int save,
                                         gdni_device_call *call);

#endif /* GDNI_TESTS_DEVICE_OPERATOR_H */
