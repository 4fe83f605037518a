/*
 * What a reference owes to its inputs' shape: packed sequences equal sequences alone, strides and
 * padding change nothing, SAVE flags ask for nothing.
 */
#include "operator_case.h"

static const case_run reference = {GDN_BACKEND_REFERENCE, GDN_DTYPE_FP64, 1, 0, LAYOUT_DENSE};

/* Sequence n of data as a case of its own. */
static void cut(const case_data *data, int n, case_data *alone) {
    const int64_t start = data->cu_seqlens[n], length = data->cu_seqlens[n + 1] - start;
    memset(alone, 0, sizeof(*alone));
    alone->problem = data->problem;
    alone->problem.T = length;
    alone->problem.N = 1;
    alone->cu_seqlens[1] = length;
    for (int i = 0; i < INPUTS; ++i) {
        const case_dims d = case_input_dims(&alone->problem, i);
        const int64_t row = d.heads * d.dim;
        const int64_t from = i == IN_STATE || i == IN_DHT ? n : start;
        alone->in[i] = malloc(sizeof(double) * (size_t)(case_count(d) + 1));
        memcpy(alone->in[i], data->in[i] + from * row, sizeof(double) * (size_t)case_count(d));
    }
}

static void packed(void) {
    static const case_shape shape = {
        "packed", {0, 5, 130, 0, 1, 64}, 6, .padding = 7, .Hk = 2, .Hv = 4, .K = 7,
        .V = 5,   .gate = GATE_MIXED};
    case_data data;
    case_results whole;
    case_draw(&shape, 5, &data);
    case_compute(&data, reference, &whole);
    for (int n = 0; n < shape.sequences; ++n) {
        case_data alone;
        case_results part;
        cut(&data, n, &alone);
        case_compute(&alone, reference, &part);
        for (int i = 0; i < OUTPUTS; ++i) {
            const case_dims d = case_output_dims(&alone.problem, i);
            const int64_t from = i == OUT_STATE || i == OUT_DH0 ? n : data.cu_seqlens[n];
            CHECK(!memcmp(part.out[i], whole.out[i] + from * d.heads * d.dim,
                          sizeof(double) * (size_t)case_count(d)),
                  "sequence %d: %s differs from the sequence alone", n, case_output_names[i]);
        }
        case_results_free(&part);
        case_free(&alone);
    }
    /* Exact zeros in the padding; a sequence without tokens hands its states through. */
    case_compare("packed", &data, GDN_DTYPE_FP64, &whole, &whole);
    for (int i = 0; i < 4 * 7 * 5; ++i) {
        CHECK(whole.out[OUT_STATE][i] == data.in[IN_STATE][i], "final_state[%d]", i);
        CHECK(whole.out[OUT_DH0][i] == data.in[IN_DHT][i], "dh0[%d]", i);
    }
    case_results_free(&whole);
    case_free(&data);
}

static void layouts(void) {
    static const case_shape shape = {"layouts",        {20, 20, 20}, 3,      .Hk = 2,
                                     .Hv = 4,          .K = 7,       .V = 5, .equal_lengths = 1,
                                     .gate = GATE_WEAK};
    const case_run other[] = {
        {GDN_BACKEND_REFERENCE, GDN_DTYPE_FP64, 1, 0, LAYOUT_GAPS},
        {GDN_BACKEND_REFERENCE, GDN_DTYPE_FP64, 1, 0, LAYOUT_HEADS},
        {GDN_BACKEND_REFERENCE, GDN_DTYPE_FP64, 3, GDN_FLAG_SAVE_STATES | GDN_FLAG_SAVE_INVERSE,
         LAYOUT_DENSE},
        {GDN_BACKEND_REFERENCE, GDN_DTYPE_FP64, 1, GDN_FLAG_CHECKED | GDN_FLAG_EXACT, LAYOUT_DENSE},
    };
    case_data data;
    case_results dense, again;
    case_draw(&shape, 6, &data);
    case_compute(&data, reference, &dense);
    for (size_t i = 0; i < sizeof(other) / sizeof(other[0]); ++i) {
        case_compute(&data, other[i], &again);
        case_same("layouts", &data, &again, &dense);
        case_results_free(&again);
    }
    data.equal_lengths = 0; /* the same sequences by cu_seqlens */
    case_compute(&data, reference, &again);
    case_same("cu_seqlens", &data, &again, &dense);
    case_results_free(&again);
    case_results_free(&dense);
    case_free(&data);
}

int main(void) {
    packed();
    layouts();
    return harness_finish();
}
