/*
 * The reference backend knows one thread. Its work is cut into (v-head, slice of V): the recurrence
 * is independent per column of V, and what gradients of q, k, g and beta sum over V is added here.
 */
#include "recurrence.h"
#include "harness.h"

#include <pthread.h>
#include <unistd.h>

enum {
    SLICE = 32, /* columns of V: a state of 128 x 32 doubles stays in a core's cache */
    MAX_THREADS = 64
};

typedef struct work {
    recurrence *r;
    int64_t next, count;
    pthread_mutex_t lock;
    const gdn_context *context;
} work;

static void *zeros(size_t count) {
    double *x = calloc(count + 1, sizeof(double));
    if (!x) {
        fprintf(stderr, "no memory for %zu numbers\n", count);
        exit(1);
    }
    return x;
}

static void check(gdn_status status) {
    if (status != GDN_STATUS_OK) {
        fprintf(stderr, "%s\n", gdn_last_error());
        exit(1);
    }
}

/* Columns first .. first + V - 1 of states [N][K][whole], to or from dense ones. */
static void copy_states(const recurrence *r, double *whole, double *part, int64_t first, int32_t V,
                        int out) {
    for (int64_t row = 0; row < r->N * r->K; ++row) {
        double *x = whole + row * r->V + first, *y = part + row * V;
        memcpy(out ? x : y, out ? y : x, sizeof(double) * (size_t)V);
    }
}

static void add(double *to, const double *from, size_t count) {
    for (size_t i = 0; i < count; ++i)
        to[i] += from[i];
}

static void one(work *w, int64_t head, int64_t first) {
    recurrence *r = w->r;
    const int32_t V = r->V - first < SLICE ? (int32_t)(r->V - first) : SLICE;
    const int64_t k_head = head / (r->Hv / r->Hk);
    const size_t T = (size_t)r->T, keys = T * (size_t)r->K;
    const size_t states = (size_t)(r->N * r->K) * (size_t)V;
    const size_t rows = T * (size_t)r->V * (size_t)head + (size_t)first;
    const size_t whole = (size_t)(r->N * r->K * r->V) * (size_t)head;
    gdn_problem p = GDN_PROBLEM_INIT;
    gdn_tensors t = GDN_TENSORS_INIT;
    gdn_sizes sizes = GDN_SIZES_INIT;
    void *block = NULL;
    p.dtype = GDN_DTYPE_FP64;
    p.flags = r->flags;
    p.T = r->T;
    p.N = r->N;
    p.Hk = p.Hv = 1;
    p.K = r->K;
    p.V = V;
    p.v_strides.token = p.v_strides.head = p.o_strides.token = p.o_strides.head = r->V;
    check(gdn_problem_sizes(w->context, &p, &sizes));
    if (posix_memalign(&block, 256, sizes.forward_workspace + sizes.backward_workspace))
        exit(1);
    t.workspace = block;
    t.workspace_size = sizes.forward_workspace + sizes.backward_workspace;

    const size_t held = r->initial_state ? states : 0;
    double *initial = zeros(held), *dht = zeros(held), *final = zeros(held), *dh0 = zeros(held);
    double *dq = zeros(keys), *dk = zeros(keys), *dg = zeros(T), *dbeta = zeros(T);
    if (held) {
        copy_states(r, r->initial_state + whole, initial, first, V, 0);
        copy_states(r, r->dht + whole, dht, first, V, 0);
        t.initial_state = initial;
        t.dht = dht;
        t.final_state = final;
        t.dh0 = dh0;
    }
    t.q = r->q + keys * (size_t)k_head;
    t.k = r->k + keys * (size_t)k_head;
    t.v = r->v + rows;
    t.do_ = r->do_ + rows;
    t.g = r->g + T * (size_t)head;
    t.beta = r->beta + T * (size_t)head;
    t.cu_seqlens = r->cu;
    t.o = r->o + rows;
    t.dq = dq;
    t.dk = dk;
    t.dv = r->dv + rows;
    t.dg = dg;
    t.dbeta = dbeta;
    check(gdn_forward(w->context, &p, &t, NULL));
    check(gdn_backward(w->context, &p, &t, NULL));

    pthread_mutex_lock(&w->lock);
    add(r->dq + keys * (size_t)k_head, dq, keys);
    add(r->dk + keys * (size_t)k_head, dk, keys);
    add(r->dg + T * (size_t)head, dg, T);
    add(r->dbeta + T * (size_t)head, dbeta, T);
    pthread_mutex_unlock(&w->lock);
    if (held) {
        copy_states(r, r->final_state + whole, final, first, V, 1);
        copy_states(r, r->dh0 + whole, dh0, first, V, 1);
    }
    free(initial), free(dht), free(final), free(dh0);
    free(dq), free(dk), free(dg), free(dbeta), free(block);
}

static void *run(void *argument) {
    work *w = argument;
    const int64_t slices = (w->r->V + SLICE - 1) / SLICE;
    for (;;) {
        pthread_mutex_lock(&w->lock);
        const int64_t i = w->next++;
        pthread_mutex_unlock(&w->lock);
        if (i >= w->count)
            return NULL;
        one(w, i / slices, i % slices * SLICE);
    }
}

void recurrence_solve(recurrence *r) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context = NULL;
    pthread_t thread[MAX_THREADS];
    const int64_t slices = (r->V + SLICE - 1) / SLICE, cores = sysconf(_SC_NPROCESSORS_ONLN);
    const size_t T = (size_t)r->T, keys = T * (size_t)(r->Hk * r->K);
    const size_t values = T * (size_t)(r->Hv * r->V), heads = T * (size_t)r->Hv;
    const size_t states = r->initial_state ? (size_t)(r->N * r->Hv * r->K) * (size_t)r->V : 0;
    r->o = zeros(values), r->dv = zeros(values);
    r->dq = zeros(keys), r->dk = zeros(keys);
    r->dg = zeros(heads), r->dbeta = zeros(heads);
    r->final_state = zeros(states), r->dh0 = zeros(states);

    config.backend = GDN_BACKEND_REFERENCE;
    check(gdn_context_create(&context, &config));
    work w = {r, 0, r->Hv * slices, PTHREAD_MUTEX_INITIALIZER, context};
    int threads = (int)(w.count < cores ? w.count : cores);
    threads = threads > MAX_THREADS ? MAX_THREADS : threads;
    for (int i = 0; i < threads; ++i)
        if (pthread_create(&thread[i], NULL, run, &w))
            exit(1);
    for (int i = 0; i < threads; ++i)
        pthread_join(thread[i], NULL);
    gdn_context_destroy(context);
}

void recurrence_free(recurrence *r) {
    double *const all[] = {r->q, r->k,  r->v,  r->do_, r->g,  r->beta,  r->initial_state, r->dht,
                           r->o, r->dq, r->dk, r->dv,  r->dg, r->dbeta, r->final_state,   r->dh0};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); ++i)
        free(all[i]);
}
