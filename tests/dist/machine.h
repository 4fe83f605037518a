/* What computes a test's part, and its tensors where that wants them: the host's, or a copy. */
#ifndef GDN_TEST_MACHINE_H
#define GDN_TEST_MACHINE_H

#include "cuda/memory.h"
#include "gdn_dist.h"
#include "harness.h"

typedef struct machine {
    gdn_backend backend;
    gdn_kernels kernels;
    int plain; /* gdn_forward and gdn_backward in place of those over ranks */
    /* Before and after what each call puts on the stream; NULL: nothing. */
    void (*begin)(gdn_dist *dist, gdn_stream stream);
    void (*end)(gdn_dist *dist, gdn_stream stream);
} machine;

/* Ranks share the devices. */
static inline gdn_status machine_open(const machine *m, int32_t rank, gdn_context **context) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    const int32_t devices = m->backend == GDN_BACKEND_CUDA ? gdn_device_count() : 0;
    config.backend = m->backend;
    config.kernels = m->kernels;
    config.device = devices ? rank % devices : 0;
    config.threads = 1;
    return gdn_context_create(context, &config);
}

/* Where a test's memory of a device comes from; NULL: the library. */
static gdn_status (*machine_memory)(size_t bytes, void **data);

static inline gdn_status machine_allocate(const gdn_context *context, size_t bytes, void **data) {
    return machine_memory ? machine_memory(bytes, data)
                          : gdni_device_allocate(context, bytes, data);
}

static inline int on_device(const gdn_context *context) {
    return gdn_context_backend(context) == GDN_BACKEND_CUDA;
}

/* Memory of the context's that holds what the host's does. */
static inline gdn_status put(const gdn_context *context, void *host, size_t bytes, void **data) {
    *data = host;
    if (!host || !on_device(context))
        return GDN_STATUS_OK;
    const gdn_status status = machine_allocate(context, bytes, data);
    return status == GDN_STATUS_OK && bytes ? gdni_device_copy(context, *data, host, bytes)
                                            : status;
}

/* The other way, and the end of it. */
static inline gdn_status take_back(const gdn_context *context, void *host, size_t bytes,
                                   void *data) {
    if (!host || !on_device(context))
        return GDN_STATUS_OK;
    const gdn_status status = bytes ? gdni_device_copy(context, host, data, bytes) : GDN_STATUS_OK;
    gdni_device_release(context, data);
    return status;
}

/* Memory of the context's, every bit of it set, and its end. */
static inline gdn_status reserve(const gdn_context *context, size_t bytes, void **data) {
    if (on_device(context))
        return machine_allocate(context, bytes, data);
    *data = aligned_alloc(256, (bytes + 256) / 256 * 256);
    if (!*data)
        return GDN_STATUS_OUT_OF_MEMORY;
    memset(*data, 0xff, bytes);
    return GDN_STATUS_OK;
}

static inline void release(const gdn_context *context, void *data) {
    if (on_device(context))
        gdni_device_release(context, data);
    else
        free(data);
}

#endif /* GDN_TEST_MACHINE_H */
