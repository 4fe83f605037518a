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

/* Whether a device can do this model's operator. */
static gdn_status check_model(const gdni_backend *b, const gdni_config *c) {
    gdn_layer layer = GDN_LAYER_INIT;
    const gdni_device_setup setup = {
        b->context, b->dtype == GDNI_RUN_FP32 ? GDN_DTYPE_FP32 : GDN_DTYPE_BF16, 0};
    layer.T = c->batch_tokens;
    layer.N = c->batch_tokens / c->context;
    layer.Hk = (int32_t)c->key_heads;
    layer.Hv = (int32_t)c->value_heads;
    layer.K = (int32_t)c->key_dim;
    layer.V = (int32_t)c->value_dim;
    const gdn_problem problem = gdni_device_problem(&setup, &layer);
    return gdn_problem_supported(b->context, &problem);
}

static gdn_status open_cuda(gdni_backend *b, const gdni_config *c, gdni_ranks *ranks,
                            int32_t place) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    const int32_t count = gdn_device_count();
    if (ranks && ranks->width > 1)
        return gdni_fail(GDN_STATUS_UNSUPPORTED,
                         "[train] backend: cuda does not share sequences between ranks yet: "
                         "expected --sequence-ranks 1 or --backend cpu, found %d ranks a sequence",
                         ranks->width);
    config.backend = GDN_BACKEND_CUDA;
    config.device = count > 0 ? place % count : 0;
    config.threads = 1;
    GDN_TRY(gdn_context_create(&b->context, &config));
    GDN_TRY(gdn_device_describe(config.device, b->about, sizeof(b->about)));
    b->backend = GDNI_RUN_CUDA;
    b->dtype = c->dtype == GDNI_RUN_AUTO ? GDNI_RUN_BF16 : c->dtype;
    return check_model(b, c);
}

static gdn_status settle(gdni_backend *b, const gdni_config *c, gdni_ranks *ranks, int32_t place) {
    if (c->backend != GDNI_RUN_CPU) {
        const gdn_status status = open_cuda(b, c, ranks, place);
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
    return GDN_STATUS_OK;
}

gdn_status gdni_backend_open(gdni_backend *b, const gdni_config *config, gdni_ranks *ranks) {
    int32_t place;
    *b = (gdni_backend){0};
    GDN_TRY(place_on_machine(ranks, &place));
    GDN_TRY(settle(b, config, ranks, place));
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
