/* The contract of the entry points: versions, sizes of structs, refusals with a reason. */
#include "gdn.h"
#include "harness.h"

static gdn_context *context;

#define REFUSED(call, wanted_status, part)                                                         \
    do {                                                                                           \
        const gdn_status got = (call);                                                             \
        CHECK(got == (wanted_status), "status %d: %s", (int)got, gdn_last_error());                \
        CHECK(strstr(gdn_last_error(), part) != NULL, "message is: %s", gdn_last_error());         \
        CHECK(strchr(gdn_last_error(), '\n') == NULL, "more than one line");                       \
    } while (0)

static gdn_problem small_problem(void) {
    gdn_problem p = GDN_PROBLEM_INIT;
    p.T = 4;
    p.K = p.V = 2;
    return p;
}

static void test_status(void) {
    CHECK(gdn_version() == 100, "version is %u", gdn_version());
    CHECK(!strcmp(gdn_status_string(GDN_STATUS_OK), "success"), "text of OK");
    CHECK(!strcmp(gdn_status_string((gdn_status)99), "unknown status"), "text of 99");
}

static void test_context(void) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *c = NULL;
    CHECK(gdn_context_create(&c, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_context_backend(c) != GDN_BACKEND_AUTO, "AUTO is resolved");
    CHECK(gdn_context_threads(c) >= 1, "threads");
    gdn_context_destroy(c);
    gdn_context_destroy(NULL);
    config.threads = -1;
    REFUSED(gdn_context_create(&c, &config), GDN_STATUS_INVALID_ARGUMENT, "threads is -1");
    config.threads = 0;
    config.size = 0;
    REFUSED(gdn_context_create(&c, &config), GDN_STATUS_INVALID_ARGUMENT, "size is 0");
    config.size = sizeof(config) + 8;
    REFUSED(gdn_context_create(&c, &config), GDN_STATUS_INVALID_ARGUMENT, "newer header");
    REFUSED(gdn_context_create(NULL, NULL), GDN_STATUS_INVALID_ARGUMENT, "context is NULL");
    CHECK(gdn_device_count() >= 0, "devices");
    char text[64];
    REFUSED(gdn_device_describe(-1, text, sizeof(text)), GDN_STATUS_NO_BACKEND, "device is -1");
}

static void test_problem(void) {
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_problem p = small_problem();
    CHECK(gdn_problem_supported(context, &p) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_problem_sizes(context, &p, &sizes) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_last_error()[0] == '\0', "no error after success");
    REFUSED(gdn_problem_supported(NULL, &p), GDN_STATUS_INVALID_ARGUMENT, "context is NULL");
    REFUSED(gdn_problem_supported(context, NULL), GDN_STATUS_INVALID_ARGUMENT, "problem is NULL");
#define BAD(field, value, part)                                                                    \
    p = small_problem();                                                                           \
    p.field = value;                                                                               \
    REFUSED(gdn_problem_supported(context, &p), GDN_STATUS_INVALID_ARGUMENT, part)
    BAD(T, -1, "T is -1");
    BAD(N, 0, "N is 0");
    BAD(Hk, 0, "Hk is 0");
    BAD(Hv, -2, "Hv is -2");
    BAD(K, 257, "K is 257");
    BAD(V, 0, "V is 0");
    BAD(scale, NAN, "scale is nan");
    BAD(decay_threshold, 1, "decay_threshold is 1");
    BAD(dtype, (gdn_dtype)17, "dtype is 17");
    BAD(flags, 1u << 31, "flags has unknown bits");
    BAD(q_strides.token, 1, "q_strides");
    BAD(size, 3, "size is 3");
#undef BAD
    p = small_problem();
    p.Hk = 2;
    p.Hv = 3;
    REFUSED(gdn_problem_supported(context, &p), GDN_STATUS_INVALID_ARGUMENT, "Hv is 3");
    p = small_problem();
    p.dtype = GDN_DTYPE_FP64;
    REFUSED(gdn_problem_supported(context, &p), GDN_STATUS_UNSUPPORTED, "fp64");
}

static void test_tensors(void) {
    float q[8] = {0}, g[4] = {0};
    const int64_t bad_start[2] = {1, 4}, falls[3] = {0, 3, 2}, long_one[2] = {0, 5};
    gdn_problem p = small_problem();
    gdn_sizes sizes = GDN_SIZES_INIT;
    CHECK(gdn_problem_sizes(context, &p, &sizes) == GDN_STATUS_OK, "%s", gdn_last_error());
    const size_t bytes = sizes.forward_workspace + (4 << 20); /* enough for every N below */
    void *workspace = aligned_alloc(256, (bytes + 255) / 256 * 256);
    gdn_tensors t = GDN_TENSORS_INIT;
    REFUSED(gdn_forward(context, &p, &t, NULL), GDN_STATUS_INVALID_ARGUMENT, "q is NULL");
    t.q = t.k = t.v = t.o = q;
    t.g = t.beta = g;
    REFUSED(gdn_backward(context, &p, &t, NULL), GDN_STATUS_INVALID_ARGUMENT, "do_ is NULL");
    if (sizes.forward_workspace) {
        REFUSED(gdn_forward(context, &p, &t, NULL), GDN_STATUS_INVALID_ARGUMENT, "workspace_size");
        t.workspace_size = bytes;
        REFUSED(gdn_forward(context, &p, &t, NULL), GDN_STATUS_INVALID_ARGUMENT, "workspace is");
        t.workspace = (char *)workspace + 8;
        REFUSED(gdn_forward(context, &p, &t, NULL), GDN_STATUS_INVALID_ARGUMENT, "multiple of 256");
    }
    t.workspace = workspace;
    t.workspace_size = bytes;
    t.cu_seqlens = bad_start;
    REFUSED(gdn_forward(context, &p, &t, NULL), GDN_STATUS_BAD_DATA, "cu_seqlens[0] is 1");
    t.cu_seqlens = long_one;
    REFUSED(gdn_forward(context, &p, &t, NULL), GDN_STATUS_BAD_DATA, "cu_seqlens[1] is 5");
    p.N = 3;
    t.cu_seqlens = NULL;
    REFUSED(gdn_forward(context, &p, &t, NULL), GDN_STATUS_INVALID_ARGUMENT, "multiple of N");
    p.N = 2;
    t.cu_seqlens = falls;
    REFUSED(gdn_forward(context, &p, &t, NULL), GDN_STATUS_BAD_DATA, "cu_seqlens[2] is 2");
    p.N = 1;
    t.cu_seqlens = NULL;
    p.flags = GDN_FLAG_CHECKED;
    g[2] = 0.5f;
    REFUSED(gdn_forward(context, &p, &t, NULL), GDN_STATUS_BAD_DATA, "g at [2, 0, 0] is 0.5");
    g[2] = 0;
    q[5] = NAN;
    REFUSED(gdn_forward(context, &p, &t, NULL), GDN_STATUS_BAD_DATA, "q at [2, 0, 1] is nan");
    CHECK(gdn_checked_status(context, &p, &t, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    p.flags = 0;
    REFUSED(gdn_checked_status(context, &p, &t, NULL), GDN_STATUS_INVALID_ARGUMENT, "CHECKED");
    /* A caller whose header has fewer sizes gets those. */
    gdn_sizes fewer = GDN_SIZES_INIT;
    fewer.size = offsetof(gdn_sizes, checked_report);
    fewer.checked_report = 77;
    CHECK(gdn_problem_sizes(context, &p, &fewer) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(fewer.forward_workspace == sizes.forward_workspace && fewer.checked_report == 77,
          "%zu bytes, then %zu", fewer.forward_workspace, fewer.checked_report);
    fewer.size = sizeof(fewer) + 8;
    REFUSED(gdn_problem_sizes(context, &p, &fewer), GDN_STATUS_INVALID_ARGUMENT, "size is");
    free(workspace);
}

int main(void) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    config.backend = GDN_BACKEND_CPU;
    CHECK(gdn_context_create(&context, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    test_status();
    test_context();
    test_problem();
    test_tensors();
    gdn_context_destroy(context);
    return harness_finish();
}
