/*
 * The results of a row that was timed: all heads on the device against an exact call of the
 * portable kernels in the same dtype; some heads against float64 on the host, or, where that takes
 * too long, against portable kernels in fp32.
 */
#include "call.h"

#include <stdlib.h>
#include <string.h>

enum {
    MOST_FLOAT64 = 65536 /* tokens times v-heads: 8 s of a core in backward */
};

gdn_problem bench_never_cut(gdn_problem p) {
    p.segments = 1;
    return p;
}

gdn_status bench_call_enqueue(const bench_device *d, const gdn_context *context,
                              const bench_call *c, const gdn_problem *p, int backward) {
    const gdn_stream stream = gdni_bench_timer_stream(d->timer);
    return backward ? gdn_backward(context, p, &c->t, stream)
                    : gdn_forward(context, p, &c->t, stream);
}

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
    exact.p = bench_never_cut(exact.p);
    for (bench_tensor i = first; i <= last; ++i)
        exact.x[i] = NULL;
    for (bench_tensor i = first; i <= last && status == GDN_STATUS_OK; ++i)
        if (gdni_bench_allocate(bench_call_bytes(c, i), &exact.x[i]))
            status = gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: no device memory to check with");
    bench_call_point(&exact);
    if (status == GDN_STATUS_OK)
        status = bench_call_enqueue(d, d->portable, &exact, &exact.p, row->backward);
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

/* ---- Some heads ---- */

/* Forward: one v-head. Backward: a k-head and all of its v-heads, which dq and dk are sums over. */
typedef struct sample {
    gdn_problem problem; /* of these heads */
    int32_t k_head, v_head;
} sample;

static sample sample_of(const bench_call *c, int backward, int v_head) {
    const int32_t group = c->p.Hv / c->p.Hk;
    sample s = {c->p, v_head / group, backward ? v_head / group * group : v_head};
    s.problem.Hk = 1;
    s.problem.Hv = backward ? group : 1;
    return s;
}

/* Whether a tensor is an input or an output of the row. */
static int takes_part(const bench_call *c, int backward, bench_tensor i) {
    return c->x[i] && !(backward && (i == BENCH_O || i == BENCH_HT));
}

static gdni_bench_slice slice_of(const bench_call *c, const sample *s, bench_tensor i) {
    const int64_t dim = bench_tensor_dim(&c->p, i);
    const int64_t first = bench_tensor_is_key(i) ? s->k_head : s->v_head;
    const gdni_bench_slice slice = {c->x[i],
                                    bench_tensor_dtype(&c->p, i),
                                    bench_tensor_rows(&c->p, i),
                                    bench_tensor_heads(&c->p, i) * dim,
                                    first * dim,
                                    bench_tensor_heads(&s->problem, i) * dim};
    return slice;
}

static gdn_status make_job(const bench_device *d, const bench_call *c, const bench_row *row,
                           const sample *s, bench_job *job) {
    job->problem = s->problem;
    job->backward = row->backward;
    job->k_head = s->k_head;
    job->v_head = s->v_head;
    job->cu = malloc(sizeof(*row->cu) * (size_t)(row->N + 1));
    if (!job->cu)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: out of memory");
    memcpy(job->cu, row->cu, sizeof(*row->cu) * (size_t)(row->N + 1));
    for (bench_tensor i = 0; i < BENCH_TENSORS; ++i) {
        if (!takes_part(c, row->backward, i))
            continue;
        const gdni_bench_slice slice = slice_of(c, s, i);
        job->x[i] = malloc(sizeof(float) * (size_t)(slice.rows * slice.count));
        if (!job->x[i])
            return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: out of memory");
        DEVICE_TRY(gdni_bench_fetch(&slice, job->x[i], gdni_bench_timer_stream(d->timer)));
    }
    return GDN_STATUS_OK;
}

static gdn_status check_float64(const bench_device *d, const bench_call *c, const bench_row *row,
                                const sample *s, bench_result *result, bench_checks *checks) {
    bench_job *job = calloc(1, sizeof(*job));
    if (!job)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: out of memory");
    const gdn_status status = make_job(d, c, row, s, job);
    if (status != GDN_STATUS_OK) {
        bench_job_free(job);
        return status;
    }
    job->result = result;
    return bench_checks_add(checks, job);
}

/* The sample's call in fp32 by portable kernels, from the row's inputs; its outputs in f. */
static gdn_status solve_fp32(const bench_device *d, const bench_call *c, const bench_row *row,
                             const sample *s, bench_call *f) {
    const gdn_stream stream = gdni_bench_timer_stream(d->timer);
    gdn_sizes sizes = GDN_SIZES_INIT;
    f->p = bench_never_cut(s->problem);
    f->p.dtype = GDN_DTYPE_FP32;
    f->p.flags = GDN_FLAG_EXACT;
    GDN_TRY(gdn_problem_sizes(d->portable, &f->p, &sizes));
    f->t.workspace_size = row->backward ? sizes.backward_workspace : sizes.forward_workspace;
    DEVICE_TRY(gdni_bench_allocate(f->t.workspace_size, &f->t.workspace));
    for (bench_tensor i = 0; i < BENCH_TENSORS; ++i) {
        const gdni_bench_slice slice = slice_of(c, s, i);
        if (!takes_part(c, row->backward, i))
            continue;
        DEVICE_TRY(gdni_bench_allocate(bench_call_bytes(f, i), &f->x[i]));
        if (i < BENCH_O)
            DEVICE_TRY(gdni_bench_gather(&slice, f->x[i], stream));
    }
    f->t.cu_seqlens = c->t.cu_seqlens;
    bench_call_point(f);
    return bench_call_enqueue(d, d->portable, f, &f->p, row->backward);
}

/* One output of the row against that in f. */
static gdn_status compare_fp32(const bench_device *d, const bench_call *c, const sample *s,
                               const bench_call *f, bench_tensor i, double *error) {
    const gdn_stream stream = gdni_bench_timer_stream(d->timer);
    const gdni_bench_slice slice = slice_of(c, s, i);
    gdni_bench_slice got = {NULL, GDN_DTYPE_FP32, slice.rows, slice.count, 0, slice.count};
    void *dense;
    DEVICE_TRY(gdni_bench_allocate(bench_call_bytes(f, i), &dense));
    got.x = dense;
    int code = gdni_bench_gather(&slice, dense, stream);
    if (!code)
        code = gdni_bench_difference(&got, f->x[i], bench_tensor_heads(&f->p, i), error, stream);
    gdni_bench_release(dense);
    DEVICE_TRY(code);
    return GDN_STATUS_OK;
}

static gdn_status check_fp32(const bench_device *d, const bench_call *c, const bench_row *row,
                             const sample *s, bench_result *result, bench_checks *checks) {
    const gdn_tensors tensors = GDN_TENSORS_INIT;
    bench_call f = {.t = tensors};
    double error[256];
    gdn_status status = solve_fp32(d, c, row, s, &f);
    for (bench_tensor i = BENCH_O; i < BENCH_TENSORS && status == GDN_STATUS_OK; ++i) {
        if (!f.x[i])
            continue;
        status = compare_fp32(d, c, s, &f, i, error);
        for (int h = 0; h < bench_tensor_heads(&f.p, i) && status == GDN_STATUS_OK; ++h)
            bench_checks_note(checks, result, bench_tensor_names[i],
                              h + (bench_tensor_is_key(i) ? s->k_head : s->v_head), "fp32",
                              error[h]);
    }
    f.t.cu_seqlens = NULL; /* the row's */
    bench_call_release(&f);
    return status;
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

gdn_status bench_call_check(const bench_device *d, const bench_call *c, const bench_row *row,
                            bench_result *result, bench_checks *checks) {
    const uint64_t place = (uint64_t)(row->cu[row->N] + 31 * row->N);
    int last_group = -1;
    GDN_TRY(check_all_heads(d, c, row, result, checks));
    for (int undecayed = 0; undecayed < 2; ++undecayed) {
        const int h = choose_head(c, undecayed, place);
        const int group = h / (c->p.Hv / c->p.Hk);
        if (h < 0 || (row->backward && group == last_group))
            continue;
        last_group = group;
        const sample s = sample_of(c, row->backward, h);
        if (s.problem.T * s.problem.Hv > MOST_FLOAT64)
            GDN_TRY(check_fp32(d, c, row, &s, result, checks));
        else
            GDN_TRY(check_float64(d, c, row, &s, result, checks));
    }
    return GDN_STATUS_OK;
}
