/*
 * Gradients through the whole layer with its operator on the device in bf16, at every A: the layer
 * on the host in fp32, by hooks (device_operator.h), against the float64 layer.
 *
 * dA_log and ddt_bias are one number a head, a sum over all tokens in which most cancels: what is
 * left may be arbitrarily small, its rounding errors are not. So each head's error is measured
 * against the root mean square of the number over all heads with the same A, the size that the sum
 * has before chance makes it small.
 */
#include "device_operator.h"
#include "gdn_layer.h"
#include "gpu.h"
#include "part_test.h"

enum {
    TOKENS = 1100, /* in two sequences, of no whole chunks */
    WIDTH = 96,
    KEY_HEADS = 2,
    VALUE_HEADS = 8,
    DIM = 128,
    CHANNELS = 2 * KEY_HEADS * DIM + VALUE_HEADS * DIM,
    CONVOLUTION = 4
};

/* Relative L2: as the operator's (tests/gpu/stress.c), which q, k, v, rounded to bf16 on their way
 * to the device, and o on its way back are part of here. */
static const double ACTIVATIONS = 8e-3, GATES = 1.5e-2;

static const double A[] = {0.001, 0.01, 0.1, 1, 4, 16};
enum {
    ALONE = sizeof(A) / sizeof(A[0]), /* cases with one A for all heads */
    MIXED = ALONE                     /* the case in which head h has A[h % ALONE] */
};

typedef struct layer_case {
    gdn_layer layer;
    gdn_layer_tensors tensors;
    gdn_layer_weights weights, dweights;
    gdni_device *device;
    gdni_device_call call;
    void *memory[2]; /* workspace, saved */
} layer_case;

static gdn_status prepare(const gdn_context *context, layer_case *c) {
    gdn_sizes sizes = GDN_SIZES_INIT;
    const gdn_status status = gdn_layer_sizes(context, &c->layer, &sizes);
    c->tensors.workspace_size = sizes.forward_workspace > sizes.backward_workspace
                                    ? sizes.forward_workspace
                                    : sizes.backward_workspace;
    const size_t bytes[2] = {c->tensors.workspace_size, sizes.saved};
    for (int i = 0; i < 2; ++i)
        c->memory[i] = aligned_alloc(256, (bytes[i] + 255) / 256 * 256);
    c->tensors.workspace = c->memory[0];
    c->tensors.saved = c->memory[1];
    return status;
}

static gdn_status forward(const gdn_context *context, void *part) {
    layer_case *c = part;
    const int on_device = c->layer.dtype == GDN_DTYPE_FP32;
    c->tensors.weights = &c->weights;
    c->tensors.dweights = &c->dweights;
    c->tensors.hooks = on_device ? gdni_device_hooks(c->device, 0, 1, &c->call) : NULL;
    const gdn_status status = prepare(context, c);
    return status == GDN_STATUS_OK ? gdn_layer_forward(context, &c->layer, &c->tensors, NULL)
                                   : status;
}

static gdn_status backward(const gdn_context *context, void *part) {
    layer_case *c = part;
    const gdn_status status = gdn_layer_backward(context, &c->layer, &c->tensors, NULL);
    for (int i = 0; i < 2; ++i)
        free(c->memory[i]);
    return status;
}

#define TENSOR(member) #member, offsetof(layer_case, tensors.member)
#define WEIGHT(member, rows, width)                                                                \
    {#member, offsetof(layer_case, weights.member), PART_INPUT, NULL, rows, width, 0, 0}, {        \
        "d" #member, offsetof(layer_case, dweights.member), PART_PARAM_GRADIENT, #member, rows,    \
            width, 0, (rows) == VALUE_HEADS                                                        \
    }

static part_test describe(layer_case *c) {
    const int64_t values = VALUE_HEADS * DIM;
    const part_test test = {"layer",
                            c,
                            offsetof(layer_case, layer.dtype),
                            -1,
                            forward,
                            backward,
                            1,
                            0,
                            0,
                            22,
                            {{TENSOR(x), PART_INPUT, NULL, TOKENS, WIDTH, 0, 0},
                             {TENSOR(out), PART_OUTPUT, NULL, TOKENS, WIDTH, 0, 0},
                             {TENSOR(dout), PART_COTANGENT, "out", TOKENS, WIDTH, 0, 0},
                             {TENSOR(dx), PART_GRADIENT, "x", TOKENS, WIDTH, 0, 0},
                             WEIGHT(in_proj_qkv, CHANNELS, WIDTH),
                             WEIGHT(in_proj_z, values, WIDTH),
                             WEIGHT(in_proj_b, VALUE_HEADS, WIDTH),
                             WEIGHT(in_proj_a, VALUE_HEADS, WIDTH),
                             WEIGHT(conv1d, CHANNELS, CONVOLUTION),
                             WEIGHT(A_log, VALUE_HEADS, 1),
                             WEIGHT(dt_bias, VALUE_HEADS, 1),
                             WEIGHT(norm, 1, DIM),
                             WEIGHT(out_proj, WIDTH, values)}};
    return test;
}

/* Random inputs, weights such that every activation is of size 1. */
static part_run inputs(const part_test *test, int which) {
    part_run in = part_inputs(test, 17);
    for (int i = 0; i < test->fields; ++i) {
        const part_field *f = &test->field[i];
        const int projection = f->role == PART_INPUT && strcmp(f->name, "x") && f->width > 1;
        const double size = projection ? 1 / sqrt((double)f->width) : 1;
        for (int64_t j = 0; j < part_count(f); ++j) {
            double value = in.value[i][j] * size;
            if (!strcmp(f->name, "norm"))
                value = 1 + 0.1 * value;
            if (!strcmp(f->name, "A_log"))
                value = log(A[which == MIXED ? j % ALONE : which]);
            in.value[i][j] = (float)value;
        }
    }
    return in;
}

/* The worst head of dA_log or ddt_bias; size [ALONE] is set by the cases of one A. */
static double gate_error(const double *got, const double *want, int which, double *size) {
    double sum = 0, worst = 0;
    for (int h = 0; h < VALUE_HEADS; ++h)
        sum += want[h] * want[h];
    if (which != MIXED)
        size[which] = sqrt(sum / VALUE_HEADS);
    for (int h = 0; h < VALUE_HEADS; ++h) {
        const double error = fabs(got[h] - want[h]) / size[which == MIXED ? h % ALONE : which];
        if (!(error <= worst))
            worst = error;
    }
    return worst;
}

static void compare(const part_test *test, int which, const part_run *got, const part_run *want) {
    static double size[PART_MAX_FIELDS][ALONE];
    char name[32] = "mixed";
    if (which != MIXED)
        snprintf(name, sizeof(name), "A%g", A[which]);
    printf("%-8s", name);
    for (int i = 0; i < test->fields; ++i) {
        const part_field *f = &test->field[i];
        if (f->role == PART_INPUT || f->role == PART_COTANGENT)
            continue;
        const double limit = f->per_row ? GATES : ACTIVATIONS;
        const double error = f->per_row && f->width == 1
                                 ? gate_error(got->value[i], want->value[i], which, size[i])
                                 : part_field_error(f, got->value[i], want->value[i]);
        printf(" %s %.1e", f->name, error);
        CHECK(error <= limit, "%s: %s is off by %.2e, expected at most %.1e", name, f->name, error,
              limit);
    }
    printf("\n");
}

static layer_case make_case(void) {
    layer_case c = {.layer = GDN_LAYER_INIT,
                    .tensors = GDN_LAYER_TENSORS_INIT,
                    .weights = GDN_LAYER_WEIGHTS_INIT,
                    .dweights = GDN_LAYER_WEIGHTS_INIT};
    c.layer.T = TOKENS;
    c.layer.N = 2;
    c.layer.D = WIDTH;
    c.layer.Hk = KEY_HEADS;
    c.layer.Hv = VALUE_HEADS;
    c.layer.K = c.layer.V = DIM;
    c.layer.conv_width = CONVOLUTION;
    return c;
}

int main(void) {
    gdn_context *cuda = gpu_context();
    if (!cuda)
        return 77;
    layer_case c = make_case();
    const part_test test = describe(&c);
    const gdni_device_setup setup = {cuda, GDN_DTYPE_BF16, 0};
    GDN(gdni_device_create(&c.device, &setup, &c.layer, 1));
    for (int which = 0; which <= MIXED; ++which) {
        part_run in = inputs(&test, which);
        part_run want = part_execute(&test, GDN_DTYPE_FP64, 1, 0, 1, &in);
        part_run got = part_execute(&test, GDN_DTYPE_FP32, 2, 0, 1, &in);
        compare(&test, which, &got, &want);
        part_free(&in);
        part_free(&want);
        part_free(&got);
    }
    gdni_device_destroy(c.device);
    gdn_context_destroy(cuda);
    return harness_finish();
}
