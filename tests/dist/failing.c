/*
 * failing MODE VICTIM TOKEN: ranks work together until the victim fails in the way that MODE names.
 * TOKEN is not read: it marks the processes for whoever looks for those left behind.
 */
#include "problem.h"

#include <signal.h>
#include <unistd.h>

enum {
    STEPS = 5, /* before something happens */
    DEADLINE = 3
};

/* One forward and backward over all ranks. */
typedef struct work {
    gdn_dist *dist;
    gdn_context *context;
    gdn_dist_plan *plan;
    gdn_tensors tensors;
    gdn_sizes sizes;
    batch b;
    void *data[TENSORS];
} work;

static void open_work(work *w, int32_t K) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_shard shard = GDN_SHARD_INIT;
    gdn_problem problem = GDN_PROBLEM_INIT;
    harness_random r = {1};
    const int32_t rank = gdn_dist_rank(w->dist, GDN_DIST_WORLD);
    shard.T = 64 * gdn_dist_ranks(w->dist, GDN_DIST_WORLD);
    gdn_shard_even(&shard, rank, gdn_dist_ranks(w->dist, GDN_DIST_WORLD));
    problem.K = K;
    problem.V = 16;
    config.backend = GDN_BACKEND_REFERENCE;
    problem.dtype = GDN_DTYPE_FP64;
    must(w->dist, gdn_context_create(&w->context, &config));
    must(w->dist, gdn_dist_plan_create(&w->plan, w->dist, w->context, &problem, &shard));
    must(w->dist, gdn_dist_plan_sizes(w->plan, &w->sizes));
    w->b.problem = problem;
    w->b.problem.T = 64;
    batch_allocate(&w->b, 0);
    batch_fill(&w->b, &r, 0.01, 1.0);
    for (int i = 0; i < TENSORS; ++i)
        w->data[i] = w->b.data[i];
    w->tensors = tensors_of(w->data);
    w->tensors.saved = need(w->sizes.saved);
    w->tensors.workspace_size = w->sizes.forward_workspace + w->sizes.backward_workspace;
    w->tensors.workspace = need(w->tensors.workspace_size);
}

static gdn_status step(work *w) {
    const gdn_status status = gdn_dist_forward(w->plan, &w->tensors, NULL);
    return status == GDN_STATUS_OK ? gdn_dist_backward(w->plan, &w->tensors, NULL) : status;
}

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
    if (argc != 4)
        return 99;
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    const gdn_dist_config config = {sizeof(config), NULL, 0, DEADLINE, 2 * DEADLINE};
    int32_t started = 0;
    work w = {.sizes = GDN_SIZES_INIT};
    if (!strcmp(argv[1], "start") && rank && !strcmp(rank, argv[2]))
        raise(SIGSTOP);
    if (gdn_dist_start(DEADLINE, &started) || !started || gdn_dist_create(&w.dist, &config))
        gdn_dist_abort(w.dist, 99, NULL);
    const int victim = gdn_dist_rank(w.dist, GDN_DIST_WORLD) == atoi(argv[2]);
    open_work(&w, victim && !strcmp(argv[1], "shapes") ? 32 : 16);
    for (int i = 0;; ++i) {
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
