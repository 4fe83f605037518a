/* A build without CUDA has the host's memory alone. */
#include "error.h"
#include "memory.h"

gdn_status gdni_memory_create_device(gdni_memory **out, const gdn_context *context) {
    *out = NULL;
    return gdni_fail(GDN_STATUS_NO_BACKEND, "backend cuda is not part of this build");
}
