/* What import and export share, and runs that start from imported layers. */
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

const char *const gdni_weights_namings[2] = {
    [GDN_IO_QWEN3_5] = "qwen3.5", [GDN_IO_QWEN3_NEXT] = "qwen3-next"};

void gdni_weights_list(int32_t block, const gdn_layer *l, gdn_layer_weights *w,
                       gdni_weights_tensor list[GDN_IO_LAYER_TENSORS]) {
    const int64_t D = l->D, HV = (int64_t)l->Hv * l->V, C = 2 * (int64_t)l->Hk * l->K + HV;
    const struct {
        const char *name;
        void **field;
        int64_t rows, columns; /* columns 0: a vector */
    } all[GDN_IO_LAYER_TENSORS] = {
        {"in_proj_qkv", &w->in_proj_qkv, C, D},   {"in_proj_z", &w->in_proj_z, HV, D},
        {"in_proj_b", &w->in_proj_b, l->Hv, D},   {"in_proj_a", &w->in_proj_a, l->Hv, D},
        {"conv1d", &w->conv1d, C, l->conv_width}, {"A_log", &w->A_log, l->Hv, 0},
        {"dt_bias", &w->dt_bias, l->Hv, 0},       {"norm", &w->norm, l->V, 0},
        {"out_proj", &w->out_proj, D, HV}};
    for (int i = 0; i < GDN_IO_LAYER_TENSORS; ++i) {
        snprintf(list[i].name, GDNI_WEIGHTS_NAME_SIZE, "model/blocks.%d.gdn.%s", block,
                 all[i].name);
        list[i].field = all[i].field;
        list[i].entry = (gdn_io_entry){.type = GDN_IO_F32,
                                       .ndim = all[i].columns ? 2 : 1,
                                       .shape = {all[i].rows, all[i].columns}};
    }
}

gdn_status gdni_weights_no_memory(const char *path) {
    return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "%s: no memory for its layers", path);
}

void gdni_weights_free(gdn_io_model_layer *layers, int32_t count) {
    for (int32_t i = 0; layers && i < count; ++i)
        gdn_io_model_layer_free(&layers[i]);
    free(layers);
}

int gdni_weights_is_shape(const gdni_key *key) {
    static const char *const names[] = {"width",   "layers",    "key_heads", "value_heads",
                                        "key_dim", "value_dim", "conv_width"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); ++i)
        if (!strcmp(key->section, "model") && !strcmp(key->name, names[i]))
            return 1;
    return 0;
}

int gdni_weights_imported(const char *config) {
    char naming[16];
    gdni_config_find(config, "source", "naming", naming, sizeof(naming));
    return strcmp(naming, "nothing") != 0;
}

gdn_status gdni_weights_take(gdn_io_checkpoint *file, const char *path, const char *then,
                             const gdni_config *config, const gdni_lm *lm) {
    size_t count;
    const gdni_key *keys = gdni_config_keys(&count);
    GDNI_REQUIRE(lm->master == GDN_DTYPE_FP32, "%s: expected a model in fp32, found %s", path,
                 gdn_dtype_name(lm->master));
    for (size_t i = 0; i < count; ++i) {
        char now[40], was[40];
        if (!gdni_weights_is_shape(&keys[i]))
            continue;
        gdni_config_value(config, &keys[i], now, sizeof(now));
        gdni_config_find(then, keys[i].section, keys[i].name, was, sizeof(was));
        GDNI_REQUIRE(!strcmp(now, was), "[model] %s: expected %s as in %s, found %s", keys[i].name,
                     was, path, now);
    }
    for (int32_t b = 0; b < lm->shape.layers; ++b) {
        gdn_layer_weights w = gdni_lm_layer_weights(lm, lm->kept.param, b);
        gdni_weights_tensor list[GDN_IO_LAYER_TENSORS];
        gdni_weights_list(b, &lm->layer, &w, list);
        for (int i = 0; i < GDN_IO_LAYER_TENSORS; ++i) {
            list[i].entry.name = list[i].name;
            GDN_TRY(gdn_io_checkpoint_read(file, &list[i].entry, *list[i].field));
        }
    }
    return GDN_STATUS_OK;
}
