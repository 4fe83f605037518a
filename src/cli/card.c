#include "card.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "internal.h"

enum {
    /* An H100 or H200, unless --multiprocessors says otherwise. */
    MULTIPROCESSORS = 132,
    CAPABILITY = 90,
    SHARED_MEMORY = 232448
};

static void print_candidates(const gdni_plan *plan) {
    const gdni_plan_problem *p = &plan->problem;
    printf("%8s %9s %9s %12s %22s\n", "segments", "length", "exact", "warm-up",
           "megacycles of a pass");
    printf("%8s %9s %9s %12s %12s %12s\n", "", "chunks", "heads", "chunks, most", "forward",
           "backward");
    for (int i = 0; i < GDNI_PLAN_CANDIDATES; ++i) {
        const gdni_plan_candidate *c = &plan->candidates[i];
        if (i > 0 &&
            (c->segments - p->N > p->max_borders || c->length == plan->candidates[i - 1].length))
            break;
        printf("%8" PRId64 " %9" PRId64 " %9" PRId64 " %12" PRId64 " %12.3f %12.3f%s\n",
               c->segments, c->length, c->exact_heads, c->warm_max, 1e-6 * (double)c->cost[0],
               1e-6 * (double)c->cost[1],
               !p->segments && c->length == plan->choice.length ? "  <- taken" : "");
    }
}

typedef struct head_summary {
    int64_t borders, exact, least, most; /* chunks of warm-up at the others, either side */
} head_summary;

static head_summary summarise_head(const gdni_plan *plan, int32_t head) {
    head_summary h = {0, 0, INT64_MAX, 0};
    for (int64_t i = head; i < plan->count; i += plan->problem.Hv) {
        const gdni_work_item *item = &plan->items[i];
        if (item->flags & GDNI_ITEM_FIRST)
            continue;
        ++h.borders;
        if (item->entry == GDNI_START_EXACT) {
            ++h.exact;
            continue;
        }
        const int64_t left = item->stored - item->first;
        const int64_t right = item[-plan->problem.Hv].late - item[-plan->problem.Hv].last;
        const int64_t low = left < right ? left : right, high = left < right ? right : left;
        h.least = low < h.least ? low : h.least;
        h.most = high > h.most ? high : h.most;
    }
    return h;
}

static void print_heads(const gdni_plan *plan) {
    printf("\n%6s %8s  %s\n", "head", "borders", "how it crosses them");
    for (int32_t i = 0; i < plan->problem.Hv; ++i) {
        const head_summary h = summarise_head(plan, i);
        printf("%6d %8" PRId64 "  ", i, h.borders);
        if (!h.borders)
            printf("-");
        else if (h.exact == h.borders)
            printf("exactly: it does not decay within a segment");
        else
            printf("a warm-up of %" PRId64 " to %" PRId64 " chunks", h.least, h.most);
        if (h.exact && h.exact < h.borders)
            printf("; %" PRId64 " of them exactly", h.exact);
        printf("\n");
    }
}

static void print_segments(const gdni_plan *plan) {
    const gdni_plan_problem *p = &plan->problem;
    printf("\n%8s %9s %12s\n", "segment", "sequence", "chunks");
    for (int64_t i = 0; i < plan->count; i += p->Hv) {
        const gdni_work_item *item = &plan->items[i];
        char chunks[48];
        snprintf(chunks, sizeof(chunks), "[%" PRId64 ", %" PRId64 ")", item->stored, item->last);
        printf("%8" PRId64 " %9d %12s\n", i / p->Hv, item->sequence, chunks);
    }
}

int cli_plan_card(const cli_options *o, const gdn_io_case *c) {
    const gdni_plan_device device = {o->multiprocessors ? o->multiprocessors : MULTIPROCESSORS,
                                     CAPABILITY, SHARED_MEMORY};
    const gdni_plan_data data = {c->k, c->g, c->beta, c->cu_seqlens};
    gdn_problem given = GDN_PROBLEM_INIT, p;
    gdni_plan plan = {.items = NULL};
    given.dtype = o->dtype_given ? o->dtype : GDN_DTYPE_BF16;
    given.flags = o->exact ? GDN_FLAG_EXACT : 0;
    given.T = c->T, given.N = c->N, given.Hk = c->Hk, given.Hv = c->Hv, given.K = c->K;
    given.V = c->V, given.scale = c->scale;
    if (given.dtype == GDN_DTYPE_FP64)
        return cli_usage("plan",
                         "--dtype: expected fp32, bf16 or fp16 without --ranks, found fp64");
    gdn_status status = gdni_problem_check("gdn plan", &given, &p);
    if (status == GDN_STATUS_OK)
        status = gdni_plan_make(&device, &p, &data, &plan);
    if (status == GDN_STATUS_OK) {
        printf("%" PRId64 " sequences, %" PRId64 " chunks of %d tokens, %d v-heads, %s, threshold "
               "%g; %d multiprocessors\n\n",
               p.N, plan.chunk_start[p.N], GDNI_PORTABLE_CHUNK(gdn_dtype_size(p.dtype)), p.Hv,
               gdn_dtype_name(p.dtype), (double)plan.problem.threshold, device.multiprocessors);
        if (plan.problem.max_borders)
            print_candidates(&plan);
        else
            printf("Nothing is cut: the sequences fill the device, or are too short to gain.\n");
        print_segments(&plan);
        print_heads(&plan);
        if (o->output)
            status = cli_card_picture(&plan, o->output);
    }
    gdni_plan_free(&plan);
    return status == GDN_STATUS_OK ? CLI_OK : cli_report_file(o->command, o->path[0], status);
}
