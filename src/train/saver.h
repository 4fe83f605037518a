/* Checkpoints of a model on a device, written beside its steps by a thread of the host. */
#ifndef GDNI_TRAIN_SAVER_H
#define GDNI_TRAIN_SAVER_H

#include <pthread.h>

#include "state.h"

typedef struct gdni_saver {
    int running;
    pthread_t thread;
    gdni_lm *lm;
    const char *dir, *config;
    int64_t keep;
    gdni_state state;
    gdni_progress log; /* with rows of its own */
    gdn_status status;
    char error[512];
} gdni_saver;

/*
 * Takes the model's state of now and writes it as gdni_state_write does, with the log so far. On a
 * device the caller goes on at once, and steps with it, where the library below can be called from
 * several threads; otherwise, and on the host, this returns once the file is there. Only one at a
 * time: join first. dir and config live until then.
 */
gdn_status gdni_saver_start(gdni_saver *saver, gdni_lm *lm, const char *dir, int64_t keep,
                            const gdni_state *state, const gdni_progress *log, const char *config);
/* Waits for it. Where none is running: OK. */
gdn_status gdni_saver_join(gdni_saver *saver);

#endif /* GDNI_TRAIN_SAVER_H */
