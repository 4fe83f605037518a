/*
 * Entropies of the held-out tokens under counts of the training split, n tokens in all:
 *
 *     unigram   p(w)     = (c(w) + 1) / (n + vocab)
 *     bigram    p(w | u) = (c(u, w) + d(u) p(w)) / (c(u, .) + d(u))      (Witten and Bell)
 *
 * d(u) is the number of distinct tokens that follow u; a u that nothing follows leaves p(w). The
 * first held-out token follows the last training token.
 */
#include "dataset.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Tokens of a split, grouped by the token before them: those after u are next[start[u]] up to
 * next[start[u + 1]]. */
typedef struct followers {
    int64_t *start;
    int32_t *next;
} followers;

static void free_followers(followers *f) {
    free(f->start);
    free(f->next);
}

/* tokens[0 .. count): each but the first follows the one before. */
static int group(const int32_t *tokens, int64_t count, int32_t vocab, followers *f) {
    f->start = calloc((size_t)vocab + 2, sizeof(*f->start));
    f->next = malloc((size_t)(count ? count : 1) * sizeof(*f->next));
    if (!f->start || !f->next)
        return 0;
    /* Shifted by one while filling: start[u + 1] is where the next follower of u goes. */
    for (int64_t i = 1; i < count; ++i)
        ++f->start[tokens[i - 1] + 2];
    for (int32_t u = 0; u < vocab; ++u)
        f->start[u + 2] += f->start[u + 1];
    for (int64_t i = 1; i < count; ++i)
        f->next[f->start[tokens[i - 1] + 1]++] = tokens[i];
    return 1;
}

/* Sum of -log p(w | u) over the held-out pairs. */
static double bigram_sum(const followers *train, const followers *heldout, const double *p,
                         int32_t vocab, int64_t *counts) {
    double sum = 0;
    for (int32_t u = 0; u < vocab; ++u) {
        const int64_t first = train->start[u], last = train->start[u + 1];
        int64_t distinct = 0;
        for (int64_t i = first; i < last; ++i)
            distinct += counts[train->next[i]]++ == 0;
        for (int64_t i = heldout->start[u]; i < heldout->start[u + 1]; ++i) {
            const int32_t w = heldout->next[i];
            sum -= last == first ? log(p[w])
                                 : log(((double)counts[w] + (double)distinct * p[w]) /
                                       (double)(last - first + distinct));
        }
        for (int64_t i = first; i < last; ++i)
            counts[train->next[i]] = 0;
    }
    return sum;
}

static gdn_status dataset_entropy(const gdn_io_dataset *d, double *unigram, double *bigram) {
    followers train = {NULL, NULL}, heldout = {NULL, NULL};
    GDNI_REQUIRE(d && unigram && bigram, "gdn_io_dataset_entropy: an argument is NULL");
    const int64_t n = d->tokens[GDN_IO_TRAIN], m = d->tokens[GDN_IO_HELDOUT];
    if (!n || !m)
        return gdni_io_fail(GDN_STATUS_INVALID_ARGUMENT, d->path,
                            "dataset %s: expected tokens to measure entropy, found none",
                            n ? "heldout" : "train");
    int32_t *tokens = malloc((size_t)(n + m) * sizeof(*tokens));
    int64_t *counts = calloc((size_t)d->vocab, sizeof(*counts));
    double *p = malloc((size_t)d->vocab * sizeof(*p));
    gdn_status status = GDN_STATUS_OUT_OF_MEMORY;
    if (!tokens || !counts || !p)
        goto cleanup;
    GDN_TRY_GOTO(gdni_dataset_read(d, GDN_IO_TRAIN, 0, n, tokens), cleanup);
    GDN_TRY_GOTO(gdni_dataset_read(d, GDN_IO_HELDOUT, 0, m, tokens + n), cleanup);
    for (int64_t i = 0; i < n; ++i)
        ++counts[tokens[i]];
    for (int32_t w = 0; w < d->vocab; ++w)
        p[w] = (double)(counts[w] + 1) / ((double)n + (double)d->vocab);
    *unigram = 0;
    for (int64_t i = n; i < n + m; ++i)
        *unigram -= log(p[tokens[i]]);
    *unigram /= (double)m;
    memset(counts, 0, (size_t)d->vocab * sizeof(*counts));
    if (group(tokens, n, d->vocab, &train) && group(tokens + n - 1, m + 1, d->vocab, &heldout))
        *bigram = bigram_sum(&train, &heldout, p, d->vocab, counts) / (double)m;
    else
        status = GDN_STATUS_OUT_OF_MEMORY;
cleanup:
    if (status == GDN_STATUS_OUT_OF_MEMORY)
        gdni_io_fail(status, d->path, "no memory to count its tokens");
    free_followers(&train);
    free_followers(&heldout);
    free(p);
    free(counts);
    free(tokens);
    return status;
}

gdn_status gdn_io_dataset_entropy(const gdn_io_dataset *dataset, double *unigram, double *bigram) {
    gdni_quiet quiet;
    gdni_quiet_begin(&quiet);
    const gdn_status status = dataset_entropy(dataset, unigram, bigram);
    gdni_quiet_end(&quiet);
    return status;
}
