// The Hopper stages: drop-in for the portable ones (portable/stages.h) where they apply.
#pragma once

#include "portable/arguments.h"

namespace gdni {
namespace hopper {

// Whether the Hopper stages can run a call of bf16 tensors: the one shape that they are made for,
// and rows that the bulk copy engine can address. Tensors that the call does without do not count.
inline bool applies(const Arguments &a) {
    const int64_t most = INT32_MAX;
    for (const Tensor *x : {&a.q, &a.k, &a.v, &a.o, &a.do_})
        if (x->data && !x->aligned)
            return false;
    return a.capability == 90 && a.K == 128 && a.V == 128 && !a.gateless && !a.identity &&
           a.T > 0 && a.T <= most - 64 && a.max_chunks <= most / a.Hv;
}

// Not `whole`: the last 32 columns of a tile's first 32 rows, which are zero, are left out. The
// forward chain and the exact pass do not read them. Nor are the gate tables' sums written.
cudaError_t launch_prepare(const Arguments &a, bool whole, cudaStream_t stream);
cudaError_t launch_forward(const Arguments &a, cudaStream_t stream);
// Both in one, for a call that keeps nothing for backward and cuts nothing.
cudaError_t launch_fused(const Arguments &a, cudaStream_t stream);

// The same for short sequences, from cu_seqlens to zeros in rows of no sequence: it reads no
// tables.
cudaError_t launch_fused_queue(const Arguments &a, cudaStream_t stream);

// Whether that is faster, by measurement (README.md): from 64 (sequence, v-head) pairs, or where
// few v-heads share a k-head, from 32.
inline bool fused_pays(const Arguments &a) {
    const int64_t pairs = a.N * a.Hv;
    return pairs >= 64 || (a.N == 1 && pairs >= 32 && a.Hv < 4 * a.Hk);
}

// Whether the queue is faster than that: sequences are short on average (README.md). It reads the
// first states through the bulk copy engine.
inline bool fused_queue_pays(const Arguments &a) {
    return a.T <= 2048 * a.N && reinterpret_cast<uintptr_t>(a.initial_state) % 16 == 0;
}
// The exact pass of a forward's plan: states at the borders, if `states`, and transfer matrices.
cudaError_t launch_exact(const Arguments &a, bool states, cudaStream_t stream);
// The pools' states and gradients, from what the exact pass has left there.
cudaError_t launch_scan(const Arguments &a, bool states, bool gradients, cudaStream_t stream);

} // namespace hopper
} // namespace gdni
