/* What gdn_dist takes from the cuda backend: the kernels of kernels/sharding.cu. In builds
 * with CUDA. */
#ifndef GDNI_CUDA_SHARDING_H
#define GDNI_CUDA_SHARDING_H

#include "internal.h"
#include "launch.h"

GDN_API gdn_status gdni_device_decide(const gdn_context *context, const gdn_problem *problem,
                                      const gdn_tensors *tensors, const gdni_sharding_run *run,
                                      gdn_stream stream);
/* One state [Hv, K, V]; see gdni_sharding_choose. */
GDN_API gdn_status gdni_device_choose(const gdn_context *context, const gdn_problem *problem,
                                      void *to, const void *from, const int64_t *cut,
                                      gdn_stream stream);
/* One state [Hv, K, K] of ones and zeros. */
GDN_API gdn_status gdni_device_identity(const gdn_context *context, const gdn_problem *problem,
                                        void *to, gdn_stream stream);
GDN_API gdn_status gdni_device_apply(const gdn_context *context, const gdn_problem *problem,
                                     const gdni_sharding_step *step, gdn_stream stream);

#endif /* GDNI_CUDA_SHARDING_H */
