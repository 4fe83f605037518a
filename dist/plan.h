/*
 * A plan, and how its calls divide the caller's memory.
 *
 *   workspace   the backend's, a segment pass's where it runs beside the main kernels, then rows of
 *               entry and exit states, mail, N and the bounds; on a device what its kernels decide
 *               from, in place of mail and bounds
 *   saved       decisions, log decays, entry state, M (of a sequence that passes through; on a
 *               device exp(log_decay) M, and no log decays), then the backend's
 */
#ifndef GDNI_DIST_PLAN_H
#define GDNI_DIST_PLAN_H

#include "group.h"

typedef struct gdni_staging gdni_staging;
typedef struct gdni_beside gdni_beside;

enum {
    GDNI_WARM_UP = 64 /* tokens: the shortest tail that a segment pass reads */
};

struct gdn_dist_plan {
    gdn_dist *dist;
    gdn_transport *group;
    const gdn_context *context;
    gdn_problem problem; /* this rank's part, defaults filled in */
    gdn_shard_part part;
    int32_t on_device;      /* tensors are memory of the context's device */
    gdni_staging *staging;  /* on a device, where messages go over MPI; else NULL */
    gdni_beside *beside;    /* on a device, over NCCL: for segment passes beside the main kernels */
    int64_t *cu_seqlens;    /* [problem.N + 1] */
    int64_t *firsts;        /* [ranks + 1]: first token of each rank, T last */
    int64_t sequence_start; /* of the first sequence, in tokens of the whole batch */
    gdn_dtype state_dtype;
    size_t head_bytes, states_bytes; /* of one head's state and of one sequence's */
    size_t mail_bytes, header_bytes;
    gdn_sizes inner; /* what the backend wants, segment passes included in all workspaces */
    size_t segment_workspace; /* but not those beside the main kernels, which want so much */
    gdn_sizes sizes;
    uint32_t calls; /* made so far: neighbours must be at the same one */
    gdn_dist_traffic traffic;
};

/* The caller's memory, divided. */
typedef struct gdni_dist_memory {
    char *segment;                /* a segment pass's workspace, beside the main kernels */
    char *entry_rows, *exit_rows; /* [N] states: initial_state, dht with the row that crossed */
    char *outgoing, *incoming;    /* mail */
    char *states;                 /* one sequence's: N or n */
    void *bounds;                 /* [Hv] state type */
    double *sums;                 /* scratch of decisions on a device */
    int64_t *cut;                 /* [4] see gdni_sharding_run */
    char *first_state;            /* one sequence's: what a segment pass on a device starts from */
    char *zeros, *identity;       /* of a device's M: v, and [Hv, K, K] */
    int32_t *final;               /* saved from here on: [Hv] decisions */
    void *log_decay;              /* [Hv] state type */
    char *entry;                  /* one sequence's */
    char *transfer;               /* M, [Hv, K, K] */
} gdni_dist_memory;

/* Copies and checks the caller's tensors, and divides their memory. */
gdn_status gdni_dist_open(const gdn_dist_plan *plan, const char *function, int32_t backward,
                          const gdn_tensors *in, gdn_tensors *tensors, gdni_dist_memory *memory);

/* The problem of `count` of this part's tokens as one sequence. */
gdn_problem gdni_dist_segment(const gdn_dist_plan *plan, int64_t count);

/* On a device: that of exp(log_decay) M, the exit state of the same tokens from the identity with
 * v = 0. Rows of v overlap: all are zeros. */
gdn_problem gdni_dist_transfer(const gdn_dist_plan *plan, int64_t count);
size_t gdni_dist_zeros(const gdn_dist_plan *plan); /* bytes of this part's */

/* Bytes at the start of saved that gdni_dist_forward_again finds there: all but the backend's. */
size_t gdni_dist_crossed(const gdn_dist_plan *plan);
/* gdn_dist_forward of the same tensors, without messages. */
gdn_status gdni_dist_forward_again(gdn_dist_plan *plan, const gdn_tensors *tensors,
                                   gdn_stream stream);

/* The call on tokens [first, first + count) as one sequence of its own; states of sequence `row`,
 * -1 = none. */
void gdni_dist_slice(const gdn_dist_plan *plan, const gdn_tensors *tensors, int64_t first,
                     int64_t count, int64_t row, gdn_problem *problem, gdn_tensors *slice);

/*
 * How many of the tokens [first, first + count) a segment pass has to read: all of them, or a tail
 * (a head, with from_start) over which every head's bound is below the threshold, as it is over
 * every longer one that was tried. bounds: over all of them. scratch: as large.
 */
gdn_status gdni_dist_warm_up(const gdn_dist_plan *plan, const gdn_tensors *tensors, int64_t first,
                             int64_t count, int32_t from_start, void *bounds, void *scratch,
                             int64_t *length);

/* Whether head h is below the threshold. */
int32_t gdni_dist_below(const gdn_dist_plan *plan, const void *bounds, int32_t h);

/* ---- States on their way to a neighbour --------------------------------------------------------
 *
 * Two messages: a header that tells which heads are final and their states, as early as possible;
 * then the states of the other heads, if there are any.
 */
typedef struct gdni_mail {
    gdn_dist_plan *plan;
    const char *what; /* names it in messages */
    char *buffer;     /* header, states of the final heads, states of the others */
    int32_t peer, tag;
    gdn_request *first, *second;
    int64_t bytes; /* sent so far */
} gdni_mail;

/* states [Hv, K, V]. BAD_DATA where one holds a NaN or Inf. */
gdn_status gdni_mail_send_final(gdni_mail *mail, const int32_t *final, const void *states);
gdn_status gdni_mail_send_others(gdni_mail *mail, const int32_t *final, const void *states);
gdn_status gdni_mail_sent(gdni_mail *mail); /* waits */
gdn_status gdni_mail_expect(gdni_mail *mail);
gdn_status gdni_mail_receive(gdni_mail *mail, void *states);
/* The header, and [Hv, K, V] states from and to where they lie, which may be memory of a device. */
gdn_status gdni_mail_send_apart(gdni_mail *mail, const void *states);
gdn_status gdni_mail_receive_apart(gdni_mail *mail, void *states);

/* out[h] += exp(log_decay[h]) M[h] in[h] (M[h]^T if transposed) for the heads that are not final.
 */
void gdni_apply_transfer(const gdn_dist_plan *plan, const gdni_dist_memory *memory,
                         int32_t transposed, const void *in, void *out);

/* ---- On a device -------------------------------------------------------------------------------
 */

#ifdef GDNI_HAVE_CUDA
/* Forward and backward, as gdn_dist_forward and gdn_dist_backward. */
gdn_status gdni_device_forward(gdn_dist_plan *plan, gdn_tensors *tensors,
                               const gdni_dist_memory *memory, gdn_stream stream);
gdn_status gdni_device_backward(gdn_dist_plan *plan, gdn_tensors *tensors,
                                const gdni_dist_memory *memory, gdn_stream stream);
gdn_status gdni_device_forward_again(gdn_dist_plan *plan, gdn_tensors *tensors,
                                     const gdni_dist_memory *memory, gdn_stream stream);

/* Page-locked memory for mail, and for states on their way to MPI and back unless it takes memory
 * of devices. */
gdn_status gdni_staging_create(const gdn_dist_plan *plan, gdni_staging **staging);
void gdni_staging_destroy(const gdn_context *context, gdni_staging *staging);

/* A stream of its own for segment passes. */
gdn_status gdni_beside_create(const gdn_dist_plan *plan, gdni_beside **beside);
void gdni_beside_destroy(const gdn_context *context, gdni_beside *beside);

/* States [Hv, K, V] of the device on their way to the neighbour `step` further, or from it. */
typedef struct gdni_crossing {
    gdn_dist_plan *plan;
    gdn_stream stream;
    int32_t peer;
    gdni_mail mail; /* where they are staged */
    int64_t bytes;  /* sent so far */
} gdni_crossing;

gdni_crossing gdni_crossing_open(gdn_dist_plan *plan, int32_t step, int32_t tag, const char *what,
                                 gdn_stream stream);
gdn_status gdni_crossing_expect(gdni_crossing *crossing);
gdn_status gdni_crossing_receive(gdni_crossing *crossing, void *states);
gdn_status gdni_crossing_send(gdni_crossing *crossing, const void *states);
/* What forward decided, as far as the host may know without waiting. */
gdn_status gdni_crossing_traffic(gdni_crossing *crossing, const gdni_dist_memory *memory);
/* What was sent may be overwritten by what the stream gets from here on. */
gdn_status gdni_crossing_finish(gdni_crossing *crossing);
#else
/* No context has a device here. */
static inline gdn_status gdni_device_forward(gdn_dist_plan *plan, gdn_tensors *tensors,
                                             const gdni_dist_memory *memory, gdn_stream stream) {
    return GDN_STATUS_NO_BACKEND;
}
static inline gdn_status gdni_device_backward(gdn_dist_plan *plan, gdn_tensors *tensors,
                                              const gdni_dist_memory *memory, gdn_stream stream) {
    return GDN_STATUS_NO_BACKEND;
}
static inline gdn_status gdni_device_forward_again(gdn_dist_plan *plan, gdn_tensors *tensors,
                                                   const gdni_dist_memory *memory,
                                                   gdn_stream stream) {
    return GDN_STATUS_NO_BACKEND;
}
static inline gdn_status gdni_staging_create(const gdn_dist_plan *plan, gdni_staging **staging) {
    return GDN_STATUS_NO_BACKEND;
}
static inline void gdni_staging_destroy(const gdn_context *context, gdni_staging *staging) {}
static inline gdn_status gdni_beside_create(const gdn_dist_plan *plan, gdni_beside **beside) {
    return GDN_STATUS_NO_BACKEND;
}
static inline void gdni_beside_destroy(const gdn_context *context, gdni_beside *beside) {}
#endif

#endif /* GDNI_DIST_PLAN_H */
