/* The gradient of L = |o|^2 / 2 with respect to v, checked by a small step down it. */
#include "gdn.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    T = 100,
    H = 2,
    K = 16,
    V = 32
};

#define TRY(call)                                                                                  \
    do {                                                                                           \
        if ((call) != GDN_STATUS_OK) {                                                             \
            fprintf(stderr, "%s\n", gdn_last_error());                                             \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static float q[T * H * K], k[T * H * K], v[T * H * V], g[T * H], beta[T * H];
static float o[T * H * V], dq[T * H * K], dk[T * H * K], dv[T * H * V], dg[T * H], dbeta[T * H];

static void fill(float *x, int count, float low, float high) {
    for (int i = 0; i < count; ++i)
        x[i] = low + (high - low) * (float)rand() / (float)RAND_MAX;
}

static double half_square(const float *x, int count) {
    double sum = 0;
    for (int i = 0; i < count; ++i)
        sum += 0.5 * x[i] * x[i];
    return sum;
}

int main(void) {
    fill(q, T * H * K, -1, 1);
    fill(k, T * H * K, -1, 1);
    fill(v, T * H * V, -1, 1);
    fill(g, T * H, -0.1f, 0);
    fill(beta, T * H, 0, 1);

    /* What is computed, and where. */
    gdn_context *context;
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_problem problem = GDN_PROBLEM_INIT;
    config.backend = GDN_BACKEND_CPU; /* the tensors here are host memory */
    TRY(gdn_context_create(&context, &config));
    problem.T = T;
    problem.Hk = problem.Hv = H;
    problem.K = K;
    problem.V = V;
    problem.flags = GDN_FLAG_L2NORM_QK;

    /* The caller owns all memory; the library says how much it needs. */
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_tensors t = GDN_TENSORS_INIT;
    TRY(gdn_problem_sizes(context, &problem, &sizes));
    t.workspace_size = sizes.forward_workspace > sizes.backward_workspace
                           ? sizes.forward_workspace
                           : sizes.backward_workspace;
    t.workspace = aligned_alloc(256, (t.workspace_size + 255) / 256 * 256);
    t.q = q, t.k = k, t.v = v, t.g = g, t.beta = beta;
    t.o = o;
    t.do_ = o; /* the gradient of |o|^2 / 2 is o itself */
    t.dq = dq, t.dk = dk, t.dv = dv, t.dg = dg, t.dbeta = dbeta;

    TRY(gdn_forward(context, &problem, &t, NULL));
    const double before = half_square(o, T * H * V);
    TRY(gdn_backward(context, &problem, &t, NULL));

    /* A step of size s down dv lowers L by s |dv|^2, to first order. */
    const double step = 1e-3, predicted = 2 * step * half_square(dv, T * H * V);
    for (int i = 0; i < T * H * V; ++i)
        v[i] -= (float)step * dv[i];
    TRY(gdn_forward(context, &problem, &t, NULL));
    const double after = half_square(o, T * H * V);
    printf("L = %.6f, after the step %.6f: lower by %.6f, predicted %.6f\n", before, after,
           before - after, predicted);

    free(t.workspace);
    gdn_context_destroy(context);
    return !(fabs(before - after - predicted) < 0.01 * predicted);
}
