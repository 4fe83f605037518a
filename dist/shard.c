/* Which sequences a shard holds. Pure: no ranks, no messages. */
#include "error.h"
#include "gdn_dist.h"

#include <inttypes.h>

void gdn_shard_even(gdn_shard *shard, int32_t rank, int32_t ranks) {
    const int64_t each = shard->T / ranks, more = shard->T % ranks;
    shard->first = rank * each + (rank < more ? rank : more);
    shard->count = each + (rank < more);
}

/* Token of the batch at which sequence n starts. */
static int64_t sequence_start(const gdn_shard *shard, int64_t n) {
    return shard->cu_seqlens ? shard->cu_seqlens[n] : n * (shard->T / shard->N);
}

/* The first sequence, of N, that starts at `token` or after it. */
static int64_t first_starting(const gdn_shard *shard, int64_t token) {
    int64_t low = 0, high = shard->N;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (sequence_start(shard, middle) < token)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Whether sequence n has tokens on both sides of the boundary before `token`. */
static int32_t crosses(const gdn_shard *shard, int64_t n, int64_t token) {
    return n >= 0 && sequence_start(shard, n) < token && sequence_start(shard, n + 1) > token;
}

static gdn_status check_shard(const gdn_shard *shard) {
    static const char *const function = "gdn_shard_find";
    GDNI_REQUIRE(shard->T >= 0 && shard->N >= 1,
                 "%s: T is %" PRId64 " and N %" PRId64 ", expected at least 0 and 1", function,
                 shard->T, shard->N);
    GDNI_REQUIRE(shard->first >= 0 && shard->count >= 0 && shard->first <= shard->T &&
                     shard->count <= shard->T - shard->first,
                 "%s: the shard is %" PRId64 " tokens from %" PRId64
                 " on, expected a part of T = %" PRId64,
                 function, shard->count, shard->first, shard->T);
    if (!shard->cu_seqlens) {
        GDNI_REQUIRE(shard->T % shard->N == 0,
                     "%s: T = %" PRId64 " is not a multiple of N = %" PRId64
                     ", which is needed without cu_seqlens",
                     function, shard->T, shard->N);
        return GDN_STATUS_OK;
    }
    for (int64_t n = 0; n <= shard->N; ++n) {
        const int64_t low = n ? shard->cu_seqlens[n - 1] : 0, high = n ? shard->T : 0;
        if (shard->cu_seqlens[n] < low || shard->cu_seqlens[n] > high)
            return gdni_fail(GDN_STATUS_BAD_DATA,
                             "%s: cu_seqlens[%" PRId64 "] is %" PRId64 ", expected %" PRId64
                             " to %" PRId64,
                             function, n, shard->cu_seqlens[n], low, high);
    }
    return GDN_STATUS_OK;
}

gdn_status gdn_shard_find(const gdn_shard *shard, int32_t is_last, gdn_shard_part *part) {
    gdni_clear_error();
    GDNI_REQUIRE(shard && part, "gdn_shard_find: shard or part is NULL");
    GDNI_REQUIRE(shard->size == sizeof(*shard), "gdn_shard_find: shard: size is %zu, expected %zu",
                 shard->size, sizeof(*shard));
    GDNI_REQUIRE(part->size == sizeof(*part), "gdn_shard_find: part: size is %zu, expected %zu",
                 part->size, sizeof(*part));
    GDN_TRY(check_shard(shard));
    /* Sequences that start in [first, end), and after the end of the batch for the last rank; an
     * empty one starts where its place is. */
    const int64_t end = shard->first + shard->count;
    const int64_t begin = first_starting(shard, shard->first);
    const int64_t stop = is_last ? shard->N : first_starting(shard, end);
    part->from_left = crosses(shard, begin - 1, shard->first);
    part->first_sequence = begin - part->from_left;
    part->sequences = stop - part->first_sequence;
    part->to_right = crosses(shard, stop - 1, end);
    part->through = part->from_left && part->to_right && part->sequences == 1;
    return GDN_STATUS_OK;
}

int64_t gdn_shard_start(const gdn_shard *shard, const gdn_shard_part *part, int64_t i) {
    int64_t token = 0;
    if (part->sequences > 0)
        token = sequence_start(shard, part->first_sequence + i) - shard->first;
    return token < 0 ? 0 : token > shard->count ? shard->count : token;
}

/* The header: two counters and a bit a head. */
int64_t gdn_shard_state_bytes(const gdn_problem *p) {
    const int64_t header = (8 + ((int64_t)p->Hv + 7) / 8 + 15) / 16 * 16;
    const int64_t element = p->dtype == GDN_DTYPE_FP64 ? 8 : 4;
    return header + element * p->Hv * p->K * p->V;
}
