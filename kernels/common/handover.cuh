// Numbers that threads of different CTAs, or warps of one, hand to each other.
//
// Compiled with GDNI_TRAP_HUNG_BARRIERS, waits here and at mbarriers end in a trap after some
// seconds: a CTA that waits for ever shows up as an error.
#pragma once

#include <cstdint>

namespace gdni {

__device__ __forceinline__ int load_acquire(const int32_t *at) {
    int x;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];\n" : "=r"(x) : "l"(at) : "memory");
    return x;
}
// Between two looks at such a number.
struct Pause {
    int count = 0;
    __device__ __forceinline__ void operator()(unsigned nanoseconds) {
        __nanosleep(nanoseconds);
#ifdef GDNI_TRAP_HUNG_BARRIERS
        if (++count == 20000000)
            __trap();
#endif
    }
};
// Waits until others have brought *at up to x.
__device__ __forceinline__ void wait_for_count(const int32_t *at, int x) {
    Pause pause;
    while (load_acquire(at) < x)
        pause(100);
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
// The same by atomic operations, for a number at which a thread looks again and again: what
// racecheck would call a race otherwise.
__device__ __forceinline__ int atom_acquire_shared(uint32_t at) {
    int x;
    asm volatile("atom.acquire.cta.shared::cta.or.b32 %0, [%1], 0;\n"
                 : "=r"(x)
                 : "r"(at)
                 : "memory");
    return x;
}
__device__ __forceinline__ void red_release_max_shared(uint32_t at, int x) {
    asm volatile("red.release.cta.shared::cta.max.s32 [%0], %1;\n" ::"r"(at), "r"(x) : "memory");
}
// What was seen of other CTAs' results comes before what the copy engine reads.
__device__ __forceinline__ void fence_proxy_async_all() {
    asm volatile("fence.proxy.async;\n" ::: "memory");
}

} // namespace gdni
