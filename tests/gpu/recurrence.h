/* The float64 recurrence over some heads of a large problem, on all cores of the host. */
#ifndef GDN_TEST_RECURRENCE_H
#define GDN_TEST_RECURRENCE_H

#include "gdn.h"

/*
 * Hv v-heads, a multiple of Hk k-heads, each head's rows dense: q, k, dq, dk [Hk][T][K]; v, do, o,
 * dv [Hv][T][V]; g, beta, dg, dbeta [Hv][T]; the states [Hv][N][K][V], or
 * initial_state and dht NULL. The outputs are
 * allocated by recurrence_solve; everything goes with recurrence_free.
 */
typedef struct recurrence {
    int64_t T, N;
    const int64_t *cu; /* NULL: equal lengths */
    int32_t Hk, Hv, K, V;
    uint32_t flags; /* L2NORM_QK or 0 */
    double *q, *k, *v, *do_, *g, *beta, *initial_state, *dht;
    double *o, *dq, *dk, *dv, *dg, *dbeta, *final_state, *dh0;
} recurrence;

void recurrence_solve(recurrence *r);
void recurrence_free(recurrence *r);

#endif /* GDN_TEST_RECURRENCE_H */
