/* What ranks check of one another, and the sum over ranks: for four ranks, two groups of two. */
#include "problem.h"

/* A call that fails for all ranks alike, with every text of `expected` in its line. */
static void check_refused(gdn_dist *dist, gdn_status got, gdn_status want,
                          const char *const *expected, const char *name) {
    static char lines[4][1024];
    char mine[1024];
    gdn_transport *world = gdn_dist_transport(dist, GDN_DIST_WORLD);
    snprintf(mine, sizeof(mine), "%s", gdn_last_error());
    CHECK(got == want, "%s: status %d, expected %d: %s", name, (int)got, (int)want, mine);
    for (; *expected; ++expected)
        CHECK(strstr(mine, *expected), "%s: expected '%s' in '%s'", name, *expected, mine);
    must(dist, world->all_gather(world, mine, lines, sizeof(mine), "test: lines"));
    for (int i = 1; i < 4; ++i)
        CHECK(!strcmp(lines[0], lines[i]), "%s: rank 0 says '%s', rank %d '%s'", name, lines[0], i,
              lines[i]);
}

static gdn_status make_plan(gdn_dist *dist, const gdn_problem *problem, const gdn_shard *shard,
                            gdn_backend backend) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context = NULL;
    gdn_dist_plan *plan = NULL;
    config.backend = backend;
    must(dist, gdn_context_create(&context, &config));
    const gdn_status status = gdn_dist_plan_create(&plan, dist, context, problem, shard);
    gdn_dist_plan_destroy(plan);
    gdn_context_destroy(context);
    return status;
}

/* The group is good for further calls after each. */
static void test_mismatches(gdn_dist *dist) {
    const int32_t rank = gdn_dist_rank(dist, GDN_DIST_WORLD);
    const int odd = rank == 2;
    const int64_t cu[3] = {0, 10, 32}, other[3] = {0, 11, 32};
    gdn_shard even = GDN_SHARD_INIT;
    gdn_problem problem = GDN_PROBLEM_INIT;
    even.T = 32;
    even.N = 2;
    gdn_shard_even(&even, rank, 4);
    problem.K = problem.V = 16;
    gdn_problem p = problem;
    gdn_shard s = even;

    p.Hk = p.Hv = odd ? 2 : 4;
    check_refused(dist, make_plan(dist, &p, &s, GDN_BACKEND_CPU), GDN_STATUS_INVALID_ARGUMENT,
                  (const char *[]){"Hk 4", "on rank 0", "Hk 2", "on rank 2", NULL}, "Hk");
    p = problem;
    p.dtype = odd ? GDN_DTYPE_BF16 : GDN_DTYPE_FP32;
    check_refused(dist, make_plan(dist, &p, &s, GDN_BACKEND_CPU), GDN_STATUS_INVALID_ARGUMENT,
                  (const char *[]){"dtype fp32", "dtype bf16", "on rank 2", NULL}, "dtype");
    p = problem;
    p.flags = odd ? GDN_FLAG_EXACT : 0;
    check_refused(dist, make_plan(dist, &p, &s, GDN_BACKEND_CPU), GDN_STATUS_INVALID_ARGUMENT,
                  (const char *[]){"flags 0x0", "flags 0x1", NULL}, "flags");
    p = problem;
    p.dtype = odd ? GDN_DTYPE_FP64 : GDN_DTYPE_FP32;
    check_refused(dist, make_plan(dist, &p, &s, odd ? GDN_BACKEND_REFERENCE : GDN_BACKEND_CPU),
                  GDN_STATUS_INVALID_ARGUMENT,
                  (const char *[]){"backend cpu", "backend reference", NULL}, "backend");
    p = problem;
    s.cu_seqlens = odd ? other : cu;
    check_refused(dist, make_plan(dist, &p, &s, GDN_BACKEND_CPU), GDN_STATUS_INVALID_ARGUMENT,
                  (const char *[]){"cu_seqlens", "on rank 0", "on rank 2", NULL}, "cu_seqlens");
    s = even;
    s.count -= odd;
    check_refused(dist, make_plan(dist, &p, &s, GDN_BACKEND_CPU), GDN_STATUS_INVALID_ARGUMENT,
                  (const char *[]){"rank 3", "token 24", "expected 23", NULL}, "a gap");
    s = even;
    p.K = odd ? -1 : 16;
    check_refused(dist, make_plan(dist, &p, &s, GDN_BACKEND_CPU), GDN_STATUS_INVALID_ARGUMENT,
                  (const char *[]){"rank 2", "K is -1", NULL}, "a bad argument on one rank");
    check_refused(dist,
                  gdn_dist_agree(dist, GDN_DIST_WORLD, GDN_STATUS_OK, odd ? "there" : "here", NULL),
                  GDN_STATUS_INVALID_ARGUMENT,
                  (const char *[]){"rank 0 is in here", "rank 2 in there", NULL}, "order");
    p = problem;
    CHECK(make_plan(dist, &p, &s, GDN_BACKEND_CPU) == GDN_STATUS_OK, "%s", gdn_last_error());
}

/* Values whose sum depends on the order of the additions. */
static void test_reduce(gdn_dist *dist, gdn_dist_group group) {
    gdn_transport *t = gdn_dist_transport(dist, group);
    const int64_t counts[] = {1, 3, 1000, 1100000};
    for (size_t c = 0; c < sizeof(counts) / sizeof(*counts); ++c) {
        const int64_t count = counts[c];
        float *mine = malloc(sizeof(float) * (size_t)count);
        float *all = malloc(sizeof(float) * (size_t)(count * t->ranks));
        int64_t wrong = 0;
        harness_random r = {(uint64_t)gdn_dist_rank(dist, GDN_DIST_WORLD)};
        for (int64_t i = 0; i < count; ++i)
            mine[i] = (float)(harness_normal(&r) * pow(10.0, 6.0 * harness_uniform(&r)));
        must(dist, t->all_gather(t, mine, all, sizeof(float) * (size_t)count, "test: terms"));
        must(dist, t->all_reduce(t, GDN_DTYPE_FP32, mine, count, "test: sum"));
        for (int64_t i = 0; i < count; ++i) {
            float sum = all[i];
            for (int32_t rank = 1; rank < t->ranks; ++rank)
                sum += all[rank * count + i];
            wrong += memcmp(&sum, mine + i, sizeof(sum)) != 0;
        }
        CHECK(wrong == 0, "%lld of %lld sums are not those in rank order", (long long)wrong,
              (long long)count);
        free(all);
        free(mine);
    }
}

int main(void) {
    gdn_dist *dist = test_begin(20.0, 0);
    test_mismatches(dist);
    test_reduce(dist, GDN_DIST_WORLD);
    gdn_dist_destroy(dist);

    gdn_dist_config config = GDN_DIST_CONFIG_INIT;
    config.sequence_ranks = 2;
    if (gdn_dist_create(&dist, &config))
        gdn_dist_abort(dist, 99, NULL);
    const int32_t rank = gdn_dist_rank(dist, GDN_DIST_WORLD);
    CHECK(gdn_dist_rank(dist, GDN_DIST_SEQUENCE) == rank % 2 &&
              gdn_dist_ranks(dist, GDN_DIST_SEQUENCE) == 2,
          "rank %d has place %d of its sequence", rank, gdn_dist_rank(dist, GDN_DIST_SEQUENCE));
    CHECK(gdn_dist_rank(dist, GDN_DIST_DATA) == rank / 2 &&
              gdn_dist_ranks(dist, GDN_DIST_DATA) == 2,
          "rank %d has place %d of its data group", rank, gdn_dist_rank(dist, GDN_DIST_DATA));
    test_reduce(dist, GDN_DIST_DATA);
    gdn_dist_destroy(dist);

    config.sequence_ranks = rank == 3 ? 4 : 2;
    const gdn_status status = gdn_dist_create(&dist, &config);
    check_refused(dist, status, GDN_STATUS_INVALID_ARGUMENT,
                  (const char *[]){"sequence_ranks 2", "sequence_ranks 4", "on rank 3", NULL},
                  "configuration");
    return test_finish(dist);
}
