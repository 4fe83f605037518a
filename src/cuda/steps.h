/* What the trainer takes from the cuda backend beside memory.h; kernels/launch.h says what each
 * does. In builds with CUDA. */
#ifndef GDNI_CUDA_STEPS_H
#define GDNI_CUDA_STEPS_H

#include "internal.h"
#include "launch.h"

GDN_API gdn_status gdni_device_timed_event_create(const gdn_context *context, gdni_event *event);
GDN_API gdn_status gdni_device_event_record(const gdn_context *context, gdni_event event,
                                            gdn_stream stream);
GDN_API gdn_status gdni_device_event_follow(const gdn_context *context, gdn_stream after,
                                            gdni_event event);
/* Errors are also those of the work before; what: for the line about it. */
GDN_API gdn_status gdni_device_event_reach(const gdn_context *context, gdni_event event,
                                           const char *what);
GDN_API gdn_status gdni_device_event_seconds(const gdn_context *context, gdni_event from,
                                             gdni_event to, double *seconds);
GDN_API gdn_status gdni_device_record_begin(const gdn_context *context, gdn_stream stream);
GDN_API gdn_status gdni_device_record_end(const gdn_context *context, gdn_stream stream,
                                          gdni_graph *graph);
GDN_API gdn_status gdni_device_graph_replay(const gdn_context *context, gdni_graph graph,
                                            gdn_stream stream);
GDN_API void gdni_device_graph_destroy(const gdn_context *context, gdni_graph graph);
GDN_API gdn_status gdni_device_memory_used(const gdn_context *context, size_t *bytes);
GDN_API gdn_status gdni_device_scale(const gdn_context *context, float *data, int64_t count,
                                     float factor, gdn_stream stream);

#endif /* GDNI_CUDA_STEPS_H */
