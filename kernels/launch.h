/* What src/ sees of the CUDA code: C prototypes only. */
#ifndef GDNI_LAUNCH_H
#define GDNI_LAUNCH_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gdni_device_info {
    char name[256];
    int major, minor; /* compute capability */
    int multiprocessors;
    size_t memory; /* bytes */
} gdni_device_info;

/* Number of CUDA devices; 0 without a driver. */
int gdni_cuda_device_count(void);
/* 0, or the CUDA error code. */
int gdni_cuda_device_info(int device, gdni_device_info *info);

#ifdef __cplusplus
}
#endif

#endif /* GDNI_LAUNCH_H */
