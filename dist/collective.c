/*
 * Collectives on send and receive alone, which makes their order ours and their waits ones that
 * end.
 *
 * The sum over ranks: the data are taken in blocks; rank r owns slice r of a block: it receives
 * that slice of every rank, adds them in rank order, and sends the sum to all.
 */
#include "group.h"

#include <stdlib.h>
#include <string.h>

enum {
    SLICE = 1 << 17 /* elements of one rank's slice at most */
};

typedef struct reduction {
    gdn_transport *transport;
    gdn_dtype dtype;
    size_t element;
    const char *what;
    char *parts;            /* [ranks][SLICE] elements: my slice of every rank */
    gdn_request **requests; /* [2 ranks] */
} reduction;

static void add(gdn_dtype dtype, void *sum, const void *term, int64_t count) {
    if (dtype == GDN_DTYPE_FP64)
        for (int64_t i = 0; i < count; ++i)
            ((double *)sum)[i] += ((const double *)term)[i];
    else
        for (int64_t i = 0; i < count; ++i)
            ((float *)sum)[i] += ((const float *)term)[i];
}

static gdn_status wait_all(const reduction *r) {
    for (int32_t i = 0; i < 2 * r->transport->ranks; ++i)
        GDN_TRY(r->transport->wait(r->transport, r->requests + i, r->what, NULL));
    return GDN_STATUS_OK;
}

/* Slice s of a block of `count` elements. */
static int64_t slice_start(const reduction *r, int64_t count, int32_t s) {
    return count * s / r->transport->ranks;
}

static gdn_status reduce_block(const reduction *r, char *data, int64_t count) {
    gdn_transport *t = r->transport;
    const int32_t me = t->rank, ranks = t->ranks;
    const int64_t begin = slice_start(r, count, me), mine = slice_start(r, count, me + 1) - begin;
    char *slice = data + r->element * (size_t)begin;

    for (int32_t s = 0; s < ranks; ++s) {
        const int64_t start = slice_start(r, count, s);
        const size_t bytes = r->element * (size_t)(slice_start(r, count, s + 1) - start);
        if (s == me)
            continue;
        GDN_TRY(t->receive(t, s, GDNI_TAG_REDUCE, r->parts + r->element * SLICE * (size_t)s,
                           r->element * (size_t)mine, r->requests + s));
        GDN_TRY(t->send(t, s, GDNI_TAG_REDUCE, data + r->element * (size_t)start, bytes,
                        r->requests + ranks + s));
    }
    GDN_TRY(wait_all(r));
    memcpy(r->parts + r->element * SLICE * (size_t)me, slice, r->element * (size_t)mine);
    memcpy(slice, r->parts, r->element * (size_t)mine);
    for (int32_t s = 1; s < ranks; ++s)
        add(r->dtype, slice, r->parts + r->element * SLICE * (size_t)s, mine);
    for (int32_t s = 0; s < ranks; ++s) {
        const int64_t start = slice_start(r, count, s);
        const size_t bytes = r->element * (size_t)(slice_start(r, count, s + 1) - start);
        if (s == me)
            continue;
        GDN_TRY(t->receive(t, s, GDNI_TAG_REDUCE, data + r->element * (size_t)start, bytes,
                           r->requests + s));
        GDN_TRY(t->send(t, s, GDNI_TAG_REDUCE, slice, r->element * (size_t)mine,
                        r->requests + ranks + s));
    }
    return wait_all(r);
}

gdn_status gdni_all_gather(gdn_transport *t, const void *mine, void *all, size_t bytes,
                           const char *what) {
    const int32_t ranks = t->ranks;
    gdn_request **requests = calloc(2 * (size_t)ranks, sizeof(*requests));
    gdn_status status = GDN_STATUS_OK;
    if (!requests)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "%s: no memory for requests", what);
    memcpy((char *)all + bytes * (size_t)t->rank, mine, bytes);
    for (int32_t r = 0; r < ranks && status == GDN_STATUS_OK; ++r) {
        if (r == t->rank)
            continue;
        status =
            t->receive(t, r, GDNI_TAG_GATHER, (char *)all + bytes * (size_t)r, bytes, requests + r);
        if (status == GDN_STATUS_OK)
            status = t->send(t, r, GDNI_TAG_GATHER, mine, bytes, requests + ranks + r);
    }
    for (int32_t i = 0; i < 2 * ranks && status == GDN_STATUS_OK; ++i)
        status = t->wait(t, requests + i, what, NULL);
    for (int32_t i = 0; i < 2 * ranks; ++i)
        t->drop(t, requests + i);
    free(requests);
    return status;
}

gdn_status gdni_all_reduce(gdn_transport *transport, gdn_dtype dtype, void *data, int64_t count,
                           const char *what) {
    const size_t ranks = (size_t)transport->ranks;
    const int64_t block = (int64_t)(SLICE * ranks);
    reduction r = {transport, dtype, gdn_dtype_size(dtype), what, NULL, NULL};
    gdn_status status = GDN_STATUS_OK;
    GDNI_REQUIRE(dtype == GDN_DTYPE_FP32 || dtype == GDN_DTYPE_FP64,
                 "%s: dtype is %s, expected fp32 or fp64", what, gdn_dtype_name(dtype));
    if (ranks == 1)
        return GDN_STATUS_OK;
    r.parts = malloc(r.element * SLICE * ranks);
    r.requests = calloc(2 * ranks, sizeof(*r.requests));
    if (!r.parts || !r.requests)
        status = gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "%s: no memory for the parts", what);
    for (int64_t i = 0; i < count && status == GDN_STATUS_OK; i += block)
        status = reduce_block(&r, (char *)data + r.element * (size_t)i,
                              count - i < block ? count - i : block);
    for (size_t i = 0; r.requests && i < 2 * ranks; ++i)
        transport->drop(transport, r.requests + i);
    /* After a failure MPI may still be moving a message that was given up: parts stay. */
    if (status == GDN_STATUS_OK)
        free(r.parts);
    free(r.requests);
    return status;
}
