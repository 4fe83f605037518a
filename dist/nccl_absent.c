/* Builds without NCCL. */
#include "group.h"

int32_t gdn_dist_nccl_version(void) {
    return 0;
}

gdn_status gdn_dist_use_nccl(gdn_dist *dist, const gdn_context *context, const void *communicator) {
    return gdni_fail(GDN_STATUS_NO_BACKEND, "gdn_dist_use_nccl: NCCL is not part of this build");
}

gdn_status gdn_dist_allocate(gdn_dist *dist, size_t bytes, void **memory) {
    return gdni_fail(GDN_STATUS_NO_BACKEND, "gdn_dist_allocate: NCCL is not part of this build");
}

void gdn_dist_release(gdn_dist *dist, void *memory) {}

int32_t gdni_nccl_device(const struct gdni_nccl *nccl) {
    return -1;
}

gdn_status gdni_nccl_check(struct gdni_nccl *nccl) {
    return GDN_STATUS_OK;
}

void gdni_nccl_release(struct gdni_nccl *nccl) {}

void gdni_nccl_destroy(struct gdni_nccl *nccl, int32_t failed) {}
