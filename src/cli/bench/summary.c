/* How fast libgdn is against the other columns of a table. */
#include "bench.h"

#include <math.h>

enum {
    FULL_CARD = 64 /* (sequence, v-head) pairs: rows that fill a card without being cut */
};

typedef struct ratios {
    int64_t count, worst; /* worst: index of a row */
    double log_sum, least;
} ratios;

static ratios compare(const bench_table *t, const double *ms, int column, int backward,
                      int64_t least_pairs) {
    ratios s = {0, -1, 0, INFINITY};
    for (int64_t i = 0; i < t->count; ++i) {
        const bench_row *r = &t->rows[i];
        const double ratio = bench_table_number(r, column) / ms[i];
        if (r->backward != backward || r->N * r->Hv < least_pairs || !isfinite(ratio))
            continue;
        ++s.count;
        s.log_sum += log(ratio);
        if (ratio < s.least) {
            s.least = ratio;
            s.worst = i;
        }
    }
    return s;
}

void bench_summary(FILE *to, const bench_table *t, const double *ms) {
    int64_t measured = 0;
    for (int64_t i = 0; i < t->count; ++i)
        measured += isfinite(ms[i]);
    fprintf(to, "%lld of %lld rows have a libgdn_ms. Times as fast as (their ms / ours):\n\n",
            (long long)measured, (long long)t->count);
    fprintf(to, "%-4s %-16s %-10s %5s %8s %8s  %s\n", "pass", "column", "pairs", "rows", "geomean",
            "worst", "worst row");
    for (int backward = 0; backward < 2; ++backward)
        for (int c = 0; c < t->column_count; ++c)
            for (int64_t pairs = 0; bench_is_rival(t->columns[c]) && pairs <= FULL_CARD;
                 pairs += FULL_CARD) {
                const ratios s = compare(t, ms, c, backward, pairs);
                char name[160];
                if (!s.count)
                    continue;
                bench_row_name(&t->rows[s.worst], name, sizeof(name));
                fprintf(to, "%-4s %-16s %-10s %5lld %8.3f %8.3f  %s\n", backward ? "bwd" : "fwd",
                        t->columns[c], pairs ? ">= 64" : "all", (long long)s.count,
                        exp(s.log_sum / (double)s.count), s.least, name);
            }
}
