/*
 * Sequences cut into segments, against the float64 recurrence: borders that decayed heads cross by
 * a warm-up, borders that take the exact path, runs of both, and the model's own choice. Usage:
 * split PART PARTS runs every PARTS-th case from PART on.
 */
#include "gpu.h"

static const int64_t packed[] = {0, 0, 1, 64, 400, 700, 705, 1100};

#define B GDN_DTYPE_BF16
#define F GDN_DTYPE_FP32
#define EXACT GDN_FLAG_EXACT
#define SAVE_ALL (GDN_FLAG_SAVE_STATES | GDN_FLAG_SAVE_INVERSE)

/* name, dtype, T, N, cu, Hk, Hv, K, V, gates, keys, states, beta edges, strided, flags, segments */
static const gpu_case cases[] = {
    {"bf16.normal.2", B, 520, 1, NULL, 1, 2, 128, 128, GATES_NORMAL, KEYS_UNIT, 1, 0, 0, 0, 2},
    {"bf16.normal.exact", B, 520, 1, NULL, 1, 2, 128, 128, GATES_NORMAL, KEYS_UNIT, 1, 0, 0, EXACT,
     3},
    {"bf16.none.3", B, 777, 1, NULL, 1, 2, 128, 128, GATES_NONE, KEYS_UNIT, 1, 0, 0, 0, 3},
    {"bf16.none.all", B, 600, 1, NULL, 1, 1, 128, 128, GATES_NONE, KEYS_UNIT, 1, 0, 0, 0, 99},
    {"bf16.mixed.4", B, 1000, 1, NULL, 2, 8, 128, 128, GATES_MIXED, KEYS_UNIT, 1, 0, 0, 0, 4},
    {"bf16.mixed.all", B, 640, 1, NULL, 2, 8, 64, 64, GATES_MIXED, KEYS_UNIT, 1, 0, 0, 0, 99},
    {"bf16.weak.5", B, 900, 1, NULL, 1, 2, 128, 128, GATES_WEAK, KEYS_UNIT, 0, 0, 0, 0, 5},
    {"bf16.strong.all", B, 600, 1, NULL, 1, 2, 128, 64, GATES_STRONG, KEYS_UNIT, 1, 0, 0, 0, 99},
    {"bf16.saturating.3", B, 500, 1, NULL, 1, 2, 64, 128, GATES_SATURATING, KEYS_UNIT, 1, 0, 0, 0,
     3},
    {"bf16.packed.3", B, 1130, 7, packed, 2, 4, 128, 128, GATES_MIXED, KEYS_UNIT, 1, 0, 0, 0, 3},
    {"bf16.packed.exact", B, 1130, 7, packed, 2, 4, 128, 128, GATES_MIXED, KEYS_UNIT, 1, 0, 0,
     EXACT, 4},
    {"bf16.packed.saved", B, 1130, 7, packed, 2, 4, 128, 128, GATES_MIXED, KEYS_UNIT, 1, 0, 0,
     SAVE_ALL, 3},
    {"bf16.packed.auto", B, 1130, 7, packed, 2, 4, 128, 128, GATES_MIXED, KEYS_UNIT, 1, 0, 0, 0, 0},
    {"bf16.batch.2", B, 1000, 2, NULL, 1, 2, 128, 128, GATES_MIXED, KEYS_UNIT, 1, 1, 0, 0, 2},
    {"bf16.correlated.3", B, 500, 1, NULL, 1, 2, 128, 128, GATES_NORMAL, KEYS_CORRELATED, 1, 0, 0,
     0, 3},
    {"bf16.long-keys.3", B, 500, 1, NULL, 1, 2, 128, 128, GATES_NORMAL, KEYS_LONG, 1, 0, 0, 0, 3},
    {"bf16.l2norm.3", B, 500, 1, NULL, 1, 2, 128, 128, GATES_MIXED, KEYS_UNIT, 1, 0, 0,
     GDN_FLAG_L2NORM_QK, 3},
    {"bf16.K256.V256.3", B, 500, 1, NULL, 1, 2, 256, 256, GATES_MIXED, KEYS_UNIT, 1, 0, 0, 0, 3},
    {"bf16.K96.V160.3", B, 500, 1, NULL, 1, 2, 96, 160, GATES_NONE, KEYS_UNIT, 1, 0, 3, 0, 3},
    {"bf16.K16.V32.3", B, 500, 1, NULL, 1, 2, 16, 32, GATES_NONE, KEYS_UNIT, 1, 0, 0, 0, 3},
    {"bf16.auto.mixed", B, 16400, 1, NULL, 1, 4, 128, 128, GATES_MIXED, KEYS_UNIT, 1, 0, 0, 0, 0},
    {"bf16.auto.none", B, 16384, 1, NULL, 1, 2, 128, 128, GATES_NONE, KEYS_UNIT, 1, 0, 0, 0, 0},
    {"bf16.auto.exact", B, 16384, 1, NULL, 1, 2, 128, 128, GATES_NORMAL, KEYS_UNIT, 1, 0, 0, EXACT,
     0},
    {"fp16.mixed.4", GDN_DTYPE_FP16, 700, 1, NULL, 1, 4, 128, 128, GATES_MIXED, KEYS_UNIT, 1, 0, 0,
     0, 4},
    {"fp32.mixed.4", F, 500, 1, NULL, 2, 4, 128, 128, GATES_MIXED, KEYS_UNIT, 1, 0, 0, 0, 4},
    {"fp32.none.all", F, 300, 1, NULL, 1, 2, 64, 128, GATES_NONE, KEYS_UNIT, 1, 0, 0, 0, 99},
    {"fp32.strong.all", F, 300, 1, NULL, 1, 2, 128, 64, GATES_STRONG, KEYS_UNIT, 1, 0, 0, 0, 99},
    {"fp32.packed.exact", F, 1130, 7, packed, 1, 2, 64, 64, GATES_MIXED, KEYS_UNIT, 1, 0, 0, EXACT,
     3},
    {"fp32.long-keys.3", F, 300, 1, NULL, 1, 2, 128, 128, GATES_NORMAL, KEYS_LONG, 1, 0, 0, 0, 3},
    {"fp32.K256.V256.3", F, 200, 1, NULL, 1, 1, 256, 256, GATES_MIXED, KEYS_UNIT, 1, 0, 0, 0, 3},
};

int main(int argc, char **argv) {
    const int part = argc > 2 ? atoi(argv[1]) : 0, parts = argc > 2 ? atoi(argv[2]) : 1;
    gdn_context *context = gpu_context_of(argc > 3 ? GDN_KERNELS_PORTABLE : GDN_KERNELS_AUTO);
    if (!context)
        return 77;
    for (int i = part; i < (int)(sizeof(cases) / sizeof(cases[0])); i += parts) {
        gpu_run r;
        gpu_prepare(&r, context, &cases[i]);
        GDN(gdn_forward(context, &r.problem, &r.tensors, NULL));
        CUDA(cudaDeviceSynchronize());
        /* Backward must not live on what forward left in the workspace. */
        CUDA(cudaMemset(r.workspace, 0xff, r.workspace_bytes));
        GDN(gdn_backward(context, &r.problem, &r.tensors, NULL));
        gpu_reference(&r);
        CHECK(gpu_fetch(&r), "%s", cases[i].name);
        printf("%-20s", cases[i].name);
        CHECK(gpu_check(&r, GPU_O, GPU_DS0), "%s", cases[i].name);
        fflush(stdout);
        gpu_release(&r);
    }
    gdn_context_destroy(context);
    return harness_finish();
}
