/* gdn plan: how a case is cut into segments on a device, or into shards over ranks and what these
 * would exchange. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "card.h"
#include "gdn_dist.h"
#include "gdn_io.h"
#include "internal.h"
#include "options.h"

int cli_plan(int argc, char **argv);

static const cli_syntax syntax = {
    "plan",
    CLI_OPT_RANKS | CLI_OPT_CARD | CLI_OPT_OUTPUT | CLI_OPT_BACKEND | CLI_OPT_DTYPE,
    {"CASE.h5", NULL},
    "usage: gdn plan CASE.h5 [--multiprocessors N] [--dtype fp32|bf16|fp16] [--exact] [-o "
    "PLAN.svg]\n"
    "       gdn plan CASE.h5 --ranks P [--backend reference|cpu] [--dtype fp64|fp32|bf16|fp16]\n"
    "                [--exact]\n"
    "\n"
    "Without --ranks: into which segments one device cuts the case's sequences, what that is\n"
    "estimated to cost, and how each head crosses the borders: by a warm-up where the bound on "
    "its\n"
    "decay, the sum of g + log max(1, |1 - beta |k|^2|), falls below the threshold within a "
    "segment,\n"
    "exactly otherwise. The same code decides on the device. -o draws time across "
    "multiprocessors.\n"
    "Default: bf16, 132 multiprocessors.\n"
    "\n"
    "With --ranks: for P even shards, what crosses each boundary in one forward and backward, "
    "head\n"
    "by head, and why. Needs no MPI. A head crosses early where the state that leaves a shard is\n"
    "known before the one that enters it: its sequence began in the shard, or the bound over the\n"
    "shard is below the threshold. Otherwise it waits for its left neighbour. What crosses is one\n"
    "state either way.\n"
    "\n"
    "Exit: 0 printed, 2 bad usage, file or problem, 3 no such backend here, 4 other failure.\n"
    "\n"
    "example: gdn plan step.case.h5 -o plan.svg\n"
    "         gdn plan step.case.h5 --ranks 4\n"};

typedef struct plan_work {
    const cli_options *o;
    const gdn_context *context;
    const gdn_io_case *c;
    gdn_problem problem; /* defaults filled in */
} plan_work;

static gdn_shard shard_of(const plan_work *w, int32_t rank) {
    gdn_shard shard = GDN_SHARD_INIT;
    shard.T = w->c->T;
    shard.N = w->c->N;
    shard.cu_seqlens = w->c->cu_seqlens;
    gdn_shard_even(&shard, rank, w->o->ranks);
    return shard;
}

/* A run of a case's rows in dtype; row: elements of one. */
static gdn_status convert_rows(gdn_dtype dtype, const double *from, int64_t first, int64_t count,
                               int64_t row, void **out) {
    *out = malloc(gdn_dtype_size(dtype) * (size_t)(count * row) + 1);
    if (!*out)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "no memory for %" PRId64 " tokens", count);
    return gdn_convert(dtype, *out, GDN_DTYPE_FP64, from + first * row, count * row);
}

/* Bounds [Hv] over the tokens [first, first + count) of one sequence. */
static gdn_status find_bounds(const plan_work *w, int64_t first, int64_t count, double *bounds) {
    const gdn_dtype real = w->problem.dtype, state = gdni_state_dtype(real);
    gdn_problem p = w->problem;
    gdn_tensors t = GDN_TENSORS_INIT;
    gdn_segment segment = GDN_SEGMENT_INIT;
    gdn_sizes sizes = GDN_SIZES_INIT;
    void *k = NULL, *v = NULL, *g = NULL, *beta = NULL;
    gdn_status status;
    p.T = count;
    p.N = 1;
    GDN_TRY(gdn_problem_sizes(w->context, &p, &sizes));
    t.workspace_size = sizes.segment_workspace;
    t.workspace = aligned_alloc(256, (sizes.segment_workspace + 256) / 256 * 256);
    segment.decay_bound = malloc(gdn_dtype_size(state) * (size_t)p.Hv);
    GDN_TRY_GOTO(convert_rows(real, w->c->k, first, count, (int64_t)p.Hk * p.K, &k), cleanup);
    GDN_TRY_GOTO(convert_rows(real, w->c->v, first, count, (int64_t)p.Hv * p.V, &v), cleanup);
    GDN_TRY_GOTO(convert_rows(state, w->c->g, first, count, p.Hv, &g), cleanup);
    GDN_TRY_GOTO(convert_rows(state, w->c->beta, first, count, p.Hv, &beta), cleanup);
    if (!t.workspace || !segment.decay_bound)
        GDN_TRY_GOTO(gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "no memory for the bounds"), cleanup);
    t.q = t.k = k; /* the bound does not look at q */
    t.v = v;
    t.g = g;
    t.beta = beta;
    GDN_TRY_GOTO(gdn_segment_forward(w->context, &p, &t, &segment, NULL), cleanup);
    GDN_TRY_GOTO(gdn_convert(GDN_DTYPE_FP64, bounds, state, segment.decay_bound, p.Hv), cleanup);
cleanup:
    free(t.workspace);
    free(segment.decay_bound);
    free(k);
    free(v);
    free(g);
    free(beta);
    return status;
}

static void print_shards(const plan_work *w) {
    printf("%d ranks, %s %s, threshold %g\n\n%6s %22s %16s\n", w->o->ranks,
           gdn_backend_name(gdn_context_backend(w->context)), gdn_dtype_name(w->problem.dtype),
           w->problem.flags & GDN_FLAG_EXACT ? (double)-INFINITY : w->problem.decay_threshold,
           "rank", "tokens", "sequences");
    for (int32_t rank = 0; rank < w->o->ranks; ++rank) {
        const gdn_shard shard = shard_of(w, rank);
        gdn_shard_part part = GDN_SHARD_PART_INIT;
        char tokens[48], sequences[48] = "none";
        if (gdn_shard_find(&shard, rank == w->o->ranks - 1, &part))
            return;
        snprintf(tokens, sizeof(tokens), "[%" PRId64 ", %" PRId64 ")", shard.first,
                 shard.first + shard.count);
        if (part.sequences > 0)
            snprintf(sequences, sizeof(sequences), "%" PRId64 " to %" PRId64, part.first_sequence,
                     part.first_sequence + part.sequences - 1);
        printf("%6d %22s %16s\n", rank, tokens, sequences);
    }
}

/* One boundary; counts the heads that have to wait. */
static gdn_status print_boundary(const plan_work *w, int32_t rank, int *crosses, int32_t *waiting) {
    const gdn_shard shard = shard_of(w, rank);
    const gdn_problem *p = &w->problem;
    const double threshold = p->decay_threshold;
    gdn_shard_part part = GDN_SHARD_PART_INIT;
    GDN_TRY(gdn_shard_find(&shard, rank == w->o->ranks - 1, &part));
    *crosses = part.to_right;
    printf("\nrank %d to %d, token %" PRId64 ": ", rank, rank + 1, shard.first + shard.count);
    if (!part.to_right) {
        printf("nothing, no sequence goes on there\n");
        return GDN_STATUS_OK;
    }
    printf("sequence %" PRId64 ", %" PRId64 " bytes each way\n%6s %12s  %-8s %s\n",
           part.first_sequence + part.sequences - 1, gdn_shard_state_bytes(p), "head", "bound",
           "crosses", "because");
    double *bounds = malloc(sizeof(*bounds) * (size_t)p->Hv);
    if (!bounds)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "no memory for the bounds");
    const int64_t start = gdn_shard_start(&shard, &part, part.sequences - 1);
    gdn_status status = find_bounds(w, shard.first + start, shard.count - start, bounds);
    for (int32_t h = 0; h < p->Hv && status == GDN_STATUS_OK; ++h) {
        const int below = bounds[h] < threshold && !(p->flags & GDN_FLAG_EXACT);
        const int final = !part.through || below;
        *waiting += !final;
        printf("%6d %12.4g  %-8s ", h, bounds[h], final ? "early" : "waits");
        if (!part.through)
            printf("the sequence began here\n");
        else if (below)
            printf("the bound is below %g: truncated\n", threshold);
        else if (p->flags & GDN_FLAG_EXACT)
            printf("--exact truncates nothing\n");
        else
            printf("the bound is not below %g\n", threshold);
    }
    free(bounds);
    return status;
}

/* Bytes that the busiest rank sends in forward, here and in the usual alternatives. */
static void print_alternatives(const plan_work *w, int boundaries) {
    const gdn_problem *p = &w->problem;
    const int64_t element = (int64_t)gdn_dtype_size(p->dtype), P = w->o->ranks;
    const int64_t tokens = (p->T + P - 1) / P, key = (int64_t)p->Hk * p->K;
    const int64_t value = (int64_t)p->Hv * p->V;
    printf("\nbytes that one rank sends in forward\n"
           "%14" PRId64 "  states, at any T\n"
           "%14" PRId64 "  a ring of k and v would: (P - 1) T/P (Hk K + Hv V)\n"
           "%14" PRId64 "  an all-to-all of q, k, v, o would: (P - 1)/P T/P (2 Hk K + 2 Hv V)\n",
           boundaries ? gdn_shard_state_bytes(p) : 0, (P - 1) * tokens * (key + value) * element,
           (P - 1) * tokens * 2 * (key + value) * element / P);
}

static gdn_status print_plan(const plan_work *w) {
    int boundaries = 0, crosses = 0;
    int32_t waiting = 0;
    print_shards(w);
    for (int32_t rank = 0; rank + 1 < w->o->ranks; ++rank) {
        GDN_TRY(print_boundary(w, rank, &crosses, &waiting));
        boundaries += crosses;
    }
    printf(
        "\n%d of %d boundaries are crossed, by %d heads each; %d times a head waits for its left "
        "neighbour\n",
        boundaries, w->o->ranks - 1, w->problem.Hv, waiting);
    print_alternatives(w, boundaries);
    return GDN_STATUS_OK;
}

static int plan_case(const cli_options *o, const gdn_context *context, const gdn_io_case *c) {
    plan_work w = {.o = o, .context = context, .c = c};
    gdn_problem p = GDN_PROBLEM_INIT;
    p.dtype = o->dtype;
    p.flags = o->exact ? GDN_FLAG_EXACT : 0;
    p.T = c->T, p.N = c->N, p.Hk = c->Hk, p.Hv = c->Hv, p.K = c->K, p.V = c->V;
    p.scale = c->scale;
    gdn_status status = gdn_problem_supported(context, &p);
    if (status == GDN_STATUS_OK)
        status = gdni_problem_check("gdn plan", &p, &w.problem);
    if (status == GDN_STATUS_OK)
        status = print_plan(&w);
    return status == GDN_STATUS_OK ? CLI_OK : cli_report_file(o->command, o->path[0], status);
}

int cli_plan(int argc, char **argv) {
    cli_options options;
    gdn_context *context = NULL;
    gdn_io_case c = {.size = sizeof(c)};
    int code = cli_parse(&syntax, argc, argv, &options);
    if (code != CLI_GO_ON)
        return code;
    if (options.ranks && (options.output || options.multiprocessors))
        return cli_usage("plan", "expected -o and --multiprocessors without --ranks only");
    if (!options.ranks) {
        const gdn_status status = gdn_io_case_read(options.path[0], &c);
        code = status == GDN_STATUS_OK ? cli_plan_card(&options, &c)
                                       : cli_report_file(options.command, options.path[0], status);
        gdn_io_case_free(&c);
        return code;
    }
    if (options.backend == GDN_BACKEND_AUTO)
        options.backend = GDN_BACKEND_CPU;
    if (options.backend == GDN_BACKEND_CUDA)
        return cli_usage("plan", "--backend: expected reference or cpu, found 'cuda'");
    code = cli_open_context(&options, GDN_IO_CASE, &context);
    if (code == CLI_GO_ON) {
        const gdn_status status = gdn_io_case_read(options.path[0], &c);
        code = status == GDN_STATUS_OK ? plan_case(&options, context, &c)
                                       : cli_report_file(options.command, options.path[0], status);
    }
    gdn_io_case_free(&c);
    gdn_context_destroy(context);
    return code;
}
