/*
 * failing MODE VICTIM TOKEN [nccl]: ranks work together until the victim fails in the way that MODE
 * names; in the mode none they end by themselves. TOKEN is not read: it marks the processes for
 * whoever looks for those left behind. nccl: each rank on a CUDA device of its own, and messages
 * over NCCL.
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
    gdn_stream stream;
} work;

static void open_work(work *w, int32_t K, int nccl) {
    const machine m = {.backend = nccl ? GDN_BACKEND_CUDA : GDN_BACKEND_REFERENCE,
                       .kernels = GDN_KERNELS_AUTO};
    gdn_shard shard = GDN_SHARD_INIT;
    gdn_problem problem = GDN_PROBLEM_INIT;
    harness_random r = {1};
    const int32_t rank = gdn_dist_rank(w->dist, GDN_DIST_WORLD);
    shard.T = 64 * gdn_dist_ranks(w->dist, GDN_DIST_WORLD);
    gdn_shard_even(&shard, rank, gdn_dist_ranks(w->dist, GDN_DIST_WORLD));
    problem.K = K;
    problem.V = 16;
    problem.dtype = nccl ? GDN_DTYPE_FP32 : GDN_DTYPE_FP64;
    must(w->dist, machine_open(&m, rank, &w->context));
    if (nccl) {
        must(w->dist, gdn_dist_use_nccl(w->dist, w->context, NULL));
        must(w->dist, gdni_stream_create(w->context, &w->stream));
    }
    must(w->dist, gdn_dist_plan_create(&w->plan, w->dist, w->context, &problem, &shard));
    must(w->dist, gdn_dist_plan_sizes(w->plan, &w->sizes));
    w->b.problem = problem;
    w->b.problem.T = 64;
    batch_allocate(&w->b, 0);
    batch_fill(&w->b, &r, 0.01, 1.0);
    for (int i = 0; i < TENSORS; ++i) {
        const size_t count = (size_t)(tensor_rows(&w->b.problem, i) * tensor_row(&w->b.problem, i));
        w->data[i] = w->b.data[i];
        if (nccl && w->b.data[i]) {
            float *values = need(sizeof(float) * count);
            must(w->dist,
                 gdn_convert(GDN_DTYPE_FP32, values, GDN_DTYPE_FP64, w->b.data[i], (int64_t)count));
            must(w->dist, put(w->context, values, sizeof(float) * count, &w->data[i]));
            free(values);
        }
    }
    w->tensors = tensors_of(w->data);
    must(w->dist, reserve(w->context, w->sizes.saved, &w->tensors.saved));
    w->tensors.workspace_size = w->sizes.forward_workspace + w->sizes.backward_workspace;
    must(w->dist, reserve(w->context, w->tensors.workspace_size, &w->tensors.workspace));
}

static gdn_status step(work *w) {
    gdn_status status = gdn_dist_forward(w->plan, &w->tensors, w->stream);
    if (status == GDN_STATUS_OK)
        status = gdn_dist_backward(w->plan, &w->tensors, w->stream);
    return status == GDN_STATUS_OK && w->stream
               ? gdni_stream_wait(w->context, w->stream, "test: a step")
               : status;
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
    if (argc < 4)
        return 99;
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    const gdn_dist_config config = {sizeof(config), NULL, 0, DEADLINE, 2 * DEADLINE};
    int32_t started = 0;
    work w = {.sizes = GDN_SIZES_INIT};
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
