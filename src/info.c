/* What this build contains and what this machine has. */
#include "internal.h"

#include <stdio.h>

#ifdef GDNI_HAVE_CUDA
#include "launch.h"
#endif

const char *gdn_build_features(void) {
    return "cpu openmp"
#ifdef GDNI_HAVE_BLAS
           " blas"
#endif
#ifdef GDNI_HAVE_CUDA
           " cuda"
#endif
        ;
}

int32_t gdn_device_count(void) {
#ifdef GDNI_HAVE_CUDA
    return gdni_cuda_device_count();
#else
    return 0;
#endif
}

gdn_status gdn_device_describe(int32_t device, char *text, size_t size) {
    gdni_clear_error();
    GDNI_REQUIRE(text != NULL && size > 0, "gdn_device_describe: text is NULL or size is 0");
    const int32_t count = gdn_device_count();
    if (device < 0 || device >= count)
        return gdni_fail(GDN_STATUS_NO_BACKEND,
                         "gdn_device_describe: device is %d, but this build sees %d CUDA devices",
                         device, count);
#ifdef GDNI_HAVE_CUDA
    gdni_device_info info;
    const int error = gdni_cuda_device_info(device, &info);
    if (error)
        return gdni_fail(GDN_STATUS_CUDA_ERROR,
                         "gdn_device_describe: device %d: cudaGetDeviceProperties gave error %d",
                         device, error);
    snprintf(text, size, "%s, compute capability %d.%d, %d multiprocessors, %.1f GiB", info.name,
             info.major, info.minor, info.multiprocessors, (double)info.memory / (1 << 30));
#endif
    return GDN_STATUS_OK;
}
