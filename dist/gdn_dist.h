/*
 * Sequence sharding: one packed batch over several ranks, forward and backward, with the numbers of
 * one rank.
 *
 * Rank r of a sequence group holds the tokens [first, first + count) of the batch, for all heads;
 * shards are contiguous, may be uneven or empty, and a boundary may fall anywhere. What crosses
 * ranks does not grow with the number of tokens:
 *
 *     forward   S_out(r) = N_r + exp(decay_r) M_r S_in(r)       to rank r + 1
 *     backward  dS_in(r) = n_r + exp(decay_r) M_r^T dS_out(r)   to rank r - 1
 *
 * M_r and N_r are those of gdn_segment_forward, n_r that of gdn_segment_backward. A head whose
 * decay bound over shard r is below the problem's decay_threshold has S_out(r) = N_r and dS_in(r) =
 * n_r: it is sent before anything is received. The other heads apply M_r, which stays on its rank.
 * Forward and backward take the same decision; GDN_FLAG_EXACT never truncates.
 *
 * Rules as in gdn.h, with these differences: calls are collective over the sequence group, block
 * the host until their messages have come, and must be made in the same order on all ranks, from
 * one thread at a time. No MPI header is included: a communicator crosses as a pointer to it.
 */
#ifndef GDN_DIST_H
#define GDN_DIST_H

#include "gdn.h"
#include "gdn_layer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Transport ---------------------------------------------------------------------------------
 */

/*
 * How bytes move; the algorithms above know nothing else. Ranks are those of one group. Messages
 * between two ranks with one tag arrive in order. Every wait ends by the deadline: TIMEOUT or
 * COMM_ERROR with a line that names the rank, the operation and the reason.
 */
typedef struct gdn_transport gdn_transport;
typedef struct gdn_request gdn_request; /* a started send or receive; freed by wait */

struct gdn_transport {
    size_t size;
    int32_t rank, ranks;
    gdn_status (*send)(gdn_transport *transport, int32_t to, int32_t tag, const void *data,
                       size_t bytes, gdn_request **request);
    gdn_status (*receive)(gdn_transport *transport, int32_t from, int32_t tag, void *data,
                          size_t bytes, gdn_request **request);
    /* what: the operation's name for the error message */
    gdn_status (*wait)(gdn_transport *transport, gdn_request *request, const char *what);
    /* all: [ranks][bytes], in rank order */
    gdn_status (*all_gather)(gdn_transport *transport, const void *mine, void *all, size_t bytes,
                             const char *what);
    /* data[count] fp32: the sum over ranks, added in rank order, the same bits on every rank */
    gdn_status (*all_reduce)(gdn_transport *transport, float *data, int64_t count,
                             const char *what);
    /* Ends the whole job, on every rank, with the exit code; the reason is one line on stderr,
     * printed once. */
    void (*abort)(gdn_transport *transport, int32_t exit_code, const char *reason);
    void (*destroy)(gdn_transport *transport);
};

/* ---- The group ---------------------------------------------------------------------------------
 */

typedef struct gdn_dist_config {
    size_t size;
    const void *communicator; /* pointer to an MPI_Comm of the caller's; NULL = MPI_COMM_WORLD. It
                                 is duplicated */
    int32_t sequence_ranks;   /* ranks that share a sequence; divides the rank count; 0 = all. The
                                 rest is data parallel */
    double deadline;          /* seconds after which a silent rank ends the job; 0 = 30 */
} gdn_dist_config;

#define GDN_DIST_CONFIG_INIT                                                                       \
    { sizeof(gdn_dist_config), NULL, 0, 0.0 }

typedef struct gdn_dist gdn_dist;

/* The groups a rank belongs to: all ranks; those that share its sequences (neighbours by rank);
 * those that hold the same shard of other sequences. */
typedef enum gdn_dist_group {
    GDN_DIST_WORLD,
    GDN_DIST_SEQUENCE,
    GDN_DIST_DATA
} gdn_dist_group;

/* MPI must be initialised with MPI_THREAD_MULTIPLE (gdn_dist_start does it). Starts the watch over
 * silent ranks. Compares library versions and configurations between ranks: INVALID_ARGUMENT with
 * both values where they differ. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_create(gdn_dist **dist, const gdn_dist_config *config);
GDN_API void gdn_dist_destroy(gdn_dist *dist);
GDN_API gdn_transport *gdn_dist_transport(gdn_dist *dist, gdn_dist_group group);
GDN_API int32_t gdn_dist_rank(const gdn_dist *dist, gdn_dist_group group);
GDN_API int32_t gdn_dist_ranks(const gdn_dist *dist, gdn_dist_group group);

/* MPI_Init_thread and MPI_Finalize for programs that do not use MPI themselves. started: 0 where
 * the program was not launched by mpirun. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_start(int32_t *started);
GDN_API void gdn_dist_finish(void);

/* Fails unless `bytes` are the same on all ranks of the group; name says what they are, describe
 * renders them for the message. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_agree(gdn_dist *dist, gdn_dist_group group,
                                                   const char *name, const char *description);

/* Ends the job on all ranks with one line on stderr: the rank and the reason. Does not return. */
GDN_API void gdn_dist_abort(gdn_dist *dist, int32_t exit_code, const char *reason);

/* ---- Sharded operator --------------------------------------------------------------------------
 */

/* The whole batch and this rank's part of it. */
typedef struct gdn_shard {
    size_t size;
    int64_t T, N; /* of the whole batch */
    const int64_t
        *cu_seqlens;      /* [N+1], host, of the whole batch; NULL: N equal sequences of T / N */
    int64_t first, count; /* this rank's tokens */
} gdn_shard;

#define GDN_SHARD_INIT                                                                             \
    { sizeof(gdn_shard), 0, 1, NULL, 0, 0 }

/* Even shards: first and count of this rank. */
GDN_API void gdn_shard_even(gdn_shard *shard, int32_t rank, int32_t ranks);

typedef struct gdn_dist_plan gdn_dist_plan;

/*
 * Collective. problem: the operator as on one rank (T and N are taken from shard). Compares
 * problem, shard and backend between ranks before anything else is sent.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_plan_create(gdn_dist_plan **plan, gdn_dist *dist,
                                                         const gdn_context *context,
                                                         const gdn_problem *problem,
                                                         const gdn_shard *shard);
GDN_API void gdn_dist_plan_destroy(gdn_dist_plan *plan);

/*
 * This rank's part as a problem of its own: T = count tokens, N = the sequences that have tokens
 * here (or, for an empty one, whose place is here; at least 1). first_sequence: index of its first
 * sequence in the whole batch. cu_seqlens: host, [N+1], lives as long as the plan. from_left /
 * to_right: the first (last) sequence began (goes on) on another rank.
 */
typedef struct gdn_dist_local {
    size_t size;
    gdn_problem problem;
    int64_t first_sequence;
    const int64_t *cu_seqlens;
    int32_t from_left, to_right;
} gdn_dist_local;

GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_plan_local(const gdn_dist_plan *plan,
                                                        gdn_dist_local *local);

/* Bytes for the calls below; saved is what forward hands to backward and never 0. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_plan_sizes(const gdn_dist_plan *plan,
                                                        gdn_sizes *sizes);

/*
 * gdn_forward and gdn_backward over the group. tensors: this rank's part, shapes as in the local
 * problem; its cu_seqlens field is ignored (the plan has them). initial_state and final_state rows
 * count where the sequence begins (ends) on this rank: row 0 is ignored with from_left, the last
 * row is written with the shard's exit state with to_right. dht and dh0 likewise, mirrored. T =
 * count = 0 is fine. saved: written by forward, read by backward.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_forward(gdn_dist_plan *plan,
                                                     const gdn_tensors *tensors, gdn_stream stream);
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_backward(gdn_dist_plan *plan,
                                                      const gdn_tensors *tensors,
                                                      gdn_stream stream);

/* What the last forward (backward) of the plan sent from this rank. */
typedef struct gdn_dist_traffic {
    size_t size;
    int64_t forward_bytes, backward_bytes;
    int32_t heads_truncated, heads_exact; /* of the exit state; both 0 where nothing crosses */
} gdn_dist_traffic;

GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_plan_traffic(const gdn_dist_plan *plan,
                                                          gdn_dist_traffic *traffic);

#ifdef __cplusplus
}
#endif

#endif /* GDN_DIST_H */
