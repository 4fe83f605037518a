/*
 * The convolution's halo. Every rank knows which rows each rank wants, so that they go directly
 * from those that hold them; gradients go back the same ways, and are added in rank order. Rows of
 * a device go all at once over NCCL, or through page-locked memory of the host.
 */
#include "layer.h"

#include "cuda/memory.h"

#include <stdlib.h>
#include <string.h>

/* Rows of `rank`'s halo that `owner` holds: tokens [*begin, *end) of the batch. */
static int64_t shared_rows(const gdn_dist_layer *l, int32_t rank, int32_t owner, int64_t *begin) {
    const int64_t *firsts = l->plan->firsts;
    int64_t end = firsts[rank] < firsts[owner + 1] ? firsts[rank] : firsts[owner + 1];
    *begin = l->wanted[rank] > firsts[owner] ? l->wanted[rank] : firsts[owner];
    return end > *begin ? end - *begin : 0;
}

/* Row of this rank's halo for a token before its shard. */
static char *halo_row(const gdn_dist_layer *l, void *halo, int64_t token) {
    const int64_t first = l->plan->firsts[l->plan->group->rank];
    return (char *)halo + l->row_bytes * (size_t)(l->layer.conv_width - 1 - (first - token));
}

static char *local_row(const gdn_dist_layer *l, void *rows, int64_t token) {
    return (char *)rows + l->row_bytes * (size_t)(token - l->plan->firsts[l->plan->group->rank]);
}

/* ---- Messages ----------------------------------------------------------------------------------
 */

static void add_message(gdn_dist_layer *l, int32_t *count, int32_t peer, int32_t sending,
                        void *rows, int64_t number) {
    const gdn_device_message m = {peer, sending, rows, l->row_bytes * (size_t)number};
    l->messages[(*count)++] = m;
}

static gdn_status exchange_on_host(gdn_dist_layer *l, int32_t count, int32_t tag,
                                   const char *what) {
    gdn_transport *t = l->plan->group;
    for (int32_t i = 0; i < count; ++i) {
        const gdn_device_message *m = l->messages + i;
        GDN_TRY(m->sending ? t->send(t, m->peer, tag, m->data, m->bytes, l->requests + i)
                           : t->receive(t, m->peer, tag, m->data, m->bytes, l->requests + i));
    }
    for (int32_t i = 0; i < count; ++i)
        GDN_TRY(t->wait(t, l->requests + i, what, NULL));
    return GDN_STATUS_OK;
}

/* The same through page-locked memory, where messages lie one behind the other. */
static gdn_status exchange_staged(gdn_dist_layer *l, int32_t count, int32_t tag, const char *what,
                                  gdn_stream stream) {
    const gdn_context *context = l->plan->context;
    gdn_device_message *m = l->messages;
    char *place = l->pinned;
    for (int32_t i = 0; i < count; place += m[i++].bytes)
        if (m[i].sending)
            GDN_TRY(gdni_stream_copy(context, place, m[i].data, m[i].bytes, stream));
    GDN_TRY(gdni_stream_wait(context, stream, what));
    place = l->pinned;
    for (int32_t i = 0; i < count; place += m[i++].bytes) {
        l->rows[i] = m[i].data;
        m[i].data = place;
    }
    l->sending = 1;
    GDN_TRY(exchange_on_host(l, count, tag, what));
    l->sending = 0;
    for (int32_t i = 0; i < count; ++i)
        if (!m[i].sending)
            GDN_TRY(gdni_stream_copy(context, l->rows[i], m[i].data, m[i].bytes, stream));
    /* The next messages may overwrite what is copied. */
    return gdni_stream_wait(context, stream, what);
}

/* As pointers to the device's memory, which the stream may still be using. */
static gdn_status exchange_direct(gdn_dist_layer *l, int32_t count, int32_t tag, const char *what,
                                  gdn_stream stream) {
    GDN_TRY(gdni_stream_wait(l->plan->context, stream, what));
    return exchange_on_host(l, count, tag, what);
}

static gdn_status exchange(gdn_dist_layer *l, int32_t count, int32_t tag, const char *what,
                           gdn_stream stream) {
    gdn_transport *t = l->plan->group;
    if (count == 0)
        return GDN_STATUS_OK;
    if (!l->plan->on_device)
        return exchange_on_host(l, count, tag, what);
    if (l->direct)
        return exchange_direct(l, count, tag, what, stream);
    return l->pinned ? exchange_staged(l, count, tag, what, stream)
                     : t->device_exchange(t, l->messages, count, stream);
}

/* ---- Both directions ---------------------------------------------------------------------------
 */

gdn_status gdni_halo_fetch(gdn_dist_layer *l, const void *qkv, void *halo, gdn_stream stream) {
    const gdn_transport *t = l->plan->group;
    int64_t begin, rows;
    int32_t count = 0;
    if (l->plan->on_device)
        GDN_TRY(gdni_stream_zero(l->plan->context, halo, l->halo_bytes, stream));
    else
        memset(halo, 0, l->halo_bytes);
    for (int32_t r = 0; r < t->ranks; ++r) {
        if (r < t->rank && (rows = shared_rows(l, t->rank, r, &begin)) > 0)
            add_message(l, &count, r, 0, halo_row(l, halo, begin), rows);
        if (r > t->rank && (rows = shared_rows(l, r, t->rank, &begin)) > 0) {
            add_message(l, &count, r, 1, local_row(l, (void *)(uintptr_t)qkv, begin), rows);
            l->forward_bytes += (int64_t)l->row_bytes * rows;
        }
    }
    return exchange(l, count, GDNI_TAG_HALO, "gdn_dist_layer_forward: the convolution's halo",
                    stream);
}

static gdn_status add(const gdn_dist_layer *l, void *sum, const void *term, size_t bytes,
                      gdn_stream stream) {
    const gdn_dtype dtype = l->layer.dtype;
    const size_t count = bytes / gdn_dtype_size(dtype);
    if (l->plan->on_device)
        return gdni_stream_add(l->plan->context, dtype, sum, term, (int64_t)count, stream);
    if (dtype == GDN_DTYPE_FP64)
        for (size_t i = 0; i < count; ++i)
            ((double *)sum)[i] += ((const double *)term)[i];
    else
        for (size_t i = 0; i < count; ++i)
            ((float *)sum)[i] += ((const float *)term)[i];
    return GDN_STATUS_OK;
}

gdn_status gdni_halo_return(gdn_dist_layer *l, void *dhalo, void *dqkv, void *incoming,
                            gdn_stream stream) {
    const gdn_transport *t = l->plan->group;
    int64_t begin, rows;
    int32_t count = 0;
    char *place = incoming;
    for (int32_t r = 0; r < t->ranks; ++r) {
        if (r < t->rank && (rows = shared_rows(l, t->rank, r, &begin)) > 0) {
            add_message(l, &count, r, 1, halo_row(l, dhalo, begin), rows);
            l->backward_bytes += (int64_t)l->row_bytes * rows;
        }
        if (r > t->rank && (rows = shared_rows(l, r, t->rank, &begin)) > 0) {
            add_message(l, &count, r, 0, place, rows);
            place += l->row_bytes * (size_t)rows;
        }
    }
    GDN_TRY(exchange(l, count, GDNI_TAG_HALO_GRADIENT,
                     "gdn_dist_layer_backward: gradients of the convolution's halo", stream));
    place = incoming;
    for (int32_t r = t->rank + 1; r < t->ranks; ++r)
        if ((rows = shared_rows(l, r, t->rank, &begin)) > 0) {
            const size_t bytes = l->row_bytes * (size_t)rows;
            GDN_TRY(add(l, local_row(l, dqkv, begin), place, bytes, stream));
            place += bytes;
        }
    return GDN_STATUS_OK;
}

size_t gdni_halo_incoming_bytes(const gdn_dist_layer *l) {
    const gdn_transport *t = l->plan->group;
    size_t rows = 0;
    int64_t begin;
    for (int32_t r = t->rank + 1; r < t->ranks; ++r)
        rows += (size_t)shared_rows(l, r, t->rank, &begin);
    return rows * l->row_bytes;
}
