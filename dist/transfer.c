/* out += exp(log_decay) M in, the step of the chain over ranks, head by head. */
#include "plan.h"

#include <math.h>

/* M is [K, K], in and out [K, V]. Rows of `in` are added one after the other, so that the inner
 * loop is contiguous; transposed reads M by columns. */
#define DEFINE_APPLY(real)                                                                         \
    static void apply_##real(int32_t K, int32_t V, int32_t transposed, real factor, const real *M, \
                             const real *in, real *out) {                                          \
        for (int32_t i = 0; i < K; ++i)                                                            \
            for (int32_t k = 0; k < K; ++k) {                                                      \
                const real m = factor * (transposed ? M[k * K + i] : M[i * K + k]);                \
                for (int32_t j = 0; j < V; ++j)                                                    \
                    out[i * V + j] += m * in[k * V + j];                                           \
            }                                                                                      \
    }

DEFINE_APPLY(float)
DEFINE_APPLY(double)

void gdni_apply_transfer(const gdn_dist_plan *plan, const gdni_dist_memory *memory,
                         int32_t transposed, const void *in, void *out) {
    const int32_t K = plan->problem.K, V = plan->problem.V;
    const int64_t KV = (int64_t)K * V, KK = (int64_t)K * K;
#pragma omp parallel for schedule(dynamic) num_threads(gdn_context_threads(plan->context))
    for (int32_t h = 0; h < plan->problem.Hv; ++h) {
        if (memory->final[h])
            continue;
        if (plan->state_dtype == GDN_DTYPE_FP64)
            apply_double(K, V, transposed, exp(((const double *)memory->log_decay)[h]),
                         (const double *)(const void *)memory->transfer + h * KK,
                         (const double *)in + h * KV, (double *)out + h * KV);
        else
            apply_float(K, V, transposed, expf(((const float *)memory->log_decay)[h]),
                        (const float *)(const void *)memory->transfer + h * KK,
                        (const float *)in + h * KV, (float *)out + h * KV);
    }
}
