/* The device, and a row's call on it: memory, and inputs as the published table's header has them.
 */
#include "call.h"

#include <stdlib.h>
#include <string.h>

enum {
    MOST_REPEATS = 100 /* unless asked for more */
};

/* ---- The device ---- */

gdn_status bench_device_open(bench_device **out, const bench_options *options,
                             bench_machine *machine) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdni_bench_device about;
    bench_device *d = *out = calloc(1, sizeof(*d));
    if (!d)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: out of memory");
    d->options = options;
    d->most_repeats = options->repeats > MOST_REPEATS ? options->repeats : MOST_REPEATS;
    config.backend = GDN_BACKEND_CUDA;
    config.device = options->device;
    GDN_TRY(gdn_context_create(&d->context, &config));
    config.kernels = GDN_KERNELS_PORTABLE;
    GDN_TRY(gdn_context_create(&d->portable, &config));
    DEVICE_TRY(gdni_bench_open(options->device, &about));
    DEVICE_TRY(gdni_bench_timer_create(&d->timer, (int)d->most_repeats, 4 * about.l2));
    memset(machine, 0, sizeof(*machine));
    snprintf(machine->gpu, sizeof(machine->gpu), "%.127s", about.name);
    snprintf(machine->bus, sizeof(machine->bus), "%s", about.bus);
    machine->multiprocessors = about.multiprocessors;
    bench_clock_open(machine);
    if (!machine->driver[0])
        snprintf(machine->driver, sizeof(machine->driver), "for CUDA %d.%d", about.driver / 1000,
                 about.driver % 1000 / 10);
    return GDN_STATUS_OK;
}

void bench_device_close(bench_device *d) {
    if (!d)
        return;
    bench_clock_close();
    gdni_bench_timer_destroy(d->timer);
    gdn_context_destroy(d->portable);
    gdn_context_destroy(d->context);
    free(d);
}

/* ---- Inputs ---- */

/* A share of the v-heads, rounded down, which ones is random: Fisher and Yates. */
static void choose_undecayed(bench_call *c, int percent, uint64_t seed) {
    const int heads = c->p.Hv;
    int order[256];
    for (int h = 0; h < heads; ++h)
        order[h] = h;
    for (int h = 0; h < heads * percent / 100; ++h) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        const int other = h + (int)((seed >> 33) % (uint64_t)(heads - h));
        const int chosen = order[other];
        order[other] = order[h];
        order[h] = chosen;
        c->undecayed[chosen] = 1;
    }
}

size_t bench_call_bytes(const bench_call *c, bench_tensor i) {
    return (size_t)(bench_tensor_rows(&c->p, i) * bench_tensor_heads(&c->p, i) *
                    bench_tensor_dim(&c->p, i)) *
           gdn_dtype_size(bench_tensor_dtype(&c->p, i));
}

/* The inputs of the published table (see its header). */
static gdn_status draw(bench_call *c, uint64_t seed, gdn_stream stream) {
    static const struct {
        gdni_bench_draw draw;
        float size;
    } inputs[] = {
        [BENCH_Q] = {GDNI_BENCH_UNIT, 1},       [BENCH_K] = {GDNI_BENCH_UNIT, 1},
        [BENCH_V] = {GDNI_BENCH_NORMAL, 1},     [BENCH_G] = {GDNI_BENCH_GATE, 0.0625f},
        [BENCH_BETA] = {GDNI_BENCH_SIGMOID, 1}, [BENCH_H0] = {GDNI_BENCH_NORMAL, 1},
        [BENCH_DO] = {GDNI_BENCH_NORMAL, 1},    [BENCH_DHT] = {GDNI_BENCH_NORMAL, 0.125f}};
    for (bench_tensor i = BENCH_Q; i <= BENCH_DHT; ++i) {
        if (!c->x[i])
            continue;
        const int64_t heads = bench_tensor_heads(&c->p, i);
        const gdni_bench_fill fill = {inputs[i].draw,
                                      bench_tensor_dtype(&c->p, i),
                                      bench_tensor_rows(&c->p, i) * heads,
                                      bench_tensor_dim(&c->p, i),
                                      inputs[i].size,
                                      seed * BENCH_TENSORS + i};
        DEVICE_TRY(gdni_bench_random(&fill, c->x[i], stream));
    }
    DEVICE_TRY(gdni_bench_clear_heads(c->x[BENCH_G], c->p.T, c->p.Hv, c->undecayed, stream));
    return GDN_STATUS_OK;
}

void bench_call_point(bench_call *c) {
    gdn_tensors *t = &c->t;
    t->q = c->x[BENCH_Q], t->k = c->x[BENCH_K], t->v = c->x[BENCH_V], t->g = c->x[BENCH_G];
    t->beta = c->x[BENCH_BETA], t->initial_state = c->x[BENCH_H0], t->do_ = c->x[BENCH_DO];
    t->dht = c->x[BENCH_DHT], t->o = c->x[BENCH_O], t->final_state = c->x[BENCH_HT];
    t->dq = c->x[BENCH_DQ], t->dk = c->x[BENCH_DK], t->dv = c->x[BENCH_DV], t->dg = c->x[BENCH_DG];
    t->dbeta = c->x[BENCH_DBETA], t->dh0 = c->x[BENCH_DH0];
}

static gdn_status allocate(const bench_device *d, bench_call *c, const bench_row *row) {
    gdn_sizes sizes = GDN_SIZES_INIT;
    const size_t cu_bytes = sizeof(*row->cu) * (size_t)(row->N + 1);
    void *cu;
    GDN_TRY(gdn_problem_sizes(d->context, &c->p, &sizes));
    c->saved = sizes.saved;
    c->workspace = row->backward ? sizes.backward_workspace : sizes.forward_workspace;
    c->t.workspace_size = sizes.forward_workspace; /* forward runs in any row */
    if (row->backward && sizes.backward_workspace > sizes.forward_workspace)
        c->t.workspace_size = sizes.backward_workspace;
    DEVICE_TRY(gdni_bench_allocate(c->t.workspace_size, &c->t.workspace));
    DEVICE_TRY(gdni_bench_allocate(sizes.saved, &c->t.saved));
    DEVICE_TRY(gdni_bench_allocate(cu_bytes, &cu));
    c->t.cu_seqlens = cu;
    DEVICE_TRY(gdni_bench_upload(cu, row->cu, cu_bytes));
    for (bench_tensor i = 0; i < BENCH_TENSORS; ++i) {
        const int of_backward = i == BENCH_DO || i == BENCH_DHT || i >= BENCH_DQ;
        if (of_backward <= row->backward)
            DEVICE_TRY(gdni_bench_allocate(bench_call_bytes(c, i), &c->x[i]));
    }
    bench_call_point(c);
    return GDN_STATUS_OK;
}

void bench_call_release(bench_call *c) {
    for (bench_tensor i = 0; i < BENCH_TENSORS; ++i)
        gdni_bench_release(c->x[i]);
    gdni_bench_release(c->t.workspace);
    gdni_bench_release(c->t.saved);
    gdni_bench_release((void *)c->t.cu_seqlens);
}

gdn_status bench_call_make(const bench_device *d, const bench_row *row, bench_call *c) {
    const gdn_problem problem = GDN_PROBLEM_INIT;
    const gdn_tensors tensors = GDN_TENSORS_INIT;
    const bench_options *o = d->options;
    const bench_saved saved = bench_row_saved(row, o->save);
    memset(c, 0, sizeof(*c));
    c->p = problem;
    c->t = tensors;
    c->p.dtype = GDN_DTYPE_BF16;
    c->p.flags = (saved >= BENCH_INVERSE ? GDN_FLAG_SAVE_INVERSE : 0) |
                 (saved == BENCH_STATES ? GDN_FLAG_SAVE_STATES : 0) |
                 (o->exact ? GDN_FLAG_EXACT : 0);
    c->p.T = row->cu[row->N];
    c->p.N = row->N;
    c->p.Hk = row->Hk;
    c->p.Hv = row->Hv;
    c->p.K = c->p.V = BENCH_DIM;
    if (row->Hv > (int)sizeof(c->undecayed))
        return gdni_fail(GDN_STATUS_UNSUPPORTED, "bench: h_v is %d, expected at most %d", row->Hv,
                         (int)sizeof(c->undecayed));
    choose_undecayed(c, o->undecayed, o->seed);
    GDN_TRY(allocate(d, c, row));
    return draw(c, o->seed, gdni_bench_timer_stream(d->timer));
}
