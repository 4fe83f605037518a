/*
 * The plan of segments on the host: every chunk is written once, warm-ups are the shortest that
 * reach the threshold, what does not decay takes the exact path with all that it needs, and the
 * cost model cuts where that pays.
 */
#include "harness.h"
#include "internal.h"
#include "plan/host.h"

static const gdni_plan_device h200 = {132, 90, 232448};

typedef struct problem_data {
    gdn_problem p;
    gdni_plan_data data;
    double *k, *g, *beta;
    int64_t cu[9];
} problem_data;

/* Sequences of these lengths, ended by -1; head h has gates of -decay[h] softplus(randn). */
static void draw(problem_data *d, const int64_t *lengths, int32_t Hk, int32_t Hv,
                 const double *decay, double key, harness_random *random) {
    gdn_problem p = GDN_PROBLEM_INIT;
    p.N = 0;
    d->cu[0] = 0;
    for (; lengths[p.N] >= 0; ++p.N)
        d->cu[p.N + 1] = d->cu[p.N] + lengths[p.N];
    p.dtype = GDN_DTYPE_BF16;
    p.T = d->cu[p.N];
    p.Hk = Hk;
    p.Hv = Hv;
    d->k = malloc(sizeof(double) * (size_t)(p.T * Hk * p.K + 1));
    d->g = malloc(sizeof(double) * (size_t)(p.T * Hv + 1));
    d->beta = malloc(sizeof(double) * (size_t)(p.T * Hv + 1));
    for (int64_t i = 0; i < p.T * Hk * p.K; ++i)
        d->k[i] = key / sqrt(p.K);
    for (int64_t i = 0; i < p.T * Hv; ++i) {
        d->g[i] = -decay[i % Hv] * log1p(exp(harness_normal(random)));
        d->beta[i] = 0.9;
    }
    CHECK(gdni_problem_check("plan", &p, &d->p) == GDN_STATUS_OK, "%s", gdn_last_error());
    const gdni_plan_data data = {d->k, d->g, d->beta, d->cu};
    d->data = data;
}

static void release(problem_data *d) {
    free(d->k);
    free(d->g);
    free(d->beta);
}

static gdni_plan make(const problem_data *d) {
    gdni_plan plan;
    CHECK(gdni_plan_make(&h200, &d->p, &d->data, &plan) == GDN_STATUS_OK, "%s", gdn_last_error());
    return plan;
}

static float sum_of(const gdni_plan_problem *p, int32_t head, int64_t first, int64_t last) {
    float sum = 0;
    for (int64_t i = first; i < last; ++i)
        sum += p->bounds[i * p->Hv + head];
    return sum;
}

static float sum_backwards(const gdni_plan_problem *p, int32_t head, int64_t first, int64_t last) {
    float sum = 0;
    for (int64_t i = last - 1; i >= first; --i)
        sum += p->bounds[i * p->Hv + head];
    return sum;
}

/* The border on an item's left, against the item before it. */
static void check_border(const gdni_plan *plan, const gdni_work_item *right) {
    const gdni_plan_problem *p = &plan->problem;
    const gdni_work_item *left = right - p->Hv;
    CHECK(right->slot == left->slot + p->Hv && right->slot >= 0 &&
              right->slot < p->max_borders * p->Hv,
          "slots %d, %d", left->slot, right->slot);
    CHECK((right->entry == GDNI_START_EXACT) == (left->exit == GDNI_START_EXACT), "one side only");
    CHECK(!(right->flags & GDNI_ITEM_GRADIENT) == (right->entry != GDNI_START_EXACT), "gradient");
    CHECK(!(left->flags & GDNI_ITEM_STATE) == (left->exit != GDNI_START_EXACT), "state");
    if (right->entry == GDNI_START_EXACT) {
        CHECK(right->first == right->stored && left->late == left->last, "both ways");
        return;
    }
    CHECK(right->entry == GDNI_START_ZERO && left->exit == GDNI_START_ZERO, "a warm-up from zero");
    CHECK(right->first < right->stored && left->late > left->last, "no warm-up");
    CHECK(sum_backwards(p, right->head, right->first, right->stored) < p->threshold &&
              !(sum_backwards(p, right->head, right->first + 1, right->stored) < p->threshold),
          "the warm-up of the state is not the shortest");
    CHECK(sum_of(p, left->head, left->last, left->late) < p->threshold &&
              !(sum_of(p, left->head, left->last, left->late - 1) < p->threshold),
          "the warm-up of the gradient is not the shortest");
}

static void check_plan(const gdni_plan *plan) {
    const gdni_plan_problem *p = &plan->problem;
    const int64_t chunks = plan->chunk_start[p->N];
    unsigned char *written = calloc((size_t)(chunks * p->Hv + 1), 1);
    CHECK(plan->count % p->Hv == 0 && plan->count / p->Hv - p->N <= p->max_borders, "%lld items",
          (long long)plan->count);
    for (int64_t i = 0; i < plan->count; ++i) {
        const gdni_work_item *item = &plan->items[i];
        const int64_t start = plan->chunk_start[item->sequence];
        const int64_t end = plan->chunk_start[item->sequence + 1];
        CHECK(item->head == i % p->Hv, "head %d", item->head);
        CHECK(start <= item->first && item->first <= item->stored && item->stored <= item->last &&
                  item->last <= item->late && item->late <= end,
              "item %lld", (long long)i);
        for (int64_t c = item->stored; c < item->last; ++c)
            ++written[c * p->Hv + item->head];
        CHECK(!(item->flags & GDNI_ITEM_FIRST) == (item->stored != start) || start == end,
              "first of its sequence");
        CHECK(!(item->flags & GDNI_ITEM_LAST) == (item->last != end) || start == end,
              "last of its sequence");
        CHECK(!(item->flags & GDNI_ITEM_TRANSFER) ==
                  !(item->entry == GDNI_START_EXACT && item->exit == GDNI_START_EXACT),
              "transfer");
        if (!(item->flags & GDNI_ITEM_FIRST))
            check_border(plan, item);
        else
            CHECK(item->entry == GDNI_START_GIVEN, "entry %d", item->entry);
        if (item->flags & GDNI_ITEM_LAST)
            CHECK(item->exit == GDNI_START_GIVEN, "exit %d", item->exit);
    }
    int64_t once = 0;
    for (int64_t i = 0; i < chunks * p->Hv; ++i)
        once += written[i] == 1;
    CHECK(once == chunks * p->Hv, "%lld of %lld chunks are written once", (long long)once,
          (long long)(chunks * p->Hv));
    free(written);
}

static int64_t exact_borders(const gdni_plan *plan, int32_t head) {
    int64_t count = 0;
    for (int64_t i = head; i < plan->count; i += plan->problem.Hv)
        count += plan->items[i].entry == GDNI_START_EXACT;
    return count;
}

static void test_forced(harness_random *random) {
    static const int64_t lengths[][8] = {
        {1000, -1}, {0, 1, 64, 700, 0, 65, -1}, {64, -1}, {4096, 129, -1}};
    static const double decay[4] = {0, 0.02, 0.3, 8};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); ++i)
        for (int32_t segments = 1; segments < 70; segments = segments * 2 + 1)
            for (int exact = 0; exact < 2; ++exact) {
                problem_data d;
                draw(&d, lengths[i], 2, 4, decay, 1, random);
                d.p.segments = segments;
                d.p.flags = exact ? GDN_FLAG_EXACT : 0;
                gdni_plan plan = make(&d);
                check_plan(&plan);
                for (int32_t h = 0; h < 4 && exact; ++h)
                    CHECK(exact_borders(&plan, h) == plan.count / 4 - d.p.N, "a state was dropped");
                CHECK(exact_borders(&plan, 0) == plan.count / 4 - d.p.N, "head 0 does not decay");
                gdni_plan_free(&plan);
                release(&d);
            }
}

/* One long sequence of few heads is cut, and each head crosses as its gate says. */
static void test_few_heads(harness_random *random) {
    static const int64_t lengths[] = {32768, -1};
    static const double decay[2] = {0, 1};
    problem_data d;
    draw(&d, lengths, 1, 2, decay, 1, random);
    gdni_plan plan = make(&d);
    check_plan(&plan);
    CHECK(plan.count >= 2 * 8, "%lld items", (long long)plan.count);
    CHECK(exact_borders(&plan, 0) == plan.count / 2 - 1 && exact_borders(&plan, 1) == 0,
          "head 0 never decays, head 1 always does");
    gdni_plan_free(&plan);
    release(&d);
}

/* Keys of length 2 with beta = 0.9 stretch a state by |1 - 3.6|: gates of -12 a segment do not
 * decay. */
static void test_long_keys(harness_random *random) {
    static const int64_t lengths[] = {1024, -1};
    static const double decay[1] = {0.03};
    for (int key = 1; key < 3; ++key) {
        problem_data d;
        draw(&d, lengths, 1, 1, decay, key, random);
        d.p.segments = 2;
        gdni_plan plan = make(&d);
        check_plan(&plan);
        CHECK(exact_borders(&plan, 0) == (key == 2), "|k| = %d", key);
        gdni_plan_free(&plan);
        release(&d);
    }
}

/* A full device, and one whose sequences are short, cut nothing. */
static void test_uncut(harness_random *random) {
    static const int64_t many[] = {512, 512, 512, 512, 512, 512, 512, 512, -1},
                         little[] = {2048, -1};
    static const double decay[32] = {1};
    problem_data d;
    draw(&d, many, 16, 32, decay, 1, random);
    gdni_plan plan = make(&d);
    check_plan(&plan);
    CHECK(plan.count == d.p.N * 32, "%lld items", (long long)plan.count);
    gdni_plan_free(&plan);
    release(&d);
    draw(&d, little, 1, 2, decay, 1, random);
    plan = make(&d);
    CHECK(plan.count == 2 && plan.problem.max_borders == 0, "%lld items", (long long)plan.count);
    gdni_plan_free(&plan);
    release(&d);
}

/* 24 heads of two sequences, whose lengths the host does not know: cut where one has most of the
 * tokens, and not where both have half. */
static void test_unequal(harness_random *random) {
    static const int64_t lengths[][3] = {
        {28672, 4096, -1}, {4096, 28672, -1}, {24576, 8192, -1}, {16384, 16384, -1}};
    double decay[24];
    for (int h = 0; h < 24; ++h)
        decay[h] = h % 4 == 0 ? 0 : 0.1;
    for (int i = 0; i < 4; ++i) {
        problem_data d;
        draw(&d, lengths[i], 1, 24, decay, 1, random);
        gdni_plan plan = make(&d);
        check_plan(&plan);
        CHECK(plan.problem.max_borders > 0, "no room for borders");
        CHECK((plan.count > 2 * 24) == (i < 3), "%lld + %lld: %lld items", (long long)lengths[i][0],
              (long long)lengths[i][1], (long long)plan.count);
        CHECK(i != 1 || plan.items[0].last == plan.chunk_start[1], "the short one is cut");
        gdni_plan_free(&plan);
        release(&d);
    }
}

int main(void) {
    harness_random random = {11};
    test_forced(&random);
    test_few_heads(&random);
    test_long_keys(&random);
    test_uncut(&random);
    test_unequal(&random);
    return harness_finish();
}
