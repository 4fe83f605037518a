// What tests of single stages share: a problem on the device, arrays full of NaN, comparison.
#pragma once

#include "portable/stages.h"
#include "portable/tile.cuh"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

using namespace gdni;

namespace {

#define CUDA(call)                                                                                 \
    do {                                                                                           \
        const cudaError_t error_ = (call);                                                         \
        if (error_ != cudaSuccess) {                                                               \
            std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call,                     \
                         cudaGetErrorString(error_));                                              \
            std::exit(1);                                                                          \
        }                                                                                          \
    } while (0)

constexpr int64_t D = 128, C = 64;
int failures = 0;

struct Case {
    const char *name;
    std::vector<int64_t> cu; // bounds of the sequences
    int64_t T;               // tokens behind the last sequence are NaN
    int Hk, Hv;
    float gate;   // factor of -softplus(randn)
    bool initial; // initial_state and dht are given
    int pad;      // elements between heads and between tokens
    int poisoned; // a sequence that is all NaN, or -1
    bool beta_edges = false;
    bool keep = true; // forward's states and delta are wanted
};

// Device memory full of NaN.
template <typename X>
class Array {
  public:
    explicit Array(size_t count) : count_(count) {
        CUDA(cudaMalloc(&data_, count * sizeof(X) + 256));
        poison();
    }
    ~Array() {
        cudaFree(data_);
    }
    Array(const Array &) = delete;
    Array &operator=(const Array &) = delete;
    void poison() {
        CUDA(cudaMemset(data_, 0xff, count_ * sizeof(X) + 256));
    }
    void put(const std::vector<X> &from) {
        CUDA(cudaMemcpy(data_, from.data(), from.size() * sizeof(X), cudaMemcpyHostToDevice));
    }
    std::vector<X> get() const {
        std::vector<X> to(count_);
        CUDA(cudaDeviceSynchronize());
        CUDA(cudaMemcpy(to.data(), data_, count_ * sizeof(X), cudaMemcpyDeviceToHost));
        return to;
    }
    X *data() const {
        return data_;
    }

  private:
    X *data_ = nullptr;
    size_t count_;
};

float number(float x) {
    return x;
}
float number(bf16 x) {
    return __bfloat162float(x);
}

// The largest relative L2 error over blocks of `block` elements; blocks that `skip` names do not
// count. NaN wherever a number is NaN or was not written.
template <typename X, typename Skip>
void compare(const char *test, const char *what, const Array<X> &got, const Array<X> &want,
             int64_t block, double limit, Skip skip) {
    const std::vector<X> x = got.get(), y = want.get();
    double worst = 0.0;
    int64_t at = 0;
    for (int64_t b = 0; b < static_cast<int64_t>(x.size()) / block; ++b) {
        if (skip(b))
            continue;
        double off = 0.0, norm = 0.0;
        for (int64_t i = b * block; i < (b + 1) * block; ++i) {
            const double d = static_cast<double>(number(x[i])) - number(y[i]);
            off += d * d;
            norm += static_cast<double>(number(y[i])) * number(y[i]);
        }
        const double error = std::sqrt(off / std::fmax(norm, 1e-12));
        if (!(error <= worst)) {
            worst = error;
            at = b;
        }
        if (std::isnan(error))
            break;
    }
    std::printf(" %s %.1e", what, worst);
    if (!(worst <= limit)) {
        std::fprintf(stderr, "%s: %s: block %lld is off by %.2e, expected at most %.0e\n", test,
                     what, static_cast<long long>(at), worst, limit);
        ++failures;
    }
}

// One problem's tensors and what the stages hand on, twice: portable and Hopper.
struct Problem {
    const Case &c;
    int64_t N, chunks, tiles, k_row, v_row;
    std::vector<int> sequence_of; // of each chunk
    std::mt19937 random{7};
    Array<bf16> q, k, v, do_;
    Array<float> g, beta, initial, dht;
    Array<int64_t> cu, chunk_start;
    Array<Chunk> table;
    Array<gdni_work_item> items;
    Array<int32_t> item_count;
    Arguments a = {};

    explicit Problem(const Case &c)
        : c(c), N(static_cast<int64_t>(c.cu.size()) - 1), chunks(c.T / C + N), tiles(chunks * c.Hv),
          k_row(c.Hk * (D + c.pad) + c.pad), v_row(c.Hv * (D + c.pad) + c.pad), q(c.T * k_row),
          k(c.T * k_row), v(c.T * v_row), do_(c.T * v_row), g(c.T * c.Hv), beta(c.T * c.Hv),
          initial(N * c.Hv * D * D), dht(N * c.Hv * D * D), cu(N + 1), chunk_start(N + 1),
          table(chunks), items(N * c.Hv), item_count(1) {
        fill(q, c.Hk, k_row, true);
        fill(k, c.Hk, k_row, true);
        fill(v, c.Hv, v_row, false);
        fill(do_, c.Hv, v_row, false);
        std::vector<float> gates(c.T * c.Hv), betas(c.T * c.Hv), states(N * c.Hv * D * D);
        for (float &x : gates)
            x = -c.gate * std::log1p(std::exp(normal()));
        for (size_t i = 0; i < betas.size(); ++i) // every 13th is 0
            betas[i] = c.beta_edges && i % 13 == 3 ? 0.0f : 1.0f / (1.0f + std::exp(-normal()));
        for (float &x : states)
            x = __bfloat162float(
                __float2bfloat16(normal())); // the portable twin takes the rest too
        g.put(gates);
        beta.put(betas);
        initial.put(states);
        for (float &x : states)
            x = __bfloat162float(
                __float2bfloat16(normal())); // the portable twin takes the rest too
        dht.put(states);
        cu.put(c.cu);
        for (int64_t n = 0; n < N; ++n)
            for (int64_t t = c.cu[n]; t < c.cu[n + 1]; t += C)
                sequence_of.push_back(static_cast<int>(n));
        a.q = tensor(q, k_row);
        a.k = tensor(k, k_row);
        a.v = tensor(v, v_row);
        a.do_ = tensor(do_, v_row);
        a.g = g.data();
        a.beta = beta.data();
        a.cu_seqlens = cu.data();
        a.initial_state = c.initial ? initial.data() : nullptr;
        a.dht = c.initial ? dht.data() : nullptr;
        a.T = c.T, a.N = N, a.Hk = c.Hk, a.Hv = c.Hv, a.K = a.V = D;
        a.scale = 0.1f;
        a.sequences = N;
        a.max_chunks = chunks;
        a.chunks = table.data();
        a.chunk_start = chunk_start.data();
        a.plan.segments = 1;
        a.plan.N = N;
        a.plan.Hv = c.Hv;
        a.items = items.data();
        a.item_count = item_count.data();
        a.max_items = N * c.Hv;
        cudaDeviceProp device;
        CUDA(cudaGetDeviceProperties(&device, 0));
        a.multiprocessors = device.multiProcessorCount;
        a.capability = 10 * device.major + device.minor;
        a.shared_memory = device.sharedMemPerBlockOptin;
    }

    float normal() {
        return std::normal_distribution<float>()(random);
    }
    bool lost(int64_t token) const {
        for (int64_t n = 0; n < N; ++n)
            if (token >= c.cu[n] && token < c.cu[n + 1])
                return n == c.poisoned;
        return true;
    }
    // Whether tile b belongs to no chunk, or to the poisoned sequence.
    bool no_tile(int64_t b) const {
        const size_t chunk = b / c.Hv;
        return chunk >= sequence_of.size() || sequence_of[chunk] == c.poisoned;
    }
    void fill(Array<bf16> &to, int heads, int64_t row, bool unit) {
        std::vector<bf16> x(c.T * row, __float2bfloat16(NAN));
        for (int64_t t = 0; t < c.T; ++t)
            for (int h = 0; h < heads; ++h) {
                float y[D], sum = 0.0f;
                for (float &e : y) {
                    e = normal();
                    sum += e * e;
                }
                for (int64_t i = 0; i < D; ++i)
                    x[t * row + h * (D + c.pad) + i] =
                        __float2bfloat16(lost(t) ? NAN
                                         : unit  ? y[i] / std::sqrt(sum)
                                                 : y[i]);
            }
        to.put(x);
    }
    // What the portable chains want to know.
    gdni_chain_shape shape() const {
        const gdni_plan_device device = {a.multiprocessors, 80, a.shared_memory};
        gdn_problem problem = GDN_PROBLEM_INIT;
        problem.dtype = GDN_DTYPE_BF16;
        problem.K = problem.V = D;
        return gdni_chain_choose(&device, &problem, N * c.Hv, 0, 1);
    }
    Tensor tensor(const Array<bf16> &x, int64_t row) const {
        return {x.data(), row, D + c.pad, c.pad % 8 == 0};
    }
};

struct Tiles {
    Array<float> gates, bounds;
    Array<bf16> inverse, scores;
    explicit Tiles(const Problem &p)
        : gates(p.tiles * GATE_ROWS * C), bounds(p.tiles), inverse(p.tiles * C * C),
          scores(p.tiles * C * C) {}
    void give(Arguments &a) const {
        a.gates = gates.data();
        a.bounds = bounds.data();
        a.inverse = inverse.data();
        a.scores = scores.data();
    }
};

// Gaps between rows must be as they were, and rows that belong to no sequence too, or zeros.
void check_untouched(const Problem &p, const char *name, const char *what, const Array<bf16> &x,
                     int64_t row, int heads, bool zeroed = false) {
    const std::vector<bf16> values = x.get();
    for (int64_t i = 0; i < static_cast<int64_t>(values.size()); ++i) {
        const int64_t token = i / row, column = i % row % (D + p.c.pad);
        uint16_t bits;
        std::memcpy(&bits, &values[i], 2);
        const bool gap = i % row >= heads * (D + p.c.pad) || column >= D;
        const bool inside = !gap && token < p.c.cu[p.N];
        if (!inside && bits != (zeroed && !gap ? 0 : 0xffff)) {
            std::fprintf(stderr, "%s: %s was %s outside of the sequences, at %lld\n", name, what,
                         zeroed && !gap ? "not zeroed" : "written", static_cast<long long>(i));
            ++failures;
            return;
        }
    }
}

// Whether there is a device that the Hopper stages run on; says so if not.
bool on_hopper() {
    int devices = 0;
    cudaDeviceProp device = {};
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        std::printf("skipped: no CUDA device\n");
        return false;
    }
    CUDA(cudaGetDeviceProperties(&device, 0));
    if (device.major != 9)
        std::printf("skipped: compute capability is %d.%d, these kernels are for 9.0\n",
                    device.major, device.minor);
    return device.major == 9;
}

} // namespace
