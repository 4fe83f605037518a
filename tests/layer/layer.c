/* The whole layer: gradients of every weight, states, packed and padded sequences. */
#include "gdn_layer.h"
#include "part_test.h"

/* What the table of tensors points into. */
typedef struct layer_case {
    gdn_layer layer;
    gdn_layer_tensors tensors;
    gdn_layer_weights weights, dweights;
    char *saved, *workspace; /* with canaries */
} layer_case;

/* bytes of NaN, at a multiple of 256, between canaries; replaces *memory. */
static void *guarded(char **memory, size_t bytes) {
    free(*memory);
    *memory = aligned_alloc(256, (bytes + 255) / 256 * 256 + 512);
    memset(*memory, 0xA5, bytes + 512);
    memset(*memory + 256, 0xFF, bytes);
    return *memory + 256;
}

static int intact(const char *memory, size_t bytes) {
    for (int i = 0; i < 256; ++i)
        if ((unsigned char)memory[i] != 0xA5 || (unsigned char)memory[256 + bytes + i] != 0xA5)
            return 0;
    return 1;
}

static gdn_sizes sizes_of(const gdn_context *context, const gdn_layer *layer) {
    gdn_sizes sizes = GDN_SIZES_INIT;
    CHECK(gdn_layer_supported(context, layer) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_layer_sizes(context, layer, &sizes) == GDN_STATUS_OK, "%s", gdn_last_error());
    return sizes;
}

static gdn_status forward(const gdn_context *context, void *part) {
    layer_case *c = part;
    const gdn_sizes sizes = sizes_of(context, &c->layer);
    c->tensors.weights = &c->weights;
    c->tensors.saved = guarded(&c->saved, sizes.saved);
    c->tensors.workspace = guarded(&c->workspace, sizes.forward_workspace);
    c->tensors.workspace_size = sizes.forward_workspace;
    const gdn_status status = gdn_layer_forward(context, &c->layer, &c->tensors, NULL);
    CHECK(intact(c->saved, sizes.saved), "wrote outside of saved");
    CHECK(intact(c->workspace, sizes.forward_workspace), "wrote outside of the workspace");
    return status;
}

static gdn_status backward(const gdn_context *context, void *part) {
    layer_case *c = part;
    const gdn_sizes sizes = sizes_of(context, &c->layer);
    c->tensors.dweights = &c->dweights;
    c->tensors.workspace = guarded(&c->workspace, sizes.backward_workspace);
    c->tensors.workspace_size = sizes.backward_workspace;
    const gdn_status status = gdn_layer_backward(context, &c->layer, &c->tensors, NULL);
    CHECK(intact(c->saved, sizes.saved), "wrote outside of saved");
    CHECK(intact(c->workspace, sizes.backward_workspace), "wrote outside of the workspace");
    return status;
}

#define TENSOR(member) #member, offsetof(layer_case, tensors.member)
#define WEIGHT(member) #member, offsetof(layer_case, weights.member), PART_INPUT, NULL
#define DWEIGHT(member)                                                                            \
    "d" #member, offsetof(layer_case, dweights.member), PART_PARAM_GRADIENT, #member

/* The table for a layer; dht, dh0 and the states only where `states`. */
static part_test describe(const char *name, layer_case *c, int states) {
    const gdn_layer *l = &c->layer;
    const int64_t T = l->T, D = l->D, Hv = l->Hv, HvV = (int64_t)l->Hv * l->V;
    const int64_t C = 2 * (int64_t)l->Hk * l->K + HvV, W = l->conv_width;
    const int64_t S = Hv * l->K * l->V;
    part_test test = {name,
                      c,
                      offsetof(layer_case, layer.dtype),
                      offsetof(layer_case, layer.flags), /* GDN_LAYER_ACCUMULATE is 1 */
                      forward,
                      backward,
                      1,
                      1e-7,
                      2e-5,
                      22,
                      {{TENSOR(x), PART_INPUT, NULL, T, D, 0, 0},
                       {WEIGHT(in_proj_qkv), C, D, 0, 0},
                       {WEIGHT(in_proj_z), HvV, D, 0, 0},
                       {WEIGHT(in_proj_b), Hv, D, 0, 0},
                       {WEIGHT(in_proj_a), Hv, D, 0, 0},
                       {WEIGHT(conv1d), C, W, 0, 0},
                       {WEIGHT(A_log), Hv, 1, 0, 0},
                       {WEIGHT(dt_bias), Hv, 1, 0, 0},
                       {WEIGHT(norm), 1, l->V, 0, 0},
                       {WEIGHT(out_proj), D, HvV, 0, 0},
                       {TENSOR(out), PART_OUTPUT, NULL, T, D, 0, 0},
                       {TENSOR(dout), PART_COTANGENT, "out", T, D, 0, 0},
                       {TENSOR(dx), PART_GRADIENT, "x", T, D, 0, 0},
                       {DWEIGHT(in_proj_qkv), C, D, 0, 0},
                       {DWEIGHT(in_proj_z), HvV, D, 0, 0},
                       {DWEIGHT(in_proj_b), Hv, D, 0, 1},
                       {DWEIGHT(in_proj_a), Hv, D, 0, 1},
                       {DWEIGHT(conv1d), C, W, 0, 0},
                       {DWEIGHT(A_log), Hv, 1, 0, 1},
                       {DWEIGHT(dt_bias), Hv, 1, 0, 1},
                       {DWEIGHT(norm), 1, l->V, 0, 0},
                       {DWEIGHT(out_proj), D, HvV, 0, 0}}};
    const part_field with_states[] = {{TENSOR(initial_state), PART_INPUT, NULL, l->N, S, 0, 0},
                                      {TENSOR(final_state), PART_OUTPUT, NULL, l->N, S, 0, 0},
                                      {TENSOR(dht), PART_COTANGENT, "final_state", l->N, S, 0, 0},
                                      {TENSOR(dh0), PART_GRADIENT, "initial_state", l->N, S, 0, 0}};
    if (states) {
        memcpy(test.field + test.fields, with_states, sizeof(with_states));
        test.fields += 4;
    }
    return test;
}

static gdn_layer shape(int64_t T, int64_t N, int32_t D, int32_t Hk, int32_t Hv, int32_t K,
                       int32_t V, int32_t width) {
    gdn_layer l = GDN_LAYER_INIT;
    l.T = T;
    l.N = N;
    l.D = D;
    l.Hk = Hk;
    l.Hv = Hv;
    l.K = K;
    l.V = V;
    l.conv_width = width;
    return l;
}

static layer_case make_case(gdn_layer layer, const int64_t *cu_seqlens) {
    layer_case c = {.layer = layer,
                    .tensors = GDN_LAYER_TENSORS_INIT,
                    .weights = GDN_LAYER_WEIGHTS_INIT,
                    .dweights = GDN_LAYER_WEIGHTS_INIT};
    c.tensors.cu_seqlens = cu_seqlens;
    return c;
}

static void check(const char *name, gdn_layer layer, const int64_t *cu_seqlens, int states) {
    layer_case c = make_case(layer, cu_seqlens);
    const part_test test = describe(name, &c, states);
    part_check(&test, 23);
    free(c.saved);
    free(c.workspace);
}

/* Saved states change the time, not the result; without `saved` forward gives the same bits. */
static void test_modes(gdn_dtype dtype) {
    layer_case c = make_case(shape(150, 1, 12, 1, 2, 16, 8, 4), NULL);
    part_test test = describe("modes", &c, 1);
    part_run in = part_inputs(&test, 29);
    part_run base = part_execute(&test, dtype, 1, 0, 1, &in);
    part_run saved = part_execute(&test, dtype, 1, GDN_LAYER_SAVE_STATES, 1, &in);
    part_run inverse =
        part_execute(&test, dtype, 1, GDN_LAYER_SAVE_STATES | GDN_LAYER_SAVE_INVERSE, 1, &in);
    part_run exact = part_execute(&test, dtype, 1, GDN_LAYER_EXACT, 1, &in);
    const double tolerance = dtype == GDN_DTYPE_FP64 ? 1e-14 : 2e-6;
    for (int i = 0; i < test.fields; ++i) {
        const double a = part_field_error(&test.field[i], saved.value[i], base.value[i]);
        const double b = part_field_error(&test.field[i], exact.value[i], base.value[i]);
        const double both = part_field_error(&test.field[i], inverse.value[i], base.value[i]);
        CHECK(a <= tolerance, "%s: SAVE_STATES: %.2e", test.field[i].name, a);
        CHECK(b <= tolerance, "%s: EXACT: %.2e", test.field[i].name, b);
        CHECK(both <= tolerance, "%s: SAVE_INVERSE: %.2e", test.field[i].name, both);
    }
    part_free(&saved);
    part_free(&inverse);
    part_free(&exact);

    gdn_context *context;
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    config.backend = dtype == GDN_DTYPE_FP64 ? GDN_BACKEND_REFERENCE : GDN_BACKEND_CPU;
    config.threads = 1;
    CHECK(gdn_context_create(&context, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    void *data[PART_MAX_FIELDS];
    for (int i = 0; i < test.fields; ++i) {
        const int64_t count = part_count(&test.field[i]);
        data[i] = malloc((count + 1) * gdn_dtype_size(dtype));
        for (int64_t j = 0; j < count; ++j)
            part_set(dtype, data[i], j, in.value[i][j]);
        memcpy((char *)&c + test.field[i].offset, &data[i], sizeof(data[i]));
    }
    const gdn_sizes sizes = sizes_of(context, &c.layer);
    c.tensors.saved = NULL;
    c.tensors.workspace = guarded(&c.workspace, sizes.forward_workspace);
    c.tensors.workspace_size = sizes.forward_workspace;
    CHECK(gdn_layer_forward(context, &c.layer, &c.tensors, NULL) == GDN_STATUS_OK, "%s",
          gdn_last_error());
    CHECK(intact(c.workspace, sizes.forward_workspace), "wrote outside of the workspace");
    int64_t other = 0;
    const int out = part_find(&test, "out");
    for (int64_t j = 0; j < part_count(&test.field[out]); ++j)
        other += part_get(dtype, data[out], j) != base.value[out][j];
    CHECK(!other, "%lld values of out differ without saved", (long long)other);
    for (int i = 0; i < test.fields; ++i)
        free(data[i]);
    gdn_context_destroy(context);
    part_free(&base);
    part_free(&in);
    free(c.saved);
    free(c.workspace);
}

/* Whatever x holds behind the last sequence, it reaches nothing. */
static void test_padding(void) {
    const int64_t cu_seqlens[] = {0, 3, 7};
    layer_case c = make_case(shape(10, 2, 5, 1, 2, 4, 3, 4), cu_seqlens);
    const part_test test = describe("padding", &c, 1);
    part_run in = part_inputs(&test, 31);
    part_run base = part_execute(&test, GDN_DTYPE_FP32, 1, 0, 1, &in);
    const int x = part_find(&test, "x"), dout = part_find(&test, "dout");
    for (int j = 7 * 5; j < 10 * 5; ++j)
        in.value[x][j] = in.value[dout][j] = 1e30;
    part_run other = part_execute(&test, GDN_DTYPE_FP32, 1, 0, 1, &in);
    for (int i = 0; i < test.fields; ++i)
        if (i != x && i != dout)
            CHECK(
                !memcmp(base.value[i], other.value[i], part_count(&test.field[i]) * sizeof(double)),
                "%s: padding reached it", test.field[i].name);
    for (int j = 7 * 5; j < 10 * 5; ++j)
        CHECK(base.value[part_find(&test, "out")][j] == 0 &&
                  base.value[part_find(&test, "dx")][j] == 0,
              "row %d of the padding is not 0", j / 5);
    part_free(&in);
    part_free(&base);
    part_free(&other);
    free(c.saved);
    free(c.workspace);
}

int main(void) {
    const int64_t packed[] = {0, 0, 2, 3, 9, 20}, padded[] = {0, 6, 11}, empty[] = {0, 0};
    check("layer one token", shape(1, 1, 4, 1, 1, 4, 3, 4), NULL, 1);
    check("layer no token", shape(0, 1, 4, 1, 2, 4, 3, 4), NULL, 1);
    check("layer only padding", shape(3, 1, 4, 1, 2, 4, 3, 4), empty, 1);
    check("layer no states", shape(12, 2, 6, 2, 2, 4, 4, 4), NULL, 0);
    check("layer packed", shape(20, 5, 6, 1, 3, 4, 5, 4), packed, 1);
    check("layer padded", shape(14, 2, 5, 2, 4, 3, 4, 3), padded, 1);
    check("layer chunks", shape(140, 1, 8, 1, 2, 8, 6, 4), NULL, 1);
    test_modes(GDN_DTYPE_FP64);
    test_modes(GDN_DTYPE_FP32);
    test_padding();
    return harness_finish();
}
