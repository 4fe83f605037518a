/*
 * device KERNELS FIRST COUNT [nccl|direct]: random batches over random shards on the cuda backend,
 * against the recurrence on one rank; on one rank, bit for bit, against the plain calls. KERNELS:
 * portable; or hopper, bf16 with K = V = 128. Ranks share the devices, and messages are staged
 * through the host; nccl: a device a rank, and the same bits as staged, also as graphs; direct: MPI
 * gets pointers to the device's memory, and the same bits. That is managed memory, which any MPI
 * can read.
 */
#include "managed.h"
#include "problem.h"

static const int32_t portable_dims[] = {16, 32, 48, 64}, hopper_dims[] = {128};

static void compare_bits(const part *a, const part *b, const char *name, const char *other) {
    for (int i = O; i < TENSORS; ++i)
        CHECK(!memcmp(a->data[i], b->data[i], part_bytes(a, i)), "%s: %s differs from that %s",
              name, tensor_names[i], other);
}

static void must_cuda(gdn_dist *dist, cudaError_t error) {
    if (error != cudaSuccess)
        gdn_dist_abort(dist, 99, cudaGetErrorString(error));
}

static void begin_graph(gdn_dist *dist, gdn_stream stream) {
    must_cuda(dist, cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
}

static void run_graph(gdn_dist *dist, gdn_stream stream) {
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    must_cuda(dist, cudaStreamEndCapture(stream, &graph));
    must_cuda(dist, cudaGraphInstantiate(&executable, graph, 0));
    for (int i = 0; i < 2; ++i)
        must_cuda(dist, cudaGraphLaunch(executable, stream));
    must_cuda(dist, cudaStreamSynchronize(stream));
    must_cuda(dist, cudaGraphExecDestroy(executable));
    must_cuda(dist, cudaGraphDestroy(graph));
}

/* other: a group over NCCL, or direct; or NULL. */
static void check(const machine *m, const batch *b, gdn_dist *dist, gdn_dist *other,
                  const gdn_shard *shard, const gdn_problem *problem, int index) {
    const int32_t ranks = gdn_dist_ranks(dist, GDN_DIST_SEQUENCE);
    char name[80];
    snprintf(name, sizeof(name), "batch %d, %d ranks, %s, K %d, V %d", index, ranks,
             gdn_dtype_name(problem->dtype), problem->K, problem->V);
    part x = part_run_on(m, b, dist, shard, problem);
    part_check(&x, dist, tolerances_of(problem->dtype), name);
    if (ranks == 1) {
        machine plain = *m;
        plain.plain = 1;
        part y = part_run_on(&plain, b, dist, shard, problem);
        compare_bits(&x, &y, name, "of the plain calls");
        part_free(&y);
    }
    if (other) {
        const int direct = !gdn_dist_transport(other, GDN_DIST_SEQUENCE)->device_send;
        machine_memory = direct ? machine_managed : NULL;
        part y = part_run_on(m, b, other, shard, problem);
        machine_memory = NULL;
        compare_bits(&x, &y, name, "of staged messages");
        part_free(&y);
        if (direct) {
            part_free(&x);
            return;
        }
        machine graphs = *m;
        graphs.begin = begin_graph;
        graphs.end = run_graph;
        y = part_run_on(&graphs, b, other, shard, problem);
        compare_bits(&x, &y, name, "of staged messages, by graphs");
        part_free(&y);
    }
    part_free(&x);
}

static void run(const machine *m, gdn_dist *dist, gdn_dist *other, int index) {
    const int hopper = m->kernels == GDN_KERNELS_AUTO;
    harness_random r = {(uint64_t)index};
    batch b = hopper ? batch_draw_of(&r, hopper_dims, 1, 400)
                     : batch_draw_of(&r, portable_dims, 4, index % 4 ? 300 : 1000);
    gdn_shard shard = GDN_SHARD_INIT;
    shard.T = b.problem.T;
    shard.N = b.problem.N;
    shard.cu_seqlens = b.cu_seqlens;
    draw_shard(&shard, &r, gdn_dist_rank(dist, GDN_DIST_SEQUENCE),
               gdn_dist_ranks(dist, GDN_DIST_SEQUENCE));
    const uint32_t exact = index % 3 == 0 ? GDN_FLAG_EXACT : 0;
    const uint32_t saving = index % 2 ? GDN_FLAG_SAVE_STATES : GDN_FLAG_CHECKED;
    const gdn_problem fp32 = problem_as(&b, GDN_DTYPE_FP32, exact | saving, 0.0);
    const gdn_problem bf16 = problem_as(&b, GDN_DTYPE_BF16, exact | saving, 0.0);
    batch_solve(&b);
    if (!hopper)
        check(m, &b, dist, other, &shard, &fp32, index);
    check(m, &b, dist, other, &shard, &bf16, index);
    batch_free(&b);
}

/* A second group of the same ranks, over NCCL or direct. */
static gdn_dist *open_other(gdn_dist *dist, const machine *m, int direct, gdn_context **context) {
    gdn_dist_config config = GDN_DIST_CONFIG_INIT;
    gdn_dist *other = NULL;
    config.deadline = 20.0;
    config.device_messages = direct ? GDN_DIST_DIRECT : GDN_DIST_STAGED;
    must(dist, gdn_dist_create(&other, &config));
    must(dist, machine_open(m, gdn_dist_rank(dist, GDN_DIST_WORLD), context));
    if (!direct)
        must(dist, gdn_dist_use_nccl(other, *context, NULL));
    return other;
}

int main(int argc, char **argv) {
    const int direct = argc > 4 && !strcmp(argv[4], "direct");
    if (direct)
        managed_begin();
    gdn_dist *dist = test_begin(20.0, 0), *other = NULL;
    gdn_context *context = NULL;
    const int hopper = argc > 1 && !strcmp(argv[1], "hopper");
    const int first = argc > 2 ? atoi(argv[2]) : 1, count = argc > 3 ? atoi(argv[3]) : 1;
    const machine m = {.backend = GDN_BACKEND_CUDA,
                       .kernels = hopper ? GDN_KERNELS_AUTO : GDN_KERNELS_PORTABLE};
    if (gdn_device_count() == 0)
        return test_skip(dist, "no CUDA device here");
    if (argc > 4 && !direct && gdn_device_count() < gdn_dist_ranks(dist, GDN_DIST_WORLD))
        return test_skip(dist, "NCCL wants a CUDA device for each rank");
    if (argc > 4)
        other = open_other(dist, &m, direct, &context);
    for (int i = first; i < first + count; ++i)
        run(&m, dist, other, i);
    gdn_dist_destroy(other);
    gdn_context_destroy(context);
    return test_finish(dist);
}
