/*
 * The CPU backend against the float64 recurrence: forward and backward, per head. The argument
 * names the group of cases.
 */
#include "operator_case.h"

#include <omp.h>

enum {
    MAX_CASES = 16
};

typedef struct case_group {
    const char *name;
    case_shape shape[MAX_CASES]; /* up to the first without a name */
    gdn_dtype dtype;
    case_layout layout;
    int same_bits; /* also with other thread counts, and with every SAVE flag */
} case_group;

#define HEADS(k_heads, v_heads) .Hk = (k_heads), .Hv = (v_heads)
#define DIMS(k_dim, v_dim) .K = (k_dim), .V = (v_dim)
#define ONE(tokens) .length = {tokens}, .sequences = 1
#define SMALL HEADS(1, 2), DIMS(32, 48)

/* Lengths with everything that packing can meet: empty at both ends, single tokens, chunks. */
#define PACKED .length = {0, 5, 64, 0, 129, 1, 70, 0}, .sequences = 8

static const case_group groups[] = {
    {.name = "lengths",
     .shape = {{"T=1", ONE(1), SMALL},
               {"T=2", ONE(2), SMALL},
               {"T=63", ONE(63), SMALL},
               {"T=64", ONE(64), SMALL},
               {"T=65", ONE(65), SMALL},
               {"T=97", ONE(97), SMALL},
               {"T=128", ONE(128), SMALL},
               {"T=129", ONE(129), SMALL},
               {"T=257", ONE(257), SMALL},
               {"T=1009", ONE(1009), SMALL},
               {"T=640, no gate", ONE(640), HEADS(1, 1), DIMS(128, 128)}}},
    {.name = "gva",
     .shape = {{"2/2", ONE(100), HEADS(2, 2), DIMS(32, 48)},
               {"2/4", ONE(100), HEADS(2, 4), DIMS(32, 48), .gate = GATE_MIXED},
               {"1/3", ONE(100), HEADS(1, 3), DIMS(32, 48), .gate = GATE_MIXED},
               {"3/12", ONE(100), HEADS(3, 12), DIMS(32, 48), .gate = GATE_MIXED},
               {"1/4", ONE(257), HEADS(1, 4), DIMS(128, 128), .gate = GATE_MIXED}}},
    {.name = "dims",
     .shape = {{"1, 1", ONE(70), HEADS(1, 2), DIMS(1, 1), .gate = GATE_WEAK},
               {"1, 16", ONE(70), HEADS(1, 2), DIMS(1, 16), .gate = GATE_WEAK},
               {"7, 1", ONE(70), HEADS(1, 2), DIMS(7, 1), .gate = GATE_WEAK},
               {"7, 7", ONE(70), HEADS(1, 2), DIMS(7, 7), .gate = GATE_WEAK},
               {"16, 96", ONE(70), HEADS(1, 2), DIMS(16, 96), .gate = GATE_WEAK},
               {"96, 160", ONE(70), HEADS(1, 2), DIMS(96, 160), .gate = GATE_WEAK},
               {"160, 128", ONE(70), HEADS(1, 2), DIMS(160, 128), .gate = GATE_WEAK},
               {"128, 256", ONE(70), HEADS(1, 2), DIMS(128, 256), .gate = GATE_WEAK},
               {"256, 7", ONE(70), HEADS(1, 2), DIMS(256, 7), .gate = GATE_WEAK},
               {"256, 256", ONE(70), HEADS(1, 2), DIMS(256, 256), .gate = GATE_WEAK}}},
    {.name = "gates",
     .shape = {{"none", ONE(200), HEADS(2, 4), DIMS(32, 48), .gate = GATE_NONE},
               {"weak", ONE(200), HEADS(2, 4), DIMS(32, 48), .gate = GATE_WEAK},
               {"mixed", ONE(200), HEADS(2, 4), DIMS(32, 48), .gate = GATE_MIXED},
               {"strong", ONE(200), HEADS(2, 4), DIMS(32, 48), .gate = GATE_STRONG},
               {"saturating", ONE(200), HEADS(2, 4), DIMS(32, 48), .gate = GATE_SATURATING}}},
    {.name = "keys",
     .shape = {{"correlated", ONE(192), SMALL, .correlated_keys = 1},
               {"correlated, weak gate", ONE(192), HEADS(1, 2), DIMS(128, 128), .gate = GATE_WEAK,
                .correlated_keys = 1},
               {"correlated, beta at the edges", ONE(192), SMALL, .gate = GATE_WEAK,
                .correlated_keys = 1, .beta_edges = 1}}},
    {.name = "beta",
     .shape = {{"edges, no gate", ONE(130), SMALL, .beta_edges = 1},
               {"edges, mixed gates", ONE(130), SMALL, .gate = GATE_MIXED, .beta_edges = 1},
               {"edges, saturating", ONE(130), SMALL, .gate = GATE_SATURATING, .beta_edges = 1}}},
    {.name = "packed",
     .shape = {{"every length", PACKED, HEADS(2, 4), DIMS(32, 48), .gate = GATE_MIXED},
               {"many short",
                .length = {1, 2, 3, 1, 1, 4, 9, 1, 2, 2, 7, 1, 1, 3, 5, 1, 1, 1, 6, 2,
                           1, 8, 1, 3, 2, 1, 1, 1, 4, 1, 2, 2, 3, 1, 1, 5, 1, 1, 2, 1},
                .sequences = 40, SMALL, .gate = GATE_WEAK},
               {"no initial states", PACKED, SMALL, .gate = GATE_WEAK, .no_states = 1},
               {"all empty", .length = {0, 0, 0}, .sequences = 3, SMALL},
               {"equal lengths", .length = {75, 75, 75}, .sequences = 3, SMALL, .equal_lengths = 1,
                .gate = GATE_WEAK}}},
    {.name = "padding",
     .shape = {{"one sequence", ONE(33), .padding = 40, SMALL, .gate = GATE_WEAK},
               {"packed", .length = {33, 0, 100}, .sequences = 3, .padding = 27, SMALL,
                .gate = GATE_MIXED},
               {"padding alone", ONE(0), .padding = 70, SMALL}}},
    {.name = "strides.gaps",
     .layout = LAYOUT_GAPS,
     .shape = {{"packed", PACKED, .padding = 9, HEADS(2, 4), DIMS(32, 48), .gate = GATE_WEAK}}},
    {.name = "strides.heads",
     .layout = LAYOUT_HEADS,
     .shape = {{"packed", PACKED, .padding = 9, HEADS(2, 4), DIMS(32, 48), .gate = GATE_WEAK}}},
    {.name = "strides.bf16",
     .layout = LAYOUT_GAPS,
     .dtype = GDN_DTYPE_BF16,
     .shape = {{"packed", PACKED, .padding = 9, HEADS(2, 4), DIMS(32, 48), .gate = GATE_WEAK}}},
    {.name = "bf16",
     .dtype = GDN_DTYPE_BF16,
     .shape = {{"mixed gates", ONE(257), HEADS(1, 4), DIMS(128, 128), .gate = GATE_MIXED},
               {"no gate", ONE(300), SMALL},
               {"correlated keys", ONE(192), SMALL, .gate = GATE_WEAK, .correlated_keys = 1},
               {"packed", PACKED, .padding = 20, HEADS(2, 4), DIMS(7, 96), .gate = GATE_WEAK}}},
    {.name = "fp16",
     .dtype = GDN_DTYPE_FP16,
     .shape = {{"mixed gates", ONE(130), HEADS(1, 4), DIMS(64, 64), .gate = GATE_MIXED},
               {"packed", PACKED, .padding = 20, HEADS(2, 4), DIMS(7, 96), .gate = GATE_WEAK}}},
    {.name = "l2norm",
     .shape = {{"long q and k", PACKED, HEADS(2, 4), DIMS(32, 48), .gate = GATE_WEAK, .raw_keys = 1,
                .flags = GDN_FLAG_L2NORM_QK},
               {"unit q and k", ONE(130), SMALL, .gate = GATE_MIXED, .flags = GDN_FLAG_L2NORM_QK}}},
    {.name = "l2norm.bf16",
     .dtype = GDN_DTYPE_BF16,
     .shape = {{"long q and k", PACKED, HEADS(2, 4), DIMS(32, 48), .gate = GATE_WEAK, .raw_keys = 1,
                .flags = GDN_FLAG_L2NORM_QK}}},
    {.name = "scale",
     .shape = {{"0.3", ONE(100), SMALL, .gate = GATE_WEAK, .scale = 0.3},
               {"-2", ONE(100), SMALL, .gate = GATE_WEAK, .scale = -2}}},
    {.name = "saved",
     .same_bits = 1,
     .shape = {{"packed", PACKED, .padding = 9, HEADS(2, 4), DIMS(96, 160), .gate = GATE_MIXED},
               {"long", ONE(1000), HEADS(1, 2), DIMS(32, 48), .gate = GATE_WEAK}}},
    {.name = "saved.bf16",
     .dtype = GDN_DTYPE_BF16,
     .same_bits = 1,
     .shape = {{"l2norm", PACKED, .padding = 9, HEADS(2, 4), DIMS(32, 48), .gate = GATE_MIXED,
                .flags = GDN_FLAG_L2NORM_QK}}},
};

/* The same bits from any number of threads, from a second call, with any SAVE flags. */
static void compare_bits(const char *name, const case_data *data, case_run run,
                         const case_results *first) {
    static const uint32_t flags[] = {0, GDN_FLAG_SAVE_STATES, GDN_FLAG_SAVE_INVERSE,
                                     GDN_FLAG_SAVE_STATES | GDN_FLAG_SAVE_INVERSE};
    for (int32_t threads = 1; threads <= 5; threads += 2)
        for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); ++i) {
            case_results again;
            char label[128];
            snprintf(label, sizeof(label), "%s, %d threads, flags 0x%x", name, threads, flags[i]);
            run.threads = threads;
            run.flags = flags[i];
            case_compute(data, run, &again);
            case_same(label, data, &again, first);
            case_results_free(&again);
        }
}

/* bf16 and fp16 are storage: what fp32 gives for the same inputs, rounded once, to nearest even. */
static void compare_storage(const char *name, const case_data *data, case_run run,
                            const case_results *got) {
    case_results exact;
    const gdn_dtype dtype = run.dtype;
    run.dtype = GDN_DTYPE_FP32;
    case_compute(data, run, &exact);
    for (int i = 0; i < OUTPUTS; ++i) {
        const int stored = i == OUT_O || i == OUT_DQ || i == OUT_DK || i == OUT_DV;
        for (int64_t j = 0; stored && j < case_count(case_output_dims(&data->problem, i)); ++j)
            exact.out[i][j] = case_round(dtype, exact.out[i][j]);
    }
    case_same(name, data, got, &exact);
    case_results_free(&exact);
}

static void run_case(const case_group *group, const case_shape *shape) {
    case_data data;
    case_results want, got;
    const case_run reference = {GDN_BACKEND_REFERENCE, GDN_DTYPE_FP64, 1, 0, LAYOUT_DENSE};
    const case_run run = {GDN_BACKEND_CPU, group->dtype, 2, 0, group->layout};
    const int threads = omp_get_max_threads();
    case_draw(shape, 7, &data);
    case_compute(&data, reference, &want);
    case_compute(&data, run, &got);
    CHECK(omp_get_max_threads() == threads, "%s: the caller's OpenMP threads changed", shape->name);
    case_compare(shape->name, &data, group->dtype, &got, &want);
    if (group->dtype != GDN_DTYPE_FP32)
        compare_storage(shape->name, &data, run, &got);
    if (group->same_bits)
        compare_bits(shape->name, &data, run, &got);
    case_results_free(&got);
    case_results_free(&want);
    case_free(&data);
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "";
    for (size_t g = 0; g < sizeof(groups) / sizeof(groups[0]); ++g)
        for (int i = 0; !strcmp(groups[g].name, name) && i < MAX_CASES && groups[g].shape[i].name;
             ++i)
            run_case(&groups[g], &groups[g].shape[i]);
    return harness_finish();
}
