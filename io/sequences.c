/* cu_seqlens of cases. */
#include "internal.h"

#include <inttypes.h>
#include <stdlib.h>

gdn_status gdni_check_sequences(gdn_status status, const char *path, const int64_t *cu, int64_t N,
                                int64_t T) {
    if (cu[0] != 0)
        return gdni_io_fail(status, path, "dataset cu_seqlens: expected 0 at [0], found %" PRId64,
                            cu[0]);
    for (int64_t n = 0; n < N; ++n)
        if (cu[n + 1] < cu[n])
            return gdni_io_fail(status, path,
                                "dataset cu_seqlens: expected at least %" PRId64 " at [%" PRId64
                                "], found %" PRId64,
                                cu[n], n + 1, cu[n + 1]);
    if (cu[N] > T)
        return gdni_io_fail(status, path,
                            "dataset cu_seqlens: expected at most T = %" PRId64 " at [%" PRId64
                            "], found %" PRId64,
                            T, N, cu[N]);
    return GDN_STATUS_OK;
}

gdn_status gdni_read_sequences(const gdni_file *file, int64_t T, int64_t *N, int64_t **cu_seqlens) {
    gdni_shape shape = {"[N+1]", 1, {-1}};
    int exists;
    *N = 1;
    *cu_seqlens = NULL;
    GDN_TRY(gdni_tensor_exists(file, "cu_seqlens", &exists));
    if (!exists)
        return GDN_STATUS_OK;
    GDN_TRY(gdni_tensor_read(file, "cu_seqlens", GDNI_INTEGER, &shape, H5T_NATIVE_INT64,
                             (void **)cu_seqlens));
    *N = shape.dim[0] - 1;
    if (*N < 1)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "dataset cu_seqlens: expected 2 or more values, found %" PRId64,
                            shape.dim[0]);
    return gdni_check_sequences(GDN_STATUS_BAD_FILE, file->path, *cu_seqlens, *N, T);
}
