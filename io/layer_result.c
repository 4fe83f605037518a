/* Layer results. */
#include "layer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static gdn_status read_parts(const gdni_file *file, gdn_io_layer_result *r) {
    gdni_shape x = {"[T, D]", 2, {-1, -1}};
    gdn_layer *l = &r->layer;
    int exists, weights;
    GDN_TRY(gdni_file_expect(file, "gdn-layer-result"));
    GDN_TRY(gdni_result_read_about(file, r->backend, r->dtype, r->library_version, &r->ranks));
    GDN_TRY(gdni_layer_read_about(file, l));
    GDN_TRY(gdni_tensor_read_real(file, "out", &x, &r->out));
    if (x.dim[1] < 1 || x.dim[1] > 65536)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "dataset out: expected D from 1 to 65536, found %" PRId64, x.dim[1]);
    l->T = x.dim[0];
    l->D = (int32_t)x.dim[1];
    GDN_TRY(gdni_tensor_exists(file, "dx", &exists));
    GDN_TRY(gdni_tensor_exists(file, "dA_log", &weights));
    if (exists != weights)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "dataset %s: expected all gradients or none, found no such dataset",
                            exists ? "dA_log" : "dx");
    if (!exists)
        return GDN_STATUS_OK;
    GDN_TRY(gdni_tensor_read_real(file, "dx", &x, &r->dx));
    return gdni_layer_read_weights(file, "d", l, &r->naming, &r->dweights);
}

static gdn_status layer_result_read(const char *path, gdn_io_layer_result *out) {
    const gdn_layer_weights no_weights = GDN_LAYER_WEIGHTS_INIT;
    gdn_io_layer_result r;
    gdni_file file;
    GDNI_TAKE(&r, out, "gdn_io_layer_result_read: out");
    memset(&r, 0, sizeof(r));
    r.dweights = no_weights;
    gdn_status status = gdni_file_open(&file, path);
    if (status == GDN_STATUS_OK)
        status = read_parts(&file, &r);
    gdni_file_close(&file);
    if (status != GDN_STATUS_OK)
        gdn_io_layer_result_free(&r);
    GDNI_GIVE(out, &r);
    return status;
}

/* In a child process; see guard.c. */
static gdn_status rehearse_layer_result(const char *path) {
    gdn_io_layer_result r = {.size = sizeof(r)};
    const gdn_status status = layer_result_read(path, &r);
    gdn_io_layer_result_free(&r);
    return status;
}

gdn_status gdn_io_layer_result_read(const char *path, gdn_io_layer_result *out) {
    gdni_quiet quiet;
    gdni_clear_error();
    GDNI_REQUIRE(path && out, "gdn_io_layer_result_read: path or out is NULL");
    gdni_quiet_begin(&quiet);
    gdn_status status = gdni_rehearse(path, rehearse_layer_result);
    if (status == GDN_STATUS_OK)
        status = layer_result_read(path, out);
    gdni_quiet_end(&quiet);
    return status;
}

static gdn_status check_result(const char *path, const gdn_io_layer_result *r) {
    const gdni_shape x = {"[T, D]", 2, {r->layer.T, r->layer.D}};
    GDN_TRY(gdni_layer_check(path, &r->layer));
    GDN_TRY(gdni_result_check_about(path, r->backend, r->dtype, r->library_version, r->ranks));
    if (!r->out)
        return gdni_io_fail(GDN_STATUS_INVALID_ARGUMENT, path,
                            "dataset out: expected values, found NULL");
    GDN_TRY(gdni_check_finite(GDN_STATUS_BAD_DATA, path, "out", &x, r->out));
    if (!r->dx)
        return GDN_STATUS_OK;
    GDN_TRY(gdni_check_finite(GDN_STATUS_BAD_DATA, path, "dx", &x, r->dx));
    return gdni_layer_check_weights(GDN_STATUS_BAD_DATA, path, "d", &r->layer, &r->dweights);
}

static gdn_status layer_result_write(const char *path, const gdn_io_layer_result *in) {
    gdn_io_layer_result r;
    gdni_writer writer;
    gdn_status status;
    GDNI_REQUIRE(path != NULL, "gdn_io_layer_result_write: path is NULL");
    GDNI_TAKE(&r, in, "gdn_io_layer_result_write: in");
    GDN_TRY(check_result(path, &r));
    const gdn_layer *l = &r.layer;
    const gdni_shape x = {"[T, D]", 2, {l->T, l->D}};
    const hid_t type = strcmp(r.dtype, "fp64") ? H5T_IEEE_F32LE : H5T_IEEE_F64LE;
    GDN_TRY(gdni_writer_open(&writer, path, "gdn-layer-result"));
    GDN_TRY_GOTO(gdni_result_write_about(&writer, r.backend, r.dtype, r.library_version, r.ranks),
                 cleanup);
    GDN_TRY_GOTO(gdni_attr_write_int(&writer, "Hk", l->Hk), cleanup);
    GDN_TRY_GOTO(gdni_attr_write_int(&writer, "K", l->K), cleanup);
    GDN_TRY_GOTO(gdni_tensor_write(&writer, "out", &x, type, H5T_NATIVE_DOUBLE, r.out), cleanup);
    if (r.dx) {
        GDN_TRY_GOTO(gdni_tensor_write(&writer, "dx", &x, type, H5T_NATIVE_DOUBLE, r.dx), cleanup);
        GDN_TRY_GOTO(gdni_layer_write_weights(&writer, "d", l, r.naming, &r.dweights, type),
                     cleanup);
    }
cleanup:
    return gdni_writer_close(&writer, status);
}

gdn_status gdn_io_layer_result_write(const char *path, const gdn_io_layer_result *in) {
    gdni_quiet quiet;
    gdni_quiet_begin(&quiet);
    const gdn_status status = layer_result_write(path, in);
    gdni_quiet_end(&quiet);
    return status;
}

void gdn_io_layer_result_free(gdn_io_layer_result *r) {
    if (!r)
        return;
    free(r->out);
    free(r->dx);
    r->out = r->dx = NULL;
    gdni_layer_free_weights(&r->dweights);
}
