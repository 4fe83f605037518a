/* decay [portable]: which heads are truncated, what that changes, and what crosses, for three ranks
 * on the host, or on a device by portable kernels. */
#include "problem.h"

enum {
    RANKS = 3,
    HEADER = 16, /* bytes of a message's header, for up to 64 heads */
    DIM = 16
};

static const machine *device; /* NULL: host backends */

/* One sequence of T tokens with states; gates and beta are the caller's. */
static batch make(int64_t T, int32_t Hv, double gate, double key) {
    harness_random r = {7};
    batch b = {.problem = GDN_PROBLEM_INIT};
    b.problem.dtype = GDN_DTYPE_FP64;
    b.problem.T = T;
    b.problem.Hv = Hv;
    b.problem.K = b.problem.V = DIM;
    batch_allocate(&b, 1);
    batch_fill(&b, &r, gate, key);
    return b;
}

static part run(batch *b, gdn_dist *dist, gdn_dtype dtype, uint32_t flags, const char *name) {
    gdn_shard shard = GDN_SHARD_INIT;
    shard.T = b->problem.T;
    gdn_shard_even(&shard, gdn_dist_rank(dist, GDN_DIST_SEQUENCE), RANKS);
    const gdn_problem problem = problem_as(b, dtype, flags, 0.0);
    part x = device ? part_run_on(device, b, dist, &shard, &problem)
                    : part_run(b, dist, &shard, dtype, flags, 0.0);
    part_check(&x, dist, tolerances_of(dtype), name);
    return x;
}

static void check_heads(const part *x, int32_t truncated, int32_t exact, const char *name) {
    if (!x->local.part.through)
        return;
    CHECK(x->traffic.heads_truncated == truncated && x->traffic.heads_exact == exact,
          "%s: %d heads truncated and %d exact, expected %d and %d", name,
          x->traffic.heads_truncated, x->traffic.heads_exact, truncated, exact);
}

/* One state a head and boundary, each way. */
static void check_bytes(const part *x, const char *name) {
    const gdn_problem *p = &x->local.problem;
    const int64_t state = HEADER + (int64_t)4 * p->Hv * p->K * p->V;
    const int64_t forward = x->local.part.to_right ? state : 0;
    const int64_t backward = x->local.part.from_left ? state : 0;
    CHECK(x->traffic.forward_bytes == forward && x->traffic.backward_bytes == backward,
          "%s: %lld and %lld bytes, expected %lld and %lld", name,
          (long long)x->traffic.forward_bytes, (long long)x->traffic.backward_bytes,
          (long long)forward, (long long)backward);
}

/* Heads that forget are truncated and read a short tail only; what is sent does not depend on T. */
static void test_strong(gdn_dist *dist) {
    for (int64_t T = 384; T <= 1536; T *= 2) {
        batch b = make(T, 1, 1.0, 1.0);
        batch_solve(&b);
        part x = run(&b, dist, GDN_DTYPE_FP32, 0, "strong gates");
        check_heads(&x, 1, 0, "strong gates");
        check_bytes(&x, "strong gates");
        CHECK(!x.local.part.to_right || x.traffic.segment_tokens == 64,
              "T %lld: the segment pass read %lld tokens, expected 64", (long long)T,
              (long long)x.traffic.segment_tokens);
        part_free(&x);
        x = run(&b, dist, GDN_DTYPE_FP32, GDN_FLAG_EXACT, "strong gates, exact");
        check_heads(&x, 0, 1, "strong gates, exact");
        CHECK(!x.local.part.to_right || x.traffic.segment_tokens == x.shard.count,
              "T %lld: the exact segment pass read %lld tokens, expected %lld", (long long)T,
              (long long)x.traffic.segment_tokens, (long long)x.shard.count);
        part_free(&x);
        batch_free(&b);
    }
}

/* Heads of one layer may differ: two forget, two keep. */
static void test_mixed(gdn_dist *dist) {
    for (int64_t T = 384; T <= 768; T *= 2) {
        batch b = make(T, 4, 8.0, 1.0);
        batch_solve(&b);
        part x = run(&b, dist, GDN_DTYPE_FP32, 0, "mixed gates");
        check_heads(&x, T == 384 ? 2 : 3, T == 384 ? 2 : 1, "mixed gates");
        check_bytes(&x, "mixed gates");
        part_free(&x);
        batch_free(&b);
    }
}

/* The thresholds: -20 in fp32, -10 in bf16, on the sum over a shard; none in fp64. */
static void test_thresholds(gdn_dist *dist) {
    static const struct {
        gdn_dtype dtype;
        double sum;
        int truncated;
        const char *name;
    } rows[] = {{GDN_DTYPE_FP32, -19.0, 0, "fp32, -19"},
                {GDN_DTYPE_FP32, -21.0, 1, "fp32, -21"},
                {GDN_DTYPE_BF16, -9.0, 0, "bf16, -9"},
                {GDN_DTYPE_BF16, -11.0, 1, "bf16, -11"},
                {GDN_DTYPE_FP64, -400.0, 0, "fp64, -400"}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        if (device && rows[i].dtype == GDN_DTYPE_FP64)
            continue;
        batch b = make(120, 1, 0.0, 1.0);
        for (int64_t t = 0; t < 120; ++t)
            b.data[G][t] = (double)(float)(rows[i].sum / (120.0 / RANKS));
        batch_solve(&b);
        part x = run(&b, dist, rows[i].dtype, 0, rows[i].name);
        check_heads(&x, rows[i].truncated, !rows[i].truncated, rows[i].name);
        part_free(&x);
        batch_free(&b);
    }
}

/*
 * Keys of length 2 with beta near 1: a token multiplies what lies along its key by 1 - 4 beta,
 * about -2.8, so that gates that sum to less than the threshold over a shard leave plenty. A bound
 * of the gates alone would drop it: how much that matters is computed, too.
 */
static void test_large_keys(gdn_dist *dist, gdn_dtype dtype, double sum, const char *name) {
    const int64_t T = 60, each = T / RANKS;
    batch b = make(T, 1, 0.0, 2.0);
    for (int64_t t = 0; t < T; ++t) {
        b.data[G][t] = (double)(float)(sum / (double)each);
        b.data[BETA][t] = (double)0.95f;
        memcpy(b.data[K_] + t * DIM, b.data[K_], DIM * sizeof(double));
    }
    batch_solve(&b);
    part x = run(&b, dist, dtype, 0, name);
    check_heads(&x, 0, 1, name);
    part_free(&x);

    /* The same from the second shard on, as if nothing had come before it. */
    batch naive = make(T - each, 1, 0.0, 2.0);
    double difference = 0.0, size = 0.0;
    for (int i = Q; i <= DO; ++i) {
        const int64_t row = tensor_row(&b.problem, i);
        memcpy(naive.data[i], b.data[i] + each * row, sizeof(double) * (size_t)((T - each) * row));
    }
    memset(naive.data[INITIAL], 0, DIM * DIM * sizeof(double));
    batch_solve(&naive);
    for (int64_t i = each * DIM; i < (T - each) * DIM; ++i) { /* o of the third shard */
        const double want = b.data[O][each * DIM + i], wrong = naive.data[O][i];
        difference += (wrong - want) * (wrong - want);
        size += want * want;
    }
    CHECK(sqrt(difference / size) > 10 * tolerances_of(dtype).common,
          "dropping the state would go unseen: relative error %.3g", sqrt(difference / size));
    batch_free(&naive);
    batch_free(&b);
}

int main(int argc, char **argv) {
    static const machine portable = {.backend = GDN_BACKEND_CUDA, .kernels = GDN_KERNELS_PORTABLE};
    gdn_dist *dist = test_begin(20.0, 0);
    device = argc > 1 && !strcmp(argv[1], "portable") ? &portable : NULL;
    if (device && gdn_device_count() == 0)
        return test_skip(dist, "no CUDA device here");
    CHECK(gdn_dist_ranks(dist, GDN_DIST_SEQUENCE) == RANKS, "run it with -n %d", RANKS);
    test_strong(dist);
    test_mixed(dist);
    test_thresholds(dist);
    test_large_keys(dist, GDN_DTYPE_FP32, -22.0, "large keys, fp32");
    test_large_keys(dist, GDN_DTYPE_BF16, -12.0, "large keys, bf16");
    return test_finish(dist);
}
