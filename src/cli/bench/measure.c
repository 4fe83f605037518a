/* One row on the device: the call as one graph, its times, its results to the checks. */
#include "call.h"
#include "cuda/memory.h"

#include <stdlib.h>
#include <string.h>

enum {
    UNTIMED = 10,
    UNTIMED_LATER = 2, /* in later turns */
    TURNS = 5,
    LEAST_REPEATS = 20,
    MOST_REPEATS = 100 /* as the published table's */
};
static const double TIME_OF_REPEATS = 50.0; /* ms: fewer repeats of what takes long */

/* The timer's graphs. */
enum {
    AS_MEANT,
    UNCUT
};

/* ---- What depends on the library's kernels and plan of work ---- */

/* The problem with sequences that are never cut. */
static gdn_problem never_cut(gdn_problem p) {
    p.segments = 1;
    return p;
}

static const char *backend_of(const gdn_context *context, const bench_call *c) {
    return gdn_problem_kernels(context, &c->p);
}

/* ---- Times ---- */

static int ascending(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double median(float *ms, int64_t count) {
    qsort(ms, (size_t)count, sizeof(*ms), ascending);
    return 0.5 * (ms[(count - 1) / 2] + ms[count / 2]);
}

static gdn_status enqueue(const bench_device *d, const gdn_context *context, const bench_call *c,
                          const gdn_problem *p, int backward) {
    const gdn_stream stream = gdni_bench_timer_stream(d->timer);
    return backward ? gdn_backward(context, p, &c->t, stream)
                    : gdn_forward(context, p, &c->t, stream);
}

static gdn_status capture(const bench_device *d, const bench_call *c, const gdn_problem *p,
                          int backward, int graph) {
    DEVICE_TRY(gdni_bench_capture_begin(d->timer));
    const gdn_status status = enqueue(d, d->context, c, p, backward);
    const int error = gdni_bench_capture_end(d->timer, graph);
    GDN_TRY(status);
    DEVICE_TRY(error);
    return GDN_STATUS_OK;
}

static gdn_status poison_outputs(const bench_device *d, const bench_call *c, int backward) {
    const bench_tensor first = backward ? BENCH_DQ : BENCH_O;
    const bench_tensor last = backward ? BENCH_DH0 : BENCH_HT;
    for (bench_tensor i = first; i <= last; ++i)
        DEVICE_TRY(
            gdni_bench_poison(c->x[i], bench_call_bytes(c, i), gdni_bench_timer_stream(d->timer)));
    return GDN_STATUS_OK;
}

/* How often to time what takes `ms`. */
static int64_t repeats_of(const bench_options *o, double ms) {
    if (o->repeats)
        return o->repeats;
    const int64_t repeats = (int64_t)(TIME_OF_REPEATS / ms);
    return repeats < LEAST_REPEATS  ? LEAST_REPEATS
           : repeats > MOST_REPEATS ? MOST_REPEATS
                                    : repeats;
}

/* Warm times of the first `graphs` graphs in turns, so that all find the device at the same clock;
 * each one's times into ms [graph][most_repeats]. */
static gdn_status take_turns(const bench_device *d, int graphs, const int64_t *repeats, float *ms,
                             bench_result *r) {
    for (int64_t turn = 0; turn < TURNS; ++turn)
        for (int graph = graphs - 1; graph >= 0; --graph) {
            const int64_t n = repeats[graph];
            const int64_t count = n * (turn + 1) / TURNS - n * turn / TURNS;
            const int untimed = turn ? UNTIMED_LATER : UNTIMED;
            DEVICE_TRY(gdni_bench_enqueue(d->timer, graph, untimed, (int)count, 0));
        }
    r->clock = bench_clock_now(); /* while the replays run */
    for (int graph = 0; graph < graphs; ++graph)
        DEVICE_TRY(gdni_bench_wait(d->timer, graph, ms + graph * d->most_repeats));
    return GDN_STATUS_OK;
}

/* Cold, then warm and uncut in turns; once for both where the two are the same. */
static gdn_status time_graphs(const bench_device *d, int graphs, float *ms, bench_result *r) {
    float *const times[GDNI_BENCH_GRAPHS] = {ms, ms + d->most_repeats};
    int64_t repeats[GDNI_BENCH_GRAPHS];
    for (int graph = 0; graph < graphs; ++graph) {
        DEVICE_TRY(gdni_bench_enqueue(d->timer, graph, 1, 3, 0));
        DEVICE_TRY(gdni_bench_wait(d->timer, graph, ms));
        repeats[graph] = repeats_of(d->options, median(ms, 3));
    }
    DEVICE_TRY(gdni_bench_enqueue(d->timer, AS_MEANT, 1, LEAST_REPEATS, 1));
    DEVICE_TRY(gdni_bench_wait(d->timer, AS_MEANT, ms));
    r->cold_ms = median(ms, LEAST_REPEATS);
    GDN_TRY(take_turns(d, graphs, repeats, ms, r));
    r->ms = median(times[AS_MEANT], repeats[AS_MEANT]);
    r->min_ms = times[AS_MEANT][0];
    r->max_ms = times[AS_MEANT][repeats[AS_MEANT] - 1];
    r->uncut_ms = graphs > UNCUT ? median(times[UNCUT], repeats[UNCUT]) : r->ms;
    return GDN_STATUS_OK;
}

/* All times of a row. The outputs that it leaves are those of a last replay as it is meant to be.
 */
static gdn_status take_times(const bench_device *d, const bench_call *c, const bench_row *row,
                             bench_result *r) {
    int plans;
    GDN_TRY(gdni_device_plans(d->context, &c->p, c->t.cu_seqlens != NULL, row->backward, &plans));
    GDN_TRY(capture(d, c, &c->p, row->backward, AS_MEANT));
    if (plans) {
        const gdn_problem uncut = never_cut(c->p);
        GDN_TRY(capture(d, c, &uncut, row->backward, UNCUT));
    }
    float *ms = malloc(sizeof(*ms) * GDNI_BENCH_GRAPHS * (size_t)d->most_repeats);
    if (!ms)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: out of memory");
    const gdn_status status = time_graphs(d, plans ? GDNI_BENCH_GRAPHS : 1, ms, r);
    free(ms);
    GDN_TRY(status);
    GDN_TRY(poison_outputs(d, c, row->backward));
    DEVICE_TRY(gdni_bench_enqueue(d->timer, AS_MEANT, 1, 0, 0));
    return GDN_STATUS_OK;
}

/* ---- Results ---- */

/* All heads against portable kernels in a call that cuts the sequences and drops states nowhere. */
static gdn_status check_all_heads(const bench_device *d, const bench_call *c, const bench_row *row,
                                  bench_result *result, bench_checks *checks) {
    const bench_tensor first = row->backward ? BENCH_DQ : BENCH_O;
    const bench_tensor last = row->backward ? BENCH_DH0 : BENCH_HT;
    const gdn_stream stream = gdni_bench_timer_stream(d->timer);
    bench_call exact = *c;
    gdn_status status = GDN_STATUS_OK;
    double error[256];
    exact.p.flags |= GDN_FLAG_EXACT;
    exact.p = never_cut(exact.p);
    for (bench_tensor i = first; i <= last; ++i)
        exact.x[i] = NULL;
    for (bench_tensor i = first; i <= last && status == GDN_STATUS_OK; ++i)
        if (gdni_bench_allocate(bench_call_bytes(c, i), &exact.x[i]))
            status = gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: no device memory to check with");
    bench_call_point(&exact);
    if (status == GDN_STATUS_OK)
        status = enqueue(d, d->portable, &exact, &exact.p, row->backward);
    for (bench_tensor i = first; i <= last && status == GDN_STATUS_OK; ++i) {
        const int heads = bench_tensor_heads(&c->p, i);
        const gdni_bench_slice x = {c->x[i],
                                    bench_tensor_dtype(&c->p, i),
                                    bench_tensor_rows(&c->p, i),
                                    heads * bench_tensor_dim(&c->p, i),
                                    0,
                                    0};
        const int code = gdni_bench_difference(&x, exact.x[i], heads, error, stream);
        if (code)
            status = gdni_fail(GDN_STATUS_CUDA_ERROR, "bench: %s", gdni_bench_error_text(code));
        for (int h = 0; h < heads && !code; ++h)
            bench_checks_note(checks, result, bench_tensor_names[i], h, "exact", error[h]);
    }
    for (bench_tensor i = first; i <= last; ++i)
        gdni_bench_release(exact.x[i]);
    return status;
}

/* Forward: one v-head. Backward: a k-head and all of its v-heads, which dq and dk are sums over. */
static gdn_status make_job(const bench_device *d, const bench_call *c, const bench_row *row,
                           int v_head, bench_job *job) {
    const int group = c->p.Hv / c->p.Hk, count = row->backward ? group : 1;
    job->problem = c->p;
    job->problem.Hk = 1;
    job->problem.Hv = count;
    job->backward = row->backward;
    job->k_head = v_head / group;
    job->v_head = row->backward ? job->k_head * group : v_head;
    job->cu = malloc(sizeof(*row->cu) * (size_t)(row->N + 1));
    if (!job->cu)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: out of memory");
    memcpy(job->cu, row->cu, sizeof(*row->cu) * (size_t)(row->N + 1));
    for (bench_tensor i = 0; i < BENCH_TENSORS; ++i) {
        const int of_forward = i == BENCH_O || i == BENCH_HT;
        if (!c->x[i] || (row->backward && of_forward))
            continue;
        const int64_t dim = bench_tensor_dim(&c->p, i), rows = bench_tensor_rows(&c->p, i);
        const int64_t heads = bench_tensor_heads(&job->problem, i);
        const int64_t first = bench_tensor_is_key(i) ? job->k_head : job->v_head;
        const gdni_bench_slice slice = {c->x[i],     bench_tensor_dtype(&c->p, i),
                                        rows,        bench_tensor_heads(&c->p, i) * dim,
                                        first * dim, heads * dim};
        job->x[i] = malloc(sizeof(float) * (size_t)(rows * heads * dim));
        if (!job->x[i])
            return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: out of memory");
        DEVICE_TRY(gdni_bench_fetch(&slice, job->x[i], gdni_bench_timer_stream(d->timer)));
    }
    return GDN_STATUS_OK;
}

/* A head that decays and one that does not, which ones depends on the row; -1: there is none. */
static int choose_head(const bench_call *c, int undecayed, uint64_t seed) {
    const int start = (int)(seed % (uint64_t)c->p.Hv);
    for (int i = 0; i < c->p.Hv; ++i) {
        const int h = (start + i) % c->p.Hv;
        if (c->undecayed[h] == undecayed)
            return h;
    }
    return -1;
}

static gdn_status check_heads(const bench_device *d, const bench_call *c, const bench_row *row,
                              bench_result *result, bench_checks *checks) {
    int last_group = -1;
    for (int undecayed = 0; undecayed < 2; ++undecayed) {
        const uint64_t place = (uint64_t)(row->cu[row->N] + 31 * row->N);
        const int h = choose_head(c, undecayed, place);
        const int group = h / (c->p.Hv / c->p.Hk);
        if (h < 0 || (row->backward && group == last_group))
            continue;
        last_group = group;
        bench_job *job = calloc(1, sizeof(*job));
        if (!job)
            return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: out of memory");
        const gdn_status status = make_job(d, c, row, h, job);
        if (status != GDN_STATUS_OK) {
            bench_job_free(job);
            return status;
        }
        job->result = result;
        GDN_TRY(bench_checks_add(checks, job));
    }
    return GDN_STATUS_OK;
}

static gdn_status measure(const bench_device *d, bench_call *c, const bench_row *row,
                          bench_result *result, bench_checks *checks) {
    int64_t segments;
    GDN_TRY(bench_call_make(d, row, c));
    result->workspace = c->workspace;
    GDN_TRY(
        enqueue(d, d->context, c, &c->p, 0)); /* what backward takes from it; loads the kernels */
    GDN_TRY(take_times(d, c, row, result));
    GDN_TRY(gdni_device_segments(d->context, &c->p, &c->t, row->backward, &segments));
    result->segments = (int32_t)segments;
    result->backend = backend_of(d->context, c);
    GDN_TRY(check_all_heads(d, c, row, result, checks));
    return check_heads(d, c, row, result, checks);
}

gdn_status bench_measure(bench_device *d, const bench_row *row, bench_result *result,
                         bench_checks *checks) {
    bench_call c;
    const gdn_status status = measure(d, &c, row, result, checks);
    bench_call_release(&c);
    return status;
}
