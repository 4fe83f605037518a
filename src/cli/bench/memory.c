/* gdn bench --memory: what calls need beside their tensors, from queries alone. */
#include "bench.h"

#include "error.h"

static gdn_status sizes_of(const gdn_context *context, int64_t T, const int32_t heads[2],
                           uint32_t flags, gdn_sizes *sizes) {
    const gdn_sizes init = GDN_SIZES_INIT;
    gdn_problem p = GDN_PROBLEM_INIT;
    *sizes = init;
    p.dtype = gdn_context_backend(context) == GDN_BACKEND_CPU ? GDN_DTYPE_FP32 : GDN_DTYPE_BF16;
    p.T = T;
    p.Hk = heads[0];
    p.Hv = heads[1];
    p.K = p.V = BENCH_DIM;
    p.flags = flags;
    return gdn_problem_sizes(context, &p, sizes);
}

gdn_status bench_memory(const gdn_context *context, int32_t Hk, int32_t Hv) {
    const double MiB = 1048576.0;
    const int32_t heads[2] = {Hk, Hv};
    const int cpu = gdn_context_backend(context) == GDN_BACKEND_CPU;
    gdn_sizes plain, inverse, saved;
    printf("MiB beside the tensors: backend %s, %s, one sequence, Hk/Hv = %d/%d, K = V = %d\n"
           "recomputing: no SAVE flag; inverse: SAVE_INVERSE; states: SAVE_STATES too\n\n",
           gdn_backend_name(gdn_context_backend(context)), cpu ? "fp32" : "bf16", Hk, Hv,
           (int)BENCH_DIM);
    printf("%9s %10s %10s | %12s | %10s %10s | %10s %10s\n", "", "", "", "recomputing", "inverse",
           "", "states", "");
    printf("%9s %10s %10s | %12s | %10s %10s | %10s %10s\n", "tokens", "q,k,v,o", "inference",
           "backward", "backward", "saved", "backward", "saved");
    for (int64_t T = 1024; T <= 1048576; T *= 2) {
        GDN_TRY(sizes_of(context, T, heads, 0, &plain));
        GDN_TRY(sizes_of(context, T, heads, GDN_FLAG_SAVE_INVERSE, &inverse));
        GDN_TRY(sizes_of(context, T, heads, GDN_FLAG_SAVE_INVERSE | GDN_FLAG_SAVE_STATES, &saved));
        const double tensors = (double)T * (2.0 * Hk + 2.0 * Hv) * BENCH_DIM * (cpu ? 4 : 2);
        printf("%9lld %10.1f %10.1f | %12.1f | %10.1f %10.1f | %10.1f %10.1f\n", (long long)T,
               tensors / MiB, (double)plain.forward_workspace / MiB,
               (double)plain.backward_workspace / MiB, (double)inverse.backward_workspace / MiB,
               (double)inverse.saved / MiB, (double)saved.backward_workspace / MiB,
               (double)saved.saved / MiB);
    }
    return GDN_STATUS_OK;
}
