/* The CPU backend. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

static gdn_status supported(const gdn_context *context, const gdn_problem *p) {
    if (p->dtype == GDN_DTYPE_FP64)
        return gdni_fail(GDN_STATUS_UNSUPPORTED,
                         "cpu backend: dtype is fp64, expected fp32, bf16 or fp16 (the reference "
                         "backend computes fp64)");
    return GDN_STATUS_OK;
}

static void sizes(const gdn_context *context, const gdn_problem *p, gdn_sizes *s) {
    s->forward_workspace = s->backward_workspace = s->segment_workspace = 256;
}

/* One tensor [rows, heads, dim] to or from dense float64. */
typedef struct plan {
    gdn_problem p;
    gdn_tensors t;
    gdn_segment s;
    void *made[32];
    int count;
} plan;

static void *take(plan *w, gdn_dtype d, const void *x, int64_t rows, int64_t heads, int64_t dim,
                  gdn_strides st) {
    if (!x)
        return NULL;
    double *m = w->made[w->count++] = calloc((size_t)(rows * heads * dim + 1), sizeof(double));
    for (int64_t i = 0; i < rows * heads * dim; ++i)
        m[i] = gdni_load(d, x, i / dim / heads * st.token + i / dim % heads * st.head + i % dim);
    return m;
}

static void give(gdn_dtype d, void *x, const double *m, int64_t rows, int64_t heads, int64_t dim,
                 gdn_strides st) {
    for (int64_t i = 0; x && i < rows * heads * dim; ++i)
        gdni_store(d, x, i / dim / heads * st.token + i / dim % heads * st.head + i % dim, m[i]);
}

static gdn_status run(const gdn_context *c, const gdn_problem *p, const gdn_tensors *t,
                      const gdn_segment *s, int what) {
    plan w = {.p = *p, .t = *t};
    const gdn_dtype d = p->dtype, f = GDN_DTYPE_FP32;
    const int64_t T = p->T, KV = (int64_t)p->K * p->V, KK = (int64_t)p->K * p->K;
    const gdn_strides gs = {p->Hv, 1}, ss = {p->Hv * KV, KV}, ks = {p->Hv * KK, KK}, zero = {0, 0};
    w.p.dtype = GDN_DTYPE_FP64;
    w.p.flags &= ~(uint32_t)GDN_FLAG_CHECKED;
    w.p.q_strides = w.p.k_strides = w.p.v_strides = w.p.o_strides = zero;
    const gdn_problem dense = w.p;
    if (gdni_problem_check("cpu", &dense, &w.p) != GDN_STATUS_OK)
        return GDN_STATUS_INTERNAL_ERROR;
#define IN(n, dt, r, h, k, st) w.t.n = take(&w, dt, t->n, r, h, k, st)
#define OUT(n, dt, r, h, k, st) give(dt, t->n, w.t.n, r, h, k, st)
    IN(q, d, T, p->Hk, p->K, p->q_strides);
    IN(k, d, T, p->Hk, p->K, p->k_strides);
    IN(v, d, T, p->Hv, p->V, p->v_strides);
    IN(g, f, T, p->Hv, 1, gs);
    IN(beta, f, T, p->Hv, 1, gs);
    IN(do_, d, T, p->Hv, p->V, p->o_strides);
    IN(initial_state, f, p->N, p->Hv, KV, ss);
    IN(dht, f, p->N, p->Hv, KV, ss);
    IN(o, d, T, p->Hv, p->V, p->o_strides);
    IN(final_state, f, p->N, p->Hv, KV, ss);
    IN(dq, d, T, p->Hk, p->K, p->q_strides);
    IN(dk, d, T, p->Hk, p->K, p->k_strides);
    IN(dv, d, T, p->Hv, p->V, p->v_strides);
    IN(dg, f, T, p->Hv, 1, gs);
    IN(dbeta, f, T, p->Hv, 1, gs);
    IN(dh0, f, p->N, p->Hv, KV, ss);
    if (s) {
        w.s.exit_state = take(&w, f, s->exit_state, 1, p->Hv, KV, ss);
        w.s.transfer = take(&w, f, s->transfer, 1, p->Hv, KK, ks);
        w.s.log_decay = take(&w, f, s->log_decay, 1, p->Hv, 1, gs);
        w.s.decay_bound = take(&w, f, s->decay_bound, 1, p->Hv, 1, gs);
        w.s.entry_gradient = take(&w, f, s->entry_gradient, 1, p->Hv, KV, ss);
    }
    gdn_sizes z = GDN_SIZES_INIT;
    const gdni_backend_ops *r = &gdni_reference_ops;
    r->sizes(c, &w.p, &z);
    w.t.workspace = w.made[w.count++] = malloc(z.backward_workspace + z.forward_workspace);
    gdn_status status = what == 0   ? r->forward(c, &w.p, &w.t, NULL)
                        : what == 1 ? r->backward(c, &w.p, &w.t, NULL)
                        : what == 2 ? r->segment_forward(c, &w.p, &w.t, &w.s, NULL)
                                    : r->segment_backward(c, &w.p, &w.t, &w.s, NULL);
    if (what == 0) {
        OUT(o, d, T, p->Hv, p->V, p->o_strides);
        OUT(final_state, f, p->N, p->Hv, KV, ss);
    } else if (what == 1) {
        OUT(dq, d, T, p->Hk, p->K, p->q_strides);
        OUT(dk, d, T, p->Hk, p->K, p->k_strides);
        OUT(dv, d, T, p->Hv, p->V, p->v_strides);
        OUT(dg, f, T, p->Hv, 1, gs);
        OUT(dbeta, f, T, p->Hv, 1, gs);
        OUT(dh0, f, p->N, p->Hv, KV, ss);
    } else if (what == 2) {
        give(f, s->exit_state, w.s.exit_state, 1, p->Hv, KV, ss);
        give(f, s->transfer, w.s.transfer, 1, p->Hv, KK, ks);
        give(f, s->log_decay, w.s.log_decay, 1, p->Hv, 1, gs);
        give(f, s->decay_bound, w.s.decay_bound, 1, p->Hv, 1, gs);
    } else {
        give(f, s->entry_gradient, w.s.entry_gradient, 1, p->Hv, KV, ss);
    }
    while (w.count)
        free(w.made[--w.count]);
    return status;
}

static gdn_status forward(const gdn_context *c, const gdn_problem *p, const gdn_tensors *t,
                          gdn_stream stream) {
    return run(c, p, t, NULL, 0);
}
static gdn_status backward(const gdn_context *c, const gdn_problem *p, const gdn_tensors *t,
                           gdn_stream stream) {
    return run(c, p, t, NULL, 1);
}
static gdn_status segment_forward(const gdn_context *c, const gdn_problem *p, const gdn_tensors *t,
                                  const gdn_segment *s, gdn_stream stream) {
    return run(c, p, t, s, 2);
}
static gdn_status segment_backward(const gdn_context *c, const gdn_problem *p, const gdn_tensors *t,
                                   const gdn_segment *s, gdn_stream stream) {
    return run(c, p, t, s, 3);
}

const gdni_backend_ops gdni_cpu_ops = {
    .supported = supported,
    .sizes = sizes,
    .forward = forward,
    .backward = backward,
    .segment_forward = segment_forward,
    .segment_backward = segment_backward,
};
