/* MPI for programs that do not use it themselves. */
#include "watch.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* What launchers leave in a process's environment: its rank. */
static const char *launched_rank(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); ++i)
        if (getenv(names[i]))
            return getenv(names[i]);
    return NULL;
}

/* Ends the process unless it is stopped in time: MPI's own start and finish wait for ever for a
 * rank that does not come. */
typedef struct limit {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int done;
    double deadline;
    int rank;
    const char *what;
} limit;

static void *run_limit(void *argument) {
    limit *l = argument;
    /* The lower ranks speak first; the launcher takes up to a second to end the others. */
    const double allowed = l->deadline + 2.0 * (l->rank < 4 ? l->rank : 4);
    struct timespec until;
    char line[256];
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)allowed;
    until.tv_nsec += (long)(1e9 * (allowed - (double)(time_t)allowed));
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&l->lock);
    int late = 0;
    while (!l->done && !late)
        late = pthread_cond_timedwait(&l->changed, &l->lock, &until) != 0;
    const int done = l->done;
    pthread_mutex_unlock(&l->lock);
    if (done)
        return NULL;
    const int length =
        snprintf(line, sizeof(line),
                 "gdn: rank %d: %s has not come back for %.1f s: another rank does not answer\n",
                 l->rank, l->what, allowed);
    const ssize_t written = write(STDERR_FILENO, line, (size_t)length);
    (void)written;
    _exit(4);
}

static gdn_status begin_limit(limit *l, double deadline, const char *what) {
    const char *rank = launched_rank();
    l->deadline = deadline > 0 ? deadline : 30.0;
    l->rank = rank ? atoi(rank) : 0;
    l->what = what;
    l->done = 0;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    if (pthread_create(&l->thread, NULL, run_limit, l) != 0)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "%s: no thread for its time limit", what);
    return GDN_STATUS_OK;
}

static void end_limit(limit *l) {
    pthread_mutex_lock(&l->lock);
    l->done = 1;
    pthread_cond_signal(&l->changed);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
}

gdn_status gdn_dist_start(double deadline, int32_t *started) {
    limit l;
    int threads = MPI_THREAD_SINGLE;
    gdni_clear_error();
    GDNI_REQUIRE(started != NULL, "gdn_dist_start: started is NULL");
    *started = 0;
    if (!launched_rank())
        return GDN_STATUS_OK;
    GDN_TRY(begin_limit(&l, deadline, "MPI_Init_thread"));
    int code = MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &threads);
    end_limit(&l);
    if (code != MPI_SUCCESS)
        return gdni_mpi_fail(code, "gdn_dist_start");
    *started = 1;
    return GDN_STATUS_OK;
}

void gdn_dist_finish(double deadline) {
    limit l;
    const int limited = begin_limit(&l, deadline, "MPI_Finalize") == GDN_STATUS_OK;
    MPI_Finalize();
    if (limited)
        end_limit(&l);
}
