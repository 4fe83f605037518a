// The backward's Hopper stages against their portable twins.
#include "hopper/backward.h"
#include "stages.h"

#include <algorithm>

namespace {

// What the chains read and write, and what the chunk-parallel pass makes of it.
struct Chains {
    Array<bf16> states, delta, state_grads, delta_grads, dv;
    Array<float> final_state, dh0;
    explicit Chains(const Problem &p)
        : states(p.tiles * D * D), delta(p.tiles * C * D), state_grads(p.tiles * D * D),
          delta_grads(p.tiles * C * D), dv(p.c.T * p.v_row), final_state(p.N * p.c.Hv * D * D),
          dh0(p.N * p.c.Hv * D * D) {}
    void give(const Problem &p, Arguments &a) const {
        a.states = states.data();
        a.delta = delta.data();
        a.state_grads = state_grads.data();
        a.delta_grads = delta_grads.data();
        a.dv = p.tensor(dv, p.v_row);
        a.final_state = final_state.data();
        a.dh0 = dh0.data();
    }
};

struct Gradients {
    Array<bf16> dq, dk;
    Array<float> dg, dbeta, dq32, dk32;
    explicit Gradients(const Problem &p)
        : dq(p.c.T * p.k_row), dk(p.c.T * p.k_row), dg(p.c.T * p.c.Hv), dbeta(p.c.T * p.c.Hv),
          dq32(p.c.T * p.c.Hk * D), dk32(p.c.T * p.c.Hk * D) {}
    void give(const Problem &p, Arguments &a, bool wide) const {
        a.dq = p.tensor(dq, p.k_row);
        a.dk = p.tensor(dk, p.k_row);
        a.dg = dg.data();
        a.dbeta = dbeta.data();
        a.dq32 = wide ? dq32.data() : nullptr;
        a.dk32 = wide ? dk32.data() : nullptr;
    }
};

// [rows][heads][128] without what lies between the heads.
std::vector<bf16> dense(const Problem &p, const Array<bf16> &x, int64_t row, int heads) {
    const std::vector<bf16> from = x.get();
    std::vector<bf16> to(p.c.T * heads * D);
    for (int64_t t = 0; t < p.c.T; ++t)
        for (int h = 0; h < heads; ++h)
            for (int64_t i = 0; i < D; ++i)
                to[(t * heads + h) * D + i] = from[t * row + h * (D + p.c.pad) + i];
    return to;
}

void compare_chains(const Problem &p, const char *name, const Chains &got, const Chains &want) {
    const Case &c = p.c;
    const auto no_tile = [&](int64_t b) { return p.no_tile(b); };
    const auto no_head = [&](int64_t b) { return b / c.Hv == c.poisoned; };
    compare(name, "states", got.states, want.states, D * D, 5e-3, no_tile);
    compare(name, "delta", got.delta, want.delta, C * D, 1e-2, no_tile);
    compare(name, "dstates", got.state_grads, want.state_grads, D * D, 5e-3, no_tile);
    compare(name, "final", got.final_state, want.final_state, D * D, 5e-3, no_head);
    compare(name, "dh0", got.dh0, want.dh0, D * D, 5e-3, no_head);
}

void compare_gradients(const Problem &p, const char *name, const Gradients &got,
                       const Gradients &want, const Array<bf16> &got_dv, const Array<bf16> &want_dv,
                       bool wide) {
    const Case &c = p.c;
    const auto no_key = [&](int64_t b) { return p.lost(b / c.Hk); };
    const auto rows = [&](const char *what, const Array<bf16> &x, const Array<bf16> &y, int64_t row,
                          int heads) {
        Array<bf16> dense_x(c.T * heads * D), dense_y(c.T * heads * D);
        dense_x.put(dense(p, x, row, heads));
        dense_y.put(dense(p, y, row, heads));
        compare(name, what, dense_x, dense_y, D, 2e-2,
                [&](int64_t b) { return p.lost(b / heads); });
        check_untouched(p, name, what, x, row, heads);
    };
    if (wide) {
        compare(name, "dq32", got.dq32, want.dq32, D, 2e-2, no_key);
        compare(name, "dk32", got.dk32, want.dk32, D, 2e-2, no_key);
    } else {
        rows("dq", got.dq, want.dq, p.k_row, c.Hk);
        rows("dk", got.dk, want.dk, p.k_row, c.Hk);
    }
    rows("dv", got_dv, want_dv, p.v_row, c.Hv);
    // Single numbers, some near zero: the relative L2 error of a head.
    const auto numbers = [&](const char *what, const Array<float> &x, const Array<float> &y) {
        const std::vector<float> a = x.get(), b = y.get();
        Array<float> by_head_x(a.size()), by_head_y(b.size());
        std::vector<float> u(a.size()), v(b.size());
        for (int64_t i = 0; i < c.T * c.Hv; ++i)
            if (!p.lost(i / c.Hv)) {
                u[i % c.Hv * c.T + i / c.Hv] = a[i];
                v[i % c.Hv * c.T + i / c.Hv] = b[i];
            }
        by_head_x.put(u);
        by_head_y.put(v);
        compare(name, what, by_head_x, by_head_y, c.T, 2e-2, [](int64_t) { return false; });
    };
    numbers("dg", got.dg, want.dg);
    numbers("dbeta", got.dbeta, want.dbeta);
}

void run(const Case &c, bool wide = false) {
    Problem p(c);
    Tiles tiles(p);
    Chains want(p), got(p);
    Gradients want_gradients(p), got_gradients(p);
    std::printf("%-22s", c.name);
    tiles.give(p.a);
    CUDA(launch_index(p.a, C, nullptr));
    CUDA(launch_prepare<bf16>(p.a, nullptr));
    want.give(p, p.a);
    want_gradients.give(p, p.a, wide);
    CUDA(launch_chains<bf16>(p.a, p.shape(), true, true, nullptr));
    CUDA(launch_gradients<bf16>(p.a, nullptr));
    got.give(p, p.a);
    got_gradients.give(p, p.a, wide);
    CUDA(hopper::launch_chains(p.a, true, true, nullptr));
    CUDA(cudaDeviceSynchronize());
    compare_chains(p, c.name, got, want);
    CUDA(hopper::launch_gradients(p.a, nullptr));
    CUDA(cudaDeviceSynchronize());
    compare_gradients(p, c.name, got_gradients, want_gradients, got.dv, want.dv, wide);
    std::printf("\n");
    std::fflush(stdout);
}

// [tiles][V][K] in bf16, tile `tile`, as [K][V] in fp32.
void to_pool(std::vector<float> &pool, int64_t slot, const std::vector<bf16> &tiles, int64_t tile) {
    for (int64_t k = 0; k < D; ++k)
        for (int64_t v = 0; v < D; ++v)
            pool[slot * D * D + k * D + v] = __bfloat162float(tiles[tile * D * D + v * D + k]);
}

// A sequence of ten chunks cut in three: the pieces begin with given states, or early from zero.
void run_cut(const char *name, float gate, bool exact) {
    const Case c = {name, {0, 620}, 620, 2, 4, gate, true, 0, -1};
    const int64_t borders[4] = {0, 4, 7, 10};
    Problem p(c);
    Tiles tiles(p);
    Chains want(p), got(p);
    std::printf("%-22s", name);
    tiles.give(p.a);
    CUDA(launch_index(p.a, C, nullptr));
    CUDA(launch_prepare<bf16>(p.a, nullptr));
    want.give(p, p.a);
    CUDA(hopper::launch_chains(p.a, true, true, nullptr));
    const std::vector<bf16> states = want.states.get(), grads = want.state_grads.get();
    std::vector<float> entries(3 * c.Hv * D * D), exits(4 * c.Hv * D * D);
    std::vector<gdni_work_item> list;
    for (int i = 0; i < 3; ++i)
        for (int h = 0; h < c.Hv; ++h) {
            gdni_work_item item = {};
            item.stored = borders[i];
            item.last = borders[i + 1];
            item.first = exact || i == 0 ? item.stored : item.stored - 3;
            item.late = exact || i == 2 ? item.last : item.last + 3;
            item.head = h;
            item.slot = i * c.Hv + h;
            item.entry = i == 0 ? GDNI_START_GIVEN : exact ? GDNI_START_EXACT : GDNI_START_ZERO;
            item.exit = i == 2 ? GDNI_START_GIVEN : exact ? GDNI_START_EXACT : GDNI_START_ZERO;
            item.flags = (i == 2 ? GDNI_ITEM_LAST : 0) | (i == 0 ? GDNI_ITEM_FIRST : 0);
            to_pool(entries, item.slot, states, item.stored * c.Hv + h);
            to_pool(exits, item.slot + c.Hv, grads, (item.last - 1) * c.Hv + h);
            list.push_back(item);
        }
    Array<gdni_work_item> items(list.size());
    Array<int32_t> count(1);
    Array<float> pool_states(entries.size()), pool_grads(exits.size());
    items.put(list);
    count.put({static_cast<int32_t>(list.size())});
    pool_states.put(entries);
    pool_grads.put(exits);
    got.give(p, p.a);
    p.a.items = items.data();
    p.a.item_count = count.data();
    p.a.max_items = static_cast<int64_t>(list.size()) + 3;
    p.a.pool_states = pool_states.data();
    p.a.pool_grads = pool_grads.data();
    CUDA(hopper::launch_chains(p.a, true, true, nullptr));
    CUDA(cudaDeviceSynchronize());
    compare_chains(p, name, got, want);
    std::printf("\n");
}

} // namespace

int main() {
    if (!on_hopper())
        return 77;
    run({"one chunk", {0, 64}, 64, 1, 1, 1.0f, false, 0, -1});
    run({"one token", {0, 1}, 1, 1, 2, 1.0f, true, 0, -1});
    run({"two chunks", {0, 128}, 128, 1, 2, 1.0f, true, 0, -1});
    run({"T 509", {0, 509}, 509, 2, 8, 1.0f, true, 0, -1});
    run({"T 509, wide", {0, 509}, 509, 2, 6, 0.1f, true, 0, -1}, true);
    run({"group of 6", {0, 200}, 200, 1, 6, 0.01f, true, 0, -1});
    run({"no gate", {0, 700}, 700, 1, 3, 0.0f, true, 0, -1});
    run({"strong gate", {0, 300}, 300, 1, 2, 16.0f, true, 0, -1});
    run({"beta edges", {0, 150}, 150, 1, 2, 1.0f, true, 0, -1, true});
    run({"packed", {0, 0, 1, 64, 64, 129, 193, 200}, 230, 2, 4, 0.3f, true, 0, -1, true});
    run({"poisoned neighbour", {0, 70, 131, 300}, 320, 1, 2, 0.3f, false, 0, 1});
    run({"strided", {0, 130}, 140, 2, 4, 0.3f, true, 8, -1});
    run({"two a CTA", {0, 320, 640, 900}, 900, 16, 32, 0.3f, true, 0, -1});
    run_cut("cut, exact", 0.01f, true);
    run_cut("cut, early", 2.0f, false);
    std::printf("%d failures\n", failures);
    return failures ? 1 : 0;
}
