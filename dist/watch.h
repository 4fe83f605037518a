/*
 * The watch over silent ranks. Every rank has a thread that sends a heartbeat with what the rank is
 * doing: to rank 0, and rank 0 to all. Rank 0 ends the job when one of them stops to come; if rank
 * 0 is the silent one, the lowest of the others does. It also looks for waits that last too long,
 * and follows who waits for whom to the rank that is at the end of them. Requests to end the job go
 * to rank 0 as well, so that one line is printed, whoever else notices.
 *
 * With GDN_DIST_RETURN the group ends in place of the job: each rank's watch keeps the line, rank 0
 * passes it on to all others, messages of devices are aborted, and waits come back with the line.
 */
#ifndef GDNI_WATCH_H
#define GDNI_WATCH_H

#include <mpi.h>

#include "group.h"

enum {
    GDNI_ALL = -1 /* waits for all ranks of a group */
};

/* Takes the communicator over. wait_limit: for a rank that is alive, but keeps others waiting. */
gdn_status gdni_watch_start(gdni_watch **watch, MPI_Comm communicator, double deadline,
                            double wait_limit, gdn_dist_failure on_failure);
/* Collective, after all ranks have agreed to stop; of this rank alone after a failure. */
void gdni_watch_stop(gdni_watch *watch);
/* Whether the group has ended; its line as COMM_ERROR, "<what>: <line>", else OK. */
int gdni_watch_has_failed(gdni_watch *watch);
gdn_status gdni_watch_failure(gdni_watch *watch, const char *what);
/* Ends the group on all ranks. Comes back at once. */
void gdni_watch_fail(gdni_watch *watch, const char *line);
void gdni_watch_doing(gdni_watch *watch, const char *doing);
/* what: "" = no longer; peer: the rank that is waited for, of the whole job, or ALL. */
void gdni_watch_waiting(gdni_watch *watch, const char *what, int32_t peer);
/* Counts messages on their way: while there are any the thread looks after MPI's progress more
 * often. */
void gdni_watch_pending(gdni_watch *watch, int32_t change);

/* Messages that a device moves without the host: what they wait for, and whether they have failed.
 * Asked by the thread alone; abort, where the group ends, until the watch has stopped. */
typedef struct gdni_wait {
    int32_t peer;
    double since;
    char what[128];
} gdni_wait;
typedef struct gdni_device_watch {
    void *user;
    int (*is_waiting)(void *user, gdni_wait *wait);
    int (*has_failed)(void *user, char *line, size_t size);
    void (*abort)(void *user);
} gdni_device_watch;
/* NULL: no longer. */
void gdni_watch_device(gdni_watch *watch, const gdni_device_watch *device);

/* The whole line is "gdn: <line>". Does not return. */
_Noreturn void gdni_watch_abort(gdni_watch *watch, int32_t exit_code, const char *line);

/* "gdn: <line>" in one write, then the end of all ranks of the job. */
_Noreturn void gdni_end_job(MPI_Comm communicator, int32_t exit_code, const char *line);

double gdni_now(void); /* seconds, monotonic */
void gdni_sleep(double seconds);
/* The text of an MPI error as a status. */
gdn_status gdni_mpi_fail(int code, const char *what);
#define GDNI_MPI_TRY(call, what)                                                                   \
    do {                                                                                           \
        int gdni_code_ = (call);                                                                   \
        if (gdni_code_ != MPI_SUCCESS)                                                             \
            return gdni_mpi_fail(gdni_code_, what);                                                \
    } while (0)

/* A group: ranks first, first + step, ... of a communicator that all groups share. */
typedef struct gdni_mpi_group {
    MPI_Comm communicator;
    int32_t rank, ranks, first, step;
    int32_t first_tag; /* tells the messages of the groups apart */
    gdni_watch *watch;
    double wait_limit;
} gdni_mpi_group;

gdn_status gdni_mpi_transport(gdn_transport **transport, const gdni_mpi_group *group);
/* Gives up all messages that were started and not waited for: the group has ended. */
void gdni_mpi_drop_all(gdn_transport *transport);
/* Waits for a request of MPI itself. */
gdn_status gdni_mpi_wait(MPI_Request *request, gdni_watch *watch, const char *what, int32_t peer,
                         double limit, MPI_Status *result);

#endif /* GDNI_WATCH_H */
