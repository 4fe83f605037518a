/* The transport over MPI: non-blocking calls, and waits that poll. */
#include "watch.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

struct gdn_request {
    MPI_Request request;
    int32_t peer; /* rank in the whole job */
    int32_t sending;
    gdn_request *before, *after; /* in the transport's list */
};

typedef struct mpi_transport {
    gdn_transport base;
    MPI_Comm communicator; /* of all ranks; not the transport's own */
    int32_t first_tag;
    gdni_watch *watch;
    double wait_limit;
    gdn_request *requests; /* started and not waited for */
    int32_t world[];       /* rank in the whole job, of each rank */
} mpi_transport;

gdn_status gdni_mpi_fail(int code, const char *what) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    return gdni_fail(GDN_STATUS_COMM_ERROR, "%s: MPI: %s", what, text);
}

gdn_status gdni_mpi_wait(MPI_Request *request, gdni_watch *watch, const char *what, int32_t peer,
                         double limit, MPI_Status *result) {
    const double start = gdni_now();
    int done = 0;
    for (int round = 0;; ++round) {
        GDNI_MPI_TRY(MPI_Test(request, &done, result), what);
        if (done)
            return GDN_STATUS_OK;
        if (round == 0)
            gdni_watch_waiting(watch, what, peer);
        GDN_TRY(gdni_watch_failure(watch, what));
        if (gdni_now() - start > limit)
            return gdni_fail(GDN_STATUS_TIMEOUT, "%s: waited %.1f s in vain", what,
                             gdni_now() - start);
        /* Short waits are spun away, long ones leave the core to others. */
        if (round < 64)
            sched_yield();
        else
            gdni_sleep(5e-5);
    }
}

/* ---- Messages ----------------------------------------------------------------------------------
 */

/* Gives a message up without waiting for another rank. What MPI is moving just now it goes on to
 * move. */
static void give_up(gdn_request *r) {
    int done = 0;
    if (r->request == MPI_REQUEST_NULL)
        return;
    if (!r->sending)
        MPI_Cancel(&r->request);
    if (MPI_Test(&r->request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || !done)
        MPI_Request_free(&r->request);
    r->request = MPI_REQUEST_NULL;
}

static void release(mpi_transport *t, gdn_request *r) {
    *(r->before ? &r->before->after : &t->requests) = r->after;
    if (r->after)
        r->after->before = r->before;
    gdni_watch_pending(t->watch, -r->sending);
    free(r);
}

static gdn_status start(mpi_transport *t, int32_t peer, int sending, size_t bytes,
                        gdn_request **out) {
    *out = NULL;
    GDNI_REQUIRE(bytes <= INT_MAX, "gdn_transport: a message of %zu bytes, expected at most %d",
                 bytes, INT_MAX);
    GDNI_REQUIRE(peer >= 0 && peer < t->base.ranks,
                 "gdn_transport: rank %d, expected one of %d ranks", peer, t->base.ranks);
    gdn_request *r = calloc(1, sizeof(*r));
    if (!r)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "gdn_transport: no memory for a request");
    r->peer = t->world[peer];
    r->sending = sending;
    *out = r;
    return GDN_STATUS_OK;
}

/* Frees the request where it could not be started. */
static gdn_status started(mpi_transport *t, int code, gdn_request **request) {
    gdn_request *r = *request;
    if (code == MPI_SUCCESS) {
        gdni_watch_pending(t->watch, r->sending);
        r->after = t->requests;
        if (r->after)
            r->after->before = r;
        t->requests = r;
        return GDN_STATUS_OK;
    }
    free(r);
    *request = NULL;
    return gdni_mpi_fail(code, "gdn_transport");
}

static gdn_status send_bytes(gdn_transport *base, int32_t to, int32_t tag, const void *data,
                             size_t bytes, gdn_request **request) {
    mpi_transport *t = (mpi_transport *)base;
    GDN_TRY(start(t, to, 1, bytes, request));
    return started(t,
                   MPI_Isend(data, (int)bytes, MPI_BYTE, t->world[to], t->first_tag + tag,
                             t->communicator, &(*request)->request),
                   request);
}

static gdn_status receive_bytes(gdn_transport *base, int32_t from, int32_t tag, void *data,
                                size_t bytes, gdn_request **request) {
    mpi_transport *t = (mpi_transport *)base;
    GDN_TRY(start(t, from, 0, bytes, request));
    return started(t,
                   MPI_Irecv(data, (int)bytes, MPI_BYTE, t->world[from], t->first_tag + tag,
                             t->communicator, &(*request)->request),
                   request);
}

static gdn_status wait_request(gdn_transport *base, gdn_request **request, const char *what,
                               size_t *received) {
    mpi_transport *t = (mpi_transport *)base;
    gdn_request *r = *request;
    MPI_Status result;
    char line[256];
    if (!r)
        return GDN_STATUS_OK;
    *request = NULL;
    snprintf(line, sizeof(line), "%s %s rank %d", what, r->sending ? "to" : "from", r->peer);
    gdn_status status =
        r->request == MPI_REQUEST_NULL
            ? gdni_fail(GDN_STATUS_COMM_ERROR, "%s: the group has failed", line)
            : gdni_mpi_wait(&r->request, t->watch, line, r->peer, t->wait_limit, &result);
    gdni_watch_waiting(t->watch, "", GDNI_ALL);
    if (status == GDN_STATUS_OK && received && !r->sending) {
        int bytes = 0;
        MPI_Get_count(&result, MPI_BYTE, &bytes);
        *received = (size_t)bytes;
    }
    give_up(r);
    release(t, r);
    return status;
}

static void drop(gdn_transport *base, gdn_request **request) {
    mpi_transport *t = (mpi_transport *)base;
    if (!*request)
        return;
    give_up(*request);
    release(t, *request);
    *request = NULL;
}

void gdni_mpi_drop_all(gdn_transport *base) {
    for (gdn_request *r = ((mpi_transport *)base)->requests; r; r = r->after)
        give_up(r);
}

static void end_job(gdn_transport *base, int32_t exit_code, const char *reason) {
    mpi_transport *t = (mpi_transport *)base;
    char line[GDNI_TEXT];
    snprintf(line, sizeof(line), "rank %d: %s", t->world[base->rank],
             reason ? reason : gdn_last_error());
    if (!t->watch)
        gdni_end_job(t->communicator, exit_code, line);
    gdni_watch_abort(t->watch, exit_code, line);
}

static void destroy(gdn_transport *base) {
    mpi_transport *t = (mpi_transport *)base;
    while (t->requests) {
        give_up(t->requests);
        release(t, t->requests);
    }
    free(t);
}

gdn_status gdni_mpi_transport(gdn_transport **transport, const gdni_mpi_group *group) {
    mpi_transport *t = calloc(1, sizeof(*t) + sizeof(*t->world) * (size_t)group->ranks);
    if (!t)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "gdn_dist_create: no memory for a transport");
    const gdn_transport base = {.size = sizeof(base),
                                .rank = group->rank,
                                .ranks = group->ranks,
                                .send = send_bytes,
                                .receive = receive_bytes,
                                .wait = wait_request,
                                .all_gather = gdni_all_gather,
                                .all_reduce = gdni_all_reduce,
                                .abort = end_job,
                                .destroy = destroy,
                                .drop = drop};
    t->base = base;
    t->communicator = group->communicator;
    t->first_tag = group->first_tag;
    t->watch = group->watch;
    t->wait_limit = group->wait_limit;
    for (int32_t i = 0; i < group->ranks; ++i)
        t->world[i] = group->first + i * group->step;
    *transport = &t->base;
    return GDN_STATUS_OK;
}
