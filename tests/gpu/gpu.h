/* Running one problem on the CUDA backend and on the float64 reference, for tests. */
#ifndef GDN_TEST_GPU_H
#define GDN_TEST_GPU_H

#include "gdn.h"
#include "harness.h"

#include <cuda_runtime_api.h>

typedef enum gpu_gates {
    GATES_NORMAL, /* -softplus(randn) */
    GATES_NONE,
    GATES_WEAK,  /* x 0.002 */
    GATES_MIXED, /* -A softplus(randn), A from 0.001 to 16 over the heads */
    GATES_STRONG,
    GATES_SATURATING /* every tenth token forgets everything */
} gpu_gates;

typedef enum gpu_keys {
    KEYS_UNIT,
    KEYS_CORRELATED, /* unit, all close to one direction */
    KEYS_LONG        /* |k| = sqrt(2) and beta near 1 */
} gpu_keys;

enum {
    GPU_MAX_SEQUENCES = 4096
};

typedef struct gpu_case {
    const char *name;
    gdn_dtype dtype;
    int64_t T, N;
    const int64_t *cu; /* NULL: equal lengths */
    int32_t Hk, Hv, K, V;
    gpu_gates gates;
    gpu_keys keys;
    int states;     /* initial_state and dht given, final_state and dh0 asked for */
    int beta_edges; /* beta is 0 and 1 at some tokens */
    int strided;    /* heads padded by this many elements */
    uint32_t flags;
    int32_t segments; /* gdn_problem.segments */
} gpu_case;

/* The tensors of one case, index by these. */
typedef enum gpu_name {
    GPU_Q,
    GPU_K,
    GPU_V,
    GPU_DO,
    GPU_G,
    GPU_BETA,
    GPU_S0,
    GPU_DHT,
    GPU_O,
    GPU_ST,
    GPU_DQ,
    GPU_DK,
    GPU_DV,
    GPU_DG,
    GPU_DBETA,
    GPU_DS0,
    GPU_COUNT
} gpu_name;

typedef struct gpu_tensor {
    const char *name;
    gdn_dtype dtype; /* on the device */
    int64_t rows, heads, dim;
    gdn_strides strides; /* on the device */
    double *host;        /* dense inputs or reference outputs */
    double *got;         /* dense outputs of the device */
    char *device;        /* with a canary on both sides */
    size_t bytes;
} gpu_tensor;

typedef struct gpu_run {
    gpu_case c;
    gdn_problem problem, reference_problem;
    gdn_sizes sizes;
    gpu_tensor x[GPU_COUNT];
    gdn_tensors tensors, reference_tensors;
    int64_t *cu_device;
    char *workspace, *saved, *checked_report;
    size_t workspace_bytes, saved_bytes;
} gpu_run;

#define CUDA(call)                                                                                 \
    do {                                                                                           \
        cudaError_t gpu_error_ = (call);                                                           \
        if (gpu_error_ != cudaSuccess) {                                                           \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call,                          \
                    cudaGetErrorString(gpu_error_));                                               \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)
#define GDN(call)                                                                                  \
    do {                                                                                           \
        if ((call) != GDN_STATUS_OK) {                                                             \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, gdn_last_error());       \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* A CUDA context, or NULL with a line on stdout where there is no device. */
gdn_context *gpu_context(void);
/* The same with a choice of kernels. */
gdn_context *gpu_context_of(gdn_kernels kernels);

/* Draws the inputs, copies them to the device, poisons the outputs and the workspace. */
void gpu_prepare(gpu_run *r, const gdn_context *context, const gpu_case *c);
/* Poisons outputs, workspace and what is saved once more. */
void gpu_poison(gpu_run *r);
/* The inputs' host values to the device, rounded to its dtype, once more. */
void gpu_upload(gpu_run *r);
/* The reference's outputs into host. */
void gpu_reference(gpu_run *r);
/* The device's outputs into got. False, with a line, if a canary died. */
int gpu_fetch(gpu_run *r);
void gpu_release(gpu_run *r);

/* Largest relative L2 error over the heads of one tensor; NAN where anything is NaN. */
double gpu_error(const gpu_tensor *x, int *worst_head);
/* Whether got is host within the dtype's tolerance, for the outputs from first to last; prints
 * their errors. */
int gpu_check(gpu_run *r, gpu_name first, gpu_name last);
double gpu_tolerance(gdn_dtype dtype, gpu_name name);

#endif /* GDN_TEST_GPU_H */
