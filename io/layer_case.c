/* Layer cases. */
#include "layer.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static gdn_status read_parts(const gdni_file *file, gdn_io_layer_case *c) {
    gdni_shape x = {"[T, D]", 2, {-1, -1}};
    gdn_layer *l = &c->layer;
    int exists;
    GDN_TRY(gdni_file_expect(file, "gdn-layer-case"));
    GDN_TRY(gdni_layer_read_about(file, l));
    if (gdni_attr_exists(file, "scale"))
        GDN_TRY(gdni_attr_read_real(file, "scale", &l->scale));
    if (gdni_attr_exists(file, "norm_eps"))
        GDN_TRY(gdni_attr_read_real(file, "norm_eps", &l->norm_eps));
    if (l->norm_eps < 0)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "attribute norm_eps: expected 0 or more, found %g", l->norm_eps);
    GDN_TRY(gdni_tensor_read_real(file, "x", &x, &c->x));
    if (x.dim[1] < 1 || x.dim[1] > 65536)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "dataset x: expected D from 1 to 65536, found %" PRId64, x.dim[1]);
    l->T = x.dim[0];
    l->D = (int32_t)x.dim[1];
    GDN_TRY(gdni_tensor_exists(file, "dout", &exists));
    if (exists)
        GDN_TRY(gdni_tensor_read_real(file, "dout", &x, &c->dout));
    GDN_TRY(gdni_read_sequences(file, l->T, &l->N, &c->cu_seqlens));
    return gdni_layer_read_weights(file, "", l, &c->naming, &c->weights);
}

static gdn_status layer_case_read(const char *path, gdn_io_layer_case *out) {
    const gdn_layer_weights no_weights = GDN_LAYER_WEIGHTS_INIT;
    gdn_io_layer_case c;
    gdni_file file;
    GDNI_TAKE(&c, out, "gdn_io_layer_case_read: out");
    memset(&c, 0, sizeof(c));
    c.weights = no_weights;
    gdn_status status = gdni_file_open(&file, path);
    if (status == GDN_STATUS_OK)
        status = read_parts(&file, &c);
    gdni_file_close(&file);
    if (status != GDN_STATUS_OK)
        gdn_io_layer_case_free(&c);
    GDNI_GIVE(out, &c);
    return status;
}

/* In a child process; see guard.c. */
static gdn_status rehearse_layer_case(const char *path) {
    gdn_io_layer_case c = {.size = sizeof(c)};
    const gdn_status status = layer_case_read(path, &c);
    gdn_io_layer_case_free(&c);
    return status;
}

gdn_status gdn_io_layer_case_read(const char *path, gdn_io_layer_case *out) {
    gdni_quiet quiet;
    gdni_clear_error();
    GDNI_REQUIRE(path && out, "gdn_io_layer_case_read: path or out is NULL");
    gdni_quiet_begin(&quiet);
    gdn_status status = gdni_rehearse(path, rehearse_layer_case);
    if (status == GDN_STATUS_OK)
        status = layer_case_read(path, out);
    gdni_quiet_end(&quiet);
    return status;
}

static gdn_status check_case(const char *path, const gdn_io_layer_case *c) {
    const gdn_status bad = GDN_STATUS_INVALID_ARGUMENT;
    const gdn_layer *l = &c->layer;
    const gdni_shape x = {"[T, D]", 2, {l->T, l->D}};
    GDN_TRY(gdni_layer_check(path, l));
    if (!isfinite(l->scale) || !isfinite(l->norm_eps) || l->norm_eps < 0)
        return gdni_io_fail(bad, path, "expected finite scale and norm_eps >= 0, found %g and %g",
                            l->scale, l->norm_eps);
    if (!c->x)
        return gdni_io_fail(bad, path, "dataset x: expected values, found NULL");
    GDN_TRY(gdni_check_finite(bad, path, "x", &x, c->x));
    if (c->dout)
        GDN_TRY(gdni_check_finite(bad, path, "dout", &x, c->dout));
    if (!c->cu_seqlens && l->N != 1)
        return gdni_io_fail(
            bad, path, "dataset cu_seqlens: expected one of N + 1 = %" PRId64 " values, found none",
            l->N + 1);
    if (c->cu_seqlens)
        GDN_TRY(gdni_check_sequences(bad, path, c->cu_seqlens, l->N, l->T));
    return gdni_layer_check_weights(bad, path, "", l, &c->weights);
}

static gdn_status layer_case_write(const char *path, const gdn_io_layer_case *in) {
    gdn_io_layer_case c;
    gdni_writer writer;
    gdn_status status;
    GDNI_REQUIRE(path != NULL, "gdn_io_layer_case_write: path is NULL");
    GDNI_TAKE(&c, in, "gdn_io_layer_case_write: in");
    GDN_TRY(check_case(path, &c));
    const gdn_layer *l = &c.layer;
    const gdni_shape x = {"[T, D]", 2, {l->T, l->D}}, sequences = {"[N+1]", 1, {l->N + 1}};
    const int64_t count = gdni_shape_count(&x);
    const int fits = gdni_fits_float(c.x, count) && (!c.dout || gdni_fits_float(c.dout, count)) &&
                     gdni_layer_weights_fit_float(l, &c.weights);
    const hid_t type = fits ? H5T_IEEE_F32LE : H5T_IEEE_F64LE;
    GDN_TRY(gdni_writer_open(&writer, path, "gdn-layer-case"));
    GDN_TRY_GOTO(gdni_attr_write_int(&writer, "Hk", l->Hk), cleanup);
    GDN_TRY_GOTO(gdni_attr_write_int(&writer, "K", l->K), cleanup);
    GDN_TRY_GOTO(gdni_attr_write_real(&writer, "norm_eps", l->norm_eps), cleanup);
    if (l->scale != 0)
        GDN_TRY_GOTO(gdni_attr_write_real(&writer, "scale", l->scale), cleanup);
    GDN_TRY_GOTO(gdni_tensor_write(&writer, "x", &x, type, H5T_NATIVE_DOUBLE, c.x), cleanup);
    if (c.dout)
        GDN_TRY_GOTO(gdni_tensor_write(&writer, "dout", &x, type, H5T_NATIVE_DOUBLE, c.dout),
                     cleanup);
    if (c.cu_seqlens)
        GDN_TRY_GOTO(gdni_tensor_write(&writer, "cu_seqlens", &sequences, H5T_STD_I64LE,
                                       H5T_NATIVE_INT64, c.cu_seqlens),
                     cleanup);
    GDN_TRY_GOTO(gdni_layer_write_weights(&writer, "", l, c.naming, &c.weights, type), cleanup);
cleanup:
    return gdni_writer_close(&writer, status);
}

gdn_status gdn_io_layer_case_write(const char *path, const gdn_io_layer_case *in) {
    gdni_quiet quiet;
    gdni_quiet_begin(&quiet);
    const gdn_status status = layer_case_write(path, in);
    gdni_quiet_end(&quiet);
    return status;
}

void gdn_io_layer_case_free(gdn_io_layer_case *c) {
    if (!c)
        return;
    free(c->x);
    free(c->dout);
    free(c->cu_seqlens);
    c->x = c->dout = NULL;
    c->cu_seqlens = NULL;
    gdni_layer_free_weights(&c->weights);
}
