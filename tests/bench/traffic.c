/*
 * traffic: what a layer's forward and backward send, by the library's own count, against T and the
 * number of ranks; the sum over the operator's states and the convolution's halo, of the rank that
 * sends most. Beside it, what that rank would send by formula if it passed k and v round a ring, or
 * exchanged q, k, v and o for heads. Run it under mpirun with 2, 4, ... ranks.
 */
#include "../dist/problem.h"

enum {
    WEIGHTS = 9,
    WIDTH = 256,
    HK = 2,
    HV = 4,
    DIM = 128,
    CONV = 4,
    CHANNELS = 2 * HK * DIM + HV * DIM
};

typedef struct layer_memory {
    float *data[WEIGHTS];
    float A_log[HV], dt_bias[HV];
} layer_memory;

static float *random_values(harness_random *r, int64_t count, double size) {
    float *data = need(sizeof(*data) * (size_t)count);
    for (int64_t i = 0; i < count; ++i)
        data[i] = (float)(size * harness_normal(r));
    return data;
}

/* A token's gate is -exp(A_log) softplus(...); A_log grows by `step` from one head to the next. */
static gdn_layer_weights draw_weights(layer_memory *m, double A_log, double step) {
    const int64_t counts[WEIGHTS] = {
        CHANNELS * WIDTH, HV * DIM * WIDTH, HV * WIDTH, HV * WIDTH, CHANNELS * CONV, 0, 0, DIM,
        WIDTH * HV * DIM};
    harness_random r = {5};
    for (int i = 0; i < WEIGHTS; ++i)
        m->data[i] = counts[i] ? random_values(&r, counts[i], i == 4 ? 0.5 : 0.06) : NULL;
    for (int h = 0; h < HV; ++h) {
        m->A_log[h] = (float)(A_log + step * h);
        m->dt_bias[h] = 0.0f;
    }
    return (gdn_layer_weights){sizeof(gdn_layer_weights),
                               m->data[0],
                               m->data[1],
                               m->data[2],
                               m->data[3],
                               m->data[4],
                               m->A_log,
                               m->dt_bias,
                               m->data[7],
                               m->data[8]};
}

static void free_weights(layer_memory *m) {
    for (int i = 0; i < WEIGHTS; ++i)
        free(m->data[i]);
}

/* Forward and backward of one layer. */
static gdn_dist_traffic count_bytes(gdn_dist *dist, const gdn_context *context, int64_t T,
                                    double A_log, double step) {
    gdn_layer layer = GDN_LAYER_INIT;
    gdn_shard shard = GDN_SHARD_INIT;
    gdn_dist_layer *l = NULL;
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_layer_tensors t = GDN_LAYER_TENSORS_INIT;
    gdn_dist_traffic traffic = GDN_DIST_TRAFFIC_INIT;
    layer_memory memory, gradients;
    harness_random r = {(uint64_t)gdn_dist_rank(dist, GDN_DIST_SEQUENCE) + 1};
    const gdn_layer_weights weights = draw_weights(&memory, A_log, step);
    const gdn_layer_weights dweights = draw_weights(&gradients, A_log, step);
    layer.N = 1;
    layer.D = WIDTH, layer.Hk = HK, layer.Hv = HV, layer.K = layer.V = DIM;
    layer.conv_width = CONV;
    shard.T = layer.T = T;
    gdn_shard_even(&shard, gdn_dist_rank(dist, GDN_DIST_SEQUENCE),
                   gdn_dist_ranks(dist, GDN_DIST_SEQUENCE));
    must(dist, gdn_dist_layer_create(&l, dist, context, &layer, &shard));
    must(dist, gdn_dist_layer_sizes(l, &sizes));
    float *x = random_values(&r, shard.count * WIDTH, 1.0);
    float *dout = random_values(&r, shard.count * WIDTH, 1.0);
    t.x = x, t.dout = dout, t.weights = &weights, t.dweights = &dweights;
    t.out = need(sizeof(*x) * (size_t)(shard.count * WIDTH));
    t.dx = need(sizeof(*x) * (size_t)(shard.count * WIDTH));
    t.saved = need(sizes.saved);
    t.workspace_size = sizes.forward_workspace > sizes.backward_workspace
                           ? sizes.forward_workspace
                           : sizes.backward_workspace;
    t.workspace = need(t.workspace_size);
    must(dist, gdn_dist_layer_forward(l, &t, NULL));
    must(dist, gdn_dist_layer_backward(l, &t, NULL));
    must(dist, gdn_dist_layer_traffic(l, &traffic));
    gdn_dist_layer_destroy(l);
    free_weights(&memory);
    free_weights(&gradients);
    free(x);
    free(dout);
    free(t.out);
    free(t.dx);
    free(t.saved);
    free(t.workspace);
    return traffic;
}

/* The rank that sends most; the decisions of rank 1, as rank 0, where the sequence begins, has none
 * to take. The ring passes k and v in forward, and both with their gradients in backward; the other
 * exchanges q, k, v before and o after forward, and their gradients in backward. */
static void print_row(gdn_dist *dist, const char *gates, int64_t T, const gdn_dist_traffic *mine) {
    gdn_dist_traffic all[64];
    gdn_transport *world = gdn_dist_transport(dist, GDN_DIST_WORLD);
    const int64_t P = world->ranks, held = (T + P - 1) / P;
    const int64_t kv = 4 * (HK * DIM + HV * DIM); /* bytes of a token's k and v */
    int64_t most = 0;
    must(dist, world->all_gather(world, mine, all, sizeof(*mine), "traffic: counts"));
    for (int64_t i = 0; i < P; ++i)
        if (all[i].forward_bytes + all[i].backward_bytes > most)
            most = all[i].forward_bytes + all[i].backward_bytes;
    if (world->rank == 0)
        printf("| %s | %lld | %lld | %s | %lld | %lld | %lld |\n", gates, (long long)P,
               (long long)T,
               P < 3                          ? "-"
               : all[1].heads_truncated == HV ? "all"
               : all[1].heads_truncated == 0  ? "none"
                                              : "some",
               (long long)most, (long long)(3 * (P - 1) * held * kv),
               (long long)(4 * (P - 1) * held * kv / P));
}

int main(void) {
    static const struct {
        const char *name;
        double A_log, step;
    } gates[] = {{"strong", 0.0, 0.0}, {"mixed", 0.0, -5.0}, {"undecayed", -30.0, 0.0}};
    gdn_dist *dist = test_begin(30.0, 0);
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context = NULL;
    config.backend = GDN_BACKEND_CPU;
    config.threads = 1;
    must(dist, gdn_context_create(&context, &config));
    if (gdn_dist_ranks(dist, GDN_DIST_WORLD) > 64)
        gdn_dist_abort(dist, 99, "expected at most 64 ranks");
    if (gdn_dist_rank(dist, GDN_DIST_WORLD) == 0)
        printf("| gates | ranks | T | truncated heads | sent | ring | all-to-all |\n"
               "|---|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < sizeof(gates) / sizeof(gates[0]); ++i)
        for (int64_t T = 4096; T <= 65536; T *= 4) {
            const gdn_dist_traffic mine =
                count_bytes(dist, context, T, gates[i].A_log, gates[i].step);
            print_row(dist, gates[i].name, T, &mine);
        }
    gdn_context_destroy(context);
    gdn_dist_destroy(dist);
    gdn_dist_finish(30.0);
    return 0;
}
