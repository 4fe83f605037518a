// More of matrix.cuh, mbarrier.cuh and tma.cuh, which the backward needs.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions
#pragma once

#include "common/matrix.cuh"
#include "common/mbarrier.cuh"
#include "common/tma.cuh"

namespace gdni {

// Four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8 and
// gets row l / 4, columns 2 (l % 4), + 1 of each.
__device__ __forceinline__ void ldmatrix_x4(uint32_t *r, uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}
// As in matrix.cuh, into a part of an array.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t *r, uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

__device__ __forceinline__ uint2 load_shared_uint2(uint32_t address) {
    uint2 x;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];\n"
                 : "=r"(x.x), "=r"(x.y)
                 : "r"(address)
                 : "memory");
    return x;
}
__device__ __forceinline__ void store_shared_uint2(uint32_t address, uint32_t x, uint32_t y) {
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};\n" ::"r"(address), "r"(x), "r"(y) : "memory");
}
__device__ __forceinline__ void store_shared_float2(uint32_t address, float x, float y) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};\n" ::"r"(address), "f"(x), "f"(y) : "memory");
}
// Predicated: a branch between products under way would serialise them.
__device__ __forceinline__ void store_shared_float_if(uint32_t address, float x, bool condition) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %2, 0;\n@p st.shared.f32 [%0], %1;\n}\n" ::"r"(address),
        "f"(x), "r"(static_cast<int>(condition))
        : "memory");
}

// `count` arrivals at once.
__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier, int count) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier), "r"(count)
                 : "memory");
}

// Waits until at most PENDING of this thread's groups of stores are not yet complete.
template <int PENDING>
__device__ __forceinline__ void cp_async_bulk_wait_group() {
    asm volatile("cp.async.bulk.wait_group %0;\n" ::"n"(PENDING) : "memory");
}

// Rows from `rows` on of a tile of 64 rows of 128 bytes become zeros; one warp.
__device__ __forceinline__ void zero_rows(uint32_t tile, int rows) {
    for (int i = rows * 8 + static_cast<int>(threadIdx.x) % 32; i < 64 * 8; i += 32)
        store_shared_zeros(tile + 16 * i);
}

} // namespace gdni
