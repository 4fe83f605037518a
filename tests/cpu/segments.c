/*
 * Segments: cutting one sequence anywhere and folding S = exp(log_decay) M S + N over the parts, dS
 * = exp(log_decay) M^T dS + n in the other direction, gives the states and gradients of the whole.
 * The argument names the backend.
 */
#include "operator_case.h"

#include "gdn_check.h"

enum {
    MAX_PARTS = 8,
    MAX_HEADS = 4
};

typedef struct backend_case {
    const char *name;
    gdn_backend backend;
    gdn_dtype dtype;
} backend_case;

static const backend_case backends[] = {{"reference", GDN_BACKEND_REFERENCE, GDN_DTYPE_FP64},
                                        {"cpu", GDN_BACKEND_CPU, GDN_DTYPE_FP32},
                                        {"cpu.bf16", GDN_BACKEND_CPU, GDN_DTYPE_BF16}};

/* Everything that one segment hands on, in float64. */
typedef struct part {
    double *N, *M, *n;
    double log_decay[MAX_HEADS], decay_bound[MAX_HEADS];
} part;

static gdn_dtype state_dtype(const backend_case *b) {
    return b->dtype == GDN_DTYPE_FP64 ? GDN_DTYPE_FP64 : GDN_DTYPE_FP32;
}

static void to_float64(gdn_dtype dtype, void *guarded, double *out, int64_t count) {
    CHECK(gdn_convert(GDN_DTYPE_FP64, out, dtype, guarded, count) == GDN_STATUS_OK, "%s",
          gdn_last_error());
    CHECK(guarded_free(guarded), "memory around an output was written");
}

static void *input(gdn_dtype dtype, const double *x, int64_t count) {
    void *memory = guarded_alloc((size_t)count * gdn_dtype_size(dtype));
    CHECK(gdn_convert(dtype, memory, GDN_DTYPE_FP64, x, count) == GDN_STATUS_OK, "%s",
          gdn_last_error());
    return memory;
}

static void *output(gdn_dtype dtype, int64_t count) {
    return guarded_alloc((size_t)count * gdn_dtype_size(dtype));
}

/* segment_forward and segment_backward of the tokens from `start`, as problem p says. */
static part compute_part(const backend_case *b, const case_data *data, const gdn_problem *problem,
                         int64_t start, const int64_t *cu_seqlens, const double *initial,
                         const double *dht) {
    const gdn_dtype state = state_dtype(b);
    gdn_problem p = *problem;
    const int64_t KV = (int64_t)p.K * p.V, KK = (int64_t)p.K * p.K, states = p.N * p.Hv * KV;
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context;
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_tensors x = GDN_TENSORS_INIT;
    gdn_segment s = GDN_SEGMENT_INIT;
    part out;
    void *in[INPUTS] = {NULL};

    config.backend = b->backend;
    config.threads = 2;
    CHECK(gdn_context_create(&context, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    p.dtype = b->dtype;
    for (int i = 0; i < INPUTS; ++i) {
        const case_dims d = case_input_dims(&p, i);
        const double *from = i == IN_STATE ? initial
                             : i == IN_DHT ? dht
                                           : data->in[i] + start * d.heads * d.dim;
        const int small = i == IN_G || i == IN_BETA || i == IN_STATE || i == IN_DHT;
        if (from)
            in[i] = input(small ? state : b->dtype, from, case_count(d));
    }
    CHECK(gdn_problem_sizes(context, &p, &sizes) == GDN_STATUS_OK, "%s", gdn_last_error());
    x.cu_seqlens = cu_seqlens;
    x.k = in[IN_K], x.v = in[IN_V], x.g = in[IN_G], x.beta = in[IN_BETA];
    x.initial_state = in[IN_STATE];
    x.workspace_size = sizes.segment_workspace;
    x.workspace = guarded_alloc(x.workspace_size);
    s.exit_state = output(state, p.Hv * KV);
    s.transfer = output(state, p.Hv * KK);
    s.log_decay = output(state, p.Hv);
    s.decay_bound = output(state, p.Hv);
    CHECK(gdn_segment_forward(context, &p, &x, &s, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(guarded_free(x.workspace), "segment_forward wrote around its workspace");

    x.q = in[IN_Q], x.v = NULL, x.initial_state = NULL;
    x.do_ = in[IN_DO], x.dht = in[IN_DHT];
    x.workspace = guarded_alloc(x.workspace_size);
    s.entry_gradient = output(state, p.Hv * KV);
    CHECK(gdn_segment_backward(context, &p, &x, &s, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(guarded_free(x.workspace), "segment_backward wrote around its workspace");

    out.N = calloc((size_t)(states + p.Hv * KV), sizeof(double));
    out.M = calloc((size_t)(p.Hv * KK), sizeof(double));
    out.n = calloc((size_t)(p.Hv * KV), sizeof(double));
    to_float64(state, s.exit_state, out.N, p.Hv * KV);
    to_float64(state, s.transfer, out.M, p.Hv * KK);
    to_float64(state, s.log_decay, out.log_decay, p.Hv);
    to_float64(state, s.decay_bound, out.decay_bound, p.Hv);
    to_float64(state, s.entry_gradient, out.n, p.Hv * KV);
    for (int i = 0; i < INPUTS; ++i)
        CHECK(guarded_free(in[i]), "memory around input %d was written", i);
    gdn_context_destroy(context);
    return out;
}

static void free_part(part *p) {
    free(p->N);
    free(p->M);
    free(p->n);
}

/* to = exp(log_decay) M from + add, or with M^T; [Hv, K, V] */
static void fold(const gdn_problem *p, const part *x, int transposed, const double *from,
                 const double *add, double *to) {
    const int64_t K = p->K, V = p->V;
    for (int64_t h = 0; h < p->Hv; ++h)
        for (int64_t i = 0; i < K; ++i)
            for (int64_t j = 0; j < V; ++j) {
                double sum = 0;
                for (int64_t l = 0; l < K; ++l)
                    sum += x->M[h * K * K + (transposed ? l * K + i : i * K + l)] *
                           from[(h * K + l) * V + j];
                to[(h * K + i) * V + j] = exp(x->log_decay[h]) * sum + add[(h * K + i) * V + j];
            }
}

static void expect_heads(const char *what, const gdn_problem *p, gdn_dtype dtype, const double *got,
                         const double *want) {
    const int64_t KV = (int64_t)p->K * p->V;
    for (int64_t h = 0; h < p->Hv; ++h) {
        double difference = 0, square = 0;
        for (int64_t i = h * KV; i < (h + 1) * KV; ++i) {
            difference += (got[i] - want[i]) * (got[i] - want[i]);
            square += want[i] * want[i];
        }
        const double tolerance = gdn_check_default_tolerance(what, dtype);
        CHECK(sqrt(difference) <= tolerance * sqrt(square), "%s, head %lld: error %.1e", what,
              (long long)h, sqrt(difference / square));
    }
}

/* Cuts of one sequence: in the middle of chunks, at their ends, one token, no token. */
static void fold_back(const backend_case *b, case_gate gate) {
    static const int64_t cuts[] = {0, 90, 91, 91, 155, 283, 300};
    const int parts = sizeof(cuts) / sizeof(cuts[0]) - 1;
    const case_shape shape = {"segments", {300},   1,       .Hk = 2,
                              .Hv = 4,    .K = 24, .V = 40, .gate = gate};
    const case_run reference = {GDN_BACKEND_REFERENCE, GDN_DTYPE_FP64, 1, 0, LAYOUT_DENSE};
    case_data data;
    case_results whole;
    part part[MAX_PARTS];
    case_draw(&shape, 11, &data);
    case_compute(&data, reference, &whole);
    const gdn_problem *p = &data.problem;
    const int64_t state = (int64_t)p->Hv * p->K * p->V;
    double *S = malloc(sizeof(double) * (size_t)state),
           *next = malloc(sizeof(double) * (size_t)state);

    for (int i = 0; i < parts; ++i) {
        gdn_problem segment = *p;
        segment.T = cuts[i + 1] - cuts[i];
        part[i] = compute_part(b, &data, &segment, cuts[i], NULL, NULL, NULL);
    }
    memcpy(S, data.in[IN_STATE], sizeof(double) * (size_t)state);
    for (int i = 0; i < parts; ++i) {
        fold(p, &part[i], 0, S, part[i].N, next);
        memcpy(S, next, sizeof(double) * (size_t)state);
    }
    expect_heads("final_state", p, b->dtype, S, whole.out[OUT_STATE]);
    memcpy(S, data.in[IN_DHT], sizeof(double) * (size_t)state);
    for (int i = parts; i-- > 0;) {
        fold(p, &part[i], 1, S, part[i].n, next);
        memcpy(S, next, sizeof(double) * (size_t)state);
    }
    expect_heads("dh0", p, b->dtype, S, whole.out[OUT_DH0]);
    for (int i = 0; i < parts; ++i)
        free_part(&part[i]);

    /* Given its states, the segment's exits are those of the whole. */
    part[0] = compute_part(b, &data, p, 0, NULL, data.in[IN_STATE], data.in[IN_DHT]);
    expect_heads("final_state", p, b->dtype, part[0].N, whole.out[OUT_STATE]);
    expect_heads("dh0", p, b->dtype, part[0].n, whole.out[OUT_DH0]);
    free_part(&part[0]);
    free(S);
    free(next);
    case_results_free(&whole);
    case_free(&data);
}

/* Exit means the last sequence and entry the first; a last sequence without tokens passes on. */
static void packed(const backend_case *b, int last_is_empty) {
    const case_shape shape = {"packed",
                              {70, 5, last_is_empty ? 0 : 66},
                              3,
                              .padding = 4,
                              .Hk = 1,
                              .Hv = 2,
                              .K = 24,
                              .V = 40,
                              .gate = GATE_WEAK};
    const case_run reference = {GDN_BACKEND_REFERENCE, GDN_DTYPE_FP64, 1, 0, LAYOUT_DENSE};
    case_data data;
    case_results whole;
    case_draw(&shape, 12, &data);
    case_compute(&data, reference, &whole);
    const gdn_problem *p = &data.problem;
    const int64_t state = (int64_t)p->Hv * p->K * p->V;
    part x = compute_part(b, &data, p, 0, data.cu_seqlens, data.in[IN_STATE], data.in[IN_DHT]);
    expect_heads("final_state", p, b->dtype, x.N, whole.out[OUT_STATE] + 2 * state);
    expect_heads("dh0", p, b->dtype, x.n, whole.out[OUT_DH0]);
    for (int64_t h = 0; h < p->Hv; ++h) {
        double decay = 0, identity = 0;
        for (int64_t t = data.cu_seqlens[2]; t < data.cu_seqlens[3]; ++t)
            decay += data.in[IN_G][t * p->Hv + h];
        CHECK(fabs(x.log_decay[h] - decay) <= 1e-6 * fabs(decay), "log_decay[%lld] is %g not %g",
              (long long)h, x.log_decay[h], decay);
        for (int64_t i = 0; i < p->K * p->K; ++i)
            identity += fabs(x.M[h * p->K * p->K + i] - (i % (p->K + 1) == 0));
        CHECK((identity == 0) == last_is_empty, "|M - 1| is %g", identity);
    }
    free_part(&x);
    case_results_free(&whole);
    case_free(&data);
}

/* Keys longer than 1 may let a state grow: the bound knows; after the norm it does not matter. */
static void bound(const backend_case *b, uint32_t flags) {
    const case_shape shape = {"bound",       {50},          1,      .Hk = 1,
                              .Hv = 2,       .K = 8,        .V = 4, .gate = GATE_WEAK,
                              .raw_keys = 1, .flags = flags};
    case_data data;
    case_draw(&shape, 13, &data);
    const gdn_problem *p = &data.problem;
    part x = compute_part(b, &data, p, 0, NULL, NULL, NULL);
    for (int64_t h = 0; h < p->Hv; ++h) {
        double want = 0, decay = 0;
        for (int64_t t = 0; t < p->T; ++t) {
            double square = 0;
            for (int64_t i = 0; i < p->K; ++i)
                square += data.in[IN_K][t * p->K + i] * data.in[IN_K][t * p->K + i];
            if (flags & GDN_FLAG_L2NORM_QK)
                square /= square + 1e-6;
            decay += data.in[IN_G][t * p->Hv + h];
            want += data.in[IN_G][t * p->Hv + h] +
                    log(fmax(1, fabs(1 - data.in[IN_BETA][t * p->Hv + h] * square)));
        }
        CHECK(fabs(x.decay_bound[h] - want) <= 1e-5 * fabs(want), "decay_bound[%lld] is %g not %g",
              (long long)h, x.decay_bound[h], want);
        CHECK(flags ? want == decay : want > decay, "the keys of this case are too short");
    }
    free_part(&x);
    case_free(&data);
}

int main(int argc, char **argv) {
    for (size_t i = 0; i < sizeof(backends) / sizeof(backends[0]); ++i) {
        if (argc < 2 || strcmp(argv[1], backends[i].name))
            continue;
        fold_back(&backends[i], GATE_WEAK);
        fold_back(&backends[i], GATE_NONE);
        packed(&backends[i], 0);
        packed(&backends[i], 1);
        bound(&backends[i], 0);
        bound(&backends[i], GDN_FLAG_L2NORM_QK);
    }
    return harness_finish();
}
