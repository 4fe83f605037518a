/*
 * libgdn: training with Gated DeltaNet (GDN, the gated delta rule).
 *
 * This header is the operator: forward, backward, and what a sequence that is cut into segments
 * needs. gdn_layer.h holds the layer around it, gdn_model.h the rest of a language model,
 * gdn_check.h the gradient checks. It compiles alone as C11 and as C++17 and includes no CUDA, MPI,
 * NCCL or HDF5 header.
 *
 * The recurrence, per v-head h (which reads k-head h / (Hv / Hk)), for the tokens t of one
 * sequence:
 *
 *     S~  = exp(g_t) S_{t-1}                 S is the state, [K, V]
 *     d_t = beta_t (v_t - S~^T k_t)
 *     S_t = S~ + k_t d_t^T
 *     o_t = scale * S_t^T q_t
 *
 * Rules that hold for every function:
 *   Memory        The caller owns it; sizes come from pure queries.
 *   Streams       Compute calls only enqueue on the caller's stream; host backends ignore it
 *                 and return when the result is there.
 *   Threads       A context is immutable: several threads may use it at once. No globals.
 *   Determinism   Same inputs, same device, same thread count: same bits.
 *   Overwrite     Outputs are overwritten, never accumulated into, unless a flag says so.
 *   Errors        Look at every status; gdn_last_error() explains the last one of this thread.
 *   Structs       Each begins with its size, starts from its GDN_..._INIT, grows at the end only.
 */
#ifndef GDN_H
#define GDN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GDN_VERSION_MAJOR 0
#define GDN_VERSION_MINOR 1
#define GDN_VERSION_PATCH 0
#define GDN_VERSION_STRING "0.1.0"

#if defined(__GNUC__) || defined(__clang__)
#define GDN_API __attribute__((visibility("default")))
#define GDN_CHECK_RESULT __attribute__((warn_unused_result))
#else
#define GDN_API
#define GDN_CHECK_RESULT
#endif

/* ---- Status ------------------------------------------------------------------------------------
 */

/* X(name, value, text). Values never change. */
#define GDN_STATUS_LIST(X)                                                                         \
    X(OK, 0, "success")                                                                            \
    X(INVALID_ARGUMENT, 1, "invalid argument")                                                     \
    X(UNSUPPORTED, 2, "problem not supported by this backend")                                     \
    X(BAD_DATA, 3, "bad values in a tensor")                                                       \
    X(BAD_FILE, 4, "bad or unreadable file")                                                       \
    X(CHECK_FAILED, 5, "check failed")                                                             \
    X(NO_BACKEND, 6, "backend not built or no device")                                             \
    X(OUT_OF_MEMORY, 7, "out of memory")                                                           \
    X(IO_ERROR, 8, "input/output error")                                                           \
    X(CUDA_ERROR, 9, "CUDA error")                                                                 \
    X(COMM_ERROR, 10, "communication error")                                                       \
    X(TIMEOUT, 11, "deadline passed")                                                              \
    X(INTERNAL_ERROR, 12, "internal error")

typedef enum gdn_status {
#define GDN_STATUS_ENUM(name, value, text) GDN_STATUS_##name = value,
    GDN_STATUS_LIST(GDN_STATUS_ENUM)
#undef GDN_STATUS_ENUM
} gdn_status;

/* The text of a status; never NULL. */
GDN_API const char *gdn_status_string(gdn_status status);

/* One line on the last failure of the calling thread: function, field, expected, got; "" if none.
 */
GDN_API const char *gdn_last_error(void);

/* major * 10000 + minor * 100 + patch of the library that is linked (compare with the header's). */
GDN_API uint32_t gdn_version(void);

/* The parts of this build, such as "cpu openmp blas cuda". */
GDN_API const char *gdn_build_features(void);

/* CUDA devices of this machine; 0 without a driver or without CUDA in this build. */
GDN_API int32_t gdn_device_count(void);

/* One line on a device: name, compute capability, multiprocessors, memory. At most size bytes. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_device_describe(int32_t device, char *text, size_t size);

/* ---- Context -----------------------------------------------------------------------------------
 */

typedef enum gdn_backend {
    GDN_BACKEND_AUTO = 0,      /* CUDA if built and a device is there, otherwise CPU */
    GDN_BACKEND_REFERENCE = 1, /* the token recurrence in float64, single thread */
    GDN_BACKEND_CPU = 2,       /* the chunked algorithm, fp32 arithmetic, OpenMP and BLAS */
    GDN_BACKEND_CUDA = 3
} gdn_backend;

typedef enum gdn_dtype {
    GDN_DTYPE_FP32 = 0,
    GDN_DTYPE_BF16 = 1,
    GDN_DTYPE_FP16 = 2,
    GDN_DTYPE_FP64 = 3 /* the reference backend, which accepts no other */
} gdn_dtype;

/* Bytes of one element. */
GDN_API size_t gdn_dtype_size(gdn_dtype dtype);
GDN_API const char *gdn_dtype_name(gdn_dtype dtype);       /* "fp32", "bf16", "fp16", "fp64" */
GDN_API const char *gdn_backend_name(gdn_backend backend); /* "auto", "reference", "cpu", "cuda" */

/* Converts count elements of host memory, rounding to nearest even. Errors: INVALID_ARGUMENT. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_convert(gdn_dtype to_dtype, void *to, gdn_dtype from_dtype,
                                                const void *from, int64_t count);

/* The same type as cudaStream_t; NULL is CUDA's default stream. Host backends ignore it. */
typedef struct CUstream_st *gdn_stream;

typedef struct gdn_context gdn_context;

/* Kernels of the cuda backend. */
typedef enum gdn_kernels {
    GDN_KERNELS_AUTO = 0, /* those made for the device and the problem, portable ones elsewhere */
    GDN_KERNELS_PORTABLE = 1 /* always the portable ones */
} gdn_kernels;

typedef struct gdn_context_config {
    size_t size;
    gdn_backend backend;
    int32_t device;  /* CUDA device ordinal */
    int32_t threads; /* host backends: threads to use; 0 = what OpenMP would use */
    gdn_kernels kernels;
} gdn_context_config;

#define GDN_CONTEXT_CONFIG_INIT                                                                    \
    { sizeof(gdn_context_config), GDN_BACKEND_AUTO, 0, 0, GDN_KERNELS_AUTO }

/*
 * Creates a context: what backend computes, on which device. Tensors are then memory of that device
 * (cuda) or of the host (reference, cpu). Several contexts, also on several
 * devices, may live in one process. config may be NULL for the defaults. Errors: NO_BACKEND (not
 * built, no such device), INVALID_ARGUMENT, OUT_OF_MEMORY.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_context_create(gdn_context **context,
                                                       const gdn_context_config *config);
GDN_API void gdn_context_destroy(gdn_context *context); /* NULL is fine */
GDN_API gdn_backend gdn_context_backend(const gdn_context *context);
GDN_API int32_t gdn_context_threads(const gdn_context *context);

/* ---- Problem -----------------------------------------------------------------------------------
 */

typedef enum gdn_flag {
    GDN_FLAG_EXACT =
        1 << 0, /* never drop a state that the gate has decayed (see decay_threshold) */
    GDN_FLAG_SAVE_STATES = 1 << 1,  /* forward keeps every chunk's entry state for backward */
    GDN_FLAG_SAVE_INVERSE = 1 << 2, /* forward keeps gate sums and inverses for backward */
    GDN_FLAG_L2NORM_QK =
        1 << 3, /* q and k are divided by sqrt(|x|^2 + 1e-6) inside; dq, dk go through it */
    GDN_FLAG_CHECKED = 1 << 4, /* look for NaN, Inf, g > 0 and bad cu_seqlens in what is given:
                                  BAD_DATA with the place; cuda: by gdn_checked_status */
    GDN_FLAG_CU_SEQLENS_HOST = 1 << 5 /* cu_seqlens is host memory also where the tensors are not */
} gdn_flag;

/* Elements from one token to the next and from one head to the next; 0 = dense [T, H, dim].
 * The head dimension itself is always contiguous. */
typedef struct gdn_strides {
    int64_t token, head;
} gdn_strides;

/*
 * One operator call, without its data. T tokens in all; N sequences, given by cu_seqlens [N+1]
 * int64 (0 first, never decreasing, last <= T; tokens past it are padding: outputs and gradients 0)
 * or, without it, of T / N tokens each.
 */
typedef struct gdn_problem {
    size_t size;
    gdn_dtype dtype; /* of q, k, v, o, do, dq, dk, dv; the other tensors are fp32 (fp64 if this is
                        fp64) */
    uint32_t flags;  /* gdn_flag */
    int64_t T;       /* tokens, >= 0 */
    int64_t N;       /* sequences, >= 1 */
    int32_t Hk, Hv;  /* heads of q, k and of v, o; Hv is a multiple of Hk */
    int32_t K, V;    /* head dims of q, k and of v, o */
    double scale;    /* 0 = 1 / sqrt(K) */
    /* A state is dropped once the bound on its decay, sum of g + log max(1, |1 - beta |k|^2|), is
     * below this: < 0; 0 = the default, -10 for bf16 and fp16, -20 for fp32, never for fp64. The
     * host backends never drop. */
    double decay_threshold;
    gdn_strides q_strides, k_strides, v_strides, o_strides; /* dq as q, dk as k, dv as v, do as o */
    /* cuda: into how many segments that run side by side each sequence is cut: 0 = a cost model on
     * the device decides, from the sequences and the gates; 1 = none; n = at most n. The host
     * backends cut nothing. */
    int32_t segments;
} gdn_problem;

#define GDN_PROBLEM_INIT                                                                           \
    {                                                                                              \
        sizeof(gdn_problem), GDN_DTYPE_FP32, 0, 0, 1, 1, 1, 128, 128, 0.0, 0.0, {0, 0}, {0, 0},    \
            {0, 0}, {0, 0}, 0                                                                      \
    }

/*
 * The tensors of forward and backward. "state type" is fp32, or fp64 in fp64 problems.
 *
 *   name           shape            dtype       nullable
 *   q, k           [T, Hk, K]       problem     no
 *   v              [T, Hv, V]       problem     no
 *   g              [T, Hv]          state type  no            log of the forget gate, <= 0
 *   beta           [T, Hv]          state type  no            write strength
 *   cu_seqlens     [N+1]            int64       yes: equal lengths
 *   initial_state  [N, Hv, K, V]    state type  yes: zeros
 *   o              [T, Hv, V]       problem     forward only
 *   final_state    [N, Hv, K, V]    state type  yes: not written
 *   saved          saved bytes      opaque      yes without SAVE flags; backward reads it
 *   do_            [T, Hv, V]       problem     backward only   gradient of o ("do" is a C keyword)
 *   dht            [N, Hv, K, V]    state type  yes: zeros      gradient of final_state
 *   dq, dk         [T, Hk, K]       problem     backward only   group summed in fp32
 *   dv             [T, Hv, V]       problem     backward only
 *   dg, dbeta      [T, Hv]          state type  backward only
 *   dh0            [N, Hv, K, V]    state type  yes: not written
 *   workspace      workspace bytes  opaque      yes if its size is 0; 256-byte aligned
 *   checked_report checked_report   opaque      yes if its size is 0; 8-byte aligned
 *
 * What is written overlaps neither what is read nor each other: final_state is not initial_state,
 * dh0 is not dht, dv is not do_. Outputs are written while other parts of the call still read
 * inputs. Inputs may overlap.
 */
typedef struct gdn_tensors {
    size_t size;
    const void *q, *k, *v, *g, *beta;
    const int64_t *cu_seqlens;
    const void *initial_state;
    void *o, *final_state, *saved;
    const void *do_, *dht;
    void *dq, *dk, *dv, *dg, *dbeta, *dh0;
    void *workspace;
    size_t workspace_size; /* bytes */
    void *checked_report;
} gdn_tensors;

#define GDN_TENSORS_INIT                                                                           \
    {                                                                                              \
        sizeof(gdn_tensors), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,     \
            NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL                                \
    }

/* Bytes; pure functions of the context and the problem. */
typedef struct gdn_sizes {
    size_t size;
    size_t forward_workspace;
    size_t backward_workspace;
    size_t segment_workspace; /* gdn_segment_forward and gdn_segment_backward */
    size_t saved;             /* 0 without a SAVE flag */
    size_t checked_report;    /* 0 but for CHECKED on the cuda backend */
} gdn_sizes;

#define GDN_SIZES_INIT                                                                             \
    { sizeof(gdn_sizes), 0, 0, 0, 0, 0 }

/* OK, or UNSUPPORTED or INVALID_ARGUMENT with the reason in gdn_last_error(): what would be
 * refused, and why. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_problem_supported(const gdn_context *context,
                                                          const gdn_problem *problem);

/* What computes a problem of dense tensors: "reference", "cpu", "cuda portable", "cuda hopper";
 * "none" if it is not supported. Tensors whose rows do not start at multiples of 16 bytes always
 * take portable kernels. */
GDN_API const char *gdn_problem_kernels(const gdn_context *context, const gdn_problem *problem);

GDN_API GDN_CHECK_RESULT gdn_status gdn_problem_sizes(const gdn_context *context,
                                                      const gdn_problem *problem, gdn_sizes *sizes);

/*
 * Forward: o and final_state of the recurrence above, and what backward wants saved.
 * Workspace: sizes.forward_workspace. Errors: INVALID_ARGUMENT, UNSUPPORTED, BAD_DATA (cu_seqlens
 * on the host; with CHECKED any input, on the cuda backend by gdn_checked_status), CUDA_ERROR.
 * Source: Yang et al., Gated Delta Networks, arXiv 2412.06464; docs: README.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_forward(const gdn_context *context,
                                                const gdn_problem *problem,
                                                const gdn_tensors *tensors, gdn_stream stream);

/*
 * Backward: the gradients of L for given do = dL/do and dht = dL/dfinal_state. Reads the inputs of
 * forward and, with a SAVE flag, what it saved; o is not needed. Workspace:
 * sizes.backward_workspace. Errors as forward.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_backward(const gdn_context *context,
                                                 const gdn_problem *problem,
                                                 const gdn_tensors *tensors, gdn_stream stream);

/*
 * What GDN_FLAG_CHECKED found. Host backends answer in the call itself. On the cuda backend a call
 * may not wait for the device: it writes the first bad place (in the order cu_seqlens, q, k, v, g,
 * beta, do, initial_state, dht; then by token, head, element) into tensors->checked_report, memory
 * of the device that the caller keeps for each call whose answer it wants; the next call with the
 * same memory overwrites it. This function waits for the stream and reads it: OK, or BAD_DATA with
 * the line that a host backend gives. It is the only one here that waits, and may not be captured;
 * calls with CHECKED may, and a replayed graph writes its report anew.
 *
 * A call whose inputs were bad still runs to its end: its results mean nothing, but nothing outside
 * the tensors is read or written. Give the problem and the tensors of the call; of the tensors
 * only checked_report is looked at.
 * Errors: BAD_DATA, INVALID_ARGUMENT (no CHECKED; no report in that memory), CUDA_ERROR.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_checked_status(const gdn_context *context,
                                                       const gdn_problem *problem,
                                                       const gdn_tensors *tensors,
                                                       gdn_stream stream);

/* ---- Segments: one sequence over several calls, cards or ranks ---------------------------------
 */

/*
 * The exit state of any run of tokens is affine in its entry state:
 *
 *     S_exit   = exp(log_decay) M S_entry + N            forward
 *     dS_entry = exp(log_decay) M^T dS_exit + n          backward
 *
 * Here exit means that of the last sequence, entry that of the first.
 *
 * A rank that holds a shard of a packed batch describes it as a problem of its own, with cu_seqlens
 * of its part. Its last sequence may go on to the right, its first may come from the left; entry
 * states and their gradients are then ordinary initial_state and dht of gdn_forward and
 * gdn_backward. The functions here give what travels.
 *
 *   name            shape         dtype       nullable
 *   exit_state      [Hv, K, V]    state type  yes   N: from initial_state, or from 0
 *   transfer        [Hv, K, K]    state type  yes   M, gates left out
 *   log_decay       [Hv]          state type  yes   sum of g
 *   decay_bound     [Hv]          state type  yes   sum of g + log max(1, |1 - beta |k|^2|)
 *   entry_gradient  [Hv, K, V]    state type  yes   n: from dht, or from 0
 */
typedef struct gdn_segment {
    size_t size;
    void *exit_state, *transfer, *log_decay, *decay_bound, *entry_gradient;
} gdn_segment;

#define GDN_SEGMENT_INIT                                                                           \
    { sizeof(gdn_segment), NULL, NULL, NULL, NULL, NULL }

/* Writes exit_state, transfer, log_decay and decay_bound. Reads k, v, g, beta, cu_seqlens,
 * initial_state. Workspace: sizes.segment_workspace. Errors as forward. A last sequence without
 * tokens gives M = I, N = initial. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_segment_forward(const gdn_context *context,
                                                        const gdn_problem *problem,
                                                        const gdn_tensors *tensors,
                                                        const gdn_segment *segment,
                                                        gdn_stream stream);

/* Writes entry_gradient. Reads q, k, g, beta, do_, dht, cu_seqlens. Workspace and errors as above.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_segment_backward(const gdn_context *context,
                                                         const gdn_problem *problem,
                                                         const gdn_tensors *tensors,
                                                         const gdn_segment *segment,
                                                         gdn_stream stream);

#ifdef __cplusplus
}
#endif

#endif /* GDN_H */
