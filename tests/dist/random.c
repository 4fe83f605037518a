/* random FIRST COUNT: random batches over random shards, against the recurrence on one rank. */
#include "problem.h"

static const tolerances FP64 = {1e-10, 1e-10}, FP32 = {2e-5, 4e-5};

/* Any cuts: uneven shards, empty ones, boundaries inside a chunk. */
static gdn_shard draw_shard(const batch *b, harness_random *r, int32_t rank, int32_t ranks) {
    gdn_shard shard = GDN_SHARD_INIT;
    int64_t cuts[65];
    shard.T = b->problem.T;
    shard.N = b->problem.N;
    shard.cu_seqlens = b->cu_seqlens;
    for (int32_t i = 0; i <= ranks; ++i) {
        cuts[i] = i == 0       ? 0
                  : i == ranks ? shard.T
                               : (int64_t)(harness_uniform(r) * (double)(shard.T + 1));
        if (i > 1 && i < ranks && harness_uniform(r) < 0.2)
            cuts[i] = cuts[i - 1];
        for (int32_t j = i; j > 1 && i < ranks && cuts[j] < cuts[j - 1]; --j) {
            const int64_t swap = cuts[j];
            cuts[j] = cuts[j - 1];
            cuts[j - 1] = swap;
        }
    }
    if (harness_uniform(r) < 0.25) {
        gdn_shard_even(&shard, rank, ranks);
        return shard;
    }
    shard.first = cuts[rank];
    shard.count = cuts[rank + 1] - cuts[rank];
    return shard;
}

int main(int argc, char **argv) {
    const gdn_dist_config config = {sizeof(config), NULL, 0, 20.0, 0.0};
    gdn_dist *dist = NULL;
    int32_t started = 0;
    const int first = argc > 1 ? atoi(argv[1]) : 1, count = argc > 2 ? atoi(argv[2]) : 1;
    if (gdn_dist_start(20.0, &started) || !started || gdn_dist_create(&dist, &config))
        gdn_dist_abort(dist, 99, NULL);
    const int32_t rank = gdn_dist_rank(dist, GDN_DIST_SEQUENCE);
    const int32_t ranks = gdn_dist_ranks(dist, GDN_DIST_SEQUENCE);
    for (int i = first; i < first + count; ++i) {
        harness_random r = {(uint64_t)i};
        char name[64];
        batch b = batch_draw(&r);
        const gdn_shard shard = draw_shard(&b, &r, rank, ranks);
        const uint32_t exact = i % 3 == 0 ? GDN_FLAG_EXACT : 0,
                       saving = i % 2 ? GDN_FLAG_SAVE_STATES : 0;
        const double draw = harness_uniform(&r);
        batch_solve(&b);
        snprintf(name, sizeof(name), "batch %d, %d ranks, reference", i, ranks);
        batch_check(&b, dist, &shard, GDN_BACKEND_REFERENCE, exact, 0.0, FP64, name);
        snprintf(name, sizeof(name), "batch %d, %d ranks, cpu", i, ranks);
        batch_check(&b, dist, &shard, GDN_BACKEND_CPU, exact | saving, draw < 0.5 ? 0.0 : -17.0,
                    FP32, name);
        batch_free(&b);
    }
    gdn_dist_destroy(dist);
    gdn_dist_finish(20.0);
    return harness_finish();
}
