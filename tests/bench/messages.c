/*
 * messages [REPEATS]: what NCCL takes for a message from rank 0 to rank 1, and for a sum over all
 * ranks, by their size: of memory from cudaMalloc, and of memory from ncclMemAlloc that is
 * registered with the communicator. Then what it takes the host to enqueue one, with blocking
 * communicators and with those of GDN_DIST_RETURN. Under mpirun, a device for each rank. For
 * tests/bench/comm_model.py.
 */
#include "../dist/problem.h"

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <time.h>

typedef struct setup {
    gdn_dist *dist;
    ncclComm_t communicator;
    cudaStream_t stream;
    int32_t rank, ranks;
    int repeats;
} setup;

static void must_cuda(const setup *s, cudaError_t error) {
    if (error != cudaSuccess)
        gdn_dist_abort(s->dist, 99, cudaGetErrorString(error));
}

static void must_nccl(const setup *s, ncclResult_t result) {
    while (result == ncclInProgress)
        if (ncclCommGetAsyncError(s->communicator, &result) != ncclSuccess)
            break;
    if (result != ncclSuccess)
        gdn_dist_abort(s->dist, 99, ncclGetErrorString(result));
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* All ranks are here. */
static void meet(const setup *s) {
    must(s->dist, gdn_dist_agree(s->dist, GDN_DIST_WORLD, GDN_STATUS_OK, "bench", NULL));
}

static void open_communicator(setup *s, int blocking) {
    gdn_transport *world = gdn_dist_transport(s->dist, GDN_DIST_WORLD);
    ncclUniqueId mine, ids[64];
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = blocking;
    must_nccl(s, ncclGetUniqueId(&mine));
    must(s->dist, world->all_gather(world, &mine, ids, sizeof(mine), "bench: ids"));
    must_nccl(s, ncclCommInitRankConfig(&s->communicator, s->ranks, ids[0], s->rank, &config));
}

/* To the next rank and back, `count` times. */
static void there_and_back(const setup *s, void *data, size_t bytes, int count) {
    for (int i = 0; s->rank < 2 && i < 2 * count; ++i)
        must_nccl(s,
                  s->rank == i % 2
                      ? ncclSend(data, bytes, ncclUint8, 1 - s->rank, s->communicator, s->stream)
                      : ncclRecv(data, bytes, ncclUint8, 1 - s->rank, s->communicator, s->stream));
}

static void sums(const setup *s, void *data, size_t bytes, int count) {
    for (int i = 0; i < count; ++i)
        must_nccl(s, ncclAllReduce(data, data, bytes / sizeof(float), ncclFloat32, ncclSum,
                                   s->communicator, s->stream));
}

/* Microseconds of one message or sum: the best of `repeats` rows of them. */
static double timed(const setup *s, void *data, size_t bytes, int sum) {
    const int count = bytes < ((size_t)1 << 24) ? 50 : 4;
    double best = 1e30;
    for (int i = 0; i <= s->repeats; ++i) {
        meet(s);
        const double start = now();
        if (sum)
            sums(s, data, bytes, count);
        else
            there_and_back(s, data, bytes, count);
        must_cuda(s, cudaStreamSynchronize(s->stream));
        const double each = 1e6 * (now() - start) / (sum ? count : 2 * count);
        if (i > 0 && each < best)
            best = each;
    }
    return best;
}

/* Microseconds of the host for one, while the device is behind. */
static double enqueued(const setup *s, void *data) {
    const int count = 100;
    double best = 1e30;
    for (int i = 0; i <= s->repeats; ++i) {
        meet(s);
        const double start = now();
        sums(s, data, (size_t)1 << 25, count);
        const double each = 1e6 * (now() - start) / count;
        must_cuda(s, cudaStreamSynchronize(s->stream));
        if (i > 0 && each < best)
            best = each;
    }
    return best;
}

static void compare(const setup *s, void *const data[2], size_t bytes, int sum) {
    const double plain = timed(s, data[0], bytes, sum), registered = timed(s, data[1], bytes, sum);
    if (s->rank == 0)
        printf("| %s | %zu | %.1f | %.1f |\n", sum ? "sum" : "message", bytes, plain, registered);
}

int main(int argc, char **argv) {
    const size_t most = (size_t)438 << 22, messages[] = {8, 24576, 1 << 20, 1 << 21, 1 << 26};
    const size_t sizes[] = {8, 1 << 20, 1 << 26, most};
    setup s = {.dist = test_begin(30.0, 0), .repeats = argc > 1 ? atoi(argv[1]) : 5};
    void *data[2], *handle = NULL;
    s.rank = gdn_dist_rank(s.dist, GDN_DIST_WORLD);
    s.ranks = gdn_dist_ranks(s.dist, GDN_DIST_WORLD);
    if (gdn_device_count() < s.ranks || s.ranks < 2 || s.ranks > 64)
        return test_skip(s.dist, "at least two ranks, and a CUDA device for each");
    must_cuda(&s, cudaSetDevice(s.rank % gdn_device_count()));
    must_cuda(&s, cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking));
    open_communicator(&s, 1);
    must_cuda(&s, cudaMalloc(&data[0], most));
    must_nccl(&s, ncclMemAlloc(&data[1], most));
    must_nccl(&s, ncclCommRegister(s.communicator, data[1], most, &handle));
    for (int i = 0; i < 2; ++i)
        must_cuda(&s, cudaMemset(data[i], 0, most));
    if (s.rank == 0)
        printf("%d ranks; registered: %s\n\n| | bytes | us | us, registered |\n|---|---|---|---|\n",
               s.ranks, handle ? "yes" : "NCCL does not");
    for (size_t i = 0; i < sizeof(messages) / sizeof(*messages); ++i)
        compare(&s, data, messages[i], 0);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); ++i)
        compare(&s, data, sizes[i], 1);
    const double blocking = enqueued(&s, data[0]);
    must_nccl(&s, ncclCommDeregister(s.communicator, handle));
    must_nccl(&s, ncclCommDestroy(s.communicator));
    open_communicator(&s, 0);
    const double other = enqueued(&s, data[0]);
    if (s.rank == 0)
        printf("\nto enqueue one: %.1f us, with a non-blocking communicator %.1f\n", blocking,
               other);
    must_nccl(&s, ncclCommDestroy(s.communicator));
    must_nccl(&s, ncclMemFree(data[1]));
    must_cuda(&s, cudaFree(data[0]));
    gdn_dist_destroy(s.dist);
    gdn_dist_finish(30.0);
    return 0;
}
