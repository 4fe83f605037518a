/* random FIRST COUNT: random batches over random shards, against the recurrence on one rank. */
#include "problem.h"

static void check(const batch *b, gdn_dist *dist, const gdn_shard *shard, gdn_dtype dtype,
                  uint32_t flags, double threshold, int index) {
    char name[64];
    part x = part_run(b, dist, shard, dtype, flags, threshold);
    snprintf(name, sizeof(name), "batch %d, %d ranks, %s", index,
             gdn_dist_ranks(dist, GDN_DIST_SEQUENCE), gdn_dtype_name(dtype));
    part_check(&x, dist, tolerances_of(dtype), name);
    part_free(&x);
}

int main(int argc, char **argv) {
    gdn_dist *dist = test_begin(20.0, 0);
    const int first = argc > 1 ? atoi(argv[1]) : 1, count = argc > 2 ? atoi(argv[2]) : 1;
    const int32_t rank = gdn_dist_rank(dist, GDN_DIST_SEQUENCE);
    const int32_t ranks = gdn_dist_ranks(dist, GDN_DIST_SEQUENCE);
    for (int i = first; i < first + count; ++i) {
        harness_random r = {(uint64_t)i};
        batch b = batch_draw(&r);
        gdn_shard shard = GDN_SHARD_INIT;
        shard.T = b.problem.T;
        shard.N = b.problem.N;
        shard.cu_seqlens = b.cu_seqlens;
        draw_shard(&shard, &r, rank, ranks);
        const uint32_t exact = i % 3 == 0 ? GDN_FLAG_EXACT : 0;
        const uint32_t saving = i % 2 ? GDN_FLAG_SAVE_STATES : GDN_FLAG_CHECKED;
        batch_solve(&b);
        check(&b, dist, &shard, GDN_DTYPE_FP64, exact, 0.0, i);
        check(&b, dist, &shard, GDN_DTYPE_FP32, exact | saving, i % 4 < 2 ? 0.0 : -17.0, i);
        check(&b, dist, &shard, GDN_DTYPE_BF16, exact | saving, 0.0, i);
        batch_free(&b);
    }
    return test_finish(dist);
}
