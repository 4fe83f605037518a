/*
 * failing MODE VICTIM TOKEN [nccl]: ranks work together until the victim fails in the way that MODE
 * names; in the mode none they end by themselves. TOKEN is not read: it marks the processes for
 * whoever looks for those left behind. nccl: each rank on a CUDA device of its own, and messages
 * over NCCL.
 */
#include "work.h"

#include <signal.h>
#include <unistd.h>

enum {
    STEPS = 5, /* before something happens */
    DEADLINE = 3
};

static void fail(work *w, const char *mode, int victim) {
    if (!strcmp(mode, "everyone"))
        gdn_dist_abort(w->dist, 7, "all ranks met the same failure");
    if (!victim)
        return;
    if (!strcmp(mode, "kill"))
        raise(SIGKILL);
    else if (!strcmp(mode, "stop"))
        raise(SIGSTOP);
    else if (!strcmp(mode, "exit"))
        exit(3);
    else if (!strcmp(mode, "error"))
        gdn_dist_abort(w->dist, 6, "the disk is full");
    else if (!strcmp(mode, "nan"))
        w->b.data[V_][17] = NAN;
    else if (!strcmp(mode, "late_nan")) /* seen by the backward alone */
        w->b.data[Q][17] = NAN;
    else if (!strcmp(mode, "argument"))
        w->tensors.saved = NULL;
    else if (!strcmp(mode, "busy"))
        for (;;)
            sleep(1);
    else if (!strcmp(mode, "order"))
        must(w->dist, gdn_dist_agree(w->dist, GDN_DIST_WORLD, GDN_STATUS_OK, "another call", NULL));
}

int main(int argc, char **argv) {
    if (argc < 4)
        return 99;
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    gdn_dist_config config = GDN_DIST_CONFIG_INIT;
    int32_t started = 0;
    work w = {.sizes = GDN_SIZES_INIT};
    config.deadline = DEADLINE;
    config.wait_limit = 2 * DEADLINE;
    if (!strcmp(argv[1], "start") && rank && !strcmp(rank, argv[2]))
        raise(SIGSTOP);
    if (gdn_dist_start(DEADLINE, &started) || !started || gdn_dist_create(&w.dist, &config))
        gdn_dist_abort(w.dist, 99, NULL);
    if (argc > 4 && gdn_device_count() < gdn_dist_ranks(w.dist, GDN_DIST_WORLD))
        return test_skip(w.dist, "NCCL wants a CUDA device for each rank");
    const int victim = gdn_dist_rank(w.dist, GDN_DIST_WORLD) == atoi(argv[2]);
    open_work(&w, victim && !strcmp(argv[1], "shapes") ? 32 : 16, argc > 4);
    for (int i = 0; i <= STEPS || strcmp(argv[1], "none"); ++i) {
        if (i == STEPS)
            fail(&w, argv[1], victim);
        gdn_status status = step(&w);
        if (status != GDN_STATUS_OK && !strcmp(argv[1], "argument"))
            break; /* a program that forgets to end the job */
        if (status != GDN_STATUS_OK)
            gdn_dist_abort(w.dist, 5, NULL);
    }
    gdn_dist_destroy(w.dist);
    gdn_dist_finish(DEADLINE);
    return 0;
}
