/*
 * The parts' calls with a part of unknown type, for tables: NAME_forward_, NAME_backward_,
 * NAME_bytes_ and the like.
 */
#ifndef GDN_TEST_PART_CALLS_H
#define GDN_TEST_PART_CALLS_H

#include "gdn_layer.h"
#include "gdn_model.h"

#define PART_CALL(name, type)                                                                      \
    static inline gdn_status name##_(const gdn_context *context, const void *part,                 \
                                     gdn_stream stream) {                                          \
        return gdn_##name(context, (const gdn_##type *)part, stream);                              \
    }
#define PART_PASSES(name) PART_CALL(name##_forward, name) PART_CALL(name##_backward, name)
#define PART_BYTES(name)                                                                           \
    static inline gdn_status name##_bytes_(const gdn_context *context, const void *part,           \
                                           size_t *bytes) {                                        \
        return gdn_##name##_workspace(context, (const gdn_##name *)part, bytes);                   \
    }

PART_PASSES(conv1d)
PART_BYTES(conv1d)
PART_PASSES(l2norm)
PART_PASSES(gate)
PART_BYTES(gate)
PART_PASSES(gated_rmsnorm)
PART_BYTES(gated_rmsnorm)
PART_PASSES(linear)
PART_BYTES(linear)
PART_PASSES(embedding)
PART_BYTES(embedding)
PART_PASSES(rmsnorm)
PART_BYTES(rmsnorm)
PART_PASSES(swiglu)
PART_CALL(cross_entropy_compute, cross_entropy)
PART_BYTES(cross_entropy)
PART_CALL(adamw_step, adamw)
PART_CALL(grad_norm_compute, grad_norm)
PART_BYTES(grad_norm)

#endif /* GDN_TEST_PART_CALLS_H */
