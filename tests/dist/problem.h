/*
 * A whole batch in float64, its result by the recurrence on this rank alone, and this rank's part
 * of it in any dtype. Every rank draws the same batch.
 */
#ifndef GDN_TEST_PROBLEM_H
#define GDN_TEST_PROBLEM_H

#include "machine.h"

/* Tensors in the order of this list: inputs, outputs, gradients. */
enum {
    Q,
    K_,
    V_,
    G,
    BETA,
    DO,
    INITIAL,
    DHT, /* inputs */
    O,
    FINAL,
    DQ,
    DK,
    DV,
    DG,
    DBETA,
    DH0, /* outputs */
    TENSORS
};

typedef struct batch {
    gdn_problem problem;   /* of the whole, fp64 */
    int64_t *cu_seqlens;   /* NULL: equal lengths */
    double *data[TENSORS]; /* NULL: absent */
} batch;

static const char *const tensor_names[TENSORS] = {
    "q", "k",           "v",  "g",  "beta", "do", "initial_state", "dht",
    "o", "final_state", "dq", "dk", "dv",   "dg", "dbeta",         "dh0"};

/* Rows of a tensor are tokens, or sequences. */
static inline int tensor_has_sequences(int tensor) {
    return tensor == INITIAL || tensor == DHT || tensor == FINAL || tensor == DH0;
}

/* Elements of one row. */
static inline int64_t tensor_row(const gdn_problem *p, int tensor) {
    switch (tensor) {
    case Q:
    case K_:
    case DQ:
    case DK:
        return (int64_t)p->Hk * p->K;
    case V_:
    case DO:
    case O:
    case DV:
        return (int64_t)p->Hv * p->V;
    case G:
    case BETA:
    case DG:
    case DBETA:
        return p->Hv;
    default:
        return (int64_t)p->Hv * p->K * p->V;
    }
}

static inline int64_t tensor_rows(const gdn_problem *p, int tensor) {
    return tensor_has_sequences(tensor) ? p->N : p->T;
}

static inline void *need(size_t bytes) {
    void *memory = aligned_alloc(256, (bytes + 256) / 256 * 256);
    if (!memory) {
        fprintf(stderr, "no memory for %zu bytes\n", bytes);
        exit(99);
    }
    memset(memory, 0xff, bytes); /* NaN */
    return memory;
}

/* Of a call that has to succeed; otherwise the job ends with its line. */
static inline void must(gdn_dist *dist, gdn_status status) {
    if (status != GDN_STATUS_OK)
        gdn_dist_abort(dist, 99, NULL);
}

/* Inputs and outputs hold NaN at first. with_states: initial_state and dht. */
static inline void batch_allocate(batch *b, int with_states) {
    for (int i = 0; i < TENSORS; ++i) {
        const size_t count = (size_t)(tensor_rows(&b->problem, i) * tensor_row(&b->problem, i));
        b->data[i] = (i == INITIAL || i == DHT) && !with_states ? NULL : need(8 * count);
    }
}

static inline void batch_free(batch *b) {
    for (int i = 0; i < TENSORS; ++i)
        free(b->data[i]);
    free(b->cu_seqlens);
}

static inline double draw(const gdn_problem *p, int tensor, int64_t i, harness_random *r,
                          double gate) {
    switch (tensor) {
    case G:
        return -gate * pow(8.0, (double)-(i % p->Hv)) * 2.0 * harness_uniform(r);
    case BETA:
        return harness_uniform(r);
    default:
        return harness_normal(r);
    }
}

/* What bf16 holds, so that every dtype sees the same numbers. */
static inline void round_rows(double *data, int64_t count) {
    uint16_t *rounded = need(sizeof(*rounded) * (size_t)count);
    if (gdn_convert(GDN_DTYPE_BF16, rounded, GDN_DTYPE_FP64, data, count) ||
        gdn_convert(GDN_DTYPE_FP64, data, GDN_DTYPE_BF16, rounded, count))
        exit(99);
    free(rounded);
}

/* gate: mean of -g of head 0, 1/8 of it for each further head; key: length of the keys. */
static inline void batch_fill(batch *b, harness_random *r, double gate, double key) {
    const gdn_problem *p = &b->problem;
    for (int i = Q; i <= DHT; ++i) {
        const int64_t count = tensor_rows(p, i) * tensor_row(p, i);
        for (int64_t j = 0; b->data[i] && j < count; ++j)
            b->data[i][j] = (double)(float)draw(p, i, j, r, gate);
    }
    for (int64_t row = 0; row < p->T * p->Hk; ++row) {
        double *q = b->data[Q] + row * p->K, *k = b->data[K_] + row * p->K, qq = 1e-9, kk = 1e-9;
        for (int i = 0; i < p->K; ++i) {
            qq += q[i] * q[i];
            kk += k[i] * k[i];
        }
        for (int i = 0; i < p->K; ++i) {
            q[i] = (double)(float)(q[i] / sqrt(qq));
            k[i] = (double)(float)(key * k[i] / sqrt(kk));
        }
    }
    for (int i = Q; i <= DO; ++i)
        if (i != G && i != BETA)
            round_rows(b->data[i], tensor_rows(p, i) * tensor_row(p, i));
}

static inline gdn_tensors tensors_of(void *const data[TENSORS]) {
    gdn_tensors t = GDN_TENSORS_INIT;
    t.q = data[Q], t.k = data[K_], t.v = data[V_], t.g = data[G], t.beta = data[BETA];
    t.do_ = data[DO], t.initial_state = data[INITIAL], t.dht = data[DHT];
    t.o = data[O], t.final_state = data[FINAL];
    t.dq = data[DQ], t.dk = data[DK], t.dv = data[DV], t.dg = data[DG], t.dbeta = data[DBETA];
    t.dh0 = data[DH0];
    return t;
}

/* The outputs, by the reference backend. */
static inline void batch_solve(batch *b) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context = NULL;
    gdn_sizes sizes = GDN_SIZES_INIT;
    void *data[TENSORS];
    config.backend = GDN_BACKEND_REFERENCE;
    for (int i = 0; i < TENSORS; ++i)
        data[i] = b->data[i];
    gdn_tensors t = tensors_of(data);
    t.cu_seqlens = b->cu_seqlens;
    CHECK(gdn_context_create(&context, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_problem_sizes(context, &b->problem, &sizes) == GDN_STATUS_OK, "%s", gdn_last_error());
    t.workspace_size = sizes.forward_workspace + sizes.backward_workspace;
    t.workspace = need(t.workspace_size);
    CHECK(gdn_forward(context, &b->problem, &t, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_backward(context, &b->problem, &t, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    free(t.workspace);
    gdn_context_destroy(context);
}

static inline int64_t draw_int(harness_random *r, int64_t low, int64_t high) {
    return low + (int64_t)(harness_uniform(r) * (double)(high - low + 1));
}

/* A batch of random shape: head dims of a list, at most so many tokens. */
static inline batch batch_draw_of(harness_random *r, const int32_t *dims, int32_t count,
                                  int64_t tokens) {
    batch b = {.problem = GDN_PROBLEM_INIT};
    gdn_problem *p = &b.problem;
    p->dtype = GDN_DTYPE_FP64;
    p->Hk = (int32_t)draw_int(r, 1, 2);
    p->Hv = p->Hk * (int32_t)draw_int(r, 1, 3);
    p->K = dims[draw_int(r, 0, count - 1)];
    p->V = dims[draw_int(r, 0, count - 1)];
    p->N = draw_int(r, 1, 5);
    p->T = draw_int(r, 0, tokens);
    if (draw_int(r, 0, 3) == 0) {
        p->T -= p->T % p->N;
    } else {
        b.cu_seqlens = need(8 * (size_t)(p->N + 1));
        const int64_t end = draw_int(r, 0, 2) ? p->T : draw_int(r, 0, p->T);
        for (int64_t n = 0; n <= p->N; ++n)
            b.cu_seqlens[n] = n == 0 ? 0 : n == p->N ? end : draw_int(r, 0, end);
        for (int64_t n = 1; n <= p->N; ++n) /* sorted; equal neighbours are empty sequences */
            for (int64_t m = n; m > 1 && b.cu_seqlens[m] < b.cu_seqlens[m - 1]; --m) {
                const int64_t swap = b.cu_seqlens[m];
                b.cu_seqlens[m] = b.cu_seqlens[m - 1];
                b.cu_seqlens[m - 1] = swap;
            }
    }
    batch_allocate(&b, draw_int(r, 0, 3) != 0);
    batch_fill(&b, r, pow(10.0, 3.0 * harness_uniform(r) - 2.0), 1.0);
    return b;
}

static inline batch batch_draw(harness_random *r) {
    static const int32_t dims[] = {4, 8, 16, 20, 32};
    return batch_draw_of(r, dims, 5, 200);
}

/* One rank's memory in the problem's dtypes. */
static inline gdn_dtype dtype_of(const gdn_problem *p, int tensor) {
    const int state = tensor_has_sequences(tensor) || tensor == G || tensor == BETA ||
                      tensor == DG || tensor == DBETA;
    return state && p->dtype != GDN_DTYPE_FP64 ? GDN_DTYPE_FP32 : p->dtype;
}

/* First row of this rank's part in the whole tensor. */
static inline int64_t first_row(const gdn_shard *shard, const gdn_dist_local *local, int tensor) {
    return tensor_has_sequences(tensor) ? local->part.first_sequence : shard->first;
}

static inline int64_t real_rows(const gdn_dist_local *local, int tensor) {
    return tensor_has_sequences(tensor) ? local->part.sequences : local->problem.T;
}

/* Adds the squares of this rank's differences and wanted values. Rows of states count where the
 * sequence ends (final_state) or begins (dh0) here. */
static inline void measure(const batch *b, const gdn_shard *shard, const gdn_dist_local *local,
                           int tensor, const void *got, double sums[2]) {
    const int64_t row = tensor_row(&b->problem, tensor), rows = real_rows(local, tensor);
    const gdn_dtype dtype = dtype_of(&local->problem, tensor);
    const size_t element = gdn_dtype_size(dtype);
    const int64_t begin = tensor == DH0 && local->part.from_left;
    const int64_t end = rows - (tensor == FINAL && local->part.to_right);
    const double *want = b->data[tensor] + first_row(shard, local, tensor) * row;
    for (int64_t i = begin * row; i < end * row; ++i) {
        double x;
        if (gdn_convert(GDN_DTYPE_FP64, &x, dtype, (const char *)got + element * (size_t)i, 1))
            exit(99);
        sums[0] += (x - want[i]) * (x - want[i]);
        sums[1] += want[i] * want[i];
    }
}

/* One rank's tensors after a call, in the problem's dtypes. */
typedef struct part {
    const batch *b;
    gdn_shard shard;
    gdn_dist_local local;
    gdn_dist_traffic traffic;
    void *data[TENSORS];
} part;

static inline void part_free(part *x) {
    for (int i = 0; i < TENSORS; ++i)
        free(x->data[i]);
}

static inline size_t part_bytes(const part *x, int tensor) {
    return (size_t)(tensor_rows(&x->local.problem, tensor) * tensor_row(&x->b->problem, tensor)) *
           gdn_dtype_size(dtype_of(&x->local.problem, tensor));
}

/* Inputs from the whole batch; rows that the neighbours fill hold NaN. */
static inline void part_allocate(part *x, gdn_dist *dist) {
    const gdn_dist_local *local = &x->local;
    for (int i = 0; i < TENSORS; ++i) {
        const int64_t row = tensor_row(&x->b->problem, i);
        const gdn_dtype dtype = dtype_of(&local->problem, i);
        x->data[i] = x->b->data[i] ? need(part_bytes(x, i)) : NULL;
        if (i > DHT || !x->data[i])
            continue;
        if (tensor_has_sequences(i) && local->part.sequences == 0)
            memset(x->data[i], 0, part_bytes(x, i)); /* a sequence that is not of the batch */
        must(dist, gdn_convert(dtype, x->data[i], GDN_DTYPE_FP64,
                               x->b->data[i] + first_row(&x->shard, local, i) * row,
                               real_rows(local, i) * row));
    }
    const size_t states = part_bytes(x, FINAL) / (size_t)local->problem.N;
    if (x->data[INITIAL] && local->part.from_left)
        memset(x->data[INITIAL], 0xff, states);
    if (x->data[DHT] && local->part.to_right)
        memset((char *)x->data[DHT] + part_bytes(x, DHT) - states, 0xff, states);
}

/* Forward, then backward, with workspace of their own. */
static inline void part_compute(const part *x, gdn_dist *dist, const machine *m,
                                const gdn_context *context, gdn_dist_plan *plan, gdn_tensors *t) {
    const gdn_problem *p = &x->local.problem;
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_stream stream = NULL;
    const int checked = on_device(context) && (p->flags & GDN_FLAG_CHECKED);
    if (on_device(context))
        must(dist, gdni_stream_create(context, &stream));
    must(dist,
         m->plain ? gdn_problem_sizes(context, p, &sizes) : gdn_dist_plan_sizes(plan, &sizes));
    t->cu_seqlens = m->plain ? x->local.cu_seqlens : NULL;
    must(dist, reserve(context, sizes.saved, &t->saved));
    must(dist, reserve(context, sizes.checked_report, &t->checked_report));
    for (int backward = 0; backward < 2; ++backward) {
        t->workspace_size = backward ? sizes.backward_workspace : sizes.forward_workspace;
        must(dist, reserve(context, t->workspace_size, &t->workspace));
        if (m->begin)
            m->begin(dist, stream);
        if (m->plain)
            must(dist, backward ? gdn_backward(context, p, t, stream)
                                : gdn_forward(context, p, t, stream));
        else
            must(dist,
                 backward ? gdn_dist_backward(plan, t, stream) : gdn_dist_forward(plan, t, stream));
        if (m->end)
            m->end(dist, stream);
        if (checked)
            must(dist, gdn_checked_status(context, p, t, stream));
        if (stream)
            must(dist, gdni_stream_wait(context, stream, "test: a part"));
        release(context, t->workspace);
    }
    release(context, t->checked_report);
    release(context, t->saved);
    if (stream)
        gdni_stream_destroy(context, stream);
}

/* This rank's part forward and backward on a machine, through dist or as a problem of its own. */
static inline part part_run_on(const machine *m, const batch *b, gdn_dist *dist,
                               const gdn_shard *shard, const gdn_problem *problem) {
    part x = {b, *shard, GDN_DIST_LOCAL_INIT, GDN_DIST_TRAFFIC_INIT, {NULL}};
    gdn_context *context = NULL;
    gdn_dist_plan *plan = NULL;
    void *data[TENSORS];
    must(dist, machine_open(m, gdn_dist_rank(dist, GDN_DIST_WORLD), &context));
    must(dist, gdn_dist_plan_create(&plan, dist, context, problem, shard));
    must(dist, gdn_dist_plan_local(plan, &x.local));
    part_allocate(&x, dist);
    for (int i = 0; i < TENSORS; ++i)
        must(dist, put(context, x.data[i], part_bytes(&x, i), &data[i]));
    gdn_tensors t = tensors_of(data);
    part_compute(&x, dist, m, context, plan, &t);
    for (int i = 0; i < TENSORS; ++i)
        must(dist, take_back(context, x.data[i], part_bytes(&x, i), data[i]));
    must(dist, gdn_dist_plan_traffic(plan, &x.traffic));
    gdn_dist_plan_destroy(plan);
    gdn_context_destroy(context);
    x.local.cu_seqlens = NULL;
    return x;
}

/* The whole batch's problem as a run of it wants it. */
static inline gdn_problem problem_as(const batch *b, gdn_dtype dtype, uint32_t flags,
                                     double threshold) {
    gdn_problem problem = b->problem;
    problem.dtype = dtype;
    problem.flags = flags;
    problem.decay_threshold = threshold;
    return problem;
}

/* On host backends: fp64 on the reference. */
static inline part part_run(const batch *b, gdn_dist *dist, const gdn_shard *shard, gdn_dtype dtype,
                            uint32_t flags, double threshold) {
    const machine m = {.backend = dtype == GDN_DTYPE_FP64 ? GDN_BACKEND_REFERENCE : GDN_BACKEND_CPU,
                       .kernels = GDN_KERNELS_AUTO};
    const gdn_problem problem = problem_as(b, dtype, flags, threshold);
    return part_run_on(&m, b, dist, shard, &problem);
}

typedef struct tolerances {
    double common, sensitive; /* sensitive: dg, dbeta, dh0 */
} tolerances;

/* Relative L2 error over all ranks, by tensor. */
static inline void part_check(const part *x, gdn_dist *dist, tolerances tolerance,
                              const char *name) {
    double sums[TENSORS][2] = {{0}};
    gdn_transport *group = gdn_dist_transport(dist, GDN_DIST_SEQUENCE);
    for (int i = O; i < TENSORS; ++i)
        measure(x->b, &x->shard, &x->local, i, x->data[i], sums[i]);
    must(dist, group->all_reduce(group, GDN_DTYPE_FP64, sums, 2 * TENSORS, "test: sums"));
    for (int i = O; i < TENSORS; ++i) {
        const double error = sqrt(sums[i][0] / (sums[i][1] > 0 ? sums[i][1] : 1.0));
        const double limit =
            i == DG || i == DBETA || i == DH0 ? tolerance.sensitive : tolerance.common;
        CHECK(error <= limit, "%s: %s: relative error %.3g, expected at most %.3g", name,
              tensor_names[i], error, limit);
    }
}

static const tolerances FP64 = {1e-10, 1e-10}, FP32 = {2e-5, 4e-5}, BF16 = {1e-2, 2e-2};

static inline tolerances tolerances_of(gdn_dtype dtype) {
    return dtype == GDN_DTYPE_FP64 ? FP64 : dtype == GDN_DTYPE_FP32 ? FP32 : BF16;
}

/* Any cuts of shard->T: even shards at times, otherwise uneven ones, small ones, empty ones. */
static inline void draw_shard(gdn_shard *shard, harness_random *r, int32_t rank, int32_t ranks) {
    int64_t cuts[65];
    const double tight = harness_uniform(r); /* often some shards have a few tokens only */
    for (int32_t i = 0; i <= ranks; ++i) {
        cuts[i] = i == ranks ? shard->T
                  : i == 0   ? 0
                             : (int64_t)(harness_uniform(r) * (double)(shard->T + 1));
        if (i > 1 && i < ranks && tight < 0.5)
            cuts[i] = cuts[i - 1] + draw_int(r, 0, 3);
        if (cuts[i] > shard->T)
            cuts[i] = shard->T;
        for (int32_t j = i; j > 1 && i < ranks && cuts[j] < cuts[j - 1]; --j) {
            const int64_t swap = cuts[j];
            cuts[j] = cuts[j - 1];
            cuts[j - 1] = swap;
        }
    }
    if (harness_uniform(r) < 0.25) {
        gdn_shard_even(shard, rank, ranks);
        return;
    }
    shard->first = cuts[rank];
    shard->count = cuts[rank + 1] - cuts[rank];
}

/* MPI and a group for a test program; what fails here ends the job. */
static inline gdn_dist *test_begin(double deadline, int32_t sequence_ranks) {
    gdn_dist_config config = GDN_DIST_CONFIG_INIT;
    gdn_dist *dist = NULL;
    int32_t started = 0;
    config.sequence_ranks = sequence_ranks;
    config.deadline = deadline;
    if (gdn_dist_start(deadline, &started) || !started || gdn_dist_create(&dist, &config))
        gdn_dist_abort(dist, 99, NULL);
    return dist;
}

/* For a test that cannot run here. */
static inline int test_skip(gdn_dist *dist, const char *why) {
    if (gdn_dist_rank(dist, GDN_DIST_WORLD) == 0)
        printf("skipped: %s\n", why);
    gdn_dist_destroy(dist);
    gdn_dist_finish(30.0);
    return 77;
}

/* Failures of all ranks count. */
static inline int test_finish(gdn_dist *dist) {
    gdn_dist_destroy(dist);
    gdn_dist_finish(30.0);
    return harness_finish();
}

#endif /* GDN_TEST_PROBLEM_H */
