/*
 * Sequence sharding: one packed batch over several ranks, forward and backward, with the numbers of
 * one rank.
 *
 * Rank r of a sequence group holds the tokens [first, first + count) of the batch, for all heads;
 * shards are contiguous, may be uneven or empty, and a boundary may fall anywhere. What crosses
 * ranks does not grow with the number of tokens: one state a head and boundary where a sequence
 * goes on, each way.
 *
 *     forward   S_out(r) = N_r + exp(decay_r) M_r S_in(r)       to rank r + 1
 *     backward  dS_in(r) = n_r + exp(decay_r) M_r^T dS_out(r)   to rank r - 1
 *
 * M_r, N_r and decay_r are those of gdn_segment_forward, n_r that of gdn_segment_backward. A head
 * is final where S_out(r) = N_r: its sequence began on rank r, or its decay bound over the shard is
 * below the problem's decay_threshold (it is truncated). Final heads are sent before anything is
 * received, and before the main kernel; the others follow once S_in(r) is there, and M_r stays on
 * its rank. Backward takes the decisions of forward. GDN_FLAG_EXACT and fp64 never truncate.
 *
 * Rules as in gdn.h, with these differences:
 *   Collective    Calls are made by all ranks of the group, in the same order, from one thread at a
 *                 time; they block the host until their messages have come (over NCCL they
 *                 do not).
 *   Agreement     A "collective check" compares its arguments between the ranks before data moves
 *                 and fails with the same status and line on all of them.
 *   Failure       Any other failure is that of one rank, whose neighbours are then waiting for it:
 *                 call gdn_dist_abort(). Until then every call on the group fails, and
 *                 gdn_dist_destroy() ends the job itself. Memory handed to the failed call stays
 *                 in use until the group is gone. A program that wants to go on asks for that:
 *                 see gdn_dist_failure.
 *   Output, exit  A lost rank cannot be reported by a status alone. gdn_dist_abort(), and the watch
 *                 over silent ranks, print one line on stderr in the whole job and end all its
 *                 processes (with GDN_DIST_RETURN gdn_dist_abort() alone). Nothing else here prints
 *                 or exits.
 *   Allocation    Messages need small host allocations (a plan's, page-locked, where they are
 *                 staged); a layer on a device keeps its sequences' bounds there; tensors and
 *                 workspace are the caller's.
 *
 * On a cuda context tensors, weights, workspace and saved are memory of its device. Messages then
 * go over NCCL after gdn_dist_use_nccl(), and calls only enqueue; otherwise they go over MPI,
 * staged through page-locked host memory unless MPI takes pointers to a device's, and calls wait
 * for the stream up to where the messages have come, as MPI moves what is there. What a device
 * decides, it decides without the host: a rank with neighbours on both sides sends after it has
 * received, also where every head is truncated.
 *
 * No MPI, CUDA or NCCL header is included: a communicator crosses as a pointer to it.
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
 * How bytes move; the algorithms above know nothing else. Ranks are those of one group; messages
 * name them by their rank in the whole job. Messages between two ranks with one tag arrive in
 * order. A wait ends with the message, with the job (see gdn_dist_config), or with COMM_ERROR or
 * TIMEOUT and a line that names the rank, the operation and the reason. `what` names it:
 * "gdn_dist_forward: the entry state".
 */
typedef struct gdn_transport gdn_transport;
typedef struct gdn_request gdn_request; /* a started send or receive; freed by wait */

/* Of device_exchange: `bytes` of `data`, which are sent to, or received from, rank `peer`. */
typedef struct gdn_device_message {
    int32_t peer, sending;
    void *data;
    size_t bytes;
} gdn_device_message;

struct gdn_transport {
    size_t size;
    int32_t rank, ranks;
    /* At most 2^31 - 1 bytes; data stays untouched until wait. Tags of a program's own: 100 to 999.
     */
    gdn_status (*send)(gdn_transport *transport, int32_t to, int32_t tag, const void *data,
                       size_t bytes, gdn_request **request);
    /* A message of at most `bytes`. */
    gdn_status (*receive)(gdn_transport *transport, int32_t from, int32_t tag, void *data,
                          size_t bytes, gdn_request **request);
    /* received: bytes that came; NULL = not wanted. Where `*request` is NULL: OK at once. */
    gdn_status (*wait)(gdn_transport *transport, gdn_request **request, const char *what,
                       size_t *received);
    /* all: [ranks][bytes], in rank order */
    gdn_status (*all_gather)(gdn_transport *transport, const void *mine, void *all, size_t bytes,
                             const char *what);
    /* data[count], FP32 or FP64: the sum over ranks, added in rank order, the same bits on every
     * rank and in every run */
    gdn_status (*all_reduce)(gdn_transport *transport, gdn_dtype dtype, void *data, int64_t count,
                             const char *what);
    /* Ends the whole job as gdn_dist_abort does. Does not return. */
    void (*abort)(gdn_transport *transport, int32_t exit_code, const char *reason);
    void (*destroy)(gdn_transport *transport);

    /*
     * Memory of a device; NULL but after gdn_dist_use_nccl. Each call enqueues beside the stream,
     * after all that the stream has now. What was received is there for what the stream gets next;
     * what is sent stays untouched by what the stream gets until device_finish. Messages between
     * two ranks arrive in order, and both sides know their size.
     */
    gdn_status (*device_send)(gdn_transport *transport, int32_t to, const void *data, size_t bytes,
                              gdn_stream stream);
    gdn_status (*device_receive)(gdn_transport *transport, int32_t from, void *data, size_t bytes,
                                 gdn_stream stream);
    /* data[count], FP32 or FP64: the sum over ranks, the same bits on every rank. The order of the
     * additions is NCCL's. The sum is there for what the stream gets after device_finish. */
    gdn_status (*device_all_reduce)(gdn_transport *transport, gdn_dtype dtype, void *data,
                                    int64_t count, gdn_stream stream);
    /* What the stream gets next waits for all of the above. */
    gdn_status (*device_finish)(gdn_transport *transport, gdn_stream stream);
    void *device; /* of these functions */
    /* All of the messages at once, however their peers order theirs; what the stream gets next
     * waits for them. */
    gdn_status (*device_exchange)(gdn_transport *transport, const gdn_device_message *messages,
                                  int32_t count, gdn_stream stream);

    /* Gives a started message up without waiting for another rank; `*request` becomes NULL. For
     * what is left after a failure. */
    void (*drop)(gdn_transport *transport, gdn_request **request);
};

/* ---- The group ---------------------------------------------------------------------------------
 */

/* How MPI gets the messages of devices, without NCCL. */
typedef enum gdn_dist_device_messages {
    GDN_DIST_ASK_MPI, /* DIRECT where MPI itself says so (Open MPI's MPIX_Query_cuda_support) */
    GDN_DIST_STAGED,  /* through page-locked memory of the host */
    GDN_DIST_DIRECT   /* as pointers to memory of the device: for an MPI that takes them, unasked */
} gdn_dist_device_messages;

/* What ends where a rank fails, falls silent or keeps others waiting too long. */
typedef enum gdn_dist_failure {
    GDN_DIST_END_JOB, /* the whole job, with one line */
    GDN_DIST_RETURN   /* the group, see below; nothing is printed */
} gdn_dist_failure;

/*
 * With GDN_DIST_RETURN a program goes on after a failure. (Where a process dies Open MPI's mpirun
 * ends the job itself, unless it was started with --enable-recovery.) The group has then failed on
 * every rank that still answers, within `deadline` of the cause where a rank is silent:
 *
 *   calls that wait        come back with COMM_ERROR and the line that END_JOB would have printed,
 *                          and so does every later call; gdn_dist_check() asks for it
 *   messages over NCCL     are aborted with the group's communicators (ncclCommAbort), so that
 *                          streams run on to their end; what they have computed since is not valid
 *   messages over MPI      are given up, but for those that MPI is moving just now: memory that was
 *                          being sent stays in use until MPI is finalised
 *   a caller's communicators   of MPI and of NCCL stay as they are: they are never aborted or freed
 *
 * Then: wait for the streams, destroy graphs that hold messages of the group (none may be launched
 * any more; NCCL waits for their end), destroy layers and plans, gdn_dist_destroy(), which no
 * longer waits for other ranks. Those that are left may make a new group over a communicator of
 * theirs; MPI_Finalize, though, wants all ranks, and is best left out (_exit) where some are gone.
 * A rank that has failed by itself says so by gdn_dist_fail().
 */
typedef struct gdn_dist_config {
    size_t size;
    const void *communicator; /* pointer to an MPI_Comm of the caller's; NULL = MPI_COMM_WORLD. It
                                 is duplicated */
    int32_t sequence_ranks;   /* ranks that share a sequence; divides the rank count; 0 = all. The
                                 rest is data parallel */
    double deadline;          /* seconds after which a silent rank ends the job; 0 = 30; >= 0.5 */
    double wait_limit;  /* seconds after which a rank that is alive and at work, but keeps another
                           waiting, ends the job; 0 = 10 deadlines; >= 2 deadlines. Where all ranks
                           wait for one another it is 2 deadlines */
    int32_t on_failure; /* gdn_dist_failure */
    int32_t device_messages; /* gdn_dist_device_messages */
} gdn_dist_config;

#define GDN_DIST_CONFIG_INIT                                                                       \
    { sizeof(gdn_dist_config), NULL, 0, 0.0, 0.0, GDN_DIST_END_JOB, GDN_DIST_ASK_MPI }

typedef struct gdn_dist gdn_dist;

/* The groups a rank belongs to: all ranks; those that share its sequences (neighbours by rank);
 * those that hold the same shard of other sequences. */
typedef enum gdn_dist_group {
    GDN_DIST_WORLD,
    GDN_DIST_SEQUENCE,
    GDN_DIST_DATA
} gdn_dist_group;

/*
 * MPI_Init_thread and MPI_Finalize for programs that do not use MPI themselves. started: 0 where
 * the program was not launched by mpirun (told by what Open MPI, MPICH and Slurm leave in the
 * environment), and nothing was done. A start or finish that takes longer than `deadline` seconds
 * (0 = 30) ends the process with one line and exit code 4.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_start(double deadline, int32_t *started);
GDN_API void gdn_dist_finish(double deadline);

/*
 * Collective. MPI must be initialised with MPI_THREAD_MULTIPLE (gdn_dist_start does it). Starts the
 * watch: a thread a rank that sends heartbeats; when they stop to come for `deadline` seconds, or a
 * rank waits longer than wait_limit, the rank at fault and what it was last doing are reported and
 * the job ends with exit code 4. Collective check:
 * library version and configuration. config may be NULL. Errors: INVALID_ARGUMENT, UNSUPPORTED (MPI
 * without threads), COMM_ERROR, TIMEOUT, OUT_OF_MEMORY.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_create(gdn_dist **dist, const gdn_dist_config *config);
/* Collective, but after a failure with GDN_DIST_RETURN. NULL is fine. */
GDN_API void gdn_dist_destroy(gdn_dist *dist);

/* Whether the group is still good, by what is known here and now: waits for nothing, and is not
 * collective. For a program whose own waits are on streams. Errors: COMM_ERROR, with what has
 * happened. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_check(gdn_dist *dist);

/* This rank cannot go on. With GDN_DIST_RETURN the group fails on all ranks, with "rank 2:
 * <reason>"; otherwise gdn_dist_abort() with exit code 4. reason NULL = gdn_last_error(). */
GDN_API void gdn_dist_fail(gdn_dist *dist, const char *reason);
GDN_API gdn_transport *gdn_dist_transport(gdn_dist *dist, gdn_dist_group group);
GDN_API int32_t gdn_dist_rank(const gdn_dist *dist, gdn_dist_group group);
GDN_API int32_t gdn_dist_ranks(const gdn_dist *dist, gdn_dist_group group);

/*
 * The collective check for a program's own arguments. mine: this rank's status so far; where it is
 * a failure on any rank, all fail with it and its gdn_last_error(). description: "field value;
 * field value; ..."; the first field that differs between two ranks is reported with both values
 * (at most 1,000 characters are compared). NULL = none.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_agree(gdn_dist *dist, gdn_dist_group group,
                                                   gdn_status mine, const char *name,
                                                   const char *description);

/* NCCL's version as it gives it itself (22803 for 2.28.3); 0: not part of this build. */
GDN_API int32_t gdn_dist_nccl_version(void);

/*
 * Collective over all ranks, before plans are made. Memory of devices goes over NCCL from now on,
 * on the device of the cuda context, which must outlive the group: communicators of the three
 * groups are brought up over the ranks, or split off the caller's, over the same ranks in the same
 * order, which stays the caller's. communicator: pointer to an ncclComm_t, or NULL. Messages take a
 * stream of their own, which the caller's waits for and which waits for the caller's.
 *
 * The watch covers what the devices wait for. Before gdn_dist_destroy() wait for the streams.
 * Errors: NO_BACKEND (not in this build), UNSUPPORTED (two ranks on one device), INVALID_ARGUMENT,
 * COMM_ERROR.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_use_nccl(gdn_dist *dist, const gdn_context *context,
                                                      const void *communicator);

/*
 * Collective over all ranks, after gdn_dist_use_nccl: memory of the device for what messages and
 * sums are handed over in again and again (workspace, saved, a layer's activations, gradients). It
 * is NCCL's (ncclMemAlloc) and registered with the group's communicators, so that NCCL moves it
 * without a copy of its own where it can. bytes: the same on all ranks. For one message, or one
 * sum, either all of its ranks use such memory or none does. Collective check: bytes. It is the
 * caller's until gdn_dist_release, or goes with the group, after a failure always. Errors:
 * NO_BACKEND (not in this build), UNSUPPORTED (NCCL before 2.19), INVALID_ARGUMENT, OUT_OF_MEMORY,
 * COMM_ERROR.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_allocate(gdn_dist *dist, size_t bytes, void **memory);
/* Of this rank alone; the device no longer uses it. NCCL asks the other ranks' processes, and waits
 * for one that is silent, also with GDN_DIST_RETURN. NULL is fine. */
GDN_API void gdn_dist_release(gdn_dist *dist, void *memory);

/* What this rank is doing, for the line about it should it fall silent ("writing step 100"). */
GDN_API void gdn_dist_note(gdn_dist *dist, const char *doing);

/* Ends the job on all ranks with one line on stderr, "gdn: rank 2: <reason>". reason NULL =
 * gdn_last_error(). Of several ranks that call it the first is heard. Does not return. */
GDN_API void gdn_dist_abort(gdn_dist *dist, int32_t exit_code, const char *reason);

/* ---- Shards ------------------------------------------------------------------------------------
 */

/* The whole batch and this rank's part of it. */
typedef struct gdn_shard {
    size_t size;
    int64_t T, N;              /* of the whole batch */
    const int64_t *cu_seqlens; /* [N+1], host, of the whole batch; NULL: N sequences of T / N */
    int64_t first, count;      /* this rank's tokens */
} gdn_shard;

#define GDN_SHARD_INIT                                                                             \
    { sizeof(gdn_shard), 0, 1, NULL, 0, 0 }

/* Even shards: sets first and count. */
GDN_API void gdn_shard_even(gdn_shard *shard, int32_t rank, int32_t ranks);

/*
 * What a shard holds: `sequences` sequences from first_sequence on. Those are the ones that have
 * tokens here, the one that only passes through a shard without tokens, and the empty ones whose
 * place is here: the shard with the token at that place, or the last one past the end. from_left
 * (to_right): the first (last) one has tokens on a rank to the left (right). through: it is one
 * sequence that does both.
 */
typedef struct gdn_shard_part {
    size_t size;
    int64_t first_sequence, sequences;
    int32_t from_left, to_right, through;
} gdn_shard_part;

#define GDN_SHARD_PART_INIT                                                                        \
    { sizeof(gdn_shard_part), 0, 0, 0, 0, 0 }

/* Pure. is_last: whether this is the last rank's. Errors: INVALID_ARGUMENT, BAD_DATA. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_shard_find(const gdn_shard *shard, int32_t is_last,
                                                   gdn_shard_part *part);

/* Token within the shard, 0 to count, at which its i-th sequence starts; i == sequences: where the
 * last one ends. */
GDN_API int64_t gdn_shard_start(const gdn_shard *shard, const gdn_shard_part *part, int64_t i);

/* Bytes that cross a boundary within a sequence, each way: one state a head and a header. Pure. */
GDN_API int64_t gdn_shard_state_bytes(const gdn_problem *problem);

/* ---- Sharded operator --------------------------------------------------------------------------
 */

typedef struct gdn_dist_plan gdn_dist_plan;

/*
 * Collective over the sequence group. problem: the operator as on one rank; T and N are taken from
 * shard. Collective check: problem (but for strides), backend, batch; shards are contiguous and
 * cover it. The context must outlive the plan. Errors: INVALID_ARGUMENT, UNSUPPORTED (by the
 * backend), BAD_DATA (cu_seqlens).
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_plan_create(gdn_dist_plan **plan, gdn_dist *dist,
                                                         const gdn_context *context,
                                                         const gdn_problem *problem,
                                                         const gdn_shard *shard);
GDN_API void gdn_dist_plan_destroy(gdn_dist_plan *plan); /* NULL is fine */

/* This rank's part as a problem of its own: T = count, N = part.sequences, but at least 1: where
 * there is none, one without tokens that is not of the batch. cu_seqlens: host, [N+1], lives as
 * long as the plan; on a cuda context the problem's flags say so. */
typedef struct gdn_dist_local {
    size_t size;
    gdn_problem problem;
    gdn_shard_part part;
    const int64_t *cu_seqlens;
} gdn_dist_local;

#define GDN_DIST_LOCAL_INIT                                                                        \
    { sizeof(gdn_dist_local), GDN_PROBLEM_INIT, GDN_SHARD_PART_INIT, NULL }

GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_plan_local(const gdn_dist_plan *plan,
                                                        gdn_dist_local *local);

/* Bytes for the calls below, on this rank. saved is never 0. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_plan_sizes(const gdn_dist_plan *plan,
                                                        gdn_sizes *sizes);

/*
 * gdn_forward and gdn_backward over the sequence group; collective. tensors: this rank's part,
 * shapes as in the local problem, nullable as there, with these differences:
 *
 *   cu_seqlens     ignored: the plan has them, on the host
 *   saved          not NULL: forward writes decisions, entry state and M there, backward reads them
 *   initial_state  row 0 is ignored with from_left: it comes from there
 *   final_state    with to_right the last row is the state at the shard's end
 *   dht            the last row is ignored with to_right
 *   dh0            with from_left row 0 is the gradient of the shard's entry state
 *
 * BAD_DATA where a state that would be sent holds a NaN or Inf; where the host does not see it
 * (over NCCL, and DIRECT) it is sent. What CHECKED finds is returned before anything is sent, and
 * on a cuda context is found in checked_report.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_forward(gdn_dist_plan *plan,
                                                     const gdn_tensors *tensors, gdn_stream stream);
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_backward(gdn_dist_plan *plan,
                                                      const gdn_tensors *tensors,
                                                      gdn_stream stream);

/* What the last forward and backward of a plan sent from this rank. */
typedef struct gdn_dist_traffic {
    size_t size;
    int64_t forward_bytes, backward_bytes;
    int32_t heads_truncated, heads_exact; /* of a sequence that passes through; else both 0 */
    int64_t segment_tokens; /* tokens that forward's segment pass read: the shard's, or fewer where
                               all heads decay within its tail. Where only a device knows, over
                               NCCL, it is -1, and so are both numbers of heads */
} gdn_dist_traffic;

#define GDN_DIST_TRAFFIC_INIT                                                                      \
    { sizeof(gdn_dist_traffic), 0, 0, 0, 0, 0 }

GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_plan_traffic(const gdn_dist_plan *plan,
                                                          gdn_dist_traffic *traffic);

/* ---- Sharded layer -----------------------------------------------------------------------------
 *
 * gdn_layer_forward and gdn_layer_backward over the sequence group. Besides the operator's states
 * the convolution's halo crosses: the W-1 rows of qkv before a shard, as far as they are of the
 * same sequence, from as many ranks to the left as hold them, and their gradients back. All else
 * is local. Weight gradients are those of this rank's tokens until they are summed.
 */

typedef struct gdn_dist_layer gdn_dist_layer;

/* Collective over the sequence group, as gdn_dist_plan_create; T and N are taken from shard. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_layer_create(gdn_dist_layer **layer, gdn_dist *dist,
                                                          const gdn_context *context,
                                                          const gdn_layer *description,
                                                          const gdn_shard *shard);
GDN_API void gdn_dist_layer_destroy(gdn_dist_layer *layer); /* NULL is fine */

/* The operator's plan, for gdn_dist_plan_local: T, N, sequences of this rank's tensors. */
GDN_API const gdn_dist_plan *gdn_dist_layer_plan(const gdn_dist_layer *layer);

/* Bytes for the calls below, on this rank. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_layer_sizes(const gdn_dist_layer *layer,
                                                         gdn_sizes *sizes);

/* Collective. tensors: this rank's part; as gdn_layer_forward and gdn_layer_backward, with rows of
 * states as in gdn_dist_forward; cu_seqlens, conv_halo, dconv_halo and hooks are ignored; saved is
 * not NULL. On a cuda context they enqueue, or wait for the stream, as gdn_dist_forward does. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_layer_forward(gdn_dist_layer *layer,
                                                           const gdn_layer_tensors *tensors,
                                                           gdn_stream stream);
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_layer_backward(gdn_dist_layer *layer,
                                                            const gdn_layer_tensors *tensors,
                                                            gdn_stream stream);

/*
 * For a caller that lets go of a layer's activations and computes them again for backward. What
 * came from other ranks, and what was decided, are the first gdn_dist_layer_crossed() bytes of
 * saved: two states a head and little else. With those of the forward of the same tensors in place,
 * by this layer or by one that saves less, gdn_dist_layer_forward_again() writes out, final_state
 * and the rest of saved. It sends nothing, and waits for no other rank.
 */
GDN_API size_t gdn_dist_layer_crossed(const gdn_dist_layer *layer);
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_layer_forward_again(gdn_dist_layer *layer,
                                                                 const gdn_layer_tensors *tensors,
                                                                 gdn_stream stream);

/* Operator and halo together. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_layer_traffic(const gdn_dist_layer *layer,
                                                           gdn_dist_traffic *traffic);

/* Collective over the group, WORLD for the gradients of a step: sums each weight gradient over its
 * ranks, in rank order (see all_reduce). dweights: in the host's memory, of the state type. Sums in
 * a device's are device_all_reduce's. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_dist_layer_reduce(gdn_dist *dist, gdn_dist_group group,
                                                          const gdn_layer *description,
                                                          const gdn_layer_weights *dweights);

#ifdef __cplusplus
}
#endif

#endif /* GDN_DIST_H */
