// Clusters of CTAs and each other's shared memory; sm_90.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-barrier-cluster
#pragma once

#include <cstdint>

namespace gdni {

// All threads of the cluster; what they wrote to shared memory before is visible after.
__device__ __forceinline__ void barrier_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;\n" ::
                     : "memory");
}

// The address, in the cluster's window, of what is at `address` in CTA `rank` of it.
__device__ __forceinline__ uint32_t cluster_address(uint32_t address, int rank) {
    uint32_t x;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;\n" : "=r"(x) : "r"(address), "r"(rank));
    return x;
}

// `barrier` is such an address. NOTE: of the default scope, .cta, as is the wait for it. Formally
// another CTA needs .release.cluster and .acquire.cluster, which make a MEMBAR.ALL.GPU and a
// CCTL.IVALL of it: a fused forward took 1.39 to 1.48 times as long (H200, 16/64 heads, 8192 and
// 32768 tokens). Nothing is published here: a warp says that it has read what others may write
// over, with the values already in use.
__device__ __forceinline__ void mbarrier_arrive_cluster_if(uint32_t barrier, bool condition) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %1, 0;\n"
                 "@p mbarrier.arrive.shared::cluster.b64 _, [%0];\n}\n" ::"r"(barrier),
                 "r"(static_cast<int>(condition))
                 : "memory");
}

// Bytes from this CTA's shared memory to another's, whose barrier they arrive at; `to` and
// `barrier` are such addresses. All are multiples of 16.
__device__ __forceinline__ void cp_async_bulk_to_cluster(uint32_t to, uint32_t from, uint32_t bytes,
                                                         uint32_t barrier) {
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];\n" ::"r"(to),
                 "r"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}

} // namespace gdni
