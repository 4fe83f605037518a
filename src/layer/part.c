#include "part.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

gdn_status gdni_part_begin(const char *function, const gdn_context *context, void *copy,
                           size_t known, const void *part) {
    struct {
        size_t size;
        gdn_dtype dtype;
    } head; /* what every part begins with */
    gdni_clear_error();
    memset(copy, 0, known);
    GDNI_REQUIRE(part != NULL, "%s: part is NULL", function);
    memcpy(&head.size, part, sizeof(head.size));
    GDN_TRY(gdni_copy_struct(function, copy, known, part, head.size));
    memcpy(&head, copy, sizeof(head));
    return gdni_part_dtype(function, context, head.dtype);
}

gdn_status gdni_part_dtype(const char *function, const gdn_context *context, gdn_dtype dtype) {
    GDNI_REQUIRE(context != NULL, "%s: context is NULL", function);
    GDNI_REQUIRE(dtype >= GDN_DTYPE_FP32 && dtype <= GDN_DTYPE_FP64,
                 "%s: dtype is %d, expected a gdn_dtype", function, (int)dtype);
    if (context->backend == GDN_BACKEND_CUDA) {
        if (dtype != GDN_DTYPE_FP32 && dtype != GDN_DTYPE_BF16)
            return gdni_fail(GDN_STATUS_UNSUPPORTED,
                             "%s: dtype is %s, expected fp32 or bf16 on backend cuda", function,
                             gdn_dtype_name(dtype));
        return GDN_STATUS_OK;
    }
    const gdn_dtype expected =
        context->backend == GDN_BACKEND_REFERENCE ? GDN_DTYPE_FP64 : GDN_DTYPE_FP32;
    if (dtype != expected)
        return gdni_fail(GDN_STATUS_UNSUPPORTED, "%s: dtype is %s, expected %s on backend %s",
                         function, gdn_dtype_name(dtype), gdn_dtype_name(expected),
                         gdn_backend_name(context->backend));
    return GDN_STATUS_OK;
}

gdn_status gdni_part_pointer(const char *function, const char *name, const void *pointer) {
    GDNI_REQUIRE(pointer != NULL, "%s: %s is NULL, expected memory", function, name);
    return GDN_STATUS_OK;
}

gdn_status gdni_part_range(const char *function, const char *name, int64_t value, int64_t low,
                           int64_t high) {
    GDNI_REQUIRE(value >= low && value <= high,
                 "%s: %s is %" PRId64 ", expected %" PRId64 " to %" PRId64, function, name, value,
                 low, high);
    return GDN_STATUS_OK;
}

gdn_status gdni_part_eps(const char *function, const char *name, double eps) {
    GDNI_REQUIRE(isfinite(eps) && eps > 0, "%s: %s is %g, expected a positive number", function,
                 name, eps);
    return GDN_STATUS_OK;
}

gdn_status gdni_part_stride(const char *function, const char *name, int64_t *stride,
                            int64_t dense) {
    if (*stride == 0)
        *stride = dense;
    GDNI_REQUIRE(*stride >= dense, "%s: %s is %" PRId64 ", expected 0 or at least %" PRId64,
                 function, name, *stride, dense);
    return GDN_STATUS_OK;
}
