// Rows in memory, 16 bytes at a time or one element at a time, and sums over a CTA in a fixed
// order.
#pragma once

#include "../portable/stages.h"
#include "../portable/tile.cuh"

#include <type_traits>

namespace gdni {

// What one thread moves at once: W elements of T, W = PIECE<T> (16 bytes) or 1.
template <typename T, int W>
using Raw = std::conditional_t<W == 1, T, uint4>;

template <typename T, int W>
__device__ __forceinline__ Raw<T, W> load_raw(const T *row, int64_t vector) {
    return reinterpret_cast<const Raw<T, W> *>(row)[vector];
}

template <typename T, int W>
__device__ __forceinline__ void unpack(const Raw<T, W> &raw, float (&x)[W]) {
    if constexpr (W == 1) {
        x[0] = to_float(raw);
    } else {
        const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if constexpr (sizeof(T) == 4) {
                x[i] = __uint_as_float(words[i]);
            } else {
                x[2 * i] = __uint_as_float(words[i] << 16);
                x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
            }
    }
}

__device__ __forceinline__ uint32_t pack_bf16(float x, float y) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
    uint32_t word;
    memcpy(&word, &pair, sizeof(word));
    return word;
}

template <typename T, int W>
__device__ __forceinline__ Raw<T, W> pack_raw(const float (&x)[W]) {
    if constexpr (W == 1)
        return from_float<T>(x[0]);
    else if constexpr (sizeof(T) == 4)
        return make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]),
                          __float_as_uint(x[3]));
    else
        return make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]),
                          pack_bf16(x[6], x[7]));
}

template <typename T, int W>
__device__ __forceinline__ void store_raw(T *row, int64_t vector, const Raw<T, W> &raw) {
    reinterpret_cast<Raw<T, W> *>(row)[vector] = raw;
}

template <typename T, int W>
__device__ __forceinline__ void load(const T *row, int64_t vector, float (&x)[W]) {
    unpack<T, W>(load_raw<T, W>(row, vector), x);
}

template <typename T, int W>
__device__ __forceinline__ void store(T *row, int64_t vector, const float (&x)[W]) {
    store_raw<T, W>(row, vector, pack_raw<T, W>(x));
}

// Whether rows of `width` elements can be moved 16 bytes at a time; NULL pointers do not count.
template <typename T>
bool whole_vectors(int64_t width, std::initializer_list<const void *> pointers) {
    uintptr_t bits = static_cast<uintptr_t>(width) * sizeof(T);
    for (const void *pointer : pointers)
        bits |= reinterpret_cast<uintptr_t>(pointer);
    return bits % 16 == 0;
}

template <typename T>
__device__ __forceinline__ T sum_of_warp(T x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// The sum over a CTA of WARPS warps, the same in every thread. Calls in a row take turns between
// two buffers, or have a barrier of the caller's between them.
template <int WARPS, typename T>
__device__ __forceinline__ T sum_of_cta(T x, T *buffer) {
    x = sum_of_warp(x);
    if (threadIdx.x % 32 == 0)
        buffer[threadIdx.x / 32] = x;
    __syncthreads();
    T sum = buffer[0];
#pragma unroll
    for (int i = 1; i < WARPS; ++i)
        sum += buffer[i];
    return sum;
}

// CTAs of a grid that has one for each of `count` things, or goes round.
inline unsigned grid_of(int64_t count, int64_t most = INT32_MAX) {
    return static_cast<unsigned>(count < most ? count : most);
}

} // namespace gdni
