/*
 * A trainer that keeps what broke it: every step looks at its gradients, and the first one with a
 * NaN or Inf writes its inputs as a case file, which the gdn command replays.
 *
 *     capture CASE.h5      exit 0 once the bad step is captured
 */
#include "gdn.h"
#include "gdn_io.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    T = 64,
    H = 2,
    K = 16,
    V = 16,
    KEYS = T * H * K,
    VALUES = T * H * V,
    GATES = T * H,
    STEPS = 20
};

#define TRY(call)                                                                                  \
    do {                                                                                           \
        if ((call) != GDN_STATUS_OK) {                                                             \
            fprintf(stderr, "%s\n", gdn_last_error());                                             \
            exit(2);                                                                               \
        }                                                                                          \
    } while (0)

static float q[KEYS], k[KEYS], v[VALUES], g[GATES], beta[GATES], o[VALUES];
static float dout[VALUES], dq[KEYS], dk[KEYS], dv[VALUES], dg[GATES], dbeta[GATES];

static void fill(float *x, int count, float low, float high) {
    for (int i = 0; i < count; ++i)
        x[i] = low + (high - low) * (float)rand() / (float)RAND_MAX;
}

static int is_finite(const float *x, int count) {
    for (int i = 0; i < count; ++i)
        if (!isfinite(x[i]))
            return 0;
    return 1;
}

/* Case files take float64 in memory; values that are float32 are stored as float32. */
static double *widen(const float *x, int count) {
    double *wide = malloc((size_t)count * sizeof(double));
    if (!wide)
        exit(2);
    TRY(gdn_convert(GDN_DTYPE_FP64, wide, GDN_DTYPE_FP32, x, count));
    return wide;
}

static void capture(const char *path) {
    gdn_io_case c = {.size = sizeof(c), .T = T, .N = 1, .Hk = H, .Hv = H, .K = K, .V = V};
    c.q = widen(q, KEYS);
    c.k = widen(k, KEYS);
    c.v = widen(v, VALUES);
    c.g = widen(g, GATES);
    c.beta = widen(beta, GATES);
    c.do_ = widen(dout, VALUES);
    TRY(gdn_io_case_write(path, &c));
    gdn_io_case_free(&c);
}

int main(int argc, char **argv) {
    gdn_context *context;
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_problem problem = GDN_PROBLEM_INIT;
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_tensors t = GDN_TENSORS_INIT;
    if (argc != 2) {
        fprintf(stderr, "usage: capture CASE.h5\n");
        return 2;
    }
    problem.T = T;
    problem.Hk = problem.Hv = H;
    problem.K = K;
    problem.V = V;
    config.backend = GDN_BACKEND_CPU;
    TRY(gdn_context_create(&context, &config));
    TRY(gdn_problem_sizes(context, &problem, &sizes));
    t.workspace_size = sizes.forward_workspace > sizes.backward_workspace
                           ? sizes.forward_workspace
                           : sizes.backward_workspace;
    t.workspace = aligned_alloc(256, (t.workspace_size + 255) / 256 * 256);
    t.q = q, t.k = k, t.v = v, t.g = g, t.beta = beta, t.o = o, t.do_ = dout;
    t.dq = dq, t.dk = dk, t.dv = dv, t.dg = dg, t.dbeta = dbeta;

    int captured = 0;
    for (int step = 1; step <= STEPS && !captured; ++step) {
        /* Stands for the layers around the operator. Somebody forgot to normalise the keys, and
         * they grow as training goes on: once beta |k|^2 > 2 the state grows with every token. */
        const float size = 0.2f * (float)step;
        fill(q, KEYS, -1, 1);
        fill(k, KEYS, -size, size);
        fill(v, VALUES, -1, 1);
        fill(g, GATES, -0.01f, 0);
        fill(beta, GATES, 0.5f, 1);
        fill(dout, VALUES, -1, 1);
        TRY(gdn_forward(context, &problem, &t, NULL));
        TRY(gdn_backward(context, &problem, &t, NULL));
        if (is_finite(dq, KEYS) && is_finite(dk, KEYS) && is_finite(dv, VALUES) &&
            is_finite(dg, GATES) && is_finite(dbeta, GATES))
            continue;
        capture(argv[1]);
        printf("step %d: a gradient is not finite; its inputs are in %s\n", step, argv[1]);
        captured = 1;
    }
    free(t.workspace);
    gdn_context_destroy(context);
    return !captured;
}
