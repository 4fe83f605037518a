#include "cuda/parts.h"

#include "internal.h"

GDNI_CUDA_PART(conv1d) {
    (void)part;
    (void)backward;
    (void)stream;
    return gdni_fail(GDN_STATUS_UNSUPPORTED, "conv1d: backend is %s, expected reference or cpu",
                     gdn_backend_name(context->backend));
}

GDNI_CUDA_PART(l2norm) {
    (void)part;
    (void)backward;
    (void)stream;
    return gdni_fail(GDN_STATUS_UNSUPPORTED, "l2norm: backend is %s, expected reference or cpu",
                     gdn_backend_name(context->backend));
}

GDNI_CUDA_PART(gate) {
    (void)part;
    (void)backward;
    (void)stream;
    return gdni_fail(GDN_STATUS_UNSUPPORTED, "gate: backend is %s, expected reference or cpu",
                     gdn_backend_name(context->backend));
}

GDNI_CUDA_PART(gated_rmsnorm) {
    (void)part;
    (void)backward;
    (void)stream;
    return gdni_fail(GDN_STATUS_UNSUPPORTED,
                     "gated_rmsnorm: backend is %s, expected reference or cpu",
                     gdn_backend_name(context->backend));
}

GDNI_CUDA_PART_BYTES(conv1d) {
    (void)context;
    (void)part;
    return 0;
}

GDNI_CUDA_PART_BYTES(gate) {
    (void)context;
    (void)part;
    return 0;
}

GDNI_CUDA_PART_BYTES(gated_rmsnorm) {
    (void)context;
    (void)part;
    return 0;
}
