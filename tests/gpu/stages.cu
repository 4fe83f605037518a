// The Hopper stages against their portable twins, on tiles that the portable ones made.
#include "hopper/hopper.h"
#include "stages.h"

#include <algorithm>

namespace {

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

void compare_results(const Problem &p, const char *name, const Results &got, const Results &want,
                     bool keep, bool zeroed = false) {
    const Case &c = p.c;
    const auto no_tile = [&](int64_t b) { return p.no_tile(b); };
    // Elements between heads are not o's; poison there compares equal by being skipped.
    if (c.pad == 0)
        compare(name, "o", got.o, want.o, D, 3e-2, [&](int64_t b) { return p.lost(b / c.Hv); });
    compare(name, "final", got.final_state, want.final_state, D * D, 5e-3,
            [&](int64_t b) { return b / c.Hv == c.poisoned; });
    if (keep) {
        compare(name, "states", got.states, want.states, D * D, 5e-3, no_tile);
        compare(name, "delta", got.delta, want.delta, C * D, 1e-2, no_tile);
    }
    check_untouched(p, name, "o", got.o, p.v_row, c.Hv, zeroed);
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
    const auto no_tile = [&](int64_t b) { return p.no_tile(b); };
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
    compare_results(p, c.name, got, want, c.keep);
    // Both one after the other, on tiles that are not whole.
    Tiles lower(p);
    Results both(p);
    lower.give(p.a);
    both.give(p, p.a);
    CUDA(hopper::launch_prepare(p.a, false, nullptr));
    CUDA(hopper::launch_forward(p.a, nullptr));
    CUDA(cudaDeviceSynchronize());
    std::printf(" | both:");
    compare_results(p, c.name, both, want, c.keep);
    // All in one kernel, which keeps nothing and reads no tiles.
    Results fused(p);
    fused.give(p, p.a);
    p.a.states = p.a.delta = nullptr;
    p.a.gates = nullptr;
    p.a.inverse = p.a.scores = nullptr;
    CUDA(hopper::launch_fused(p.a, nullptr));
    CUDA(cudaDeviceSynchronize());
    std::printf(" | fused:");
    compare_results(p, c.name, fused, want, false);
    // The same from a queue, which reads no tables either, and fills the padding.
    Results queue(p);
    queue.give(p, p.a);
    p.a.states = p.a.delta = nullptr;
    p.table.poison();
    p.items.poison();
    p.chunk_start.poison();
    CUDA(hopper::launch_fused_queue(p.a, nullptr));
    CUDA(cudaDeviceSynchronize());
    std::printf(" | queue:");
    compare_results(p, c.name, queue, want, false, true);
    compare(c.name, "against fused", queue.final_state, fused.final_state, D * D, 0,
            [&](int64_t b) { return b / c.Hv == c.poisoned; });
    std::printf("\n");
    std::fflush(stdout);
}

// Sequences of `lengths` in turns until there are `count` of them, with padding behind.
Case many(const char *name, std::vector<int64_t> lengths, int count, int Hk, int Hv, bool initial) {
    Case c = {name, {0}, 0, Hk, Hv, 0.3f, initial, 0, -1, false, false};
    for (int i = 0; i < count; ++i)
        c.cu.push_back(c.cu.back() + lengths[i % lengths.size()]);
    c.T = c.cu.back() + 7;
    return c;
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
    compare_results(p, name, got, want, c.keep);
    if (exact)
        check_exact(p, name, list.size(), pool);
    std::printf("\n");
}

} // namespace

int main() {
    if (!on_hopper())
        return 77;
    run({"one chunk", {0, 64}, 64, 1, 1, 1.0f, false, 0, -1});
    run({"one token", {0, 1}, 1, 1, 2, 1.0f, true, 0, -1});
    run({"T 509", {0, 509}, 509, 2, 8, 1.0f, true, 0, -1});
    run({"T 509, nothing kept", {0, 509}, 509, 2, 6, 0.1f, true, 0, -1, false, false});
    run({"group of 6", {0, 200}, 200, 1, 6, 0.01f, true, 0, -1});
    run({"no gate", {0, 700}, 700, 1, 3, 0.0f, true, 0, -1});
    run({"strong gate", {0, 300}, 300, 1, 2, 16.0f, true, 0, -1});
    run({"packed", {0, 0, 1, 64, 64, 129, 193, 200}, 230, 2, 4, 0.3f, true, 0, -1});
    run({"poisoned neighbour", {0, 70, 131, 300}, 320, 1, 2, 0.3f, false, 0, 1});
    run({"strided", {0, 130}, 140, 2, 4, 0.3f, true, 8, -1});
    run({"two a CTA", {0, 320, 640, 900}, 900, 16, 32, 0.3f, true, 0, -1});
    run({"two a CTA, not kept", {0, 320, 640, 900}, 900, 16, 32, 0.3f, true, 0, -1, false, false});
    // Several items a cluster of the queue.
    run(many("many of all lengths", {65, 0, 300, 64, 1, 0, 128, 200}, 64, 2, 4, true));
    run(many("many, from zero", {129, 64, 0, 190}, 50, 1, 6, false));
    run(many("many of one chunk", {64, 3, 33}, 150, 2, 4, true));
    run(many("many without tokens", {0, 0, 0, 0, 0, 40}, 150, 1, 2, true));
    run_cut("cut, exact", 0.01f, true);
    run_cut("cut, early", 1.0f, false);
    std::printf("%d failures\n", failures);
    return failures ? 1 : 0;
}
