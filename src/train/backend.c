#include "backend.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"

enum {
    HOST_NAME = 64
};

static const char *const names[] = {[GDNI_RUN_CPU] = "cpu", [GDNI_RUN_CUDA] = "cuda"};
static const char *const dtypes[] = {[GDNI_RUN_FP32] = "fp32", [GDNI_RUN_BF16] = "bf16"};

/* How many ranks of lower number are on this machine. */
static gdn_status place_on_machine(gdni_ranks *ranks, int32_t *place) {
    char mine[HOST_NAME] = "";
    *place = 0;
    if (!ranks)
        return GDN_STATUS_OK;
    char(*all)[HOST_NAME] = calloc((size_t)ranks->ranks, sizeof(*all));
    if (!all)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "backend: out of memory");
    gethostname(mine, sizeof(mine) - 1);
    const gdn_status status = ranks->gather(ranks, mine, all, sizeof(mine));
    for (int32_t r = 0; status == GDN_STATUS_OK && r < ranks->rank; ++r)
        *place += !strcmp(all[r], mine);
    free(all);
    return status;
}

gdni_lm_setup gdni_backend_setup(const gdni_backend *b, const gdni_config *c, gdni_ranks *ranks) {
    return (gdni_lm_setup){.ranks = ranks,
                           .device = b->context,
                           .recompute = (gdni_recompute)c->recompute,
                           .save_inverse = (int32_t)c->save_inverse,
                           .plain = !c->graph,
                           .passes = (int32_t)c->passes};
}

/* Whether a device can do this model's layers. */
static gdn_status check_model(const gdni_backend *b, const gdni_config *c,
                              const gdni_lm_shape *shape) {
    const gdni_lm_setup setup = gdni_backend_setup(b, c, NULL);
    const gdn_layer layer = gdni_lm_layer(shape, &setup, c->batch_tokens / c->passes,
                                          c->batch_tokens / c->passes / c->context);
    return gdn_layer_supported(b->context, &layer);
}

double gdni_backend_peak(const char *about) {
    if (strstr(about, "PCIe") || strstr(about, "NVL"))
        return 0;
    return strstr(about, "H100") || strstr(about, "H200") ? 989.4e12 : 0;
}

static gdn_status open_cuda(gdni_backend *b, const gdni_config *c, int32_t place,
                            gdni_lm_shape *shape) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    const int32_t count = gdn_device_count();
    config.backend = GDN_BACKEND_CUDA;
    config.device = count > 0 ? place % count : 0;
    config.threads = 1;
    GDN_TRY(gdn_context_create(&b->context, &config));
    GDN_TRY(gdn_device_describe(config.device, b->about, sizeof(b->about)));
    b->backend = GDNI_RUN_CUDA;
    b->dtype = c->dtype == GDNI_RUN_AUTO ? GDNI_RUN_BF16 : c->dtype;
    b->peak = gdni_backend_peak(b->about);
    shape->dtype = b->dtype == GDNI_RUN_BF16 ? GDN_DTYPE_BF16 : GDN_DTYPE_FP32;
    return check_model(b, c, shape);
}

static gdn_status settle(gdni_backend *b, const gdni_config *c, int32_t place,
                         gdni_lm_shape *shape) {
    if (c->backend != GDNI_RUN_CPU) {
        const gdn_status status = open_cuda(b, c, place, shape);
        if (status == GDN_STATUS_OK || c->backend == GDNI_RUN_CUDA)
            return status;
        gdni_backend_close(b);
        if (gdn_device_count())
            snprintf(b->about, sizeof(b->about), "cuda is not usable: %s", gdn_last_error());
        else
            snprintf(b->about, sizeof(b->about), "no CUDA device here");
        gdni_clear_error();
    }
    GDNI_REQUIRE(c->dtype != GDNI_RUN_BF16,
                 "[train] dtype: expected fp32 on the cpu backend%s%s%s, found bf16",
                 *b->about ? " (" : "", b->about, *b->about ? ")" : "");
    b->backend = GDNI_RUN_CPU;
    b->dtype = GDNI_RUN_FP32;
    shape->dtype = GDN_DTYPE_FP32;
    return GDN_STATUS_OK;
}

gdn_status gdni_backend_open(gdni_backend *b, const gdni_config *config, gdni_ranks *ranks,
                             gdni_lm_shape *shape) {
    int32_t place;
    *b = (gdni_backend){0};
    GDN_TRY(place_on_machine(ranks, &place));
    GDN_TRY(settle(b, config, place, shape));
    snprintf(b->text, sizeof(b->text), "%s %s", names[b->backend], dtypes[b->dtype]);
    return GDN_STATUS_OK;
}

void gdni_backend_close(gdni_backend *b) {
    gdn_context_destroy(b->context);
    *b = (gdni_backend){0};
}

void gdni_backend_recorded(const char *config, char text[GDNI_BACKEND_TEXT]) {
    char backend[8], dtype[8];
    gdni_config_find(config, "train", "backend", backend, sizeof(backend));
    gdni_config_find(config, "train", "dtype", dtype, sizeof(dtype));
    if (!strcmp(backend, "nothing"))
        snprintf(text, GDNI_BACKEND_TEXT, "cpu fp32");
    else
        snprintf(text, GDNI_BACKEND_TEXT, "%s %s", backend, dtype);
}
