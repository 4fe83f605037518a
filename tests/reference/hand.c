/*
 * The recurrence on numbers worked by hand.
 *
 * One token, K = V = 1, scale 1: q = 3, k = 2, v = 5, beta = 1/2, exp(g) = 1/4, S0 = 8, do = 7,
 * dht = 1.
 *     S~ = 8/4 = 2            d = (5 - 2*2)/2 = 1/2      S = 2 + 2/2 = 3      o = 3*3 = 9
 *     dS = 1 + 3*7 = 22       dq = 3*7 = 21
 *     dd = 22*2 = 44          dbeta = 44 (5 - 4) = 44    dv = 44/2 = 22
 *     dS~ = 22 - 2*22 = -22   dk = 22/2 - 2*22 = -33     dg = -22*2 = -44     dh0 = -22/4 = -11/2
 *
 * Two tokens, K = 2, V = 1, scale 2, S0 = 0, no dht, do = (1, 1):
 *     t = 1: q = (1, 0), k = (1, 0), v = 4, beta = 1/2, exp(g) = 1
 *     t = 2: q = (1, 1), k = (1, 1), v = 3, beta = 1,   exp(g) = 1/2
 * Forward: d1 = 2, S1 = (2, 0), o1 = 4; S~2 = (1, 0), d2 = 3 - 1 = 2, S2 = (3, 2), o2 = 10.
 * Backward, t = 2: dS = 2 (1, 1); dq2 = 2 S2 = (6, 4); dd = 4; dbeta2 = 4*2 = 8; dv2 = 4;
 *     dS~ = (2, 2) - 4 (1, 1) = (-2, -2); dk2 = 2 (2, 2) - 4 (1, 0) = (0, 4); dg2 = -2;
 *     to the left: (-1, -1)
 * t = 1: dS = (-1, -1) + 2 (1, 0) = (1, -1); dq1 = 2 S1 = (4, 0); dd = 1; dbeta1 = 4; dv1 = 1/2;
 *     dS~ = (1, -1) - 1/2 (1, 0) = (1/2, -1); dk1 = 2 (1, -1) = (2, -2); dg1 = 0;
 *     dh0 = (1/2, -1)
 */
#include "gdn.h"
#include "harness.h"

static void expect(const char *name, const double *got, const double *want, int count) {
    for (int i = 0; i < count; ++i)
        CHECK(fabs(got[i] - want[i]) < 1e-14, "%s[%d] is %.17g, expected %.17g", name, i, got[i],
              want[i]);
}

#define EXPECT(tensor, ...)                                                                        \
    do {                                                                                           \
        const double want[] = {__VA_ARGS__};                                                       \
        expect(#tensor, tensor, want, (int)(sizeof(want) / sizeof(want[0])));                      \
    } while (0)

/* Results of either case: at most two tokens, K = 2. */
static double o[2], final_state[2], dq[4], dk[4], dv[2], dg[2], dbeta[2], dh0[2];

static void compute(const gdn_problem *p, gdn_tensors *x) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context;
    gdn_sizes sizes = GDN_SIZES_INIT;
    config.backend = GDN_BACKEND_REFERENCE;
    CHECK(gdn_context_create(&context, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_problem_sizes(context, p, &sizes) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(sizes.saved == 0, "saved is %zu", sizes.saved);
    const size_t bytes = sizes.forward_workspace > sizes.backward_workspace
                             ? sizes.forward_workspace
                             : sizes.backward_workspace;
    x->workspace = aligned_alloc(256, (bytes + 255) / 256 * 256);
    x->workspace_size = bytes;
    x->o = o, x->final_state = final_state, x->dq = dq, x->dk = dk, x->dv = dv;
    x->dg = dg, x->dbeta = dbeta, x->dh0 = dh0;
    CHECK(gdn_forward(context, p, x, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_backward(context, p, x, NULL) == GDN_STATUS_OK, "%s", gdn_last_error());
    free(x->workspace);
    gdn_context_destroy(context);
}

static void one_token(void) {
    const double q = 3, k = 2, v = 5, beta = 0.5, g = -2 * log(2), S0 = 8, d_o = 7, dht = 1;
    gdn_problem p = GDN_PROBLEM_INIT;
    gdn_tensors x = GDN_TENSORS_INIT;
    p.dtype = GDN_DTYPE_FP64;
    p.T = 1, p.K = 1, p.V = 1;
    x.q = &q, x.k = &k, x.v = &v, x.g = &g, x.beta = &beta, x.initial_state = &S0;
    x.do_ = &d_o, x.dht = &dht;
    compute(&p, &x);
    EXPECT(o, 9);
    EXPECT(final_state, 3);
    EXPECT(dq, 21);
    EXPECT(dk, -33);
    EXPECT(dv, 22);
    EXPECT(dg, -44);
    EXPECT(dbeta, 44);
    EXPECT(dh0, -5.5);
}

static void two_tokens(void) {
    const double q[] = {1, 0, 1, 1}, k[] = {1, 0, 1, 1}, v[] = {4, 3}, beta[] = {0.5, 1};
    const double g[] = {0, -log(2)}, d_o[] = {1, 1};
    gdn_problem p = GDN_PROBLEM_INIT;
    gdn_tensors x = GDN_TENSORS_INIT;
    p.dtype = GDN_DTYPE_FP64;
    p.T = 2, p.K = 2, p.V = 1;
    p.scale = 2;
    x.q = q, x.k = k, x.v = v, x.g = g, x.beta = beta, x.do_ = d_o;
    compute(&p, &x);
    EXPECT(o, 4, 10);
    EXPECT(final_state, 3, 2);
    EXPECT(dq, 4, 0, 6, 4);
    EXPECT(dk, 2, -2, 0, 4);
    EXPECT(dv, 0.5, 4);
    EXPECT(dg, 0, -2);
    EXPECT(dbeta, 4, 8);
    EXPECT(dh0, 0.5, -1);
}

int main(void) {
    one_token();
    two_tokens();
    return harness_finish();
}
