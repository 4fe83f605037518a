/* What the layer and its parts refuse: the status, and a line that names field and values. */
#include "gdn_layer.h"
#include "part_test.h"

static gdn_context *make_context(gdn_backend backend) {
    gdn_context *context;
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    config.backend = backend;
    CHECK(gdn_context_create(&context, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    return context;
}

static void test_conv1d(const gdn_context *cpu, const gdn_context *reference) {
    float memory[64] = {0};
    const int64_t late[] = {1, 4}, falling[] = {0, 3, 2}, beyond[] = {0, 9};
    const gdn_conv1d good = {.size = sizeof(good),
                             .T = 4,
                             .N = 1,
                             .channels = 2,
                             .width = 4,
                             .x = memory,
                             .weight = memory,
                             .y = memory + 32,
                             .dy = memory,
                             .dx = memory + 32,
                             .dweight = memory + 48};
    gdn_conv1d p = good;
    const gdn_status invalid = GDN_STATUS_INVALID_ARGUMENT, bad = GDN_STATUS_BAD_DATA;
    CHECK(gdn_conv1d_forward(cpu, &good, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
#define REFUSED(change, status, ...)                                                               \
    p = good;                                                                                      \
    change;                                                                                        \
    PART_REFUSED(gdn_conv1d_forward(cpu, &p, NULL), status, "gdn_conv1d_forward", __VA_ARGS__)
    PART_REFUSED(gdn_conv1d_forward(NULL, &good, NULL), invalid, "context is NULL");
    PART_REFUSED(gdn_conv1d_forward(cpu, NULL, NULL), invalid, "part is NULL");
    REFUSED(p.size = 0, invalid, "size is 0");
    REFUSED(p.size = sizeof(p) + 8, invalid, "size");
    REFUSED(p.dtype = GDN_DTYPE_FP64, GDN_STATUS_UNSUPPORTED, "fp64", "expected fp32", "cpu");
    REFUSED(p.dtype = GDN_DTYPE_BF16, GDN_STATUS_UNSUPPORTED, "bf16", "expected fp32");
    REFUSED(p.dtype = (gdn_dtype)9, invalid, "dtype is 9");
    REFUSED(p.T = -1, invalid, "T is -1", "expected 0");
    REFUSED(p.N = 0, invalid, "N is 0");
    REFUSED(p.N = 3, invalid, "T = 4", "N = 3");
    REFUSED(p.channels = 0, invalid, "channels is 0");
    REFUSED(p.width = 33, invalid, "width is 33", "1 to 32");
    REFUSED(p.x_stride = 1, invalid, "x_stride is 1", "at least 2");
    REFUSED(p.y_stride = -2, invalid, "y_stride is -2");
    REFUSED(p.x = NULL, invalid, "x is NULL");
    REFUSED(p.weight = NULL, invalid, "weight is NULL");
    REFUSED(p.y = NULL, invalid, "y is NULL");
    REFUSED(p.cu_seqlens = late, bad, "cu_seqlens[0] is 1");
    REFUSED((p.N = 2, p.cu_seqlens = falling), bad, "cu_seqlens[2] is 2");
    REFUSED(p.cu_seqlens = beyond, bad, "cu_seqlens[1] is 9", "T = 4");
#undef REFUSED
    PART_REFUSED(gdn_conv1d_forward(reference, &good, NULL), GDN_STATUS_UNSUPPORTED, "fp32",
                 "expected fp64", "reference");
#define REFUSED(field)                                                                             \
    p = good;                                                                                      \
    p.field = NULL;                                                                                \
    PART_REFUSED(gdn_conv1d_backward(cpu, &p, NULL), invalid, "gdn_conv1d_backward",               \
                 #field " is NULL")
    REFUSED(x);
    REFUSED(weight);
    REFUSED(dy);
    REFUSED(dx);
    REFUSED(dweight);
#undef REFUSED
}

static void test_other_parts(const gdn_context *cpu) {
    float memory[64] = {0};
    const gdn_status invalid = GDN_STATUS_INVALID_ARGUMENT;
    gdn_l2norm l2 = {.size = sizeof(l2), .T = 1, .H = 1, .K = 2, .eps = 1e-6};
    PART_REFUSED(gdn_l2norm_forward(cpu, &l2, NULL), invalid, "gdn_l2norm_forward", "x is NULL");
    l2.x = memory;
    PART_REFUSED(gdn_l2norm_forward(cpu, &l2, NULL), invalid, "y is NULL");
    PART_REFUSED(gdn_l2norm_backward(cpu, &l2, NULL), invalid, "dy is NULL");
    l2.eps = 0;
    PART_REFUSED(gdn_l2norm_forward(cpu, &l2, NULL), invalid, "eps is 0", "positive");
    l2.K = 257;
    PART_REFUSED(gdn_l2norm_forward(cpu, &l2, NULL), invalid, "K is 257", "1 to 256");

    gdn_gate gate = {.size = sizeof(gate), .T = 1, .H = 0};
    PART_REFUSED(gdn_gate_forward(cpu, &gate, NULL), invalid, "H is 0");
    gate.H = 1;
    gate.a = gate.b = memory;
    PART_REFUSED(gdn_gate_forward(cpu, &gate, NULL), invalid, "A_log is NULL");
    gate.A_log = gate.dt_bias = memory;
    PART_REFUSED(gdn_gate_forward(cpu, &gate, NULL), invalid, "g is NULL");
    PART_REFUSED(gdn_gate_backward(cpu, &gate, NULL), invalid, "dg is NULL");

    gdn_gated_rmsnorm norm = {.size = sizeof(norm), .T = 1, .H = 1, .V = 0, .eps = 1e-6};
    PART_REFUSED(gdn_gated_rmsnorm_forward(cpu, &norm, NULL), invalid, "V is 0");
    norm.V = 2;
    norm.x = memory;
    PART_REFUSED(gdn_gated_rmsnorm_forward(cpu, &norm, NULL), invalid, "z is NULL");
    norm.eps = (double)NAN;
    PART_REFUSED(gdn_gated_rmsnorm_backward(cpu, &norm, NULL), invalid, "eps is nan");
}

static void test_layer(const gdn_context *cpu) {
    float memory[64] = {0};
    static _Alignas(256) char workspace[1 << 20];
    const int64_t beyond[] = {0, 3};
    const gdn_status invalid = GDN_STATUS_INVALID_ARGUMENT;
    gdn_layer good = GDN_LAYER_INIT, layer;
    gdn_layer_weights weights = GDN_LAYER_WEIGHTS_INIT;
    gdn_layer_tensors complete = GDN_LAYER_TENSORS_INIT, t;
    gdn_sizes sizes = GDN_SIZES_INIT;
    good.T = 2;
    good.D = 2;
    good.K = good.V = 2;
#define REFUSED(change, status, ...)                                                               \
    layer = good;                                                                                  \
    change;                                                                                        \
    PART_REFUSED(gdn_layer_supported(cpu, &layer), status, "gdn_layer_supported", __VA_ARGS__)
    CHECK(gdn_layer_supported(cpu, &good) == GDN_STATUS_OK, "%s", gdn_last_error());
    REFUSED(layer.size = 4, invalid, "size");
    REFUSED(layer.D = 0, invalid, "D is 0");
    REFUSED(layer.conv_width = 0, invalid, "conv_width is 0");
    REFUSED((layer.Hv = 3, layer.Hk = 2), invalid, "Hv is 3", "Hk = 2");
    REFUSED(layer.K = 300, invalid, "K is 300");
    REFUSED(layer.flags = 32, invalid, "flags", "0x20");
    REFUSED(layer.norm_eps = 0, invalid, "norm_eps is 0");
    REFUSED(layer.scale = (double)NAN, invalid, "scale");
    REFUSED(layer.decay_threshold = 1, invalid, "decay_threshold is 1");
    REFUSED(layer.dtype = GDN_DTYPE_BF16, GDN_STATUS_UNSUPPORTED, "bf16");
    REFUSED((layer.Hk = layer.Hv = 65536, layer.K = 256), invalid, "2 Hk K + Hv V");
#undef REFUSED
    PART_REFUSED(gdn_layer_supported(cpu, NULL), invalid, "layer is NULL");
    PART_REFUSED(gdn_layer_sizes(cpu, &good, NULL), invalid, "sizes is NULL");
    sizes.size = 1;
    PART_REFUSED(gdn_layer_sizes(cpu, &good, &sizes), invalid, "size is 1");
    sizes.size = sizeof(sizes);
    CHECK(gdn_layer_sizes(cpu, &good, &sizes) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(sizes.forward_workspace <= sizeof(workspace) && sizes.segment_workspace == 0,
          "%zu bytes of workspace", sizes.forward_workspace);

    weights.in_proj_qkv = weights.in_proj_z = weights.in_proj_b = weights.in_proj_a =
        weights.conv1d = weights.A_log = weights.dt_bias = weights.norm = weights.out_proj = memory;
    complete.x = memory;
    complete.weights = &weights;
    complete.out = memory + 32;
    complete.workspace = workspace;
    complete.workspace_size = sizeof(workspace);
#define REFUSED(change, status, ...)                                                               \
    t = complete;                                                                                  \
    change;                                                                                        \
    PART_REFUSED(gdn_layer_forward(cpu, &good, &t, NULL), status, "gdn_layer_forward", __VA_ARGS__)
    CHECK(gdn_layer_forward(cpu, &good, &complete, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    layer = good;
    layer.flags = GDN_LAYER_HOOKED_OPERATOR;
    PART_REFUSED(gdn_layer_forward(cpu, &layer, &complete, NULL), invalid, "gdn_layer_forward",
                 "HOOKED_OPERATOR", "hooks.forward");
    PART_REFUSED(gdn_layer_forward(cpu, &good, NULL, NULL), invalid, "tensors is NULL");
    REFUSED(t.x = NULL, invalid, "x is NULL");
    REFUSED(t.out = NULL, invalid, "out is NULL");
    REFUSED(t.weights = NULL, invalid, "weights is NULL");
    REFUSED(t.workspace = NULL, invalid, "workspace is NULL");
    REFUSED(t.workspace = workspace + 64, invalid, "multiple of 256");
    REFUSED(t.workspace_size = sizes.forward_workspace - 1, invalid, "workspace_size is");
    REFUSED(t.cu_seqlens = beyond, GDN_STATUS_BAD_DATA, "cu_seqlens[1] is 3", "T = 2");
#undef REFUSED
    weights.A_log = NULL;
    PART_REFUSED(gdn_layer_forward(cpu, &good, &complete, NULL), invalid, "weights.A_log is NULL");
    weights.A_log = memory;
    PART_REFUSED(gdn_layer_backward(cpu, &good, &complete, NULL), invalid, "gdn_layer_backward",
                 "dweights is NULL");
    complete.dweights = &weights;
    PART_REFUSED(gdn_layer_backward(cpu, &good, &complete, NULL), invalid, "dout is NULL");
    complete.dout = memory;
    complete.dx = memory + 32;
    PART_REFUSED(gdn_layer_backward(cpu, &good, &complete, NULL), invalid, "saved is NULL");
}

int main(void) {
    gdn_context *cpu = make_context(GDN_BACKEND_CPU);
    gdn_context *reference = make_context(GDN_BACKEND_REFERENCE);
    test_conv1d(cpu, reference);
    test_other_parts(cpu);
    test_layer(cpu);
    gdn_context_destroy(cpu);
    gdn_context_destroy(reference);
    return harness_finish();
}
