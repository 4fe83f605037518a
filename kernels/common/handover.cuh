// Numbers that threads of different CTAs, or warps of one, hand to each other.
#pragma once

#include <cstdint>

namespace gdni {

__device__ __forceinline__ int load_acquire(const int32_t *at) {
    int x;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];\n" : "=r"(x) : "l"(at) : "memory");
    return x;
}
// Not ordered: after a fence.
__device__ __forceinline__ void red_relaxed_add(int32_t *at, int x) {
    asm volatile("red.relaxed.gpu.global.add.s32 [%0], %1;\n" ::"l"(at), "r"(x) : "memory");
}
__device__ __forceinline__ int load_acquire_shared(uint32_t at) {
    int x;
    asm volatile("ld.acquire.cta.shared::cta.s32 %0, [%1];\n" : "=r"(x) : "r"(at) : "memory");
    return x;
}
__device__ __forceinline__ void store_release_shared(uint32_t at, int x) {
    asm volatile("st.release.cta.shared::cta.s32 [%0], %1;\n" ::"r"(at), "r"(x) : "memory");
}
// What was seen of other CTAs' results comes before what the copy engine reads.
__device__ __forceinline__ void fence_proxy_async_all() {
    asm volatile("fence.proxy.async;\n" ::: "memory");
}

} // namespace gdni
