/* Without MPI a run is always alone. */
#include "error.h"
#include "ranks.h"

gdn_status gdni_ranks_open(gdni_ranks *ranks, gdn_dist *dist) {
    return gdni_fail(GDN_STATUS_UNSUPPORTED, "gdn train: this build has no MPI");
}

void gdni_ranks_close(gdni_ranks *ranks) {}

gdn_status gdni_ranks_use_device(gdni_ranks *ranks, const gdn_context *context) {
    return GDN_STATUS_OK;
}
