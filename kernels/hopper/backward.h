// The backward's stages for compute capability 9.0, bf16, K = V = 128. They go together: the chains
// leave dv where the chunk-parallel pass reads it.
#pragma once

#include "hopper/hopper.h"

namespace gdni {
namespace hopper {

// A beta below this counts as 0: between the two stages such rows of dv hold E, and their dbeta is
// formed without a division.
constexpr float TINY_BETA = 1e-12f;

// Whether both stages can run this call; the one without the other cannot.
inline bool backward_applies(const Arguments &a) {
    for (const Tensor *x : {&a.dq, &a.dk, &a.dv})
        if (x->data && !x->aligned)
            return false;
    return applies(a);
}

// Stage 2: the chain of states (states, delta, final_state) if forward, the chain of their
// gradients (state_grads, dv, dh0) if backward, both in one launch. Tensors that are NULL are left
// out.
cudaError_t launch_chains(const Arguments &a, bool forward, bool backward, cudaStream_t stream);

// The exact pass of a plan: gradients at the borders.
cudaError_t launch_exact_gradients(const Arguments &a, cudaStream_t stream);

// Stage 3: dq, dk (or dq32, dk32), dg, dbeta, and dv in the rows that still hold E.
cudaError_t launch_gradients(const Arguments &a, cudaStream_t stream);

} // namespace hopper
} // namespace gdni
