/*
 * The GDN layer around the operator, as in Qwen3-Next and Qwen3.5: the whole layer, and each of its
 * parts for trainers that fuse, shard or schedule them themselves. Rules as in gdn.h.
 *
 *     x [T, D] -> qkv = x in_proj_qkv^T,  z = x in_proj_z^T,  b = x in_proj_b^T,  a = x in_proj_a^T
 *     qkv -> causal depthwise convolution over time (width W, per sequence) -> SiLU -> q, k, v
 *     q, k -> x / sqrt(|x|^2 + 1e-6) per head
 *     beta = sigmoid(b),   g = -exp(A_log) softplus(a + dt_bias)
 *     o = GDN(q, k, v, g, beta)
 *     y = RMSNorm_V(o) norm SiLU(z) per head,   out = y out_proj^T
 *
 * Dtype: FP64 (reference), FP32 (cpu), FP32 and BF16 (cuda). Activations, their gradients and
 * weights are of that dtype; of the state type (fp64 in fp64, otherwise fp32) are A_log, dt_bias,
 * g, beta, dg, dbeta, states, and the gradients of all weights. Sequences as in gdn_problem. With
 * cuda, all memory but the structs is the device's, calls only enqueue, and cu_seqlens is not
 * checked; what x and dout hold behind the last sequence has to be finite.
 */
#ifndef GDN_LAYER_H
#define GDN_LAYER_H

#include "gdn.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- The whole layer ---------------------------------------------------------------------------
 */

typedef enum gdn_layer_flag {
    GDN_LAYER_ACCUMULATE = 1 << 0,     /* add to the weight gradients instead of overwriting them */
    GDN_LAYER_EXACT = 1 << 1,          /* GDN_FLAG_EXACT for the operator */
    GDN_LAYER_SAVE_STATES = 1 << 2,    /* GDN_FLAG_SAVE_STATES for the operator */
    GDN_LAYER_SAVE_INVERSE = 1 << 3,   /* GDN_FLAG_SAVE_INVERSE for the operator */
    GDN_LAYER_HOOKED_OPERATOR = 1 << 4 /* hooks compute it: no memory is kept for it */
} gdn_layer_flag;

typedef struct gdn_layer {
    size_t size;
    gdn_dtype dtype;
    uint32_t flags;         /* gdn_layer_flag */
    int64_t T, N;           /* tokens, sequences */
    int32_t D;              /* model width */
    int32_t Hk, Hv, K, V;   /* as gdn_problem */
    int32_t conv_width;     /* W >= 1 */
    double scale;           /* 0 = 1 / sqrt(K) */
    double norm_eps;        /* of the gated RMSNorm */
    double decay_threshold; /* as gdn_problem */
} gdn_layer;

#define GDN_LAYER_INIT                                                                             \
    { sizeof(gdn_layer), GDN_DTYPE_FP32, 0, 0, 1, 0, 1, 1, 128, 128, 4, 0.0, 1e-6, 0.0 }

/*
 * Weights, or their gradients. C = 2 Hk K + Hv V channels, in the order q, k, v, heads within each.
 *
 *   name         shape         name in Hugging Face's Qwen3.5 module
 *   in_proj_qkv  [C, D]        in_proj_qkv.weight
 *   in_proj_z    [Hv V, D]     in_proj_z.weight
 *   in_proj_b    [Hv, D]       in_proj_b.weight
 *   in_proj_a    [Hv, D]       in_proj_a.weight
 *   conv1d       [C, W]        conv1d.weight [C, 1, W]; the last column meets the token
 *   A_log        [Hv]          A_log            state type
 *   dt_bias      [Hv]          dt_bias          state type
 *   norm         [V]           norm.weight
 *   out_proj     [D, Hv V]     out_proj.weight
 */
typedef struct gdn_layer_weights {
    size_t size;
    void *in_proj_qkv, *in_proj_z, *in_proj_b, *in_proj_a, *conv1d, *A_log, *dt_bias, *norm,
        *out_proj;
} gdn_layer_weights;

#define GDN_LAYER_WEIGHTS_INIT                                                                     \
    { sizeof(gdn_layer_weights), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL }

/*
 * What a caller does within a layer's forward and backward, as far as it is not NULL; each gets
 * `user`. A status other than OK ends the call.
 *
 *   projected      forward, once qkv [T, C] is there and before conv_halo is read: fills the latter
 *   forward        in place of gdn_forward; the problem is the layer's operator, on host backends
 *                  without padding
 *   backward       in place of gdn_backward
 *   convolved      backward, once dqkv [T, C] and dconv_halo are there: may add to dqkv
 */
typedef struct gdn_layer_hooks {
    size_t size;
    void *user;
    gdn_status (*projected)(void *user, const void *qkv);
    gdn_status (*forward)(void *user, const gdn_problem *problem, const gdn_tensors *tensors,
                          gdn_stream stream);
    gdn_status (*backward)(void *user, const gdn_problem *problem, const gdn_tensors *tensors,
                           gdn_stream stream);
    gdn_status (*convolved)(void *user, void *dqkv);
} gdn_layer_hooks;

#define GDN_LAYER_HOOKS_INIT                                                                       \
    { sizeof(gdn_layer_hooks), NULL, NULL, NULL, NULL, NULL }

/*
 *   name           shape          nullable
 *   x              [T, D]         no
 *   weights                       no; read only
 *   cu_seqlens     [N+1] int64    yes: equal lengths
 *   initial_state  [N, Hv, K, V]  yes: zeros
 *   out            [T, D]         forward only
 *   final_state    [N, Hv, K, V]  yes: not written
 *   saved          sizes.saved    yes in a forward without backward; activations, opaque
 *   dout           [T, D]         backward only
 *   dht            [N, Hv, K, V]  yes: zeros
 *   dx             [T, D]         backward only
 *   dweights                      backward only; all set
 *   dh0            [N, Hv, K, V]  yes: not written
 *
 * For a sequence that is spread over several calls or ranks:
 *   conv_halo      [W-1, C]       yes: zeros. The rows of qkv before the first token, where its
 *                                 sequence began elsewhere
 *   dconv_halo     [W-1, C]       yes: not written
 *   hooks                         yes: none
 */
typedef struct gdn_layer_tensors {
    size_t size;
    const void *x;
    const gdn_layer_weights *weights;
    const int64_t *cu_seqlens;
    const void *initial_state;
    void *out, *final_state, *saved;
    const void *dout, *dht;
    void *dx;
    const gdn_layer_weights *dweights;
    void *dh0;
    void *workspace;
    size_t workspace_size;
    const void *conv_halo;
    void *dconv_halo;
    const gdn_layer_hooks *hooks;
} gdn_layer_tensors;

#define GDN_LAYER_TENSORS_INIT                                                                     \
    {                                                                                              \
        sizeof(gdn_layer_tensors), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,     \
            NULL, NULL, NULL, 0, NULL, NULL, NULL                                                  \
    }

/* As gdn_problem_supported and gdn_problem_sizes; segment_workspace is 0. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_layer_supported(const gdn_context *context,
                                                        const gdn_layer *layer);
GDN_API GDN_CHECK_RESULT gdn_status gdn_layer_sizes(const gdn_context *context,
                                                    const gdn_layer *layer, gdn_sizes *sizes);
GDN_API GDN_CHECK_RESULT gdn_status gdn_layer_forward(const gdn_context *context,
                                                      const gdn_layer *layer,
                                                      const gdn_layer_tensors *tensors,
                                                      gdn_stream stream);
GDN_API GDN_CHECK_RESULT gdn_status gdn_layer_backward(const gdn_context *context,
                                                       const gdn_layer *layer,
                                                       const gdn_layer_tensors *tensors,
                                                       gdn_stream stream);

/* ---- The parts ---------------------------------------------------------------------------------
 *
 * One struct a part holds shapes, inputs, outputs and gradients; forward reads and writes the first
 * group of pointers, backward reads the forward's inputs and dy and writes the gradients. Parameter
 * gradients are overwritten, or added to with `accumulate`. Start from zero bytes and set size. Row
 * strides: elements, 0 = dense. workspace: as many bytes as gdn_..._workspace says for the part's
 * shapes (0 on host backends), a multiple of 256 as address.
 */

/*
 * y = SiLU(conv(x)), conv_t = sum_w weight[c, w] x_{t - (W-1) + w}, zero before the start of each
 * sequence.
 *   x, y, dy, dx [T, channels]; weight, dweight [channels, W]; cu_seqlens as in gdn_problem;
 *   padding rows of y, dx are 0.
 *   halo, dhalo [W-1, channels]: the rows before the first token, if its sequence began elsewhere;
 *   NULL = zeros. dhalo NULL = not wanted.
 */
typedef struct gdn_conv1d {
    size_t size;
    gdn_dtype dtype;
    int32_t accumulate;
    int64_t T, N;
    int32_t channels, width;
    int64_t x_stride, y_stride; /* dx as x, dy as y */
    const int64_t *cu_seqlens;
    const void *x, *weight, *halo;
    void *y;
    const void *dy;
    void *dx, *dweight, *dhalo;
    void *workspace;
    size_t workspace_size;
} gdn_conv1d;

/* y = x / sqrt(|x|^2 + eps) over the last dim. x, y, dy, dx [T, H, K]. */
typedef struct gdn_l2norm {
    size_t size;
    gdn_dtype dtype;
    int64_t T;
    int32_t H, K;
    double eps;
    int64_t x_stride, y_stride;
    const void *x;
    void *y;
    const void *dy;
    void *dx;
} gdn_l2norm;

/*
 * beta = sigmoid(b), g = -exp(A_log) softplus(a + dt_bias). a, b, g, beta and gradients [T, H];
 * A_log, dt_bias [H]. Computed in the state type, of which g, beta, dg, dbeta are.
 */
typedef struct gdn_gate {
    size_t size;
    gdn_dtype dtype;
    int32_t accumulate;
    int64_t T;
    int32_t H;
    const void *a, *b, *A_log, *dt_bias;
    void *g, *beta;
    const void *dg, *dbeta;
    void *da, *db, *dA_log, *ddt_bias;
    void *workspace;
    size_t workspace_size;
} gdn_gate;

/* y = x / sqrt(mean(x^2) + eps) weight SiLU(z) per head. x, z, y and gradients [T, H, V]; weight,
 * dweight [V]. */
typedef struct gdn_gated_rmsnorm {
    size_t size;
    gdn_dtype dtype;
    int32_t accumulate;
    int64_t T;
    int32_t H, V;
    double eps;
    const void *x, *z, *weight;
    void *y;
    const void *dy;
    void *dx, *dz, *dweight;
    void *workspace;
    size_t workspace_size;
} gdn_gated_rmsnorm;

GDN_API GDN_CHECK_RESULT gdn_status gdn_conv1d_forward(const gdn_context *context,
                                                       const gdn_conv1d *part, gdn_stream stream);
GDN_API GDN_CHECK_RESULT gdn_status gdn_conv1d_backward(const gdn_context *context,
                                                        const gdn_conv1d *part, gdn_stream stream);
GDN_API GDN_CHECK_RESULT gdn_status gdn_l2norm_forward(const gdn_context *context,
                                                       const gdn_l2norm *part, gdn_stream stream);
GDN_API GDN_CHECK_RESULT gdn_status gdn_l2norm_backward(const gdn_context *context,
                                                        const gdn_l2norm *part, gdn_stream stream);
GDN_API GDN_CHECK_RESULT gdn_status gdn_gate_forward(const gdn_context *context,
                                                     const gdn_gate *part, gdn_stream stream);
GDN_API GDN_CHECK_RESULT gdn_status gdn_gate_backward(const gdn_context *context,
                                                      const gdn_gate *part, gdn_stream stream);
GDN_API GDN_CHECK_RESULT gdn_status gdn_gated_rmsnorm_forward(const gdn_context *context,
                                                              const gdn_gated_rmsnorm *part,
                                                              gdn_stream stream);
GDN_API GDN_CHECK_RESULT gdn_status gdn_gated_rmsnorm_backward(const gdn_context *context,
                                                               const gdn_gated_rmsnorm *part,
                                                               gdn_stream stream);

GDN_API GDN_CHECK_RESULT gdn_status gdn_conv1d_workspace(const gdn_context *context,
                                                         const gdn_conv1d *part, size_t *bytes);
GDN_API GDN_CHECK_RESULT gdn_status gdn_gate_workspace(const gdn_context *context,
                                                       const gdn_gate *part, size_t *bytes);
GDN_API GDN_CHECK_RESULT gdn_status gdn_gated_rmsnorm_workspace(const gdn_context *context,
                                                                const gdn_gated_rmsnorm *part,
                                                                size_t *bytes);

#ifdef __cplusplus
}
#endif

#endif /* GDN_LAYER_H */
