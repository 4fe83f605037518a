// Where things of a CTA of the fused forward are, as addresses in shared memory.
#pragma once

#include "hopper/forward/copies.cuh"
#include "hopper/fused/config.cuh"

namespace gdni {
namespace hopper {

template <>
struct ForwardPlace<FusedShape> {
    using Shape = FusedShape;
    uint32_t base;
    static constexpr int warpgroup = 0;

    __device__ uint32_t stage(int s) const {
        return base + s * Shape::STAGE;
    }
    __device__ uint32_t value(int i) const { // of chunk i
        return base + Shape::VALUES_AT + (i & 1) * TILE;
    }
    __device__ uint32_t store() const {
        return base + Shape::STORE_AT;
    }
    __device__ uint32_t slot(int s) const {
        return base + Shape::SLOTS_AT + s * Shape::SLOT;
    }
    __device__ uint32_t barrier(int i) const {
        return base + Shape::BARRIERS_AT + 8 * i;
    }
    __device__ uint32_t full(int s) const {
        return barrier(Shape::FULL + s);
    }
    __device__ uint32_t empty(int s) const {
        return barrier(Shape::EMPTY + s);
    }
    __device__ uint32_t value_full(int i) const {
        return barrier(Shape::VALUE_FULL + (i & 1));
    }
    __device__ uint32_t value_empty(int i) const {
        return barrier(Shape::VALUE_EMPTY + (i & 1));
    }
    __device__ uint32_t ready(int i) const {
        return barrier(Shape::READY + i);
    }
    __device__ uint32_t free(int i) const {
        return barrier(Shape::FREE + i);
    }
    __device__ uint32_t slot_full(int s) const {
        return barrier(Shape::SLOT_FULL + s);
    }
    __device__ uint32_t slot_empty(int s) const {
        return barrier(Shape::SLOT_EMPTY + s);
    }
    __device__ uint32_t gates_full(int b) const {
        return barrier(Shape::GATES_FULL + b);
    }
    __device__ uint32_t gates_empty(int b) const {
        return barrier(Shape::GATES_EMPTY + b);
    }
    __device__ uint32_t item(int b) const {
        return base + Shape::ITEMS_AT + b * Shape::ITEM;
    }
    __device__ uint32_t item_full(int b) const {
        return barrier(Shape::ITEM_FULL + b);
    }
    __device__ uint32_t item_empty(int b) const {
        return barrier(Shape::ITEM_EMPTY + b);
    }
};
using FusedPlace = ForwardPlace<FusedShape>;

} // namespace hopper
} // namespace gdni
