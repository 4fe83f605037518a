// Stage 3 of the Hopper backward, parallel over chunks: dq, dk, dg, dbeta. Persistent CTAs over
// (chunk, k-head), a loop over the v-heads of the group.
//
//     dQ_i = s e^c (dO S^T)      F = Y S^T      dK_s = e^{c_C - c} (D dS'^T)      per v-head
//     dP   = dO D^T              Z = Y D^T
//     G    = sum of s Gam o dP   W = -sum of strictLower(y (Gam o Z))             over the group
//     dQ   = sum dQ_i + G K      dK = sum (dK_s - e^c y F) + G^T Q + (W + W^T) K
//
// Y is what the chains left in dv: dV = beta E with y = 1, or E with y = beta in rows whose beta
// is tiny. With B = dP o P - y Gam o N o Z below the diagonal, all sums in fp32:
//
//     dbeta_i = <E_i, D_i> / beta_i = Z_ii / beta_i^2
//               where beta is tiny: <E_i, V_i> - e^c <k_i, F_i> - sum_{j<i} Gam_ij N_ij Z_ij
//     dg_t    = z + sum_{i>=t} (r_i + row_i(B) - column_i(B)) + sum_{j<t} w_j
//     r_i = <q_i, dQ_i,i> - e^c y <k_i, F_i>,  w_j = <k_j, dK_s,j>,  z = e^{c_C} <S, dS'>
//
// Roles: a warpgroup `queries` (dQ, G, z), a warpgroup `keys` (dK, W); warps that load heads, load
// k-heads, reduce (dg, dbeta of the head before), and store (dq, dk of the group before).
//
//     loading    | dO D dV of head h + 2; dS', then S of h + 1 as soon as both have done with them
//     queries    | S dS'^T       | dO S^T: dQ | dO D^T: G, sums of rows and columns | ... | G K: dq
//     keys       | D dS'^T: dK   | Y S^T: dK  | Y D^T: W, sums of rows and columns  | ... | dk
//     reducing   | dg, dbeta of head h - 1
//
// In a chunk that a sequence does not fill the copies bring in rows of the next one, or of nobody:
// the loading warps wait for them and zero them; dq and dk are stored row by row.
//
// Shared memory: K of two k-heads, Q, S^T, dS'^T, two stages of dO, D, dV and gates, and what is
// small; G takes the place of Q K^T, and W, dq and dk that of the group's last stage. Barriers and
// offsets: config.cuh. What limits it, and what was tried: README.md.
#pragma once

#include "hopper/gradients/consumers.cuh"
#include "hopper/gradients/producers.cuh"

namespace gdni {
namespace hopper {

__global__ void __launch_bounds__(THREADS, 1)
    gradients_kernel(const __grid_constant__ GradientsParameters p) {
    extern __shared__ __align__(1024) unsigned char memory[];
    const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(memory));
    if (threadIdx.x == 0) {
        constexpr int ALL = CONSUMERS;
        constexpr int COUNTS[BARRIER_COUNT] = {32, 32, 8, 8, 32, 8,   32,  32, ALL, ALL, 1,
                                               8,  1,  8, 4, 4,  ALL, ALL, 32, 32,  ALL, 1,
                                               1,  1,  1, 1, 1,  1,   1,   1,  1};
#pragma unroll
        for (int i = 0; i < BARRIER_COUNT; ++i)
            mbarrier_init(shared + BARRIERS + 8 * i, COUNTS[i]);
        fence_mbarrier_init();
        fence_proxy_async();
    }
    __syncthreads();
    griddepcontrol_launch_dependents();
    const int warpgroup = static_cast<int>(threadIdx.x) / 128;
    if (warpgroup == 2) {
        setmaxnreg_dec<40>();
        const int warp = static_cast<int>(threadIdx.x) % 128 / 32;
        if (warp == 0)
            gradients_load_heads(p, shared);
        else if (warp == 1)
            gradients_load_groups(p, shared);
        else if (warp == 2)
            gradients_store(p, shared);
        else
            gradients_reduce(p, shared);
    } else if (warpgroup == 0) {
        setmaxnreg_inc<216>();
        gradients_queries(p, shared);
    } else {
        setmaxnreg_inc<248>();
        gradients_keys(p, shared);
    }
    griddepcontrol_wait(); // the grid behind this one counts on both
}

} // namespace hopper
} // namespace gdni
