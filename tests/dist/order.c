/*
 * What neighbours wait for goes first, for three ranks: the states of heads that decay are sent
 * before anything is waited for, those of the others as soon as the neighbour's have come, and all
 * of them before the main kernel has written a single output.
 */
#include "problem.h"

enum {
    RANKS = 3,
    T_EACH = 64,
    HV = 2, /* the first decays within a shard, the second not at all */
    DIM = 16,
    EVENTS = 32
};

/* r: a receive is posted, s: a send, w: a wait; capital where the output is written. */
static struct {
    gdn_transport original;
    const float *output;
    char events[EVENTS + 1];
    int count;
} seen;

static void note(char event) {
    if (seen.count < EVENTS)
        seen.events[seen.count++] = isnan(seen.output[0]) ? event : (char)(event - 'a' + 'A');
}

static gdn_status send_noted(gdn_transport *t, int32_t to, int32_t tag, const void *data,
                             size_t bytes, gdn_request **request) {
    note('s');
    return seen.original.send(t, to, tag, data, bytes, request);
}

static gdn_status receive_noted(gdn_transport *t, int32_t from, int32_t tag, void *data,
                                size_t bytes, gdn_request **request) {
    note('r');
    return seen.original.receive(t, from, tag, data, bytes, request);
}

static gdn_status wait_noted(gdn_transport *t, gdn_request **request, const char *what,
                             size_t *received) {
    if (*request)
        note('w');
    return seen.original.wait(t, request, what, received);
}

static void fill(float *data[TENSORS], int32_t rank) {
    harness_random r = {(uint64_t)rank + 1};
    gdn_problem p = GDN_PROBLEM_INIT;
    p.T = T_EACH, p.Hv = HV, p.K = p.V = DIM;
    for (int i = 0; i < TENSORS; ++i) {
        const int64_t count = tensor_rows(&p, i) * tensor_row(&p, i);
        data[i] = i == INITIAL || i == DHT ? NULL : need(sizeof(float) * (size_t)count);
        for (int64_t j = 0; data[i] && j < count; ++j)
            data[i][j] = i > DO      ? NAN
                         : i == G    ? (j % HV ? 0.0f : -1.0f)
                         : i == BETA ? (float)harness_uniform(&r)
                                     : (float)(harness_normal(&r) / sqrt(DIM));
    }
}

static void check_events(const char *pass, int32_t rank, const char *expected) {
    seen.events[seen.count] = 0;
    CHECK(!strcmp(seen.events, expected), "%s, rank %d: events %s, expected %s", pass, rank,
          seen.events, expected);
    seen.count = 0;
}

int main(void) {
    /* In the middle: a receive, the decayed head's state, the neighbour's, the other head's; then
     * the main kernel and the ends of both sends. At the far end two messages come. */
    static const char *const forward[RANKS] = {"sW", "rswsWW", "rwrw"};
    static const char *const backward[RANKS] = {"rwrw", "rswsWW", "sW"};
    gdn_dist *dist = test_begin(20.0, 0);
    gdn_transport *t = gdn_dist_transport(dist, GDN_DIST_SEQUENCE);
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context = NULL;
    gdn_dist_plan *plan = NULL;
    gdn_shard shard = GDN_SHARD_INIT;
    gdn_problem problem = GDN_PROBLEM_INIT;
    gdn_sizes sizes = GDN_SIZES_INIT;
    float *data[TENSORS];
    CHECK(t->ranks == RANKS, "run it with -n %d", RANKS);
    config.backend = GDN_BACKEND_CPU;
    config.threads = 1;
    must(dist, gdn_context_create(&context, &config));
    shard.T = RANKS * T_EACH;
    gdn_shard_even(&shard, t->rank, RANKS);
    problem.Hv = HV, problem.K = problem.V = DIM;
    must(dist, gdn_dist_plan_create(&plan, dist, context, &problem, &shard));
    must(dist, gdn_dist_plan_sizes(plan, &sizes));
    fill(data, t->rank);
    gdn_tensors tensors = tensors_of((void *const *)data);
    tensors.saved = need(sizes.saved);
    tensors.workspace_size = sizes.forward_workspace + sizes.backward_workspace;
    tensors.workspace = need(tensors.workspace_size);

    seen.original = *t;
    t->send = send_noted;
    t->receive = receive_noted;
    t->wait = wait_noted;
    seen.output = data[O];
    must(dist, gdn_dist_forward(plan, &tensors, NULL));
    check_events("forward", t->rank, forward[t->rank % RANKS]);
    seen.output = data[DV];
    must(dist, gdn_dist_backward(plan, &tensors, NULL));
    check_events("backward", t->rank, backward[t->rank % RANKS]);
    *t = seen.original;

    for (int i = 0; i < TENSORS; ++i)
        free(data[i]);
    free(tensors.saved);
    free(tensors.workspace);
    gdn_dist_plan_destroy(plan);
    gdn_context_destroy(context);
    return test_finish(dist);
}
