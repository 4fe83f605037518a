// Rows of a head's elements, each held by LANES neighbouring lanes of a warp: a lane has N vectors
// of VECTOR elements. For head dims of 64, 128 and 256 vectors are 16 bytes and cover a row; all
// others take single elements and look where the row ends.
#pragma once

#include "vectors.cuh"

namespace gdni {

constexpr int ROW_THREADS = 256;

template <typename T_, int VECTOR_, int LANES_, int N_>
struct RowShape {
    using T = T_;
    static constexpr int VECTOR = VECTOR_, LANES = LANES_, N = N_;
    static constexpr int SLOTS = ROW_THREADS / LANES; // rows that a CTA has at a time
    static constexpr int COUNT = N * VECTOR;          // elements of a lane
    struct Raw {
        vector_t<T, VECTOR> v[N];
    };

    // The lane's element i of the row.
    static __device__ __forceinline__ int column(int i) {
        return (static_cast<int>(threadIdx.x) % LANES + i / VECTOR * LANES) * VECTOR + i % VECTOR;
    }
    static __device__ __forceinline__ bool inside(int i, int dim) {
        return VECTOR > 1 || column(i) < dim;
    }
    // Zeros behind the end; `valid`: there is such a row.
    static __device__ __forceinline__ Raw load(const T *row, int dim, bool valid) {
        Raw raw;
#pragma unroll
        for (int n = 0; n < N; ++n) {
            raw.v[n] = {};
            if (valid && inside(n * VECTOR, dim))
                raw.v[n] = load_vector<T, VECTOR>(row + column(n * VECTOR));
        }
        return raw;
    }
    static __device__ __forceinline__ void widen_all(const Raw &raw, float (&x)[COUNT]) {
#pragma unroll
        for (int n = 0; n < N; ++n)
            widen<T, VECTOR>(raw.v[n], x + n * VECTOR);
    }
    static __device__ __forceinline__ void store(T *row, int dim, bool valid,
                                                 const float (&x)[COUNT]) {
#pragma unroll
        for (int n = 0; n < N; ++n)
            if (valid && inside(n * VECTOR, dim))
                store_vector<T, VECTOR>(row + column(n * VECTOR), x + n * VECTOR);
    }
    static __device__ __forceinline__ float sum(float x) {
        return sum_over_lanes<LANES>(x);
    }
};

// Calls f(RowShape) with the one for this head dim; `wide`: rows start at multiples of 16 bytes.
template <typename T, typename F>
cudaError_t with_row_shape(int dim, bool wide, const F &f) {
    constexpr int P = PIECE<T>;
    if (wide && dim == 64)
        return f(RowShape<T, P, 64 / P, 1>());
    if (wide && dim == 128)
        return f(RowShape<T, P, 128 / P, 1>());
    if (wide && dim == 256)
        return f(RowShape<T, P, 32, 8 / P>());
    return f(RowShape<T, 1, 32, 8>());
}

} // namespace gdni
