/* What a run says: a line that is updated in place on a terminal, plain lines elsewhere, log.txt,
 * and the table of log.h5. */
#ifndef GDNI_TRAIN_PROGRESS_H
#define GDNI_TRAIN_PROGRESS_H

#include <stdint.h>
#include <stdio.h>

#include "gdn.h"
#include "timeline.h"

/* Columns of the log; heldout is NaN where a step was not followed by an evaluation. */
enum {
    GDNI_LOG_STEP,
    GDNI_LOG_LOSS,
    GDNI_LOG_LR,
    GDNI_LOG_GRAD_NORM,
    GDNI_LOG_TOKENS_PER_S,
    GDNI_LOG_HELDOUT,
    GDNI_LOG_TOKENS, /* that these weights have seen, over all runs */
    GDNI_LOG_FIRST_COLUMNS,
    /* NaN where unknown; checkpoints of before have none of them. */
    GDNI_LOG_MFU = GDNI_LOG_FIRST_COLUMNS, /* model FLOP over the device's peak */
    GDNI_LOG_MEMORY,                       /* bytes in use on the device */
    GDNI_LOG_COMMUNICATION,                /* part of the step that waits for other ranks */
    GDNI_LOG_COLUMNS
};

extern const char *const gdni_log_names[GDNI_LOG_COLUMNS];

typedef struct gdni_progress {
    FILE *screen; /* NULL: quiet */
    int terminal;
    FILE *text;          /* log.txt; NULL: on another rank */
    const char *backend; /* named in every line */
    int64_t steps, log_every;
    double started; /* seconds */
    int64_t first_step;
    double *rows; /* [count][GDNI_LOG_COLUMNS] */
    int64_t count, capacity;
    const gdni_timeline *timeline; /* of a profiled step; NULL or empty: none */
} gdni_progress;

double gdni_seconds(void); /* of a clock that never jumps */

/* Opens DIR/log.txt for appending. IO_ERROR. */
gdn_status gdni_progress_open(gdni_progress *p, const char *dir);
void gdni_progress_close(gdni_progress *p);

/* Room for count rows. OUT_OF_MEMORY. */
gdn_status gdni_progress_reserve(gdni_progress *p, int64_t count);

/* Keeps a row and shows it. */
gdn_status gdni_progress_row(gdni_progress *p, const double row[GDNI_LOG_COLUMNS]);

/* A line for the screen and log.txt. */
__attribute__((format(printf, 2, 3))) void gdni_progress_say(gdni_progress *p, const char *format,
                                                             ...);

/* Writes the table to DIR/log.h5. */
gdn_status gdni_progress_save(const gdni_progress *p, const char *dir, const char *config);

#endif /* GDNI_TRAIN_PROGRESS_H */
