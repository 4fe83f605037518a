// The scan over a plan's borders, K = V = 128, in fp32 and in place (portable/plan.cu says of
// what):
//
//     S(b)  = N(b) + M(b) S(b - 1)           from the left
//     dS(b) = n(b) + M(b + 1)^T dS(b + 1)    from the right
//
// One CTA per (head, 8 columns of V, direction). Warp w makes the products over 16 of the 128
// terms, four of the 128 outputs and all 8 columns a lane; the warps' sums are added through shared
// memory. The next matrix comes from the copy engine meanwhile, [4][128][32] floats with the
// 128-byte swizzle, so that neither lanes along a row nor lanes along a column meet bank conflicts.
#pragma once

#include "common/matrix.cuh"
#include "common/mbarrier.cuh"
#include "common/tma.cuh"
#include "hopper/shape.h"
#include "portable/arguments.h"

namespace gdni {
namespace hopper {

struct ScanShape {
    static constexpr int COLUMNS = 8, WARPS = 8, THREADS = 32 * WARPS;
    static constexpr int DEPTH = HEAD_DIM / WARPS; // terms of a warp
    static constexpr uint32_t MATRIX = HEAD_DIM * HEAD_DIM * sizeof(float), BLOCK = MATRIX / 4;
    static constexpr uint32_t PARTS = 2 * MATRIX; // [warp][output][column]
    static constexpr uint32_t STATE = PARTS + WARPS * HEAD_DIM * COLUMNS * sizeof(float);
    static constexpr uint32_t FULL = STATE + HEAD_DIM * COLUMNS * sizeof(float); // mbarriers
    static constexpr uint32_t BYTES = FULL + 2 * 8;
};

struct ScanParameters {
    Arguments a;
    CUtensorMap matrices; // pool_transfer
};

// What happens at a segment's left border.
enum class ScanStep : unsigned char {
    NOTHING, // its head decays there
    BEGIN,   // N or n is all
    GO_ON    // a product with the state of the border before
};

__device__ __forceinline__ void scan_columns(float (&x)[ScanShape::COLUMNS], const float *from) {
    const float4 low = *reinterpret_cast<const float4 *>(from);
    const float4 high = *reinterpret_cast<const float4 *>(from + 4);
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
    x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
}

// This warp's terms of M y or M^T y: outputs lane + 32 i of M y, 4 lane + i of M^T y.
template <bool GRADIENTS>
__device__ __forceinline__ void scan_multiply(float (&sum)[4][ScanShape::COLUMNS],
                                              const unsigned char *m, const float *y) {
    constexpr int COLUMNS = ScanShape::COLUMNS;
    const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * ScanShape::DEPTH;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c)
            sum[i][c] = 0.0f;
#pragma unroll
    for (int t = first; t < first + ScanShape::DEPTH; t += 4) {
        float4 block[4]; // [output][term], or [term][output]
#pragma unroll
        for (int i = 0; i < 4; ++i)
            block[i] = *reinterpret_cast<const float4 *>(
                m + (GRADIENTS ? lane / 8 * ScanShape::BLOCK + swizzled(t + i, lane % 8)
                               : t / 32 * ScanShape::BLOCK + swizzled(lane + 32 * i, t % 32 / 4)));
        const float(&b)[4][4] = reinterpret_cast<const float(&)[4][4]>(block);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            float x[COLUMNS];
            scan_columns(x, y + (t + e) * COLUMNS);
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int c = 0; c < COLUMNS; ++c)
                    sum[i][c] = fmaf(GRADIENTS ? b[e][i] : b[i][e], x[c], sum[i][c]);
        }
    }
}

template <bool GRADIENTS>
__device__ __forceinline__ void scan_head(const ScanParameters &p) {
    using Shape = ScanShape;
    const Arguments &a = p.a;
    constexpr int COLUMNS = Shape::COLUMNS;
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ ScanStep steps[Shape::THREADS];
    const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(memory));
    float *parts = reinterpret_cast<float *>(memory + Shape::PARTS);
    float *y = reinterpret_cast<float *>(memory + Shape::STATE);
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32, head = blockIdx.x;
    // What this thread adds up: four columns of one row.
    const int row = tid / 2, quarter = tid % 2 * 4;
    const int64_t place = row * HEAD_DIM + blockIdx.y * COLUMNS + quarter;
    float *pool = GRADIENTS ? a.pool_grads : a.pool_states;
    const int64_t segments = a.segment_start[a.N];
    // Segments with their left borders, in the order of the scan; a sequence's first has none.
    const auto item_at = [&](int64_t i) {
        return a.items + (GRADIENTS ? segments - 1 - i : i) * a.Hv + head;
    };
    if (tid == 0) {
        mbarrier_init(shared + Shape::FULL, 1);
        mbarrier_init(shared + Shape::FULL + 8, 1);
        fence_mbarrier_init();
    }
    int loaded = 0, used = 0; // matrices
    for (int64_t first = 0; first < segments; first += Shape::THREADS) {
        const int count = static_cast<int>(min(segments - first, int64_t{Shape::THREADS}));
        if (tid < count) {
            const gdni_work_item *item = item_at(first + tid);
            const bool border = !(item->flags & GDNI_ITEM_FIRST);
            steps[tid] = !border || item->entry != GDNI_START_EXACT ? ScanStep::NOTHING
                         : (GRADIENTS ? item->exit : (item - a.Hv)->entry) == GDNI_START_EXACT
                             ? ScanStep::GO_ON
                             : ScanStep::BEGIN;
        }
        __syncthreads();
        // The matrix that is loaded next: of the segment beyond the border, seen from where the
        // scan comes.
        int ahead = 0;
        const auto load = [&] {
            while (ahead < count && steps[ahead] != ScanStep::GO_ON)
                ++ahead;
            if (ahead == count)
                return;
            if (tid == 0) {
                const int buffer = loaded & 1;
                const uint32_t full = shared + Shape::FULL + 8 * buffer;
                mbarrier_arrive_expect_tx(full, Shape::MATRIX);
                cp_async_bulk_tensor_load(shared + buffer * Shape::MATRIX, p.matrices, 0, 0,
                                          item_at(first + ahead)->slot + (GRADIENTS ? a.Hv : 0),
                                          full);
            }
            ++loaded;
            ++ahead;
        };
        load();
        for (int s = 0; s < count; ++s) {
            if (steps[s] == ScanStep::NOTHING)
                continue;
            float4 *n = reinterpret_cast<float4 *>(
                pool + item_at(first + s)->slot * static_cast<int64_t>(HEAD_DIM * HEAD_DIM) +
                place);
            float4 x = *n;
            if (steps[s] == ScanStep::GO_ON) {
                load();
                const int buffer = used & 1;
                mbarrier_wait(shared + Shape::FULL + 8 * buffer, used >> 1 & 1);
                ++used;
                float sum[4][COLUMNS];
                scan_multiply<GRADIENTS>(sum, memory + buffer * Shape::MATRIX, y);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int output = GRADIENTS ? 4 * lane + i : lane + 32 * i;
                    float4 *to =
                        reinterpret_cast<float4 *>(parts + (warp * HEAD_DIM + output) * COLUMNS);
                    to[0] = make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
                    to[1] = make_float4(sum[i][4], sum[i][5], sum[i][6], sum[i][7]);
                }
                __syncthreads();
#pragma unroll
                for (int w = 0; w < Shape::WARPS; ++w) {
                    const float4 part = *reinterpret_cast<const float4 *>(
                        parts + (w * HEAD_DIM + row) * COLUMNS + quarter);
                    x.x += part.x, x.y += part.y, x.z += part.z, x.w += part.w;
                }
                *n = x;
            }
            *reinterpret_cast<float4 *>(y + row * COLUMNS + quarter) = x;
            __syncthreads();
        }
        __syncthreads();
    }
}

__global__ void __launch_bounds__(ScanShape::THREADS, 1)
    scan_kernel(const __grid_constant__ ScanParameters p, int first_kind) {
    griddepcontrol_wait();
    griddepcontrol_launch_dependents();
    if (*p.a.task_count == 0)
        return;
    if (first_kind + blockIdx.z == 1)
        scan_head<true>(p);
    else
        scan_head<false>(p);
}

} // namespace hopper
} // namespace gdni
