/*
 * What a small language model needs around GDN layers: projection, embedding, RMSNorm, SwiGLU,
 * cross-entropy, AdamW. Rules as in gdn.h, structs as the parts of gdn_layer.h (zero-initialise,
 * set size): shapes, inputs, outputs, gradients; parameter gradients are overwritten, or added to
 * with `accumulate`. Dtypes and workspaces as there: FP64 (reference), FP32 (cpu), FP32 and BF16
 * (cuda); gradients of weights are of the state type. With cuda, tokens and targets are not
 * checked: one outside the vocabulary gives NaN. Products there need libcublasLt at run time.
 */
#ifndef GDN_MODEL_H
#define GDN_MODEL_H

#include "gdn.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y = x weight^T. x, dx [T, in]; y, dy [T, out]; weight, dweight [out, in]. dx or dweight NULL =
 * not wanted. dx is overwritten, or added to with accumulate_dx. */
typedef struct gdn_linear {
    size_t size;
    gdn_dtype dtype;
    int32_t accumulate;
    int64_t T;
    int32_t in, out;
    const void *x, *weight;
    void *y;
    const void *dy;
    void *dx, *dweight;
    void *workspace;
    size_t workspace_size;
    int32_t accumulate_dx;
} gdn_linear;

/* y = weight[tokens]. tokens [T] int32 in [0, vocab); y, dy [T, D]; weight, dweight [vocab, D]. */
typedef struct gdn_embedding {
    size_t size;
    gdn_dtype dtype;
    int32_t accumulate;
    int64_t T;
    int32_t vocab, D;
    const int32_t *tokens;
    const void *weight;
    void *y;
    const void *dy;
    void *dweight;
    void *workspace;
    size_t workspace_size;
} gdn_embedding;

/*
 * h = x + residual; y = h / sqrt(mean(h^2) + eps) weight. All [T, D]; weight, dweight [D].
 * residual NULL = none, and then h is not needed (NULL) and backward reads x. With it forward
 * writes h, backward reads h. Backward: dx = (gradient of h through y) + dh (NULL = 0); the
 * residual's gradient is the same dx.
 */
typedef struct gdn_rmsnorm {
    size_t size;
    gdn_dtype dtype;
    int32_t accumulate;
    int64_t T;
    int32_t D;
    double eps;
    const void *x, *residual, *weight;
    void *h, *y;
    const void *dy, *dh;
    void *dx, *dweight;
    void *workspace;
    size_t workspace_size;
} gdn_rmsnorm;

/* y = SiLU(x[:, :F]) x[:, F:]. x, dx [T, 2F]; y, dy [T, F]. */
typedef struct gdn_swiglu {
    size_t size;
    gdn_dtype dtype;
    int64_t T;
    int32_t F;
    const void *x;
    void *y;
    const void *dy;
    void *dx;
} gdn_swiglu;

/*
 * Mean cross-entropy of softmax(x weight^T) against targets, without the full logits in memory, and
 * its gradients.
 *   x, dx [T, D]; weight, dweight [vocab, D]; targets [T] int32 in [0, vocab), -1: left out.
 *   loss: one float64, in nats, the mean over the tokens that count; 0 if none counts.
 *   token_loss [T] state type, NULL = not wanted. dx, dweight: of the mean; both NULL for a loss alone.
 * Workspace: gdn_cross_entropy_workspace bytes.
 */
typedef struct gdn_cross_entropy {
    size_t size;
    gdn_dtype dtype;
    int32_t accumulate;
    int64_t T;
    int32_t D, vocab;
    const void *x, *weight;
    const int32_t *targets;
    double *loss;
    void *token_loss;
    void *dx, *dweight;
    void *workspace;
    size_t workspace_size;
} gdn_cross_entropy;

/*
 * AdamW over one flat range of parameters, step counted from 1:
 *     grad' = grad * *grad_scale
 *     m = beta1 m + (1 - beta1) grad' ;  v = beta2 v + (1 - beta2) grad'^2
 *     param -= lr (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay param)
 *   param, grad, m, v [count], FP64 or FP32 (the weights that a model trains in; it may compute in
 *   bf16); grad_scale one float64, NULL = 1. Where *grad_scale is not finite nothing is changed.
 *   rounded [count] bf16: param after the step, to nearest even; NULL = not wanted.
 *   schedule: two float64, step and lr, in place of the fields; NULL = the fields. Where the tensors
 *   live, so that a captured step can be replayed with other values.
 */
typedef struct gdn_adamw {
    size_t size;
    gdn_dtype dtype;
    int64_t count, step;
    double lr, beta1, beta2, eps, weight_decay;
    void *param, *m, *v;
    const void *grad;
    const double *grad_scale;
    void *rounded;
    const double *schedule;
} gdn_adamw;

/*
 * norm = |grad|_2 over [count] (summed in float64 in a fixed order), and scale = min(1, max_norm /
 * norm), which AdamW takes as grad_scale. max_norm <= 0: scale 1. A norm that is not finite gives a
 * scale of NaN. norm and scale: one float64 each. grad: FP64 or FP32.
 */
typedef struct gdn_grad_norm {
    size_t size;
    gdn_dtype dtype;
    int64_t count;
    double max_norm;
    const void *grad;
    double *norm, *scale;
    void *workspace;
    size_t workspace_size;
} gdn_grad_norm;

#define GDN_MODEL_CALL(name, type)                                                                 \
    GDN_API GDN_CHECK_RESULT gdn_status name(const gdn_context *context, const type *part,         \
                                             gdn_stream stream)

GDN_MODEL_CALL(gdn_linear_forward, gdn_linear);
GDN_MODEL_CALL(gdn_linear_backward, gdn_linear);
GDN_MODEL_CALL(gdn_embedding_forward, gdn_embedding);
GDN_MODEL_CALL(gdn_embedding_backward, gdn_embedding);
GDN_MODEL_CALL(gdn_rmsnorm_forward, gdn_rmsnorm);
GDN_MODEL_CALL(gdn_rmsnorm_backward, gdn_rmsnorm);
GDN_MODEL_CALL(gdn_swiglu_forward, gdn_swiglu);
GDN_MODEL_CALL(gdn_swiglu_backward, gdn_swiglu);
GDN_MODEL_CALL(gdn_cross_entropy_compute, gdn_cross_entropy);
GDN_MODEL_CALL(gdn_adamw_step, gdn_adamw);
GDN_MODEL_CALL(gdn_grad_norm_compute, gdn_grad_norm);

#define GDN_MODEL_WORKSPACE(name, type)                                                            \
    GDN_API GDN_CHECK_RESULT gdn_status name(const gdn_context *context, const type *part,         \
                                             size_t *bytes)

GDN_MODEL_WORKSPACE(gdn_linear_workspace, gdn_linear);
GDN_MODEL_WORKSPACE(gdn_embedding_workspace, gdn_embedding);
GDN_MODEL_WORKSPACE(gdn_rmsnorm_workspace, gdn_rmsnorm);
GDN_MODEL_WORKSPACE(gdn_cross_entropy_workspace, gdn_cross_entropy);
GDN_MODEL_WORKSPACE(gdn_grad_norm_workspace, gdn_grad_norm);

#undef GDN_MODEL_CALL
#undef GDN_MODEL_WORKSPACE

#ifdef __cplusplus
}
#endif

#endif /* GDN_MODEL_H */
