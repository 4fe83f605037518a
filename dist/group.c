/* The group of ranks: its communicators, its watch, its failures. */
#include "watch.h"

#ifdef OPEN_MPI
#include <mpi-ext.h>
#endif

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TAGS = 1 << 12 /* of one group; tags of the program's own are from 100 on */
};

struct gdni_mpi {
    MPI_Comm communicator;
};

static const double DEFAULT_DEADLINE = 30.0, SHORTEST_DEADLINE = 0.5;

typedef struct setup {
    gdn_dist_config config; /* defaults filled in */
    MPI_Comm parent;
    int rank, ranks;
} setup;

static gdn_status check_config(const gdn_dist_config *in, setup *s) {
    static const char *const function = "gdn_dist_create";
    const gdn_dist_config init = GDN_DIST_CONFIG_INIT;
    int started = 0, finished = 0, threads = MPI_THREAD_SINGLE;
    s->config = init;
    if (in)
        GDNI_COPY_STRUCT(&s->config, in, "gdn_dist_create");
    MPI_Initialized(&started);
    MPI_Finalized(&finished);
    GDNI_REQUIRE(started && !finished, "%s: MPI is not initialised, expected gdn_dist_start()",
                 function);
    MPI_Query_thread(&threads);
    if (threads < MPI_THREAD_MULTIPLE)
        return gdni_fail(GDN_STATUS_UNSUPPORTED,
                         "%s: MPI was initialised with thread level %d, expected "
                         "MPI_THREAD_MULTIPLE (%d)",
                         function, threads, MPI_THREAD_MULTIPLE);
    s->parent = s->config.communicator ? *(const MPI_Comm *)s->config.communicator : MPI_COMM_WORLD;
    MPI_Comm_rank(s->parent, &s->rank);
    MPI_Comm_size(s->parent, &s->ranks);
    if (s->config.deadline == 0)
        s->config.deadline = DEFAULT_DEADLINE;
    if (s->config.wait_limit == 0)
        s->config.wait_limit = 10 * s->config.deadline;
    if (s->config.sequence_ranks == 0)
        s->config.sequence_ranks = s->ranks;
    return GDN_STATUS_OK;
}

/* Values that must make sense; checked once the ranks can talk, for all of them. */
static gdn_status check_values(const setup *s) {
    const gdn_dist_config *c = &s->config;
    GDNI_REQUIRE(c->deadline >= SHORTEST_DEADLINE && isfinite(c->deadline),
                 "gdn_dist_create: deadline is %g s, expected at least %g", c->deadline,
                 SHORTEST_DEADLINE);
    GDNI_REQUIRE(c->wait_limit >= 2 * c->deadline && isfinite(c->wait_limit),
                 "gdn_dist_create: wait_limit is %g s, expected at least 2 deadlines of %g s",
                 c->wait_limit, c->deadline);
    GDNI_REQUIRE(c->sequence_ranks > 0 && s->ranks % c->sequence_ranks == 0,
                 "gdn_dist_create: sequence_ranks is %d, expected a divisor of the %d ranks",
                 c->sequence_ranks, s->ranks);
    GDNI_REQUIRE(c->on_failure == GDN_DIST_END_JOB || c->on_failure == GDN_DIST_RETURN,
                 "gdn_dist_create: on_failure is %d, expected END_JOB (%d) or RETURN (%d)",
                 c->on_failure, GDN_DIST_END_JOB, GDN_DIST_RETURN);
    GDNI_REQUIRE((uint32_t)c->device_messages <= GDN_DIST_DIRECT,
                 "gdn_dist_create: device_messages is %d, expected ASK_MPI, STAGED or DIRECT (0 to "
                 "%d)",
                 c->device_messages, GDN_DIST_DIRECT);
    return GDN_STATUS_OK;
}

/* MPI's own word. Debian's Open MPI says no. */
static int mpi_takes_devices(void) {
#ifdef MPIX_CUDA_AWARE_SUPPORT
    return MPIX_Query_cuda_support();
#else
    return 0;
#endif
}

/* Of a wait itself: the watch, which knows more about the other ranks, speaks first. */
static double own_limit(const setup *s) {
    return s->config.wait_limit + s->config.deadline;
}

/* A copy of the caller's communicator, without waiting for ever for the others. */
static gdn_status duplicate(const setup *s, MPI_Comm *copy) {
    static const char *const what = "gdn_dist_create: waiting for all ranks to call it";
    MPI_Comm made;
    MPI_Request request;
    *copy = MPI_COMM_NULL;
    GDNI_MPI_TRY(MPI_Comm_idup(s->parent, &made, &request), what);
    GDN_TRY(gdni_mpi_wait(&request, NULL, what, GDNI_ALL, s->config.deadline, MPI_STATUS_IGNORE));
    GDNI_MPI_TRY(MPI_Comm_set_errhandler(made, MPI_ERRORS_RETURN), what);
    *copy = made;
    return GDN_STATUS_OK;
}

/* The transports of `count` groups from the first on: WORLD first, whose checks the others need. */
static gdn_status make_groups(gdn_dist *dist, const setup *s, int first, int count) {
    const int width = first == GDN_DIST_WORLD ? 1 : s->config.sequence_ranks;
    const int place = s->rank % width;
    gdni_mpi_group groups[GDNI_GROUPS] = {{.rank = s->rank, .ranks = s->ranks, .step = 1},
                                          {.rank = place, .ranks = width, .step = 1},
                                          {.rank = s->rank / width, .ranks = s->ranks / width}};
    groups[GDN_DIST_SEQUENCE].first = s->rank - place;
    groups[GDN_DIST_DATA].first = place;
    groups[GDN_DIST_DATA].step = width;
    for (int i = first; i < first + count; ++i) {
        groups[i].communicator = dist->mpi->communicator;
        groups[i].first_tag = i * TAGS;
        groups[i].watch = dist->watch;
        groups[i].wait_limit = own_limit(s);
        GDN_TRY(gdni_mpi_transport(&dist->transports[i], &groups[i]));
    }
    return GDN_STATUS_OK;
}

static gdn_status set_up(gdn_dist *dist, setup *s) {
    MPI_Comm heartbeats;
    char text[256];
    int32_t shared = 0;
    GDN_TRY(duplicate(s, &dist->mpi->communicator));
    if (s->ranks > 1) {
        GDN_TRY(duplicate(s, &heartbeats));
        GDN_TRY(gdni_watch_start(&dist->watch, heartbeats,
                                 fmax(s->config.deadline, SHORTEST_DEADLINE), s->config.wait_limit,
                                 dist->on_failure));
    }
    /* From here on no call of MPI blocks, and every wait is watched. */
    GDN_TRY(make_groups(dist, s, GDN_DIST_WORLD, 1));
    snprintf(text, sizeof(text),
             "library version %u; sequence_ranks %d; deadline %g; wait_limit %g; on_failure %d; "
             "device messages %s",
             (unsigned)gdn_version(), s->config.sequence_ranks, s->config.deadline,
             s->config.wait_limit, s->config.on_failure, dist->direct ? "direct" : "staged");
    const gdn_status status = gdni_agree(dist->transports[GDN_DIST_WORLD], check_values(s),
                                         "gdn_dist_create", text, &shared);
    if (status != GDN_STATUS_OK)
        return shared ? gdni_dist_shared(dist, status) : gdni_dist_end(dist, status);
    return gdni_dist_end(dist, make_groups(dist, s, GDN_DIST_SEQUENCE, GDNI_GROUPS - 1));
}

static void release(gdn_dist *dist) {
    for (int i = 0; i < GDNI_GROUPS; ++i)
        if (dist->transports[i])
            dist->transports[i]->destroy(dist->transports[i]);
    gdni_watch_stop(dist->watch);
    gdni_nccl_destroy(dist->nccl, dist->failed);
    /* That takes all ranks; see also the watch's. */
    if (dist->mpi && dist->mpi->communicator != MPI_COMM_NULL && !dist->failed)
        MPI_Comm_free(&dist->mpi->communicator);
    free(dist->mpi);
    free(dist);
}

gdn_status gdn_dist_create(gdn_dist **out, const gdn_dist_config *config) {
    setup s;
    gdni_clear_error();
    GDNI_REQUIRE(out != NULL, "gdn_dist_create: dist is NULL");
    *out = NULL;
    GDN_TRY(check_config(config, &s));
    gdn_dist *dist = calloc(1, sizeof(*dist));
    struct gdni_mpi *mpi = calloc(1, sizeof(*mpi));
    if (!dist || !mpi) {
        free(dist);
        free(mpi);
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "gdn_dist_create: no memory for the group");
    }
    mpi->communicator = MPI_COMM_NULL;
    dist->mpi = mpi;
    dist->on_failure = (gdn_dist_failure)s.config.on_failure;
    dist->direct = s.config.device_messages == GDN_DIST_DIRECT ||
                   (s.config.device_messages == GDN_DIST_ASK_MPI && mpi_takes_devices());
    const gdn_status status = set_up(dist, &s);
    gdni_watch_doing(dist->watch, "the program");
    if (dist->transports[GDN_DIST_WORLD])
        *out = dist;
    else
        release(dist);
    return status;
}

/* All are here before heartbeats stop. */
static gdn_status meet(gdn_dist *dist) {
    char one = 0, *all = malloc((size_t)gdn_dist_ranks(dist, GDN_DIST_WORLD));
    gdn_transport *world = dist->transports[GDN_DIST_WORLD];
    if (!all)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "gdn_dist_destroy: no memory");
    const gdn_status status =
        world->all_gather(world, &one, all, 1, "gdn_dist_destroy: waiting for all ranks");
    free(all);
    return status;
}

void gdn_dist_destroy(gdn_dist *dist) {
    if (!dist)
        return;
    const int end_job = dist->on_failure == GDN_DIST_END_JOB;
    /* NCCL's own memory wants all ranks while it is freed. */
    if (!dist->failed && dist->nccl && gdni_dist_end(dist, meet(dist)) == GDN_STATUS_OK)
        gdni_nccl_release(dist->nccl);
    if (dist->failed && end_job)
        gdn_dist_abort(dist, 4, dist->reason);
    if (!dist->failed && gdni_dist_end(dist, meet(dist)) != GDN_STATUS_OK && end_job)
        gdn_dist_abort(dist, 4, NULL);
    release(dist);
}

gdn_transport *gdn_dist_transport(gdn_dist *dist, gdn_dist_group group) {
    return dist && (unsigned)group < GDNI_GROUPS ? dist->transports[group] : NULL;
}

int32_t gdn_dist_rank(const gdn_dist *dist, gdn_dist_group group) {
    return dist->transports[group]->rank;
}

int32_t gdn_dist_ranks(const gdn_dist *dist, gdn_dist_group group) {
    return dist->transports[group]->ranks;
}

void gdn_dist_note(gdn_dist *dist, const char *doing) {
    gdni_watch_doing(dist->watch, doing);
}

/* A failure that all ranks share names its rank itself. */
static void say(const gdn_dist *dist, const char *reason, char *line) {
    if (!strcmp(reason, dist->agreed))
        snprintf(line, GDNI_TEXT, "%s", reason);
    else
        snprintf(line, GDNI_TEXT, "rank %d: %s", gdn_dist_rank(dist, GDN_DIST_WORLD), reason);
}

void gdn_dist_abort(gdn_dist *dist, int32_t exit_code, const char *reason) {
    char line[GDNI_TEXT];
    say(dist, reason ? reason : gdn_last_error(), line);
    if (dist->watch)
        gdni_watch_abort(dist->watch, exit_code, line);
    gdni_end_job(MPI_COMM_WORLD, exit_code, line);
}

/* ---- Failures ----------------------------------------------------------------------------------
 */

gdn_status gdni_dist_begin(gdn_dist *dist, const char *function) {
    if (dist->failed)
        return gdni_fail(GDN_STATUS_COMM_ERROR, "%s: the group has failed before: %s", function,
                         dist->reason);
    if (gdni_watch_has_failed(dist->watch))
        return gdni_dist_end(dist, gdni_watch_failure(dist->watch, function));
    gdni_watch_doing(dist->watch, function);
    return GDN_STATUS_OK;
}

/* For this rank alone, or for all where the group has to end for them to know. */
static void fail(gdn_dist *dist, const char *reason) {
    char line[GDNI_TEXT];
    dist->failed = 1;
    snprintf(dist->reason, sizeof(dist->reason), "%s", reason);
    if (dist->on_failure == GDN_DIST_END_JOB)
        return;
    say(dist, reason, line);
    gdni_watch_fail(dist->watch, line);
    for (int i = 0; i < GDNI_GROUPS; ++i)
        if (dist->transports[i])
            gdni_mpi_drop_all(dist->transports[i]);
}

gdn_status gdni_dist_end(gdn_dist *dist, gdn_status status) {
    if (status != GDN_STATUS_OK && !dist->failed)
        fail(dist, gdn_last_error());
    gdni_watch_doing(dist->watch, "the program");
    return status;
}

gdn_status gdni_dist_shared(gdn_dist *dist, gdn_status status) {
    snprintf(dist->agreed, sizeof(dist->agreed), "%s", gdn_last_error());
    gdni_watch_doing(dist->watch, "the program");
    return status;
}

gdn_status gdn_dist_check(gdn_dist *dist) {
    static const char *const function = "gdn_dist_check";
    GDNI_REQUIRE(dist != NULL, "%s: dist is NULL", function);
    if (dist->failed)
        return gdni_fail(GDN_STATUS_COMM_ERROR, "%s: %s", function, dist->reason);
    gdn_status status = gdni_watch_failure(dist->watch, function);
    if (status == GDN_STATUS_OK)
        status = gdni_nccl_check(dist->nccl);
    return status == GDN_STATUS_OK ? status : gdni_dist_end(dist, status);
}

void gdn_dist_fail(gdn_dist *dist, const char *reason) {
    if (!dist)
        return;
    if (dist->on_failure == GDN_DIST_END_JOB)
        gdn_dist_abort(dist, 4, reason);
    if (!dist->failed)
        fail(dist, reason ? reason : gdn_last_error());
}
