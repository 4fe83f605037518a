// Trains one GDN layer on associative recall, with a loop of our own around libgdn.
#include <gdn_layer.h>
#include <gdn_model.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

namespace {

void check(gdn_status status) {
    if (status != GDN_STATUS_OK)
        throw std::runtime_error(gdn_last_error());
}

// Workspaces and saved activations want 256-byte alignment.
struct Free {
    void operator()(void *p) const {
        std::free(p);
    }
};
using Buffer = std::unique_ptr<void, Free>;
Buffer allocate(size_t bytes) {
    return Buffer(std::aligned_alloc(256, (bytes / 256 + 1) * 256));
}

// All weights in one flat vector, so that one AdamW call updates them.
gdn_layer_weights weights_at(const gdn_layer &l, std::vector<float> &flat) {
    const size_t D = l.D, key = size_t(l.Hk) * l.K, value = size_t(l.Hv) * l.V;
    const size_t C = 2 * key + value;
    const size_t sizes[9] = {
        C * D,        value * D,    size_t(l.Hv) * D, size_t(l.Hv) * D, C * l.conv_width,
        size_t(l.Hv), size_t(l.Hv), size_t(l.V),      D * value};
    gdn_layer_weights w = GDN_LAYER_WEIGHTS_INIT;
    void **members[9] = {&w.in_proj_qkv, &w.in_proj_z, &w.in_proj_b, &w.in_proj_a, &w.conv1d,
                         &w.A_log,       &w.dt_bias,   &w.norm,      &w.out_proj};
    size_t total = 0;
    for (size_t s : sizes)
        total += s;
    flat.resize(total);
    size_t offset = 0;
    for (int i = 0; i < 9; ++i) {
        *members[i] = flat.data() + offset;
        offset += sizes[i];
    }
    return w;
}

// Token = 8 numbers that name a key (one-hot) and 8 for its value (+-1). A sequence shows each key
// once with a value, then asks for all of them in another order with the value left 0; the target
// is the value.
void make_batch(const gdn_layer &layer, std::mt19937 &random, std::vector<float> &x,
                std::vector<float> &target) {
    constexpr int keys = 8, dims = 8;
    std::fill(x.begin(), x.end(), 0.0f);
    std::fill(target.begin(), target.end(), 0.0f);
    for (int64_t n = 0; n < layer.N; ++n) {
        float value[keys][dims];
        int order[keys];
        for (int half = 0; half < 2; ++half) {
            std::iota(order, order + keys, 0);
            std::shuffle(order, order + keys, random);
            for (int i = 0; i < keys; ++i) {
                const size_t at = size_t(n * 2 * keys + half * keys + i) * layer.D;
                const int key = order[i];
                x[at + key] = 1.0f;
                for (int j = 0; j < dims; ++j) {
                    if (half == 0)
                        x[at + keys + j] = value[key][j] = random() & 1 ? 1.0f : -1.0f;
                    else
                        target[at + keys + j] = value[key][j];
                }
            }
        }
    }
}

void run() {
    gdn_context *raw = nullptr;
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    config.backend = GDN_BACKEND_CPU; // the tensors here are host memory
    check(gdn_context_create(&raw, &config));
    const std::unique_ptr<gdn_context, decltype(&gdn_context_destroy)> context(raw,
                                                                               gdn_context_destroy);
    gdn_layer layer = GDN_LAYER_INIT;
    layer.D = 16;
    layer.Hk = 2;
    layer.Hv = 4;
    layer.K = layer.V = 16;
    layer.T = 1024; // 64 sequences of 8 pairs and 8 questions
    layer.N = 64;
    const size_t elements = size_t(layer.T) * layer.D;

    std::vector<float> params, grads;
    const gdn_layer_weights weights = weights_at(layer, params);
    const gdn_layer_weights dweights = weights_at(layer, grads);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float &p : params)
        p = 0.2f * normal(random);
    for (int h = 0; h < layer.Hv; ++h) {
        static_cast<float *>(weights.A_log)[h] = std::log(0.01f + 0.02f * h); // slow decay
        static_cast<float *>(weights.dt_bias)[h] = 0.0f;
    }
    for (int i = 0; i < layer.V; ++i)
        static_cast<float *>(weights.norm)[i] = 1.0f;

    gdn_sizes sizes = GDN_SIZES_INIT;
    check(gdn_layer_sizes(context.get(), &layer, &sizes));
    const size_t workspace_size = std::max(sizes.forward_workspace, sizes.backward_workspace);
    const Buffer workspace = allocate(workspace_size), saved = allocate(sizes.saved);

    std::vector<float> x(elements), target(elements), out(elements), dout(elements), dx(elements);
    std::vector<float> m(params.size()), v(params.size());
    gdn_layer_tensors tensors = GDN_LAYER_TENSORS_INIT;
    tensors.x = x.data();
    tensors.weights = &weights;
    tensors.out = out.data();
    tensors.saved = saved.get();
    tensors.dout = dout.data();
    tensors.dx = dx.data();
    tensors.dweights = &dweights;
    tensors.workspace = workspace.get();
    tensors.workspace_size = workspace_size;

    double first = 0, loss = 0;
    for (int step = 1; step <= 400; ++step) {
        make_batch(layer, random, x, target);
        check(gdn_layer_forward(context.get(), &layer, &tensors, nullptr));
        loss = 0;
        for (size_t i = 0; i < elements; ++i) { // mean square over the answers
            const bool counts = target[i] != 0.0f;
            const float error = counts ? out[i] - target[i] : 0.0f;
            const float count = float(elements) / 4;
            loss += double(error) * error / count;
            dout[i] = 2.0f * error / count;
        }
        check(gdn_layer_backward(context.get(), &layer, &tensors, nullptr));
        gdn_adamw adamw{};
        adamw.size = sizeof(adamw);
        adamw.count = int64_t(params.size());
        adamw.step = step;
        adamw.lr = 1e-2 * std::min(1.0, (401 - step) / 200.0);
        adamw.beta1 = 0.9;
        adamw.beta2 = 0.95;
        adamw.eps = 1e-8;
        adamw.param = params.data();
        adamw.m = m.data();
        adamw.v = v.data();
        adamw.grad = grads.data();
        check(gdn_adamw_step(context.get(), &adamw, nullptr));
        if (step == 1)
            first = loss;
        if (step == 1 || step % 50 == 0)
            std::printf("step %3d  loss %.4f\n", step, loss);
    }
    if (!(loss < 0.1 * first))
        throw std::runtime_error("the loss did not fall below a tenth of its start");
}

} // namespace

int main() {
    try {
        run();
    } catch (const std::exception &error) {
        std::fprintf(stderr, "cpp_trainer: %s\n", error.what());
        return 1;
    }
    return 0;
}
