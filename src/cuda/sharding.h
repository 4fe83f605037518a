/* What gdn_dist takes from the cuda backend: the kernels of kernels/sharding.cu, and what messages
 * of another library on a stream of their own need. In builds with CUDA. */
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
/* A stream for messages beside the caller's, and events to tie the two together. */
GDN_API gdn_status gdni_device_side_stream(const gdn_context *context, gdn_stream *stream);
GDN_API gdn_status gdni_device_event_create(const gdn_context *context, gdni_event *event);
GDN_API void gdni_device_event_destroy(const gdn_context *context, gdni_event event);
/* `after` goes on once what `before` has now is done. */
GDN_API gdn_status gdni_device_follow(const gdn_context *context, gdn_stream after,
                                      gdn_stream before, gdni_event event);
/* See gdni_sharding_mark. */
GDN_API gdn_status gdni_device_mark(const gdn_context *context, uint32_t *words, uint32_t what,
                                    gdn_stream stream);
/* Makes the context's device current for calls of another library; *before: the one that was. */
GDN_API gdn_status gdni_device_enter(const gdn_context *context, int *before);
GDN_API void gdni_device_leave(int before);
/* 16 bytes that tell the device from all others. */
GDN_API gdn_status gdni_device_uuid(const gdn_context *context, unsigned char *uuid);

#endif /* GDNI_CUDA_SHARDING_H */
