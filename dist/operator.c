/*
 * The operator over ranks, on host backends (operator_device.c: on a device). What neighbours wait
 * for comes first: receives are posted, the segment pass gives N (n), final heads leave, the others
 * follow when the neighbour's state is there; then the backend computes this rank's part with the
 * state that came.
 */
#include "plan.h"

#include <math.h>
#include <string.h>

typedef struct call {
    gdn_dist_plan *plan;
    gdn_tensors tensors; /* of this part; the backend's workspace and saved */
    gdni_dist_memory memory;
    gdni_mail in, out;
} call;

static gdn_status open_call(gdn_dist_plan *plan, const char *function, int32_t backward,
                            const gdn_tensors *tensors, call *c) {
    gdn_tensors checked;
    GDN_TRY(gdni_dist_open(plan, function, backward, tensors, &c->tensors, &c->memory));
    ++plan->calls;
    if (plan->on_device || !(plan->problem.flags & GDN_FLAG_CHECKED))
        return GDN_STATUS_OK;
    /* Only the host's memory is read here: on a device the backend's call looks at the values,
     * neighbours' rows among them, and leaves a report (gdn_checked_status). */
    if (gdn_context_backend(plan->context) == GDN_BACKEND_CUDA)
        return GDN_STATUS_OK;
    /* Values are looked at before anything is sent. The rows that the neighbours fill are not the
     * caller's. */
    checked = c->tensors;
    if (plan->part.from_left)
        checked.initial_state = NULL;
    if (plan->part.to_right)
        checked.dht = NULL;
    return gdni_check_values(function, &plan->problem, &checked);
}

static gdni_mail open_mail(const call *c, char *buffer, int32_t step, int32_t tag,
                           const char *what) {
    const gdni_mail mail = {.plan = c->plan,
                            .what = what,
                            .buffer = buffer,
                            .peer = c->plan->group->rank + step,
                            .tag = tag};
    return mail;
}

/* The rows [N, Hv, K, V] of a call into `to`: the caller's, or zeros, but for row `index`, which is
 * returned to be filled. */
static char *open_rows(const call *c, char *to, const void *rows, int64_t index) {
    const size_t bytes = c->plan->states_bytes;
    const int64_t N = c->plan->problem.N;
    for (int64_t n = 0; n < N; ++n) {
        if (n != index && rows)
            memcpy(to + bytes * (size_t)n, (const char *)rows + bytes * (size_t)n, bytes);
        else if (n != index)
            memset(to + bytes * (size_t)n, 0, bytes);
    }
    return to + bytes * (size_t)index;
}

/* Row 0 of initial_state is the state that came from the left. */
static void take_entry(call *c) {
    const gdni_dist_memory *m = &c->memory;
    const gdn_dist_plan *plan = c->plan;
    if (plan->problem.N > 1)
        memcpy(open_rows(c, m->entry_rows, c->tensors.initial_state, 0), m->entry,
               plan->states_bytes);
    c->tensors.initial_state = plan->problem.N > 1 ? m->entry_rows : m->entry;
}

static int truncates(const gdn_dist_plan *plan) {
    return !(plan->problem.flags & GDN_FLAG_EXACT) && isfinite(plan->problem.decay_threshold);
}

/* ---- Forward -----------------------------------------------------------------------------------
 */

/* N of the shard's last sequence into memory.states, the decisions, and M where a head needs it. */
static gdn_status forward_segment(call *c) {
    gdn_dist_plan *plan = c->plan;
    const gdni_dist_memory *m = &c->memory;
    const int64_t N = plan->problem.N, Hv = plan->problem.Hv;
    const int64_t first = plan->cu_seqlens[N - 1], count = plan->cu_seqlens[N] - first;
    const int through = plan->part.through;
    gdn_segment segment = GDN_SEGMENT_INIT;
    gdn_problem problem;
    gdn_tensors slice;
    int64_t length = count;
    int32_t exact = 0;

    if (truncates(plan))
        GDN_TRY(
            gdni_dist_warm_up(plan, &c->tensors, first, count, 0, m->bounds, m->states, &length));
    for (int32_t h = 0; h < Hv; ++h) {
        if (through)
            m->final[h] = truncates(plan) && gdni_dist_below(plan, m->bounds, h);
        exact += !m->final[h];
    }
    gdni_dist_slice(plan, &c->tensors, first + count - length, length,
                    through || length < count ? -1 : N - 1, &problem, &slice);
    segment.exit_state = m->states;
    if (exact > 0) {
        segment.transfer = m->transfer;
        segment.log_decay = m->log_decay;
    }
    plan->traffic.heads_exact = exact;
    plan->traffic.heads_truncated = through ? (int32_t)Hv - exact : 0;
    plan->traffic.segment_tokens = length;
    return gdn_segment_forward(plan->context, &problem, &slice, &segment, NULL);
}

/* From the entry state. */
static gdn_status forward_part(call *c, gdn_stream stream) {
    const gdn_dist_plan *plan = c->plan;
    if (plan->part.from_left)
        take_entry(c);
    c->tensors.dht = NULL; /* not of this call, and not all its rows are the caller's */
    return gdn_forward(plan->context, &plan->problem, &c->tensors, stream);
}

static gdn_status forward(call *c, gdn_stream stream) {
    gdn_dist_plan *plan = c->plan;
    const gdni_dist_memory *m = &c->memory;
    const gdn_shard_part *part = &plan->part;
    c->in = open_mail(c, m->incoming, -1, GDNI_TAG_FORWARD, "gdn_dist_forward: the entry state");
    c->out = open_mail(c, m->outgoing, 1, GDNI_TAG_FORWARD, "gdn_dist_forward: the exit state");
    if (part->from_left)
        GDN_TRY(gdni_mail_expect(&c->in));
    for (int32_t h = 0; h < plan->problem.Hv; ++h)
        m->final[h] = 1;
    plan->traffic.heads_exact = plan->traffic.heads_truncated = 0;
    plan->traffic.segment_tokens = 0;
    if (part->to_right) {
        GDN_TRY(forward_segment(c));
        GDN_TRY(gdni_mail_send_final(&c->out, m->final, m->states));
    }
    if (part->from_left) {
        GDN_TRY(gdni_mail_receive(&c->in, m->entry));
        if (part->through) {
            gdni_apply_transfer(plan, m, 0, m->entry, m->states);
            GDN_TRY(gdni_mail_send_others(&c->out, m->final, m->states));
        }
    }
    GDN_TRY(forward_part(c, stream));
    plan->traffic.forward_bytes = c->out.bytes;
    return gdni_mail_sent(&c->out);
}

gdn_status gdn_dist_forward(gdn_dist_plan *plan, const gdn_tensors *tensors, gdn_stream stream) {
    static const char *const function = "gdn_dist_forward";
    call c = {.plan = plan};
    GDNI_REQUIRE(plan != NULL, "%s: plan is NULL", function);
    gdni_clear_error();
    GDN_TRY(gdni_dist_begin(plan->dist, function));
    gdn_status status = open_call(plan, function, 0, tensors, &c);
    if (status == GDN_STATUS_OK)
        status = plan->on_device ? gdni_device_forward(plan, &c.tensors, &c.memory, stream)
                                 : forward(&c, stream);
    return gdni_dist_end(plan->dist, status);
}

gdn_status gdni_dist_forward_again(gdn_dist_plan *plan, const gdn_tensors *tensors,
                                   gdn_stream stream) {
    call c = {.plan = plan};
    GDN_TRY(
        gdni_dist_open(plan, "gdn_dist_layer_forward_again", 0, tensors, &c.tensors, &c.memory));
    return plan->on_device ? gdni_device_forward_again(plan, &c.tensors, &c.memory, stream)
                           : forward_part(&c, stream);
}

/* ---- Backward ----------------------------------------------------------------------------------
 */

/* n of the shard's first sequence into memory.states. */
static gdn_status backward_segment(call *c) {
    const gdn_dist_plan *plan = c->plan;
    const gdni_dist_memory *m = &c->memory;
    const int64_t count = plan->cu_seqlens[1];
    const int through = plan->part.through;
    gdn_segment segment = GDN_SEGMENT_INIT;
    gdn_problem problem;
    gdn_tensors slice;
    int64_t length = count;

    if (truncates(plan))
        GDN_TRY(gdni_dist_warm_up(plan, &c->tensors, 0, count, 1, m->bounds, m->states, &length));
    gdni_dist_slice(plan, &c->tensors, 0, length, through || length < count ? -1 : 0, &problem,
                    &slice);
    segment.entry_gradient = m->states;
    return gdn_segment_backward(plan->context, &problem, &slice, &segment, NULL);
}

static gdn_status backward(call *c, gdn_stream stream) {
    gdn_dist_plan *plan = c->plan;
    const gdni_dist_memory *m = &c->memory;
    const gdn_shard_part *part = &plan->part;
    c->in = open_mail(c, m->incoming, 1, GDNI_TAG_BACKWARD, "gdn_dist_backward: the exit gradient");
    c->out =
        open_mail(c, m->outgoing, -1, GDNI_TAG_BACKWARD, "gdn_dist_backward: the entry gradient");
    if (part->to_right)
        GDN_TRY(gdni_mail_expect(&c->in));
    if (part->from_left) {
        GDN_TRY(backward_segment(c));
        GDN_TRY(gdni_mail_send_final(&c->out, m->final, m->states));
    }
    if (part->to_right) {
        char *crossed = open_rows(c, m->exit_rows, c->tensors.dht, plan->problem.N - 1);
        GDN_TRY(gdni_mail_receive(&c->in, crossed));
        if (part->through) {
            gdni_apply_transfer(plan, m, 1, crossed, m->states);
            GDN_TRY(gdni_mail_send_others(&c->out, m->final, m->states));
        }
        c->tensors.dht = m->exit_rows;
    }
    if (part->from_left)
        take_entry(c);
    GDN_TRY(gdn_backward(plan->context, &plan->problem, &c->tensors, stream));
    plan->traffic.backward_bytes = c->out.bytes;
    return gdni_mail_sent(&c->out);
}

gdn_status gdn_dist_backward(gdn_dist_plan *plan, const gdn_tensors *tensors, gdn_stream stream) {
    static const char *const function = "gdn_dist_backward";
    call c = {.plan = plan};
    GDNI_REQUIRE(plan != NULL, "%s: plan is NULL", function);
    gdni_clear_error();
    GDN_TRY(gdni_dist_begin(plan->dist, function));
    gdn_status status = open_call(plan, function, 1, tensors, &c);
    if (status == GDN_STATUS_OK)
        status = plan->on_device ? gdni_device_backward(plan, &c.tensors, &c.memory, stream)
                                 : backward(&c, stream);
    return gdni_dist_end(plan->dist, status);
}
