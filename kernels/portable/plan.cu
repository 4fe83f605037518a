// The plan of work items, and the exact states at the borders between its segments. The rules and
// the cost model are in src/plan/plan.h; here they run on the device, from the bounds that stage 1
// leaves, so that nothing goes to the host.
//
//     choose   one CTA: sequences and gates -> the length of a segment, segments by sequence;
//              where they are few, the items too
//     items    a thread per (segment, head): the work item, the tasks of the exact pass
//     scan     a CTA per (head, 8 columns of V) goes through the exact borders, in fp32 and in place:
//
//                  S(b)  = N(b) + M(b) S(b - 1)           from the left
//                  dS(b) = n(b) + M(b + 1)^T dS(b + 1)    from the right
//
//              where the exact pass has left N, n and M. Matrices pass through a ring in shared
//              memory, a block of 32 rows at a time, as many blocks ahead as there is room for.
//
// The order of the tasks differs from run to run; nothing that they compute depends on it.
#include "../hopper/launch.h"
#include "stages.h"
#include "tile.cuh"

namespace gdni {

namespace {

constexpr int THREADS = 512, FEW = 1024; // items
constexpr int CANDIDATES = GDNI_PLAN_CANDIDATES;

__device__ gdni_plan_problem plan_problem(const Arguments &a) {
    gdni_plan_problem p = a.plan;
    p.chunk_start = a.chunk_start;
    p.bounds = a.bounds;
    return p;
}

template <typename X>
__device__ X warp_total(X x) {
    for (int step = 16; step > 0; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
__device__ int64_t warp_most(int64_t x) {
    for (int step = 16; step > 0; step /= 2) {
        const int64_t other = __shfl_xor_sync(0xffffffffu, x, step);
        x = other > x ? other : x;
    }
    return x;
}

// Where item i is, once segment_start is known: head and segment, of `count` of sequence n, from
// the sequence's `first`.
struct Place {
    int64_t segment, n, first, count;
    int32_t head;
    __device__ Place(const Arguments &a, int64_t i)
        : segment(gdni_plan_divide(i, a.Hv)), n(0), head(static_cast<int32_t>(i - segment * a.Hv)) {
        int64_t end = a.N; // segment_start[n] <= segment < segment_start[end]
#pragma unroll 1
        while (end - n > 1) {
            const int64_t middle = (n + end) / 2;
            if (a.segment_start[middle] <= segment)
                n = middle;
            else
                end = middle;
        }
        first = a.segment_start[n];
        count = a.segment_start[n + 1] - first;
    }
};

// Chunks of warm-up beside the border on an item's left, if it has one.
__device__ int64_t warm_up(const Arguments &a, int64_t i, int right) {
    const Place at(a, i);
    const gdni_plan_problem p = plan_problem(a);
    return at.segment > at.first
               ? gdni_plan_side(&p, at.n, at.segment - at.first, at.count, at.head, right)
               : 0;
}

// Item i and its tasks, between two borders; `count` of tasks.
__device__ void make_item(const Arguments &a, int64_t i, gdni_plan_border left,
                          gdni_plan_border right, int32_t *count) {
    const Place at(a, i);
    const gdni_plan_problem p = plan_problem(a);
    const gdni_work_item item =
        gdni_plan_item(&p, at.n, at.segment, at.segment - at.first, at.count, at.head, left, right);
    a.items[i] = item;
    const int64_t task[TASKS] = {(i + a.Hv) * TASKS + TASK_STATE, i * TASKS + TASK_GRADIENT,
                                 (i + a.Hv) * TASKS + TASK_TRANSFER};
    const bool wanted[TASKS] = {item.flags & GDNI_ITEM_STATE && a.pool_states,
                                item.flags & GDNI_ITEM_GRADIENT && a.pool_grads,
                                (item.flags & GDNI_ITEM_TRANSFER) != 0};
    const int tasks = wanted[0] + wanted[1] + wanted[2];
    if (tasks == 0)
        return;
    int32_t next = atomicAdd(count, tasks);
#pragma unroll
    for (int t = 0; t < TASKS; ++t)
        if (wanted[t])
            a.tasks[next++] = static_cast<int32_t>(task[t]);
}

// NOTE: run once by one CTA, most of its time is waiting for its own instructions: code that is
// there twice, or unrolled, costs more than it saves.
__global__ void __launch_bounds__(THREADS)
    choose_kernel(const __grid_constant__ Arguments a, bool items_too) {
    __shared__ gdni_plan_candidate candidates[CANDIDATES];
    __shared__ int32_t falls[GDNI_PLAN_MAX_HEADS];
    __shared__ int64_t longest[THREADS / 32];
    __shared__ gdni_plan_choice choice;
    __shared__ int64_t warp_sums[THREADS / 32];
    __shared__ int32_t warm_ups[2][FEW];
    __shared__ int32_t tasks;
    let_next_start();
    wait_for_previous();
    const gdni_plan_problem p = plan_problem(a);
    const int64_t total = a.chunk_start[a.N];
    const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, lane = tid % 32;
    const auto chunks_of = [&](int64_t n) { return a.chunk_start[n + 1] - a.chunk_start[n]; };
    int64_t most = 1;
#pragma unroll 1
    for (int64_t n = tid; n < a.N; n += THREADS)
        most = chunks_of(n) > most ? chunks_of(n) : most;
    most = warp_most(most);
    if (lane == 0)
        longest[warp] = most;
    if (tid == 0) {
        choice = {1, p.segments ? p.segments : 1, 0};
        tasks = 0;
    }
    __syncthreads();
    most = warp_most(longest[lane % (THREADS / 32)]);
    if (p.segments == 0 && most >= p.shortest) {
        const int64_t stride = gdni_plan_stride(total);
#pragma unroll 1
        for (int h = warp; h < p.Hv; h += THREADS / 32) {
            int32_t sum = 0;
#pragma unroll
            for (int i = 0; i < GDNI_PLAN_SAMPLES; i += 32)
                if ((i + lane) * stride < total)
                    sum += gdni_plan_fall(a.bounds[(i + lane) * stride * p.Hv + h]);
            sum = warp_total(sum);
            if (lane == 0)
                falls[h] = sum;
        }
        __syncthreads();
#pragma unroll 1
        for (int i = warp; i < CANDIDATES; i += THREADS / 32) {
            gdni_plan_candidate c = {};
            c.length = gdni_plan_divide(most + gdni_plan_parts(i) - 1, gdni_plan_parts(i));
            const gdni_plan_choice tried = {c.length, INT64_MAX, 0};
#pragma unroll 1
            for (int64_t n = lane; n < a.N; n += 32) {
                const int64_t count = gdni_plan_segments(&tried, chunks_of(n));
                c.segments += count;
                c.cut += count > 1;
            }
#pragma unroll 1
            for (int h = lane; h < p.Hv; h += 32) {
                const int64_t warm = gdni_plan_estimate(&p, falls[h], total);
                if (warm <= c.length) {
                    c.warm_sum += warm;
                    c.warm_max = warm > c.warm_max ? warm : c.warm_max;
                } else {
                    ++c.exact_heads;
                }
            }
            c.segments = warp_total(c.segments);
            c.cut = warp_total(c.cut);
            c.exact_heads = warp_total(c.exact_heads);
            c.warm_sum = warp_total(c.warm_sum);
            c.warm_max = warp_most(c.warm_max);
            gdni_plan_cost(&p, &c, total);
            if (lane == 0)
                candidates[i] = c;
        }
        __syncthreads();
        if (tid == 0)
            choice = gdni_plan_choose(&p, candidates);
    }
    __syncthreads();
    // segment_start: an exclusive sum, THREADS sequences at a time.
    int64_t base = 0;
#pragma unroll 1
    for (int64_t first = 0; first < a.N; first += THREADS) {
        const int64_t n = first + tid;
        const int64_t count = n < a.N ? gdni_plan_segments(&choice, chunks_of(n)) : 0;
        int64_t sum = count;
        for (int step = 1; step < 32; step *= 2) {
            const int64_t other = __shfl_up_sync(0xffffffffu, sum, step);
            if (lane >= step)
                sum += other;
        }
        if (lane == 31)
            warp_sums[warp] = sum;
        __syncthreads();
        int64_t before = 0, all = 0;
#pragma unroll 1
        for (int w = 0; w < THREADS / 32; ++w) {
            if (w == warp)
                before = all;
            all += warp_sums[w];
        }
        if (n < a.N)
            a.segment_start[n] = base + before + sum - count;
        base += all;
        __syncthreads();
    }
    const int64_t items = base * a.Hv;
    if (tid == 0) {
        a.segment_start[a.N] = base;
        *a.item_count = static_cast<int32_t>(items);
        *a.narrow =
            p.segments == 0 && choice.most > 1 ? choice.narrow : gdni_plan_narrow(&p.model, items);
        *a.task_count = 0;
    }
    __syncthreads();
    if (!items_too)
        return;
#pragma unroll 1
    for (int i = tid; i < 2 * items; i += THREADS) {
        const int right = i >= items, item = right ? i - static_cast<int>(items) : i;
        warm_ups[right][item] = static_cast<int32_t>(warm_up(a, item, right));
    }
    __syncthreads();
    const auto border = [&](int i) { return gdni_plan_cross(warm_ups[0][i], warm_ups[1][i]); };
#pragma unroll 1
    for (int i = tid; i < items; i += THREADS)
        make_item(a, i, border(i), i + a.Hv < items ? border(i + a.Hv) : gdni_plan_cross(0, 0),
                  &tasks);
    __syncthreads();
    if (tid == 0)
        *a.task_count = tasks;
}

__global__ void items_kernel(const __grid_constant__ Arguments a) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const int64_t items = a.segment_start[a.N] * a.Hv;
    if (i >= items)
        return;
    gdni_plan_border border[2] = {};
#pragma unroll 1
    for (int side = 0; side < 2; ++side) {
        const int64_t at = i + side * a.Hv;
        const int64_t left = at < items ? warm_up(a, at, 0) : 0;
        border[side] = gdni_plan_cross(left, left ? warm_up(a, at, 1) : 0);
    }
    make_item(a, i, border[0], border[1], a.task_count);
}

constexpr int SCAN_COLUMNS = 8, SCAN_ROWS = 32, SCAN_THREADS = SCAN_COLUMNS * SCAN_ROWS;
constexpr int SCAN_DEPTH = 8; // blocks in the ring, at most
static_assert(SCAN_THREADS * 4 >= 4 * 256, "four rows a thread cover K = 256");

struct ScanShape {
    int blocks, ld; // blocks of a matrix; floats of a row in shared memory
    int depth;      // blocks in the ring
    __host__ __device__ ScanShape(int K, size_t shared_memory)
        : blocks((K + SCAN_ROWS - 1) / SCAN_ROWS), ld(K + 4), depth(SCAN_DEPTH) {
        while (depth > 2 && bytes() + 1024 > shared_memory) // 1024: what is static
            --depth;
    }
    __host__ __device__ size_t bytes() const { // the ring and two states [column][K]
        return sizeof(float) * static_cast<size_t>(ld) * (depth * SCAN_ROWS + 2 * SCAN_COLUMNS);
    }
};

// One block of a matrix into the ring.
__device__ void scan_load(float *to, const ScanShape &shape, const float *matrix, int block,
                          int K) {
    const int pieces = K / 4;
    for (int i = static_cast<int>(threadIdx.x); i < SCAN_ROWS * pieces; i += SCAN_THREADS) {
        const int row = block * SCAN_ROWS + i / pieces, column = i % pieces * 4;
        cp_async_16(to + i / pieces * shape.ld + column, matrix + (row < K ? row * K : 0) + column,
                    row < K ? 16 : 0);
    }
}

__device__ float dot(const float4 &x, const float4 &y, float sum) {
    return fmaf(x.x, y.x, fmaf(x.y, y.y, fmaf(x.z, y.z, fmaf(x.w, y.w, sum))));
}

// Products with one block m of a matrix: this thread's row of M y, added to sum.
__device__ float scan_row(const float *m, const float *y, int K, float sum) {
    float other = 0.0f;
#pragma unroll 4
    for (int j = 0; j < K; j += 8) {
        sum = dot(*reinterpret_cast<const float4 *>(m + j),
                  *reinterpret_cast<const float4 *>(y + j), sum);
        other = dot(*reinterpret_cast<const float4 *>(m + j + 4),
                    *reinterpret_cast<const float4 *>(y + j + 4), other);
    }
    return sum + other;
}

// The same of M^T y: rows 4 r + 128 k + e of it, of which the block gives `rows` terms each.
__device__ void scan_transposed(float (&x)[2][4], const float *m, int ld, const float *y, int rows,
                                int r, int K) {
    for (int j = 0; j < rows; ++j) {
        const float z = y[j];
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            if (4 * r + 128 * k >= K)
                continue;
            const float4 w = *reinterpret_cast<const float4 *>(m + j * ld + 4 * r + 128 * k);
            x[k][0] = fmaf(w.x, z, x[k][0]), x[k][1] = fmaf(w.y, z, x[k][1]);
            x[k][2] = fmaf(w.z, z, x[k][2]), x[k][3] = fmaf(w.w, z, x[k][3]);
        }
    }
}

// What the scan does at a border.
enum ScanStep : unsigned char {
    SCAN_NOTHING, // its head decays there
    SCAN_BEGIN,   // N or n is all
    SCAN_GO_ON    // a product with the state of the border before
};

// blockIdx: head, columns of V, states or gradients.
template <bool GRADIENTS>
__device__ void scan(const Arguments &a) {
    extern __shared__ __align__(16) float ring[];
    __shared__ ScanStep steps[SCAN_THREADS];
    const ScanShape shape(a.K, a.shared_memory);
    const int tid = static_cast<int>(threadIdx.x), head = static_cast<int>(blockIdx.x);
    const int c = tid % SCAN_COLUMNS, r = tid / SCAN_COLUMNS;
    const int column = static_cast<int>(blockIdx.y) * SCAN_COLUMNS + c;
    const bool inside = column < a.V;
    float *y = ring + shape.depth * SCAN_ROWS * shape.ld, *next = y + SCAN_COLUMNS * shape.ld;
    const int64_t KV = static_cast<int64_t>(a.K) * a.V, K2 = static_cast<int64_t>(a.K) * a.K;
    const int64_t segments = a.segment_start[a.N];
    // Segments with their left borders, in the order of the scan; a sequence's first has none.
    const auto item_at = [&](int64_t i) {
        return a.items + (GRADIENTS ? segments - 1 - i : i) * a.Hv + head;
    };
    for (int64_t first = 0; first < segments; first += SCAN_THREADS) {
        const int count = static_cast<int>(min(segments - first, int64_t{SCAN_THREADS}));
        if (tid < count) {
            const gdni_work_item *item = item_at(first + tid);
            const bool border = !(item->flags & GDNI_ITEM_FIRST);
            steps[tid] = !border || item->entry != GDNI_START_EXACT ? SCAN_NOTHING
                         : (GRADIENTS ? item->exit : (item - a.Hv)->entry) == GDNI_START_EXACT
                             ? SCAN_GO_ON
                             : SCAN_BEGIN;
        }
        __syncthreads();
        // The block of a matrix that is loaded next: of the segment beyond the border, seen from
        // where the scan comes.
        int ahead = 0, ahead_block = 0, loaded = 0, used = 0;
        const auto load = [&] {
            while (ahead < count && steps[ahead] != SCAN_GO_ON)
                ++ahead;
            if (ahead < count) {
                const int64_t slot = item_at(first + ahead)->slot + (GRADIENTS ? a.Hv : 0);
                scan_load(ring + loaded % shape.depth * SCAN_ROWS * shape.ld, shape,
                          a.pool_transfer + slot * K2, ahead_block, a.K);
                ++loaded;
                if (++ahead_block == shape.blocks) {
                    ahead_block = 0;
                    ++ahead;
                }
            }
            cp_async_commit_group();
        };
        for (int i = 0; i < SCAN_DEPTH - 1; ++i) // groups are counted: always so many in flight
            if (i < shape.depth - 1)
                load();
            else
                cp_async_commit_group();
        for (int s = 0; s < count; ++s) {
            if (steps[s] == SCAN_NOTHING)
                continue;
            const int64_t slot = item_at(first + s)->slot;
            float *n = (GRADIENTS ? a.pool_grads : a.pool_states) + slot * KV + column;
            float x[2][4] = {};
            if (steps[s] == SCAN_BEGIN)
                for (int row = r; row < a.K; row += SCAN_ROWS)
                    next[c * shape.ld + row] = inside ? n[static_cast<int64_t>(row) * a.V] : 0.0f;
            for (int block = 0; steps[s] == SCAN_GO_ON && block < shape.blocks; ++block) {
                const int row = block * SCAN_ROWS + r;
                const float *m = ring + used++ % shape.depth * SCAN_ROWS * shape.ld;
                float sum =
                    !GRADIENTS && inside && row < a.K ? n[static_cast<int64_t>(row) * a.V] : 0.0f;
                if (shape.depth == SCAN_DEPTH)
                    cp_async_wait_group<SCAN_DEPTH - 2>();
                else
                    cp_async_wait_group<0>();
                __syncthreads();
                load();
                if (GRADIENTS) {
                    scan_transposed(x, m, shape.ld, y + c * shape.ld + block * SCAN_ROWS,
                                    min(SCAN_ROWS, a.K - block * SCAN_ROWS), r, a.K);
                } else if (row < a.K) {
                    sum = scan_row(m + r * shape.ld, y + c * shape.ld, a.K, sum);
                    next[c * shape.ld + row] = sum;
                    if (inside)
                        n[static_cast<int64_t>(row) * a.V] = sum;
                }
            }
            if (GRADIENTS && steps[s] == SCAN_GO_ON) {
#pragma unroll
                for (int k = 0; k < 2; ++k)
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        const int row = 4 * r + 128 * k + e;
                        if (row >= a.K)
                            continue;
                        if (inside) {
                            x[k][e] += n[static_cast<int64_t>(row) * a.V];
                            n[static_cast<int64_t>(row) * a.V] = x[k][e];
                        }
                        next[c * shape.ld + row] = x[k][e];
                    }
            }
            __syncthreads();
            float *kept = y;
            y = next;
            next = kept;
        }
        cp_async_wait_group<0>();
        __syncthreads();
    }
}

__global__ void __launch_bounds__(SCAN_THREADS)
    scan_kernel(const __grid_constant__ Arguments a, int first_kind) {
    if (*a.task_count == 0)
        return;
    if (first_kind + blockIdx.z == 1)
        scan<true>(a);
    else
        scan<false>(a);
}

} // namespace

cudaError_t launch_plan(const Arguments &a, cudaStream_t stream) {
    const bool few = a.max_items <= FEW;
    const cudaError_t error =
        a.capability >= 90
            ? hopper::launch_early(choose_kernel, dim3(1), THREADS, 0, stream, a, few)
            : launch_kernel(choose_kernel, dim3(1), THREADS, 0, stream, a, few);
    if (error != cudaSuccess || few)
        return error;
    return launch_kernel(items_kernel, dim3(static_cast<unsigned>((a.max_items + 63) / 64)), 64, 0,
                         stream, a);
}

cudaError_t launch_scan(const Arguments &a, bool states, bool gradients, cudaStream_t stream) {
    const dim3 grid(static_cast<unsigned>(a.Hv),
                    static_cast<unsigned>((a.V + SCAN_COLUMNS - 1) / SCAN_COLUMNS),
                    states && gradients ? 2 : 1);
    return launch_kernel(scan_kernel, grid, SCAN_THREADS, ScanShape(a.K, a.shared_memory).bytes(),
                         stream, a, states ? 0 : 1);
}

} // namespace gdni
