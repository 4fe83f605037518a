#include "cuda/parts.h"

#include "internal.h"

GDNI_CUDA_PART(linear) {
    (void)part;
    (void)backward;
    (void)stream;
    return gdni_fail(GDN_STATUS_UNSUPPORTED, "linear: backend is %s, expected reference or cpu",
                     gdn_backend_name(context->backend));
}

GDNI_CUDA_PART(embedding) {
    (void)part;
    (void)backward;
    (void)stream;
    return gdni_fail(GDN_STATUS_UNSUPPORTED, "embedding: backend is %s, expected reference or cpu",
                     gdn_backend_name(context->backend));
}

GDNI_CUDA_PART(rmsnorm) {
    (void)part;
    (void)backward;
    (void)stream;
    return gdni_fail(GDN_STATUS_UNSUPPORTED, "rmsnorm: backend is %s, expected reference or cpu",
                     gdn_backend_name(context->backend));
}

GDNI_CUDA_PART(swiglu) {
    (void)part;
    (void)backward;
    (void)stream;
    return gdni_fail(GDN_STATUS_UNSUPPORTED, "swiglu: backend is %s, expected reference or cpu",
                     gdn_backend_name(context->backend));
}

GDNI_CUDA_PART(cross_entropy) {
    (void)part;
    (void)backward;
    (void)stream;
    return gdni_fail(GDN_STATUS_UNSUPPORTED,
                     "cross_entropy: backend is %s, expected reference or cpu",
                     gdn_backend_name(context->backend));
}

GDNI_CUDA_PART(adamw) {
    (void)part;
    (void)backward;
    (void)stream;
    return gdni_fail(GDN_STATUS_UNSUPPORTED, "adamw: backend is %s, expected reference or cpu",
                     gdn_backend_name(context->backend));
}

GDNI_CUDA_PART(grad_norm) {
    (void)part;
    (void)backward;
    (void)stream;
    return gdni_fail(GDN_STATUS_UNSUPPORTED, "grad_norm: backend is %s, expected reference or cpu",
                     gdn_backend_name(context->backend));
}

GDNI_CUDA_PART_BYTES(linear) {
    (void)context;
    (void)part;
    return 0;
}

GDNI_CUDA_PART_BYTES(embedding) {
    (void)context;
    (void)part;
    return 0;
}

GDNI_CUDA_PART_BYTES(rmsnorm) {
    (void)context;
    (void)part;
    return 0;
}

GDNI_CUDA_PART_BYTES(cross_entropy) {
    (void)context;
    (void)part;
    return 0;
}

GDNI_CUDA_PART_BYTES(grad_norm) {
    (void)context;
    (void)part;
    return 0;
}
