// Barriers in shared memory (mbarrier) and proxies; sm_90, the first few wrappers sm_80.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-mbarrier
#pragma once

#include <cstdint>

namespace gdni {

// A barrier completes a phase when `count` arrivals and all bytes that were announced have come.
__device__ __forceinline__ void mbarrier_init(uint32_t barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(barrier), "r"(count) : "memory");
}

// Its memory may be used otherwise, or for a barrier anew.
__device__ __forceinline__ void mbarrier_inval(uint32_t barrier) {
    asm volatile("mbarrier.inval.shared::cta.b64 [%0];\n" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(barrier) : "memory");
}

// Whether the phase of this parity (the first one's is 0) has ended, perhaps after a while.
#if __CUDA_ARCH__ >= 900
#define GDNI_MBARRIER_TEST "mbarrier.try_wait"
#else
#define GDNI_MBARRIER_TEST "mbarrier.test_wait"
#endif
__device__ __forceinline__ bool mbarrier_try_wait_parity(uint32_t barrier, uint32_t parity) {
    uint32_t done;
    asm volatile("{\n.reg .pred p;\n" GDNI_MBARRIER_TEST ".parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n}\n"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    return done;
}

// Waits for the end of that phase.
__device__ __forceinline__ void mbarrier_wait(uint32_t barrier, uint32_t parity) {
#ifdef GDNI_TRAP_HUNG_BARRIERS
    for (int64_t i = 0; i < 100000000; ++i)
        if (mbarrier_try_wait_parity(barrier, parity))
            return;
    __trap();
#else
    // NOTE: one asm statement: between products under way, a C++ loop would serialise them.
    asm volatile("{\n.reg .pred p;\nwait:\n" GDNI_MBARRIER_TEST
                 ".parity.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra done;\nbra wait;\ndone:\n}\n" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
#endif
}

// Initialised barriers are visible to the copy engine.
__device__ __forceinline__ void fence_mbarrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

// `count` arrivals at once.
__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier, int count) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier), "r"(count)
                 : "memory");
}
// Predicated: a branch between products under way would serialise them.
__device__ __forceinline__ void mbarrier_arrive_if(uint32_t barrier, bool condition) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %1, 0;\n"
                 "@p mbarrier.arrive.shared::cta.b64 _, [%0];\n}\n" ::"r"(barrier),
                 "r"(static_cast<int>(condition))
                 : "memory");
}
// Arrives and announces bytes that copies will bring.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier),
                 "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void mbarrier_arrive_expect_tx_if(uint32_t barrier, uint32_t bytes,
                                                             bool condition) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %2, 0;\n"
                 "@p mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n}\n" ::"r"(barrier),
                 "r"(bytes), "r"(static_cast<int>(condition))
                 : "memory");
}

// Ordinary accesses to shared memory before it come before what the copy engine and the tensor
// cores do there after it.
__device__ __forceinline__ void fence_proxy_async() {
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

} // namespace gdni
