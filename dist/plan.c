/* Plans: the checks between ranks, this rank's part as a problem of its own, sizes. */
#include "plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ALIGNMENT = 256
};

static size_t aligned(size_t bytes) {
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* FNV-1a: tells batches with other boundaries apart. */
static uint64_t checksum(const int64_t *values, int64_t count) {
    const unsigned char *bytes = (const unsigned char *)values;
    uint64_t hash = UINT64_C(14695981039346656037);
    for (size_t i = 0; values && i < sizeof(*values) * (size_t)count; ++i)
        hash = (hash ^ bytes[i]) * UINT64_C(1099511628211);
    return hash;
}

static void describe(const gdn_dist_plan *plan, const gdn_shard *shard, char *text, size_t size) {
    const gdn_problem *p = &plan->problem;
    snprintf(text, size,
             "backend %s; dtype %s; T %" PRId64 "; N %" PRId64
             "; Hk %d; Hv %d; K %d; V %d; scale %.17g; flags 0x%x; decay_threshold %.17g; "
             "cu_seqlens %s with checksum %016" PRIx64,
             gdn_backend_name(gdn_context_backend(plan->context)), gdn_dtype_name(p->dtype),
             shard->T, shard->N, p->Hk, p->Hv, p->K, p->V, p->scale, p->flags, p->decay_threshold,
             shard->cu_seqlens ? "given" : "absent",
             checksum(shard->cu_seqlens, shard->cu_seqlens ? shard->N + 1 : 0));
}

/* This rank's part of the problem. */
static gdn_status localize(gdn_dist_plan *plan, const gdn_problem *problem,
                           const gdn_shard *shard) {
    static const char *const function = "gdn_dist_plan_create";
    const gdn_shard_part part = GDN_SHARD_PART_INIT;
    gdn_problem whole = GDN_PROBLEM_INIT;
    GDNI_COPY_STRUCT(&whole, problem, "gdn_dist_plan_create");
    plan->part = part;
    GDN_TRY(gdn_shard_find(shard, plan->group->rank == plan->group->ranks - 1, &plan->part));
    whole.T = shard->T;
    whole.N = shard->N;
    GDN_TRY(gdni_problem_check(function, &whole, &plan->problem));
    plan->problem.T = shard->count;
    plan->problem.N = plan->part.sequences > 0 ? plan->part.sequences : 1;
    plan->on_device = gdn_context_backend(plan->context) == GDN_BACKEND_CUDA;
    if (plan->on_device)
        plan->problem.flags |= GDN_FLAG_CU_SEQLENS_HOST;
    GDNI_REQUIRE(!plan->on_device || !plan->dist->nccl ||
                     gdni_nccl_device(plan->dist->nccl) == plan->context->device,
                 "%s: the context's device is %d, expected %d, which NCCL was set up for", function,
                 plan->context->device, gdni_nccl_device(plan->dist->nccl));
    GDN_TRY(gdn_problem_supported(plan->context, &plan->problem));
    plan->cu_seqlens = calloc((size_t)plan->problem.N + 1, sizeof(*plan->cu_seqlens));
    plan->firsts = calloc((size_t)plan->group->ranks + 1, sizeof(*plan->firsts));
    if (!plan->cu_seqlens || !plan->firsts)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "%s: no memory for cu_seqlens", function);
    for (int64_t i = 0; i <= plan->part.sequences; ++i)
        plan->cu_seqlens[i] = gdn_shard_start(shard, &plan->part, i);
    const int64_t n = plan->part.first_sequence;
    plan->sequence_start = shard->cu_seqlens ? shard->cu_seqlens[n] : n * (shard->T / shard->N);
    return GDN_STATUS_OK;
}

/* Raises *most to the segment workspace of a problem. */
static gdn_status raise_to_segment(const gdn_dist_plan *plan, const gdn_problem *segment,
                                   size_t *most) {
    gdn_sizes sizes = GDN_SIZES_INIT;
    GDN_TRY(gdn_problem_sizes(plan->context, segment, &sizes));
    if (sizes.segment_workspace > *most)
        *most = sizes.segment_workspace;
    return GDN_STATUS_OK;
}

/* Sizes of the backend for this part, and for every length that a segment pass may have. */
static gdn_status find_inner_sizes(gdn_dist_plan *plan) {
    const gdn_sizes init = GDN_SIZES_INIT;
    const int64_t *cu = plan->cu_seqlens + plan->problem.N;
    const int64_t lengths[2] = {plan->cu_seqlens[1], cu[0] - cu[-1]};
    size_t most = 0;
    plan->inner = init;
    GDN_TRY(gdn_problem_sizes(plan->context, &plan->problem, &plan->inner));
    if (!plan->part.from_left && !plan->part.to_right)
        return GDN_STATUS_OK;
    for (int i = 0; i < 2; ++i) {
        gdn_problem segment = gdni_dist_segment(plan, lengths[i]);
        GDN_TRY(raise_to_segment(plan, &segment, &most));
        /* On a device the length of a segment pass is that of the whole run for the host. */
        for (int64_t tail = GDNI_WARM_UP; !plan->on_device && tail < lengths[i]; tail *= 2) {
            segment = gdni_dist_segment(plan, tail);
            GDN_TRY(raise_to_segment(plan, &segment, &most));
        }
    }
    if (plan->on_device && plan->part.through) {
        const gdn_problem transfer = gdni_dist_transfer(plan, lengths[0]);
        GDN_TRY(gdn_problem_supported(plan->context, &transfer));
        GDN_TRY(raise_to_segment(plan, &transfer, &most));
    }
    if (plan->beside) {
        plan->segment_workspace = most;
        return GDN_STATUS_OK;
    }
    if (plan->inner.forward_workspace < most)
        plan->inner.forward_workspace = most;
    if (plan->inner.backward_workspace < most)
        plan->inner.backward_workspace = most;
    return GDN_STATUS_OK;
}

/* Offsets of the parts in workspace and saved; 0 bytes for what this rank does not need. */
typedef struct layout {
    size_t backend, segment, entry_rows, exit_rows, outgoing, incoming, states, bounds;
    size_t sums, cut, first_state, zeros, identity, workspace;
    size_t final, log_decay, entry, transfer, inner, saved; /* workspace, saved: bytes of all */
} layout;

static size_t place(size_t *end, size_t bytes) {
    const size_t at = *end;
    *end += aligned(bytes);
    return at;
}

/* A sum a block of 64 tokens and head, over the longer of the runs that cross. */
static size_t sums_bytes(const gdn_dist_plan *plan) {
    const int64_t *cu = plan->cu_seqlens + plan->problem.N;
    const int64_t first = plan->cu_seqlens[1], last = cu[0] - cu[-1];
    const int64_t blocks = ((first > last ? first : last) + GDNI_WARM_UP - 1) / GDNI_WARM_UP;
    return sizeof(double) * (size_t)(plan->problem.Hv * blocks);
}

static layout lay_out(const gdn_dist_plan *plan, int32_t backward) {
    const gdn_problem *p = &plan->problem;
    const gdn_shard_part *part = &plan->part;
    const size_t Hv = (size_t)p->Hv, element = gdn_dtype_size(plan->state_dtype);
    const size_t rows = (size_t)p->N * plan->states_bytes;
    const size_t square = Hv * (size_t)p->K * (size_t)p->K * element;
    const int crosses = part->from_left || part->to_right;
    layout l = {0};
    l.backend = backward ? plan->inner.backward_workspace : plan->inner.forward_workspace;
    place(&l.workspace, l.backend);
    l.segment = place(&l.workspace, plan->segment_workspace);
    l.entry_rows = place(&l.workspace, part->from_left && p->N > 1 ? rows : 0);
    l.exit_rows = place(&l.workspace, part->to_right && backward ? rows : 0);
    l.states = place(&l.workspace, crosses ? plan->states_bytes : 0);
    if (plan->on_device) {
        l.sums = place(&l.workspace, crosses ? sums_bytes(plan) : 0);
        l.cut = place(&l.workspace, crosses ? 4 * sizeof(int64_t) : 0);
        l.first_state = place(&l.workspace, crosses && !part->through ? plan->states_bytes : 0);
        l.zeros = place(&l.workspace, part->through ? gdni_dist_zeros(plan) : 0);
        l.identity = place(&l.workspace, part->through ? square : 0);
    } else {
        l.outgoing = place(&l.workspace, crosses ? plan->mail_bytes : 0);
        l.incoming = place(&l.workspace, crosses ? plan->mail_bytes : 0);
        l.bounds = place(&l.workspace, crosses ? Hv * element : 0);
    }
    l.final = place(&l.saved, Hv * sizeof(int32_t));
    l.log_decay = place(&l.saved, part->through && !plan->on_device ? Hv * element : 0);
    l.entry = place(&l.saved, crosses ? plan->states_bytes : 0);
    l.transfer = place(&l.saved, part->through ? square : 0);
    l.inner = place(&l.saved, plan->inner.saved);
    return l;
}

gdn_status gdni_dist_open(const gdn_dist_plan *plan, const char *function, int32_t backward,
                          const gdn_tensors *in, gdn_tensors *tensors, gdni_dist_memory *memory) {
    const gdn_tensors init = GDN_TENSORS_INIT;
    const layout l = lay_out(plan, backward);
    *tensors = init;
    GDNI_REQUIRE(in != NULL, "%s: tensors is NULL", function);
    GDN_TRY(gdni_copy_struct(function, tensors, sizeof(*tensors), in, in->size));
    GDNI_REQUIRE(tensors->saved != NULL, "%s: saved is NULL, expected %zu bytes", function,
                 l.saved);
    GDNI_REQUIRE(tensors->workspace_size >= l.workspace,
                 "%s: workspace_size is %zu, expected at least %zu bytes", function,
                 tensors->workspace_size, l.workspace);
    GDNI_REQUIRE((tensors->workspace || l.workspace == 0) &&
                     (uintptr_t)tensors->workspace % ALIGNMENT == 0,
                 "%s: workspace is at %p, expected memory at a multiple of %d", function,
                 tensors->workspace, ALIGNMENT);
    char *workspace = tensors->workspace, *saved = tensors->saved;
    memory->segment = workspace + l.segment;
    memory->entry_rows = workspace + l.entry_rows;
    memory->exit_rows = workspace + l.exit_rows;
    memory->outgoing = workspace + l.outgoing;
    memory->incoming = workspace + l.incoming;
    memory->states = workspace + l.states;
    memory->bounds = workspace + l.bounds;
    memory->sums = (double *)(void *)(workspace + l.sums);
    memory->cut = (int64_t *)(void *)(workspace + l.cut);
    memory->first_state = workspace + l.first_state;
    memory->zeros = workspace + l.zeros;
    memory->identity = workspace + l.identity;
    memory->final = (int32_t *)(void *)(saved + l.final);
    memory->log_decay = saved + l.log_decay;
    memory->entry = saved + l.entry;
    memory->transfer = saved + l.transfer;
    tensors->saved = plan->inner.saved ? saved + l.inner : NULL;
    tensors->workspace_size = l.backend;
    tensors->cu_seqlens = plan->cu_seqlens;
    return GDN_STATUS_OK;
}

/* Shards follow one another and cover the batch. */
static gdn_status check_cover(gdn_dist_plan *plan, const int64_t (*all)[2], int64_t T) {
    static const char *const function = "gdn_dist_plan_create";
    const int32_t ranks = plan->group->ranks;
    for (int32_t r = 0; r < ranks; ++r) {
        GDNI_REQUIRE(all[r][0] == plan->firsts[r],
                     "%s: the shard of rank %d starts at token %" PRId64 ", expected %" PRId64
                     ", where the one before it ends",
                     function, r, all[r][0], plan->firsts[r]);
        plan->firsts[r + 1] = all[r][0] + all[r][1];
    }
    GDNI_REQUIRE(plan->firsts[ranks] == T,
                 "%s: the shards end at token %" PRId64 ", expected T = %" PRId64, function,
                 plan->firsts[ranks], T);
    return GDN_STATUS_OK;
}

/* All ranks see the same table, and fail alike. */
static gdn_status compare_shards(gdn_dist_plan *plan, const gdn_shard *shard) {
    const int64_t mine[2] = {shard->first, shard->count};
    int64_t(*all)[2] = calloc((size_t)plan->group->ranks, sizeof(*all));
    if (!all)
        return gdni_dist_end(
            plan->dist,
            gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "gdn_dist_plan_create: no memory for the shards"));
    gdn_status status = plan->group->all_gather(plan->group, mine, all, sizeof(mine),
                                                "gdn_dist_plan_create: comparing shards");
    if (status != GDN_STATUS_OK) {
        free(all);
        return gdni_dist_end(plan->dist, status);
    }
    status = check_cover(plan, (const int64_t(*)[2])all, shard->T);
    free(all);
    return status == GDN_STATUS_OK ? status : gdni_dist_shared(plan->dist, status);
}

size_t gdni_dist_crossed(const gdn_dist_plan *plan) {
    return lay_out(plan, 0).inner;
}

static void find_sizes(gdn_dist_plan *plan) {
    const gdn_sizes init = GDN_SIZES_INIT;
    plan->sizes = init;
    plan->sizes.forward_workspace = lay_out(plan, 0).workspace;
    plan->sizes.backward_workspace = lay_out(plan, 1).workspace;
    plan->sizes.saved = lay_out(plan, 0).saved;
    plan->sizes.checked_report = plan->inner.checked_report;
}

static gdn_status set_up(gdn_dist_plan *plan, const gdn_problem *problem, const gdn_shard *shard) {
    char text[GDNI_TEXT] = "";
    gdn_status mine = localize(plan, problem, shard);
    if (mine == GDN_STATUS_OK) {
        const gdn_problem *p = &plan->problem;
        plan->state_dtype = gdni_state_dtype(p->dtype);
        plan->head_bytes = gdn_dtype_size(plan->state_dtype) * (size_t)p->K * (size_t)p->V;
        plan->states_bytes = plan->head_bytes * (size_t)p->Hv;
        plan->mail_bytes = (size_t)gdn_shard_state_bytes(p);
        plan->header_bytes = plan->mail_bytes - plan->states_bytes;
        if (plan->on_device && plan->group->device_send &&
            (plan->part.from_left || plan->part.to_right))
            mine = gdni_beside_create(plan, &plan->beside);
        if (mine == GDN_STATUS_OK)
            mine = find_inner_sizes(plan);
        if (mine == GDN_STATUS_OK && plan->on_device && !plan->group->device_send)
            mine = gdni_staging_create(plan, &plan->staging);
        describe(plan, shard, text, sizeof(text));
    }
    GDN_TRY(gdn_dist_agree(plan->dist, GDN_DIST_SEQUENCE, mine, "gdn_dist_plan_create", text));
    GDN_TRY(compare_shards(plan, shard));
    find_sizes(plan);
    return GDN_STATUS_OK;
}

gdn_status gdn_dist_plan_create(gdn_dist_plan **out, gdn_dist *dist, const gdn_context *context,
                                const gdn_problem *problem, const gdn_shard *shard) {
    const gdn_dist_traffic traffic = GDN_DIST_TRAFFIC_INIT;
    GDNI_REQUIRE(out && dist && context && problem && shard,
                 "gdn_dist_plan_create: plan, dist, context, problem or shard is NULL");
    *out = NULL;
    gdn_dist_plan *plan = calloc(1, sizeof(*plan));
    if (!plan)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "gdn_dist_plan_create: no memory");
    plan->dist = dist;
    plan->group = gdn_dist_transport(dist, GDN_DIST_SEQUENCE);
    plan->context = context;
    plan->traffic = traffic;
    gdn_status status = set_up(plan, problem, shard);
    if (status != GDN_STATUS_OK) {
        gdn_dist_plan_destroy(plan);
        return status;
    }
    *out = plan;
    return GDN_STATUS_OK;
}

void gdn_dist_plan_destroy(gdn_dist_plan *plan) {
    if (!plan)
        return;
    gdni_staging_destroy(plan->context, plan->staging);
    gdni_beside_destroy(plan->context, plan->beside);
    free(plan->cu_seqlens);
    free(plan->firsts);
    free(plan);
}

#define COPY_OUT(to, value, function)                                                              \
    do {                                                                                           \
        GDNI_REQUIRE(plan && (to), "%s: plan or %s is NULL", function, #to);                       \
        GDNI_REQUIRE((to)->size == sizeof(*(to)), "%s: %s: size is %zu, expected %zu", function,   \
                     #to, (to)->size, sizeof(*(to)));                                              \
        *(to) = (value);                                                                           \
    } while (0)

gdn_status gdn_dist_plan_local(const gdn_dist_plan *plan, gdn_dist_local *local) {
    gdn_dist_local all = GDN_DIST_LOCAL_INIT;
    if (plan) {
        all.problem = plan->problem;
        all.part = plan->part;
        all.cu_seqlens = plan->cu_seqlens;
    }
    COPY_OUT(local, all, "gdn_dist_plan_local");
    return GDN_STATUS_OK;
}

gdn_status gdn_dist_plan_sizes(const gdn_dist_plan *plan, gdn_sizes *sizes) {
    COPY_OUT(sizes, plan->sizes, "gdn_dist_plan_sizes");
    return GDN_STATUS_OK;
}

gdn_status gdn_dist_plan_traffic(const gdn_dist_plan *plan, gdn_dist_traffic *traffic) {
    COPY_OUT(traffic, plan->traffic, "gdn_dist_plan_traffic");
    return GDN_STATUS_OK;
}
