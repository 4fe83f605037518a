/* Checks of operator problems and of their host data. */
#include "internal.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Largest head dim, and largest count for heads and tokens: keeps every product of shapes inside
 * int64. */
enum {
    MAX_HEAD_DIM = 256,
    MAX_HEADS = 65536
};
static const int64_t MAX_TOKENS = INT64_C(1) << 32;

static gdn_status check_strides(const char *function, const char *name, gdn_strides *s,
                                int64_t heads, int64_t dim) {
    if (s->token == 0 && s->head == 0) {
        s->token = heads * dim;
        s->head = dim;
    }
    if (s->head == 0)
        s->head = dim;
    if (s->token == 0)
        s->token = heads * dim;
    GDNI_REQUIRE(s->token >= dim && s->head >= dim,
                 "%s: %s_strides are {token %" PRId64 ", head %" PRId64
                 "}, expected each 0 or at least the head dim %" PRId64,
                 function, name, s->token, s->head, dim);
    return GDN_STATUS_OK;
}

gdn_status gdni_problem_check(const char *function, const gdn_problem *in, gdn_problem *out) {
    const gdn_problem init = GDN_PROBLEM_INIT;
    const uint32_t known_flags = GDN_FLAG_EXACT | GDN_FLAG_SAVE_STATES | GDN_FLAG_SAVE_INVERSE |
                                 GDN_FLAG_L2NORM_QK | GDN_FLAG_CHECKED | GDN_FLAG_CU_SEQLENS_HOST;
    *out = init;
    GDNI_REQUIRE(in != NULL, "%s: problem is NULL", function);
    GDN_TRY(gdni_copy_struct(function, out, sizeof(*out), in, in->size));
    GDNI_REQUIRE(out->dtype >= GDN_DTYPE_FP32 && out->dtype <= GDN_DTYPE_FP64,
                 "%s: dtype is %d, expected a gdn_dtype", function, (int)out->dtype);
    GDNI_REQUIRE(!(out->flags & ~known_flags), "%s: flags has unknown bits 0x%x", function,
                 out->flags & ~known_flags);
    GDNI_REQUIRE(out->T >= 0 && out->T <= MAX_TOKENS,
                 "%s: T is %" PRId64 ", expected 0 to %" PRId64, function, out->T, MAX_TOKENS);
    GDNI_REQUIRE(out->N >= 1 && out->N <= MAX_TOKENS,
                 "%s: N is %" PRId64 ", expected 1 to %" PRId64, function, out->N, MAX_TOKENS);
    GDNI_REQUIRE(out->Hk >= 1 && out->Hk <= MAX_HEADS, "%s: Hk is %d, expected 1 to %d", function,
                 out->Hk, MAX_HEADS);
    GDNI_REQUIRE(out->Hv >= 1 && out->Hv <= MAX_HEADS && out->Hv % out->Hk == 0,
                 "%s: Hv is %d, expected a multiple of Hk = %d, at most %d", function, out->Hv,
                 out->Hk, MAX_HEADS);
    GDNI_REQUIRE(out->K >= 1 && out->K <= MAX_HEAD_DIM, "%s: K is %d, expected 1 to %d", function,
                 out->K, MAX_HEAD_DIM);
    GDNI_REQUIRE(out->V >= 1 && out->V <= MAX_HEAD_DIM, "%s: V is %d, expected 1 to %d", function,
                 out->V, MAX_HEAD_DIM);
    GDNI_REQUIRE(isfinite(out->scale), "%s: scale is %g, expected a finite number", function,
                 out->scale);
    GDNI_REQUIRE(out->decay_threshold <= 0, "%s: decay_threshold is %g, expected 0 or less",
                 function, out->decay_threshold);
    GDNI_REQUIRE(out->segments >= 0, "%s: segments is %d, expected 0 or more", function,
                 out->segments);
    if (out->scale == 0)
        out->scale = 1.0 / sqrt((double)out->K);
    if (out->decay_threshold == 0)
        out->decay_threshold = out->dtype == GDN_DTYPE_FP64   ? -INFINITY
                               : out->dtype == GDN_DTYPE_FP32 ? -20.0
                                                              : -10.0;
    GDN_TRY(check_strides(function, "q", &out->q_strides, out->Hk, out->K));
    GDN_TRY(check_strides(function, "k", &out->k_strides, out->Hk, out->K));
    GDN_TRY(check_strides(function, "v", &out->v_strides, out->Hv, out->V));
    GDN_TRY(check_strides(function, "o", &out->o_strides, out->Hv, out->V));
    return GDN_STATUS_OK;
}

gdn_status gdni_check_bound(const char *function, int64_t N, int64_t T, int64_t n, int64_t before,
                            int64_t bound) {
    if (n == 0 && bound != 0)
        return gdni_fail(GDN_STATUS_BAD_DATA, "%s: cu_seqlens[0] is %" PRId64 ", expected 0",
                         function, bound);
    if (n > 0 && bound < before)
        return gdni_fail(GDN_STATUS_BAD_DATA,
                         "%s: cu_seqlens[%" PRId64 "] is %" PRId64
                         ", expected at least cu_seqlens[%" PRId64 "] = %" PRId64,
                         function, n, bound, n - 1, before);
    if (n == N && bound > T)
        return gdni_fail(GDN_STATUS_BAD_DATA,
                         "%s: cu_seqlens[%" PRId64 "] is %" PRId64
                         ", expected at most T = %" PRId64,
                         function, n, bound, T);
    return GDN_STATUS_OK;
}

gdn_status gdni_check_cu_seqlens(const char *function, const int64_t *cu_seqlens, int64_t N,
                                 int64_t T) {
    if (!cu_seqlens) {
        GDNI_REQUIRE(T % N == 0,
                     "%s: T = %" PRId64 " is not a multiple of N = %" PRId64
                     ", which is needed without cu_seqlens",
                     function, T, N);
        return GDN_STATUS_OK;
    }
    for (int64_t n = 0; n <= N; ++n)
        GDN_TRY(gdni_check_bound(function, N, T, n, n > 0 ? cu_seqlens[n - 1] : 0, cu_seqlens[n]));
    return GDN_STATUS_OK;
}

void gdni_inputs(const gdn_problem *p, const gdn_tensors *t, gdni_input inputs[GDNI_INPUTS]) {
    const gdn_dtype real = p->dtype, state = gdni_state_dtype(p->dtype);
    const int64_t KV = (int64_t)p->K * p->V;
    const gdn_strides gate = {p->Hv, 1}, states = {p->Hv * KV, KV};
    const gdni_input all[GDNI_INPUTS] = {
        {"q", t->q, real, p->T, p->Hk, p->K, p->q_strides, 0},
        {"k", t->k, real, p->T, p->Hk, p->K, p->k_strides, 0},
        {"v", t->v, real, p->T, p->Hv, p->V, p->v_strides, 0},
        {"g", t->g, state, p->T, p->Hv, 1, gate, 1},
        {"beta", t->beta, state, p->T, p->Hv, 1, gate, 0},
        {"do", t->do_, real, p->T, p->Hv, p->V, p->o_strides, 0},
        {"initial_state", t->initial_state, state, p->N, p->Hv, KV, states, 0},
        {"dht", t->dht, state, p->N, p->Hv, KV, states, 0}};
    memcpy(inputs, all, sizeof(all));
}

gdn_status gdni_bad_value(const char *function, const gdni_input *in, int64_t index, double x) {
    return gdni_fail(GDN_STATUS_BAD_DATA,
                     "%s: %s at [%" PRId64 ", %" PRId64 ", %" PRId64
                     "] is %g, expected a finite number%s",
                     function, in->name, index / in->dim / in->heads, index / in->dim % in->heads,
                     index % in->dim, x, in->log_gate ? " that is not positive" : "");
}

gdn_status gdni_check_values(const char *function, const gdn_problem *p, const gdn_tensors *t) {
    gdni_input inputs[GDNI_INPUTS];
    gdni_inputs(p, t, inputs);
    for (int i = 0; i < GDNI_INPUTS; ++i) {
        const gdni_input *in = &inputs[i];
        const int64_t rows = in->data ? in->rows * in->heads : 0;
        for (int64_t row = 0; row < rows; ++row)
            for (int64_t j = 0; j < in->dim; ++j) {
                const double x = gdni_load(in->dtype, in->data,
                                           row / in->heads * in->strides.token +
                                               row % in->heads * in->strides.head + j);
                if (!isfinite(x) || (in->log_gate && x > 0))
                    return gdni_bad_value(function, in, row * in->dim + j, x);
            }
    }
    return GDN_STATUS_OK;
}
