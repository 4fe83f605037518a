/*
 * Memory of devices over NCCL, beside MPI, which brings its communicators up and keeps carrying
 * what is the host's. All groups share one stream of messages, so that their operations come in one
 * order on every rank; it follows the caller's by events, and nothing here waits for the device.
 *
 * A rank that has fallen silent, or keeps others waiting, is found by the watch: marks on the
 * stream tell its thread which operation the device is at. Where the group has failed, and the job
 * goes on, that thread aborts the communicators.
 */
#include "watch.h"

#include "cuda/memory.h"
#include "cuda/sharding.h"

#include <nccl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum operation {
    NOTHING,
    SEND,
    RECEIVE,
    EXCHANGE,
    SUM
} operation;

enum {
    UUID = 16,
    OPERATIONS = 8, /* a mark is peer * OPERATIONS + operation */
    MARKS = 2,      /* words of the host that marks go to */
    SPINS = 1000    /* questions to NCCL before the thread sleeps between them */
};

/* One group's part: what its transport's functions get. */
typedef struct device_group {
    struct gdni_nccl *nccl;
    ncclComm_t communicator;
    int32_t first, step; /* rank in the whole job of rank 0, and from one to the next */
} device_group;

/* Memory that NCCL has made. */
typedef struct block {
    void *memory;
    void *handles[GDNI_GROUPS]; /* of its registration; NULL: none */
    struct block *next;
} block;

struct gdni_nccl {
    gdn_dist *dist;
    const gdn_context *context;
    device_group groups[GDNI_GROUPS];
    gdn_stream stream;
    gdni_event event;
    int32_t open; /* the stream has operations that no other waits for yet */
    uint32_t *marks;
    pthread_mutex_t lock; /* of the communicators: the calls' thread and the watch's */
    int32_t aborted;
    ncclComm_t splitting; /* NULL: none is */
    block *blocks;
    /* Of the watch's thread: the mark it saw last, and since when. */
    uint32_t seen;
    double since;
};

static gdn_status nccl_fail(ncclResult_t result, const char *what, ncclComm_t communicator) {
    return gdni_fail(GDN_STATUS_COMM_ERROR, "%s: NCCL: %s: %s", what, ncclGetErrorString(result),
                     ncclGetLastError(communicator));
}

#define NCCL_TRY(call, what, communicator)                                                         \
    do {                                                                                           \
        const ncclResult_t nccl_result_ = (call);                                                  \
        if (nccl_result_ != ncclSuccess)                                                           \
            return nccl_fail(nccl_result_, what, communicator);                                    \
    } while (0)

/* ---- Operations --------------------------------------------------------------------------------
 *
 * With GDN_DIST_RETURN communicators are non-blocking, so that a call of NCCL comes back although
 * another rank does not: the lock is never held for long, and who holds it may abort them. Where
 * the job ends with a failure they block, which saves NCCL a thread an operation.
 */

/* Waits for what NCCL does in the background, unless the group fails meanwhile. communicator: the
 * one that is asked, also where the call itself has not said that it goes on. */
static gdn_status settle(const struct gdni_nccl *n, ncclResult_t result, const char *what,
                         ncclComm_t communicator) {
    if (result == ncclSuccess && n->dist->on_failure == GDN_DIST_RETURN)
        result = ncclInProgress;
    for (int round = 0; result == ncclInProgress; ++round) {
        GDN_TRY(gdni_watch_failure(n->dist->watch, what));
        if (round < SPINS)
            sched_yield();
        else
            gdni_sleep(5e-5);
        const ncclResult_t asked = ncclCommGetAsyncError(communicator, &result);
        if (asked != ncclSuccess)
            result = asked;
    }
    return result == ncclSuccess ? GDN_STATUS_OK : nccl_fail(result, what, communicator);
}

static gdn_status mark(const device_group *g, operation what, int32_t peer) {
    const int32_t rank = g->first + peer * g->step;
    return gdni_device_mark(g->nccl->context, g->nccl->marks,
                            (uint32_t)(rank * OPERATIONS + (int32_t)what), g->nccl->stream);
}

/* An abort may take until the caller has destroyed its graphs: it is not waited for. */
static gdn_status take(struct gdni_nccl *n) {
    static const char *const what = "a message over NCCL";
    while (pthread_mutex_trylock(&n->lock) != 0) {
        GDN_TRY(gdni_watch_failure(n->dist->watch, what));
        sched_yield();
    }
    gdn_status status = gdni_watch_failure(n->dist->watch, what);
    if (status == GDN_STATUS_OK && n->dist->failed)
        status = gdni_fail(GDN_STATUS_COMM_ERROR, "%s: the group has failed before: %s", what,
                           n->dist->reason);
    if (status != GDN_STATUS_OK)
        pthread_mutex_unlock(&n->lock);
    return status;
}

/* Takes the lock, which end lets go; a failure has let it go already. */
static gdn_status begin(const device_group *g, operation what, int32_t peer, gdn_stream stream) {
    struct gdni_nccl *n = g->nccl;
    GDN_TRY(take(n));
    gdn_status status = gdni_device_follow(n->context, n->stream, stream, n->event);
    if (status == GDN_STATUS_OK) {
        n->open = 1;
        status = mark(g, what, peer);
    }
    if (status != GDN_STATUS_OK)
        pthread_mutex_unlock(&n->lock);
    return status;
}

static gdn_status end(const device_group *g, gdn_status status) {
    if (status == GDN_STATUS_OK)
        status = mark(g, NOTHING, 0);
    pthread_mutex_unlock(&g->nccl->lock);
    return status;
}

static gdn_status device_send(gdn_transport *t, int32_t to, const void *data, size_t bytes,
                              gdn_stream stream) {
    const device_group *g = t->device;
    struct gdni_nccl *n = g->nccl;
    GDN_TRY(begin(g, SEND, to, stream));
    return end(g, settle(n, ncclSend(data, bytes, ncclUint8, to, g->communicator, n->stream),
                         "ncclSend", g->communicator));
}

static gdn_status device_finish(gdn_transport *t, gdn_stream stream) {
    struct gdni_nccl *n = ((const device_group *)t->device)->nccl;
    if (!n->open)
        return GDN_STATUS_OK;
    n->open = 0;
    return gdni_device_follow(n->context, stream, n->stream, n->event);
}

static gdn_status device_receive(gdn_transport *t, int32_t from, void *data, size_t bytes,
                                 gdn_stream stream) {
    const device_group *g = t->device;
    struct gdni_nccl *n = g->nccl;
    GDN_TRY(begin(g, RECEIVE, from, stream));
    GDN_TRY(end(g, settle(n, ncclRecv(data, bytes, ncclUint8, from, g->communicator, n->stream),
                          "ncclRecv", g->communicator)));
    return device_finish(t, stream);
}

static gdn_status exchange(const device_group *g, const gdn_device_message *messages,
                           int32_t count) {
    const gdn_stream stream = g->nccl->stream;
    ncclResult_t result = ncclGroupStart();
    for (int32_t i = 0; i < count && (result == ncclSuccess || result == ncclInProgress); ++i) {
        const gdn_device_message *m = messages + i;
        result = m->sending
                     ? ncclSend(m->data, m->bytes, ncclUint8, m->peer, g->communicator, stream)
                     : ncclRecv(m->data, m->bytes, ncclUint8, m->peer, g->communicator, stream);
    }
    const ncclResult_t ended = ncclGroupEnd();
    return settle(g->nccl, result == ncclSuccess || result == ncclInProgress ? ended : result,
                  "ncclSend and ncclRecv", g->communicator);
}

static gdn_status device_exchange(gdn_transport *t, const gdn_device_message *messages,
                                  int32_t count, gdn_stream stream) {
    const device_group *g = t->device;
    if (count == 0)
        return GDN_STATUS_OK;
    GDN_TRY(begin(g, EXCHANGE, 0, stream));
    GDN_TRY(end(g, exchange(g, messages, count)));
    return device_finish(t, stream);
}

static gdn_status device_all_reduce(gdn_transport *t, gdn_dtype dtype, void *data, int64_t count,
                                    gdn_stream stream) {
    const device_group *g = t->device;
    GDNI_REQUIRE(dtype == GDN_DTYPE_FP32 || dtype == GDN_DTYPE_FP64,
                 "gdn_transport: dtype of a sum is %s, expected fp32 or fp64",
                 gdn_dtype_name(dtype));
    GDN_TRY(begin(g, SUM, 0, stream));
    return end(g, settle(g->nccl,
                         ncclAllReduce(data, data, (size_t)count,
                                       dtype == GDN_DTYPE_FP64 ? ncclFloat64 : ncclFloat32, ncclSum,
                                       g->communicator, g->nccl->stream),
                         "ncclAllReduce", g->communicator));
}

/* ---- Registered memory -------------------------------------------------------------------------
 */

/* First version of NCCL that has it. */
enum {
    NCCL_REGISTERS = 21900
};

static gdn_status check_bytes(const gdn_dist *dist, size_t bytes, void *const *memory) {
    static const char *const function = "gdn_dist_allocate";
    GDNI_REQUIRE(memory != NULL, "%s: memory is NULL", function);
    GDNI_REQUIRE(dist->nccl != NULL, "%s: expected gdn_dist_use_nccl before it", function);
    GDNI_REQUIRE(bytes > 0, "%s: bytes is 0", function);
    if (NCCL_VERSION_CODE < NCCL_REGISTERS || gdn_dist_nccl_version() < NCCL_REGISTERS)
        return gdni_fail(GDN_STATUS_UNSUPPORTED, "%s: NCCL's version is %d, expected %d or later",
                         function, gdn_dist_nccl_version(), NCCL_REGISTERS);
    return GDN_STATUS_OK;
}

#if NCCL_VERSION_CODE >= 21900
static gdn_status make_block(struct gdni_nccl *n, size_t bytes, block **out) {
    static const char *const function = "gdn_dist_allocate";
    block *b = calloc(1, sizeof(*b));
    if (!b)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "%s: no memory", function);
    const ncclResult_t made = ncclMemAlloc(&b->memory, bytes);
    if (made != ncclSuccess) {
        free(b);
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "%s: %zu bytes: NCCL: %s", function, bytes,
                         ncclGetErrorString(made));
    }
    b->next = n->blocks;
    n->blocks = b;
    *out = b;
    for (int i = 0; i < GDNI_GROUPS; ++i)
        NCCL_TRY(ncclCommRegister(n->groups[i].communicator, b->memory, bytes, &b->handles[i]),
                 function, n->groups[i].communicator);
    return GDN_STATUS_OK;
}

static void release_block(struct gdni_nccl *n, block **place) {
    block *b = *place;
    *place = b->next;
    for (int i = 0; !n->aborted && i < GDNI_GROUPS; ++i)
        if (b->handles[i])
            ncclCommDeregister(n->groups[i].communicator, b->handles[i]);
    ncclMemFree(b->memory);
    free(b);
}
#else
static gdn_status make_block(struct gdni_nccl *n, size_t bytes, block **out) {
    return GDN_STATUS_UNSUPPORTED;
}
static void release_block(struct gdni_nccl *n, block **place) {}
#endif

gdn_status gdn_dist_allocate(gdn_dist *dist, size_t bytes, void **memory) {
    static const char *const function = "gdn_dist_allocate";
    char text[64];
    block *b = NULL;
    int before = 0;
    GDNI_REQUIRE(dist != NULL, "%s: dist is NULL", function);
    snprintf(text, sizeof(text), "bytes %zu", bytes);
    GDN_TRY(gdn_dist_agree(dist, GDN_DIST_WORLD, check_bytes(dist, bytes, memory), function, text));
    GDN_TRY(gdni_dist_begin(dist, function));
    gdn_status status = take(dist->nccl);
    if (status == GDN_STATUS_OK) {
        status = gdni_device_enter(dist->nccl->context, &before);
        if (status == GDN_STATUS_OK) {
            status = make_block(dist->nccl, bytes, &b);
            gdni_device_leave(before);
        }
        pthread_mutex_unlock(&dist->nccl->lock);
    }
    *memory = b ? b->memory : NULL;
    return gdni_dist_end(dist, status);
}

void gdni_nccl_release(struct gdni_nccl *n) {
    int before = 0;
    if (!n || !n->blocks || gdni_device_enter(n->context, &before) != GDN_STATUS_OK)
        return;
    pthread_mutex_lock(&n->lock);
    while (n->blocks)
        release_block(n, &n->blocks);
    pthread_mutex_unlock(&n->lock);
    gdni_device_leave(before);
}

void gdn_dist_release(gdn_dist *dist, void *memory) {
    int before = 0;
    if (!dist || !dist->nccl || !memory)
        return;
    struct gdni_nccl *n = dist->nccl;
    if (take(n) != GDN_STATUS_OK)
        return;
    block **place = &n->blocks;
    while (*place && (*place)->memory != memory)
        place = &(*place)->next;
    if (*place && gdni_device_enter(n->context, &before) == GDN_STATUS_OK) {
        release_block(n, place);
        gdni_device_leave(before);
    }
    pthread_mutex_unlock(&n->lock);
}

/* ---- The watch's questions ---------------------------------------------------------------------
 */

/* Marks come in pairs: an odd number of them is an operation under way. */
static int is_waiting(void *user, gdni_wait *wait) {
    static const char *const names[OPERATIONS] = {"", "a send", "a receive", "an exchange",
                                                  "a sum"};
    struct gdni_nccl *n = user;
    const volatile uint32_t *marks = n->marks;
    const uint32_t count = marks[0], what = marks[1];
    const operation op = (operation)(what % OPERATIONS);
    if (count != n->seen) {
        n->seen = count;
        n->since = gdni_now();
    }
    if (count % 2 == 0 || op == NOTHING)
        return 0;
    wait->since = n->since;
    const int with_all = op == SUM || op == EXCHANGE;
    wait->peer = with_all ? GDNI_ALL : (int32_t)(what / OPERATIONS);
    if (with_all)
        snprintf(wait->what, sizeof(wait->what), "%s over NCCL", names[op]);
    else
        snprintf(wait->what, sizeof(wait->what), "%s over NCCL, %s rank %d", names[op],
                 op == SEND ? "to" : "from", wait->peer);
    return 1;
}

/* While the lock is taken who has it looks for himself. */
static int has_failed(void *user, char *line, size_t size) {
    struct gdni_nccl *n = user;
    int failed = 0;
    if (pthread_mutex_trylock(&n->lock) != 0)
        return 0;
    for (int i = 0; i < GDNI_GROUPS && !n->aborted && !failed; ++i) {
        ncclResult_t result = ncclSuccess;
        const ncclComm_t communicator = n->groups[i].communicator;
        if (ncclCommGetAsyncError(communicator, &result) == ncclSuccess &&
            (result == ncclSuccess || result == ncclInProgress))
            continue;
        snprintf(line, size, "NCCL: %s: %s", ncclGetErrorString(result),
                 ncclGetLastError(communicator));
        failed = 1;
    }
    pthread_mutex_unlock(&n->lock);
    return failed;
}

gdn_status gdni_nccl_check(struct gdni_nccl *n) {
    char line[GDNI_TEXT / 2];
    return n && has_failed(n, line, sizeof(line))
               ? gdni_fail(GDN_STATUS_COMM_ERROR, "gdn_dist_check: %s", line)
               : GDN_STATUS_OK;
}

/* All at once: operations of the three follow one another on a stream, and NCCL may wait for it
 * before it frees what is theirs. */
static void abort_communicators(void *user) {
    struct gdni_nccl *n = user;
    int before = 0;
    pthread_mutex_lock(&n->lock);
    if (!n->aborted && gdni_device_enter(n->context, &before) == GDN_STATUS_OK) {
        ncclGroupStart();
        for (int i = GDNI_GROUPS; i-- > 0;)
            if (n->groups[i].communicator)
                ncclCommAbort(n->groups[i].communicator);
        ncclGroupEnd();
        gdni_device_leave(before);
    }
    n->aborted = 1;
    pthread_mutex_unlock(&n->lock);
}

/* ---- Creation ----------------------------------------------------------------------------------
 */

int32_t gdn_dist_nccl_version(void) {
    int version = 0;
    return ncclGetVersion(&version) == ncclSuccess ? version : 0;
}

int32_t gdni_nccl_device(const struct gdni_nccl *n) {
    return n ? n->context->device : -1;
}

/* What this rank alone can tell. */
static gdn_status check_call(const gdn_dist *dist, const gdn_context *context,
                             const ncclComm_t *given) {
    static const char *const function = "gdn_dist_use_nccl";
    const gdn_transport *world = dist->transports[GDN_DIST_WORLD];
    int count = 0, rank = 0;
    GDNI_REQUIRE(context != NULL, "%s: context is NULL", function);
    GDNI_REQUIRE(gdn_context_backend(context) == GDN_BACKEND_CUDA,
                 "%s: backend is %s, expected cuda", function,
                 gdn_backend_name(gdn_context_backend(context)));
    GDNI_REQUIRE(!dist->nccl, "%s: the group uses NCCL already", function);
    if (!given)
        return GDN_STATUS_OK;
    NCCL_TRY(ncclCommCount(*given, &count), function, *given);
    NCCL_TRY(ncclCommUserRank(*given, &rank), function, *given);
    GDNI_REQUIRE(count == world->ranks && rank == world->rank,
                 "%s: this is rank %d of %d in communicator, expected rank %d of %d", function,
                 rank, count, world->rank, world->ranks);
    return GDN_STATUS_OK;
}

/* What each rank tells the others. */
typedef struct introduction {
    unsigned char uuid[UUID]; /* of its device */
    ncclUniqueId id;          /* rank 0's counts */
} introduction;

/* NCCL wants a device for each rank. The same answer on all of them. */
static gdn_status compare_devices(const introduction *all, int32_t ranks) {
    for (int32_t r = 1; r < ranks; ++r)
        for (int32_t s = 0; s < r; ++s)
            if (!memcmp(all[r].uuid, all[s].uuid, UUID))
                return gdni_fail(GDN_STATUS_UNSUPPORTED,
                                 "gdn_dist_use_nccl: ranks %d and %d use the same device, expected "
                                 "one of its own for each rank",
                                 s, r);
    return GDN_STATUS_OK;
}

static gdn_status introduce(gdn_dist *dist, const introduction *mine, ncclUniqueId *id,
                            int32_t *shared) {
    gdn_transport *world = dist->transports[GDN_DIST_WORLD];
    introduction *all = calloc((size_t)world->ranks, sizeof(*all));
    if (!all)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "gdn_dist_use_nccl: no memory");
    gdn_status status =
        world->all_gather(world, mine, all, sizeof(*mine), "gdn_dist_use_nccl: comparing devices");
    if (status == GDN_STATUS_OK) {
        status = compare_devices(all, world->ranks);
        *shared = status != GDN_STATUS_OK;
    }
    *id = all[0].id;
    free(all);
    return status;
}

/* NCCL may write the new communicator as long as the old one is busy with it, which only that one
 * says. */
static gdn_status split(struct gdni_nccl *n, ncclComm_t from, int color, int key, ncclComm_t *made,
                        ncclConfig_t *config) {
    n->splitting = from;
    const ncclResult_t begun = ncclCommSplit(from, color, key, made, config);
    GDN_TRY(settle(n, begun == ncclSuccess ? ncclInProgress : begun, "gdn_dist_use_nccl", from));
    n->splitting = NULL;
    return GDN_STATUS_OK;
}

/* The communicator of all ranks, then those split off it. */
static gdn_status make_communicators(struct gdni_nccl *n, const ncclComm_t *given,
                                     const ncclUniqueId *id) {
    static const char *const function = "gdn_dist_use_nccl";
    const gdn_transport *world = n->dist->transports[GDN_DIST_WORLD];
    const int32_t width = n->dist->transports[GDN_DIST_SEQUENCE]->ranks;
    const int32_t place = world->rank % width, group = world->rank / width;
    device_group *g = n->groups;
    ncclComm_t *all = &g[GDN_DIST_WORLD].communicator;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = n->dist->on_failure == GDN_DIST_END_JOB;
    if (given)
        GDN_TRY(split(n, *given, 0, world->rank, all, &config));
    else {
        const ncclResult_t begun =
            ncclCommInitRankConfig(all, world->ranks, *id, world->rank, &config);
        GDN_TRY(settle(n, begun, function, *all));
    }
    GDN_TRY(split(n, *all, group, place, &g[GDN_DIST_SEQUENCE].communicator, &config));
    GDN_TRY(split(n, *all, place, group, &g[GDN_DIST_DATA].communicator, &config));
    g[GDN_DIST_SEQUENCE].first = world->rank - place;
    g[GDN_DIST_DATA].first = place;
    g[GDN_DIST_WORLD].step = g[GDN_DIST_SEQUENCE].step = 1;
    g[GDN_DIST_DATA].step = width;
    return GDN_STATUS_OK;
}

static gdn_status set_up(struct gdni_nccl *n, const ncclComm_t *given, const ncclUniqueId *id) {
    gdn_dist *dist = n->dist;
    int before = 0;
    GDN_TRY(gdni_device_side_stream(n->context, &n->stream));
    GDN_TRY(gdni_device_event_create(n->context, &n->event));
    GDN_TRY(gdni_pinned_allocate(n->context, MARKS * sizeof(*n->marks), (void **)&n->marks));
    n->marks[0] = n->marks[1] = 0;
    GDN_TRY(gdni_device_enter(n->context, &before));
    gdni_watch_waiting(dist->watch, "gdn_dist_use_nccl: making communicators", GDNI_ALL);
    const gdn_status status = make_communicators(n, given, id);
    gdni_watch_waiting(dist->watch, "", GDNI_ALL);
    gdni_device_leave(before);
    GDN_TRY(status);
    const gdni_device_watch questions = {n, is_waiting, has_failed, abort_communicators};
    gdni_watch_device(dist->watch, &questions);
    for (int i = 0; i < GDNI_GROUPS; ++i) {
        gdn_transport *t = dist->transports[i];
        n->groups[i].nccl = n;
        t->device_send = device_send;
        t->device_receive = device_receive;
        t->device_all_reduce = device_all_reduce;
        t->device_finish = device_finish;
        t->device_exchange = device_exchange;
        t->device = &n->groups[i];
    }
    return GDN_STATUS_OK;
}

static gdn_status create(gdn_dist *dist, const gdn_context *context, const ncclComm_t *given,
                         const ncclUniqueId *id) {
    struct gdni_nccl *n = calloc(1, sizeof(*n));
    if (!n)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "gdn_dist_use_nccl: no memory");
    n->dist = dist;
    n->context = context;
    pthread_mutex_init(&n->lock, NULL);
    dist->nccl = n; /* destroyed with the group, whatever comes */
    return set_up(n, given, id);
}

gdn_status gdn_dist_use_nccl(gdn_dist *dist, const gdn_context *context, const void *communicator) {
    static const char *const function = "gdn_dist_use_nccl";
    introduction mine = {{0}, {{0}}};
    ncclUniqueId id;
    char text[128];
    int32_t shared = 0;
    GDNI_REQUIRE(dist != NULL, "%s: dist is NULL", function);
    gdni_clear_error();
    gdn_status status = check_call(dist, context, communicator);
    if (status == GDN_STATUS_OK)
        status = gdni_device_uuid(context, mine.uuid);
    if (status == GDN_STATUS_OK && gdn_dist_rank(dist, GDN_DIST_WORLD) == 0) {
        const ncclResult_t result = ncclGetUniqueId(&mine.id);
        if (result != ncclSuccess)
            status = nccl_fail(result, function, NULL);
    }
    snprintf(text, sizeof(text), "NCCL version %d; communicator %s", gdn_dist_nccl_version(),
             communicator ? "given" : "absent");
    GDN_TRY(gdn_dist_agree(dist, GDN_DIST_WORLD, status, function, text));
    GDN_TRY(gdni_dist_begin(dist, function));
    status = introduce(dist, &mine, &id, &shared);
    if (shared)
        return gdni_dist_shared(dist, status);
    if (status == GDN_STATUS_OK)
        status = create(dist, context, communicator, &id);
    return gdni_dist_end(dist, status);
}

void gdni_nccl_destroy(struct gdni_nccl *n, int32_t failed) {
    if (!n)
        return;
    if (failed)
        abort_communicators(n);
    gdni_nccl_release(n);
    for (int i = GDNI_GROUPS; !n->aborted && i-- > 0;)
        if (n->groups[i].communicator)
            ncclCommDestroy(n->groups[i].communicator);
    if (n->marks)
        gdni_pinned_release(n->context, n->marks);
    if (n->event)
        gdni_device_event_destroy(n->context, n->event);
    if (n->stream)
        gdni_stream_destroy(n->context, n->stream);
    pthread_mutex_destroy(&n->lock);
    /* A caller's communicator that is still being split will write to it. */
    if (!n->splitting || n->splitting == n->groups[GDN_DIST_WORLD].communicator)
        free(n);
}
