/* One row on the device: the call as one graph, its times. */
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

/* ---- Times ---- */

static int ascending(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double median(float *ms, int64_t count) {
    qsort(ms, (size_t)count, sizeof(*ms), ascending);
    return 0.5 * (ms[(count - 1) / 2] + ms[count / 2]);
}

static gdn_status capture(const bench_device *d, const bench_call *c, const gdn_problem *p,
                          int backward, int graph) {
    DEVICE_TRY(gdni_bench_capture_begin(d->timer));
    const gdn_status status = bench_call_enqueue(d, d->context, c, p, backward);
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
    const int64_t asked = d->options->repeats;
    const int cold = asked && asked < LEAST_REPEATS ? (int)asked : LEAST_REPEATS;
    int64_t repeats[GDNI_BENCH_GRAPHS];
    for (int graph = 0; graph < graphs; ++graph) {
        DEVICE_TRY(gdni_bench_enqueue(d->timer, graph, 1, 3, 0));
        DEVICE_TRY(gdni_bench_wait(d->timer, graph, ms));
        repeats[graph] = repeats_of(d->options, median(ms, 3));
    }
    DEVICE_TRY(gdni_bench_enqueue(d->timer, AS_MEANT, 1, cold, 1));
    DEVICE_TRY(gdni_bench_wait(d->timer, AS_MEANT, ms));
    r->cold_ms = median(ms, cold);
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
        const gdn_problem uncut = bench_never_cut(c->p);
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

static gdn_status measure(const bench_device *d, bench_call *c, const bench_row *row,
                          bench_result *result, bench_checks *checks) {
    int64_t segments;
    GDN_TRY(bench_call_make(d, row, c));
    result->workspace = c->workspace;
    result->saved = c->saved;
    /* What backward takes from it; loads the kernels. */
    GDN_TRY(bench_call_enqueue(d, d->context, c, &c->p, 0));
    GDN_TRY(take_times(d, c, row, result));
    GDN_TRY(gdni_device_segments(d->context, &c->p, &c->t, row->backward, &segments));
    result->segments = (int32_t)segments;
    result->backend = gdn_problem_kernels(d->context, &c->p);
    return bench_call_check(d, c, row, result, checks);
}

gdn_status bench_measure(bench_device *d, const bench_row *row, bench_result *result,
                         bench_checks *checks) {
    bench_call c;
    const gdn_status status = measure(d, &c, row, result, checks);
    bench_call_release(&c);
    return status;
}
