/* layer FIRST COUNT: random layers over random shards, against the layer on one rank in float64. */
#include "gdn_check.h"
#include "problem.h"

enum {
    WEIGHTS = 9
};

/* Tensors of a layer: x, dout, the weights; out, dx and the weights' gradients. */
typedef struct layer_batch {
    gdn_layer layer; /* of the whole, fp64 */
    int64_t *cu_seqlens;
    double *x, *dout, *out, *dx;
    double *weights[WEIGHTS], *dweights[WEIGHTS];
    int64_t counts[WEIGHTS];
} layer_batch;

static const char *const weight_names[WEIGHTS] = {"in_proj_qkv", "in_proj_z", "in_proj_b",
                                                  "in_proj_a",   "conv1d",    "A_log",
                                                  "dt_bias",     "norm",      "out_proj"};

static int32_t pick(harness_random *r, int32_t low, int32_t high) {
    return low + (int32_t)(harness_uniform(r) * (double)(high - low + 1));
}

static double *values(harness_random *r, int64_t count, double size) {
    double *data = need(sizeof(double) * (size_t)count);
    for (int64_t i = 0; i < count; ++i)
        data[i] = (double)(float)(size * harness_normal(r));
    return data;
}

/* Small layers let shards have a few tokens, or none; but their gradients are sums of few terms,
 * which fp32 may not hold to the standing tolerance: large ones are for fp32, too. */
static layer_batch draw_layer(harness_random *r, int large) {
    layer_batch b = {.layer = GDN_LAYER_INIT};
    gdn_layer *l = &b.layer;
    l->dtype = GDN_DTYPE_FP64;
    l->T = large ? pick(r, 60, 120) : pick(r, 1, 60);
    l->N = pick(r, 1, 4);
    l->D = large ? pick(r, 16, 32) : pick(r, 3, 12);
    l->Hk = pick(r, 1, 2);
    l->Hv = l->Hk * pick(r, 1, 2);
    l->K = large ? 16 : 4 * pick(r, 1, 3);
    l->V = large ? 24 : 4 * pick(r, 1, 3);
    l->conv_width = pick(r, 1, 6);
    b.cu_seqlens = need(sizeof(int64_t) * (size_t)(l->N + 1));
    b.cu_seqlens[0] = 0;
    for (int64_t n = 1; n <= l->N; ++n) {
        const int64_t from = b.cu_seqlens[n - 1];
        b.cu_seqlens[n] = n == l->N && pick(r, 0, 2) ? l->T : pick(r, (int32_t)from, (int32_t)l->T);
    }
    const int64_t HvV = (int64_t)l->Hv * l->V, C = 2 * (int64_t)l->Hk * l->K + HvV, D = l->D;
    const int64_t counts[WEIGHTS] = {C * D, HvV * D, l->Hv * D, l->Hv * D, C * l->conv_width,
                                     l->Hv, l->Hv,   l->V,      D * HvV};
    b.x = values(r, l->T * D, 1.0);
    b.dout = values(r, l->T * D, 1.0);
    b.out = values(r, l->T * D, 0.0);
    b.dx = values(r, l->T * D, 0.0);
    for (int i = 0; i < WEIGHTS; ++i) {
        b.counts[i] = counts[i];
        b.weights[i] = values(r, counts[i], i == 4 ? 0.7 : i < 5 || i == 8 ? 0.4 : 1.0);
        b.dweights[i] = values(r, counts[i], 0.0);
    }
    return b;
}

static void free_layer(layer_batch *b) {
    free(b->cu_seqlens);
    free(b->x);
    free(b->dout);
    free(b->out);
    free(b->dx);
    for (int i = 0; i < WEIGHTS; ++i) {
        free(b->weights[i]);
        free(b->dweights[i]);
    }
}

static gdn_layer_weights weights_of(void *const data[WEIGHTS]) {
    const gdn_layer_weights w = {sizeof(w), data[0], data[1], data[2], data[3],
                                 data[4],   data[5], data[6], data[7], data[8]};
    return w;
}

static gdn_context *open_context(gdn_dist *dist, gdn_backend backend) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context = NULL;
    config.backend = backend;
    config.threads = 1;
    must(dist, gdn_context_create(&context, &config));
    return context;
}

static void solve_layer(gdn_dist *dist, layer_batch *b) {
    gdn_context *context = open_context(dist, GDN_BACKEND_REFERENCE);
    gdn_layer_tensors t = GDN_LAYER_TENSORS_INIT;
    gdn_sizes sizes = GDN_SIZES_INIT;
    const gdn_layer_weights w = weights_of((void *const *)b->weights);
    const gdn_layer_weights dw = weights_of((void *const *)b->dweights);
    must(dist, gdn_layer_sizes(context, &b->layer, &sizes));
    t.x = b->x, t.dout = b->dout, t.out = b->out, t.dx = b->dx;
    t.weights = &w, t.dweights = &dw, t.cu_seqlens = b->cu_seqlens;
    t.saved = need(sizes.saved);
    t.workspace_size = sizes.forward_workspace + sizes.backward_workspace;
    t.workspace = need(t.workspace_size);
    must(dist, gdn_layer_forward(context, &b->layer, &t, NULL));
    must(dist, gdn_layer_backward(context, &b->layer, &t, NULL));
    free(t.saved);
    free(t.workspace);
    gdn_context_destroy(context);
}

/* Relative L2 error over all ranks; a weight gradient is the same on all of them. */
static void compare(gdn_dist *dist, gdn_dtype dtype, const void *got, const double *want,
                    int64_t count, const char *tensor, const char *name) {
    gdn_transport *group = gdn_dist_transport(dist, GDN_DIST_SEQUENCE);
    double sums[2] = {0};
    double *wide = need(sizeof(double) * (size_t)count);
    must(dist, gdn_convert(GDN_DTYPE_FP64, wide, dtype, got, count));
    for (int64_t i = 0; i < count; ++i) {
        sums[0] += (wide[i] - want[i]) * (wide[i] - want[i]);
        sums[1] += want[i] * want[i];
    }
    must(dist, group->all_reduce(group, GDN_DTYPE_FP64, sums, 2, "test: sums"));
    const double error = sqrt(sums[0] / (sums[1] > 0 ? sums[1] : 1.0));
    const double limit =
        dtype == GDN_DTYPE_FP64 ? 1e-10 : gdn_check_default_tolerance(tensor, dtype);
    CHECK(error <= limit, "%s: %s: relative error %.3g, expected at most %.3g", name, tensor, error,
          limit);
    free(wide);
}

static void *converted(gdn_dist *dist, gdn_dtype dtype, const double *from, int64_t count) {
    void *data = need(gdn_dtype_size(dtype) * (size_t)count);
    must(dist, gdn_convert(dtype, data, GDN_DTYPE_FP64, from, count));
    return data;
}

static void check_layer(gdn_dist *dist, const layer_batch *b, const gdn_shard *shard,
                        gdn_backend backend, const char *name) {
    gdn_context *context = open_context(dist, backend);
    const gdn_dtype dtype = backend == GDN_BACKEND_CPU ? GDN_DTYPE_FP32 : GDN_DTYPE_FP64;
    const int64_t first = shard->first * b->layer.D, count = shard->count * b->layer.D;
    gdn_layer layer = b->layer;
    gdn_dist_layer *l = NULL;
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_dist_traffic traffic = GDN_DIST_TRAFFIC_INIT;
    gdn_layer_tensors t = GDN_LAYER_TENSORS_INIT;
    void *w[WEIGHTS], *dw[WEIGHTS];
    layer.dtype = dtype;
    must(dist, gdn_dist_layer_create(&l, dist, context, &layer, shard));
    must(dist, gdn_dist_layer_sizes(l, &sizes));
    for (int i = 0; i < WEIGHTS; ++i) {
        w[i] = converted(dist, dtype, b->weights[i], b->counts[i]);
        dw[i] = need(gdn_dtype_size(dtype) * (size_t)b->counts[i]);
    }
    const gdn_layer_weights weights = weights_of(w), dweights = weights_of(dw);
    void *x = converted(dist, dtype, b->x + first, count);
    void *dout = converted(dist, dtype, b->dout + first, count);
    t.x = x, t.dout = dout, t.weights = &weights, t.dweights = &dweights;
    t.out = need(gdn_dtype_size(dtype) * (size_t)count);
    t.dx = need(gdn_dtype_size(dtype) * (size_t)count);
    t.saved = need(sizes.saved);
    t.workspace_size = sizes.forward_workspace;
    t.workspace = need(sizes.forward_workspace);
    must(dist, gdn_dist_layer_forward(l, &t, NULL));
    free(t.workspace);
    t.workspace_size = sizes.backward_workspace;
    t.workspace = need(sizes.backward_workspace);
    must(dist, gdn_dist_layer_backward(l, &t, NULL));
    must(dist, gdn_dist_layer_reduce(dist, GDN_DIST_SEQUENCE, &layer, &dweights));
    must(dist, gdn_dist_layer_traffic(l, &traffic));

    compare(dist, dtype, t.out, b->out + first, count, "out", name);
    compare(dist, dtype, t.dx, b->dx + first, count, "dx", name);
    for (int i = 0; i < WEIGHTS; ++i) {
        compare(dist, dtype, dw[i], b->dweights[i], b->counts[i], weight_names[i], name);
        free(w[i]);
        free(dw[i]);
    }
    free(x);
    free(dout);
    free(t.out);
    free(t.dx);
    free(t.saved);
    free(t.workspace);
    gdn_dist_layer_destroy(l);
    gdn_context_destroy(context);
}

int main(int argc, char **argv) {
    gdn_dist *dist = test_begin(20.0, 0);
    const int first = argc > 1 ? atoi(argv[1]) : 1, count = argc > 2 ? atoi(argv[2]) : 1;
    const int32_t rank = gdn_dist_rank(dist, GDN_DIST_SEQUENCE);
    const int32_t ranks = gdn_dist_ranks(dist, GDN_DIST_SEQUENCE);
    for (int i = first; i < first + count; ++i) {
        harness_random r = {(uint64_t)i};
        char name[64];
        layer_batch b = draw_layer(&r, i % 2);
        gdn_shard shard = GDN_SHARD_INIT;
        shard.T = b.layer.T;
        shard.N = b.layer.N;
        shard.cu_seqlens = b.cu_seqlens;
        draw_shard(&shard, &r, rank, ranks);
        solve_layer(dist, &b);
        snprintf(name, sizeof(name), "layer %d, %d ranks, reference", i, ranks);
        check_layer(dist, &b, &shard, GDN_BACKEND_REFERENCE, name);
        snprintf(name, sizeof(name), "layer %d, %d ranks, cpu", i, ranks);
        if (i % 2)
            check_layer(dist, &b, &shard, GDN_BACKEND_CPU, name);
        free_layer(&b);
    }
    return test_finish(dist);
}
