/*
 * Weights of a layer under Hugging Face's names. Qwen3-Next keeps two of its projections
 * interleaved per k-head, with r = Hv / Hk v-heads each:
 *
 *     in_proj_qkvz   Hk groups of  K rows of q, K of k, r V of v, r V of z
 *     in_proj_ba     Hk groups of  r rows of b, r of a
 */
#include "layer.h"

#include <string.h>

void gdni_layer_list(const gdn_layer *l, gdn_layer_weights *w,
                     gdni_layer_tensor list[GDNI_LAYER_TENSORS]) {
    const int64_t C = 2 * (int64_t)l->Hk * l->K + (int64_t)l->Hv * l->V;
    const int64_t HV = (int64_t)l->Hv * l->V;
    const gdni_layer_tensor all[GDNI_LAYER_TENSORS] = {
        {"in_proj_qkv.weight", &w->in_proj_qkv, {"[2 Hk K + Hv V, D]", 2, {C, l->D}}},
        {"in_proj_z.weight", &w->in_proj_z, {"[Hv V, D]", 2, {HV, l->D}}},
        {"in_proj_b.weight", &w->in_proj_b, {"[Hv, D]", 2, {l->Hv, l->D}}},
        {"in_proj_a.weight", &w->in_proj_a, {"[Hv, D]", 2, {l->Hv, l->D}}},
        {"conv1d.weight", &w->conv1d, {"[2 Hk K + Hv V, 1, W]", 3, {C, 1, l->conv_width}}},
        {"A_log", &w->A_log, {"[Hv]", 1, {l->Hv}}},
        {"dt_bias", &w->dt_bias, {"[Hv]", 1, {l->Hv}}},
        {"norm.weight", &w->norm, {"[V]", 1, {l->V}}},
        {"out_proj.weight", &w->out_proj, {"[D, Hv V]", 2, {l->D, HV}}},
    };
    memcpy(list, all, sizeof(all));
}

gdni_shape gdni_layer_qkvz_shape(const gdn_layer *l) {
    const gdni_shape shape = {
        "[2 Hk K + 2 Hv V, D]", 2, {2 * ((int64_t)l->Hk * l->K + (int64_t)l->Hv * l->V), l->D}};
    return shape;
}

gdni_shape gdni_layer_ba_shape(const gdn_layer *l) {
    const gdni_shape shape = {"[2 Hv, D]", 2, {2 * (int64_t)l->Hv, l->D}};
    return shape;
}

int gdni_layer_list_named(const gdn_layer *l, gdn_io_layer_naming naming,
                          gdni_layer_named list[GDNI_LAYER_TENSORS]) {
    gdn_layer_weights unused = GDN_LAYER_WEIGHTS_INIT;
    gdni_layer_tensor plain[GDNI_LAYER_TENSORS];
    int n = 0, i = 0;
    gdni_layer_list(l, &unused, plain);
    if (naming == GDN_IO_QWEN3_NEXT) {
        list[n++] = (gdni_layer_named){"in_proj_qkvz.weight", gdni_layer_qkvz_shape(l), 0, 1};
        list[n++] = (gdni_layer_named){"in_proj_ba.weight", gdni_layer_ba_shape(l), 2, 3};
        i = GDNI_LAYER_PROJECTIONS;
    }
    for (; i < GDNI_LAYER_TENSORS; ++i)
        list[n++] = (gdni_layer_named){plain[i].name, plain[i].shape, i, i};
    return n;
}

/* Rows of an interleaved matrix, of `bytes` bytes each, `group` of them a k-head. */
typedef struct groups {
    char *rows;
    int64_t heads, group;
    size_t bytes;
    int to_plain;
} groups;

/* Copies `rows` rows a k-head, which begin at row `offset` of each group, from or to a matrix that
 * holds them head by head. */
static void copy_rows(const groups *g, char *plain, int64_t rows, int64_t offset) {
    const size_t bytes = (size_t)rows * g->bytes;
    for (int64_t h = 0; h < g->heads; ++h) {
        char *a = plain + (size_t)(h * rows) * g->bytes;
        char *b = g->rows + (size_t)(h * g->group + offset) * g->bytes;
        memcpy(g->to_plain ? a : b, g->to_plain ? b : a, bytes);
    }
}

void gdni_layer_interleave(const gdn_layer *l, const gdn_layer_weights *w,
                           const gdni_layer_packed *packed, size_t element, int to_plain) {
    const int64_t K = l->K, r = l->Hv / l->Hk, rV = r * l->V;
    const size_t bytes = (size_t)l->D * element;
    const groups qkvz = {packed->qkvz, l->Hk, 2 * (K + rV), bytes, to_plain};
    const groups ba = {packed->ba, l->Hk, 2 * r, bytes, to_plain};
    char *q = w->in_proj_qkv, *k = q + (size_t)(l->Hk * K) * bytes,
         *v = k + (size_t)(l->Hk * K) * bytes;
    copy_rows(&qkvz, q, K, 0);
    copy_rows(&qkvz, k, K, K);
    copy_rows(&qkvz, v, rV, 2 * K);
    copy_rows(&qkvz, w->in_proj_z, rV, 2 * K + rV);
    copy_rows(&ba, w->in_proj_b, r, 0);
    copy_rows(&ba, w->in_proj_a, r, r);
}
