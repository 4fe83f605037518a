/*
 * A plan, and how its calls divide the caller's memory.
 *
 *   workspace   the backend's, then rows of entry and exit states, mail, N and the bounds
 *   saved       decisions, log decays, entry state, M (of a sequence that passes through), then the
 *               backend's
 */
#ifndef GDNI_DIST_PLAN_H
#define GDNI_DIST_PLAN_H

#include "group.h"

enum {
    GDNI_WARM_UP = 64 /* tokens: the shortest tail that a segment pass reads */
};

struct gdn_dist_plan {
    gdn_dist *dist;
    gdn_transport *group;
    const gdn_context *context;
    gdn_problem problem; /* this rank's part, defaults filled in */
    gdn_shard_part part;
    int64_t *cu_seqlens;    /* [problem.N + 1] */
    int64_t *firsts;        /* [ranks + 1]: first token of each rank, T last */
    int64_t sequence_start; /* of the first sequence, in tokens of the whole batch */
    gdn_dtype state_dtype;
    size_t head_bytes, states_bytes; /* of one head's state and of one sequence's */
    size_t mail_bytes, header_bytes;
    gdn_sizes inner; /* what the backend wants, segment passes included in all workspaces */
    gdn_sizes sizes;
    uint32_t calls; /* made so far: neighbours must be at the same one */
    gdn_dist_traffic traffic;
};

/* The caller's memory, divided. */
typedef struct gdni_dist_memory {
    char *entry_rows, *exit_rows; /* [N] states: initial_state, dht with the row that crossed */
    char *outgoing, *incoming;    /* mail */
    char *states;                 /* one sequence's: N or n */
    void *bounds;                 /* [Hv] state type */
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

/* out[h] += exp(log_decay[h]) M[h] in[h] (M[h]^T if transposed) for the heads that are not final.
 */
void gdni_apply_transfer(const gdn_dist_plan *plan, const gdni_dist_memory *memory,
                         int32_t transposed, const void *in, void *out);

#endif /* GDNI_DIST_PLAN_H */
