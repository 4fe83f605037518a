/*
 * A language model of GDN layers, built from the public API alone:
 *
 *     h = embedding[tokens]
 *     h += GDN(RMSNorm(h)) ;  h += down SwiGLU(gate_up RMSNorm(h))        each block
 *     loss = cross-entropy(softmax(RMSNorm(h) head^T), targets)           head = embedding if tied
 *
 * Parameters, gradients and AdamW's moments are flat buffers of the same layout, in which the table
 * `params` names every tensor. All memory is allocated once, by gdni_lm_create().
 */
#ifndef GDNI_TRAIN_LM_H
#define GDNI_TRAIN_LM_H

#include "arena.h"
#include "device.h"
#include "gdn.h"
#include "gdn_layer.h"
#include "ranks.h"

#define GDNI_LM_EPS 1e-6

typedef struct gdni_lm_shape {
    gdn_dtype dtype; /* FP32 (cpu) or FP64 (reference) */
    int32_t vocab, width, layers;
    int32_t key_heads, value_heads, key_dim, value_dim, conv_width;
    int32_t mlp;  /* hidden size of SwiGLU */
    int32_t tied; /* the head is the embedding */
} gdni_lm_shape;

/* Where and how a model computes. */
typedef struct gdni_lm_setup {
    gdni_ranks *ranks;        /* NULL: alone */
    gdni_device_setup device; /* no context: the operator runs on the host, as all else does */
    int32_t recompute;        /* on the host: backward computes the operator's states again */
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

/* What forward keeps of one block for backward. */
typedef struct gdni_lm_block {
    void *h_in, *normed1; /* [T, width]: residual stream before the block and after its norm */
    void *h_mid, *normed2;
    void *gate_up, *act; /* [T, 2 mlp], [T, mlp] */
    void *saved;         /* of the GDN layer */
} gdni_lm_block;

typedef struct gdni_lm {
    const gdn_context *context;
    gdni_lm_shape shape;
    gdni_lm_setup setup;
    gdni_ranks *ranks;   /* of the setup */
    int32_t sharded;     /* the ranks share sequences: the layer is theirs */
    gdni_device *device; /* NULL: none */
    int64_t T;           /* tokens of every batch, on this rank */
    size_t element;      /* bytes */
    gdni_lm_param *params;
    int32_t param_count;
    int64_t count;   /* elements of a flat buffer, padding between tensors included */
    int64_t decayed; /* the first of them get weight decay */
    void *param, *grad, *m, *v;

    gdn_layer layer;      /* of a pass with backward */
    gdn_layer layer_loss; /* of one without */
    size_t saved_size, workspace_size;
    gdni_lm_block *blocks;
    void *branch;                           /* [T, width]: what a layer or an MLP adds */
    void *h_out, *normed;                   /* [T, width]: the end of the stream */
    void *d[2], *dnormed, *dgate_up, *dact; /* gradients; d: of the stream, before and after */
    void *workspace, *entropy_workspace;
    size_t entropy_workspace_size;
    double *step_norm, *step_scale;
    double *shares;    /* [ranks][2]: of each, its sum of losses and how many targets it has */
    int64_t own_count; /* targets of this rank in the last batch */
    double own_loss;   /* their mean loss */
    double own_norm;   /* of this rank's gradient before it was added to the others' */
    void *memory;
} gdni_lm;

/*
 * Plans and allocates a model for batches of T tokens in N sequences of equal length; parameters
 * are zero. setup NULL: alone, on the host. With ranks, all call this and what follows; tokens and
 * targets are those of the rank's part of the batch (gdni_part_of), loss and gradient those of the
 * whole batch. Ranks that share sequences have no device. Errors: INVALID_ARGUMENT, UNSUPPORTED,
 * OUT_OF_MEMORY, and those of gdni_device_create().
 */
gdn_status gdni_lm_create(gdni_lm **out, const gdn_context *context, const gdni_lm_shape *shape,
                          int64_t T, int64_t N, const gdni_lm_setup *setup);
void gdni_lm_destroy(gdni_lm *lm);

/* Fills the parameters; every tensor's values depend on the seed and its place in the table. */
void gdni_lm_initialise(gdni_lm *lm, uint64_t seed);

/* Mean cross-entropy over the targets that are not -1, of all ranks. */
gdn_status gdni_lm_loss(gdni_lm *lm, const int32_t *tokens, const int32_t *targets, double *loss);

/* The same, and its gradient into lm->grad. With ranks, a loss that is not finite has none. */
gdn_status gdni_lm_gradient(gdni_lm *lm, const int32_t *tokens, const int32_t *targets,
                            double *loss);

typedef struct gdni_lm_update {
    int64_t count; /* of updates with this one; from 1 */
    double lr, beta1, beta2, eps, weight_decay;
    double clip;      /* global norm; 0 = no clipping */
    double grad_norm; /* written: before clipping */
} gdni_lm_update;

/* One AdamW step. Leaves the parameters alone if the gradient's norm is not finite. */
gdn_status gdni_lm_step(gdni_lm *lm, gdni_lm_update *update);

/* With ranks: fails on all where it fails on one, or where their parameters or what they say of
 * them ("field value; field value") differ. Alone: mine. */
gdn_status gdni_lm_compare(gdni_lm *lm, gdn_status mine, const char *text);

/* Tensor of a flat buffer by its place in the table; blocks count from 0. */
static inline void *gdni_lm_at(const gdni_lm *lm, void *flat, int32_t index) {
    return (char *)flat + (size_t)lm->params[index].offset * lm->element;
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

#endif /* GDNI_TRAIN_LM_H */
