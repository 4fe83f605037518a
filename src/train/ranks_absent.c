/* Without MPI a run is always alone. */
#include "error.h"
#include "ranks.h"

gdn_status gdni_ranks_open(gdni_ranks *ranks, gdn_dist *dist) {
    return gdni_fail(GDN_STATUS_UNSUPPORTED, "gdn train: this build has no MPI");
}

void gdni_ranks_close(gdni_ranks *ranks) {}
