/*
 * The operator on the CUDA backend against the float64 reference: every dtype, head dim, gate and
 * packing. Usage: operator PART PARTS [portable] runs every PARTS-th case from PART on.
 */
#include "gpu.h"

static const int64_t packed[] = {0, 0, 1, 64, 64, 129, 193, 200};
static const int64_t padded[] = {0, 70, 131};
static const int64_t empty[] = {0, 0, 0, 0};
/* With four v-heads more than a device has pairs of multiprocessors. */
static const int64_t several[] = {0,   0,   64,  65,  195, 323, 323, 451,  500,
                                  564, 630, 637, 701, 829, 830, 958, 1086, 1150};

/* 4000 sequences of 1 to 60 tokens; filled in by main. */
enum {
    MANY = 4000
};
static int64_t many[MANY + 1];

#define B GDN_DTYPE_BF16
#define H GDN_DTYPE_FP16
#define F GDN_DTYPE_FP32
#define SAVE_ALL (GDN_FLAG_SAVE_STATES | GDN_FLAG_SAVE_INVERSE)

/* name, dtype, T, N, cu, Hk, Hv, K, V, gates, keys, states, beta edges, strided, flags */
static const gpu_case cases[] = {
    {"bf16.T1", B, 1, 1, NULL, 1, 2, 128, 128, GATES_NORMAL, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.T63", B, 63, 1, NULL, 2, 2, 128, 128, GATES_NORMAL, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.T64", B, 64, 1, NULL, 1, 2, 128, 128, GATES_NORMAL, KEYS_UNIT, 0, 0, 0, 0},
    {"bf16.T65", B, 65, 1, NULL, 1, 3, 128, 128, GATES_WEAK, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.T509.mixed", B, 509, 1, NULL, 2, 8, 128, 128, GATES_MIXED, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.T512.weak", B, 512, 1, NULL, 1, 2, 128, 128, GATES_WEAK, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.T500.none", B, 500, 1, NULL, 1, 2, 128, 128, GATES_NONE, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.T300.strong", B, 300, 1, NULL, 1, 2, 128, 128, GATES_STRONG, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.saturating", B, 200, 1, NULL, 1, 2, 128, 128, GATES_SATURATING, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.packed", B, 210, 7, packed, 2, 4, 128, 128, GATES_MIXED, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.packed.host", B, 210, 7, packed, 1, 4, 128, 64, GATES_NORMAL, KEYS_UNIT, 1, 0, 0,
     GDN_FLAG_CU_SEQLENS_HOST},
    {"bf16.padded", B, 160, 2, padded, 1, 3, 64, 128, GATES_NORMAL, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.empty", B, 10, 3, empty, 1, 1, 64, 64, GATES_NORMAL, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.empty.K128.V128", B, 10, 3, empty, 1, 2, 128, 128, GATES_NORMAL, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.batch", B, 300, 3, NULL, 2, 4, 64, 64, GATES_NORMAL, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.correlated", B, 190, 1, NULL, 1, 2, 128, 128, GATES_WEAK, KEYS_CORRELATED, 1, 0, 0, 0},
    {"bf16.long-keys", B, 150, 1, NULL, 1, 2, 128, 128, GATES_NORMAL, KEYS_LONG, 1, 0, 0, 0},
    {"bf16.beta-edges", B, 150, 1, NULL, 1, 2, 128, 128, GATES_NORMAL, KEYS_UNIT, 1, 1, 0, 0},
    {"bf16.strided", B, 130, 1, NULL, 2, 4, 128, 128, GATES_NORMAL, KEYS_UNIT, 1, 0, 8, 0},
    {"bf16.unaligned", B, 130, 1, NULL, 2, 4, 96, 64, GATES_NORMAL, KEYS_UNIT, 1, 0, 3, 0},
    {"bf16.saved", B, 210, 7, packed, 2, 4, 128, 128, GATES_MIXED, KEYS_UNIT, 1, 0, 0, SAVE_ALL},
    {"bf16.saved-states", B, 200, 1, NULL, 1, 2, 64, 96, GATES_WEAK, KEYS_UNIT, 1, 0, 0,
     GDN_FLAG_SAVE_STATES},
    {"bf16.saved-inverse", B, 200, 1, NULL, 1, 2, 96, 64, GATES_WEAK, KEYS_UNIT, 0, 0, 0,
     GDN_FLAG_SAVE_INVERSE},
    {"bf16.l2norm", B, 150, 2, padded, 1, 2, 128, 128, GATES_NORMAL, KEYS_UNIT, 1, 0, 0,
     GDN_FLAG_L2NORM_QK},
    {"bf16.K16.V16", B, 100, 1, NULL, 1, 2, 16, 16, GATES_NORMAL, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.K32.V160", B, 100, 1, NULL, 1, 2, 32, 160, GATES_NORMAL, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.K96.V32", B, 100, 1, NULL, 1, 2, 96, 32, GATES_NORMAL, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.K160.V96", B, 130, 1, NULL, 1, 2, 160, 96, GATES_NORMAL, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.K256.V256", B, 200, 1, NULL, 1, 2, 256, 256, GATES_WEAK, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.K256.V128", B, 130, 2, padded, 1, 3, 256, 128, GATES_MIXED, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.K64.V256", B, 130, 1, NULL, 1, 1, 64, 256, GATES_NORMAL, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.many", B, 0, MANY, many, 1, 2, 32, 32, GATES_MIXED, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.many.host", B, 0, MANY, many, 1, 1, 16, 32, GATES_NORMAL, KEYS_UNIT, 1, 0, 0,
     GDN_FLAG_CU_SEQLENS_HOST | GDN_FLAG_SAVE_STATES},
    {"fp16.T300.mixed", H, 300, 1, NULL, 1, 4, 128, 128, GATES_MIXED, KEYS_UNIT, 1, 0, 0, 0},
    {"fp16.packed", H, 210, 7, packed, 2, 4, 64, 64, GATES_WEAK, KEYS_UNIT, 1, 1, 0, 0},
    {"fp16.K256.V96", H, 130, 1, NULL, 1, 2, 256, 96, GATES_NORMAL, KEYS_UNIT, 0, 0, 0, 0},
    {"fp32.T1", F, 1, 1, NULL, 1, 2, 128, 128, GATES_NORMAL, KEYS_UNIT, 1, 0, 0, 0},
    {"fp32.T131.mixed", F, 131, 1, NULL, 1, 4, 128, 128, GATES_MIXED, KEYS_UNIT, 1, 0, 0, 0},
    {"fp32.T500.none", F, 500, 1, NULL, 1, 1, 128, 128, GATES_NONE, KEYS_UNIT, 1, 0, 0, 0},
    {"fp32.strong", F, 300, 1, NULL, 1, 2, 64, 64, GATES_STRONG, KEYS_UNIT, 1, 0, 0, 0},
    {"fp32.saturating", F, 200, 1, NULL, 1, 2, 64, 64, GATES_SATURATING, KEYS_UNIT, 1, 0, 0, 0},
    {"fp32.packed", F, 210, 7, packed, 2, 4, 128, 64, GATES_MIXED, KEYS_UNIT, 1, 0, 0, 0},
    {"fp32.correlated", F, 190, 1, NULL, 1, 2, 128, 128, GATES_WEAK, KEYS_CORRELATED, 1, 0, 0, 0},
    {"fp32.long-keys", F, 150, 1, NULL, 1, 2, 128, 128, GATES_NORMAL, KEYS_LONG, 1, 0, 0, 0},
    {"fp32.beta-edges", F, 150, 1, NULL, 1, 2, 64, 64, GATES_NORMAL, KEYS_UNIT, 1, 1, 0, 0},
    {"fp32.unaligned", F, 130, 2, padded, 2, 4, 32, 96, GATES_NORMAL, KEYS_UNIT, 1, 0, 3, 0},
    {"fp32.saved", F, 150, 1, NULL, 1, 2, 96, 32, GATES_NORMAL, KEYS_UNIT, 1, 0, 0, SAVE_ALL},
    {"fp32.l2norm", F, 150, 2, padded, 1, 2, 128, 128, GATES_NORMAL, KEYS_UNIT, 1, 0, 0,
     GDN_FLAG_L2NORM_QK},
    {"fp32.K16.V16", F, 70, 1, NULL, 1, 3, 16, 16, GATES_NORMAL, KEYS_UNIT, 1, 0, 0, 0},
    {"fp32.K256.V256", F, 100, 1, NULL, 1, 1, 256, 256, GATES_WEAK, KEYS_UNIT, 1, 0, 0, 0},
    {"fp32.K160.V96", F, 100, 1, NULL, 1, 2, 160, 96, GATES_NORMAL, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.several", B, 1160, 17, several, 2, 4, 128, 128, GATES_MIXED, KEYS_UNIT, 1, 0, 0, 0},
    {"bf16.several.host", B, 1150, 17, several, 1, 6, 128, 128, GATES_NORMAL, KEYS_UNIT, 0, 0, 0,
     GDN_FLAG_CU_SEQLENS_HOST},
    {"bf16.several.strided", B, 1163, 17, several, 4, 4, 128, 128, GATES_WEAK, KEYS_UNIT, 1, 1, 8,
     GDN_FLAG_L2NORM_QK},
    {"bf16.several.equal", B, 2240, 35, NULL, 2, 4, 128, 128, GATES_NONE, KEYS_CORRELATED, 1, 0, 0,
     0},
};

/* Bit by bit. */
static int same(const gpu_tensor *got, const gpu_tensor *given) {
    const int64_t count = given->rows * given->heads * given->dim;
    return !memcmp(got->got, given->host, (size_t)count * sizeof(double));
}

int main(int argc, char **argv) {
    const int part = argc > 2 ? atoi(argv[1]) : 0, parts = argc > 2 ? atoi(argv[2]) : 1;
    const int count = (int)(sizeof(cases) / sizeof(cases[0]));
    gdn_context *context = gpu_context_of(argc > 3 ? GDN_KERNELS_PORTABLE : GDN_KERNELS_AUTO);
    if (!context)
        return 77;
    for (int64_t n = 0; n < MANY; ++n)
        many[n + 1] = many[n] + 1 + n * 7919 % 60;
    for (int i = part; i < count; i += parts) {
        gpu_case c = cases[i];
        gpu_run r;
        if (c.cu && c.cu[c.N] > c.T)
            c.T = c.cu[c.N];
        gpu_prepare(&r, context, &c);
        GDN(gdn_forward(context, &r.problem, &r.tensors, NULL));
        CUDA(cudaDeviceSynchronize());
        /* Backward must not live on what forward left in the workspace. */
        CUDA(cudaMemset(r.workspace, 0xff, r.workspace_bytes));
        GDN(gdn_backward(context, &r.problem, &r.tensors, NULL));
        gpu_reference(&r);
        CHECK(gpu_fetch(&r), "%s", c.name);
        printf("%-20s", c.name);
        CHECK(gpu_check(&r, GPU_O, GPU_DS0), "%s", r.c.name);
        if (c.cu && c.cu[c.N] == 0)
            CHECK(same(&r.x[GPU_ST], &r.x[GPU_S0]) && same(&r.x[GPU_DS0], &r.x[GPU_DHT]),
                  "%s: states do not pass through unchanged", r.c.name);
        fflush(stdout);
        gpu_release(&r);
    }
    gdn_context_destroy(context);
    return harness_finish();
}
