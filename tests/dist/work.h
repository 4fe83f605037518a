/* One forward and backward over all ranks, again and again. */
#ifndef GDN_TEST_WORK_H
#define GDN_TEST_WORK_H

#include "problem.h"

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

/* nccl: on a device of its own, with messages over NCCL. */
static inline void open_work(work *w, int32_t K, int nccl) {
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

static inline gdn_status step(work *w) {
    gdn_status status = gdn_dist_forward(w->plan, &w->tensors, w->stream);
    if (status == GDN_STATUS_OK)
        status = gdn_dist_backward(w->plan, &w->tensors, w->stream);
    return status == GDN_STATUS_OK && w->stream
               ? gdni_stream_wait(w->context, w->stream, "test: a step")
               : status;
}

/* All but the group. */
static inline void close_work(work *w) {
    for (int i = 0; i < TENSORS; ++i)
        if (w->data[i] != w->b.data[i])
            release(w->context, w->data[i]);
    release(w->context, w->tensors.saved);
    release(w->context, w->tensors.workspace);
    batch_free(&w->b);
    gdn_dist_plan_destroy(w->plan);
    if (w->stream)
        gdni_stream_destroy(w->context, w->stream);
}

#endif /* GDN_TEST_WORK_H */
