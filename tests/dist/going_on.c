/*
 * going_on [nccl] [killed VICTIM]: groups whose failures come back (GDN_DIST_RETURN). Again and
 * again ranks work together until one of them fails; each of the others is told so in time, by the
 * same line, frees all it has, and the ranks go on with a new group. nccl: each rank on a CUDA
 * device of its own, and messages over NCCL, which are aborted. killed: once, by a process that
 * dies, under an mpirun that does not mind; the others end without MPI_Finalize, which wants all.
 */
#include "work.h"

#include <signal.h>
#include <unistd.h>

#include <time.h>

enum {
    STEPS = 3, /* before something happens */
    DEADLINE = 2,
    FREE_SECONDS = 3 /* to free everything: without waiting for anybody */
};

typedef enum mode {
    STOP, /* as if the machine were gone; it comes back at the end */
    FAIL,
    ARGUMENT,
    NOT_A_NUMBER, /* in a state on its way to the right, where NCCL does not look for it */
    BUSY,
    LEAVE, /* destroys a good group while others work */
    MODES,
    KILLED = MODES
} mode;

static const char *const names[] = {"stop", "fail", "argument", "nan", "busy", "leave", "killed"};
/* What the others are told, with the victim's rank. */
static const char *const lines[] = {"rank %d stopped answering for",
                                    "rank %d: the disk is full",
                                    "rank %d: gdn_dist_forward: saved is NULL",
                                    "rank %d: gdn_dist_forward: the exit state of head 0",
                                    "rank %d keeps rank",
                                    "in vain, as all ranks wait",
                                    "rank %d stopped answering for"};
/* How long that takes at most, with half a second for a busy machine. */
static const double limits[] = {DEADLINE + 1.0,     1.0,           1.0, 1.0, 2 * DEADLINE + 1.5,
                                2 * DEADLINE + 1.5, DEADLINE + 1.0};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void pause_for(double seconds) {
    const struct timespec t = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};
    nanosleep(&t, NULL);
}

static gdn_dist *open_group(void) {
    gdn_dist_config config = GDN_DIST_CONFIG_INIT;
    gdn_dist *dist = NULL;
    config.deadline = DEADLINE;
    config.wait_limit = 2 * DEADLINE;
    config.on_failure = GDN_DIST_RETURN;
    if (gdn_dist_create(&dist, &config)) {
        fprintf(stderr, "no group: %s\n", gdn_last_error());
        exit(99);
    }
    return dist;
}

/* The victim's part; it comes back once the group has failed here too. */
static void fail(work *w, mode m) {
    if (m == STOP)
        raise(SIGSTOP);
    else if (m == KILLED)
        raise(SIGKILL);
    else if (m == FAIL)
        gdn_dist_fail(w->dist, "the disk is full");
    else if (m == ARGUMENT)
        w->tensors.saved = NULL;
    else if (m == NOT_A_NUMBER)
        w->b.data[V_][17] = NAN;
    for (const double start = now(); m == BUSY && now() - start < limits[m];) {
        if (gdn_dist_check(w->dist) != GDN_STATUS_OK)
            break;
        pause_for(0.01);
    }
}

/* A program that has streams of its own to wait for asks the group in between. */
static gdn_status work_on(work *w, mode m) {
    gdn_status status = GDN_STATUS_OK;
    for (const double start = now(); status == GDN_STATUS_OK && now() - start < limits[m];)
        if ((status = step(w)) == GDN_STATUS_OK)
            status = gdn_dist_check(w->dist);
    return status;
}

static void check_told(const work *w, mode m, int victim, int is_victim, double seconds,
                       gdn_status status) {
    char expected[128], said[1024];
    const gdn_status own = m == ARGUMENT       ? GDN_STATUS_INVALID_ARGUMENT
                           : m == NOT_A_NUMBER ? GDN_STATUS_BAD_DATA
                                               : GDN_STATUS_COMM_ERROR;
    snprintf(said, sizeof(said), "%s", gdn_last_error());
    snprintf(expected, sizeof(expected), lines[m], victim);
    CHECK(status == (is_victim ? own : GDN_STATUS_COMM_ERROR), "%s of %d: %s: %s", names[m], victim,
          gdn_status_string(status), said);
    CHECK(is_victim || strstr(said, expected), "%s of %d: expected '%s' in '%s'", names[m], victim,
          expected, said);
    CHECK(is_victim || seconds < limits[m], "%s of %d: told after %.1f s, expected at most %.1f",
          names[m], victim, seconds, limits[m]);
    CHECK(gdn_dist_check(w->dist) == GDN_STATUS_COMM_ERROR, "%s of %d: the group is good again",
          names[m], victim);
    CHECK(gdn_dist_forward(w->plan, &w->tensors, w->stream) == GDN_STATUS_COMM_ERROR &&
              strstr(gdn_last_error(), "has failed before"),
          "%s of %d: a later call: %s", names[m], victim, gdn_last_error());
}

static void try(mode m, int victim, int nccl) {
    work w = {.sizes = GDN_SIZES_INIT, .dist = open_group()};
    gdn_transport *world = gdn_dist_transport(w.dist, GDN_DIST_WORLD);
    const int32_t rank = world->rank, other = victim == 0 ? 1 : 0;
    const pid_t mine = getpid();
    pid_t pids[64];
    double start = now();
    must(w.dist, world->all_gather(world, &mine, pids, sizeof(mine), "test: processes"));
    open_work(&w, 16, nccl);
    for (int i = 0; i < STEPS; ++i)
        must(w.dist, step(&w));
    const double opened = now() - start;
    start = now();
    if (rank == victim)
        fail(&w, m);
    if (rank != victim || m != LEAVE) {
        const gdn_status status = work_on(&w, m);
        check_told(&w, m, victim, rank == victim, now() - start, status);
    }
    const double told = now() - start;
    start = now();
    /* Comes to its end since what it waited for was aborted. */
    if (w.stream)
        CHECK(gdni_stream_wait(w.context, w.stream, "test: the stream") == GDN_STATUS_OK,
              "%s of %d: %s", names[m], victim, gdn_last_error());
    close_work(&w);
    gdn_dist_destroy(w.dist);
    gdn_context_destroy(w.context);
    const double freed = now() - start;
    CHECK((rank == victim && m == LEAVE) || freed < FREE_SECONDS, "%s of %d: freed in %.1f s",
          names[m], victim, freed);
    if (rank == other)
        printf("%-8s of rank %d: set up in %.2f s, told after %.2f s, freed in %.2f s\n", names[m],
               victim, opened, told, freed);
    fflush(stdout);
    if (m == STOP && rank == other)
        kill(pids[victim], SIGCONT);
}

static int has_victim(mode m, int victim, int nccl) {
    if (m == NOT_A_NUMBER)
        return !nccl && victim == 0;
    return m < BUSY || victim > 0; /* those take long */
}

int main(int argc, char **argv) {
    const int nccl = argc > 1 && !strcmp(argv[1], "nccl");
    const int killed = argc > 2 && !strcmp(argv[argc - 2], "killed");
    int32_t started = 0;
    if (gdn_dist_start(30.0, &started) || !started)
        return 99;
    gdn_dist *dist = open_group();
    const int32_t ranks = gdn_dist_ranks(dist, GDN_DIST_WORLD);
    if (nccl && gdn_device_count() < ranks)
        return test_skip(dist, "NCCL wants a CUDA device for each rank");
    gdn_dist_destroy(dist);
    if (killed) {
        try(KILLED, atoi(argv[argc - 1]), nccl);
        const int code = harness_finish();
        fflush(stdout);
        _exit(code);
    }
    for (int m = 0; m < MODES; ++m)
        for (int victim = 0; victim < ranks; victim += ranks - 1)
            if (has_victim((mode)m, victim, nccl))
                try((mode)m, victim, nccl);
    return test_finish(open_group());
}
