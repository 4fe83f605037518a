// The gates; math as in src/layer/gate.c:
//
//     beta = sigmoid(b),   g = -exp(A_log) softplus(u),   u = a + dt_bias
//     db = dbeta sigmoid(b) sigmoid(-b),   da = -dg exp(A_log) sigmoid(u)
//     dA_log = sum_t dg g,   ddt_bias = sum_t da
//
// A thread has VECTOR heads and every rows-th token of its CTA's range. fp32 within; sums over
// tokens: a thread's in fp32, those of a CTA in double in shared memory, a row [2 H] a CTA in the
// workspace.
#include "guard.h"
#include "launch.h"
#include "sums.cuh"
#include "vectors.cuh"

#include <algorithm>

namespace gdni {

namespace {

constexpr int THREADS = 256, AHEAD = 2; // tokens of a thread whose loads are under way together
constexpr int64_t SUM_BLOCKS = 512;

struct Gate {
    int64_t T, tokens; // of a CTA
    int32_t H;
    int32_t columns; // threads side by side over the heads, at most THREADS
    const void *a, *b;
    const float *A_log, *dt_bias, *dg, *dbeta;
    float *g, *beta;
    void *da, *db;
    float *partials; // [blocks][2][H]
};

struct Sigmoids {
    float plus, minus; // sigmoid(x), sigmoid(-x), neither of which cancels
};

__device__ __forceinline__ float exp_of_minus(float x) {
    return ex2_approx_ftz(-LOG2_E * x);
}

__device__ __forceinline__ Sigmoids sigmoids(float x) {
    const float e = exp_of_minus(fabsf(x)), q = rcp_approx_ftz(1.0f + e);
    return x < 0.0f ? Sigmoids{e * q, q} : Sigmoids{q, e * q};
}

// log(1 + e) for e in [0, 1], relative error below 1e-6: 2 artanh(s), s = e / (2 + e) <= 1/3.
__device__ __forceinline__ float log_one_plus(float e) {
    const float s = e * rcp_approx_ftz(2.0f + e), square = s * s;
    float p = 1.0f / 13.0f;
    p = fmaf(p, square, 1.0f / 11.0f);
    p = fmaf(p, square, 1.0f / 9.0f);
    p = fmaf(p, square, 1.0f / 7.0f);
    p = fmaf(p, square, 1.0f / 5.0f);
    p = fmaf(p, square, 1.0f / 3.0f);
    return 2.0f * fmaf(s * square, p, s);
}

__device__ __forceinline__ float softplus(float x) {
    return fmaxf(x, 0.0f) + log_one_plus(exp_of_minus(fabsf(x)));
}

// A thread's heads and tokens.
template <int VECTOR>
struct Place {
    int head, row, rows;
    int64_t begin, end;
    bool active;

    __device__ __forceinline__ explicit Place(const Gate &a) {
        rows = THREADS / a.columns;
        row = static_cast<int>(threadIdx.x) / a.columns;
        head =
            (static_cast<int>(blockIdx.y) * a.columns + static_cast<int>(threadIdx.x) % a.columns) *
            VECTOR;
        active = row < rows && head < a.H;
        begin = blockIdx.x * a.tokens;
        end = begin + a.tokens < a.T ? begin + a.tokens : a.T;
    }
};

// The vectors of a tensor that a thread loads together, zeros behind the end.
template <typename T, int VECTOR>
struct Ahead {
    vector_t<T, VECTOR> v[AHEAD];

    __device__ __forceinline__ void load(const void *from, const Gate &a, const Place<VECTOR> &at,
                                         int64_t t) {
#pragma unroll
        for (int k = 0; k < AHEAD; ++k) {
            v[k] = {};
            if (t + k * at.rows < at.end)
                v[k] = load_vector<T, VECTOR>(static_cast<const T *>(from) +
                                              (t + k * at.rows) * a.H + at.head);
        }
    }
};

template <typename T, int VECTOR>
__global__ void __launch_bounds__(THREADS) gate_forward_kernel(const __grid_constant__ Gate a) {
    const Place<VECTOR> at(a);
    if (!at.active)
        return;
    float decay[VECTOR], bias[VECTOR];
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
        decay[i] = -expf(a.A_log[at.head + i]);
        bias[i] = a.dt_bias[at.head + i];
    }
    for (int64_t t = at.begin + at.row; t < at.end; t += AHEAD * at.rows) {
        Ahead<T, VECTOR> raw_a, raw_b;
        raw_a.load(a.a, a, at, t);
        raw_b.load(a.b, a, at, t);
#pragma unroll
        for (int k = 0; k < AHEAD; ++k) {
            const int64_t i0 = (t + k * at.rows) * a.H + at.head;
            float g[VECTOR], beta[VECTOR];
            if (t + k * at.rows >= at.end)
                break;
            widen<T, VECTOR>(raw_a.v[k], g);
            widen<T, VECTOR>(raw_b.v[k], beta);
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                g[i] = decay[i] * softplus(g[i] + bias[i]);
                beta[i] = sigmoids(beta[i]).plus;
            }
            store_vector<float, VECTOR>(a.g + i0, g);
            store_vector<float, VECTOR>(a.beta + i0, beta);
        }
    }
}

template <typename T, int VECTOR>
__global__ void __launch_bounds__(THREADS) gate_backward_kernel(const __grid_constant__ Gate a) {
    __shared__ float sums[2 * VECTOR][THREADS];
    let_next_start();
    const Place<VECTOR> at(a);
    float decay[VECTOR], bias[VECTOR], dA[VECTOR] = {}, dt[VECTOR] = {};
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
        decay[i] = at.active ? -expf(a.A_log[at.head + i]) : 0.0f;
        bias[i] = at.active ? a.dt_bias[at.head + i] : 0.0f;
    }
    for (int64_t t = at.begin + at.row; at.active && t < at.end; t += AHEAD * at.rows) {
        Ahead<T, VECTOR> raw_a, raw_b;
        Ahead<float, VECTOR> raw_dg, raw_dbeta;
        raw_a.load(a.a, a, at, t);
        raw_b.load(a.b, a, at, t);
        raw_dg.load(a.dg, a, at, t);
        raw_dbeta.load(a.dbeta, a, at, t);
#pragma unroll
        for (int k = 0; k < AHEAD; ++k) {
            const int64_t i0 = (t + k * at.rows) * a.H + at.head;
            float u[VECTOR], b[VECTOR], dg[VECTOR], dbeta[VECTOR];
            if (t + k * at.rows >= at.end)
                break;
            widen<T, VECTOR>(raw_a.v[k], u);
            widen<T, VECTOR>(raw_b.v[k], b);
            widen<float, VECTOR>(raw_dg.v[k], dg);
            widen<float, VECTOR>(raw_dbeta.v[k], dbeta);
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                const float x = u[i] + bias[i];
                const Sigmoids of_b = sigmoids(b[i]);
                dg[i] *= decay[i];
                b[i] = dbeta[i] * of_b.plus * of_b.minus;
                u[i] = dg[i] * sigmoids(x).plus;
                dt[i] += u[i];
                dA[i] = fmaf(dg[i], softplus(x), dA[i]);
            }
            store_vector<T, VECTOR>(static_cast<T *>(a.da) + i0, u);
            store_vector<T, VECTOR>(static_cast<T *>(a.db) + i0, b);
        }
    }
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
        sums[i][threadIdx.x] = dA[i];
        sums[VECTOR + i][threadIdx.x] = dt[i];
    }
    __syncthreads();
    // The row: dA_log, then ddt_bias. Numbers j: heads i of vectors one behind the other.
    float *partial = a.partials + blockIdx.x * int64_t{2} * a.H;
    sum_groups<THREADS>(
        at.rows, 2 * VECTOR * a.columns,
        [&](int row, int j) { return sums[j / a.columns][row * a.columns + j % a.columns]; },
        [&](int j, float total) {
            const int i = j / a.columns, column = blockIdx.y * a.columns + j % a.columns;
            const int head = column * VECTOR + i % VECTOR;
            if (head < a.H)
                partial[i / VECTOR * a.H + head] = total;
        });
}

// CTAs over the tokens, each with a range of them; forward: more and shorter ones.
int64_t tokens_of(int64_t T, int32_t H, int vector, int64_t most) {
    const int64_t columns = std::min<int64_t>(ceil_div(H, vector), THREADS);
    const int64_t turn = AHEAD * (THREADS / columns);
    return std::max(ceil_div(ceil_div(T, most), turn), int64_t{1}) * turn;
}
int64_t sum_blocks(const gdn_gate &p, int vector) {
    return ceil_div(p.T, tokens_of(p.T, p.H, vector, SUM_BLOCKS));
}

bool aligned(const gdn_gate &p) {
    const size_t bytes = 4 * gdn_dtype_size(p.dtype);
    for (const void *x :
         {p.a, p.b, static_cast<const void *>(p.da), static_cast<const void *>(p.db)})
        if (!multiple_of(x, bytes))
            return false;
    for (const void *x :
         {p.dg, p.dbeta, static_cast<const void *>(p.g), static_cast<const void *>(p.beta)})
        if (!multiple_of(x, 16))
            return false;
    return p.H % 4 == 0;
}

template <typename T, int VECTOR>
cudaError_t run(const gdni_cuda_device *device, const gdn_gate &p, bool backward,
                cudaStream_t stream) {
    Gate a = {};
    a.T = p.T;
    a.H = p.H;
    a.columns = static_cast<int32_t>(std::min<int64_t>(ceil_div(p.H, VECTOR), THREADS));
    a.a = p.a, a.b = p.b;
    a.A_log = static_cast<const float *>(p.A_log);
    a.dt_bias = static_cast<const float *>(p.dt_bias);
    a.dg = static_cast<const float *>(p.dg), a.dbeta = static_cast<const float *>(p.dbeta);
    a.g = static_cast<float *>(p.g), a.beta = static_cast<float *>(p.beta);
    a.da = p.da, a.db = p.db;
    a.partials = static_cast<float *>(p.workspace);
    a.tokens = tokens_of(p.T, p.H, VECTOR, backward ? SUM_BLOCKS : INT32_MAX);
    const int64_t blocks = ceil_div(p.T, a.tokens);
    const dim3 grid(static_cast<unsigned>(blocks),
                    static_cast<unsigned>(ceil_div(p.H, int64_t{a.columns} * VECTOR)));
    if (!backward)
        return launch_kernel(gate_forward_kernel<T, VECTOR>, grid, THREADS, 0, stream, a);
    const cudaError_t error =
        launch_kernel(gate_backward_kernel<T, VECTOR>, grid, THREADS, 0, stream, a);
    if (error != cudaSuccess)
        return error;
    return launch_sum_rows(device,
                           {static_cast<float *>(p.dA_log), static_cast<float *>(p.ddt_bias),
                            a.partials, blocks, p.H, p.accumulate != 0},
                           stream);
}

template <typename T>
cudaError_t run(const gdni_cuda_device *device, const gdn_gate &p, bool backward,
                cudaStream_t stream) {
    return aligned(p) ? run<T, 4>(device, p, backward, stream)
                      : run<T, 1>(device, p, backward, stream);
}

} // namespace

} // namespace gdni

extern "C" {

int gdni_layer_gate(const gdni_cuda_device *device, const gdn_gate *p, int backward,
                    gdn_stream stream) {
    const gdni::DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    return p->dtype == GDN_DTYPE_BF16 ? gdni::run<gdni::bf16>(device, *p, backward != 0, stream)
                                      : gdni::run<float>(device, *p, backward != 0, stream);
}

size_t gdni_layer_gate_workspace(const gdn_gate *p) {
    // Whatever vectors the pointers will allow.
    const int64_t rows = std::max(gdni::sum_blocks(*p, 1), gdni::sum_blocks(*p, 4));
    return static_cast<size_t>(rows * 2 * p->H) * sizeof(float);
}

} // extern "C"
