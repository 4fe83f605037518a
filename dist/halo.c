/*
 * The convolution's halo. Every rank knows which rows each rank wants, so that they go directly
 * from those that hold them; gradients go back the same ways, and are added in rank order.
 */
#include "layer.h"

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

/* Waits for requests [0, ranks). */
static gdn_status wait_all(gdn_dist_layer *l, const char *what) {
    gdn_transport *t = l->plan->group;
    for (int32_t r = 0; r < t->ranks; ++r)
        GDN_TRY(t->wait(t, l->requests + r, what, NULL));
    return GDN_STATUS_OK;
}

gdn_status gdni_halo_fetch(gdn_dist_layer *l, const void *qkv, void *halo) {
    static const char *const what = "gdn_dist_layer_forward: the convolution's halo";
    gdn_transport *t = l->plan->group;
    int64_t begin, rows;
    memset(halo, 0, l->halo_bytes);
    for (int32_t r = 0; r < t->ranks; ++r) {
        gdn_request **request = l->requests + r;
        if (r < t->rank && (rows = shared_rows(l, t->rank, r, &begin)) > 0)
            GDN_TRY(t->receive(t, r, GDNI_TAG_HALO, halo_row(l, halo, begin),
                               l->row_bytes * (size_t)rows, request));
        if (r > t->rank && (rows = shared_rows(l, r, t->rank, &begin)) > 0) {
            GDN_TRY(t->send(t, r, GDNI_TAG_HALO, local_row(l, (void *)(uintptr_t)qkv, begin),
                            l->row_bytes * (size_t)rows, request));
            l->forward_bytes += (int64_t)l->row_bytes * rows;
        }
    }
    return wait_all(l, what);
}

static void add(gdn_dtype dtype, void *sum, const void *term, size_t count) {
    if (dtype == GDN_DTYPE_FP64)
        for (size_t i = 0; i < count; ++i)
            ((double *)sum)[i] += ((const double *)term)[i];
    else
        for (size_t i = 0; i < count; ++i)
            ((float *)sum)[i] += ((const float *)term)[i];
}

gdn_status gdni_halo_return(gdn_dist_layer *l, void *dhalo, void *dqkv, void *incoming) {
    static const char *const what = "gdn_dist_layer_backward: gradients of the convolution's halo";
    gdn_transport *t = l->plan->group;
    int64_t begin, rows;
    char *place = incoming;
    for (int32_t r = 0; r < t->ranks; ++r) {
        gdn_request **request = l->requests + r;
        if (r < t->rank && (rows = shared_rows(l, t->rank, r, &begin)) > 0) {
            GDN_TRY(t->send(t, r, GDNI_TAG_HALO_GRADIENT, halo_row(l, dhalo, begin),
                            l->row_bytes * (size_t)rows, request));
            l->backward_bytes += (int64_t)l->row_bytes * rows;
        }
        if (r > t->rank && (rows = shared_rows(l, r, t->rank, &begin)) > 0) {
            GDN_TRY(t->receive(t, r, GDNI_TAG_HALO_GRADIENT, place, l->row_bytes * (size_t)rows,
                               request));
            place += l->row_bytes * (size_t)rows;
        }
    }
    GDN_TRY(wait_all(l, what));
    place = incoming;
    for (int32_t r = t->rank + 1; r < t->ranks; ++r)
        if ((rows = shared_rows(l, r, t->rank, &begin)) > 0) {
            const size_t bytes = l->row_bytes * (size_t)rows;
            add(l->layer.dtype, local_row(l, dqkv, begin), place,
                bytes / gdn_dtype_size(l->layer.dtype));
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
