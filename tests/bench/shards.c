/*
 * shards [TOKENS [REPEATS [staged|nccl]]]: forward and backward of TOKENS tokens a rank by kind of
 * gate: the best of REPEATS, slowest rank; what a rank sends, and how many tokens its segment pass
 * read (0 over NCCL, where only the device knows). Run it under mpirun with 1, 2, ... ranks and
 * compare; "normed" is "strong" with q and k normalised by the operator, as a layer wants it. On
 * the CPU in fp32, one thread a rank; with staged or nccl on GPUs, in bf16 with 16 and 32 heads.
 */
#include "../dist/problem.h"

#include <time.h>

enum {
    DIM = 128,
    DRAWN = 1024 /* tokens; the others are copies of them */
};

typedef struct setup {
    gdn_dist *dist;
    gdn_context *context;
    gdn_stream stream;
    gdn_dtype dtype;
    int32_t Hk, Hv;
    int64_t T; /* a rank's */
    int repeats;
} setup;

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

static double draw_value(harness_random *r, int tensor, int64_t head, const kind *k) {
    const double x = harness_normal(r);
    switch (tensor) {
    case Q:
    case K_:
        return x / sqrt((double)DIM);
    case G:
        return -2.0 * harness_uniform(r) * k->gate * pow(k->ratio, (double)head);
    case BETA:
        return harness_uniform(r);
    default:
        return x;
    }
}

/* The first `have` bytes again and again. */
static void repeat(const setup *s, char *data, size_t have, size_t bytes) {
    for (; have < bytes; have *= 2) {
        const size_t more = have < bytes - have ? have : bytes - have;
        if (on_device(s->context))
            must(s->dist, gdni_device_copy(s->context, data + have, data, more));
        else
            memcpy(data + have, data, more);
    }
}

/* Inputs as the context wants them, and room for the outputs. */
static void fill(const setup *s, const gdn_problem *p, const kind *k, void *data[TENSORS]) {
    harness_random r = {(uint64_t)gdn_dist_rank(s->dist, GDN_DIST_WORLD) + 1};
    for (int i = 0; i < TENSORS; ++i) {
        const int64_t row = tensor_row(p, i), rows = tensor_rows(p, i);
        const int64_t drawn = rows < DRAWN ? rows : DRAWN;
        const size_t bytes = gdn_dtype_size(dtype_of(p, i)) * (size_t)row;
        data[i] = NULL;
        if (i == INITIAL || i == DHT)
            continue;
        must(s->dist, reserve(s->context, bytes * (size_t)rows, &data[i]));
        if (i > DO)
            continue;
        double *values = need(sizeof(double) * (size_t)(drawn * row));
        void *host = need(bytes * (size_t)drawn);
        for (int64_t j = 0; j < drawn * row; ++j)
            values[j] = draw_value(&r, i, j % p->Hv, k);
        must(s->dist, gdn_convert(dtype_of(p, i), host, GDN_DTYPE_FP64, values, drawn * row));
        if (on_device(s->context))
            must(s->dist, gdni_device_copy(s->context, data[i], host, bytes * (size_t)drawn));
        else
            memcpy(data[i], host, bytes * (size_t)drawn);
        repeat(s, data[i], bytes * (size_t)drawn, bytes * (size_t)rows);
        free(values);
        free(host);
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

/* Seconds of one call, of the slowest rank. */
static double timed(const setup *s, gdn_dist_plan *plan, const gdn_tensors *t, int backward) {
    slowest(s->dist, 0.0); /* all start together */
    const double start = now();
    must(s->dist,
         backward ? gdn_dist_backward(plan, t, s->stream) : gdn_dist_forward(plan, t, s->stream));
    if (s->stream)
        must(s->dist, gdni_stream_wait(s->context, s->stream, "bench: a call"));
    return slowest(s->dist, now() - start);
}

static void run(const setup *s, const kind *k) {
    gdn_dist *dist = s->dist;
    const int32_t rank = gdn_dist_rank(dist, GDN_DIST_WORLD);
    const int32_t ranks = gdn_dist_ranks(dist, GDN_DIST_WORLD);
    gdn_shard shard = GDN_SHARD_INIT;
    gdn_problem problem = GDN_PROBLEM_INIT;
    gdn_dist_plan *plan = NULL;
    gdn_dist_local local = GDN_DIST_LOCAL_INIT;
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_dist_traffic traffic = GDN_DIST_TRAFFIC_INIT;
    void *data[TENSORS];
    double forward = INFINITY, backward = INFINITY;
    shard.T = s->T * ranks;
    gdn_shard_even(&shard, rank, ranks);
    problem.dtype = s->dtype;
    problem.Hk = s->Hk, problem.Hv = s->Hv, problem.K = problem.V = DIM;
    problem.flags = k->flags;
    must(dist, gdn_dist_plan_create(&plan, dist, s->context, &problem, &shard));
    must(dist, gdn_dist_plan_local(plan, &local));
    must(dist, gdn_dist_plan_sizes(plan, &sizes));
    fill(s, &local.problem, k, data);
    gdn_tensors t = tensors_of(data);
    must(dist, reserve(s->context, sizes.saved, &t.saved));
    t.workspace_size = sizes.forward_workspace > sizes.backward_workspace
                           ? sizes.forward_workspace
                           : sizes.backward_workspace;
    must(dist, reserve(s->context, t.workspace_size, &t.workspace));
    for (int i = 0; i < s->repeats; ++i) {
        forward = fmin(forward, timed(s, plan, &t, 0));
        backward = fmin(backward, timed(s, plan, &t, 1));
    }
    must(dist, gdn_dist_plan_traffic(plan, &traffic));
    const double tokens = slowest(dist, (double)traffic.segment_tokens);
    const double bytes = slowest(dist, (double)traffic.forward_bytes);
    if (rank == 0)
        printf("%-8s %5d %8lld %10.2f %10.2f %12.0f %12.0f\n", k->name, ranks, (long long)shard.T,
               1e3 * forward, 1e3 * backward, bytes, tokens);
    for (int i = 0; i < TENSORS; ++i)
        if (data[i])
            release(s->context, data[i]);
    release(s->context, t.saved);
    release(s->context, t.workspace);
    gdn_dist_plan_destroy(plan);
}

int main(int argc, char **argv) {
    static const kind kinds[] = {{"strong", 1.0, 1.0, 0},
                                 {"mixed", 1.0, 0.01, 0},
                                 {"none", 0.0, 1.0, 0},
                                 {"exact", 1.0, 1.0, GDN_FLAG_EXACT},
                                 {"normed", 1.0, 1.0, GDN_FLAG_L2NORM_QK}};
    const int gpu = argc > 3, nccl = gpu && !strcmp(argv[3], "nccl");
    const machine m = {.backend = gpu ? GDN_BACKEND_CUDA : GDN_BACKEND_CPU,
                       .kernels = GDN_KERNELS_AUTO};
    setup s = {.dist = test_begin(30.0, 0),
               .dtype = gpu ? GDN_DTYPE_BF16 : GDN_DTYPE_FP32,
               .Hk = gpu ? 16 : 2,
               .Hv = gpu ? 32 : 4,
               .T = argc > 1 ? atoll(argv[1]) : 4096,
               .repeats = argc > 2 ? atoi(argv[2]) : 5};
    const int32_t rank = gdn_dist_rank(s.dist, GDN_DIST_WORLD);
    must(s.dist, machine_open(&m, rank, &s.context));
    if (gpu)
        must(s.dist, gdni_stream_create(s.context, &s.stream));
    if (nccl)
        must(s.dist, gdn_dist_use_nccl(s.dist, s.context, NULL));
    if (rank == 0)
        printf("%-8s %5s %8s %10s %10s %12s %12s\n", "gates", "ranks", "tokens", "forward ms",
               "backw. ms", "bytes sent", "segment");
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); ++i)
        run(&s, &kinds[i]);
    gdn_dist_destroy(s.dist);
    if (s.stream)
        gdni_stream_destroy(s.context, s.stream);
    gdn_context_destroy(s.context);
    gdn_dist_finish(30.0);
    return 0;
}
