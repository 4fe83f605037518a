// The stages' launchers, one instantiation per dtype, and how they launch.
#pragma once

#include "arguments.h"

namespace gdni {

// First token of sequence n; n = N: the end of the last one. Bounds outside 0 .. T are clamped, so
// that bad ones make no kernel read or write outside the tensors.
__device__ inline int64_t sequence_start(const Arguments &a, int64_t n) {
    if (!a.cu_seqlens)
        return n * (a.T / a.N);
    const int64_t start = a.cu_seqlens[n];
    return start < 0 ? 0 : start > a.T ? a.T : start;
}

// Where kernels overlap (Arguments::arrivals; hopper/launch.h): the next one on the stream may
// start; the one before has ended, and what it waited for. Nothing elsewhere.
__device__ inline void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

// Enqueues one kernel; shared memory beyond 48 KB has to be asked for.
template <typename... Parameters>
cudaError_t launch_kernel(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared,
                          cudaStream_t stream, Parameters... values) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0)
        return cudaSuccess;
    const void *function = reinterpret_cast<const void *>(kernel);
    if (shared > 48 * 1024) {
        const cudaError_t error = cudaFuncSetAttribute(
            function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
        if (error != cudaSuccess)
            return error;
    }
    void *arguments[] = {static_cast<void *>(&values)...};
    return cudaLaunchKernel(function, grid, dim3(static_cast<unsigned>(threads)), arguments, shared,
                            stream);
}

// Stage 1: gate tables, inverses and, where q is given, scores of every chunk.
template <typename T>
cudaError_t launch_prepare(const Arguments &a, cudaStream_t stream);

// Stage 2 of forward: o, final_state; states and delta where they are not NULL.
template <typename T>
cudaError_t launch_forward(const Arguments &a, const gdni_chain_shape &shape, cudaStream_t stream);

// Stage 2 of backward: the chain of states (states, delta, final_state) if forward, the chain of
// their gradients (state_grads, delta_grads, dh0) if backward, both in one launch.
template <typename T>
cudaError_t launch_chains(const Arguments &a, const gdni_chain_shape &shape, bool forward,
                          bool backward, cudaStream_t stream);

// The exact pass of a plan, before stage 2: exit states and entry gradients from zero or from what
// is given, transfer matrices, for the borders that need them, into the pools.
template <typename T>
cudaError_t launch_exact(const Arguments &a, const gdni_chain_shape &shape, bool states,
                         bool gradients, cudaStream_t stream);

// Stage 3 of backward: dq, dk, dv, dg, dbeta.
template <typename T>
cudaError_t launch_gradients(const Arguments &a, cudaStream_t stream);

// What dg and dbeta, complete but for it, lose where 16-bit tiles hold the caller's states.
template <typename T>
cudaError_t launch_ends(const Arguments &a, cudaStream_t stream);

// Shared memory that these stages need at most, bytes.
template <typename T>
size_t gradients_shared_memory(int K);

// The chunk table from cu_seqlens; the work items where no sequence is cut (plan.segments = 1).
cudaError_t launch_index(const Arguments &a, int chunk, cudaStream_t stream);
// The work items otherwise, from the bounds that stage 1 has written.
cudaError_t launch_plan(const Arguments &a, cudaStream_t stream);
// The pools' states and gradients, from what the exact pass has left there.
cudaError_t launch_scan(const Arguments &a, bool states, bool gradients, cudaStream_t stream);
// Host cu_seqlens [N + 1] to device memory, by value in kernel arguments: the host copy may go.
cudaError_t launch_upload(int64_t *to, const int64_t *host, int64_t count, cudaStream_t stream);
// Tokens past the last sequence: zeros in the outputs that are not NULL.
template <typename T>
cudaError_t launch_padding(const Arguments &a, cudaStream_t stream);
// Rows of x [T, heads, K] divided by their norms to dense y.
template <typename T>
cudaError_t launch_normalise(const Arguments &a, const Tensor &x, int heads, T *y,
                             cudaStream_t stream);
// dx from dy [T, heads, K] fp32, through that norm.
template <typename T>
cudaError_t launch_through_norm(const Arguments &a, const Tensor &x, int heads, const float *dy,
                                const Tensor &dx, cudaStream_t stream);
// Dense fp32 of x [T, heads, K], its rows divided by their norms if `norm`.
template <typename T>
cudaError_t launch_widen(const Arguments &a, const Tensor &x, int heads, bool norm, float *y,
                         cudaStream_t stream);
// out = the sum of `splits` arrays that follow each other, for dg and dbeta at once.
cudaError_t launch_sum(float *out_g, float *out_beta, const float *g, const float *beta,
                       int64_t count, int splits, cudaStream_t stream);
// log_decay and decay_bound of the last sequence.
template <typename T>
cudaError_t launch_decay(const Arguments &a, float *log_decay, float *decay_bound,
                         cudaStream_t stream);
// Copies count floats, or zeros them without a source.
cudaError_t launch_copy(float *to, const float *from, int64_t count, cudaStream_t stream);

} // namespace gdni
