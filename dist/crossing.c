/*
 * States of a device on their way to a neighbour: handed to NCCL's transport, or to MPI: by
 * pointers to memory of the device where MPI takes those, otherwise through page-locked memory of
 * the host, as mail whose heads are all final. What MPI gets waits for the stream, because it moves
 * what is there now.
 */
#include "plan.h"

#include "cuda/memory.h"

#include <stdlib.h>

struct gdni_staging {
    char *pinned;     /* mail of both directions; staged: states to send, states that came */
    int32_t *final;   /* [Hv] 1 */
    int32_t *decided; /* [Hv] what the device has decided */
    int32_t direct;   /* MPI takes memory of the device */
    int32_t sending;  /* MPI has not said yet that mail has left */
};

gdn_status gdni_staging_create(const gdn_dist_plan *plan, gdni_staging **out) {
    const size_t states = plan->dist->direct ? 0 : plan->states_bytes;
    const size_t bytes = 2 * (plan->mail_bytes + states), Hv = (size_t)plan->problem.Hv;
    if (!plan->part.from_left && !plan->part.to_right)
        return GDN_STATUS_OK;
    gdni_staging *s = calloc(1, sizeof(*s));
    int32_t *final = calloc(2 * Hv, sizeof(*final));
    if (!s || !final) {
        free(s);
        free(final);
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "gdn_dist_plan_create: no memory");
    }
    for (size_t h = 0; h < Hv; ++h)
        final[h] = 1;
    s->direct = plan->dist->direct;
    s->final = final;
    s->decided = final + Hv;
    *out = s;
    return gdni_pinned_allocate(plan->context, bytes, (void **)&s->pinned);
}

void gdni_staging_destroy(const gdn_context *context, gdni_staging *s) {
    if (!s)
        return;
    /* After a failure MPI may still read what was being sent. */
    if (s->pinned && !s->sending)
        gdni_pinned_release(context, s->pinned);
    free(s->final);
    free(s);
}

/* One rank sends what the other receives: both directions may be open at once. */
static char *states_of(const gdni_crossing *c, int incoming) {
    const gdn_dist_plan *plan = c->plan;
    return plan->staging->pinned + 2 * plan->mail_bytes + (incoming ? plan->states_bytes : 0);
}

static char *mail_of(const gdn_dist_plan *plan, int incoming) {
    return plan->staging->pinned + (incoming ? plan->mail_bytes : 0);
}

gdni_crossing gdni_crossing_open(gdn_dist_plan *plan, int32_t step, int32_t tag, const char *what,
                                 gdn_stream stream) {
    const int32_t peer = plan->group->rank + step;
    const gdni_mail mail = {.plan = plan, .what = what, .peer = peer, .tag = tag};
    const gdni_crossing c = {.plan = plan, .stream = stream, .peer = peer, .mail = mail};
    return c;
}

gdn_status gdni_crossing_expect(gdni_crossing *c) {
    if (!c->plan->staging)
        return GDN_STATUS_OK;
    c->mail.buffer = mail_of(c->plan, 1);
    return gdni_mail_expect(&c->mail);
}

gdn_status gdni_crossing_receive(gdni_crossing *c, void *states) {
    gdn_dist_plan *plan = c->plan;
    gdn_transport *t = plan->group;
    if (!plan->staging)
        return t->device_receive(t, c->peer, states, plan->states_bytes, c->stream);
    if (plan->staging->direct) {
        /* What the stream has may still use what is overwritten. */
        GDN_TRY(gdni_stream_wait(plan->context, c->stream, c->mail.what));
        return gdni_mail_receive_apart(&c->mail, states);
    }
    GDN_TRY(gdni_mail_receive(&c->mail, states_of(c, 1)));
    GDN_TRY(
        gdni_stream_copy(plan->context, states, states_of(c, 1), plan->states_bytes, c->stream));
    /* The next message may overwrite what is copied. */
    return gdni_stream_wait(plan->context, c->stream, c->mail.what);
}

gdn_status gdni_crossing_send(gdni_crossing *c, const void *states) {
    gdn_dist_plan *plan = c->plan;
    gdn_transport *t = plan->group;
    if (!plan->staging) {
        c->bytes += (int64_t)plan->states_bytes;
        return t->device_send(t, c->peer, states, plan->states_bytes, c->stream);
    }
    c->mail.buffer = mail_of(plan, 0);
    if (!plan->staging->direct)
        GDN_TRY(gdni_stream_copy(plan->context, states_of(c, 0), states, plan->states_bytes,
                                 c->stream));
    GDN_TRY(gdni_stream_wait(plan->context, c->stream, c->mail.what));
    plan->staging->sending = 1;
    GDN_TRY(plan->staging->direct
                ? gdni_mail_send_apart(&c->mail, states)
                : gdni_mail_send_final(&c->mail, plan->staging->final, states_of(c, 0)));
    c->bytes = c->mail.bytes;
    return GDN_STATUS_OK;
}

gdn_status gdni_crossing_traffic(gdni_crossing *c, const gdni_dist_memory *m) {
    gdn_dist_plan *plan = c->plan;
    gdn_dist_traffic *traffic = &plan->traffic;
    const int32_t Hv = plan->problem.Hv;
    int64_t cut[2] = {0, 0};
    traffic->heads_exact = traffic->heads_truncated = 0;
    traffic->segment_tokens = 0;
    if (!plan->part.to_right)
        return GDN_STATUS_OK;
    if (!plan->staging) {
        traffic->heads_exact = traffic->heads_truncated = plan->part.through ? -1 : 0;
        traffic->segment_tokens = -1;
        return GDN_STATUS_OK;
    }
    /* The stream has nothing to do: what was sent has just been read from it. */
    GDN_TRY(gdni_stream_copy(plan->context, cut, m->cut, sizeof(cut), c->stream));
    if (plan->part.through)
        GDN_TRY(gdni_stream_copy(plan->context, plan->staging->decided, m->final,
                                 sizeof(*m->final) * (size_t)Hv, c->stream));
    GDN_TRY(gdni_stream_wait(plan->context, c->stream, c->mail.what));
    traffic->segment_tokens = cut[1] - cut[0];
    for (int32_t h = 0; plan->part.through && h < Hv; ++h) {
        traffic->heads_truncated += plan->staging->decided[h];
        traffic->heads_exact += !plan->staging->decided[h];
    }
    return GDN_STATUS_OK;
}

gdn_status gdni_crossing_finish(gdni_crossing *c) {
    gdn_transport *t = c->plan->group;
    if (!c->plan->staging)
        return t->device_finish(t, c->stream);
    GDN_TRY(gdni_mail_sent(&c->mail));
    c->plan->staging->sending = 0;
    return GDN_STATUS_OK;
}
