#include "bench.h"

const char *const bench_tensor_names[BENCH_TENSORS] = {
    "q",           "k",  "v",  "g",  "beta", "initial_state", "do", "dht", "o",
    "final_state", "dq", "dk", "dv", "dg",   "dbeta",         "dh0"};

static int is_state(bench_tensor i) {
    return i == BENCH_H0 || i == BENCH_DHT || i == BENCH_HT || i == BENCH_DH0;
}

static int is_gate(bench_tensor i) {
    return i == BENCH_G || i == BENCH_BETA || i == BENCH_DG || i == BENCH_DBETA;
}

int bench_tensor_is_key(bench_tensor i) {
    return i == BENCH_Q || i == BENCH_K || i == BENCH_DQ || i == BENCH_DK;
}

int64_t bench_tensor_rows(const gdn_problem *p, bench_tensor i) {
    return is_state(i) ? p->N : p->T;
}

int32_t bench_tensor_heads(const gdn_problem *p, bench_tensor i) {
    return bench_tensor_is_key(i) ? p->Hk : p->Hv;
}

int64_t bench_tensor_dim(const gdn_problem *p, bench_tensor i) {
    return is_gate(i)               ? 1
           : is_state(i)            ? (int64_t)p->K * p->V
           : bench_tensor_is_key(i) ? p->K
                                    : p->V;
}

gdn_dtype bench_tensor_dtype(const gdn_problem *p, bench_tensor i) {
    if (!is_state(i) && !is_gate(i))
        return p->dtype;
    return p->dtype == GDN_DTYPE_FP64 ? GDN_DTYPE_FP64 : GDN_DTYPE_FP32;
}
