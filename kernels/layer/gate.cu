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
#include "portable/stages.h"
#include "sums.cuh"
#include "vectors.cuh"

#include <algorithm>

namespace gdni {

namespace {

constexpr int THREADS = 256;
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
#pragma unroll 2
    for (int64_t t = at.begin + at.row; t < at.end; t += at.rows) {
        const int64_t i0 = t * a.H + at.head;
        float g[VECTOR], beta[VECTOR];
        widen<T, VECTOR>(load_vector<T, VECTOR>(static_cast<const T *>(a.a) + i0), g);
        widen<T, VECTOR>(load_vector<T, VECTOR>(static_cast<const T *>(a.b) + i0), beta);
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
            g[i] = decay[i] * softplus(g[i] + bias[i]);
            beta[i] = sigmoids(beta[i]).plus;
        }
        store_vector<float, VECTOR>(a.g + i0, g);
        store_vector<float, VECTOR>(a.beta + i0, beta);
    }
}

template <typename T, int VECTOR>
__global__ void __launch_bounds__(THREADS) gate_backward_kernel(const __grid_constant__ Gate a) {
    __shared__ float sums[2 * VECTOR][THREADS];
    const Place<VECTOR> at(a);
    float decay[VECTOR], bias[VECTOR], dA[VECTOR] = {}, dt[VECTOR] = {};
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
        decay[i] = at.active ? -expf(a.A_log[at.head + i]) : 0.0f;
        bias[i] = at.active ? a.dt_bias[at.head + i] : 0.0f;
    }
#pragma unroll 2
    for (int64_t t = at.begin + at.row; at.active && t < at.end; t += at.rows) {
        const int64_t i0 = t * a.H + at.head;
        float u[VECTOR], b[VECTOR], dg[VECTOR], dbeta[VECTOR];
        widen<T, VECTOR>(load_vector<T, VECTOR>(static_cast<const T *>(a.a) + i0), u);
        widen<T, VECTOR>(load_vector<T, VECTOR>(static_cast<const T *>(a.b) + i0), b);
        widen<float, VECTOR>(load_vector<float, VECTOR>(a.dg + i0), dg);
        widen<float, VECTOR>(load_vector<float, VECTOR>(a.dbeta + i0), dbeta);
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
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
        sums[i][threadIdx.x] = dA[i];
        sums[VECTOR + i][threadIdx.x] = dt[i];
    }
    __syncthreads();
    float *partial = a.partials + blockIdx.x * int64_t{2} * a.H;
    for (int j = threadIdx.x; j < 2 * VECTOR * a.columns; j += THREADS) {
        const int column = j / VECTOR % a.columns, i = j % VECTOR, of_dt = j / (VECTOR * a.columns);
        const int head = (static_cast<int>(blockIdx.y) * a.columns + column) * VECTOR + i;
        double total = 0.0;
        for (int row = 0; row < at.rows; ++row)
            total += static_cast<double>(sums[of_dt * VECTOR + i][row * a.columns + column]);
        if (head < a.H)
            partial[of_dt * a.H + head] = static_cast<float>(total);
    }
}

int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// CTAs over the tokens, each with a range of them; forward: more and shorter ones.
int64_t tokens_of(int64_t T, int32_t H, int vector, int64_t most) {
    const int64_t columns = std::min<int64_t>(ceil_div(H, vector), THREADS);
    const int64_t turn = THREADS / columns;
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
cudaError_t run(const gdn_gate &p, bool backward, cudaStream_t stream) {
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
    return launch_sum_rows({static_cast<float *>(p.dA_log), static_cast<float *>(p.ddt_bias),
                            a.partials, blocks, p.H, p.accumulate != 0},
                           stream);
}

template <typename T>
cudaError_t run(const gdn_gate &p, bool backward, cudaStream_t stream) {
    return aligned(p) ? run<T, 4>(p, backward, stream) : run<T, 1>(p, backward, stream);
}

} // namespace

} // namespace gdni

extern "C" {

int gdni_layer_gate(const gdni_cuda_device *device, const gdn_gate *p, int backward,
                    gdn_stream stream) {
    const gdni::DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    return p->dtype == GDN_DTYPE_BF16 ? gdni::run<gdni::bf16>(*p, backward != 0, stream)
                                      : gdni::run<float>(*p, backward != 0, stream);
}

size_t gdni_layer_gate_workspace(const gdn_gate *p) {
    // Whatever vectors the pointers will allow.
    const int64_t rows = std::max(gdni::sum_blocks(*p, 1), gdni::sum_blocks(*p, 4));
    return static_cast<size_t>(rows * 2 * p->H) * sizeof(float);
}

} // extern "C"
