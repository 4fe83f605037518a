/* Buffers of one call in the dtype that it runs in. */
#ifndef GDNI_EVALUATE_H
#define GDNI_EVALUATE_H

#include "check.h"

/* Memory of one call: released together. */
typedef struct gdni_buffers {
    void *data[32];
    int count;
    const gdn_context *device; /* whose device holds them; NULL: host memory */
} gdni_buffers;

/* Memory on a 256-byte boundary; on a device every bit is set. */
gdn_status gdni_reserve(gdni_buffers *b, size_t bytes, void **out);
/* Converts from float64; NULL stays NULL. BAD_DATA: a finite value that overflows dtype. */
gdn_status gdni_upload(gdni_buffers *b, const gdni_shape *s, gdn_dtype dtype, const double *from,
                       const void **out);
/* Memory for what goes to `to`; NULL stays NULL. Every bit is set, which is a NaN in every type:
 * what the backend leaves out is seen. */
gdn_status gdni_reserve_output(gdni_buffers *b, const gdni_shape *s, gdn_dtype dtype,
                               const double *to, void **out);
/* Converts to float64; does nothing if `to` is NULL. */
gdn_status gdni_download(const gdni_buffers *b, const gdni_shape *s, gdn_dtype dtype,
                         const void *from, double *to);
void gdni_release(gdni_buffers *b);

#endif /* GDNI_EVALUATE_H */
