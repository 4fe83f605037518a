/*
 * The operator over ranks on a device: the steps of operator.c, enqueued. Which heads forget, how
 * many tokens a segment pass reads and whether M is made are decided by kernels, for which every
 * launch has the size of the longest case; so a call over NCCL waits for nothing.
 *
 * A message is one state for every head: S_out(r) (dS_in(r)), complete. The host does not know
 * which heads are final, so that a rank in the middle of a sequence sends after it has received,
 * whatever the gates; a final head ignores its part of what came. One such hop costs a message and
 * the product with M, and P - 1 of them follow one another.
 *
 * Over NCCL a segment pass, and what it sends, run on a stream of their own beside the main
 * kernels, of which none waits for a pass of its own rank: a pass that reads much costs its rank
 * little but the multiprocessors it takes, and its neighbour only the first of several layers.
 *
 *     stream   ...  | rows | receive | main kernels                       | ...
 *     beside        | decisions, pass, [M]  | [apply] | send              |
 */
#include "plan.h"

#include "cuda/memory.h"
#include "cuda/sharding.h"

#include <math.h>
#include <stdlib.h>

struct gdni_beside {
    gdn_stream stream;
    gdni_event event;
};

gdn_status gdni_beside_create(const gdn_dist_plan *plan, gdni_beside **out) {
    gdni_beside *b = calloc(1, sizeof(*b));
    if (!b)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "gdn_dist_plan_create: no memory");
    *out = b;
    GDN_TRY(gdni_device_side_stream(plan->context, &b->stream));
    return gdni_device_event_create(plan->context, &b->event);
}

void gdni_beside_destroy(const gdn_context *context, gdni_beside *b) {
    if (!b)
        return;
    if (b->event)
        gdni_device_event_destroy(context, b->event);
    if (b->stream)
        gdni_stream_destroy(context, b->stream);
    free(b);
}

typedef struct device_call {
    gdn_dist_plan *plan;
    gdn_tensors *tensors;
    const gdni_dist_memory *memory;
    gdn_stream stream, beside; /* of the segment pass: the same one where messages are staged */
    gdni_crossing in, out;
} device_call;

static device_call open_call(gdn_dist_plan *plan, gdn_tensors *tensors,
                             const gdni_dist_memory *memory, gdn_stream stream) {
    const device_call c = {.plan = plan,
                           .tensors = tensors,
                           .memory = memory,
                           .stream = stream,
                           .beside = plan->beside ? plan->beside->stream : stream};
    return c;
}

/* What one of the two streams gets next waits for what the other has now. */
static gdn_status follow(const device_call *c, gdn_stream after, gdn_stream before) {
    const gdn_dist_plan *plan = c->plan;
    if (!plan->beside)
        return GDN_STATUS_OK;
    return gdni_device_follow(plan->context, after, before, plan->beside->event);
}

/* The tokens that a segment pass may read. */
static void slice_of(const device_call *c, int64_t first, int64_t count, int64_t row,
                     gdn_problem *problem, gdn_tensors *slice) {
    gdni_dist_slice(c->plan, c->tensors, first, count, row, problem, slice);
    if (c->plan->beside) {
        slice->workspace = c->memory->segment;
        slice->workspace_size = c->plan->segment_workspace;
    }
}

static double threshold_of(const gdn_dist_plan *plan) {
    return plan->problem.flags & GDN_FLAG_EXACT ? -INFINITY : plan->problem.decay_threshold;
}

/* Rows [0, N) of states but row `index`, from the caller's or as zeros. */
static gdn_status copy_rows(const device_call *c, char *to, const void *rows, int64_t index) {
    const gdn_dist_plan *plan = c->plan;
    const size_t before = plan->states_bytes * (size_t)index;
    const size_t next = before + plan->states_bytes;
    const size_t end = plan->states_bytes * (size_t)plan->problem.N;
    const char *from = rows;
    if (!rows) {
        GDN_TRY(gdni_stream_zero(plan->context, to, before, c->stream));
        return gdni_stream_zero(plan->context, to + next, end - next, c->stream);
    }
    GDN_TRY(gdni_stream_copy(plan->context, to, from, before, c->stream));
    return gdni_stream_copy(plan->context, to + next, from + next, end - next, c->stream);
}

/* Row 0 of initial_state is the state that came from the left. */
static gdn_status take_entry(device_call *c) {
    const gdni_dist_memory *m = c->memory;
    const gdn_dist_plan *plan = c->plan;
    if (plan->problem.N > 1) {
        GDN_TRY(copy_rows(c, m->entry_rows, c->tensors->initial_state, 0));
        GDN_TRY(gdni_stream_copy(plan->context, m->entry_rows, m->entry, plan->states_bytes,
                                 c->stream));
    }
    c->tensors->initial_state = plan->problem.N > 1 ? m->entry_rows : m->entry;
    return GDN_STATUS_OK;
}

/* The decisions about one run; a state that a pass over all of it starts from is dropped where the
 * pass reads a part. */
static gdn_status decide(const device_call *c, const gdn_problem *problem, gdn_tensors *slice,
                         const gdni_sharding_run *run) {
    const gdn_context *context = c->plan->context;
    const void **state = run->from_start ? &slice->dht : &slice->initial_state;
    GDN_TRY(gdni_device_decide(context, problem, slice, run, c->beside));
    if (*state) {
        GDN_TRY(gdni_device_choose(context, problem, c->memory->first_state, *state, run->cut,
                                   c->beside));
        *state = c->memory->first_state;
    }
    slice->cu_seqlens = run->cut;
    return GDN_STATUS_OK;
}

/* M in, added to the states of the heads that are not final. */
static gdn_status apply(const device_call *c, int transposed, const void *in) {
    const gdni_dist_memory *m = c->memory;
    const gdni_sharding_step step = {.transposed = transposed,
                                     .final = m->final,
                                     .M = (const float *)(const void *)m->transfer,
                                     .in = in,
                                     .out = (float *)(void *)m->states};
    return gdni_device_apply(c->plan->context, &c->plan->problem, &step, c->beside);
}

/* The caller may overwrite what was read and sent. */
static gdn_status finish(device_call *c) {
    GDN_TRY(gdni_crossing_finish(&c->out));
    return follow(c, c->stream, c->beside);
}

/* ---- Forward -----------------------------------------------------------------------------------
 */

/* exp(log_decay) M: a chain of states as that of N, by the same kernels. Over no tokens unless a
 * head needs it. */
static gdn_status make_transfer(const device_call *c, gdn_tensors *slice) {
    const gdn_dist_plan *plan = c->plan;
    const gdni_dist_memory *m = c->memory;
    const gdn_problem *p = &plan->problem, problem = gdni_dist_transfer(plan, p->T);
    gdn_segment segment = GDN_SEGMENT_INIT;
    GDN_TRY(gdni_stream_zero(plan->context, m->zeros, gdni_dist_zeros(plan), c->beside));
    GDN_TRY(gdni_device_identity(plan->context, p, m->identity, c->beside));
    slice->v = m->zeros;
    slice->initial_state = m->identity;
    slice->cu_seqlens = m->cut + 2;
    segment.exit_state = m->transfer;
    return gdn_segment_forward(plan->context, &problem, slice, &segment, c->beside);
}

/* N of the shard's last sequence into memory.states; of one that passes through also the decisions,
 * and M where a head needs it. */
static gdn_status forward_segment(const device_call *c) {
    const gdn_dist_plan *plan = c->plan;
    const gdni_dist_memory *m = c->memory;
    const int64_t N = plan->problem.N, first = plan->cu_seqlens[N - 1];
    const int through = plan->part.through;
    const gdni_sharding_run run = {.threshold = threshold_of(plan),
                                   .sums = m->sums,
                                   .final = through ? m->final : NULL,
                                   .cut = m->cut};
    gdn_segment segment = GDN_SEGMENT_INIT;
    gdn_problem problem;
    gdn_tensors slice;
    slice_of(c, first, plan->cu_seqlens[N] - first, through ? -1 : N - 1, &problem, &slice);
    slice.dht = NULL;
    GDN_TRY(follow(c, c->beside, c->stream));
    GDN_TRY(decide(c, &problem, &slice, &run));
    segment.exit_state = m->states;
    GDN_TRY(gdn_segment_forward(plan->context, &problem, &slice, &segment, c->beside));
    return through ? make_transfer(c, &slice) : GDN_STATUS_OK;
}

/* From the entry state. */
static gdn_status forward_part(device_call *c) {
    const gdn_dist_plan *plan = c->plan;
    if (plan->part.from_left)
        GDN_TRY(take_entry(c));
    c->tensors->dht = NULL; /* not of this call, and not all its rows are the caller's */
    return gdn_forward(plan->context, &plan->problem, c->tensors, c->stream);
}

gdn_status gdni_device_forward_again(gdn_dist_plan *plan, gdn_tensors *tensors,
                                     const gdni_dist_memory *m, gdn_stream stream) {
    device_call c = open_call(plan, tensors, m, stream);
    return forward_part(&c);
}

gdn_status gdni_device_forward(gdn_dist_plan *plan, gdn_tensors *tensors, const gdni_dist_memory *m,
                               gdn_stream stream) {
    const gdn_shard_part *part = &plan->part;
    device_call c = open_call(plan, tensors, m, stream);
    c.in =
        gdni_crossing_open(plan, -1, GDNI_TAG_FORWARD, "gdn_dist_forward: the entry state", stream);
    c.out =
        gdni_crossing_open(plan, 1, GDNI_TAG_FORWARD, "gdn_dist_forward: the exit state", c.beside);
    if (part->from_left)
        GDN_TRY(gdni_crossing_expect(&c.in));
    if (part->to_right)
        GDN_TRY(forward_segment(&c));
    if (part->from_left)
        GDN_TRY(gdni_crossing_receive(&c.in, m->entry));
    if (part->through) {
        GDN_TRY(follow(&c, c.beside, c.stream));
        GDN_TRY(apply(&c, 0, m->entry));
    }
    if (part->to_right)
        GDN_TRY(gdni_crossing_send(&c.out, m->states));
    GDN_TRY(gdni_crossing_traffic(&c.out, m));
    GDN_TRY(forward_part(&c));
    plan->traffic.forward_bytes = c.out.bytes;
    return part->to_right ? finish(&c) : GDN_STATUS_OK;
}

/* ---- Backward ----------------------------------------------------------------------------------
 */

/* n of the shard's first sequence into memory.states. */
static gdn_status backward_segment(const device_call *c) {
    const gdn_dist_plan *plan = c->plan;
    const gdni_dist_memory *m = c->memory;
    const gdni_sharding_run run = {
        .from_start = 1, .threshold = threshold_of(plan), .sums = m->sums, .cut = m->cut};
    gdn_segment segment = GDN_SEGMENT_INIT;
    gdn_problem problem;
    gdn_tensors slice;
    slice_of(c, 0, plan->cu_seqlens[1], plan->part.through ? -1 : 0, &problem, &slice);
    slice.initial_state = NULL;
    GDN_TRY(follow(c, c->beside, c->stream));
    GDN_TRY(decide(c, &problem, &slice, &run));
    segment.entry_gradient = m->states;
    return gdn_segment_backward(plan->context, &problem, &slice, &segment, c->beside);
}

gdn_status gdni_device_backward(gdn_dist_plan *plan, gdn_tensors *tensors,
                                const gdni_dist_memory *m, gdn_stream stream) {
    const gdn_shard_part *part = &plan->part;
    const int64_t last = plan->problem.N - 1;
    device_call c = open_call(plan, tensors, m, stream);
    c.in = gdni_crossing_open(plan, 1, GDNI_TAG_BACKWARD, "gdn_dist_backward: the exit gradient",
                              stream);
    c.out = gdni_crossing_open(plan, -1, GDNI_TAG_BACKWARD, "gdn_dist_backward: the entry gradient",
                               c.beside);
    if (part->to_right)
        GDN_TRY(gdni_crossing_expect(&c.in));
    if (part->from_left)
        GDN_TRY(backward_segment(&c));
    if (part->to_right) {
        char *crossed = m->exit_rows + plan->states_bytes * (size_t)last;
        GDN_TRY(copy_rows(&c, m->exit_rows, tensors->dht, last));
        GDN_TRY(gdni_crossing_receive(&c.in, crossed));
        if (part->through) {
            GDN_TRY(follow(&c, c.beside, c.stream));
            GDN_TRY(apply(&c, 1, crossed));
        }
        tensors->dht = m->exit_rows;
    }
    if (part->from_left) {
        GDN_TRY(gdni_crossing_send(&c.out, m->states));
        GDN_TRY(take_entry(&c));
    }
    GDN_TRY(gdn_backward(plan->context, &plan->problem, tensors, stream));
    plan->traffic.backward_bytes = c.out.bytes;
    return part->from_left ? finish(&c) : GDN_STATUS_OK;
}
