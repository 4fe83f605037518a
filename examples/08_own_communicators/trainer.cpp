// Trains one GDN layer, sharded by tokens, in a program that owns its communicators, stream and
// memory. The loss is the mean square of the layer's output: its gradient is the output itself.
#include <gdn_dist.h>

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <mpi.h>
#include <nccl.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

void check(gdn_status status) {
    if (status != GDN_STATUS_OK)
        throw std::runtime_error(gdn_last_error());
}
void check(cudaError_t error) {
    if (error != cudaSuccess)
        throw std::runtime_error(cudaGetErrorString(error));
}
void check(ncclResult_t result) {
    if (result != ncclSuccess)
        throw std::runtime_error(ncclGetErrorString(result));
}
void check(cublasStatus_t status) {
    if (status != CUBLAS_STATUS_SUCCESS)
        throw std::runtime_error(cublasGetStatusString(status));
}

void *allocate(size_t bytes) {
    void *data = nullptr;
    check(cudaMalloc(&data, std::max(bytes, size_t(1))));
    return data;
}

float *upload(const std::vector<float> &values) {
    void *data = allocate(values.size() * sizeof(float));
    check(cudaMemcpy(data, values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice));
    return static_cast<float *>(data);
}

// What the trainer has before the library comes in.
struct Trainer {
    MPI_Comm ranks = MPI_COMM_NULL;
    int rank = 0, count = 1, device = 0;
    ncclComm_t gpus = nullptr;
    cudaStream_t stream = nullptr;
    cublasHandle_t blas = nullptr;

    Trainer() {
        int threads = 0, devices = 0, place = 0;
        MPI_Comm host;
        MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &threads);
        MPI_Comm_dup(MPI_COMM_WORLD, &ranks);
        MPI_Comm_rank(ranks, &rank);
        MPI_Comm_size(ranks, &count);
        MPI_Comm_split_type(ranks, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &host);
        MPI_Comm_rank(host, &place);
        MPI_Comm_free(&host);
        check(cudaGetDeviceCount(&devices));
        device = place % std::max(devices, 1);
        check(cudaSetDevice(device));
        ncclUniqueId id;
        if (rank == 0)
            check(ncclGetUniqueId(&id));
        MPI_Bcast(&id, sizeof(id), MPI_BYTE, 0, ranks);
        check(ncclCommInitRank(&gpus, count, id, rank));
        check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        check(cublasCreate(&blas));
        check(cublasSetStream(blas, stream));
    }
    ~Trainer() {
        cublasDestroy(blas);
        cudaStreamDestroy(stream);
        ncclCommDestroy(gpus);
        MPI_Comm_free(&ranks);
        MPI_Finalize();
    }
};

// Weights, or their gradients, one behind the other in the trainer's memory.
gdn_layer_weights weights_at(const gdn_layer &l, float *data, size_t *count) {
    const size_t D = l.D, key = size_t(l.Hk) * l.K, value = size_t(l.Hv) * l.V;
    const size_t C = 2 * key + value, Hv = l.Hv;
    gdn_layer_weights w = GDN_LAYER_WEIGHTS_INIT;
    const struct {
        void **member;
        size_t size;
    } parts[] = {{&w.in_proj_qkv, C * D}, {&w.in_proj_z, value * D},     {&w.in_proj_b, Hv * D},
                 {&w.in_proj_a, Hv * D},  {&w.conv1d, C * l.conv_width}, {&w.A_log, Hv},
                 {&w.dt_bias, Hv},        {&w.norm, size_t(l.V)},        {&w.out_proj, D * value}};
    size_t at = 0;
    for (const auto &part : parts) {
        *part.member = data ? data + at : nullptr;
        at += (part.size + 63) / 64 * 64; // each at a multiple of 256 bytes
    }
    *count = at;
    return w;
}

void train(const Trainer &own) {
    constexpr int STEPS = 60;
    constexpr float RATE = 0.2f;
    // Handed over: the device, the MPI communicator, the NCCL communicator.
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context = nullptr;
    config.backend = GDN_BACKEND_CUDA;
    config.device = own.device;
    check(gdn_context_create(&context, &config));
    gdn_dist_config dist_config = GDN_DIST_CONFIG_INIT;
    gdn_dist *dist = nullptr;
    dist_config.communicator = &own.ranks;
    check(gdn_dist_create(&dist, &dist_config));
    check(gdn_dist_use_nccl(dist, context, &own.gpus));

    gdn_layer layer = GDN_LAYER_INIT;
    layer.D = 256;
    layer.Hk = 2;
    layer.Hv = 4;
    layer.K = layer.V = 64;
    gdn_shard shard = GDN_SHARD_INIT;
    shard.T = 8192;
    shard.N = 1;
    gdn_shard_even(&shard, own.rank, own.count);
    gdn_dist_layer *sharded = nullptr;
    gdn_sizes sizes = GDN_SIZES_INIT;
    check(gdn_dist_layer_create(&sharded, dist, context, &layer, &shard));
    check(gdn_dist_layer_sizes(sharded, &sizes));

    // The trainer's memory. Every rank draws the same batch and weights, and takes its part.
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> batch(size_t(shard.T) * layer.D);
    for (float &x : batch)
        x = normal(random);
    const auto first = batch.begin() + shard.first * layer.D;
    const size_t elements = size_t(shard.count) * layer.D;
    size_t count = 0;
    weights_at(layer, nullptr, &count);
    std::vector<float> drawn(count);
    for (float &w : drawn)
        w = normal(random) / std::sqrt(float(layer.D));
    float *const weights = upload(drawn), *const gradients =
                                              static_cast<float *>(allocate(4 * count));
    check(cudaMemset(gradients, 0, 4 * count));
    const gdn_layer_weights w = weights_at(layer, weights, &count);
    const gdn_layer_weights dw = weights_at(layer, gradients, &count);
    gdn_layer_tensors t = GDN_LAYER_TENSORS_INIT;
    t.x = upload(std::vector<float>(first, first + shard.count * layer.D));
    t.weights = &w;
    t.dweights = &dw;
    t.dout = t.out = allocate(4 * elements);
    t.dx = allocate(4 * elements);
    t.saved = allocate(sizes.saved);
    t.workspace_size = std::max(sizes.forward_workspace, sizes.backward_workspace);
    t.workspace = allocate(t.workspace_size);

    double start = 0, loss = 0;
    for (int step = 1; step <= STEPS; ++step) {
        check(gdn_dist_layer_forward(sharded, &t, own.stream));
        check(gdn_dist_layer_backward(sharded, &t, own.stream));
        // The communicator is still the trainer's, and so are the stream and the gradients.
        check(
            ncclAllReduce(gradients, gradients, count, ncclFloat32, ncclSum, own.gpus, own.stream));
        const float rate = -RATE / float(shard.T);
        check(cublasSaxpy(own.blas, int(count), &rate, gradients, 1, weights, 1));
        if (step != 1 && step % 20 != 0)
            continue;
        float norm = 0;
        check(cublasSnrm2(own.blas, int(elements), static_cast<float *>(t.out), 1, &norm));
        check(cudaStreamSynchronize(own.stream));
        loss = double(norm) * norm / (double(shard.T) * layer.D);
        MPI_Allreduce(MPI_IN_PLACE, &loss, 1, MPI_DOUBLE, MPI_SUM, own.ranks);
        start = step == 1 ? loss : start;
        if (own.rank == 0)
            std::printf("step %3d  loss %.5f\n", step, loss);
    }
    check(cudaStreamSynchronize(own.stream));
    for (const void *data :
         {t.x, t.dout, static_cast<const void *>(t.dx), static_cast<const void *>(t.saved),
          static_cast<const void *>(t.workspace), static_cast<const void *>(weights),
          static_cast<const void *>(gradients)})
        cudaFree(const_cast<void *>(data));
    gdn_dist_layer_destroy(sharded);
    gdn_dist_destroy(dist);
    gdn_context_destroy(context);
    if (!(loss < 0.5 * start))
        throw std::runtime_error("the loss did not fall to half of its start");
}

} // namespace

int main() {
    try {
        const Trainer own;
        train(own);
    } catch (const std::exception &error) {
        // Others wait for this rank.
        std::fprintf(stderr, "own_communicators: %s\n", error.what());
        MPI_Abort(MPI_COMM_WORLD, 1);
        return 1;
    }
    return 0;
}
