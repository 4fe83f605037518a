// The fused forward's chain: ../forward/chain.cuh with tiles and gates from a slot, and no end
// between one item and the next.
#pragma once

#include "common/cluster.cuh"
#include "common/state.cuh"
#include "hopper/forward/chain.cuh"
#include "hopper/fused/items.cuh"

namespace gdni {
namespace hopper {

// CTA `rank` of two: whose tiles this CTA's warpgroup makes, chunks rank, rank + 2 ..., the other
// gets by a copy. Chunks are counted over all items. Behind the stage of an item's first chunk
// comes one with the item's first state.
__device__ __forceinline__ void queue_chain(const Arguments &a, const FusedPlace &place, int rank) {
    using Shape = FusedShape;
    FusedItems items;
    FusedItem item = items.next(place);
    if (item.count == 0)
        return;
    float s[64], v[32];
#pragma unroll
    for (int i = 0; i < 64; ++i)
        s[i] = 0.0f;
    ForwardChain<Shape> c(place, a.scale, s);
    // NOTE: through a shuffle, so that descriptors are in uniform registers.
    const auto uniform = [](uint32_t x) { return __shfl_sync(0xffffffffu, x, 0); };
#pragma unroll
    for (int i = 0; i < 32; ++i)
        c.o[i] = 0.0f;
    // Where this lane's first element of S^T lies in a stage.
    const int k = c.lane % 4 * 2;
    const uint32_t own =
        c.warp / 2 * (2 * TILE) + swizzled(k, c.warp % 2 * 4 + c.lane / 16) + c.lane / 4 % 4 * 4;

    // The first chunk up to R^T.
    exchange_state(s, nullptr, true, place.full(1), 0, place.stage(1) + own);
    // NOTE: before the state is used, but it is filled again only behind the first chunk's stage.
    __syncwarp();
    mbarrier_arrive_if(place.empty(1), c.lane == 0);
    mbarrier_wait(place.full(0), 0);
    mbarrier_wait(place.slot_full(0), 0);
    mbarrier_wait(place.value_full(0), 0);
    pin(s);
    c.multiply_k(wgmma_descriptor(uniform(place.stage(0)) + Shape::K));
    c.scale_state(chunk_decay(place.slot(0) + Shape::TABLE));
    c.load_v(v, place.value(0), place.slot(0) + Shape::TABLE);
    wgmma_wait_group<0>();
    c.form_r(v);
    __syncwarp();
    mbarrier_arrive_if(place.value_empty(0), c.lane == 0);

    Turn<Shape::STAGES> turn;
    Turn<Shape::SLOTS> slot_turn;
    bool begun = true; // this chunk is its item's first
    int i = 0;
    for (bool last = false; !last; ++i) {
        // At an item's last chunk: where its last state goes, and the next item.
        const bool border = --item.count == 0;
        float *to = nullptr;
        if (border) {
            to = matrix_at(a.final_state, item.state);
            if (to)
                to += k * HEAD_DIM + rank * 64 + c.warp * 16 + c.lane / 4;
            item = items.next(place);
            last = item.count == 0;
        }
        const bool begins = border && !last;
        const uint32_t stage = uniform(place.stage(turn.stage));
        const uint32_t slot = uniform(place.slot(slot_turn.stage)), gates = slot + Shape::TABLE;
        Turn<Shape::STAGES> next = turn;
        Turn<Shape::SLOTS> slot_next = slot_turn;
        // After the last chunk comes the same once more, for nothing.
        if (!last) {
            next.next();
            if (begun)
                next.next();
            slot_next.next();
        }
        Turn<Shape::STAGES> first = next; // of an item's states
        first.next();
        const int j = last ? i : i + 1;
        const uint32_t stage_after = uniform(place.stage(next.stage));
        const uint32_t gates_after = place.slot(slot_next.stage) + Shape::TABLE;
        const uint64_t k = wgmma_descriptor(stage + Shape::K);
        const uint64_t q = wgmma_descriptor(stage + Shape::Q);

        c.multiply_inverse(wgmma_descriptor(slot + Shape::INVERSE));
        round_to(c.output, c.o);
        pin(c.output);
        c.multiply_q(c.low, q, true);
        gate_row(c.e, gates, GATE_EXP_LEFT);
        // NOTE: written here, announced after the next product: there the fence finds it done.
        c.store_output(i);
        wgmma_wait_group<1>();
        pin(c.u);

        c.update_state(k);
        c.multiply_q(c.high, q + descriptor_step(TILE), false);
        round_to(c.delta, c.u);
        pin(c.delta);
        c.announce(i & 1);
        mbarrier_wait(place.full(next.stage), next.parity);
        mbarrier_wait(place.slot_full(slot_next.stage), slot_next.parity);
        const float decay = last ? 1.0f : chunk_decay(gates_after);
        wgmma_wait_group<1>();
        pin(s);

        exchange_state(s, to, begins, place.full(first.stage), first.parity,
                       place.stage(first.stage) + own);
        __syncwarp();
        mbarrier_arrive_if(place.empty(first.stage), c.lane == 0 && begins);
        c.multiply_k(wgmma_descriptor(stage_after + Shape::K));
        // The products of this chunk with K and Q have ended.
        __syncwarp();
        mbarrier_arrive_if(place.empty(turn.stage), c.lane == 0);
        c.scale_state(decay);
        c.scale_output(gates);
        c.multiply_scores(wgmma_descriptor(slot + Shape::SCORES));
        mbarrier_wait(place.value_full(j), j >> 1 & 1);
        c.load_v(v, place.value(j), gates_after);
        wgmma_wait_group<1>();
        c.form_r(v);
        // NOTE: nothing may be under way over the back edge, or ptxas serialises the products.
        wgmma_wait_group<0>();
        pin(s);
        pin(c.o);
        __syncwarp();
        mbarrier_arrive_if(place.value_empty(j), c.lane == 0 && !last);
        // The slot's next chunk is i + 3, by the other warpgroup than this one's.
        mbarrier_arrive_expect_tx_if(place.slot_full(slot_turn.stage), Shape::SENT,
                                     threadIdx.x == 0 && (i & 1) == rank);
        mbarrier_arrive_cluster_if(cluster_address(place.slot_empty(slot_turn.stage), i & 1 ^ 1),
                                   c.lane == 0);
        begun = begins;
        turn = next;
        slot_turn = slot_next;
    }
    round_to(c.output, c.o);
    c.store_output(i);
    c.announce(i & 1);
}

} // namespace hopper
} // namespace gdni
