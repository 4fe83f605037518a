/* Operator cases. */
#include "internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A tensor of a case: its field and its shape. */
typedef struct tensor {
    const char *name;
    double **field;
    gdni_shape shape;
    int required;
} tensor;

enum {
    TENSORS = 8
};

static void list_tensors(gdn_io_case *c, tensor list[TENSORS]) {
    const tensor all[TENSORS] = {
        {"q", &c->q, {"[T, Hk, K]", 3, {c->T, c->Hk, c->K}}, 1},
        {"k", &c->k, {"[T, Hk, K]", 3, {c->T, c->Hk, c->K}}, 1},
        {"v", &c->v, {"[T, Hv, V]", 3, {c->T, c->Hv, c->V}}, 1},
        {"g", &c->g, {"[T, Hv]", 2, {c->T, c->Hv}}, 1},
        {"beta", &c->beta, {"[T, Hv]", 2, {c->T, c->Hv}}, 1},
        {"do", &c->do_, {"[T, Hv, V]", 3, {c->T, c->Hv, c->V}}, 0},
        {"initial_state", &c->initial_state, {"[N, Hv, K, V]", 4, {c->N, c->Hv, c->K, c->V}}, 0},
        {"dht", &c->dht, {"[N, Hv, K, V]", 4, {c->N, c->Hv, c->K, c->V}}, 0},
    };
    memcpy(list, all, sizeof(all));
}

/* status: of a violation, which is a bad file or a bad argument. */
static gdn_status check_dims(gdn_status status, const char *path, const gdn_io_case *c) {
    const struct {
        const char *name;
        int32_t value;
    } dims[] = {{"Hk", c->Hk}, {"Hv", c->Hv}, {"K", c->K}, {"V", c->V}};
    for (size_t i = 0; i < 4; ++i)
        if (dims[i].value < 1)
            return gdni_io_fail(status, path, "dataset %s: expected %s of 1 or more, found %d",
                                i % 2 ? "v" : "q", dims[i].name, dims[i].value);
    if (c->Hv % c->Hk)
        return gdni_io_fail(status, path,
                            "dataset v: expected Hv to be a multiple of Hk = %d, found %d", c->Hk,
                            c->Hv);
    return GDN_STATUS_OK;
}

static gdn_status check_gate(gdn_status status, const char *path, const gdn_io_case *c) {
    const gdni_shape shape = {NULL, 2, {c->T, c->Hv}};
    char index[100];
    for (int64_t i = 0; i < c->T * c->Hv; ++i)
        if (c->g[i] > 0) {
            gdni_format_index(&shape, i, index, sizeof(index));
            return gdni_io_fail(status, path, "dataset g: expected values <= 0, found %g at %s",
                                c->g[i], index);
        }
    return GDN_STATUS_OK;
}

/* A head count or head dim, which int32 must hold. */
static gdn_status narrow(const gdni_file *file, const char *name, int64_t dim, int32_t *to) {
    if (dim > INT32_MAX)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "dataset %s: expected dimensions below 2^31, found %" PRId64, name,
                            dim);
    *to = (int32_t)dim;
    return GDN_STATUS_OK;
}

static gdn_status read_shapes(const gdni_file *file, gdn_io_case *c) {
    gdni_shape q = {"[T, Hk, K]", 3, {-1, -1, -1}}, v = {"[T, Hv, V]", 3, {-1, -1, -1}};
    GDN_TRY(gdni_tensor_check(file, "q", GDNI_REAL, &q));
    v.dim[0] = c->T = q.dim[0];
    GDN_TRY(narrow(file, "q", q.dim[1], &c->Hk));
    GDN_TRY(narrow(file, "q", q.dim[2], &c->K));
    GDN_TRY(gdni_tensor_check(file, "v", GDNI_REAL, &v));
    GDN_TRY(narrow(file, "v", v.dim[1], &c->Hv));
    GDN_TRY(narrow(file, "v", v.dim[2], &c->V));
    return check_dims(GDN_STATUS_BAD_FILE, file->path, c);
}

static gdn_status read_tensors(const gdni_file *file, gdn_io_case *c) {
    tensor list[TENSORS];
    GDN_TRY(gdni_file_expect(file, "gdn-case"));
    if (gdni_attr_exists(file, "scale"))
        GDN_TRY(gdni_attr_read_real(file, "scale", &c->scale));
    GDN_TRY(read_shapes(file, c));
    GDN_TRY(gdni_read_sequences(file, c->T, &c->N, &c->cu_seqlens));
    list_tensors(c, list);
    for (int i = 0; i < TENSORS; ++i) {
        int exists = 1;
        if (!list[i].required)
            GDN_TRY(gdni_tensor_exists(file, list[i].name, &exists));
        if (exists)
            GDN_TRY(gdni_tensor_read_real(file, list[i].name, &list[i].shape, list[i].field));
    }
    return check_gate(GDN_STATUS_BAD_FILE, file->path, c);
}

static gdn_status case_read(const char *path, gdn_io_case *out) {
    gdn_io_case c;
    gdni_file file;
    GDNI_TAKE(&c, out, "gdn_io_case_read: out");
    memset(&c, 0, sizeof(c));
    gdn_status status = gdni_file_open(&file, path);
    if (status == GDN_STATUS_OK)
        status = read_tensors(&file, &c);
    gdni_file_close(&file);
    if (status != GDN_STATUS_OK)
        gdn_io_case_free(&c);
    GDNI_GIVE(out, &c);
    return status;
}

/* In a child process; see guard.c. */
static gdn_status rehearse_case(const char *path) {
    gdn_io_case c = {.size = sizeof(c)};
    const gdn_status status = case_read(path, &c);
    gdn_io_case_free(&c);
    return status;
}

gdn_status gdn_io_case_read(const char *path, gdn_io_case *out) {
    gdni_quiet quiet;
    gdni_clear_error();
    GDNI_REQUIRE(path && out, "gdn_io_case_read: path or out is NULL");
    gdni_quiet_begin(&quiet);
    gdn_status status = gdni_rehearse(path, rehearse_case);
    if (status == GDN_STATUS_OK)
        status = case_read(path, out);
    gdni_quiet_end(&quiet);
    return status;
}

/* What could not be read back is not written. */
static gdn_status check_case(const char *path, const gdn_io_case *c, const tensor *list) {
    const gdn_status bad = GDN_STATUS_INVALID_ARGUMENT;
    if (c->T < 0 || c->N < 1)
        return gdni_io_fail(bad, path, "expected T >= 0 and N >= 1, found %" PRId64 " and %" PRId64,
                            c->T, c->N);
    GDN_TRY(check_dims(bad, path, c));
    if (!isfinite(c->scale))
        return gdni_io_fail(bad, path, "attribute scale: expected a finite number, found %g",
                            c->scale);
    if (!c->cu_seqlens && c->N != 1)
        return gdni_io_fail(
            bad, path, "dataset cu_seqlens: expected one of N + 1 = %" PRId64 " values, found none",
            c->N + 1);
    if (c->cu_seqlens)
        GDN_TRY(gdni_check_sequences(bad, path, c->cu_seqlens, c->N, c->T));
    for (int i = 0; i < TENSORS; ++i) {
        const double *data = *list[i].field;
        if (!data && list[i].required)
            return gdni_io_fail(bad, path, "dataset %s: expected values, found NULL", list[i].name);
        if (data)
            GDN_TRY(gdni_check_finite(bad, path, list[i].name, &list[i].shape, data));
    }
    return check_gate(bad, path, c);
}

static int fits_float(const tensor *list) {
    for (int i = 0; i < TENSORS; ++i)
        if (*list[i].field && !gdni_fits_float(*list[i].field, gdni_shape_count(&list[i].shape)))
            return 0;
    return 1;
}

static gdn_status case_write(const char *path, const gdn_io_case *in) {
    gdn_io_case c;
    gdni_writer writer;
    tensor list[TENSORS];
    gdn_status status = GDN_STATUS_OK;
    GDNI_REQUIRE(path != NULL, "gdn_io_case_write: path is NULL");
    GDNI_TAKE(&c, in, "gdn_io_case_write: in");
    list_tensors(&c, list);
    GDN_TRY(check_case(path, &c, list));
    const gdni_shape sequences = {"[N+1]", 1, {c.N + 1}};
    const hid_t type = fits_float(list) ? H5T_IEEE_F32LE : H5T_IEEE_F64LE;
    GDN_TRY(gdni_writer_open(&writer, path, "gdn-case"));
    if (c.scale != 0)
        GDN_TRY_GOTO(gdni_attr_write_real(&writer, "scale", c.scale), cleanup);
    if (c.cu_seqlens)
        GDN_TRY_GOTO(gdni_tensor_write(&writer, "cu_seqlens", &sequences, H5T_STD_I64LE,
                                       H5T_NATIVE_INT64, c.cu_seqlens),
                     cleanup);
    for (int i = 0; i < TENSORS; ++i)
        if (*list[i].field)
            GDN_TRY_GOTO(gdni_tensor_write(&writer, list[i].name, &list[i].shape, type,
                                           H5T_NATIVE_DOUBLE, *list[i].field),
                         cleanup);
cleanup:
    return gdni_writer_close(&writer, status);
}

gdn_status gdn_io_case_write(const char *path, const gdn_io_case *in) {
    gdni_quiet quiet;
    gdni_quiet_begin(&quiet);
    const gdn_status status = case_write(path, in);
    gdni_quiet_end(&quiet);
    return status;
}

void gdn_io_case_free(gdn_io_case *c) {
    if (!c)
        return;
    tensor list[TENSORS];
    list_tensors(c, list);
    for (int i = 0; i < TENSORS; ++i) {
        free(*list[i].field);
        *list[i].field = NULL;
    }
    free(c->cu_seqlens);
    c->cu_seqlens = NULL;
}
