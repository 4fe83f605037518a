/* Contexts: which backend computes, on which device, with how many threads. */
#include "internal.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

const char *gdn_backend_name(gdn_backend backend) {
    switch (backend) {
    case GDN_BACKEND_AUTO:
        return "auto";
    case GDN_BACKEND_REFERENCE:
        return "reference";
    case GDN_BACKEND_CPU:
        return "cpu";
    case GDN_BACKEND_CUDA:
        return "cuda";
    }
    return "unknown";
}

gdn_status gdni_copy_struct(const char *name, void *to, size_t known, const void *from,
                            size_t size) {
    GDNI_REQUIRE(
        size >= sizeof(size_t) && size <= known,
        "%s: size is %zu, expected at most %zu (start from its GDN_..._INIT; a larger size "
        "means a newer header than this library)",
        name, size, known);
    memcpy(to, from, size);
    return GDN_STATUS_OK;
}

static gdn_backend default_backend(void) {
#ifdef GDNI_HAVE_CUDA
    if (gdn_device_count() > 0)
        return GDN_BACKEND_CUDA;
#endif
    return GDN_BACKEND_CPU;
}

static const gdni_backend_ops *find_ops(gdn_backend backend) {
    switch (backend) {
    case GDN_BACKEND_REFERENCE:
        return &gdni_reference_ops;
    case GDN_BACKEND_AUTO:
        break;
    case GDN_BACKEND_CPU:
        return &gdni_cpu_ops;
    case GDN_BACKEND_CUDA:
#ifdef GDNI_HAVE_CUDA
        return &gdni_cuda_ops;
#else
        break;
#endif
    }
    return NULL;
}

gdn_status gdn_context_create(gdn_context **context, const gdn_context_config *config) {
    gdn_context_config c = GDN_CONTEXT_CONFIG_INIT;
    gdni_clear_error();
    GDNI_REQUIRE(context != NULL, "gdn_context_create: context is NULL");
    *context = NULL;
    if (config)
        GDNI_COPY_STRUCT(&c, config, "gdn_context_create");
    GDNI_REQUIRE(c.backend >= GDN_BACKEND_AUTO && c.backend <= GDN_BACKEND_CUDA,
                 "gdn_context_create: backend is %d, expected a gdn_backend", (int)c.backend);
    GDNI_REQUIRE(c.threads >= 0, "gdn_context_create: threads is %d, expected 0 or more",
                 c.threads);
    GDNI_REQUIRE(c.device >= 0, "gdn_context_create: device is %d, expected 0 or more", c.device);
    GDNI_REQUIRE(c.kernels == GDN_KERNELS_AUTO || c.kernels == GDN_KERNELS_PORTABLE,
                 "gdn_context_create: kernels is %d, expected a gdn_kernels", (int)c.kernels);
    if (c.backend == GDN_BACKEND_AUTO)
        c.backend = default_backend();
    const gdni_backend_ops *ops = find_ops(c.backend);
    if (!ops)
        return gdni_fail(GDN_STATUS_NO_BACKEND,
                         "gdn_context_create: backend cuda is not part of this build");
    gdn_context *made = calloc(1, sizeof(*made));
    if (!made)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "gdn_context_create: out of memory");
    made->backend = c.backend;
    made->device = c.device;
    made->threads = c.threads ? c.threads : omp_get_max_threads();
    made->ops = ops;
#ifdef GDNI_HAVE_CUDA
    if (c.backend == GDN_BACKEND_CUDA) {
        const gdn_status status = gdni_cuda_context_init(made);
        if (status != GDN_STATUS_OK) {
            free(made);
            return status;
        }
        if (c.kernels == GDN_KERNELS_PORTABLE)
            made->capability = 80;
    }
#endif
    *context = made;
    return GDN_STATUS_OK;
}

void gdn_context_destroy(gdn_context *context) {
    free(context);
}

gdn_backend gdn_context_backend(const gdn_context *context) {
    return context ? context->backend : GDN_BACKEND_AUTO;
}

int32_t gdn_context_threads(const gdn_context *context) {
    return context ? context->threads : 0;
}
