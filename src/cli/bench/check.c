/* Results against the float64 recurrence, which is slow and so runs beside the next rows' times. */
#include "bench.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "gdn_check.h"

enum {
    MOST_THREADS = 64
};

struct bench_checks {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a job came, was taken, or is done */
    pthread_t threads[MOST_THREADS];
    int thread_count, closing, verbose;
    bench_job *first, *last; /* queued */
    int queued;
    gdn_context *reference;
    gdn_status status; /* the first failure */
    char message[512];
};

void bench_job_free(bench_job *job) {
    for (int i = 0; i < BENCH_TENSORS; ++i)
        free(job->x[i]);
    free(job->cu);
    free(job);
}

/* ---- One job ---- */

/* The reference's side of a job: all in float64. */
typedef struct recurrence {
    gdn_problem p;
    gdn_tensors t;
    double *x[BENCH_TENSORS];
    void *workspace;
} recurrence;

static int64_t count_of(const gdn_problem *p, bench_tensor i) {
    return bench_tensor_rows(p, i) * bench_tensor_heads(p, i) * bench_tensor_dim(p, i);
}

static gdn_status prepare(const gdn_context *reference, const bench_job *job, recurrence *r) {
    gdn_sizes sizes = GDN_SIZES_INIT;
    r->p = job->problem;
    r->p.dtype = GDN_DTYPE_FP64;
    r->p.flags = 0;
    GDN_TRY(gdn_problem_sizes(reference, &r->p, &sizes));
    r->t.workspace_size = job->backward ? sizes.backward_workspace : sizes.forward_workspace;
    r->t.workspace = r->workspace = aligned_alloc(256, (r->t.workspace_size + 255) / 256 * 256);
    if (!r->workspace)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: out of memory");
    for (bench_tensor i = 0; i < BENCH_TENSORS; ++i) {
        const int64_t count = count_of(&r->p, i);
        if (!job->x[i])
            continue;
        r->x[i] = malloc(sizeof(double) * (size_t)count);
        if (!r->x[i])
            return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: out of memory");
        if (i < BENCH_O)
            GDN_TRY(gdn_convert(GDN_DTYPE_FP64, r->x[i], GDN_DTYPE_FP32, job->x[i], count));
    }
    r->t.q = r->x[BENCH_Q], r->t.k = r->x[BENCH_K], r->t.v = r->x[BENCH_V];
    r->t.g = r->x[BENCH_G], r->t.beta = r->x[BENCH_BETA], r->t.cu_seqlens = job->cu;
    r->t.initial_state = r->x[BENCH_H0], r->t.do_ = r->x[BENCH_DO], r->t.dht = r->x[BENCH_DHT];
    r->t.o = r->x[BENCH_O], r->t.final_state = r->x[BENCH_HT];
    r->t.dq = r->x[BENCH_DQ], r->t.dk = r->x[BENCH_DK], r->t.dv = r->x[BENCH_DV];
    r->t.dg = r->x[BENCH_DG], r->t.dbeta = r->x[BENCH_DBETA], r->t.dh0 = r->x[BENCH_DH0];
    return GDN_STATUS_OK;
}

/* |got - want| / |want| of one head; where the head is all zeros, |got|. */
static double head_error(const float *got, const double *want, int64_t rows, int64_t heads,
                         int64_t dim, int64_t head) {
    double difference = 0, size = 0;
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < dim; ++i) {
            const int64_t at = (row * heads + head) * dim + i;
            const double d = (double)got[at] - want[at];
            difference += d * d;
            size += want[at] * want[at];
        }
    return sqrt(size == 0 ? difference : difference / size);
}

static gdn_status run_job(bench_checks *checks, const bench_job *job) {
    const gdn_tensors init = GDN_TENSORS_INIT;
    recurrence r = {.t = init};
    gdn_status status = prepare(checks->reference, job, &r);
    if (status == GDN_STATUS_OK)
        status = job->backward ? gdn_backward(checks->reference, &r.p, &r.t, NULL)
                               : gdn_forward(checks->reference, &r.p, &r.t, NULL);
    for (bench_tensor i = BENCH_O; i < BENCH_TENSORS && status == GDN_STATUS_OK; ++i) {
        const int32_t heads = bench_tensor_heads(&r.p, i);
        for (int32_t h = 0; job->x[i] && h < heads; ++h)
            bench_checks_note(checks, job->result, bench_tensor_names[i],
                              h + (bench_tensor_is_key(i) ? job->k_head : job->v_head), "float64",
                              head_error(job->x[i], r.x[i], bench_tensor_rows(&r.p, i), heads,
                                         bench_tensor_dim(&r.p, i), h));
    }
    for (int i = 0; i < BENCH_TENSORS; ++i)
        free(r.x[i]);
    free(r.workspace);
    return status;
}

/* ---- The threads ---- */

static bench_job *take_job(bench_checks *c) {
    bench_job *job = NULL;
    pthread_mutex_lock(&c->lock);
    while (!c->first && !c->closing)
        pthread_cond_wait(&c->changed, &c->lock);
    if (c->first) {
        job = c->first;
        c->first = job->next;
        --c->queued;
        pthread_cond_broadcast(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
    return job;
}

static void *work(void *argument) {
    bench_checks *c = argument;
    for (bench_job *job; (job = take_job(c)) != NULL;) {
        const gdn_status status = run_job(c, job);
        pthread_mutex_lock(&c->lock);
        if (status != GDN_STATUS_OK && c->status == GDN_STATUS_OK) {
            c->status = status;
            snprintf(c->message, sizeof(c->message), "%s", gdn_last_error());
        }
        --job->result->pending;
        pthread_cond_broadcast(&c->changed);
        pthread_mutex_unlock(&c->lock);
        bench_job_free(job);
    }
    return NULL;
}

gdn_status bench_checks_open(bench_checks **out, int32_t threads, int verbose) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    bench_checks *c = *out = calloc(1, sizeof(*c));
    if (!c)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: out of memory");
    c->verbose = verbose;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    config.backend = GDN_BACKEND_REFERENCE;
    GDN_TRY(gdn_context_create(&c->reference, &config));
    if (!threads)
        threads = cores > 2 ? (int32_t)cores - 1 : 1;
    threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    while (c->thread_count < threads) {
        if (pthread_create(&c->threads[c->thread_count], NULL, work, c))
            return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: cannot start a thread");
        ++c->thread_count;
    }
    return GDN_STATUS_OK;
}

gdn_status bench_checks_add(bench_checks *c, bench_job *job) {
    pthread_mutex_lock(&c->lock);
    while (c->queued >= c->thread_count)
        pthread_cond_wait(&c->changed, &c->lock);
    if (c->first)
        c->last->next = job;
    else
        c->first = job;
    c->last = job;
    ++c->queued;
    ++job->result->pending;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    return GDN_STATUS_OK;
}

void bench_checks_note(bench_checks *c, bench_result *result, const char *tensor, int head,
                       const char *against, double error) {
    const double tolerance = gdn_check_default_tolerance(tensor, GDN_DTYPE_BF16);
    const int wrong = !(error <= tolerance), counts = strcmp(against, "exact") != 0;
    pthread_mutex_lock(&c->lock);
    if (c->verbose)
        printf("%-14s head %3d  against %-8s %.2e%s\n", tensor, head, against, error,
               wrong ? "  FAIL" : "");
    if (wrong || (counts && !result->failed && !(error <= result->error)))
        snprintf(result->worst, sizeof(result->worst), "%s head %d against %s: %.2e of %.0e",
                 tensor, head, against, error, tolerance);
    if (counts && !(error <= result->error) && !isnan(result->error))
        result->error = error;
    result->failed |= wrong;
    pthread_mutex_unlock(&c->lock);
}

int bench_checks_done(bench_checks *c, const bench_result *result, int wait) {
    pthread_mutex_lock(&c->lock);
    while (wait && result->pending)
        pthread_cond_wait(&c->changed, &c->lock);
    const int done = !result->pending;
    pthread_mutex_unlock(&c->lock);
    return done;
}

gdn_status bench_checks_close(bench_checks *c) {
    if (!c)
        return GDN_STATUS_OK;
    pthread_mutex_lock(&c->lock);
    c->closing = 1;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    for (int i = 0; i < c->thread_count; ++i)
        pthread_join(c->threads[i], NULL);
    gdn_context_destroy(c->reference);
    const gdn_status status =
        c->status == GDN_STATUS_OK ? GDN_STATUS_OK : gdni_fail(c->status, "%s", c->message);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c);
    return status;
}
