// Which items a cluster of the fused forward works through, and how its warps learn of them: the
// warp that loads K and Q finds them and hands them on through a ring of two.
#pragma once

#include "hopper/fused/place.cuh"
#include "portable/stages.h"

namespace gdni {
namespace hopper {

// One sequence and v-head.
struct FusedItem {
    int count; // chunks; 0: there is no further item
    int token; // the first one
    int tail;  // rows of the last chunk; all others are full
    int head, k_head;
    int state; // which of [N, Hv] matrices
};

// Item `index` of [N][Hv].
__device__ __forceinline__ FusedItem make_item(const Arguments &a, int index) {
    FusedItem item;
    const int sequence = index / a.Hv;
    const int64_t token = sequence_start(a, sequence);
    const int length = static_cast<int>(sequence_start(a, sequence + 1) - token);
    item.token = static_cast<int>(token);
    item.count = length > 0 ? (length + CHUNK_TOKENS - 1) / CHUNK_TOKENS : 0;
    item.tail = length - (item.count - 1) * CHUNK_TOKENS;
    item.head = index - sequence * a.Hv;
    item.k_head = item.head / (a.Hv / a.Hk);
    item.state = index;
    return item;
}

// A role's way through the ring; each of its warps has one.
class FusedItems {
  public:
    // Gives the next one.
    __device__ FusedItem next(const FusedPlace &place) {
        mbarrier_wait(place.item_full(number_ & 1), number_ >> 1 & 1);
        const uint32_t at = place.item(number_ & 1);
        const uint4 x = load_shared_uint4(at), y = load_shared_uint4(at + 16);
        mbarrier_arrive(place.item_empty(number_ & 1));
        ++number_;
        return {static_cast<int>(x.x), static_cast<int>(x.y), static_cast<int>(x.z),
                static_cast<int>(x.w), static_cast<int>(y.x), static_cast<int>(y.y)};
    }
    // One thread hands it on.
    __device__ void put(const FusedPlace &place, const FusedItem &item) {
        mbarrier_wait(place.item_empty(number_ & 1), number_ >> 1 & 1 ^ 1);
        const uint32_t at = place.item(number_ & 1);
        const auto u = [](int x) { return static_cast<uint32_t>(x); };
        store_shared_uint4(at, {u(item.count), u(item.token), u(item.tail), u(item.head)});
        store_shared_uint4(at + 16, {u(item.k_head), u(item.state), 0, 0});
        mbarrier_arrive(place.item_full(number_ & 1));
        ++number_;
    }

  private:
    int number_ = 0;
};

} // namespace hopper
} // namespace gdni
