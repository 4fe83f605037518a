/* Runs a layer on float64 host data in any dtype and on any backend. */
#include "cuda/memory.h"
#include "evaluate.h"
#include "internal.h"

#include <math.h>
#include <string.h>

/* The bounds where the layer reads them. */
static gdn_status place_cu_seqlens(gdni_buffers *b, const gdn_layer *layer, const int64_t *from,
                                   const int64_t **out) {
    const size_t bytes = sizeof(*from) * (size_t)(layer->N + 1);
    void *data;
    *out = from;
    if (!from || !b->device)
        return GDN_STATUS_OK;
    GDN_TRY(gdni_check_cu_seqlens("gdn_layer_forward", from, layer->N, layer->T));
    GDN_TRY(gdni_reserve(b, bytes, &data));
    *out = data;
    return gdni_device_copy(b->device, data, from, bytes);
}

void gdni_gate_sum_sizes(const gdn_problem *problem, const gdn_tensors *tensors,
                         const double *A_log, double *of_A_log, double *of_dt_bias) {
    const double *g = tensors->g, *dg = tensors->dg;
    for (int32_t h = 0; h < problem->Hv; ++h) {
        const double A = exp(A_log[h]);
        double of_dg = 0, of_g = 0, of_slope = 0;
        for (int64_t i = h; i < problem->T * problem->Hv; i += problem->Hv) {
            const double slope = A * expm1(g[i] / A); /* -A sigmoid(u): e^-softplus(u) - 1 */
            of_dg += dg[i] * dg[i];
            of_g += g[i] * g[i];
            of_slope += slope * slope;
        }
        of_A_log[h] = sqrt(of_dg * of_g);
        of_dt_bias[h] = sqrt(of_dg * of_slope);
    }
}

gdn_status gdni_evaluate_layer(const gdn_context *context, const gdn_layer *layer,
                               const gdni_layer_values *v) {
    gdn_status status;
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_layer_weights weights = GDN_LAYER_WEIGHTS_INIT, dweights = GDN_LAYER_WEIGHTS_INIT;
    gdn_layer_tensors t = GDN_LAYER_TENSORS_INIT;
    gdni_buffers b = {.count = 0};
    const gdni_shape x = gdni_layer_activation_shape(layer, "x");
    const gdni_shape dout = gdni_layer_activation_shape(layer, "dout");
    const gdn_dtype state = gdni_state_dtype(layer->dtype);
    const double *no_output = NULL;
    if (context && context->backend == GDN_BACKEND_CUDA)
        b.device = context;
    GDN_TRY(gdn_layer_sizes(context, layer, &sizes));

    GDN_TRY_GOTO(gdni_upload(&b, &x, layer->dtype, v->x, &t.x), cleanup);
    GDN_TRY_GOTO(gdni_upload(&b, &dout, layer->dtype, v->dout, &t.dout), cleanup);
    for (int i = 0; i < GDNI_LAYER_WEIGHTS; ++i) {
        const gdni_shape s = gdni_layer_weight_shape(layer, i);
        const void *data;
        GDN_TRY_GOTO(gdni_upload(&b, &s, gdni_layer_weight_dtype(layer->dtype, i),
                                 *gdni_layer_weight(v->weights, i), &data),
                     cleanup);
        *gdni_layer_weight(&weights, i) = (void *)data;
        GDN_TRY_GOTO(
            gdni_reserve_output(&b, &s, state,
                                v->dweights ? *gdni_layer_weight(v->dweights, i) : no_output,
                                gdni_layer_weight(&dweights, i)),
            cleanup);
    }
    /* Backward reads the activations that forward saved. */
    GDN_TRY_GOTO(gdni_reserve(&b, (size_t)x.count * gdn_dtype_size(layer->dtype), &t.out), cleanup);
    if (!b.device)
        memset(t.out, 0xff, (size_t)x.count * gdn_dtype_size(layer->dtype));
    GDN_TRY_GOTO(gdni_reserve_output(&b, &x, layer->dtype, v->dx, &t.dx), cleanup);
    if (v->dout)
        GDN_TRY_GOTO(gdni_reserve(&b, sizes.saved, &t.saved), cleanup);
    t.workspace_size = sizes.forward_workspace > sizes.backward_workspace
                           ? sizes.forward_workspace
                           : sizes.backward_workspace;
    GDN_TRY_GOTO(gdni_reserve(&b, t.workspace_size, &t.workspace), cleanup);
    if (!b.device)
        memset(t.workspace, 0xff, t.workspace_size);
    t.weights = &weights;
    t.dweights = v->dweights ? &dweights : NULL;
    t.hooks = v->hooks;
    GDN_TRY_GOTO(place_cu_seqlens(&b, layer, v->cu_seqlens, &t.cu_seqlens), cleanup);

    GDN_TRY_GOTO(gdn_layer_forward(context, layer, &t, NULL), cleanup);
    if (v->dout)
        GDN_TRY_GOTO(gdn_layer_backward(context, layer, &t, NULL), cleanup);
    GDN_TRY_GOTO(gdni_download(&b, &x, layer->dtype, t.out, v->out), cleanup);
    GDN_TRY_GOTO(gdni_download(&b, &x, layer->dtype, t.dx, v->dx), cleanup);
    for (int i = 0; v->dweights && i < GDNI_LAYER_WEIGHTS; ++i) {
        const gdni_shape s = gdni_layer_weight_shape(layer, i);
        GDN_TRY_GOTO(gdni_download(&b, &s, state, *gdni_layer_weight(&dweights, i),
                                   *gdni_layer_weight(v->dweights, i)),
                     cleanup);
    }
cleanup:
    gdni_release(&b);
    return status;
}
