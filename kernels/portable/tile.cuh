// Products of one warp on tiles in shared memory, the same for every dtype.
//
// A product is 16 rows by 8 NT columns. Its accumulators, float c[NT][4], lie as mma m16n8 has
// them: lane l holds, of column block t, the elements
//
//     c[t][0], c[t][1]    row l / 4,      columns 8 t + 2 (l % 4), + 1
//     c[t][2], c[t][3]    row l / 4 + 8,  the same columns
//
// An Operand is 16 rows by 16 columns of the left factor. Two neighbouring column blocks of
// accumulators hold exactly its elements, so the result of one product becomes the left factor of
// the next without leaving the registers. bf16 and fp16 multiply on the tensor cores; fp32 on the
// FMA units, each lane fetching its rows' elements from the other three lanes of its quad.
#pragma once

#include "../common/ptx.cuh"

namespace gdni {

using bf16 = __nv_bfloat16;
using fp16 = __half;

// Elements of T in 16 bytes: the unit of copies and the padding of rows in shared memory, which
// makes ldmatrix and the fp32 loads free of bank conflicts.
template <typename T>
constexpr int PIECE = 16 / static_cast<int>(sizeof(T));

// The factor that keeps e^c <= top in range as an operand: fp16 has no numbers below 6e-8.
template <typename T>
__device__ __forceinline__ float operand_range(float top) {
    return 1.0f;
}
template <>
__device__ __forceinline__ float operand_range<fp16>(float top) {
    return fmaxf(top, 1e-30f);
}

__device__ __forceinline__ float to_float(float x) {
    return x;
}
__device__ __forceinline__ float to_float(bf16 x) {
    return __bfloat162float(x);
}
__device__ __forceinline__ float to_float(fp16 x) {
    return __half2float(x);
}

template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
    return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ fp16 from_float<fp16>(float x) {
    return __float2half_rn(x);
}

// Whether the chains take the caller's states in two parts, the second what rounding leaves out: in
// 16 bits, but not where kernels of K = 256 would spill.
template <typename T, int KP>
constexpr bool SPLITS_STATES = sizeof(T) == 2 && KP <= 128;

// Two elements in a row, as they lie in memory.
template <typename T>
struct Pair {
    using type = uint32_t;
};
template <>
struct Pair<float> {
    using type = float2;
};
template <typename T>
using pair_t = typename Pair<T>::type;

template <typename T>
__device__ __forceinline__ pair_t<T> pack(float x, float y);
template <>
__device__ __forceinline__ uint32_t pack<bf16>(float x, float y) {
    const __nv_bfloat162 p = __floats2bfloat162_rn(x, y);
    return *reinterpret_cast<const uint32_t *>(&p);
}
template <>
__device__ __forceinline__ uint32_t pack<fp16>(float x, float y) {
    const __half2 p = __floats2half2_rn(x, y);
    return *reinterpret_cast<const uint32_t *>(&p);
}
template <>
__device__ __forceinline__ float2 pack<float>(float x, float y) {
    return make_float2(x, y);
}

template <typename T>
__device__ __forceinline__ float2 unpack(pair_t<T> p);
template <>
__device__ __forceinline__ float2 unpack<bf16>(uint32_t p) {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162 *>(&p));
}
template <>
__device__ __forceinline__ float2 unpack<fp16>(uint32_t p) {
    return __half22float2(*reinterpret_cast<const __half2 *>(&p));
}
template <>
__device__ __forceinline__ float2 unpack<float>(float2 p) {
    return p;
}

// exp of a gate sum: the fast instruction where operands are rounded to 16 bits anyway.
template <typename T>
__device__ __forceinline__ float gate_exp(float x) {
    return __expf(x);
}
template <>
__device__ __forceinline__ float gate_exp<float>(float x) {
    return expf(x);
}

__device__ __forceinline__ int lane_id() {
    return static_cast<int>(threadIdx.x) & 31;
}

template <typename T>
struct Operand {
    pair_t<T> x[4]; // as mma m16n8k16 has its A: (row, k), (row + 8, k), (row, k + 8), (+ 8, + 8)
};

// From two neighbouring column blocks of accumulators.
template <typename T>
__device__ __forceinline__ Operand<T> operand_from(const float (&c0)[4], const float (&c1)[4]) {
    return {{pack<T>(c0[0], c0[1]), pack<T>(c0[2], c0[3]), pack<T>(c1[0], c1[1]),
             pack<T>(c1[2], c1[3])}};
}

// What that rounding leaves out.
template <typename T>
__device__ __forceinline__ Operand<T> operand_rest(const float (&c0)[4], const float (&c1)[4]) {
    float r0[4], r1[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        r0[e] = c0[e] - to_float(from_float<T>(c0[e]));
        r1[e] = c1[e] - to_float(from_float<T>(c1[e]));
    }
    return operand_from<T>(r0, r1);
}

// The inverse: back into accumulators.
template <typename T>
__device__ __forceinline__ void operand_to(const Operand<T> &a, float (&c0)[4], float (&c1)[4]) {
    const float2 x0 = unpack<T>(a.x[0]), x1 = unpack<T>(a.x[1]);
    const float2 x2 = unpack<T>(a.x[2]), x3 = unpack<T>(a.x[3]);
    c0[0] = x0.x, c0[1] = x0.y, c0[2] = x1.x, c0[3] = x1.y;
    c1[0] = x2.x, c1[1] = x2.y, c1[2] = x3.x, c1[3] = x3.y;
}

// From shared memory, stored as [row][k].
template <typename T>
__device__ __forceinline__ Operand<T> operand_load(const T *p, int ld) {
    const int l = lane_id();
    Operand<T> a;
    ldmatrix_x4(a.x, p + (l % 16) * ld + l / 16 * 8);
    return a;
}
template <>
__device__ __forceinline__ Operand<float> operand_load<float>(const float *p, int ld) {
    const float *q = p + lane_id() / 4 * ld + lane_id() % 4 * 2;
    Operand<float> a;
#pragma unroll
    for (int i = 0; i < 4; ++i)
        a.x[i] = *reinterpret_cast<const float2 *>(q + (i & 1) * 8 * ld + (i >> 1) * 8);
    return a;
}

// From shared memory, stored transposed, as [k][row].
template <typename T>
__device__ __forceinline__ Operand<T> operand_load_transposed(const T *p, int ld) {
    const int l = lane_id();
    Operand<T> a;
    ldmatrix_x4_trans(a.x, p + (l % 8 + l / 16 * 8) * ld + l / 8 % 2 * 8);
    return a;
}
template <>
__device__ __forceinline__ Operand<float> operand_load_transposed<float>(const float *p, int ld) {
    const float *q = p + lane_id() % 4 * 2 * ld + lane_id() / 4;
    Operand<float> a;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float *x = q + (i & 1) * 8 + (i >> 1) * 8 * ld;
        a.x[i] = make_float2(x[0], x[ld]);
    }
    return a;
}

// Which way the right factor lies in shared memory.
enum Side {
    COLUMNS, // [column][k]
    ROWS     // [k][column]
};

// c_m += a_m b for M left factors that share the right one, 16 deep. b points at its first column
// and first k. Only column blocks begin .. end-1 take part.
template <typename T, Side SIDE, int NT, int M>
struct Multiply {
    static __device__ __forceinline__ void run(float (&c)[M][NT][4], const Operand<T> (&a)[M],
                                               const T *b, int ld, int begin, int end) {
        static_assert(NT % 2 == 0, "column blocks come in pairs");
        const int l = lane_id();
        const T *p = SIDE == COLUMNS ? b + (l % 8 + l / 16 * 8) * ld + l / 8 % 2 * 8
                                     : b + (l % 16) * ld + l / 16 * 8;
#pragma unroll
        for (int t = 0; t < NT; t += 2) {
            if (t + 1 < begin || t >= end)
                continue;
            uint32_t r[4];
            if (SIDE == COLUMNS)
                ldmatrix_x4(r, p + t * 8 * ld);
            else
                ldmatrix_x4_trans(r, p + t * 8);
#pragma unroll
            for (int m = 0; m < M; ++m) {
                mma_m16n8k16(c[m][t], a[m].x, r[0], r[1], T());
                mma_m16n8k16(c[m][t + 1], a[m].x, r[2], r[3], T());
            }
        }
    }
};

template <Side SIDE, int NT, int M>
struct Multiply<float, SIDE, NT, M> {
    static __device__ __forceinline__ void run(float (&c)[M][NT][4], const Operand<float> (&a)[M],
                                               const float *b, int ld, int begin, int end) {
        const int quad = lane_id() & ~3, column = lane_id() % 4 * 2;
        // NOTE: a loop, since unrolled products of 256 columns take ptxas minutes.
#pragma unroll 1
        for (int k = 0; k < 16; k += 4) {
            float low[M][4], high[M][4]; // rows l / 4 and l / 4 + 8 of a, four deep
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int from = quad | ((k + i) % 8 / 2);
                    const float2 l = k < 8 ? a[m].x[0] : a[m].x[2];
                    const float2 h = k < 8 ? a[m].x[1] : a[m].x[3];
                    low[m][i] = __shfl_sync(0xffffffffu, i & 1 ? l.y : l.x, from);
                    high[m][i] = __shfl_sync(0xffffffffu, i & 1 ? h.y : h.x, from);
                }
#pragma unroll
            for (int t = 0; t < NT; ++t) {
                if (t < begin || t >= end)
                    continue;
                float2 y[4];
                if (SIDE == COLUMNS) {
                    const float *p = b + (t * 8 + column) * ld + k;
                    const float4 u = *reinterpret_cast<const float4 *>(p);
                    const float4 v = *reinterpret_cast<const float4 *>(p + ld);
                    y[0] = make_float2(u.x, v.x), y[1] = make_float2(u.y, v.y);
                    y[2] = make_float2(u.z, v.z), y[3] = make_float2(u.w, v.w);
                } else {
#pragma unroll
                    for (int i = 0; i < 4; ++i)
                        y[i] = *reinterpret_cast<const float2 *>(b + (k + i) * ld + t * 8 + column);
                }
#pragma unroll
                for (int m = 0; m < M; ++m)
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        c[m][t][0] = fmaf(low[m][i], y[i].x, c[m][t][0]);
                        c[m][t][1] = fmaf(low[m][i], y[i].y, c[m][t][1]);
                        c[m][t][2] = fmaf(high[m][i], y[i].x, c[m][t][2]);
                        c[m][t][3] = fmaf(high[m][i], y[i].y, c[m][t][3]);
                    }
            }
        }
    }
};

// c += a b, 16 deep.
template <Side SIDE, typename T, int NT>
__device__ __forceinline__ void multiply(float (&c)[NT][4], const Operand<T> &a, const T *b, int ld,
                                         int begin = 0, int end = NT) {
    Multiply<T, SIDE, NT, 1>::run(reinterpret_cast<float(&)[1][NT][4]>(c),
                                  reinterpret_cast<const Operand<T>(&)[1]>(a), b, ld, begin, end);
}

// Two products with one right factor.
template <Side SIDE, typename T, int NT>
__device__ __forceinline__ void multiply(float (&c)[2][NT][4], const Operand<T> (&a)[2], const T *b,
                                         int ld) {
    Multiply<T, SIDE, NT, 2>::run(c, a, b, ld, 0, NT);
}

template <int NT>
__device__ __forceinline__ void clear(float (&c)[NT][4]) {
#pragma unroll
    for (int t = 0; t < NT; ++t)
#pragma unroll
        for (int e = 0; e < 4; ++e)
            c[t][e] = 0.0f;
}

// Row and column of accumulator e of column block t, for this lane.
__device__ __forceinline__ int row_of(int e) {
    return lane_id() / 4 + (e >> 1) * 8;
}
__device__ __forceinline__ int column_of(int t, int e) {
    return t * 8 + lane_id() % 4 * 2 + (e & 1);
}

// Sum over the four lanes that share a row of accumulators.
__device__ __forceinline__ float sum_over_columns(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
// Sum over the eight lanes that share a column.
__device__ __forceinline__ float sum_over_rows(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 4);
    x += __shfl_xor_sync(0xffffffffu, x, 8);
    return x + __shfl_xor_sync(0xffffffffu, x, 16);
}

// Sums over a warp's columns of x[row][column] y[row][column], y in shared memory at row m0.
template <typename T, int NT>
__device__ __forceinline__ void row_dots(const float (&x)[NT][4], const T *y, int ld,
                                         float (&sum)[2]) {
    sum[0] = sum[1] = 0.0f;
#pragma unroll
    for (int t = 0; t < NT; ++t)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
            const float2 z = unpack<T>(
                *reinterpret_cast<const pair_t<T> *>(y + row_of(e) * ld + column_of(t, e)));
            sum[e >> 1] = fmaf(x[t][e], z.x, fmaf(x[t][e + 1], z.y, sum[e >> 1]));
        }
    sum[0] = sum_over_columns(sum[0]);
    sum[1] = sum_over_columns(sum[1]);
}

// The threads that share a copy, and which of them this one is.
struct Team {
    int rank, count;
};
__device__ __forceinline__ Team whole_cta() {
    return {static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)};
}

// A team copies ROWS rows of `columns` (a power of two, at least a piece) elements to
// to[row * ld + column]. Rows from valid_rows and columns from valid_columns on are zero. Without
// `aligned` (base and strides multiples of 16 bytes) it goes element by element.
template <int ROWS, typename T>
__device__ __forceinline__ void load_tile(T *to, int ld, int columns, const T *from, int64_t stride,
                                          int valid_rows, int valid_columns, bool aligned,
                                          Team team = whole_cta()) {
    const int shift = 31 - __clz(columns / PIECE<T>);
    for (int i = team.rank; i < ROWS << shift; i += team.count) {
        const int row = i >> shift, column = (i - (row << shift)) * PIECE<T>;
        const bool inside = row < valid_rows && column < valid_columns;
        const T *x = inside ? from + row * stride + column : from;
        T *y = to + row * ld + column;
        if (aligned) {
            cp_async_16(y, x, inside ? 16 : 0);
        } else {
#pragma unroll
            for (int e = 0; e < PIECE<T>; ++e)
                y[e] = inside ? x[e] : from_float<T>(0.0f);
        }
    }
}

// count floats (a multiple of 4), both sides aligned.
__device__ __forceinline__ void load_floats(float *to, const float *from, int count,
                                            Team team = whole_cta()) {
    for (int i = team.rank * 4; i < count; i += team.count * 4)
        cp_async_16(to + i, from + i, 16);
}

} // namespace gdni
