/* One token, one head, K = V = 1: o = scale q k beta v and its gradients, by hand; then a case
 * file. */
#include <gdn.h>
#include <gdn_check.h>
#include <gdn_io.h>
#include <gdn_layer.h>
#include <gdn_model.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define TRY(call)                                                                                  \
    do {                                                                                           \
        if ((call) != GDN_STATUS_OK) {                                                             \
            fprintf(stderr, "%s\n", gdn_last_error());                                             \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

int main(void) {
    const float q = 0.5f, k = 2.0f, v = 3.0f, g = 0.0f, beta = 0.25f, dout = 1.0f;
    float o, dq, dk, dv, dg, dbeta;
    gdn_context *context;
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_problem problem = GDN_PROBLEM_INIT;
    gdn_tensors tensors = GDN_TENSORS_INIT;
    gdn_sizes sizes = GDN_SIZES_INIT;
    config.backend = GDN_BACKEND_CPU;
    problem.T = 1;
    problem.K = problem.V = 1;
    TRY(gdn_context_create(&context, &config));
    TRY(gdn_problem_sizes(context, &problem, &sizes));
    tensors.workspace_size = sizes.forward_workspace > sizes.backward_workspace
                                 ? sizes.forward_workspace
                                 : sizes.backward_workspace;
    tensors.workspace = aligned_alloc(256, (tensors.workspace_size + 256) / 256 * 256);
    tensors.q = &q;
    tensors.k = &k;
    tensors.v = &v;
    tensors.g = &g;
    tensors.beta = &beta;
    tensors.do_ = &dout;
    tensors.o = &o;
    tensors.dq = &dq;
    tensors.dk = &dk;
    tensors.dv = &dv;
    tensors.dg = &dg;
    tensors.dbeta = &dbeta;
    TRY(gdn_forward(context, &problem, &tensors, NULL));
    TRY(gdn_backward(context, &problem, &tensors, NULL));
    gdn_context_destroy(context);
    free(tensors.workspace);
    if (fabsf(o - 0.75f) > 1e-6f || fabsf(dq - 1.5f) > 1e-6f || fabsf(dv - 0.25f) > 1e-6f ||
        fabsf(dk - 0.375f) > 1e-6f || fabsf(dbeta - 3.0f) > 1e-6f || fabsf(dg) > 1e-6f) {
        fprintf(stderr, "o %g dq %g dk %g dv %g dg %g dbeta %g\n", o, dq, dk, dv, dg, dbeta);
        return 1;
    }
    gdn_io_kind kind;
    if (gdn_io_file_kind("/nonexistent.h5", &kind) != GDN_STATUS_BAD_FILE) {
        fprintf(stderr, "a missing file was accepted\n");
        return 1;
    }
    printf("libgdn %u from C: dq = %g\n", gdn_version(), dq);
    return 0;
}
