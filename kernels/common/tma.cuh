// The bulk copy engine (TMA) and griddepcontrol; sm_90.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-bulk-copy
#pragma once

#include <cstdint>

#include <cuda.h>

namespace gdni {

// A box of a tensor at these coordinates (the innermost is always 0) to shared memory; its bytes
// arrive at the barrier.
__device__ __forceinline__ void cp_async_bulk_tensor_load(uint32_t to, const CUtensorMap &map,
                                                          int64_t row, int block, int64_t outer,
                                                          uint32_t barrier) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4, %5}], [%6];\n" ::"r"(to),
                 "l"(&map), "r"(0), "r"(static_cast<int>(row)), "r"(block),
                 "r"(static_cast<int>(outer)), "r"(barrier)
                 : "memory");
}
// The way back; part of this thread's next group.
__device__ __forceinline__ void cp_async_bulk_tensor_store(const CUtensorMap &map, int64_t row,
                                                           int block, int64_t outer,
                                                           uint32_t from) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group "
                 "[%0, {%1, %2, %3, %4}], [%5];\n" ::"l"(&map),
                 "r"(0), "r"(static_cast<int>(row)), "r"(block), "r"(static_cast<int>(outer)),
                 "r"(from)
                 : "memory");
}
// Bytes as they lie; addresses and size are multiples of 16.
__device__ __forceinline__ void cp_async_bulk_load(uint32_t to, const void *from, uint32_t bytes,
                                                   uint32_t barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];\n" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}

__device__ __forceinline__ void cp_async_bulk_commit_group() {
    asm volatile("cp.async.bulk.commit_group;\n" ::: "memory");
}
// Waits until at most PENDING of this thread's groups still read shared memory.
template <int PENDING>
__device__ __forceinline__ void cp_async_bulk_wait_group_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;\n" ::"n"(PENDING) : "memory");
}
// Waits until at most PENDING of them are not yet complete.
template <int PENDING>
__device__ __forceinline__ void cp_async_bulk_wait_group() {
    asm volatile("cp.async.bulk.wait_group %0;\n" ::"n"(PENDING) : "memory");
}

// The grid before this one on the stream, if it allows to start early, has ended after this.
__device__ __forceinline__ void griddepcontrol_wait() {
    asm volatile("griddepcontrol.wait;\n" ::: "memory");
}
// The grid behind this one may start once all CTAs have called this or ended.
__device__ __forceinline__ void griddepcontrol_launch_dependents() {
    asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
}

} // namespace gdni
