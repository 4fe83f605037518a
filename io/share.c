/* A dataset that the ranks of an MPI job read together; for the parallel HDF5. */
#include "dataset.h"

int32_t gdn_io_can_share(void) {
    return 1;
}

/* Takes the place of the file that this rank opened for itself. */
static gdn_status share(gdn_io_dataset *d, MPI_Comm communicator) {
    gdni_file file = {d->path, -1, d->file.bytes};
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (H5Pset_fapl_mpio(access, communicator, MPI_INFO_NULL) >= 0)
        file.id = H5Fopen(d->path, H5F_ACC_RDONLY, access);
    const gdn_status status =
        file.id >= 0 ? GDN_STATUS_OK
                     : gdni_h5_fail(GDN_STATUS_IO_ERROR, d->path, "cannot open through MPI-IO");
    H5Pclose(access);
    if (status == GDN_STATUS_OK) {
        gdni_file_close(&d->file);
        d->file = file;
    }
    return status;
}

gdn_status gdn_io_dataset_share(gdn_io_dataset *dataset, const void *communicator) {
    gdni_quiet quiet;
    int started = 0;
    gdni_clear_error();
    GDNI_REQUIRE(dataset, "gdn_io_dataset_share: dataset is NULL");
    MPI_Initialized(&started);
    GDNI_REQUIRE(started, "gdn_io_dataset_share: MPI is not initialised");
    gdni_quiet_begin(&quiet);
    const gdn_status status =
        share(dataset, communicator ? *(const MPI_Comm *)communicator : MPI_COMM_WORLD);
    gdni_quiet_end(&quiet);
    return status;
}
