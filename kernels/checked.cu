// GDN_FLAG_CHECKED: the first bad place of what a call is given, into a report on the device.
//
//     memset    nothing found
//     values    cu_seqlens and every input, a warp a row; the smallest place wins (atomicMin, so
//               the order in which warps find something does not matter)
//     finish    what stands at that place
#include "guard.h"
#include "launch.h"

#include <algorithm>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace gdni {

namespace {

// Rows of a dense tensor are cut anew into these: a warp's share.
constexpr int64_t PIECE = 1024;

struct CheckedArguments {
    gdni_checked_input input[GDNI_CHECKED_INPUTS];
    const int64_t *cu_seqlens;
    int64_t N, T;
    gdni_checked_report *report;
};

__device__ float load_input(const gdni_checked_input &x, int64_t at, const __nv_bfloat16 *) {
    return x.bytes == 4 ? static_cast<const float *>(x.data)[at]
                        : __bfloat162float(static_cast<const __nv_bfloat16 *>(x.data)[at]);
}
__device__ float load_input(const gdni_checked_input &x, int64_t at, const __half *) {
    return x.bytes == 4 ? static_cast<const float *>(x.data)[at]
                        : __half2float(static_cast<const __half *>(x.data)[at]);
}

__device__ void found(const CheckedArguments &a, int tensor, int64_t index) {
    const unsigned long long place =
        static_cast<unsigned long long>(tensor) << GDNI_PLACE_BITS | index;
    atomicMin(reinterpret_cast<unsigned long long *>(&a.report->place), place);
}

// T: what two bytes hold.
template <typename T>
__global__ void __launch_bounds__(256) values_kernel(const __grid_constant__ CheckedArguments a) {
    const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (a.cu_seqlens)
        for (int64_t n = thread; n <= a.N; n += threads) {
            const int64_t bound = a.cu_seqlens[n];
            if (n == 0 ? bound != 0 : bound < a.cu_seqlens[n - 1] || (n == a.N && bound > a.T))
                found(a, 0, n);
        }
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < GDNI_CHECKED_INPUTS; ++i) {
        const gdni_checked_input &x = a.input[i];
        if (!x.data)
            continue;
        const bool dense = x.strides.head == x.dim && x.strides.token == x.heads * x.dim;
        const int64_t count = x.rows * x.heads * x.dim, dim = dense ? PIECE : x.dim;
        const int64_t heads = dense ? 1 : x.heads, token = dense ? PIECE : x.strides.token;
        for (int64_t row = thread / 32; row * dim < count; row += threads / 32) {
            const int64_t at = row / heads * token + row % heads * x.strides.head;
            for (int64_t j = lane; j < dim && row * dim + j < count; j += 32) {
                const float value = load_input(x, at + j, static_cast<const T *>(nullptr));
                if (!isfinite(value) || (x.log_gate && value > 0.0f)) {
                    found(a, i + 1, row * dim + j);
                    break; // what follows comes later
                }
            }
        }
    }
}

template <typename T>
__global__ void finish_kernel(const __grid_constant__ CheckedArguments a, uint32_t call) {
    gdni_checked_report &r = *a.report;
    const uint64_t place = r.place;
    r.value = 0.0;
    r.bound[0] = r.bound[1] = 0;
    if (place != UINT64_MAX) {
        const int tensor = static_cast<int>(place >> GDNI_PLACE_BITS);
        const int64_t index = place & ((UINT64_C(1) << GDNI_PLACE_BITS) - 1);
        if (tensor == 0) {
            r.bound[0] = index > 0 ? a.cu_seqlens[index - 1] : 0;
            r.bound[1] = a.cu_seqlens[index];
        } else {
            const gdni_checked_input &x = a.input[tensor - 1];
            const int64_t row = index / x.dim;
            r.value = load_input(
                x, row / x.heads * x.strides.token + row % x.heads * x.strides.head + index % x.dim,
                static_cast<const T *>(nullptr));
        }
    }
    r.magic = GDNI_CHECKED_MAGIC;
    r.call = call;
}

template <typename T>
cudaError_t enqueue(const CheckedArguments &a, int multiprocessors, uint32_t call,
                    cudaStream_t stream) {
    const cudaError_t error = cudaMemsetAsync(a.report, 0xff, sizeof(*a.report), stream);
    if (error != cudaSuccess)
        return error;
    values_kernel<T><<<static_cast<unsigned>(8 * multiprocessors), 256, 0, stream>>>(a);
    finish_kernel<T><<<1, 1, 0, stream>>>(a, call);
    return cudaGetLastError();
}

} // namespace

} // namespace gdni

extern "C" {

int gdni_checked_enqueue(const gdni_cuda_device *device, const gdn_problem *problem,
                         const int64_t *cu_seqlens,
                         const gdni_checked_input inputs[GDNI_CHECKED_INPUTS], uint32_t call,
                         void *report, void *stream) {
    const gdni::DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    gdni::CheckedArguments a = {};
    std::copy(inputs, inputs + GDNI_CHECKED_INPUTS, a.input);
    a.cu_seqlens = cu_seqlens;
    a.N = problem->N, a.T = problem->T;
    a.report = static_cast<gdni_checked_report *>(report);
    const cudaStream_t s = static_cast<cudaStream_t>(stream);
    return problem->dtype == GDN_DTYPE_FP16
               ? gdni::enqueue<__half>(a, device->multiprocessors, call, s)
               : gdni::enqueue<__nv_bfloat16>(a, device->multiprocessors, call, s);
}

int gdni_checked_fetch(const gdni_cuda_device *device, const void *report, gdni_checked_report *out,
                       void *stream) {
    const gdni::DeviceGuard guard(device->ordinal);
    if (guard.error() != cudaSuccess)
        return guard.error();
    const cudaStream_t s = static_cast<cudaStream_t>(stream);
    const cudaError_t error = cudaMemcpyAsync(out, report, sizeof(*out), cudaMemcpyDefault, s);
    return error != cudaSuccess ? error : cudaStreamSynchronize(s);
}

} // extern "C"
