/* Which tokens a step or an evaluation sees. */
#ifndef GDNI_TRAIN_BATCH_H
#define GDNI_TRAIN_BATCH_H

#include <stdint.h>

#include "gdn_io.h"

/* Tokens [first, first + count) of a batch of N sequences of context tokens, packed; a target is
 * the token after, -1 where there is none. No other tokens are read. */
typedef struct gdni_batch {
    int64_t N, context, first, count;
    int32_t *tokens, *targets; /* [count] */
    int32_t *window;           /* [context + 1] */
} gdni_batch;

gdn_status gdni_batch_create(gdni_batch *batch, int64_t N, int64_t context, int64_t first,
                             int64_t count);
void gdni_batch_free(gdni_batch *batch);

/* Random windows of the training split: a pure function of the seed and of `position`, the number
 * of tokens that the run has seen so far. */
gdn_status gdni_batch_draw(gdni_batch *batch, gdn_io_dataset *dataset, uint64_t seed,
                           int64_t position);

/*
 * Held-out windows number first, first + 1, ...; together they predict tokens 1 ... predicted of
 * the split, each once, whatever the context is. *counted is how many of them the whole batch has;
 * 0 past the end.
 */
gdn_status gdni_batch_heldout(gdni_batch *batch, gdn_io_dataset *dataset, int64_t predicted,
                              int64_t first, int64_t *counted);

#endif /* GDNI_TRAIN_BATCH_H */
