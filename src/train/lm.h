/*
 * A language model of GDN layers, built from the public API alone:
 *
 *     h = embedding[tokens]
 *     h += GDN(RMSNorm(h)) ;  h += down SwiGLU(gate_up RMSNorm(h))        each block
 *     loss = cross-entropy(softmax(RMSNorm(h) head^T), targets)           head = embedding if tied
 *
 * Parameters, gradients and AdamW's moments are flat buffers of the same layout, in which the table
 * `params` names every tensor. All memory is allocated once, by gdni_lm_create(); it is the host's
 * or a device's (memory.h), and the same code runs on both.
 *
 * On a device a step only enqueues: begin() hands it over, end() waits for its numbers, and between
 * the two the host is free. From the third one on, a step is a graph that is replayed.
 */
#ifndef GDNI_TRAIN_LM_H
#define GDNI_TRAIN_LM_H

#include "arena.h"
#include "gdn.h"
#include "gdn_layer.h"
#include "memory.h"
#include "ranks.h"
#include "timeline.h"

#define GDNI_LM_EPS 1e-6

typedef struct gdni_lm_shape {
    gdn_dtype dtype; /* of activations: FP32, FP64 (reference), BF16 (cuda); parameters, gradients
                        and moments are of its state type */
    int32_t vocab, width, layers;
    int32_t key_heads, value_heads, key_dim, value_dim, conv_width;
    int32_t mlp;  /* hidden size of SwiGLU */
    int32_t tied; /* the head is the embedding */
} gdni_lm_shape;

/* What backward computes again, for less memory. */
typedef enum gdni_recompute {
    GDNI_RECOMPUTE_NONE,
    GDNI_RECOMPUTE_STATES, /* the operator's states */
    GDNI_RECOMPUTE_LAYER   /* all of a block: forward keeps the residual stream before it */
} gdni_recompute;

/* Where and how a model computes. */
typedef struct gdni_lm_setup {
    gdni_ranks *ranks;         /* NULL: alone */
    const gdn_context *device; /* CUDA: all of the model is there; NULL: on the host */
    gdni_recompute recompute;
    int32_t save_inverse; /* devices: the operator's forward keeps its inverses */
    int32_t plain;        /* devices: no graphs */
    int32_t passes;       /* whose gradients one update averages; 0 = 1 */
} gdni_lm_setup;

/* How a tensor is initialised; MATRIX, RESIDUAL and EMBEDDING get weight decay, the others not. */
typedef enum gdni_lm_kind {
    GDNI_LM_MATRIX,    /* normal, 0.02 at 1024 inputs and growing as 1 / sqrt(inputs) */
    GDNI_LM_RESIDUAL,  /* the same over sqrt(2 layers): what adds to the residual stream */
    GDNI_LM_EMBEDDING, /* normal, 0.02 */
    GDNI_LM_CONV,      /* uniform in +-1 / sqrt(conv_width) */
    GDNI_LM_NORM,      /* 1 */
    GDNI_LM_A_LOG,     /* log of uniform in (0, 16) */
    GDNI_LM_DT_BIAS    /* softplus^-1 of a log-uniform value in [1e-3, 1e-1] */
} gdni_lm_kind;

typedef struct gdni_lm_param {
    char name[56];
    gdni_lm_kind kind;
    int32_t ndim;
    int64_t shape[2];
    int64_t offset, count; /* elements */
} gdni_lm_param;

/* Places of a block's tensors in the table, counted from its first. */
enum {
    GDNI_LM_NORM1,
    GDNI_LM_QKV,
    GDNI_LM_Z,
    GDNI_LM_B,
    GDNI_LM_A,
    GDNI_LM_CONV1D,
    GDNI_LM_ALOG,
    GDNI_LM_DTBIAS,
    GDNI_LM_GATED_NORM,
    GDNI_LM_OUT,
    GDNI_LM_NORM2,
    GDNI_LM_GATE_UP,
    GDNI_LM_DOWN,
    GDNI_LM_BLOCK_PARAMS
};

/* What forward keeps of one block for backward. With RECOMPUTE_LAYER all but h_in is shared by all
 * blocks. */
typedef struct gdni_lm_block {
    void *h_in, *normed1; /* [T, width]: residual stream before the block and after its norm */
    void *h_mid, *normed2;
    void *gate_up, *act; /* [T, 2 mlp], [T, mlp] */
    void *saved;         /* of the GDN layer */
    void *crossed;       /* ranks that share sequences and blocks that share saved: its start */
} gdni_lm_block;

enum {
    GDNI_LM_PASSES = 64 /* of an update at most */
};

/* What a step is given and gives, where the model lives. */
typedef struct gdni_lm_numbers {
    double schedule[2];          /* AdamW's step and learning rate */
    double norm, scale;          /* of the gradient before clipping; what clipping makes of it */
    double loss[GDNI_LM_PASSES]; /* of each pass: mean over this rank's targets */
} gdni_lm_numbers;

typedef struct gdni_lm_update {
    int64_t count; /* of updates with this one; from 1 */
    double lr, beta1, beta2, eps, weight_decay;
    double clip;      /* global norm; 0 = no clipping */
    double grad_norm; /* written by gdni_lm_step: before clipping */
} gdni_lm_update;

/* How many targets the passes of a step have, on this rank and, where a device wants to know, on
 * all. */
typedef struct gdni_lm_targets {
    int64_t own;
    double all;
} gdni_lm_targets;

enum {
    GDNI_LM_SLOTS = 2,       /* batches on their way, steps that have begun */
    GDNI_LM_PIECE = 16 << 20 /* elements of a gradient that pass through the host at a time */
};

typedef struct gdni_lm {
    const gdn_context *context, *host; /* where it computes; of the host */
    gdni_memory *memory;               /* of context */
    gdni_lm_shape shape;
    gdn_dtype master; /* the state type */
    gdni_lm_setup setup;
    gdni_ranks *ranks;      /* of the setup */
    int32_t sharded;        /* the ranks share sequences: the layer is theirs */
    int64_t T;              /* tokens of every pass, on this rank */
    int32_t passes;         /* of a step */
    size_t element, active; /* bytes: of master, of an activation */
    gdni_lm_param *params;
    int32_t param_count;
    int64_t count;   /* elements of a flat buffer, padding between tensors included */
    int64_t decayed; /* the first of them get weight decay */
    void *param, *grad, *m, *v;
    void *rounded; /* param in shape.dtype; NULL where that is master */
    struct {
        void *param, *m, *v;
    } kept; /* the host's copy of them: on the host they themselves, on a device see fetch */

    gdn_layer layer;      /* of a pass with backward */
    gdn_layer layer_add;  /* of one that adds to the gradients of those before it */
    gdn_layer layer_loss; /* of one without */
    size_t saved_size, workspace_size;
    gdni_lm_block *blocks;
    void *branch;                           /* [T, width]: what a layer or an MLP adds */
    void *h_out, *normed;                   /* [T, width]: the end of the stream */
    void *d[2], *dnormed, *dgate_up, *dact; /* gradients; d: of the stream, before and after */
    void *workspace;                        /* of one part at a time */
    gdni_lm_numbers *numbers;
    int32_t *batch;                                 /* [passes][2 T]: tokens, targets */
    int32_t *arriving[GDNI_LM_SLOTS];               /* the same, of steps to come */
    int32_t *sending[GDNI_LM_SLOTS];                /* on the host */
    gdni_lm_targets coming[GDNI_LM_SLOTS], targets; /* of batches given; of the one at hand */
    int64_t given, taken;                           /* batches, one a pass, so far */
    gdni_lm_numbers *results;                       /* [SLOTS + 1], on the host */
    gdni_lm_targets stepping[GDNI_LM_SLOTS];        /* of steps that have begun */
    int64_t begun, ended;                           /* steps */
    gdni_lm_update recorded;                        /* what the graph was made with */
    int32_t has_graph, copying; /* copying: the lane of checkpoints may still read param, m, v */
    int64_t copied_after;       /* steps that had begun before it */
    gdni_timeline *timeline;    /* of the step at hand; NULL: none */
    gdni_span_pass pass;        /* the timeline's */
    double *shares;  /* [ranks][2]: of each, its sum of losses, how many targets it has */
    double waited;   /* seconds of sums over ranks beside nothing else; the caller sets it back */
    void *piece;     /* of gradients on their way through the host */
    double own_loss; /* the mean loss of this rank's targets in the last batch */
    double own_norm; /* host: of this rank's gradient before it was added to the others' */
    void *block_memory, *host_memory, *kept_memory;
    size_t memory_bytes; /* of block_memory */
} gdni_lm;

/* A block's layer: T tokens in N sequences. */
gdn_layer gdni_lm_layer(const gdni_lm_shape *shape, const gdni_lm_setup *setup, int64_t T,
                        int64_t N);

/*
 * Plans and allocates a model for passes over T tokens in N sequences of equal length; parameters
 * are zero. host: a context of a host backend; setup NULL: alone, computing there. With ranks, all
 * call this and what follows; tokens and targets are those of the rank's part of the batch
 * (gdni_part_of), loss and gradient those of the whole batch. Ranks that share sequences, and those
 * of the host, have one pass. Errors: INVALID_ARGUMENT, UNSUPPORTED, OUT_OF_MEMORY,
 * CUDA_ERROR.
 */
gdn_status gdni_lm_create(gdni_lm **out, const gdn_context *host, const gdni_lm_shape *shape,
                          int64_t T, int64_t N, const gdni_lm_setup *setup);
void gdni_lm_destroy(gdni_lm *lm);

/* Fills the parameters; every tensor's values depend on the seed and its place in the table. */
gdn_status gdni_lm_initialise(gdni_lm *lm, uint64_t seed);

/*
 * FLOP of a token, forward and backward: 6 for every weight of a matrix product, and three times
 * those of the operator's recurrence, which are 6 K V a head: decay's, S^T k, the update, S^T q.
 * What backward computes again does not count.
 */
double gdni_lm_flops(const gdni_lm *lm);

/* ---- The host's copy of param, m and v ---------------------------------------------------------
 *
 * On the host it is the tensors themselves and these do nothing. On a device it is page-locked
 * memory, which the first call allocates.
 */

/* Makes room for it. */
gdn_status gdni_lm_keep(gdni_lm *lm);
/* What was put there goes to the device; waits. */
gdn_status gdni_lm_send(gdni_lm *lm);
/* Enqueues the way back, of what the steps so far make; steps go on beside it, up to where they
 * change the parameters. */
gdn_status gdni_lm_fetch(gdni_lm *lm);
/* Waits for it. */
gdn_status gdni_lm_fetched(gdni_lm *lm);

/* ---- Passes ------------------------------------------------------------------------------------
 */

/* Mean cross-entropy over the targets that are not -1, of all ranks, in one pass. No batch may have
 * been given, and no step begun, that has not ended. */
gdn_status gdni_lm_loss(gdni_lm *lm, const int32_t *tokens, const int32_t *targets, double *loss);

/* The same, and its gradient into lm->grad. With ranks, a loss that is not finite has none. */
gdn_status gdni_lm_gradient(gdni_lm *lm, const int32_t *tokens, const int32_t *targets,
                            double *loss);

/* One AdamW step. Leaves the parameters alone if the gradient's norm is not finite. */
gdn_status gdni_lm_step(gdni_lm *lm, gdni_lm_update *update);

/* Gives the batch of a pass to come, of at most GDNI_LM_SLOTS steps ahead; the arrays may change
 * after. Those of one step have as many targets each. */
gdn_status gdni_lm_give(gdni_lm *lm, const int32_t *tokens, const int32_t *targets);

/* Gradient and AdamW step on the oldest batches that were given. timeline: of this step; NULL =
 * none. At most GDNI_LM_SLOTS steps have begun and not ended. */
gdn_status gdni_lm_begin(gdni_lm *lm, const gdni_lm_update *update, gdni_timeline *timeline);

/* Waits for the oldest step that has begun: loss of all ranks, and norm of the gradient before
 * clipping, NaN where the host stopped at the loss. Where one is not finite the step has left
 * parameters and moments alone. */
gdn_status gdni_lm_end(gdni_lm *lm, double *loss, double *norm);

/* With ranks: fails on all where it fails on one, or where their parameters or what they say of
 * them ("field value; field value") differ. Alone: mine. */
gdn_status gdni_lm_compare(gdni_lm *lm, gdn_status mine, const char *text);

/* Tensor of a flat buffer of the master type by its place in the table; blocks count from 0. */
static inline void *gdni_lm_at(const gdni_lm *lm, void *flat, int32_t index) {
    return (char *)flat + (size_t)lm->params[index].offset * lm->element;
}
/* A weight as products take it. */
static inline const void *gdni_lm_weight(const gdni_lm *lm, int32_t index) {
    if (!lm->rounded)
        return gdni_lm_at(lm, lm->param, index);
    return (const char *)lm->rounded + (size_t)lm->params[index].offset * lm->active;
}
static inline int32_t gdni_lm_index(int32_t block, int32_t place) {
    return 1 + block * GDNI_LM_BLOCK_PARAMS + place;
}
static inline int32_t gdni_lm_final_norm(const gdni_lm *lm) {
    return gdni_lm_index(lm->shape.layers, 0);
}
static inline int32_t gdni_lm_head(const gdni_lm *lm) {
    return lm->shape.tied ? 0 : gdni_lm_final_norm(lm) + 1;
}
gdn_layer_weights gdni_lm_layer_weights(const gdni_lm *lm, void *flat, int32_t block);

/* ---- Within the model --------------------------------------------------------------------------
 */

/* Marks of the memory; the first three are one for each slot. */
enum {
    GDNI_MARK_SENT,                                    /* the batch has arrived */
    GDNI_MARK_TAKEN = GDNI_MARK_SENT + GDNI_LM_SLOTS,  /* and is at hand: its slot is free */
    GDNI_MARK_ENDED = GDNI_MARK_TAKEN + GDNI_LM_SLOTS, /* a step's numbers are there */
    GDNI_MARK_STEP = GDNI_MARK_ENDED + GDNI_LM_SLOTS,  /* what the compute lane has so far */
    GDNI_MARK_FETCHED                                  /* the host's copy is there */
};
/* Stamps: around what a step waits for over NCCL, for each slot; then those of a timeline. */
enum {
    GDNI_STAMP_SUMS,
    GDNI_STAMP_SPANS = GDNI_STAMP_SUMS + 2 * GDNI_LM_SLOTS
};
_Static_assert((int)GDNI_MARK_FETCHED < (int)GDNI_MARKS, "memory.h has room for the marks");

/* Forward, and backward, of a pass on lm->batch; after the first one backward adds to what is
 * there. last: gradients are whole after it. */
typedef struct gdni_lm_pass {
    int32_t number, backward, last;
} gdni_lm_pass;
gdn_status gdni_lm_run(gdni_lm *lm, gdni_lm_pass pass);
/* The most that any part of a pass wants. */
gdn_status gdni_lm_find_workspace(gdni_lm *lm);
/* The times of a timeline's spans, once its step has ended; returns the last one. */
gdn_status gdni_lm_read_spans(const gdni_lm *lm, gdni_timeline *timeline, double *seconds);
/* Ends a span of the timeline, where there is one. */
gdn_status gdni_lm_span(gdni_lm *lm, gdni_span_part part, int32_t block);

#endif /* GDNI_TRAIN_LM_H */
