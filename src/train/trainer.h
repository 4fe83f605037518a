/* A training run: from a configuration and a dataset to a folder of checkpoints and logs. */
#ifndef GDNI_TRAIN_TRAINER_H
#define GDNI_TRAIN_TRAINER_H

#include <signal.h>

#include "config.h"
#include "ranks.h"

typedef struct gdni_run {
    gdni_config config;
    const char *data, *out;
    const char *init_from; /* NULL: random weights */
    int resume;            /* continue from the newest checkpoint of `out`, if there is one */
    int64_t stop_at;       /* stop after this step as if interrupted; 0 = at the end */
    const volatile sig_atomic_t *interrupted; /* set by a signal: finish the step and stop */
    FILE *screen;                             /* NULL: quiet */
    int terminal;
    gdni_ranks *ranks; /* NULL: alone */
} gdni_run;

/*
 * Runs to the end, to stop_at or to an interruption; each leaves a checkpoint, log.h5 and log.txt.
 * A resumed run computes what an uninterrupted one would have, bit for bit, with the same number of
 * threads. A loss or gradient that is not finite: INTERNAL_ERROR names the step, and the last
 * checkpoint stays. With ranks, those of MPI_COMM_WORLD, all call it; rank 0 writes, and the
 * parameters, of which every rank has a copy, are compared where checkpoints are written. All stop
 * after the same step. A failure that is not of all ranks leaves the others waiting: the caller
 * then ends the job.
 */
gdn_status gdni_train(const gdni_run *run);

/* Learning rate of step (from 1): linear warm-up to lr, then a cosine down to min_lr. */
double gdni_learning_rate(const gdni_config *config, int64_t step);

#endif /* GDNI_TRAIN_TRAINER_H */
