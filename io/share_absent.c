/* Without a parallel HDF5 every rank opens a dataset for itself. */
#include "internal.h"

int32_t gdn_io_can_share(void) {
    return 0;
}

gdn_status gdn_io_dataset_share(gdn_io_dataset *dataset, const void *communicator) {
    gdni_clear_error();
    return gdni_fail(GDN_STATUS_UNSUPPORTED,
                     "gdn_io_dataset_share: this build has no parallel HDF5");
}
