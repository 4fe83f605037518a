/*
 * nccl [shared]: communicators brought up over the ranks, split off one of the caller's, refused;
 * sums and messages of device memory. A device for each rank; shared: two ranks on one, which NCCL
 * does not do.
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

static gdn_dist *open_group(gdn_dist *first, int32_t sequence_ranks) {
    gdn_dist_config config = GDN_DIST_CONFIG_INIT;
    gdn_dist *dist = NULL;
    config.deadline = 20.0;
    config.sequence_ranks = sequence_ranks;
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

/* What was sent is overwritten as soon as the stream may; graph: by graphs. */
static void check_messages(gdn_dist *dist, const gdn_context *context, gdn_stream stream,
                           int graph) {
    gdn_transport *t = gdn_dist_transport(dist, GDN_DIST_WORLD);
    const size_t bytes = sizeof(float) * COUNT;
    float *host = need(bytes), *came = need(bytes);
    void *sent = NULL, *received = NULL;
    int64_t wrong = 0;
    for (int64_t i = 0; i < COUNT; ++i)
        host[i] = number(t->rank, i);
    must(dist, put(context, host, bytes, &sent));
    must(dist, reserve(context, bytes, &received));
    for (int round = 0; !graph && round < 20; ++round)
        pass_on(dist, sent, received, stream);
    if (graph)
        pass_on_in_graph(dist, sent, received, stream);
    must(dist, gdni_stream_zero(context, sent, bytes, stream));
    must(dist, gdni_stream_wait(context, stream, "test: messages"));
    must(dist, take_back(context, came, bytes, received));
    for (int64_t i = 0; t->rank > 0 && i < COUNT; ++i)
        wrong += came[i] != number(t->rank - 1, i);
    CHECK(wrong == 0, "%lld of %d numbers came wrong%s", (long long)wrong, COUNT,
          graph ? " by graphs" : "");
    gdni_device_release(context, sent);
    free(host);
    free(came);
}

static void check_group(gdn_dist *dist, const gdn_context *context, const void *communicator) {
    gdn_stream stream = NULL;
    must(dist, gdn_dist_use_nccl(dist, context, communicator));
    CHECK(gdn_dist_use_nccl(dist, context, NULL) == GDN_STATUS_INVALID_ARGUMENT,
          "a second gdn_dist_use_nccl is not refused");
    must(dist, gdni_stream_create(context, &stream));
    for (int group = GDN_DIST_WORLD; group <= GDN_DIST_DATA; ++group)
        check_sum(dist, context, stream, (gdn_dist_group)group);
    for (int graph = 0; graph < 2; ++graph)
        check_messages(dist, context, stream, graph);
    gdni_stream_destroy(context, stream);
}

/* A communicator of the caller's stays the caller's. */
static void check_given(gdn_dist *first, const gdn_context *context) {
    gdn_transport *world = gdn_dist_transport(first, GDN_DIST_WORLD);
    ncclUniqueId *ids = need(sizeof(*ids) * (size_t)world->ranks), mine;
    ncclComm_t communicator;
    float *sum, got;
    must_nccl(first, ncclGetUniqueId(&mine));
    must(first, world->all_gather(world, &mine, ids, sizeof(mine), "test: ids"));
    must_cuda(first, cudaSetDevice(world->rank % gdn_device_count()));
    must_nccl(first, ncclCommInitRank(&communicator, world->ranks, ids[0], world->rank));
    gdn_dist *dist = open_group(first, 0);
    check_group(dist, context, &communicator);
    gdn_dist_destroy(dist);

    const float one = 1.0f;
    must_cuda(first, cudaMalloc((void **)&sum, sizeof(*sum)));
    must_cuda(first, cudaMemcpy(sum, &one, sizeof(one), cudaMemcpyHostToDevice));
    must_nccl(first, ncclAllReduce(sum, sum, 1, ncclFloat32, ncclSum, communicator, NULL));
    must_cuda(first, cudaMemcpy(&got, sum, sizeof(got), cudaMemcpyDeviceToHost));
    CHECK(got == (float)world->ranks, "the caller's communicator counts %g ranks, expected %d", got,
          world->ranks);
    must_cuda(first, cudaFree(sum));
    must_nccl(first, ncclCommDestroy(communicator));
    free(ids);
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
    for (int32_t width = 1; width <= ranks; width *= 2) {
        gdn_dist *group = open_group(dist, width);
        check_group(group, context, NULL);
        gdn_dist_destroy(group);
    }
    check_given(dist, context);
    gdn_context_destroy(context);
    return test_finish(dist);
}
