/* Heartbeats, and the end of the job. */
#include "watch.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    DOING = 200,     /* characters of what a rank is doing */
    EXIT_SILENT = 4, /* exit code of a job that lost a rank */
    ABORT_SECONDS = 10,
    GRACE_RANKS = 16, /* ranks that wait for one another before they report a silent rank 0 */
    TAG = 1
};

typedef enum message_kind {
    BEAT,
    END_GROUP,
    END_JOB,
    GOODBYE /* the last message of a rank */
} message_kind;

/* What a rank is at. */
typedef struct state {
    int32_t waits; /* 0: it is at work */
    int32_t peer;  /* whom it waits for */
    double waited; /* seconds */
    char text[DOING];
} state;

typedef struct message {
    int32_t kind, exit_code;
    state at;             /* BEAT */
    char line[GDNI_TEXT]; /* END_JOB, END_GROUP */
} message;

/* One rank that this one hears or tells: rank 0 all others, the others rank 0. */
typedef struct peer {
    int rank;
    double seen; /* when it was last heard */
    int gone;    /* it said goodbye */
    state at;
    message out;
    MPI_Request sending, ending; /* ending: of the group's end */
} peer;

struct gdni_watch {
    MPI_Comm communicator;
    int rank, ranks;
    double deadline, wait_limit, interval;
    gdn_dist_failure on_failure;
    pthread_t thread;
    pthread_mutex_t lock;              /* of the members up to requested */
    char doing[DOING], waiting[DOING]; /* waiting: what for; empty = it is not */
    int32_t waiting_peer;
    double waiting_since;
    gdni_device_watch device; /* zeros: none */
    message request;          /* to end the job, or the group */
    int requested;
    atomic_int stopping, pending, failed;
    message end; /* of the group; does not change once failed is set */
    peer *peers;
    int count;
    message in;
    MPI_Request receiving;
};

double gdni_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void gdni_sleep(double seconds) {
    const struct timespec t = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};
    nanosleep(&t, NULL);
}

_Noreturn void gdni_end_job(MPI_Comm communicator, int32_t exit_code, const char *line) {
    char text[GDNI_TEXT + 8];
    int length = snprintf(text, sizeof(text), "gdn: %s\n", line);
    if (length >= (int)sizeof(text)) {
        length = (int)sizeof(text) - 1;
        text[length - 1] = '\n';
    }
    /* One write, so that lines of several processes do not mix. */
    const ssize_t written = write(STDERR_FILENO, text, (size_t)length);
    (void)written;
    /* Should MPI itself be stuck, this process at least ends. */
    signal(SIGALRM, SIG_DFL);
    alarm(ABORT_SECONDS);
    MPI_Abort(communicator, exit_code);
    _exit(exit_code);
}

static void set_text(char *to, size_t size, const char *from) {
    const size_t whole = strlen(from), length = whole < size ? whole : size - 1;
    memcpy(to, from, length);
    to[length] = '\0';
}

/* ---- Of the other threads ----------------------------------------------------------------------
 */

void gdni_watch_doing(gdni_watch *watch, const char *doing) {
    if (!watch)
        return;
    pthread_mutex_lock(&watch->lock);
    set_text(watch->doing, sizeof(watch->doing), doing);
    pthread_mutex_unlock(&watch->lock);
}

void gdni_watch_waiting(gdni_watch *watch, const char *what, int32_t peer) {
    if (!watch)
        return;
    pthread_mutex_lock(&watch->lock);
    set_text(watch->waiting, sizeof(watch->waiting), what);
    watch->waiting_peer = peer;
    watch->waiting_since = gdni_now();
    pthread_mutex_unlock(&watch->lock);
}

void gdni_watch_pending(gdni_watch *watch, int32_t change) {
    if (watch)
        atomic_fetch_add(&watch->pending, change);
}

void gdni_watch_device(gdni_watch *watch, const gdni_device_watch *device) {
    static const gdni_device_watch none;
    if (!watch)
        return;
    pthread_mutex_lock(&watch->lock);
    watch->device = device ? *device : none;
    pthread_mutex_unlock(&watch->lock);
}

static void request_end(gdni_watch *watch, message_kind kind, int32_t exit_code, const char *line) {
    if (!watch->requested || watch->request.kind < (int32_t)kind) {
        watch->request.kind = kind;
        watch->request.exit_code = exit_code;
        set_text(watch->request.line, sizeof(watch->request.line), line);
        watch->requested = 1;
    }
}

/* Hands the request to the watch's thread, which ends this process with all others. Where that is
 * held up by NCCL, at the end of a group, this one does. */
_Noreturn void gdni_watch_abort(gdni_watch *watch, int32_t exit_code, const char *line) {
    pthread_mutex_lock(&watch->lock);
    request_end(watch, END_JOB, exit_code, line);
    pthread_mutex_unlock(&watch->lock);
    do
        gdni_sleep(ABORT_SECONDS);
    while (watch->on_failure == GDN_DIST_END_JOB);
    gdni_end_job(MPI_COMM_WORLD, exit_code, line);
}

int gdni_watch_has_failed(gdni_watch *watch) {
    return watch && atomic_load(&watch->failed);
}

gdn_status gdni_watch_failure(gdni_watch *watch, const char *what) {
    if (!gdni_watch_has_failed(watch))
        return GDN_STATUS_OK;
    return gdni_fail(GDN_STATUS_COMM_ERROR, "%s: %s", what, watch->end.line);
}

void gdni_watch_fail(gdni_watch *watch, const char *line) {
    if (!watch)
        return;
    pthread_mutex_lock(&watch->lock);
    request_end(watch, END_GROUP, EXIT_SILENT, line);
    pthread_mutex_unlock(&watch->lock);
}

/* ---- The thread --------------------------------------------------------------------------------
 */

/* Tells rank 0; if it does not end the job, this rank does, each a little later than the one before
 * it. */
static _Noreturn void end_job_as_requested(gdni_watch *watch, const message *said) {
    if (watch->rank > 0) {
        const int turn = watch->rank < GRACE_RANKS ? watch->rank : GRACE_RANKS;
        MPI_Request request;
        int sent = MPI_Isend(said, (int)sizeof(*said), MPI_BYTE, 0, TAG, watch->communicator,
                             &request) == MPI_SUCCESS;
        const double until = gdni_now() + 1.0 + 0.25 * turn;
        while (gdni_now() < until) {
            int done = 0;
            if (sent && MPI_Test(&request, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && done)
                sent = 0;
            gdni_sleep(0.01);
        }
    }
    gdni_end_job(watch->communicator, said->exit_code, said->line);
}

/* This rank's part of the group's end. What others hear goes first, since NCCL may take its time.
 */
static void end_group(gdni_watch *watch, const char *line) {
    if (atomic_load(&watch->failed))
        return;
    watch->end.kind = END_GROUP;
    set_text(watch->end.line, sizeof(watch->end.line), line);
    for (int i = 0; i < watch->count; ++i)
        MPI_Isend(&watch->end, (int)sizeof(watch->end), MPI_BYTE, watch->peers[i].rank, TAG,
                  watch->communicator, &watch->peers[i].ending);
    atomic_store(&watch->failed, 1);
    pthread_mutex_lock(&watch->lock);
    const gdni_device_watch device = watch->device;
    pthread_mutex_unlock(&watch->lock);
    if (device.user)
        device.abort(device.user);
}

/* What the watch has found. */
static void end(gdni_watch *watch, const char *line) {
    if (watch->on_failure == GDN_DIST_END_JOB)
        gdni_end_job(watch->communicator, EXIT_SILENT, line);
    end_group(watch, line);
}

static void end_as_requested(gdni_watch *watch) {
    message request = {.kind = BEAT};
    pthread_mutex_lock(&watch->lock);
    if (watch->requested)
        request = watch->request;
    watch->requested = 0;
    pthread_mutex_unlock(&watch->lock);
    if (request.kind == END_JOB)
        end_job_as_requested(watch, &request);
    if (request.kind == END_GROUP)
        end_group(watch, request.line);
}

static peer *find_peer(gdni_watch *watch, int rank) {
    return watch->rank == 0 ? watch->peers + rank - 1 : watch->peers;
}

static void start_receive(gdni_watch *watch) {
    MPI_Irecv(&watch->in, (int)sizeof(watch->in), MPI_BYTE, MPI_ANY_SOURCE, TAG,
              watch->communicator, &watch->receiving);
}

static void hear(gdni_watch *watch, double now) {
    for (;;) {
        MPI_Status result;
        int done = 0;
        if (MPI_Test(&watch->receiving, &done, &result) != MPI_SUCCESS || !done)
            return;
        peer *from = find_peer(watch, result.MPI_SOURCE);
        if (watch->in.kind == END_JOB)
            gdni_end_job(watch->communicator, watch->in.exit_code, watch->in.line);
        from->seen = now;
        if (watch->in.kind == END_GROUP) {
            end_group(watch, watch->in.line);
        } else {
            from->gone = watch->in.kind == GOODBYE;
            from->at = watch->in.at;
        }
        start_receive(watch);
    }
}

/* Of the thread, once it runs. A wait of the host counts before one of the device. */
static state own_state(gdni_watch *watch) {
    state at = {.peer = GDNI_ALL};
    gdni_wait wait;
    pthread_mutex_lock(&watch->lock);
    at.waits = watch->waiting[0] != '\0';
    at.peer = watch->waiting_peer;
    at.waited = at.waits ? gdni_now() - watch->waiting_since : 0.0;
    set_text(at.text, sizeof(at.text), at.waits ? watch->waiting : watch->doing);
    if (watch->device.user && watch->device.is_waiting(watch->device.user, &wait) && !at.waits) {
        at.waits = 1;
        at.peer = wait.peer;
        at.waited = gdni_now() - wait.since;
        set_text(at.text, sizeof(at.text), wait.what);
    }
    pthread_mutex_unlock(&watch->lock);
    return at;
}

/* A peer that does not take its messages gets no further ones. */
static int tell(gdni_watch *watch, peer *to, message_kind kind) {
    int done = 0;
    if (MPI_Test(&to->sending, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || !done)
        return 0;
    to->out.kind = kind;
    to->out.at = own_state(watch);
    return MPI_Isend(&to->out, (int)sizeof(to->out), MPI_BYTE, to->rank, TAG, watch->communicator,
                     &to->sending) == MPI_SUCCESS;
}

/* What the device's messages have met ends the job as a request of this rank. */
static void look_at_device(gdni_watch *watch) {
    char failure[GDNI_TEXT / 2], line[GDNI_TEXT];
    pthread_mutex_lock(&watch->lock);
    if (watch->device.user &&
        watch->device.has_failed(watch->device.user, failure, sizeof(failure))) {
        snprintf(line, sizeof(line), "rank %d: %s", watch->rank, failure);
        request_end(watch, watch->on_failure == GDN_DIST_END_JOB ? END_JOB : END_GROUP, EXIT_SILENT,
                    line);
    }
    pthread_mutex_unlock(&watch->lock);
}

static void look_for_silent(gdni_watch *watch, double now) {
    const int turn = watch->rank < GRACE_RANKS ? watch->rank : GRACE_RANKS;
    /* One line in a job; where each rank keeps its own nobody has to give way. */
    const int one_line = watch->on_failure == GDN_DIST_END_JOB;
    const double later = one_line && watch->rank > 1 ? 0.5 * (turn - 1) : 0.0;
    for (int i = 0; i < watch->count; ++i) {
        const peer *p = watch->peers + i;
        char line[GDNI_TEXT];
        if (p->gone || now - p->seen <= watch->deadline + later)
            continue;
        snprintf(line, sizeof(line), "rank %d stopped answering for %.1f s (last seen in: %s)",
                 p->rank, now - p->seen, p->at.text);
        end(watch, line);
        return;
    }
}

/* On rank 0: what any rank is at, as far as is known. */
static state state_of(gdni_watch *watch, int rank) {
    return rank == 0 ? own_state(watch) : watch->peers[rank - 1].at;
}

/* The end of the chain of waits from `rank` on: a rank at work, or -1 where all wait. */
static int find_culprit(gdni_watch *watch, int rank) {
    int at = rank;
    for (int step = 0; step < watch->ranks; ++step) {
        const state s = state_of(watch, at);
        if (!s.waits)
            return at;
        if (s.peer == GDNI_ALL)
            break;
        at = s.peer;
    }
    for (at = 0; at < watch->ranks; ++at)
        if (!state_of(watch, at).waits)
            return at;
    return -1;
}

/* Waits for a busy rank may last until wait_limit. Where all ranks wait nothing will come. */
static void look_for_waits(gdni_watch *watch) {
    const double patience = 2 * watch->deadline;
    int all_stuck = 1;
    for (int rank = 0; rank < watch->ranks; ++rank) {
        const state s = state_of(watch, rank);
        all_stuck = all_stuck && s.waits && s.waited > patience;
    }
    for (int rank = 0; rank < watch->ranks; ++rank) {
        const state s = state_of(watch, rank);
        char line[GDNI_TEXT];
        if (!s.waits || s.waited <= (all_stuck ? patience : watch->wait_limit))
            continue;
        const int culprit = find_culprit(watch, rank);
        if (culprit >= 0)
            snprintf(line, sizeof(line),
                     "rank %d keeps rank %d waiting for %.1f s (%s; rank %d last seen in: %s)",
                     culprit, rank, s.waited, s.text, culprit, state_of(watch, culprit).text);
        else
            snprintf(line, sizeof(line),
                     "rank %d waits for %.1f s in vain, as all ranks wait (%s; rank %d in: %s)",
                     rank, s.waited, s.text, (rank + 1) % watch->ranks,
                     state_of(watch, (rank + 1) % watch->ranks).text);
        end(watch, line);
        return;
    }
}

/* The last messages, so that none is left when the communicator goes; a group that ends
 * meanwhile has none. */
static void say_goodbye(gdni_watch *watch) {
    const double until = gdni_now() + watch->deadline;
    int told = 0, gone = 0;
    while (gdni_now() < until && !atomic_load(&watch->failed) &&
           (told < watch->count || gone < watch->count)) {
        hear(watch, gdni_now());
        if (told < watch->count)
            told += tell(watch, watch->peers + told, GOODBYE);
        gone = 0;
        for (int i = 0; i < watch->count; ++i)
            gone += watch->peers[i].gone;
        gdni_sleep(0.0005);
    }
    for (int i = 0; i < watch->count && !atomic_load(&watch->failed); ++i) {
        int done = 0;
        while (!done && gdni_now() < until)
            if (MPI_Test(&watch->peers[i].sending, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS)
                done = 1;
    }
    MPI_Cancel(&watch->receiving);
    MPI_Wait(&watch->receiving, MPI_STATUS_IGNORE);
}

static void *run(void *argument) {
    gdni_watch *watch = argument;
    double last = gdni_now(), told = 0.0;
    start_receive(watch);
    while (!atomic_load(&watch->stopping)) {
        const double now = gdni_now();
        /* A thread that was itself stopped for a while has heard nobody, and knows nothing. */
        if (now - last > 0.5 * watch->deadline)
            for (int i = 0; i < watch->count; ++i)
                watch->peers[i].seen = now;
        last = now;
        hear(watch, now);
        end_as_requested(watch);
        if (atomic_load(&watch->failed)) {
            gdni_sleep(0.01);
            continue;
        }
        if (now - told >= watch->interval) {
            for (int i = 0; i < watch->count; ++i)
                tell(watch, watch->peers + i, BEAT);
            look_at_device(watch);
            if (watch->rank == 0)
                look_for_waits(watch);
            told = now;
        }
        look_for_silent(watch, now);
        gdni_sleep(atomic_load(&watch->pending) ? 0.001 : 0.01);
    }
    end_as_requested(watch); /* others must know why this rank stops */
    say_goodbye(watch);
    return NULL;
}

/* After a failure MPI may still have messages of it, and to free a communicator takes all ranks:
 * both stay. */
static void release(gdni_watch *watch) {
    pthread_mutex_destroy(&watch->lock);
    if (atomic_load(&watch->failed))
        return;
    MPI_Comm_free(&watch->communicator);
    free(watch->peers);
    free(watch);
}

gdn_status gdni_watch_start(gdni_watch **out, MPI_Comm communicator, double deadline,
                            double wait_limit, gdn_dist_failure on_failure) {
    gdni_watch *watch = calloc(1, sizeof(*watch));
    if (!watch)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "gdn_dist_create: no memory for the watch");
    watch->communicator = communicator;
    MPI_Comm_rank(communicator, &watch->rank);
    MPI_Comm_size(communicator, &watch->ranks);
    watch->deadline = deadline;
    watch->wait_limit = wait_limit;
    watch->on_failure = on_failure;
    watch->interval = deadline / 12 < 0.5 ? deadline / 12 : 0.5;
    watch->count = watch->rank == 0 ? watch->ranks - 1 : 1;
    watch->peers = calloc((size_t)watch->count, sizeof(*watch->peers));
    pthread_mutex_init(&watch->lock, NULL);
    gdni_watch_doing(watch, "starting");
    for (int i = 0; watch->peers && i < watch->count; ++i) {
        watch->peers[i].rank = watch->rank == 0 ? i + 1 : 0;
        watch->peers[i].seen = gdni_now();
        watch->peers[i].sending = watch->peers[i].ending = MPI_REQUEST_NULL;
        watch->peers[i].at = own_state(watch);
    }
    if (!watch->peers || pthread_create(&watch->thread, NULL, run, watch) != 0) {
        release(watch);
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "gdn_dist_create: no thread for the watch");
    }
    *out = watch;
    return GDN_STATUS_OK;
}

void gdni_watch_stop(gdni_watch *watch) {
    if (!watch)
        return;
    atomic_store(&watch->stopping, 1);
    pthread_join(watch->thread, NULL);
    release(watch);
}
