/* Forward: per window, the chunks' own work, the chain of states, the outputs. */
#include "chunked.h"

#include <string.h>

enum {
    C = GDNI_CHUNK
};

/* O = s e^c (Q S) + P D */
static void write_output(const gdni_plan *plan, int64_t chunk, int64_t h,
                         const gdni_scratch *scratch) {
    const gdn_problem *p = plan->p;
    const int n = plan->chunk[chunk].length, V = p->V;
    const gdni_rows q = gdni_rows_q(plan, chunk, h / (p->Hv / p->Hk));
    const int64_t at = gdni_offset(p->o_strides, plan->chunk[chunk].start, h);
    const int in_place = p->dtype == GDN_DTYPE_FP32;
    float *decayed_Q = scratch->rows[0];
    float *o = in_place ? (float *)plan->x->o + at : scratch->rows[1];
    const int64_t ld = in_place ? p->o_strides.token : V;
    gdni_scale_rows(n, p->K, (float)p->scale, gdni_gates_at(plan, chunk, h)->in, q.x, q.ld,
                    decayed_Q, p->K);
    gdni_sgemm_serial(0, 0, n, V, p->K, 1, decayed_Q, p->K, gdni_entry_state(plan, chunk, h), V, 0,
                      o, ld);
    gdni_lower_times(n, V, gdni_window(plan, plan->P, chunk, p->Hv, h, GDNI_SQUARE),
                     gdni_delta_at(plan, plan->D, chunk, h), V, 1, o, ld);
    if (!in_place)
        gdni_store_rows(p->dtype, plan->x->o, at, p->o_strides.token, n, V, o, ld);
}

static void run_window(const gdni_plan *plan, int64_t begin, int64_t end) {
    const int64_t Hk = plan->p->Hk, Hv = plan->p->Hv;
    const gdni_scratch scratch = gdni_scratch_of_thread(plan);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < (end - begin) * Hk; ++task)
        gdni_prepare(plan, begin + task / Hk, task % Hk, 1);
    gdni_chain_forward(plan, begin, end);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < (end - begin) * Hv; ++task)
        write_output(plan, begin + task / Hv, task % Hv, &scratch);
}

/* States of empty sequences pass through; outputs of padding are 0. */
static void write_rest(const gdn_problem *p, const gdn_tensors *x) {
    const size_t size = gdn_dtype_size(p->dtype);
    for (int64_t t = gdni_sequence_start(p, x->cu_seqlens, p->N); t < p->T; ++t)
        for (int64_t h = 0; h < p->Hv; ++h)
            memset((char *)x->o + (size_t)gdni_offset(p->o_strides, t, h) * size, 0,
                   (size_t)p->V * size);
    if (x->final_state)
        gdni_pass_states(p, x, x->initial_state, x->final_state);
}

gdn_status gdni_cpu_forward(const gdn_context *context, const gdn_problem *p, const gdn_tensors *x,
                            gdn_stream stream) {
    gdni_plan plan;
    gdni_plan_init(&plan, context, p, x, GDNI_FORWARD);
    plan.exit_state = x->final_state;
    write_rest(p, x);
#pragma omp parallel num_threads(plan.threads)
    {
        const int previous = gdni_blas_serial_begin();
        for (int64_t begin = 0; begin < plan.chunks; begin += plan.window)
            run_window(&plan, begin, gdni_window_end(&plan, begin));
        gdni_blas_serial_end(previous);
    }
    return GDN_STATUS_OK;
}
