/*
 * shards [TOKENS [REPEATS]]: forward and backward of TOKENS tokens a rank, one thread a rank, by
 * kind of gate: the best of REPEATS, slowest rank; what a rank sends, and how many tokens its
 * segment pass read. Run it under mpirun with 1, 2, ... ranks and compare.
 */
#include "../dist/problem.h"

#include <time.h>

enum {
    HK = 2,
    HV = 4,
    DIM = 128
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct kind {
    const char *name;
    double gate;  /* mean of -g a token of head 0 */
    double ratio; /* of one head's to the next */
    uint32_t flags;
} kind;

static void fill(float *data[TENSORS], int64_t T, const kind *k, int32_t rank) {
    harness_random r = {(uint64_t)rank + 1};
    gdn_problem p = GDN_PROBLEM_INIT;
    p.T = T, p.Hk = HK, p.Hv = HV, p.K = p.V = DIM;
    for (int i = 0; i < TENSORS; ++i) {
        const int64_t count = tensor_rows(&p, i) * tensor_row(&p, i);
        data[i] = i == INITIAL || i == DHT ? NULL : need(sizeof(float) * (size_t)count);
        for (int64_t j = 0; i <= DO && j < count; ++j) {
            double x = harness_normal(&r);
            if (i == Q || i == K_)
                x /= sqrt((double)DIM);
            if (i == G)
                x = -2.0 * harness_uniform(&r) * k->gate * pow(k->ratio, (double)(j % HV));
            if (i == BETA)
                x = harness_uniform(&r);
            data[i][j] = (float)x;
        }
    }
}

/* The largest over all ranks. */
static double slowest(gdn_dist *dist, double mine) {
    double all[64], most = 0.0;
    gdn_transport *t = gdn_dist_transport(dist, GDN_DIST_WORLD);
    must(dist, t->all_gather(t, &mine, all, sizeof(mine), "bench: times"));
    for (int32_t i = 0; i < t->ranks; ++i)
        most = all[i] > most ? all[i] : most;
    return most;
}

static void run(gdn_dist *dist, const gdn_context *context, int64_t T, int repeats, const kind *k) {
    const int32_t rank = gdn_dist_rank(dist, GDN_DIST_WORLD);
    const int32_t ranks = gdn_dist_ranks(dist, GDN_DIST_WORLD);
    gdn_shard shard = GDN_SHARD_INIT;
    gdn_problem problem = GDN_PROBLEM_INIT;
    gdn_dist_plan *plan = NULL;
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_dist_traffic traffic = GDN_DIST_TRAFFIC_INIT;
    float *data[TENSORS];
    double forward = INFINITY, backward = INFINITY;
    shard.T = T * ranks;
    gdn_shard_even(&shard, rank, ranks);
    problem.Hk = HK, problem.Hv = HV, problem.K = problem.V = DIM;
    problem.flags = k->flags;
    must(dist, gdn_dist_plan_create(&plan, dist, context, &problem, &shard));
    must(dist, gdn_dist_plan_sizes(plan, &sizes));
    fill(data, T, k, rank);
    gdn_tensors t = tensors_of((void *const *)data);
    t.saved = need(sizes.saved);
    t.workspace_size = sizes.forward_workspace > sizes.backward_workspace
                           ? sizes.forward_workspace
                           : sizes.backward_workspace;
    t.workspace = need(t.workspace_size);
    for (int i = 0; i < repeats; ++i) {
        slowest(dist, 0.0); /* all start together */
        const double start = now();
        must(dist, gdn_dist_forward(plan, &t, NULL));
        const double middle = slowest(dist, now() - start), again = now();
        must(dist, gdn_dist_backward(plan, &t, NULL));
        const double end = slowest(dist, now() - again);
        forward = fmin(forward, middle);
        backward = fmin(backward, end);
    }
    must(dist, gdn_dist_plan_traffic(plan, &traffic));
    const double tokens = slowest(dist, (double)traffic.segment_tokens);
    const double bytes = slowest(dist, (double)traffic.forward_bytes);
    if (rank == 0)
        printf("%-8s %5d %8lld %10.1f %10.1f %12.0f %12.0f\n", k->name, ranks, (long long)shard.T,
               1e3 * forward, 1e3 * backward, bytes, tokens);
    for (int i = 0; i < TENSORS; ++i)
        free(data[i]);
    free(t.saved);
    free(t.workspace);
    gdn_dist_plan_destroy(plan);
}

int main(int argc, char **argv) {
    static const kind kinds[] = {{"strong", 1.0, 1.0, 0},
                                 {"mixed", 1.0, 0.01, 0},
                                 {"none", 0.0, 1.0, 0},
                                 {"exact", 1.0, 1.0, GDN_FLAG_EXACT}};
    gdn_dist *dist = test_begin(30.0, 0);
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context = NULL;
    config.backend = GDN_BACKEND_CPU;
    config.threads = 1;
    must(dist, gdn_context_create(&context, &config));
    if (gdn_dist_rank(dist, GDN_DIST_WORLD) == 0)
        printf("%-8s %5s %8s %10s %10s %12s %12s\n", "gates", "ranks", "tokens", "forward ms",
               "backw. ms", "bytes sent", "segment");
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); ++i)
        run(dist, context, argc > 1 ? atoll(argv[1]) : 4096, argc > 2 ? atoi(argv[2]) : 5,
            &kinds[i]);
    gdn_context_destroy(context);
    gdn_dist_destroy(dist);
    gdn_dist_finish(30.0);
    return 0;
}
