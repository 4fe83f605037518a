#include "saver.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"

static void *write_state(void *user) {
    gdni_saver *s = user;
    gdni_memory *m = s->lm->memory;
    s->status = m->reach(m, GDNI_MARK_FETCHED, "the copy of a checkpoint");
    if (s->status == GDN_STATUS_OK)
        s->status = gdni_state_write(s->dir, s->keep, &s->state, s->lm, &s->log, s->config);
    if (s->status != GDN_STATUS_OK)
        snprintf(s->error, sizeof(s->error), "%s", gdn_last_error());
    return NULL;
}

static gdn_status copy_log(gdni_saver *s, const gdni_progress *log) {
    const size_t bytes = (size_t)log->count * GDNI_LOG_COLUMNS * sizeof(double);
    s->log = (gdni_progress){.count = log->count, .rows = malloc(bytes + 1)};
    if (!s->log.rows)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "checkpoint: out of memory");
    if (bytes)
        memcpy(s->log.rows, log->rows, bytes);
    return GDN_STATUS_OK;
}

gdn_status gdni_saver_start(gdni_saver *s, gdni_lm *lm, const char *dir, int64_t keep,
                            const gdni_state *state, const gdni_progress *log, const char *config) {
    GDN_TRY(gdni_saver_join(s));
    GDN_TRY(gdni_lm_fetch(lm));
    if (!lm->memory->device || !gdn_io_is_thread_safe()) {
        GDN_TRY(gdni_lm_fetched(lm));
        return gdni_state_write(dir, keep, state, lm, log, config);
    }
    s->lm = lm;
    s->dir = dir;
    s->config = config;
    s->keep = keep;
    s->state = *state;
    GDN_TRY(copy_log(s, log));
    if (pthread_create(&s->thread, NULL, write_state, s)) {
        free(s->log.rows);
        return gdni_fail(GDN_STATUS_INTERNAL_ERROR, "checkpoint: cannot start a thread");
    }
    s->running = 1;
    return GDN_STATUS_OK;
}

gdn_status gdni_saver_join(gdni_saver *s) {
    if (!s->running)
        return GDN_STATUS_OK;
    pthread_join(s->thread, NULL);
    s->running = 0;
    free(s->log.rows);
    return s->status == GDN_STATUS_OK ? GDN_STATUS_OK : gdni_fail(s->status, "%s", s->error);
}
