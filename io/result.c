/* Results of operator runs. */
#include "internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct tensor {
    const char *name;
    double **field;
    gdni_shape shape;
} tensor;

enum {
    TENSORS = 8,
    GRADIENTS = 2 /* the first of them */
};

static void list_tensors(gdn_io_result *r, tensor list[TENSORS]) {
    const tensor all[TENSORS] = {
        {"o", &r->o, {"[T, Hv, V]", 3, {r->T, r->Hv, r->V}}},
        {"final_state", &r->final_state, {"[N, Hv, K, V]", 4, {r->N, r->Hv, r->K, r->V}}},
        {"dq", &r->dq, {"[T, Hk, K]", 3, {r->T, r->Hk, r->K}}},
        {"dk", &r->dk, {"[T, Hk, K]", 3, {r->T, r->Hk, r->K}}},
        {"dv", &r->dv, {"[T, Hv, V]", 3, {r->T, r->Hv, r->V}}},
        {"dg", &r->dg, {"[T, Hv]", 2, {r->T, r->Hv}}},
        {"dbeta", &r->dbeta, {"[T, Hv]", 2, {r->T, r->Hv}}},
        {"dh0", &r->dh0, {"[N, Hv, K, V]", 4, {r->N, r->Hv, r->K, r->V}}},
    };
    memcpy(list, all, sizeof(all));
}

static int known_dtype(const char *dtype) {
    return !strcmp(dtype, "fp64") || !strcmp(dtype, "fp32") || !strcmp(dtype, "bf16") ||
           !strcmp(dtype, "fp16");
}

gdn_status gdni_result_read_about(const gdni_file *file, char backend[32], char dtype[8],
                                  char library_version[32], int32_t *ranks) {
    int64_t value;
    GDN_TRY(gdni_attr_read_text(file, "backend", backend, 32));
    GDN_TRY(gdni_attr_read_text(file, "dtype", dtype, 8));
    GDN_TRY(gdni_attr_read_text(file, "library_version", library_version, 32));
    if (!known_dtype(dtype))
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "attribute dtype: expected fp64, fp32, bf16 or fp16, found \"%s\"",
                            dtype);
    GDN_TRY(gdni_attr_read_int(file, "ranks", 1, INT32_MAX, &value));
    *ranks = (int32_t)value;
    return GDN_STATUS_OK;
}

gdn_status gdni_result_check_about(const char *path, const char *backend, const char *dtype,
                                   const char *library_version, int32_t ranks) {
    if (!memchr(backend, 0, 32) || !memchr(dtype, 0, 8) || !memchr(library_version, 0, 32) ||
        !known_dtype(dtype) || ranks < 1)
        return gdni_io_fail(GDN_STATUS_INVALID_ARGUMENT, path,
                            "expected terminated backend, dtype and library_version, dtype fp64, "
                            "fp32, bf16 or fp16, and ranks >= 1, found dtype \"%.7s\", ranks %d",
                            dtype, ranks);
    return GDN_STATUS_OK;
}

gdn_status gdni_result_write_about(const gdni_writer *writer, const char *backend,
                                   const char *dtype, const char *library_version, int32_t ranks) {
    GDN_TRY(gdni_attr_write_text(writer, "backend", backend));
    GDN_TRY(gdni_attr_write_text(writer, "dtype", dtype));
    GDN_TRY(gdni_attr_write_text(writer, "library_version", library_version));
    return gdni_attr_write_int(writer, "ranks", ranks);
}

static gdn_status check_dim(const gdni_file *file, const char *name, int64_t dim, int32_t *to) {
    if (dim < 1 || dim > INT32_MAX)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "dataset %s: expected heads and head dims of 1 or more, found %" PRId64,
                            name, dim);
    *to = (int32_t)dim;
    return GDN_STATUS_OK;
}

/* A result does not repeat the problem: the dims come from its tensors. */
static gdn_status read_shapes(const gdni_file *file, gdn_io_result *r, const int *exists) {
    gdni_shape o = {"[T, Hv, V]", 3, {-1, -1, -1}};
    GDN_TRY(gdni_tensor_check(file, "o", GDNI_REAL, &o));
    r->T = o.dim[0];
    GDN_TRY(check_dim(file, "o", o.dim[1], &r->Hv));
    GDN_TRY(check_dim(file, "o", o.dim[2], &r->V));
    if (exists[1]) {
        gdni_shape state = {"[N, Hv, K, V]", 4, {-1, r->Hv, -1, r->V}};
        GDN_TRY(gdni_tensor_check(file, "final_state", GDNI_REAL, &state));
        r->N = state.dim[0];
        GDN_TRY(check_dim(file, "final_state", state.dim[2], &r->K));
    }
    if (exists[GRADIENTS]) {
        gdni_shape dq = {"[T, Hk, K]", 3, {r->T, -1, exists[1] ? r->K : -1}};
        gdni_shape dh0 = {"[N, Hv, K, V]", 4, {exists[1] ? r->N : -1, r->Hv, -1, r->V}};
        GDN_TRY(gdni_tensor_check(file, "dq", GDNI_REAL, &dq));
        GDN_TRY(check_dim(file, "dq", dq.dim[1], &r->Hk));
        GDN_TRY(check_dim(file, "dq", dq.dim[2], &r->K));
        dh0.dim[2] = r->K;
        GDN_TRY(gdni_tensor_check(file, "dh0", GDNI_REAL, &dh0));
        r->N = dh0.dim[0];
        if (r->Hv % r->Hk)
            return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                                "dataset o: expected Hv to be a multiple of Hk = %d, found %d",
                                r->Hk, r->Hv);
    }
    return GDN_STATUS_OK;
}

static gdn_status read_tensors(const gdni_file *file, gdn_io_result *r) {
    tensor list[TENSORS];
    int exists[TENSORS];
    GDN_TRY(gdni_file_expect(file, "gdn-result"));
    GDN_TRY(gdni_result_read_about(file, r->backend, r->dtype, r->library_version, &r->ranks));
    list_tensors(r, list);
    for (int i = 0; i < TENSORS; ++i)
        GDN_TRY(gdni_tensor_exists(file, list[i].name, &exists[i]));
    for (int i = GRADIENTS + 1; i < TENSORS; ++i)
        if (exists[i] != exists[GRADIENTS])
            return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                                "dataset %s: expected all gradients or none, found no such dataset",
                                exists[i] ? "dq" : list[i].name);
    GDN_TRY(read_shapes(file, r, exists));
    list_tensors(r, list);
    for (int i = 0; i < TENSORS; ++i)
        if (exists[i])
            GDN_TRY(gdni_tensor_read_real(file, list[i].name, &list[i].shape, list[i].field));
    return GDN_STATUS_OK;
}

static gdn_status result_read(const char *path, gdn_io_result *out) {
    gdn_io_result r;
    gdni_file file;
    GDNI_TAKE(&r, out, "gdn_io_result_read: out");
    memset(&r, 0, sizeof(r));
    gdn_status status = gdni_file_open(&file, path);
    if (status == GDN_STATUS_OK)
        status = read_tensors(&file, &r);
    gdni_file_close(&file);
    if (status != GDN_STATUS_OK)
        gdn_io_result_free(&r);
    GDNI_GIVE(out, &r);
    return status;
}

/* In a child process; see guard.c. */
static gdn_status rehearse_result(const char *path) {
    gdn_io_result r = {.size = sizeof(r)};
    const gdn_status status = result_read(path, &r);
    gdn_io_result_free(&r);
    return status;
}

gdn_status gdn_io_result_read(const char *path, gdn_io_result *out) {
    gdni_quiet quiet;
    gdni_clear_error();
    GDNI_REQUIRE(path && out, "gdn_io_result_read: path or out is NULL");
    gdni_quiet_begin(&quiet);
    gdn_status status = gdni_rehearse(path, rehearse_result);
    if (status == GDN_STATUS_OK)
        status = result_read(path, out);
    gdni_quiet_end(&quiet);
    return status;
}

/* What could not be read back is not written: a run whose values overflowed has failed. */
static gdn_status check_result(const char *path, gdn_io_result *r, const tensor *list) {
    const gdn_status bad = GDN_STATUS_INVALID_ARGUMENT;
    if (r->T < 0 || r->N < 1 || r->Hk < 1 || r->Hv < 1 || r->K < 1 || r->V < 1)
        return gdni_io_fail(bad, path,
                            "expected T >= 0 and N, Hk, Hv, K, V >= 1, found %" PRId64 ", %" PRId64
                            ", %d, %d, %d, %d",
                            r->T, r->N, r->Hk, r->Hv, r->K, r->V);
    GDN_TRY(gdni_result_check_about(path, r->backend, r->dtype, r->library_version, r->ranks));
    if (!r->o)
        return gdni_io_fail(bad, path, "dataset o: expected values, found NULL");
    for (int i = 0; i < TENSORS; ++i) {
        if (i > GRADIENTS && !*list[i].field != !*list[GRADIENTS].field)
            return gdni_io_fail(bad, path, "dataset %s: expected all gradients or none",
                                list[i].name);
        if (*list[i].field)
            GDN_TRY(gdni_check_finite(GDN_STATUS_BAD_DATA, path, list[i].name, &list[i].shape,
                                      *list[i].field));
    }
    return GDN_STATUS_OK;
}

static gdn_status result_write(const char *path, const gdn_io_result *in) {
    gdn_io_result r;
    gdni_writer writer;
    tensor list[TENSORS];
    gdn_status status = GDN_STATUS_OK;
    GDNI_REQUIRE(path != NULL, "gdn_io_result_write: path is NULL");
    GDNI_TAKE(&r, in, "gdn_io_result_write: in");
    list_tensors(&r, list);
    GDN_TRY(check_result(path, &r, list));
    const hid_t type = strcmp(r.dtype, "fp64") ? H5T_IEEE_F32LE : H5T_IEEE_F64LE;
    GDN_TRY(gdni_writer_open(&writer, path, "gdn-result"));
    GDN_TRY_GOTO(gdni_result_write_about(&writer, r.backend, r.dtype, r.library_version, r.ranks),
                 cleanup);
    for (int i = 0; i < TENSORS; ++i)
        if (*list[i].field)
            GDN_TRY_GOTO(gdni_tensor_write(&writer, list[i].name, &list[i].shape, type,
                                           H5T_NATIVE_DOUBLE, *list[i].field),
                         cleanup);
cleanup:
    return gdni_writer_close(&writer, status);
}

gdn_status gdn_io_result_write(const char *path, const gdn_io_result *in) {
    gdni_quiet quiet;
    gdni_quiet_begin(&quiet);
    const gdn_status status = result_write(path, in);
    gdni_quiet_end(&quiet);
    return status;
}

void gdn_io_result_free(gdn_io_result *r) {
    if (!r)
        return;
    tensor list[TENSORS];
    list_tensors(r, list);
    for (int i = 0; i < TENSORS; ++i) {
        free(*list[i].field);
        *list[i].field = NULL;
    }
}
