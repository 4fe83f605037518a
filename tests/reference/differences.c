/*
 * The reference's backward against central differences of its forward, element by element: L =
 * <o, do> + <final_state, dht>.
 */
#include "operator_case.h"

static const case_shape shapes[] = {
    {"one token", {1}, 1, .Hk = 1, .Hv = 2, .K = 3, .V = 2, .gate = GATE_WEAK},
    {"grouped heads", {9}, 1, .Hk = 2, .Hv = 6, .K = 4, .V = 3, .gate = GATE_WEAK},
    {"packed, padded", {3, 0, 5}, 3, .padding = 2, .Hk = 1, .Hv = 2, .K = 3, .V = 4},
    {"no states", {7}, 1, .Hk = 1, .Hv = 1, .K = 4, .V = 4, .no_states = 1, .gate = GATE_WEAK},
    {"norm, scale",
     {6},
     1,
     .Hk = 1,
     .Hv = 2,
     .K = 4,
     .V = 3,
     .raw_keys = 1,
     .flags = GDN_FLAG_L2NORM_QK,
     .scale = -0.7,
     .gate = GATE_WEAK},
    {"beyond a block of states", {70}, 1, .Hk = 1, .Hv = 1, .K = 2, .V = 2, .gate = GATE_WEAK},
};

static const case_run reference = {GDN_BACKEND_REFERENCE, GDN_DTYPE_FP64, 1, 0, LAYOUT_DENSE};

static double loss(const gdn_context *context, const case_data *data, gdn_tensors *x) {
    const gdn_problem *p = &data->problem;
    const double *o = x->o, *state = x->final_state;
    double sum = 0;
    CHECK(gdn_forward(context, p, x, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    for (int64_t i = 0; i < case_count(case_input_dims(p, IN_DO)); ++i)
        sum += o[i] * data->in[IN_DO][i];
    for (int64_t i = 0; data->in[IN_DHT] && i < case_count(case_input_dims(p, IN_DHT)); ++i)
        sum += state[i] * data->in[IN_DHT][i];
    return sum;
}

static void check_shape(const case_shape *shape) {
    static const int input_of[OUTPUTS] = {-1, -1, IN_Q, IN_K, IN_V, IN_G, IN_BETA, IN_STATE};
    static const double step = 1e-5;
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context;
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_tensors x = GDN_TENSORS_INIT;
    case_data data;
    case_results results;

    config.backend = GDN_BACKEND_REFERENCE;
    CHECK(gdn_context_create(&context, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    case_draw(shape, 3, &data);
    case_compute(&data, reference, &results);
    CHECK(gdn_problem_sizes(context, &data.problem, &sizes) == GDN_STATUS_OK, "%s",
          gdn_last_error());
    x.workspace_size = sizes.forward_workspace;
    x.workspace = guarded_alloc(x.workspace_size);
    x.q = data.in[IN_Q], x.k = data.in[IN_K], x.v = data.in[IN_V];
    x.g = data.in[IN_G], x.beta = data.in[IN_BETA];
    x.cu_seqlens = data.cu_seqlens;
    x.initial_state = data.in[IN_STATE];
    x.o =
        guarded_alloc(sizeof(double) * (size_t)case_count(case_output_dims(&data.problem, OUT_O)));
    x.final_state = guarded_alloc(sizeof(double) *
                                  (size_t)case_count(case_output_dims(&data.problem, OUT_STATE)));

    for (int i = OUT_DQ; i < OUTPUTS; ++i) {
        double *input = data.in[input_of[i]], worst = 0, largest = 0;
        for (int64_t j = 0; input && j < case_count(case_output_dims(&data.problem, i)); ++j) {
            const double value = input[j];
            input[j] = value + step;
            const double above = loss(context, &data, &x);
            input[j] = value - step;
            const double below = loss(context, &data, &x);
            input[j] = value;
            const double difference = (above - below) / (2 * step);
            worst = fmax(worst, fabs(results.out[i][j] - difference));
            largest = fmax(largest, fabs(difference));
        }
        CHECK(!input || (largest > 0 && worst <= 1e-7 * largest),
              "%s: %s: off by %.1e where the largest is %.1e", shape->name, case_output_names[i],
              worst, largest);
    }
    CHECK(guarded_free(x.workspace) && guarded_free(x.o) && guarded_free(x.final_state),
          "%s: memory around a tensor was written", shape->name);
    case_results_free(&results);
    case_free(&data);
    gdn_context_destroy(context);
}

int main(void) {
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); ++i)
        check_shape(&shapes[i]);
    return harness_finish();
}
