// The positions 0 ... T-1 ordered by their tokens, those of a token in their own order: a radix
// sort with digits of 9 bits, from the last one to the first, two kernels each. A CTA has a tile of
// neighbouring places.
//
//     count     counts[tile][d]: the tile's keys whose digit is d
//     scatter   a key goes behind those of smaller digits, of tiles before, and of its tile before
//
// Counts are sums of integers, which come out the same in any order. CTAs behind the tiles do
// something else meanwhile: filler.run(i) with i from 0.
#pragma once

#include "../early.h"

namespace gdni {

constexpr int SORT_THREADS = 512, SORT_WARPS = SORT_THREADS / 32, DIGIT_BITS = 9;
constexpr int DIGITS = 1 << DIGIT_BITS;
static_assert(DIGITS == SORT_THREADS, "a thread a digit");
constexpr int64_t MOST_TILES = 64;

struct TokenSort {
    const int32_t *tokens;
    int64_t T;
    int32_t vocab; // also the key of whatever is no token
    uint32_t *keys[2], *positions[2];
    uint32_t *counts; // [tiles][DIGITS]
    uint8_t *marks;   // [vocab], zeros: set to 1 for tokens that occur; or NULL

    __host__ __device__ int64_t tile() const {
        return (T + SORT_THREADS * MOST_TILES - 1) / (SORT_THREADS * MOST_TILES) * SORT_THREADS;
    }
    __host__ __device__ int64_t tiles() const {
        return T ? (T + tile() - 1) / tile() : 0;
    }
    int passes() const {
        int bits = 1;
        while (bits < 32 && static_cast<uint32_t>(vocab) >> bits)
            ++bits;
        return (bits + DIGIT_BITS - 1) / DIGIT_BITS;
    }
    // Where the last pass leaves them.
    const uint32_t *sorted_keys() const {
        return keys[passes() % 2];
    }
    const uint32_t *sorted_positions() const {
        return positions[passes() % 2];
    }
};

// A pass' key: the first one reads tokens.
template <bool FIRST>
__device__ __forceinline__ uint32_t sort_key(const TokenSort &s, int from, int64_t i) {
    if (!FIRST)
        return s.keys[from][i];
    const int32_t token = s.tokens[i];
    return static_cast<uint32_t>(token >= 0 && token < s.vocab ? token : s.vocab);
}

template <bool FIRST, typename Filler>
__global__ void __launch_bounds__(SORT_THREADS)
    count_kernel(const __grid_constant__ TokenSort s, int pass, const Filler filler) {
    __shared__ uint32_t count[DIGITS];
    const int64_t tiles = s.tiles(), begin = blockIdx.x * s.tile();
    const int64_t end = begin + s.tile() < s.T ? begin + s.tile() : s.T;
    const int shift = pass * DIGIT_BITS;
    wait_for_previous();
    let_next_start();
    if (blockIdx.x >= tiles) {
        filler.run(blockIdx.x - tiles);
        return;
    }
    count[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t i = begin + threadIdx.x; i < end; i += SORT_THREADS) {
        const uint32_t key = sort_key<FIRST>(s, pass % 2, i);
        if (FIRST && s.marks && key < static_cast<uint32_t>(s.vocab))
            s.marks[key] = 1;
        atomicAdd(&count[key >> shift & (DIGITS - 1)], 1u);
    }
    __syncthreads();
    s.counts[blockIdx.x * int64_t{DIGITS} + threadIdx.x] = count[threadIdx.x];
}

// The sum of x over the threads before this one.
__device__ __forceinline__ uint32_t sum_before(uint32_t x, uint32_t *warps) {
    const uint32_t lane = threadIdx.x % 32;
    uint32_t sum = x;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const uint32_t other = __shfl_up_sync(0xffffffffu, sum, step);
        sum += lane >= step ? other : 0;
    }
    if (lane == 31)
        warps[threadIdx.x / 32] = sum;
    __syncthreads();
    sum -= x;
#pragma unroll
    for (int w = 0; w < SORT_WARPS; ++w)
        sum += w < threadIdx.x / 32 ? warps[w] : 0;
    return sum;
}

template <bool FIRST, typename Filler>
__global__ void __launch_bounds__(SORT_THREADS)
    scatter_kernel(const __grid_constant__ TokenSort s, int pass, const Filler filler) {
    __shared__ uint32_t at[SORT_WARPS][DIGITS], warps[SORT_WARPS]; // a warp's keys of a digit
    const int64_t tiles = s.tiles(), begin = blockIdx.x * s.tile();
    const int64_t end = begin + s.tile() < s.T ? begin + s.tile() : s.T;
    const int shift = pass * DIGIT_BITS, from = pass % 2, warp = threadIdx.x / 32;
    wait_for_previous();
    let_next_start();
    if (blockIdx.x >= tiles) {
        filler.run(blockIdx.x - tiles);
        return;
    }
    // A thread a digit: all of it, and what tiles before have.
    uint32_t all = 0, next = 0;
#pragma unroll 16
    for (int64_t tile = 0; tile < tiles; ++tile) {
        const uint32_t count = s.counts[tile * DIGITS + threadIdx.x];
        all += count;
        next += tile < blockIdx.x ? count : 0;
    }
    next += sum_before(all, warps);
#pragma unroll
    for (int w = 0; w < SORT_WARPS; ++w)
        at[w][threadIdx.x] = 0;
    for (int64_t first = begin; first < end; first += SORT_THREADS) {
        const int64_t i = first + threadIdx.x;
        // Behind the end: a digit of its own, and no place.
        const uint32_t key = i < end ? sort_key<FIRST>(s, from, i) : 0;
        const uint32_t position = FIRST     ? static_cast<uint32_t>(i)
                                  : i < end ? s.positions[from][i]
                                            : 0;
        const uint32_t digit = key >> shift & (DIGITS - 1);
        const uint32_t same = __match_any_sync(0xffffffffu, i < end ? digit : DIGITS);
        const uint32_t rank = __popc(same & ((1u << threadIdx.x % 32) - 1));
        __syncthreads(); // zeros are there
        if (i < end && rank == 0)
            at[warp][digit] = __popc(same);
        __syncthreads();
#pragma unroll
        for (int w = 0; w < SORT_WARPS; ++w) {
            const uint32_t count = at[w][threadIdx.x];
            at[w][threadIdx.x] = next;
            next += count;
        }
        __syncthreads();
        if (i < end) {
            const uint32_t to = at[warp][digit] + rank;
            s.keys[1 - from][to] = key;
            s.positions[1 - from][to] = position;
        }
        __syncthreads();
#pragma unroll
        for (int w = 0; w < SORT_WARPS; ++w)
            at[w][threadIdx.x] = 0;
    }
}

// Enqueues all passes; fill(i) is the filler of step i of `steps`, for `fill_blocks` CTAs.
template <typename Filler, typename Fill>
cudaError_t launch_token_sort(const gdni_cuda_device *device, const TokenSort &s, int fill_blocks,
                              const Fill &fill, cudaStream_t stream) {
    const int steps = 2 * s.passes();
    for (int step = 0; step < steps; ++step) {
        const int pass = step / 2;
        const Filler filler = fill(step, steps);
        // Tokens that do not occur are not known before the first step's end.
        const int64_t blocks = s.tiles() + (step ? fill_blocks : 0);
        const auto kernel = step == 0   ? count_kernel<true, Filler>
                            : step == 1 ? scatter_kernel<true, Filler>
                            : step % 2  ? scatter_kernel<false, Filler>
                                        : count_kernel<false, Filler>;
        const dim3 grid(static_cast<unsigned>(blocks));
        const cudaError_t error =
            step ? launch_next(device, kernel, grid, SORT_THREADS, stream, s, pass, filler)
                 : launch_kernel(kernel, grid, SORT_THREADS, 0, stream, s, pass, filler);
        if (error != cudaSuccess)
            return error;
    }
    return cudaSuccess;
}

} // namespace gdni
