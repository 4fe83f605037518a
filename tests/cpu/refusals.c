/* Bad calls get the right status and one line that names the field; nothing is written. */
#include "gdn.h"
#include "harness.h"

enum {
    TOKENS = 4,
    DIM = 2
};

/* One good call; the refusals below spoil one thing each. */
typedef struct call {
    gdn_problem p;
    gdn_tensors x;
    float q[TOKENS * DIM], k[TOKENS * DIM], v[TOKENS * DIM], g[TOKENS], beta[TOKENS];
    float o[TOKENS * DIM];
    int64_t cu[3];
} call;

static gdn_context *context;

static void prepare(call *c, void *workspace, size_t bytes) {
    const gdn_problem p = GDN_PROBLEM_INIT;
    const gdn_tensors x = GDN_TENSORS_INIT;
    memset(c, 0, sizeof(*c));
    c->p = p;
    c->p.T = TOKENS, c->p.N = 2, c->p.K = c->p.V = DIM;
    c->cu[1] = 1, c->cu[2] = 3;
    c->x = x;
    c->x.q = c->q, c->x.k = c->k, c->x.v = c->v, c->x.g = c->g, c->x.beta = c->beta;
    c->x.o = c->o, c->x.cu_seqlens = c->cu;
    c->x.workspace = workspace, c->x.workspace_size = bytes;
    for (int i = 0; i < TOKENS * DIM; ++i)
        c->o[i] = 77;
}

static void refused(const char *what, call *c, gdn_status want) {
    const gdn_status got = gdn_forward(context, &c->p, &c->x, NULL);
    CHECK(got == want, "%s: status %d, expected %d", what, got, want);
    CHECK(strstr(gdn_last_error(), what) && !strchr(gdn_last_error(), '\n'),
          "expected one line with '%s', found '%s'", what, gdn_last_error());
    for (int i = 0; i < TOKENS * DIM; ++i)
        CHECK(c->o[i] == 77, "%s: o[%d] was written", what, i);
}

#define REFUSED(change, what, status)                                                              \
    do {                                                                                           \
        prepare(&c, workspace, bytes);                                                             \
        change;                                                                                    \
        refused(what, &c, GDN_STATUS_##status);                                                    \
    } while (0)

static void refusals(void *workspace, size_t bytes) {
    call c;
    prepare(&c, workspace, bytes);
    CHECK(gdn_forward(context, &c.p, &c.x, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(c.o[0] == 0, "a good call wrote nothing");

    REFUSED(c.p.dtype = GDN_DTYPE_FP64, "dtype is fp64", UNSUPPORTED);
    REFUSED(c.p.dtype = (gdn_dtype)9, "dtype", INVALID_ARGUMENT);
    REFUSED(c.p.size = sizeof(c.p) + 8, "size", INVALID_ARGUMENT);
    REFUSED(c.p.flags = 1u << 30, "flags", INVALID_ARGUMENT);
    REFUSED(c.p.T = -1, "T is -1", INVALID_ARGUMENT);
    REFUSED(c.p.N = 0, "N is 0", INVALID_ARGUMENT);
    REFUSED(c.p.Hk = 0, "Hk is 0", INVALID_ARGUMENT);
    REFUSED(c.p.Hk = 2, "Hv is 1", INVALID_ARGUMENT);
    REFUSED(c.p.K = 257, "K is 257", INVALID_ARGUMENT);
    REFUSED(c.p.V = 0, "V is 0", INVALID_ARGUMENT);
    REFUSED(c.p.scale = NAN, "scale", INVALID_ARGUMENT);
    REFUSED(c.p.decay_threshold = 1, "decay_threshold", INVALID_ARGUMENT);
    REFUSED(c.p.k_strides.token = 1, "k_strides", INVALID_ARGUMENT);
    REFUSED(c.x.q = NULL, "q is NULL", INVALID_ARGUMENT);
    REFUSED(c.x.beta = NULL, "beta is NULL", INVALID_ARGUMENT);
    REFUSED(c.x.workspace_size -= 1, "workspace_size", INVALID_ARGUMENT);
    REFUSED(c.x.workspace = NULL, "workspace is NULL", INVALID_ARGUMENT);
    REFUSED(c.x.workspace = (char *)workspace + 64, "multiple of 256", INVALID_ARGUMENT);
    REFUSED(c.p.flags = GDN_FLAG_SAVE_STATES, "saved is NULL", INVALID_ARGUMENT);
    REFUSED(c.cu[0] = 1, "cu_seqlens[0] is 1", BAD_DATA);
    REFUSED(c.cu[1] = 4, "cu_seqlens[2] is 3", BAD_DATA);
    REFUSED(c.cu[2] = 5, "cu_seqlens[2] is 5", BAD_DATA);
    REFUSED((c.p.T = 3, c.x.cu_seqlens = NULL), "T = 3", INVALID_ARGUMENT);
    REFUSED((c.p.flags = GDN_FLAG_CHECKED, c.k[5] = NAN), "k at [2, 0, 1]", BAD_DATA);
    REFUSED((c.p.flags = GDN_FLAG_CHECKED, c.g[1] = 0.5f), "g at [1, 0, 0] is 0.5", BAD_DATA);

    prepare(&c, workspace, bytes);
    CHECK(gdn_backward(context, &c.p, &c.x, NULL) == GDN_STATUS_INVALID_ARGUMENT &&
              strstr(gdn_last_error(), "do_ is NULL"),
          "backward without do: '%s'", gdn_last_error());
    gdn_segment segment = GDN_SEGMENT_INIT;
    c.x.do_ = c.v;
    CHECK(gdn_segment_backward(context, &c.p, &c.x, &segment, NULL) ==
                  GDN_STATUS_INVALID_ARGUMENT &&
              strstr(gdn_last_error(), "entry_gradient is NULL"),
          "segment_backward without output: '%s'", gdn_last_error());
}

/* The reference backend computes float64 and nothing else. */
static void reference_dtypes(void) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_problem p = GDN_PROBLEM_INIT;
    gdn_context *reference;
    config.backend = GDN_BACKEND_REFERENCE;
    CHECK(gdn_context_create(&reference, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    for (int d = GDN_DTYPE_FP32; d <= GDN_DTYPE_FP16; ++d) {
        p.dtype = (gdn_dtype)d;
        CHECK(gdn_problem_supported(reference, &p) == GDN_STATUS_UNSUPPORTED &&
                  strstr(gdn_last_error(), gdn_dtype_name(p.dtype)),
              "'%s'", gdn_last_error());
    }
    gdn_context_destroy(reference);
}

int main(void) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_sizes sizes = GDN_SIZES_INIT;
    call c;
    config.backend = GDN_BACKEND_CPU;
    CHECK(gdn_context_create(&context, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    prepare(&c, NULL, 0);
    CHECK(gdn_problem_sizes(context, &c.p, &sizes) == GDN_STATUS_OK, "%s", gdn_last_error());
    const size_t bytes = sizes.forward_workspace;
    void *workspace = aligned_alloc(256, (bytes / 256 + 2) * 256);
    refusals(workspace, bytes);
    reference_dtypes();
    free(workspace);
    gdn_context_destroy(context);
    return harness_finish();
}
