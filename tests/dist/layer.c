/*
 * layer FIRST COUNT [portable|hopper [nccl|direct]]: random layers over random shards, against the
 * layer on one rank in float64. On the CPU and the reference backend; or on the cuda backend, whose
 * devices the ranks share, with messages staged through the host; hopper: K = V = 128. On one rank
 * they are bit for bit those of the plain calls, and on any those of a forward that is computed
 * again. nccl: a device a rank, and the same bits as staged; direct: MPI gets pointers to memory of
 * the device, and the same bits.
 */
#include "check/check.h"
#include "problem.h"
#ifdef GDNI_HAVE_CUDA
#include "managed.h"
#endif

enum {
    WEIGHTS = 9,
    A_LOG = 5,
    DT_BIAS = 6
};

/* Where layers run, and with what dims. */
typedef enum place {
    HOST,
    PORTABLE,
    HOPPER
} place;

/* Tensors of a layer: x, dout, the weights; out, dx and the weights' gradients. */
typedef struct layer_batch {
    gdn_layer layer; /* of the whole, fp64 */
    int64_t *cu_seqlens;
    double *x, *dout, *out, *dx;
    double *weights[WEIGHTS], *dweights[WEIGHTS];
    int64_t counts[WEIGHTS];
    double sum_sizes[2]; /* of dA_log and ddt_bias: gdni_gate_sum_sizes(), over all heads */
} layer_batch;

static const char *const weight_names[WEIGHTS] = {"in_proj_qkv", "in_proj_z", "in_proj_b",
                                                  "in_proj_a",   "conv1d",    "A_log",
                                                  "dt_bias",     "norm",      "out_proj"};

static int32_t pick(harness_random *r, int32_t low, int32_t high) {
    return low + (int32_t)(harness_uniform(r) * (double)(high - low + 1));
}

/* As many numbers as bf16 can hold. */
static double *values(harness_random *r, int64_t count, double size) {
    double *data = need(sizeof(double) * (size_t)count);
    for (int64_t i = 0; i < count; ++i) {
        const float x = (float)(size * harness_normal(r));
        uint32_t bits;
        memcpy(&bits, &x, sizeof(bits));
        bits &= 0xffff0000u;
        float y;
        memcpy(&y, &bits, sizeof(y));
        data[i] = (double)y;
    }
    return data;
}

/* Small layers let shards have a few tokens, or none; but their gradients are sums of few terms,
 * which fp32 may not hold to the standing tolerance: large ones are for fp32, too. */
static layer_batch draw_layer(harness_random *r, int large, place where) {
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
    if (where != HOST) { /* some shards of few tokens, or none, for halos of several ranks */
        l->T = large ? pick(r, 100, 400) : pick(r, 1, 40);
        l->D = 16 * pick(r, 2, 6);
        l->K = where == HOPPER ? 128 : 16 * pick(r, 1, 4);
        l->V = where == HOPPER ? 128 : 16 * pick(r, 1, 4);
    }
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
    const double in = where == HOST ? 0.4 : 1.0 / sqrt((double)D);
    const double out = where == HOST ? 0.4 : 1.0 / sqrt((double)HvV);
    for (int i = 0; i < WEIGHTS; ++i) {
        b.counts[i] = counts[i];
        b.weights[i] = values(r, counts[i], i == 4 ? 0.7 : i < 4 ? in : i == 8 ? out : 1.0);
        b.dweights[i] = values(r, counts[i], 0.0);
    }
    /* Half of the layers on devices have a head that forgets little. */
    if (where != HOST && pick(r, 0, 1))
        b.weights[A_LOG][l->Hv - 1] = -7.0;
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

static gdn_context *open_context(gdn_dist *dist, gdn_backend backend, gdn_kernels kernels) {
    const machine m = {.backend = backend, .kernels = kernels};
    gdn_context *context = NULL;
    must(dist, machine_open(&m, gdn_dist_rank(dist, GDN_DIST_WORLD), &context));
    return context;
}

typedef struct solving {
    const gdn_context *context;
    layer_batch *b;
} solving;

static gdn_status backward_with_sizes(void *user, const gdn_problem *problem,
                                      const gdn_tensors *tensors, gdn_stream stream) {
    const solving *s = user;
    double sizes[2][4];
    GDN_TRY(gdn_backward(s->context, problem, tensors, stream));
    gdni_gate_sum_sizes(problem, tensors, s->b->weights[A_LOG], sizes[0], sizes[1]);
    for (int i = 0; i < 2; ++i)
        for (int32_t h = 0; h < problem->Hv; ++h)
            s->b->sum_sizes[i] = hypot(s->b->sum_sizes[i], sizes[i][h]);
    return GDN_STATUS_OK;
}

static void solve_layer(gdn_dist *dist, layer_batch *b) {
    gdn_context *context = open_context(dist, GDN_BACKEND_REFERENCE, GDN_KERNELS_AUTO);
    solving looking = {context, b};
    gdn_layer_hooks hooks = GDN_LAYER_HOOKS_INIT;
    hooks.user = &looking;
    hooks.backward = backward_with_sizes;
    gdn_layer_tensors t = GDN_LAYER_TENSORS_INIT;
    gdn_sizes sizes = GDN_SIZES_INIT;
    const gdn_layer_weights w = weights_of((void *const *)b->weights);
    const gdn_layer_weights dw = weights_of((void *const *)b->dweights);
    must(dist, gdn_layer_sizes(context, &b->layer, &sizes));
    t.x = b->x, t.dout = b->dout, t.out = b->out, t.dx = b->dx;
    t.weights = &w, t.dweights = &dw, t.cu_seqlens = b->cu_seqlens, t.hooks = &hooks;
    t.saved = need(sizes.saved);
    t.workspace_size = sizes.forward_workspace + sizes.backward_workspace;
    t.workspace = need(t.workspace_size);
    must(dist, gdn_layer_forward(context, &b->layer, &t, NULL));
    must(dist, gdn_layer_backward(context, &b->layer, &t, NULL));
    free(t.saved);
    free(t.workspace);
    gdn_context_destroy(context);
}

/* L2 error over all ranks, relative to want's norm or `least`; a weight gradient is the same on all
 * of them. */
static void compare(gdn_dist *dist, gdn_dtype dtype, const void *got, const double *want,
                    int64_t count, double least, double limit, const char *tensor,
                    const char *name) {
    gdn_transport *group = gdn_dist_transport(dist, GDN_DIST_SEQUENCE);
    double sums[2] = {0};
    double *wide = need(sizeof(double) * (size_t)count);
    must(dist, gdn_convert(GDN_DTYPE_FP64, wide, dtype, got, count));
    for (int64_t i = 0; i < count; ++i) {
        sums[0] += (wide[i] - want[i]) * (wide[i] - want[i]);
        sums[1] += want[i] * want[i];
    }
    must(dist, group->all_reduce(group, GDN_DTYPE_FP64, sums, 2, "test: sums"));
    const double size =
        least * least * group->ranks > sums[1] ? least * least * group->ranks : sums[1];
    const double error = sqrt(sums[0] / (size > 0 ? size : 1.0));
    CHECK(error <= limit, "%s: %s: relative error %.3g, expected at most %.3g", name, tensor, error,
          limit);
    free(wide);
}

/* A rank's part of a layer that ran: everything in memory of the host. */
typedef struct layer_part {
    gdn_dtype dtype, state;
    int64_t elements; /* of out and dx */
    void *out, *dx, *dw[WEIGHTS];
} layer_part;

/* The dtype of a weight, and of all gradients of weights: the state type. */
static gdn_dtype weight_dtype(const layer_part *x, int i) {
    return i == A_LOG || i == DT_BIAS ? x->state : x->dtype;
}

static void *converted(gdn_dist *dist, const gdn_context *context, gdn_dtype dtype,
                       const double *from, int64_t count) {
    const size_t bytes = gdn_dtype_size(dtype) * (size_t)count;
    void *host = need(bytes), *data;
    must(dist, gdn_convert(dtype, host, GDN_DTYPE_FP64, from, count));
    must(dist, put(context, host, bytes, &data));
    if (data != host)
        free(host);
    return data;
}

/* What a call has written, on the host. */
static void *fetched(gdn_dist *dist, const gdn_context *context, void *data, size_t bytes) {
    if (!on_device(context))
        return data;
    void *host = need(bytes);
    must(dist, take_back(context, host, bytes, data));
    return host;
}

static void *reserved(gdn_dist *dist, const gdn_context *context, size_t bytes) {
    void *data = NULL;
    must(dist, reserve(context, bytes, &data));
    return data;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

typedef enum calls {
    OVER_RANKS,
    AGAIN, /* backward has the activations of a second forward */
    PLAIN  /* gdn_layer_forward and gdn_layer_backward, on one rank */
} calls;

/* The activations of a forward are lost, but for what came from other ranks. */
static void forward_again(gdn_dist *dist, const gdn_context *context, gdn_dist_layer *l,
                          gdn_layer_tensors *t, size_t saved, size_t out, gdn_stream stream) {
    const size_t crossed = gdn_dist_layer_crossed(l);
    void *kept = reserved(dist, context, crossed), *before = t->saved;
    CHECK(crossed > 0 && crossed <= saved, "%zu of %zu bytes of saved crossed", crossed, saved);
    if (stream) {
        must(dist, gdni_stream_copy(context, kept, before, crossed, stream));
        must(dist, gdni_stream_wait(context, stream, "test: what crossed"));
    } else {
        memcpy(kept, before, crossed);
    }
    release(context, before);
    release(context, t->out);
    t->saved = reserved(dist, context, saved);
    t->out = reserved(dist, context, out);
    if (stream)
        must(dist, gdni_stream_copy(context, t->saved, kept, crossed, stream));
    else
        memcpy(t->saved, kept, crossed);
    must(dist, gdn_dist_layer_forward_again(l, t, stream));
    if (stream)
        must(dist, gdni_stream_wait(context, stream, "test: forward again"));
    release(context, kept);
}

static layer_part run_layer(gdn_dist *dist, const gdn_context *context, const layer_batch *b,
                            const gdn_shard *shard, gdn_dtype dtype, calls how) {
    const int plain = how == PLAIN;
    const int64_t first = shard->first * b->layer.D;
    layer_part x = {.dtype = dtype,
                    .state = dtype == GDN_DTYPE_FP64 ? dtype : GDN_DTYPE_FP32,
                    .elements = shard->count * b->layer.D};
    const size_t bytes = gdn_dtype_size(dtype) * (size_t)x.elements;
    gdn_layer layer = b->layer;
    gdn_dist_layer *l = NULL;
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_dist_traffic traffic = GDN_DIST_TRAFFIC_INIT;
    gdn_layer_tensors t = GDN_LAYER_TENSORS_INIT;
    gdn_stream stream = NULL;
    void *w[WEIGHTS], *dw[WEIGHTS], *cu = NULL;
    layer.dtype = dtype;
    if (plain) {
        must(dist, gdn_layer_sizes(context, &layer, &sizes));
    } else {
        must(dist, gdn_dist_layer_create(&l, dist, context, &layer, shard));
        must(dist, gdn_dist_layer_sizes(l, &sizes));
    }
    for (int i = 0; i < WEIGHTS; ++i) {
        w[i] = converted(dist, context, weight_dtype(&x, i), b->weights[i], b->counts[i]);
        dw[i] = reserved(dist, context, gdn_dtype_size(x.state) * (size_t)b->counts[i]);
    }
    const gdn_layer_weights weights = weights_of(w), dweights = weights_of(dw);
    void *in = converted(dist, context, dtype, b->x + first, x.elements);
    void *dout = converted(dist, context, dtype, b->dout + first, x.elements);
    must(dist, put(context, b->cu_seqlens, sizeof(int64_t) * (size_t)(layer.N + 1), &cu));
    t.x = in, t.dout = dout, t.weights = &weights, t.dweights = &dweights, t.cu_seqlens = cu;
    t.out = reserved(dist, context, bytes);
    t.dx = reserved(dist, context, bytes);
    t.saved = reserved(dist, context, sizes.saved);
    t.workspace_size = larger(sizes.forward_workspace, sizes.backward_workspace);
    t.workspace = reserved(dist, context, t.workspace_size);
    if (on_device(context))
        must(dist, gdni_stream_create(context, &stream));
    must(dist, plain ? gdn_layer_forward(context, &layer, &t, stream)
                     : gdn_dist_layer_forward(l, &t, stream));
    if (how == AGAIN)
        forward_again(dist, context, l, &t, sizes.saved, bytes, stream);
    must(dist, plain ? gdn_layer_backward(context, &layer, &t, stream)
                     : gdn_dist_layer_backward(l, &t, stream));
    if (stream) {
        must(dist, gdni_stream_wait(context, stream, "test: a layer"));
        gdni_stream_destroy(context, stream);
    }
    if (l)
        must(dist, gdn_dist_layer_traffic(l, &traffic));
    x.out = fetched(dist, context, t.out, bytes);
    x.dx = fetched(dist, context, t.dx, bytes);
    for (int i = 0; i < WEIGHTS; ++i) {
        x.dw[i] = fetched(dist, context, dw[i], gdn_dtype_size(x.state) * (size_t)b->counts[i]);
        release(context, w[i]);
    }
    if (on_device(context))
        gdni_device_release(context, cu);
    release(context, in);
    release(context, dout);
    release(context, t.saved);
    release(context, t.workspace);
    gdn_dist_layer_destroy(l);
    return x;
}

static void free_part(layer_part *x) {
    free(x->out);
    free(x->dx);
    for (int i = 0; i < WEIGHTS; ++i)
        free(x->dw[i]);
}

static void compare_bits(const layer_batch *b, const layer_part *x, const layer_part *y,
                         const char *name, const char *other) {
    const size_t bytes = gdn_dtype_size(x->dtype) * (size_t)x->elements;
    CHECK(!memcmp(x->out, y->out, bytes), "%s: out differs from that %s", name, other);
    CHECK(!memcmp(x->dx, y->dx, bytes), "%s: dx differs from that %s", name, other);
    for (int i = 0; i < WEIGHTS; ++i)
        CHECK(!memcmp(x->dw[i], y->dw[i], gdn_dtype_size(x->state) * (size_t)b->counts[i]),
              "%s: d%s differs from that %s", name, weight_names[i], other);
}

/* In bf16 what passes between the parts is rounded, too: as much again and half of that. The two
 * sums that cancel are as near as dg lets them be. In fp32 the same code keeps the standing ones.
 */
static double limit_of(const char *tensor, gdn_dtype dtype) {
    if (dtype != GDN_DTYPE_BF16)
        return gdn_check_default_tolerance(tensor, dtype);
    return !strcmp(tensor, "A_log") || !strcmp(tensor, "dt_bias")
               ? gdn_check_default_tolerance("dg", dtype)
               : 5e-2;
}

/* Sums the gradients of weights on the way. */
static void check_part(gdn_dist *dist, const layer_batch *b, const gdn_shard *shard, layer_part *x,
                       const char *name) {
    const int64_t first = shard->first * b->layer.D;
    gdn_layer layer = b->layer;
    layer.dtype = x->dtype;
    const gdn_layer_weights dweights = weights_of(x->dw);
    must(dist, gdn_dist_layer_reduce(dist, GDN_DIST_SEQUENCE, &layer, &dweights));
    compare(dist, x->dtype, x->out, b->out + first, x->elements, 0, limit_of("out", x->dtype),
            "out", name);
    compare(dist, x->dtype, x->dx, b->dx + first, x->elements, 0, limit_of("dx", x->dtype), "dx",
            name);
    for (int i = 0; i < WEIGHTS; ++i) {
        const int sum = i == A_LOG || i == DT_BIAS;
        const double least = sum && x->dtype == GDN_DTYPE_BF16 ? b->sum_sizes[i - A_LOG] : 0;
        compare(dist, x->state, x->dw[i], b->dweights[i], b->counts[i], least,
                limit_of(weight_names[i], x->dtype), weight_names[i], name);
    }
}

/* For what runs over this group: managed where its messages are neither staged nor NCCL's. */
static void use_memory(gdn_dist *other) {
#ifdef GDNI_HAVE_CUDA
    const int direct = other && !gdn_dist_transport(other, GDN_DIST_SEQUENCE)->device_send;
    machine_memory = direct ? machine_managed : NULL;
#endif
}

/* other: the same ranks over NCCL, or direct; or NULL. */
static void check_layer(gdn_dist *dist, gdn_dist *other, const gdn_context *context,
                        const layer_batch *b, const gdn_shard *shard, gdn_dtype dtype, int index) {
    const int32_t ranks = gdn_dist_ranks(dist, GDN_DIST_SEQUENCE);
    char name[96];
    snprintf(name, sizeof(name), "layer %d, %d ranks, %s, %s", index, ranks,
             gdn_backend_name(gdn_context_backend(context)), gdn_dtype_name(dtype));
    layer_part x = run_layer(dist, context, b, shard, dtype, OVER_RANKS);
    layer_part again = run_layer(dist, context, b, shard, dtype, AGAIN);
    compare_bits(b, &x, &again, name, "without a second forward");
    free_part(&again);
    if (ranks == 1) {
        layer_part y = run_layer(dist, context, b, shard, dtype, PLAIN);
        compare_bits(b, &x, &y, name, "of the plain calls");
        free_part(&y);
    }
    if (other) {
        use_memory(other);
        layer_part y = run_layer(other, context, b, shard, dtype, OVER_RANKS);
        compare_bits(b, &x, &y, name, "of staged messages");
        free_part(&y);
        y = run_layer(other, context, b, shard, dtype, AGAIN);
        use_memory(NULL);
        compare_bits(b, &x, &y, name, "of staged messages, with a second forward");
        free_part(&y);
    }
    check_part(dist, b, shard, &x, name);
    free_part(&x);
}

static void check_backends(gdn_dist *dist, gdn_dist *other, const gdn_context *cuda,
                           const layer_batch *b, const gdn_shard *shard, int index) {
    if (cuda) {
        check_layer(dist, other, cuda, b, shard, GDN_DTYPE_BF16, index);
        if (b->layer.K < 128)
            check_layer(dist, other, cuda, b, shard, GDN_DTYPE_FP32, index);
        return;
    }
    gdn_context *context = open_context(dist, GDN_BACKEND_REFERENCE, GDN_KERNELS_AUTO);
    check_layer(dist, NULL, context, b, shard, GDN_DTYPE_FP64, index);
    gdn_context_destroy(context);
    if (index % 2 == 0)
        return;
    context = open_context(dist, GDN_BACKEND_CPU, GDN_KERNELS_AUTO);
    check_layer(dist, NULL, context, b, shard, GDN_DTYPE_FP32, index);
    gdn_context_destroy(context);
}

int main(int argc, char **argv) {
    const int direct = argc > 4 && !strcmp(argv[4], "direct");
#ifdef GDNI_HAVE_CUDA
    if (direct)
        managed_begin();
#endif
    gdn_dist_config config = GDN_DIST_CONFIG_INIT;
    gdn_dist *dist = test_begin(20.0, 0), *other = NULL;
    gdn_context *cuda = NULL;
    const int first = argc > 1 ? atoi(argv[1]) : 1, count = argc > 2 ? atoi(argv[2]) : 1;
    const place where = argc < 4 ? HOST : !strcmp(argv[3], "hopper") ? HOPPER : PORTABLE;
    const int32_t rank = gdn_dist_rank(dist, GDN_DIST_SEQUENCE);
    const int32_t ranks = gdn_dist_ranks(dist, GDN_DIST_SEQUENCE);
    if (where != HOST && gdn_device_count() == 0)
        return test_skip(dist, "no CUDA device here");
    if (argc > 4 && !direct && gdn_device_count() < ranks)
        return test_skip(dist, "NCCL wants a CUDA device for each rank");
    if (where != HOST)
        cuda = open_context(dist, GDN_BACKEND_CUDA,
                            where == HOPPER ? GDN_KERNELS_AUTO : GDN_KERNELS_PORTABLE);
    if (argc > 4) {
        config.device_messages = direct ? GDN_DIST_DIRECT : GDN_DIST_STAGED;
        must(dist, gdn_dist_create(&other, &config));
        if (!direct)
            must(dist, gdn_dist_use_nccl(other, cuda, NULL));
    }
    for (int i = first; i < first + count; ++i) {
        harness_random r = {(uint64_t)i};
        layer_batch b = draw_layer(&r, i % 2, where);
        gdn_shard shard = GDN_SHARD_INIT;
        shard.T = b.layer.T;
        shard.N = b.layer.N;
        shard.cu_seqlens = b.cu_seqlens;
        draw_shard(&shard, &r, rank, ranks);
        solve_layer(dist, &b);
        check_backends(dist, other, cuda, &b, &shard, i);
        free_layer(&b);
    }
    gdn_dist_destroy(other);
    gdn_context_destroy(cuda);
    return test_finish(dist);
}
