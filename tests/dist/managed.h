/* Managed memory for tests of messages that MPI gets pointers to a device's memory for: any MPI can
 * read it. */
#ifndef GDN_TEST_MANAGED_H
#define GDN_TEST_MANAGED_H

#include "machine.h"

#include <cuda_runtime_api.h>

/* Before MPI is initialised: without copies from process to process by the kernel, which may refuse
 * pages that are the device's. */
static inline void managed_begin(void) {
    setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
}

/* Every bit of it set. */
static inline gdn_status machine_managed(size_t bytes, void **data) {
    const cudaError_t error = cudaMallocManaged(data, bytes ? bytes : 1, cudaMemAttachGlobal);
    return error == cudaSuccess && cudaMemset(*data, 0xff, bytes) == cudaSuccess
               ? GDN_STATUS_OK
               : GDN_STATUS_OUT_OF_MEMORY;
}

#endif /* GDN_TEST_MANAGED_H */
