#include "operator_case.h"

#include "gdn_check.h"

const char *const case_output_names[OUTPUTS] = {"o",  "final_state", "dq",    "dk",
                                                "dv", "dg",          "dbeta", "dh0"};

/* ---- Guarded memory ---- */

enum {
    GUARD = 256 /* bytes on each side; a multiple of the workspace's alignment */
};

typedef struct guard_head {
    void *base;
    size_t bytes;
} guard_head;

void *guarded_alloc(size_t bytes) {
    char *base = malloc(bytes + 4 * GUARD);
    if (!base)
        abort();
    char *memory = base + 2 * GUARD;
    memory -= (uintptr_t)memory % GUARD;
    const guard_head head = {base, bytes};
    memset(memory - GUARD, 0xa5, GUARD);
    memset(memory, 0xff, bytes);
    memset(memory + bytes, 0xa5, GUARD);
    memcpy(memory - GUARD, &head, sizeof(head));
    return memory;
}

int guarded_free(void *memory) {
    unsigned char *m = memory;
    guard_head head;
    int good = 1;
    if (!memory)
        return 1;
    memcpy(&head, m - GUARD, sizeof(head));
    for (size_t i = sizeof(head); i < GUARD; ++i)
        good &= m[i - GUARD] == 0xa5;
    for (size_t i = 0; i < GUARD; ++i)
        good &= m[head.bytes + i] == 0xa5;
    free(head.base);
    return good;
}

static double *doubles(int64_t count) {
    double *x = calloc((size_t)count + 1, sizeof(*x));
    if (!x)
        abort();
    return x;
}

/* ---- Drawing ---- */

case_dims case_input_dims(const gdn_problem *p, int input) {
    const int64_t KV = (int64_t)p->K * p->V;
    switch (input) {
    case IN_Q:
    case IN_K:
        return (case_dims){p->T, p->Hk, p->K};
    case IN_V:
    case IN_DO:
        return (case_dims){p->T, p->Hv, p->V};
    case IN_G:
    case IN_BETA:
        return (case_dims){p->T, p->Hv, 1};
    default:
        return (case_dims){p->N, p->Hv, KV};
    }
}

case_dims case_output_dims(const gdn_problem *p, int output) {
    static const int like[OUTPUTS] = {IN_V, IN_STATE, IN_Q, IN_K, IN_V, IN_G, IN_BETA, IN_STATE};
    return case_input_dims(p, like[output]);
}

double case_round(gdn_dtype dtype, double x) {
    char bits[8];
    double rounded;
    if (gdn_convert(dtype, bits, GDN_DTYPE_FP64, &x, 1) != GDN_STATUS_OK ||
        gdn_convert(GDN_DTYPE_FP64, &rounded, dtype, bits, 1) != GDN_STATUS_OK)
        abort();
    return rounded;
}

/* To a value that bf16 and fp16 both have; the second step matters for numbers below 2^-14. */
static double round_to_halves(double x) {
    return case_round(GDN_DTYPE_FP16, case_round(GDN_DTYPE_BF16, x));
}

static double draw_gate(case_gate gate, int64_t head, int64_t heads, harness_random *r) {
    const double x = log1p(exp(0.5 * harness_normal(r) + 1)); /* softplus */
    const double along = heads > 1 ? (double)head / (double)(heads - 1) : 1;
    switch (gate) {
    case GATE_NONE:
        return 0;
    case GATE_WEAK:
        return -x / 100;
    case GATE_MIXED:
        return -1e-3 * pow(16e3, along) * x;
    case GATE_STRONG:
        return -16 * x;
    case GATE_SATURATING:
        return harness_uniform(r) < 0.05 ? -60 : -0.01 * x;
    }
    return 0;
}

static double draw_beta(int edges, harness_random *r) {
    const double beta = 1 / (1 + exp(-harness_normal(r))), which = harness_uniform(r);
    return edges && which < 0.3 ? 0 : edges && which < 0.6 ? 1 : beta;
}

/* Unit rows; correlated: all near one direction a head. */
static void draw_rows(double *x, case_dims d, int correlated, int raw, harness_random *r) {
    double direction[256];
    for (int64_t h = 0; h < d.heads; ++h) {
        for (int64_t i = 0; i < d.dim; ++i)
            direction[i] = harness_normal(r);
        for (int64_t t = 0; t < d.rows; ++t) {
            double *row = x + (t * d.heads + h) * d.dim, square = 0;
            for (int64_t i = 0; i < d.dim; ++i) {
                const double value = harness_normal(r);
                row[i] = correlated ? 0.1 * value + direction[i] : value;
                square += row[i] * row[i];
            }
            for (int64_t i = 0; i < d.dim; ++i)
                row[i] = round_to_halves(raw ? row[i] : row[i] / sqrt(square));
        }
    }
}

void case_draw(const case_shape *s, uint64_t seed, case_data *data) {
    const gdn_problem init = GDN_PROBLEM_INIT;
    gdn_problem *p = &data->problem;
    harness_random r = {seed};
    memset(data, 0, sizeof(*data));
    *p = init;
    p->dtype = GDN_DTYPE_FP64;
    p->flags = s->flags;
    p->Hk = s->Hk, p->Hv = s->Hv, p->K = s->K, p->V = s->V;
    p->scale = s->scale;
    p->N = s->sequences;
    for (int n = 0; n < s->sequences; ++n)
        data->cu_seqlens[n + 1] = data->cu_seqlens[n] + s->length[n];
    p->T = data->cu_seqlens[s->sequences] + s->padding;
    data->equal_lengths = s->equal_lengths;
    for (int i = 0; i < INPUTS; ++i) {
        const case_dims d = case_input_dims(p, i);
        if (s->no_states && (i == IN_STATE || i == IN_DHT))
            continue;
        double *x = data->in[i] = doubles(case_count(d));
        if (i == IN_Q || i == IN_K)
            draw_rows(x, d, i == IN_K && s->correlated_keys, s->raw_keys, &r);
        for (int64_t j = 0; j < case_count(d) && i != IN_Q && i != IN_K; ++j)
            x[j] = i == IN_G ? case_round(GDN_DTYPE_FP32, draw_gate(s->gate, j % p->Hv, p->Hv, &r))
                   : i == IN_BETA ? case_round(GDN_DTYPE_FP32, draw_beta(s->beta_edges, &r))
                                  : round_to_halves(harness_normal(&r) * (i == IN_DHT ? 0.125 : 1));
    }
}

void case_free(case_data *data) {
    for (int i = 0; i < INPUTS; ++i)
        free(data->in[i]);
}

void case_results_free(case_results *r) {
    for (int i = 0; i < OUTPUTS; ++i)
        free(r->out[i]);
}

/* ---- Running ---- */

static gdn_strides strides_of(case_layout layout, case_dims d) {
    switch (layout) {
    case LAYOUT_DENSE:
        break;
    case LAYOUT_GAPS:
        return (gdn_strides){d.heads * (d.dim + 3) + 5, d.dim + 3};
    case LAYOUT_HEADS:
        return (gdn_strides){d.dim, d.dim * d.rows};
    }
    return (gdn_strides){d.heads * d.dim, d.dim};
}

/* Elements from the first to behind the last. */
static int64_t extent(case_dims d, gdn_strides s) {
    return case_count(d) ? (d.rows - 1) * s.token + (d.heads - 1) * s.head + d.dim : 0;
}

static int64_t place(case_dims d, gdn_strides s, int64_t i) {
    return i / d.dim / d.heads * s.token + i / d.dim % d.heads * s.head + i % d.dim;
}

typedef struct tensor {
    gdn_dtype dtype;
    case_dims dims;
    gdn_strides strides;
    void *memory;
} tensor;

static int in_dtype(int dim_kind) {
    return dim_kind != IN_G && dim_kind != IN_BETA && dim_kind != IN_STATE && dim_kind != IN_DHT;
}

static tensor make_tensor(const gdn_problem *p, const case_run *run, int like) {
    tensor t;
    t.dims = case_input_dims(p, like);
    t.dtype = in_dtype(like) || run->dtype == GDN_DTYPE_FP64 ? run->dtype : GDN_DTYPE_FP32;
    t.strides = strides_of(in_dtype(like) ? run->layout : LAYOUT_DENSE, t.dims);
    t.memory = guarded_alloc((size_t)extent(t.dims, t.strides) * gdn_dtype_size(t.dtype));
    return t;
}

/* One element to or from float64. */
static void convert(const tensor *t, int64_t i, double *value, int write) {
    char *at = (char *)t->memory + (size_t)place(t->dims, t->strides, i) * gdn_dtype_size(t->dtype);
    const gdn_status status = write ? gdn_convert(t->dtype, at, GDN_DTYPE_FP64, value, 1)
                                    : gdn_convert(GDN_DTYPE_FP64, value, t->dtype, at, 1);
    if (status != GDN_STATUS_OK)
        abort();
}

/* Reads an output and checks that nothing but its elements was written. */
static void read_output(tensor *t, double *out, const char *name) {
    const size_t size = gdn_dtype_size(t->dtype);
    unsigned char *m = t->memory;
    for (int64_t i = 0; i < case_count(t->dims); ++i) {
        convert(t, i, &out[i], 0);
        memset(m + (size_t)place(t->dims, t->strides, i) * size, 0xff, size);
    }
    size_t touched = 0;
    for (size_t i = 0; i < (size_t)extent(t->dims, t->strides) * size; ++i)
        touched += m[i] != 0xff;
    CHECK(touched == 0, "%s: %zu bytes between its rows were written", name, touched);
    CHECK(guarded_free(t->memory), "%s: memory around it was written", name);
}

void case_compute(const case_data *data, case_run run, case_results *results) {
    static const int like[OUTPUTS] = {IN_V, IN_STATE, IN_Q, IN_K, IN_V, IN_G, IN_BETA, IN_STATE};
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context;
    gdn_problem p = data->problem;
    gdn_tensors x = GDN_TENSORS_INIT;
    gdn_sizes sizes = GDN_SIZES_INIT;
    tensor in[INPUTS], out[OUTPUTS];

    config.backend = run.backend;
    config.threads = run.threads;
    CHECK(gdn_context_create(&context, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    p.dtype = run.dtype;
    p.flags |= run.flags;
    for (int i = 0; i < INPUTS; ++i) {
        in[i] = make_tensor(&p, &run, i);
        for (int64_t j = 0; data->in[i] && j < case_count(in[i].dims); ++j)
            convert(&in[i], j, &data->in[i][j], 1);
    }
    for (int i = 0; i < OUTPUTS; ++i) {
        out[i] = make_tensor(&p, &run, like[i]);
        results->out[i] = doubles(case_count(out[i].dims));
    }
    p.q_strides = in[IN_Q].strides, p.k_strides = in[IN_K].strides;
    p.v_strides = in[IN_V].strides, p.o_strides = in[IN_DO].strides;
    CHECK(gdn_problem_sizes(context, &p, &sizes) == GDN_STATUS_OK, "%s", gdn_last_error());

    x.q = in[IN_Q].memory, x.k = in[IN_K].memory, x.v = in[IN_V].memory;
    x.g = in[IN_G].memory, x.beta = in[IN_BETA].memory;
    x.cu_seqlens = data->equal_lengths ? NULL : data->cu_seqlens;
    x.initial_state = data->in[IN_STATE] ? in[IN_STATE].memory : NULL;
    x.o = out[OUT_O].memory, x.final_state = out[OUT_STATE].memory;
    x.saved = sizes.saved ? guarded_alloc(sizes.saved) : NULL;
    x.workspace = guarded_alloc(sizes.forward_workspace);
    x.workspace_size = sizes.forward_workspace;
    CHECK(gdn_forward(context, &p, &x, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(guarded_free(x.workspace), "forward wrote around its workspace");

    x.do_ = in[IN_DO].memory;
    x.dht = data->in[IN_DHT] ? in[IN_DHT].memory : NULL;
    x.dq = out[OUT_DQ].memory, x.dk = out[OUT_DK].memory, x.dv = out[OUT_DV].memory;
    x.dg = out[OUT_DG].memory, x.dbeta = out[OUT_DBETA].memory, x.dh0 = out[OUT_DH0].memory;
    x.workspace = guarded_alloc(sizes.backward_workspace);
    x.workspace_size = sizes.backward_workspace;
    CHECK(gdn_backward(context, &p, &x, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(guarded_free(x.workspace), "backward wrote around its workspace");
    CHECK(guarded_free(x.saved), "memory around saved was written");

    for (int i = 0; i < OUTPUTS; ++i)
        read_output(&out[i], results->out[i], case_output_names[i]);
    for (int i = 0; i < INPUTS; ++i) {
        for (int64_t j = 0; data->in[i] && j < case_count(in[i].dims); ++j) {
            double value;
            convert(&in[i], j, &value, 0);
            if (value != data->in[i][j]) {
                CHECK(0, "input %d changed at %lld", i, (long long)j);
                break;
            }
        }
        CHECK(guarded_free(in[i].memory), "memory around input %d was written", i);
    }
    gdn_context_destroy(context);
}

/* ---- Comparing ---- */

static void compare_head(const char *name, const char *tensor, case_dims d, int64_t h,
                         const double *got, const double *want, double tolerance) {
    double difference = 0, square = 0;
    for (int64_t t = 0; t < d.rows; ++t)
        for (int64_t i = (t * d.heads + h) * d.dim, end = i + d.dim; i < end; ++i) {
            difference += (got[i] - want[i]) * (got[i] - want[i]);
            square += want[i] * want[i];
        }
    const double error = square > 0 ? sqrt(difference / square) : sqrt(difference);
    CHECK(square > 0 ? error <= tolerance : error == 0, "%s: %s, head %lld: error %.2e of %.0e",
          name, tensor, (long long)h, error, tolerance);
}

void case_compare(const char *name, const case_data *data, gdn_dtype dtype, const case_results *got,
                  const case_results *want) {
    const gdn_problem *p = &data->problem;
    const int64_t end = data->equal_lengths ? p->T : data->cu_seqlens[p->N];
    for (int i = 0; i < OUTPUTS; ++i) {
        const case_dims d = case_output_dims(p, i);
        const double tolerance = gdn_check_default_tolerance(case_output_names[i], dtype);
        for (int64_t h = 0; h < d.heads; ++h)
            compare_head(name, case_output_names[i], d, h, got->out[i], want->out[i], tolerance);
        if (i == OUT_STATE || i == OUT_DH0)
            continue;
        int64_t wrong = 0;
        for (int64_t j = end * d.heads * d.dim; j < case_count(d); ++j)
            wrong += got->out[i][j] != 0;
        CHECK(wrong == 0, "%s: %s: %lld elements of padding are not 0", name, case_output_names[i],
              (long long)wrong);
    }
}

void case_same(const char *name, const case_data *data, const case_results *a,
               const case_results *b) {
    for (int i = 0; i < OUTPUTS; ++i) {
        const int64_t count = case_count(case_output_dims(&data->problem, i));
        CHECK(!memcmp(a->out[i], b->out[i], sizeof(double) * (size_t)count),
              "%s: %s differs in some bit", name, case_output_names[i]);
    }
}
