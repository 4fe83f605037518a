/* What a segment hands on: N, M and the decay of its last sequence, n of its first. */
#include "chunked.h"

#include <math.h>
#include <string.h>

static void forward_window(const gdni_plan *plan, int64_t begin, int64_t end, float *M) {
    const int64_t Hk = plan->p->Hk;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < (end - begin) * Hk; ++task)
        gdni_prepare(plan, begin + task / Hk, task % Hk, 0);
    if (plan->exit_state)
        gdni_chain_forward(plan, begin, end);
    if (M)
        gdni_chain_transfer(plan, begin, end, M);
}

/* |k|^2 of a row as the recurrence sees it: with L2NORM_QK after the norm. */
static double key_square(const gdn_problem *p, const void *k, int64_t row) {
    double square = 0.0;
    for (int64_t i = 0; i < p->K; ++i) {
        const double x = gdni_load(p->dtype, k, row + i);
        square += x * x;
    }
    return p->flags & GDN_FLAG_L2NORM_QK ? square / (square + GDNI_NORM_EPSILON) : square;
}

/* log_decay and decay_bound of the last sequence. */
static void write_decay(const gdn_problem *p, const gdn_tensors *x, const gdn_segment *segment) {
    const int64_t start = gdni_sequence_start(p, x->cu_seqlens, p->N - 1);
    const int64_t end = gdni_sequence_start(p, x->cu_seqlens, p->N);
    const float *g = x->g, *beta = x->beta;
    float *log_decay = segment->log_decay, *decay_bound = segment->decay_bound;
    for (int64_t h = 0; h < p->Hv; ++h) {
        double decay = 0.0, bound = 0.0;
        for (int64_t t = start; t < end; ++t) {
            decay += g[t * p->Hv + h];
            if (decay_bound) {
                const int64_t row = gdni_offset(p->k_strides, t, h / (p->Hv / p->Hk));
                const double square = key_square(p, x->k, row);
                bound += log(fmax(1.0, fabs(1.0 - beta[t * p->Hv + h] * square)));
            }
        }
        if (log_decay)
            log_decay[h] = (float)decay;
        if (decay_bound)
            decay_bound[h] = (float)(decay + bound);
    }
}

gdn_status gdni_cpu_segment_forward(const gdn_context *context, const gdn_problem *p,
                                    const gdn_tensors *x, const gdn_segment *segment,
                                    gdn_stream stream) {
    const size_t KV = (size_t)p->K * (size_t)p->V, K = (size_t)p->K;
    float *M = segment->transfer, *exit_state = segment->exit_state;
    gdni_plan plan;
    gdni_plan_init(&plan, context, p, x, GDNI_SEGMENT_FORWARD);
    plan.exit_state = exit_state;
    plan.first_sequence = p->N - 1;
    if (segment->log_decay || segment->decay_bound)
        write_decay(p, x, segment);
    for (size_t i = 0; M && i < (size_t)p->Hv * K * K; ++i)
        M[i] = i % (K * K) % (K + 1) == 0;
    if (exit_state && plan.chunks == 0 && x->initial_state)
        memcpy(exit_state, (const float *)x->initial_state + gdni_state_offset(p, p->N - 1, 0),
               sizeof(float) * (size_t)p->Hv * KV);
    else if (exit_state && plan.chunks == 0)
        memset(exit_state, 0, sizeof(float) * (size_t)p->Hv * KV);
    if (!exit_state && !M)
        return GDN_STATUS_OK;
#pragma omp parallel num_threads(plan.threads)
    {
        const int previous = gdni_blas_serial_begin();
        for (int64_t begin = 0; begin < plan.chunks; begin += plan.window)
            forward_window(&plan, begin, gdni_window_end(&plan, begin), M);
        gdni_blas_serial_end(previous);
    }
    return GDN_STATUS_OK;
}

static void backward_window(const gdni_plan *plan, int64_t begin, int64_t end) {
    const int64_t Hk = plan->p->Hk, group = plan->p->Hv / Hk;
    const gdni_scratch scratch = gdni_scratch_of_thread(plan);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < (end - begin) * Hk; ++task) {
        const int64_t chunk = begin + task / Hk, hk = task % Hk;
        gdni_prepare(plan, chunk, hk, 1);
        for (int64_t h = hk * group; h < (hk + 1) * group; ++h)
            gdni_prepare_gradients(plan, chunk, h, &scratch);
    }
    gdni_chain_backward(plan, begin, end);
}

gdn_status gdni_cpu_segment_backward(const gdn_context *context, const gdn_problem *p,
                                     const gdn_tensors *x, const gdn_segment *segment,
                                     gdn_stream stream) {
    const size_t bytes = sizeof(float) * (size_t)p->Hv * (size_t)p->K * (size_t)p->V;
    gdni_plan plan;
    gdni_plan_init(&plan, context, p, x, GDNI_SEGMENT_BACKWARD);
    plan.entry_gradient = segment->entry_gradient;
    if (plan.chunks == 0 && x->dht)
        memcpy(segment->entry_gradient, x->dht, bytes);
    else if (plan.chunks == 0)
        memset(segment->entry_gradient, 0, bytes);
#pragma omp parallel num_threads(plan.threads)
    {
        const int previous = gdni_blas_serial_begin();
        for (int64_t windows = gdni_windows(&plan); windows-- > 0;)
            backward_window(&plan, windows * plan.window,
                            gdni_window_end(&plan, windows * plan.window));
        gdni_blas_serial_end(previous);
    }
    return GDN_STATUS_OK;
}
