/* One row on the device: the call as one graph, its times, its results to the checks. */
#include "call.h"
#include "cuda/memory.h"

#include <stdlib.h>
#include <string.h>

enum {
    UNTIMED = 10,
    LEAST_REPEATS = 20,
    MOST_REPEATS = 100 /* as the published table's */
};
static const double TIME_OF_REPEATS = 50.0; /* ms: fewer repeats of what takes long */

/* ---- What depends on the library's kernels and plan of work ---- */

/* Makes the problem one whose sequences are never cut. 0: it is one already. */
static int never_cut(gdn_problem *p) {
    const int cut = p->segments != 1;
    p->segments = 1;
    return cut;
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
                          int backward) {
    DEVICE_TRY(gdni_bench_capture_begin(d->timer));
    const gdn_status status = enqueue(d, d->context, c, p, backward);
    const int error = gdni_bench_capture_end(d->timer);
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

/* Warm, uncut where that is something else, then warm and cold again as it is meant to be: the
 * outputs are those of the last. */
static gdn_status take_times(const bench_device *d, const bench_call *c, const bench_row *row,
                             bench_result *r) {
    gdn_problem uncut = c->p;
    int64_t repeats = d->options->repeats ? d->options->repeats : LEAST_REPEATS;
    float *ms = malloc(sizeof(*ms) * (size_t)d->most_repeats);
    gdn_status status = GDN_STATUS_OK;
    int error = 0;
    if (!ms)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: out of memory");
    if (never_cut(&uncut)) {
        GDN_TRY_GOTO(capture(d, c, &uncut, row->backward), done);
        if ((error = gdni_bench_enqueue(d->timer, UNTIMED, (int)repeats, 0)) ||
            (error = gdni_bench_wait(d->timer, ms)))
            goto done;
        r->uncut_ms = median(ms, repeats);
    }
    GDN_TRY_GOTO(capture(d, c, &c->p, row->backward), done);
    GDN_TRY_GOTO(poison_outputs(d, c, row->backward), done);
    if ((error = gdni_bench_enqueue(d->timer, 1, 3, 0)) || (error = gdni_bench_wait(d->timer, ms)))
        goto done;
    if (!d->options->repeats) {
        repeats = (int64_t)(TIME_OF_REPEATS / median(ms, 3));
        repeats = repeats < LEAST_REPEATS  ? LEAST_REPEATS
                  : repeats > MOST_REPEATS ? MOST_REPEATS
                                           : repeats;
    }
    if ((error = gdni_bench_enqueue(d->timer, 1, LEAST_REPEATS, 1)) ||
        (error = gdni_bench_wait(d->timer, ms)))
        goto done;
    r->cold_ms = median(ms, LEAST_REPEATS);
    if ((error = gdni_bench_enqueue(d->timer, UNTIMED, (int)repeats, 0)))
        goto done;
    r->clock = bench_clock_now(); /* while the replays run */
    if ((error = gdni_bench_wait(d->timer, ms)))
        goto done;
    r->ms = median(ms, repeats);
    r->min_ms = ms[0];
    r->max_ms = ms[repeats - 1];
done:
    free(ms);
    if (error)
        return gdni_fail(GDN_STATUS_CUDA_ERROR, "bench: %s", gdni_bench_error_text(error));
    return status;
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
    never_cut(&exact.p);
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
