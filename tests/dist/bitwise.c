/* Through dist on one rank the numbers are, bit for bit, those of the plain calls; and what CHECKED
 * leaves to a device. */
#include "internal.h"
#include "problem.h"

static gdn_context *open_context(gdn_dist *dist, gdn_backend backend) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context = NULL;
    config.backend = backend;
    config.threads = 1;
    must(dist, gdn_context_create(&context, &config));
    return context;
}

/* Inputs as in x, outputs of its own. */
static void check(gdn_dist *dist, const part *x, gdn_backend backend, int index) {
    gdn_context *context = open_context(dist, backend);
    gdn_problem p = x->local.problem;
    gdn_sizes sizes = GDN_SIZES_INIT;
    void *data[TENSORS];
    for (int i = 0; i < TENSORS; ++i)
        data[i] = i > DHT ? need(part_bytes(x, i)) : x->data[i];
    gdn_tensors t = tensors_of(data);
    t.cu_seqlens = x->b->cu_seqlens;
    must(dist, gdn_problem_sizes(context, &p, &sizes));
    t.saved = sizes.saved ? need(sizes.saved) : NULL;
    t.workspace_size = sizes.forward_workspace + sizes.backward_workspace;
    t.workspace = need(t.workspace_size);
    must(dist, gdn_forward(context, &p, &t, NULL));
    must(dist, gdn_backward(context, &p, &t, NULL));
    for (int i = O; i < TENSORS; ++i) {
        CHECK(!memcmp(data[i], x->data[i], part_bytes(x, i)), "batch %d: %s differs on %s", index,
              tensor_names[i], gdn_backend_name(backend));
        free(data[i]);
    }
    free(t.saved);
    free(t.workspace);
    gdn_context_destroy(context);
}

/* CHECKED reads no values where a device's pointers name them: the host's context calls itself one
 * of cuda once the plan is made, and NaN goes through. */
static void check_device_values(gdn_dist *dist) {
    gdn_context *context = open_context(dist, GDN_BACKEND_CPU);
    gdn_dist_plan *plan = NULL;
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_shard shard = GDN_SHARD_INIT;
    batch b = {.problem = GDN_PROBLEM_INIT};
    void *data[TENSORS];
    b.problem.T = shard.T = shard.count = 8;
    b.problem.N = shard.N = 1;
    b.problem.K = b.problem.V = 16;
    b.problem.dtype = GDN_DTYPE_FP32;
    b.problem.flags = GDN_FLAG_CHECKED;
    for (int i = 0; i < TENSORS; ++i) /* all inputs are NaN */
        data[i] =
            need(sizeof(float) * (size_t)(tensor_rows(&b.problem, i) * tensor_row(&b.problem, i)));
    gdn_tensors t = tensors_of(data);
    must(dist, gdn_dist_plan_create(&plan, dist, context, &b.problem, &shard));
    must(dist, gdn_dist_plan_sizes(plan, &sizes));
    t.saved = need(sizes.saved);
    t.workspace_size = sizes.forward_workspace + sizes.backward_workspace;
    t.workspace = need(t.workspace_size);
    context->backend = GDN_BACKEND_CUDA;
    CHECK(gdn_dist_forward(plan, &t, NULL) == GDN_STATUS_OK,
          "forward looked at a device's values: %s", gdn_last_error());
    CHECK(gdn_dist_backward(plan, &t, NULL) == GDN_STATUS_OK,
          "backward looked at a device's values: %s", gdn_last_error());
    context->backend = GDN_BACKEND_CPU;
    for (int i = 0; i < TENSORS; ++i)
        free(data[i]);
    free(t.saved);
    free(t.workspace);
    gdn_dist_plan_destroy(plan);
    gdn_context_destroy(context);
}

int main(void) {
    static const gdn_dtype dtypes[] = {GDN_DTYPE_FP64, GDN_DTYPE_FP32};
    static const gdn_backend backends[] = {GDN_BACKEND_REFERENCE, GDN_BACKEND_CPU};
    gdn_dist *dist = test_begin(20.0, 0);
    for (int i = 1; i <= 30; ++i) {
        harness_random r = {(uint64_t)i};
        batch b = batch_draw(&r);
        gdn_shard shard = GDN_SHARD_INIT;
        shard.T = shard.count = b.problem.T;
        shard.N = b.problem.N;
        shard.cu_seqlens = b.cu_seqlens;
        for (int j = 0; j < 2; ++j) {
            part x = part_run(&b, dist, &shard, dtypes[j], i % 2 ? GDN_FLAG_SAVE_STATES : 0, 0.0);
            check(dist, &x, backends[j], i);
            CHECK(x.traffic.forward_bytes == 0 && x.traffic.backward_bytes == 0,
                  "batch %d: one rank sent something", i);
            part_free(&x);
        }
        batch_free(&b);
    }
    check_device_values(dist);
    return test_finish(dist);
}
