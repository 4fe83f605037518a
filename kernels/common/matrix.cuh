// Loads and stores on addresses of shared memory, ldmatrix and stmatrix, and where a tile's
// elements lie; sm_90.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace gdni {

// Four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8 and
// gets row l / 4, columns 2 (l % 4), + 1 of each.
__device__ __forceinline__ void ldmatrix_x4(uint32_t *r, uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}
// The same, each transposed: it gets column l / 4, rows 2 (l % 4), + 1 of each.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t *r, uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}
// The inverse of ldmatrix.
__device__ __forceinline__ void stmatrix_x4(uint32_t row, const uint32_t *r) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(row),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}
__device__ __forceinline__ void stmatrix_x4_trans(uint32_t row, const uint32_t *r) {
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(row),
        "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
        : "memory");
}

// An 8x8 matrix of 16-bit elements, laid out as ldmatrix leaves it, transposed.
__device__ __forceinline__ uint32_t movmatrix_trans(uint32_t x) {
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(y) : "r"(x));
    return y;
}

// Where piece `piece` (16 bytes) of row `row` lies in a tile of 128-byte rows with the 128-byte
// swizzle.
__device__ __forceinline__ uint32_t swizzled(int row, int piece) {
    return static_cast<uint32_t>(row * 128 + ((piece ^ (row & 7)) << 4));
}

__device__ __forceinline__ float2 load_shared_float2(uint32_t address) {
    float2 x;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];\n"
                 : "=f"(x.x), "=f"(x.y)
                 : "r"(address)
                 : "memory");
    return x;
}
__device__ __forceinline__ float load_shared_float(uint32_t address) {
    float x;
    asm volatile("ld.shared.f32 %0, [%1];\n" : "=f"(x) : "r"(address) : "memory");
    return x;
}

__device__ __forceinline__ uint4 load_shared_uint4(uint32_t address) {
    uint4 x;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "r"(address)
                 : "memory");
    return x;
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
__device__ __forceinline__ void store_shared_uint4(uint32_t address, uint4 x) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};\n" ::"r"(address), "r"(x.x), "r"(x.y),
                 "r"(x.z), "r"(x.w)
                 : "memory");
}
// 16 bytes.
__device__ __forceinline__ void store_shared_zeros(uint32_t address) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};\n" ::"r"(address), "r"(0) : "memory");
}
// Rows from `rows` on of a tile of 64 rows of 128 bytes become zeros; one warp.
__device__ __forceinline__ void zero_rows(uint32_t tile, int rows) {
    for (int i = rows * 8 + static_cast<int>(threadIdx.x) % 32; i < 64 * 8; i += 32)
        store_shared_zeros(tile + 16 * i);
}

// threadIdx.x, but nothing made of it is computed ahead of time and kept in registers.
__device__ __forceinline__ int thread_index() {
    int x;
    asm volatile("mov.u32 %0, %%tid.x;\n" : "=r"(x));
    return x;
}

// Two floats rounded to bf16, `low` in the lower half.
__device__ __forceinline__ uint32_t cvt_rn_bf16x2(float low, float high) {
    uint32_t x;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(x) : "f"(high), "f"(low));
    return x;
}
__device__ __forceinline__ uint32_t cvt_rn_f16x2(float low, float high) {
    uint32_t x;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(x) : "f"(high), "f"(low));
    return x;
}
// 2^x; below the smallest normal number 0.
__device__ __forceinline__ float ex2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float low_bf16(uint32_t x) {
    return __uint_as_float(x << 16);
}
__device__ __forceinline__ float high_bf16(uint32_t x) {
    return __uint_as_float(x & 0xffff0000u);
}

} // namespace gdni
