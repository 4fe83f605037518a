// The Hopper stages against their portable twins, on tiles that the portable ones made.
#include "hopper/hopper.h"
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
    float gate;       // factor of -softplus(randn)
    bool initial;     // initial_state is given
    int pad;          // elements between heads and between tokens
    int poisoned;     // a sequence that is all NaN, or -1
    bool keep = true; // states and delta are wanted
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
    Array<bf16> q, k, v;
    Array<float> g, beta, initial;
    Array<int64_t> cu, chunk_start;
    Array<Chunk> table;
    Array<gdni_work_item> items;
    Array<int32_t> item_count;
    Arguments a = {};

    explicit Problem(const Case &c)
        : c(c), N(static_cast<int64_t>(c.cu.size()) - 1), chunks(c.T / C + N), tiles(chunks * c.Hv),
          k_row(c.Hk * (D + c.pad) + c.pad), v_row(c.Hv * (D + c.pad) + c.pad), q(c.T * k_row),
          k(c.T * k_row), v(c.T * v_row), g(c.T * c.Hv), beta(c.T * c.Hv),
          initial(N * c.Hv * D * D), cu(N + 1), chunk_start(N + 1), table(chunks), items(N * c.Hv),
          item_count(1) {
        fill(q, c.Hk, k_row, true);
        fill(k, c.Hk, k_row, true);
        fill(v, c.Hv, v_row, false);
        std::vector<float> gates(c.T * c.Hv), betas(c.T * c.Hv), states(N * c.Hv * D * D);
        for (float &x : gates)
            x = -c.gate * std::log1p(std::exp(normal()));
        for (float &x : betas)
            x = 1.0f / (1.0f + std::exp(-normal()));
        for (float &x : states)
            x = __bfloat162float(
                __float2bfloat16(normal())); // the portable twin takes the rest too
        g.put(gates);
        beta.put(betas);
        initial.put(states);
        cu.put(c.cu);
        for (int64_t n = 0; n < N; ++n)
            for (int64_t t = c.cu[n]; t < c.cu[n + 1]; t += C)
                sequence_of.push_back(static_cast<int>(n));
        a.q = tensor(q, k_row);
        a.k = tensor(k, k_row);
        a.v = tensor(v, v_row);
        a.g = g.data();
        a.beta = beta.data();
        a.cu_seqlens = cu.data();
        a.initial_state = c.initial ? initial.data() : nullptr;
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
    Array<float> gates;
    Array<float> bounds;
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

struct Results {
    Array<bf16> o, states, delta;
    Array<float> final_state;
    explicit Results(const Problem &p)
        : o(p.c.T * p.v_row), states(p.tiles * D * D), delta(p.tiles * C * D),
          final_state(p.N * p.c.Hv * D * D) {}
    void give(const Problem &p, Arguments &a) const {
        a.o = p.tensor(o, p.v_row);
        a.states = p.c.keep ? states.data() : nullptr;
        a.delta = p.c.keep ? delta.data() : nullptr;
        a.final_state = final_state.data();
    }
};

void compare_results(const Problem &p, const char *name, const Results &got, const Results &want) {
    const Case &c = p.c;
    const auto no_tile = [&](int64_t b) {
        const size_t chunk = b / c.Hv;
        return chunk >= p.sequence_of.size() || p.sequence_of[chunk] == c.poisoned;
    };
    // Elements between heads are not o's; poison there compares equal by being skipped.
    if (c.pad == 0)
        compare(name, "o", got.o, want.o, D, 3e-2, [&](int64_t b) { return p.lost(b / c.Hv); });
    compare(name, "final", got.final_state, want.final_state, D * D, 5e-3,
            [&](int64_t b) { return b / c.Hv == c.poisoned; });
    if (c.keep) {
        compare(name, "states", got.states, want.states, D * D, 5e-3, no_tile);
        compare(name, "delta", got.delta, want.delta, C * D, 1e-2, no_tile);
    }
    // Rows that belong to no sequence, and gaps between rows, must be as they were.
    const std::vector<bf16> o = got.o.get();
    for (int64_t i = 0; i < static_cast<int64_t>(o.size()); ++i) {
        const int64_t token = i / p.v_row, column = i % p.v_row % (D + c.pad);
        uint16_t bits;
        std::memcpy(&bits, &o[i], 2);
        const bool inside = i % p.v_row < c.Hv * (D + c.pad) && column < D && token < c.cu[p.N];
        if (!inside && bits != 0xffff) {
            std::fprintf(stderr, "%s: o was written outside of the sequences, at %lld\n", name,
                         static_cast<long long>(i));
            ++failures;
            break;
        }
    }
}

void run(const Case &c) {
    Problem p(c);
    Tiles portable(p), hopper_tiles(p);
    std::printf("%-22s", c.name);
    CUDA(launch_index(p.a, C, nullptr));
    portable.give(p.a);
    CUDA(launch_prepare<bf16>(p.a, nullptr));
    hopper_tiles.give(p.a);
    CUDA(hopper::launch_prepare(p.a, true, nullptr));
    CUDA(cudaDeviceSynchronize());
    const auto no_tile = [&](int64_t b) {
        const size_t chunk = b / c.Hv;
        return chunk >= p.sequence_of.size() || p.sequence_of[chunk] == c.poisoned;
    };
    compare(c.name, "gates", hopper_tiles.gates, portable.gates, GATE_ROWS * C, 1e-6, no_tile);
    compare(c.name, "bounds", hopper_tiles.bounds, portable.bounds, 1, 1e-3, no_tile);
    compare(c.name, "inverse", hopper_tiles.inverse, portable.inverse, C * C, 4e-3, no_tile);
    compare(c.name, "scores", hopper_tiles.scores, portable.scores, C * C, 4e-3, no_tile);

    Results want(p), got(p);
    portable.give(p.a);
    want.give(p, p.a);
    CUDA(launch_forward<bf16>(p.a, p.shape(), nullptr));
    got.give(p, p.a);
    CUDA(hopper::launch_forward(p.a, nullptr));
    CUDA(cudaDeviceSynchronize());
    compare_results(p, c.name, got, want);
    // Both one after the other, on tiles that are not whole.
    Tiles lower(p);
    Results both(p);
    lower.give(p.a);
    both.give(p, p.a);
    CUDA(hopper::launch_prepare(p.a, false, nullptr));
    CUDA(hopper::launch_forward(p.a, nullptr));
    CUDA(cudaDeviceSynchronize());
    std::printf(" | both:");
    compare_results(p, c.name, both, want);
    std::printf("\n");
    std::fflush(stdout);
}

// The exact pass: the first border's state, and the second's as the first one's through the
// transfer matrix plus what comes of zero.
void check_exact(Problem &p, const char *name, size_t items, const Array<float> &want) {
    const int64_t heads = p.c.Hv, matrix = D * D;
    Array<float> states(2 * heads * matrix), transfer(2 * heads * matrix);
    std::vector<int32_t> list;
    for (int64_t right = heads; right < static_cast<int64_t>(items); ++right)
        for (int task : {TASK_STATE, TASK_TRANSFER})
            list.push_back(static_cast<int32_t>(right * TASKS + task));
    Array<int32_t> tasks(list.size()), task_count(1);
    tasks.put(list);
    task_count.put({static_cast<int32_t>(list.size())});
    p.a.tasks = tasks.data();
    p.a.task_count = task_count.data();
    p.a.plan.max_borders = 4;
    p.a.pool_states = states.data();
    p.a.pool_transfer = transfer.data();
    CUDA(hopper::launch_exact(p.a, true, nullptr));
    CUDA(cudaDeviceSynchronize());
    std::vector<float> s = states.get();
    const std::vector<float> m = transfer.get();
    for (int64_t h = 0; h < heads; ++h) {
        const float *before = s.data() + h * matrix, *through = m.data() + (heads + h) * matrix;
        float *after = s.data() + (heads + h) * matrix;
        for (int64_t k = 0; k < D; ++k)
            for (int64_t v = 0; v < D; ++v) {
                double sum = after[k * D + v];
                for (int64_t j = 0; j < D; ++j)
                    sum += static_cast<double>(through[k * D + j]) * before[j * D + v];
                after[k * D + v] = static_cast<float>(sum);
            }
    }
    states.put(s);
    compare(name, "borders", states, want, matrix, 1e-2, [](int64_t) { return false; });
}

// A sequence of ten chunks cut in three: the pieces begin with exact states, or early from zero.
void run_cut(const char *name, float gate, bool exact) {
    const Case c = {name, {0, 620}, 620, 2, 4, gate, true, 0, -1};
    const int64_t borders[4] = {0, 4, 7, 10};
    Problem p(c);
    Tiles tiles(p);
    Results want(p), got(p);
    std::printf("%-22s", name);
    tiles.give(p.a);
    want.give(p, p.a);
    Array<float> pool(2 * c.Hv * D * D);
    for (int i = 1; i <= 3; ++i) {
        p.cu.put({0, std::min(borders[i] * C, c.T)});
        CUDA(launch_index(p.a, C, nullptr));
        CUDA(launch_prepare<bf16>(p.a, nullptr));
        p.a.final_state = i == 3 ? want.final_state.data() : pool.data() + (i - 1) * c.Hv * D * D;
        CUDA(launch_forward<bf16>(p.a, p.shape(), nullptr));
        CUDA(cudaDeviceSynchronize());
    }
    std::vector<gdni_work_item> list;
    for (int i = 0; i < 3; ++i)
        for (int h = 0; h < c.Hv; ++h) {
            gdni_work_item item = {};
            item.stored = borders[i];
            item.first = exact || i == 0 ? item.stored : item.stored - 2;
            item.last = item.late = borders[i + 1];
            item.head = h;
            item.slot = (i - 1) * c.Hv + h; // the border on its left
            item.entry = i == 0 ? GDNI_START_GIVEN : exact ? GDNI_START_EXACT : GDNI_START_ZERO;
            item.flags = i == 2 ? GDNI_ITEM_LAST : GDNI_ITEM_STATE | GDNI_ITEM_TRANSFER;
            list.push_back(item);
        }
    Array<gdni_work_item> items(list.size());
    Array<int32_t> count(1);
    items.put(list);
    count.put({static_cast<int32_t>(list.size())});
    got.give(p, p.a);
    p.a.items = items.data();
    p.a.item_count = count.data();
    p.a.max_items = static_cast<int64_t>(list.size()) + 3;
    p.a.pool_states = pool.data();
    CUDA(hopper::launch_forward(p.a, nullptr));
    CUDA(cudaDeviceSynchronize());
    compare_results(p, name, got, want);
    if (exact)
        check_exact(p, name, list.size(), pool);
    std::printf("\n");
}

} // namespace

int main() {
    int devices = 0;
    cudaDeviceProp device = {};
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        std::printf("skipped: no CUDA device\n");
        return 77;
    }
    CUDA(cudaGetDeviceProperties(&device, 0));
    if (device.major != 9) {
        std::printf("skipped: compute capability is %d.%d, these kernels are for 9.0\n",
                    device.major, device.minor);
        return 77;
    }
    run({"one chunk", {0, 64}, 64, 1, 1, 1.0f, false, 0, -1});
    run({"one token", {0, 1}, 1, 1, 2, 1.0f, true, 0, -1});
    run({"T 509", {0, 509}, 509, 2, 8, 1.0f, true, 0, -1});
    run({"T 509, nothing kept", {0, 509}, 509, 2, 6, 0.1f, true, 0, -1, false});
    run({"group of 6", {0, 200}, 200, 1, 6, 0.01f, true, 0, -1});
    run({"no gate", {0, 700}, 700, 1, 3, 0.0f, true, 0, -1});
    run({"strong gate", {0, 300}, 300, 1, 2, 16.0f, true, 0, -1});
    run({"packed", {0, 0, 1, 64, 64, 129, 193, 200}, 230, 2, 4, 0.3f, true, 0, -1});
    run({"poisoned neighbour", {0, 70, 131, 300}, 320, 1, 2, 0.3f, false, 0, 1});
    run({"strided", {0, 130}, 140, 2, 4, 0.3f, true, 8, -1});
    run({"two a CTA", {0, 320, 640, 900}, 900, 16, 32, 0.3f, true, 0, -1});
    run({"two a CTA, not kept", {0, 320, 640, 900}, 900, 16, 32, 0.3f, true, 0, -1, false});
    run_cut("cut, exact", 0.01f, true);
    run_cut("cut, early", 1.0f, false);
    std::printf("%d failures\n", failures);
    return failures ? 1 : 0;
}
