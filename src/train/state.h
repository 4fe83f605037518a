/*
 * A run's state in a checkpoint, entry by entry:
 *
 *   model/NAME, adam_m/NAME, adam_v/NAME   every tensor of the model and its AdamW moments
 *   run/updates                            AdamW updates these weights have seen, over all runs
 *   run/tokens                             data position: tokens seen, over all runs
 *   run/seed                               with run/tokens, all the random state there is
 *   run/threads                            threads that computed it
 *   run/ranks [2]                          ranks, and ranks a sequence; absent: one
 *   run/dataset                            fingerprint of the dataset
 *   log/values [rows, columns], log/names  the log up to this step
 *   config                                 the configuration as INI text
 */
#ifndef GDNI_TRAIN_STATE_H
#define GDNI_TRAIN_STATE_H

#include "backend.h"
#include "config.h"
#include "gdn_io.h"
#include "lm.h"
#include "progress.h"

typedef struct gdni_state {
    int64_t step;    /* of this run */
    int64_t updates; /* of these weights */
    int64_t tokens;
    uint64_t seed, dataset;
    int64_t threads;
    int64_t ranks[2];                /* all, and those that share a sequence */
    char backend[GDNI_BACKEND_TEXT]; /* in the configuration's text */
} gdni_state;

/* Identity of a dataset: vocabulary, sizes, first and last tokens of both splits. */
gdn_status gdni_state_fingerprint(gdn_io_dataset *dataset, uint64_t *fingerprint);

/* Writes DIR/step-....h5 from the host's copy of the model; keep as in gdn_io_checkpoint_write. */
gdn_status gdni_state_write(const char *dir, int64_t keep, const gdni_state *state,
                            const gdni_lm *lm, const gdni_progress *log, const char *config);

/* 1 if DIR holds a file that is named like a checkpoint. */
int gdni_state_present(const char *dir);

/* A checkpoint's configuration as text; release with free(). */
gdn_status gdni_state_read_config(gdn_io_checkpoint *file, char **config);

/* Continues a run: reads everything; refuses another dataset or fixed key. */
gdn_status gdni_state_resume(const char *path, const gdni_config *config, uint64_t dataset,
                             gdni_state *state, gdni_lm *lm, gdni_progress *log);

/* Starts a new run from a checkpoint (a file, or the newest of a folder): weights, AdamW moments
 * and their count, and the data position, so that it sees new data; not the step, the schedule, the
 * log or the dataset. [model] has to be the same. An imported checkpoint (weights.h) gives weights
 * of the layers alone; what else the model has stays as it was. */
gdn_status gdni_state_start_from(const char *path, const gdni_config *config, gdni_state *state,
                                 gdni_lm *lm);

#endif /* GDNI_TRAIN_STATE_H */
