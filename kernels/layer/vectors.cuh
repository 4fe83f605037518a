// Neighbouring elements of a row as one load or store, and what the parts compute on them.
#pragma once

#include "portable/tile.cuh"

namespace gdni {

// N elements of T as they lie in memory: 2 to 16 bytes.
template <int BYTES>
struct Bytes;
template <>
struct Bytes<2> {
    using type = uint16_t;
};
template <>
struct Bytes<4> {
    using type = uint32_t;
};
template <>
struct Bytes<8> {
    using type = uint2;
};
template <>
struct Bytes<16> {
    using type = uint4;
};
template <typename T, int N>
using vector_t = typename Bytes<sizeof(T) * N>::type;

template <typename T, int N>
__device__ __forceinline__ vector_t<T, N> load_vector(const T *p) {
    return *reinterpret_cast<const vector_t<T, N> *>(p);
}

// The elements of vectors that lie one after the other, in fp32.
template <typename T, int N>
__device__ __forceinline__ void widen(const vector_t<T, N> &v, float *x) {
    T y[N];
    memcpy(y, &v, sizeof(v));
#pragma unroll
    for (int i = 0; i < N; ++i)
        x[i] = to_float(y[i]);
}

// NOTE: __stwb, as an assignment became as many stores as v has words in conv1d's kernels: 32 of 4
// bytes instead of 8 of 16 bytes.
template <typename T, int N>
__device__ __forceinline__ void store_vector(T *p, const float *x) {
    vector_t<T, N> v;
    if constexpr (N % 2 == 0) {
        pair_t<T> y[N / 2];
#pragma unroll
        for (int i = 0; i < N; i += 2)
            y[i / 2] = pack<T>(x[i], x[i + 1]);
        memcpy(&v, y, sizeof(v));
    } else {
        static_assert(N == 1, "one element or pairs");
        const T y = from_float<T>(x[0]);
        memcpy(&v, &y, sizeof(v));
    }
    __stwb(reinterpret_cast<vector_t<T, N> *>(p), v);
}

constexpr float LOG2_E = 1.44269504f;

// 1 / (1 + e^-x), relative error below 1e-6; 0 where e^-x overflows.
__device__ __forceinline__ float sigmoid(float x) {
    return rcp_approx_ftz(1.0f + ex2_approx_ftz(-LOG2_E * x));
}

// The sum over neighbouring LANES lanes, the same bits in each.
template <int LANES>
__device__ __forceinline__ float sum_over_lanes(float x) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

inline bool multiple_of(const void *p, size_t bytes) {
    return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

} // namespace gdni
