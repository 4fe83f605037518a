/*
 * nccl [shared]: communicators brought up over the ranks, split off one of the caller's, refused,
 * aborted; sums and messages of device memory. A device for each rank; shared: two ranks on one,
 * which NCCL does not do.
 */
#include "problem.h"

#include <cuda_runtime_api.h>
#include <nccl.h>

enum {
    COUNT = 300007 /* elements of a message */
};

static const machine gpu = {.backend = GDN_BACKEND_CUDA, .kernels = GDN_KERNELS_AUTO};

static void must_cuda(gdn_dist *dist, cudaError_t error) {
    if (error != cudaSuccess)
        gdn_dist_abort(dist, 99, cudaGetErrorString(error));
}

static void must_nccl(gdn_dist *dist, ncclResult_t result) {
    if (result != ncclSuccess)
        gdn_dist_abort(dist, 99, ncclGetErrorString(result));
}

static gdn_dist *open_group(gdn_dist *first, int32_t sequence_ranks, gdn_dist_failure on_failure) {
    gdn_dist_config config = GDN_DIST_CONFIG_INIT;
    gdn_dist *dist = NULL;
    config.deadline = 20.0;
    config.sequence_ranks = sequence_ranks;
    config.on_failure = on_failure;
    must(first, gdn_dist_create(&dist, &config));
    return dist;
}

/* Whole numbers, whose sums have no rounding. */
static float number(int32_t rank, int64_t i) {
    return (float)((i % 1000) * (rank + 1) - 7 * rank);
}

static void check_sum(gdn_dist *dist, const gdn_context *context, gdn_stream stream,
                      gdn_dist_group group) {
    gdn_transport *t = gdn_dist_transport(dist, group);
    float *host = need(sizeof(float) * COUNT);
    void *data = NULL;
    int64_t wrong = 0;
    for (int64_t i = 0; i < COUNT; ++i)
        host[i] = number(t->rank, i);
    must(dist, put(context, host, sizeof(float) * COUNT, &data));
    must(dist, t->device_all_reduce(t, GDN_DTYPE_FP32, data, COUNT, stream));
    must(dist, t->device_finish(t, stream));
    must(dist, gdni_stream_wait(context, stream, "test: a sum"));
    must(dist, take_back(context, host, sizeof(float) * COUNT, data));
    for (int64_t i = 0; i < COUNT; ++i) {
        float sum = 0.0f;
        for (int32_t r = 0; r < t->ranks; ++r)
            sum += number(r, i);
        wrong += host[i] != sum;
    }
    CHECK(wrong == 0, "group %d: %lld of %d sums are wrong", (int)group, (long long)wrong, COUNT);
    CHECK(t->device_all_reduce(t, GDN_DTYPE_BF16, data, 1, stream) == GDN_STATUS_INVALID_ARGUMENT,
          "a sum in bf16 is not refused");
    free(host);
}

/* From each rank to the next. */
static void pass_on(gdn_dist *dist, const void *sent, void *received, gdn_stream stream) {
    gdn_transport *t = gdn_dist_transport(dist, GDN_DIST_WORLD);
    const size_t bytes = sizeof(float) * COUNT;
    if (t->rank > 0)
        must(dist, t->device_receive(t, t->rank - 1, received, bytes, stream));
    if (t->rank + 1 < t->ranks)
        must(dist, t->device_send(t, t->rank + 1, sent, bytes, stream));
    must(dist, t->device_finish(t, stream));
}

/* The same as a graph, launched again and again. */
static void pass_on_in_graph(gdn_dist *dist, const void *sent, void *received, gdn_stream stream) {
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    must_cuda(dist, cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    pass_on(dist, sent, received, stream);
    must_cuda(dist, cudaStreamEndCapture(stream, &graph));
    must_cuda(dist, cudaGraphInstantiate(&executable, graph, 0));
    for (int i = 0; i < 10; ++i)
        must_cuda(dist, cudaGraphLaunch(executable, stream));
    must_cuda(dist, cudaStreamSynchronize(stream));
    must_cuda(dist, cudaGraphExecDestroy(executable));
    must_cuda(dist, cudaGraphDestroy(graph));
}

/* What was sent is overwritten as soon as the stream may; graph: by graphs; registered: in memory
 * of NCCL's. */
static void check_messages(gdn_dist *dist, const gdn_context *context, gdn_stream stream, int graph,
                           int registered) {
    gdn_transport *t = gdn_dist_transport(dist, GDN_DIST_WORLD);
    const size_t bytes = sizeof(float) * COUNT;
    float *host = need(bytes), *came = need(bytes);
    void *sent = NULL, *received = NULL;
    int64_t wrong = 0;
    for (int64_t i = 0; i < COUNT; ++i)
        host[i] = number(t->rank, i);
    if (registered) {
        must(dist, gdn_dist_allocate(dist, bytes, &sent));
        must(dist, gdn_dist_allocate(dist, bytes, &received));
        must(dist, gdni_device_copy(context, sent, host, bytes));
    } else {
        must(dist, put(context, host, bytes, &sent));
        must(dist, reserve(context, bytes, &received));
    }
    for (int round = 0; !graph && round < 20; ++round)
        pass_on(dist, sent, received, stream);
    if (graph)
        pass_on_in_graph(dist, sent, received, stream);
    must(dist, gdni_stream_zero(context, sent, bytes, stream));
    must(dist, gdni_stream_wait(context, stream, "test: messages"));
    must(dist, gdni_device_copy(context, came, received, bytes));
    for (int64_t i = 0; t->rank > 0 && i < COUNT; ++i)
        wrong += came[i] != number(t->rank - 1, i);
    CHECK(wrong == 0, "%lld of %d numbers came wrong%s%s", (long long)wrong, COUNT,
          graph ? " by graphs" : "", registered ? " in registered memory" : "");
    if (registered) {
        gdn_dist_release(dist, sent); /* the other goes with the group */
    } else {
        gdni_device_release(context, sent);
        gdni_device_release(context, received);
    }
    free(host);
    free(came);
}

/* All to all at once, each rank in an order of its own. */
static void check_exchange(gdn_dist *dist, const gdn_context *context, gdn_stream stream) {
    gdn_transport *t = gdn_dist_transport(dist, GDN_DIST_WORLD);
    const size_t bytes = sizeof(float) * COUNT;
    float *host = need(bytes);
    gdn_device_message messages[128];
    void *sent = NULL, *received = NULL;
    int32_t count = 0;
    int64_t wrong = 0;
    for (int64_t i = 0; i < COUNT; ++i)
        host[i] = number(t->rank, i);
    must(dist, put(context, host, bytes, &sent));
    must(dist, reserve(context, bytes * (size_t)t->ranks, &received));
    for (int32_t i = 1; i < t->ranks; ++i) {
        const int32_t to = (t->rank + i) % t->ranks;
        const int32_t from = (t->rank + (t->rank % 2 ? i : t->ranks - i)) % t->ranks;
        messages[count++] = (gdn_device_message){to, 1, sent, bytes};
        messages[count++] =
            (gdn_device_message){from, 0, (char *)received + bytes * (size_t)from, bytes};
    }
    must(dist, t->device_exchange(t, messages, count, stream));
    must(dist, gdni_stream_wait(context, stream, "test: an exchange"));
    for (int32_t r = 0; r < t->ranks; ++r) {
        if (r == t->rank)
            continue;
        must(dist, gdni_device_copy(context, host, (char *)received + bytes * (size_t)r, bytes));
        for (int64_t i = 0; i < COUNT; ++i)
            wrong += host[i] != number(r, i);
    }
    CHECK(wrong == 0, "%lld numbers of an exchange came wrong", (long long)wrong);
    gdni_device_release(context, sent);
    gdni_device_release(context, received);
    free(host);
}

/* On all ranks alike, and the group stays good. */
static void check_sizes(gdn_dist *dist) {
    void *memory = NULL;
    const size_t mine = 1000 + (size_t)gdn_dist_rank(dist, GDN_DIST_WORLD);
    CHECK(gdn_dist_allocate(dist, 0, &memory) == GDN_STATUS_INVALID_ARGUMENT &&
              strstr(gdn_last_error(), "bytes is 0"),
          "no bytes: %s", gdn_last_error());
    if (gdn_dist_ranks(dist, GDN_DIST_WORLD) > 1)
        CHECK(gdn_dist_allocate(dist, mine, &memory) == GDN_STATUS_INVALID_ARGUMENT &&
                  strstr(gdn_last_error(), "\"bytes 1000\" on rank 0, \"bytes 1001\" on rank 1"),
              "other sizes: %s", gdn_last_error());
}

static void check_group(gdn_dist *dist, const gdn_context *context, const void *communicator) {
    gdn_stream stream = NULL;
    must(dist, gdn_dist_use_nccl(dist, context, communicator));
    CHECK(gdn_dist_use_nccl(dist, context, NULL) == GDN_STATUS_INVALID_ARGUMENT,
          "a second gdn_dist_use_nccl is not refused");
    must(dist, gdni_stream_create(context, &stream));
    for (int group = GDN_DIST_WORLD; group <= GDN_DIST_DATA; ++group)
        check_sum(dist, context, stream, (gdn_dist_group)group);
    for (int i = 0; i < 4; ++i)
        check_messages(dist, context, stream, i % 2, i / 2);
    check_sizes(dist);
    check_exchange(dist, context, stream);
    gdni_stream_destroy(context, stream);
}

/* A communicator of the caller's, over all ranks. */
static ncclComm_t open_communicator(gdn_dist *first, int blocking) {
    gdn_transport *world = gdn_dist_transport(first, GDN_DIST_WORLD);
    ncclUniqueId *ids = need(sizeof(*ids) * (size_t)world->ranks), mine;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t communicator;
    ncclResult_t state = ncclInProgress;
    config.blocking = blocking;
    must_nccl(first, ncclGetUniqueId(&mine));
    must(first, world->all_gather(world, &mine, ids, sizeof(mine), "test: ids"));
    must_cuda(first, cudaSetDevice(world->rank % gdn_device_count()));
    const ncclResult_t made =
        ncclCommInitRankConfig(&communicator, world->ranks, ids[0], world->rank, &config);
    must_nccl(first, made == ncclInProgress ? ncclSuccess : made);
    while (state == ncclInProgress)
        must_nccl(first, ncclCommGetAsyncError(communicator, &state));
    must_nccl(first, state);
    free(ids);
    return communicator;
}

/* It stays the caller's: it is as it was, and the caller ends it. */
static void close_communicator(gdn_dist *first, ncclComm_t communicator) {
    const int32_t ranks = gdn_dist_ranks(first, GDN_DIST_WORLD);
    const float one = 1.0f;
    float *sum, got;
    ncclResult_t state = ncclInProgress;
    must_cuda(first, cudaMalloc((void **)&sum, sizeof(*sum)));
    must_cuda(first, cudaMemcpy(sum, &one, sizeof(one), cudaMemcpyHostToDevice));
    const ncclResult_t begun = ncclAllReduce(sum, sum, 1, ncclFloat32, ncclSum, communicator, NULL);
    must_nccl(first, begun == ncclInProgress ? ncclSuccess : begun);
    while (state == ncclInProgress)
        must_nccl(first, ncclCommGetAsyncError(communicator, &state));
    must_cuda(first, cudaMemcpy(&got, sum, sizeof(got), cudaMemcpyDeviceToHost));
    CHECK(got == (float)ranks, "the caller's communicator counts %g ranks, expected %d", got,
          ranks);
    must_cuda(first, cudaFree(sum));
    must_nccl(first, ncclCommDestroy(communicator));
}

static void check_given(gdn_dist *first, const gdn_context *context, int blocking,
                        gdn_dist_failure on_failure) {
    ncclComm_t communicator = open_communicator(first, blocking);
    gdn_dist *dist = open_group(first, 0, on_failure);
    check_group(dist, context, &communicator);
    gdn_dist_destroy(dist);
    close_communicator(first, communicator);
}

/* Rank 0 fails while the others' devices wait for messages, several on the stream, also in graphs:
 * all of it comes to its end, the line is there, everything can be freed. */
static void check_abort(gdn_dist *first, const gdn_context *context, int graph) {
    static const char *const line = "rank 0: out of paper";
    const size_t bytes = sizeof(float) * COUNT;
    ncclComm_t communicator = open_communicator(first, 1);
    gdn_dist *dist = open_group(first, 0, GDN_DIST_RETURN);
    gdn_transport *t = gdn_dist_transport(dist, GDN_DIST_WORLD);
    const int waits = t->rank > 0;
    gdn_stream stream = NULL;
    cudaGraph_t captured = NULL;
    cudaGraphExec_t executable = NULL;
    void *data = NULL;
    must(first, gdn_dist_use_nccl(dist, context, &communicator));
    must(first, gdni_stream_create(context, &stream));
    must(first, reserve(context, bytes, &data));
    pass_on(dist, data, data, stream); /* connections are there */
    must(first, gdni_stream_wait(context, stream, "test: a message"));
    CHECK(gdn_dist_check(dist) == GDN_STATUS_OK, "%s", gdn_last_error());
    if (graph)
        must_cuda(first, cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; waits && i < 3; ++i)
        must(first, t->device_receive(t, t->rank - 1, data, bytes, stream));
    must(first, t->device_finish(t, stream));
    if (graph) {
        must_cuda(first, cudaStreamEndCapture(stream, &captured));
        must_cuda(first, cudaGraphInstantiate(&executable, captured, 0));
        for (int i = 0; waits && i < 2; ++i)
            must_cuda(first, cudaGraphLaunch(executable, stream));
    }
    must(first, gdn_dist_agree(first, GDN_DIST_WORLD, GDN_STATUS_OK, "test: all wait", NULL));
    if (!waits) {
        CHECK(gdn_dist_check(dist) == GDN_STATUS_OK, "%s", gdn_last_error());
        gdn_dist_fail(dist, "out of paper");
    }
    must_cuda(first, cudaStreamSynchronize(stream));
    const gdn_status status = gdn_dist_check(dist);
    CHECK(status == GDN_STATUS_COMM_ERROR && strstr(gdn_last_error(), waits ? line : line + 8),
          "expected '%s' in '%s'", waits ? line : line + 8, gdn_last_error());
    CHECK(t->device_send(t, 0, data, bytes, stream) == GDN_STATUS_COMM_ERROR,
          "a message of a group that has failed is not refused");
    if (graph) {
        must_cuda(first, cudaGraphExecDestroy(executable));
        must_cuda(first, cudaGraphDestroy(captured));
    }
    gdni_device_release(context, data);
    gdni_stream_destroy(context, stream);
    gdn_dist_destroy(dist);
    close_communicator(first, communicator);
}

/* All ranks on device 0: the same line on each of them, and the group stays good. */
static void check_shared(gdn_dist *dist) {
    gdn_context *context = NULL;
    must(dist, machine_open(&gpu, 0, &context));
    CHECK(gdn_dist_use_nccl(dist, context, NULL) == GDN_STATUS_UNSUPPORTED &&
              strstr(gdn_last_error(), "ranks 0 and 1 use the same device"),
          "two ranks on one device: %s", gdn_last_error());
    must(dist, gdn_dist_agree(dist, GDN_DIST_WORLD, GDN_STATUS_OK, "test", NULL));
    gdn_context_destroy(context);
}

int main(int argc, char **argv) {
    gdn_dist *dist = test_begin(20.0, 0);
    gdn_context *context = NULL;
    const int32_t rank = gdn_dist_rank(dist, GDN_DIST_WORLD);
    const int32_t ranks = gdn_dist_ranks(dist, GDN_DIST_WORLD);
    const int shared = argc > 1 && !strcmp(argv[1], "shared");
    if (gdn_device_count() < (shared ? 1 : ranks))
        return test_skip(dist,
                         shared ? "no CUDA device here" : "NCCL wants a CUDA device for each rank");
    if (shared) {
        check_shared(dist);
        return test_finish(dist);
    }
    must(dist, machine_open(&gpu, rank, &context));
    CHECK(gdn_dist_nccl_version() > 20000, "version %d", gdn_dist_nccl_version());
    for (int32_t width = 1; width <= ranks; width *= 2)
        for (int end = GDN_DIST_END_JOB; end <= GDN_DIST_RETURN; ++end) {
            gdn_dist *group = open_group(dist, width, (gdn_dist_failure)end);
            check_group(group, context, NULL);
            gdn_dist_destroy(group);
        }
    for (int blocking = 0; blocking < 2; ++blocking)
        for (int end = GDN_DIST_END_JOB; end <= GDN_DIST_RETURN; ++end)
            check_given(dist, context, blocking, (gdn_dist_failure)end);
    for (int graph = 0; graph < 2; ++graph)
        check_abort(dist, context, graph);
    gdn_context_destroy(context);
    return test_finish(dist);
}
