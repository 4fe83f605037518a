/* States on their way to a neighbour. */
#include "plan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Its size is that of gdn_shard_state_bytes. */
typedef struct header {
    uint32_t call; /* of the plan: neighbours must be at the same one */
    uint32_t finals;
    uint8_t final[]; /* one bit a head */
} header;

static int32_t head_is_final(const header *h, int32_t head) {
    return h->final[head / 8] >> (head % 8) & 1;
}

static int is_finite(const gdn_dist_plan *plan, const void *state) {
    const int64_t count = (int64_t)plan->problem.K * plan->problem.V;
    /* The sum of 0 x is 0 unless an x is not finite. */
    double sum = 0.0;
    if (plan->state_dtype == GDN_DTYPE_FP64)
        for (int64_t i = 0; i < count; ++i)
            sum += 0.0 * ((const double *)state)[i];
    else
        for (int64_t i = 0; i < count; ++i)
            sum += 0.0 * (double)((const float *)state)[i];
    return sum == 0.0;
}

/* Appends the states of the heads whose decision is `which`; returns the end. */
static gdn_status pack(const gdni_mail *mail, const int32_t *final, int32_t which,
                       const void *states, char **end) {
    const size_t bytes = mail->plan->head_bytes;
    for (int32_t h = 0; h < mail->plan->problem.Hv; ++h) {
        const char *state = (const char *)states + bytes * (size_t)h;
        if (!final[h] != !which)
            continue;
        if (!is_finite(mail->plan, state))
            return gdni_fail(GDN_STATUS_BAD_DATA,
                             "%s of head %d holds a NaN or Inf, expected finite numbers to send",
                             mail->what, h);
        memcpy(*end, state, bytes);
        *end += bytes;
    }
    return GDN_STATUS_OK;
}

static size_t count_final(const gdni_mail *mail, const int32_t *final) {
    size_t count = 0;
    for (int32_t h = 0; h < mail->plan->problem.Hv; ++h)
        count += final[h] != 0;
    return count;
}

gdn_status gdni_mail_send_final(gdni_mail *mail, const int32_t *final, const void *states) {
    gdn_transport *t = mail->plan->group;
    header *head = (header *)(void *)mail->buffer;
    char *end = mail->buffer + mail->plan->header_bytes;
    memset(head, 0, mail->plan->header_bytes);
    head->call = mail->plan->calls;
    head->finals = (uint32_t)count_final(mail, final);
    for (int32_t h = 0; h < mail->plan->problem.Hv; ++h)
        head->final[h / 8] |= (uint8_t)((final[h] != 0) << (h % 8));
    GDN_TRY(pack(mail, final, 1, states, &end));
    mail->bytes += end - mail->buffer;
    return t->send(t, mail->peer, mail->tag, mail->buffer, (size_t)(end - mail->buffer),
                   &mail->first);
}

gdn_status gdni_mail_send_others(gdni_mail *mail, const int32_t *final, const void *states) {
    gdn_transport *t = mail->plan->group;
    char *start =
        mail->buffer + mail->plan->header_bytes + mail->plan->head_bytes * count_final(mail, final);
    char *end = start;
    GDN_TRY(pack(mail, final, 0, states, &end));
    if (end == start)
        return GDN_STATUS_OK;
    mail->bytes += end - start;
    return t->send(t, mail->peer, mail->tag, start, (size_t)(end - start), &mail->second);
}

gdn_status gdni_mail_send_apart(gdni_mail *mail, const void *states) {
    gdn_transport *t = mail->plan->group;
    header *head = (header *)(void *)mail->buffer;
    memset(head, 0, mail->plan->header_bytes);
    head->call = mail->plan->calls;
    mail->bytes += (int64_t)(mail->plan->header_bytes + mail->plan->states_bytes);
    GDN_TRY(t->send(t, mail->peer, mail->tag, head, mail->plan->header_bytes, &mail->first));
    return t->send(t, mail->peer, mail->tag, states, mail->plan->states_bytes, &mail->second);
}

gdn_status gdni_mail_sent(gdni_mail *mail) {
    gdn_transport *t = mail->plan->group;
    GDN_TRY(t->wait(t, &mail->first, mail->what, NULL));
    return t->wait(t, &mail->second, mail->what, NULL);
}

gdn_status gdni_mail_expect(gdni_mail *mail) {
    gdn_transport *t = mail->plan->group;
    return t->receive(t, mail->peer, mail->tag, mail->buffer, mail->plan->mail_bytes, &mail->first);
}

/* Takes the states of the heads whose decision is `which`. */
static void unpack(const gdni_mail *mail, int32_t which, const char *from, char *states) {
    const header *head = (const header *)(const void *)mail->buffer;
    const size_t bytes = mail->plan->head_bytes;
    for (int32_t h = 0; h < mail->plan->problem.Hv; ++h)
        if (head_is_final(head, h) == which) {
            memcpy(states + bytes * (size_t)h, from, bytes);
            from += bytes;
        }
}

/* The header, and what came with it. */
static gdn_status receive_first(gdni_mail *mail, size_t *received) {
    const gdn_dist_plan *plan = mail->plan;
    gdn_transport *t = plan->group;
    const header *head = (const header *)(const void *)mail->buffer;
    size_t got = 0;
    GDN_TRY(t->wait(t, &mail->first, mail->what, &got));
    *received = got;
    if (got < plan->header_bytes || head->call != plan->calls ||
        head->finals > (size_t)plan->problem.Hv ||
        got != plan->header_bytes + plan->head_bytes * head->finals)
        return gdni_fail(GDN_STATUS_COMM_ERROR,
                         "%s: rank %d of the sequence sent %zu bytes of call %u, expected those of "
                         "call %u: the ranks do not make the same calls",
                         mail->what, mail->peer, got, got >= sizeof(*head) ? head->call : 0,
                         plan->calls);
    return GDN_STATUS_OK;
}

static gdn_status receive_second(gdni_mail *mail, void *states, size_t bytes) {
    gdn_transport *t = mail->plan->group;
    size_t got = 0;
    GDN_TRY(t->receive(t, mail->peer, mail->tag, states, bytes, &mail->second));
    GDN_TRY(t->wait(t, &mail->second, mail->what, &got));
    if (got != bytes)
        return gdni_fail(GDN_STATUS_COMM_ERROR, "%s: %zu bytes came, expected %zu", mail->what, got,
                         bytes);
    return GDN_STATUS_OK;
}

gdn_status gdni_mail_receive(gdni_mail *mail, void *states) {
    const gdn_dist_plan *plan = mail->plan;
    const header *head = (const header *)(const void *)mail->buffer;
    size_t got = 0;
    GDN_TRY(receive_first(mail, &got));
    const size_t others = plan->head_bytes * ((size_t)plan->problem.Hv - head->finals);
    unpack(mail, 1, mail->buffer + plan->header_bytes, states);
    if (others == 0)
        return GDN_STATUS_OK;
    GDN_TRY(receive_second(mail, mail->buffer + got, others));
    unpack(mail, 0, mail->buffer + got, states);
    return GDN_STATUS_OK;
}

gdn_status gdni_mail_receive_apart(gdni_mail *mail, void *states) {
    size_t got = 0;
    GDN_TRY(receive_first(mail, &got));
    return receive_second(mail, states, mail->plan->states_bytes);
}
