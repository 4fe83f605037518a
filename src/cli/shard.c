/* An operator or a layer over ranks, from float64 data that every rank has to results on rank 0. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/memory.h"
#include "error.h"
#include "gdn_dist.h"
#include "ranks.h"

enum {
    ALIGNMENT = 256,
    MAX_TENSORS = 40,
    PIECE = 1 << 26, /* bytes of one message */
    TAG = 100
};

/* The part of a tensor that this rank holds: rows [first, first + rows), and of an output
 * [first + skip, first + skip + kept) are this rank's to report. */
typedef struct tensor {
    const char *name;
    gdn_dtype dtype;
    int64_t row, first, rows, skip, kept;
    const double *from; /* whole input, or NULL */
    double *to;         /* whole output, or NULL */
    void *data;         /* NULL where neither */
    void *device;       /* a copy where the context computes on a device, or NULL */
} tensor;

typedef struct work {
    gdn_dist *dist;
    const gdn_context *device; /* NULL: a host backend */
    gdn_shard shard;
    gdn_shard_part part;
    tensor tensors[MAX_TENSORS];
    int count;
    void *saved, *workspace, *checked_report;
    size_t workspace_size;
} work;

static gdn_status reserve(size_t bytes, void **out) {
    *out = aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT);
    if (!*out)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "no memory for %zu bytes", bytes);
    memset(*out, 0xff, bytes); /* NaN: what is left out is seen */
    return GDN_STATUS_OK;
}

/* Memory that a call of the context's backend takes. */
static gdn_status reserve_for(const work *w, size_t bytes, void **out) {
    return w->device ? gdni_device_allocate(w->device, bytes, out) : reserve(bytes, out);
}

static void release_of(const work *w, void *data) {
    if (w->device && data)
        gdni_device_release(w->device, data);
    else
        free(data);
}

/* Even shards of T tokens. */
static gdn_status open_work(work *w, gdn_dist *dist, const gdn_context *context, int64_t T,
                            int64_t N, const int64_t *cu_seqlens) {
    const gdn_shard shard = GDN_SHARD_INIT;
    const gdn_shard_part part = GDN_SHARD_PART_INIT;
    const int32_t rank = cli_rank(dist), ranks = cli_ranks(dist);
    memset(w, 0, sizeof(*w));
    w->dist = dist;
    w->device = gdn_context_backend(context) == GDN_BACKEND_CUDA ? context : NULL;
    w->shard = shard;
    w->part = part;
    w->shard.T = T;
    w->shard.N = N;
    w->shard.cu_seqlens = cu_seqlens;
    gdn_shard_even(&w->shard, rank, ranks);
    return gdn_shard_find(&w->shard, rank == ranks - 1, &w->part);
}

static gdn_status reserve_call(work *w, const gdn_sizes *sizes) {
    w->workspace_size = sizes->forward_workspace > sizes->backward_workspace
                            ? sizes->forward_workspace
                            : sizes->backward_workspace;
    GDN_TRY(reserve_for(w, sizes->saved, &w->saved));
    if (sizes->checked_report)
        GDN_TRY(reserve_for(w, sizes->checked_report, &w->checked_report));
    return reserve_for(w, w->workspace_size, &w->workspace);
}

static void close_work(work *w) {
    for (int i = 0; i < w->count; ++i) {
        if (w->tensors[i].device)
            gdni_device_release(w->device, w->tensors[i].device);
        free(w->tensors[i].data);
    }
    release_of(w, w->saved);
    release_of(w, w->workspace);
    release_of(w, w->checked_report);
}

static gdn_status convert_in(const tensor *t) {
    const size_t element = gdn_dtype_size(t->dtype);
    const double *from = t->from + t->first * t->row;
    GDN_TRY(gdn_convert(t->dtype, t->data, GDN_DTYPE_FP64, from, t->rows * t->row));
    for (int64_t i = 0; i < t->rows * t->row; ++i) {
        double value;
        GDN_TRY(gdn_convert(GDN_DTYPE_FP64, &value, t->dtype,
                            (const char *)t->data + element * (size_t)i, 1));
        if (isfinite(from[i]) && !isfinite(value))
            return gdni_fail(GDN_STATUS_BAD_DATA, "%s holds %g, expected a value within %s",
                             t->name, from[i], gdn_dtype_name(t->dtype));
    }
    return GDN_STATUS_OK;
}

static size_t tensor_bytes(const tensor *t) {
    return gdn_dtype_size(t->dtype) * (size_t)((t->rows > 0 ? t->rows : 1) * t->row);
}

/* Adds a tensor of `rows` rows here, of which the whole has them from `first` on. At least one row
 * is there: a rank without sequences has one that is not of the batch. */
static gdn_status add(work *w, tensor t, void **data) {
    *data = NULL;
    if (!t.from && !t.to)
        return GDN_STATUS_OK;
    tensor *kept = &w->tensors[w->count];
    const size_t bytes = tensor_bytes(&t);
    GDN_TRY(reserve(bytes, &t.data));
    *kept = t;
    ++w->count;
    *data = t.data;
    if (t.from && t.rows == 0)
        memset(t.data, 0, bytes);
    if (t.from)
        GDN_TRY(convert_in(&t));
    if (!w->device)
        return GDN_STATUS_OK;
    GDN_TRY(gdni_device_allocate(w->device, bytes, &kept->device));
    *data = kept->device;
    return t.from ? gdni_device_copy(w->device, kept->device, t.data, bytes) : GDN_STATUS_OK;
}

static tensor of_tokens(const work *w, const char *name, gdn_dtype dtype, int64_t row,
                        const double *from, double *to) {
    const tensor t = {.name = name,
                      .dtype = dtype,
                      .row = row,
                      .first = w->shard.first,
                      .rows = w->shard.count,
                      .kept = w->shard.count,
                      .from = from,
                      .to = to};
    return t;
}

/* at_start: counts on the rank where the sequence begins, otherwise where it ends. */
static tensor of_sequences(const work *w, const char *name, gdn_dtype dtype, int64_t row,
                           int at_start, const double *from, double *to) {
    const int elsewhere = at_start ? w->part.from_left : w->part.to_right;
    const tensor t = {.name = name,
                      .dtype = dtype,
                      .row = row,
                      .first = w->part.first_sequence,
                      .rows = w->part.sequences,
                      .skip = at_start && elsewhere,
                      .kept = w->part.sequences - elsewhere,
                      .from = from,
                      .to = to};
    return t;
}

/* ---- Results to rank 0 -------------------------------------------------------------------------
 */

static gdn_status move(gdn_transport *t, int32_t peer, void *data, size_t bytes) {
    static const char *const what = "gathering results on rank 0";
    for (size_t i = 0; i < bytes; i += PIECE) {
        const size_t piece = bytes - i < PIECE ? bytes - i : PIECE;
        gdn_request *request = NULL;
        if (t->rank == 0)
            GDN_TRY(t->receive(t, peer, TAG, (char *)data + i, piece, &request));
        else
            GDN_TRY(t->send(t, peer, TAG, (char *)data + i, piece, &request));
        GDN_TRY(t->wait(t, &request, what, NULL));
    }
    return GDN_STATUS_OK;
}

/* Rows that count go to their place in the whole, on rank 0. */
static gdn_status gather_tensor(gdn_transport *group, const tensor *t) {
    int64_t place[2] = {(t->first + t->skip) * t->row, t->kept * t->row};
    double *mine = t->to + place[0];
    GDN_TRY(gdn_convert(
        GDN_DTYPE_FP64, mine, t->dtype,
        (const char *)t->data + gdn_dtype_size(t->dtype) * (size_t)(t->skip * t->row), place[1]));
    if (group->rank > 0) {
        GDN_TRY(move(group, 0, place, sizeof(place)));
        return move(group, 0, mine, sizeof(double) * (size_t)place[1]);
    }
    for (int32_t rank = 1; rank < group->ranks; ++rank) {
        GDN_TRY(move(group, rank, place, sizeof(place)));
        GDN_TRY(move(group, rank, t->to + place[0], sizeof(double) * (size_t)place[1]));
    }
    return GDN_STATUS_OK;
}

static gdn_status gather(work *w) {
    gdn_transport *group = gdn_dist_transport(w->dist, GDN_DIST_SEQUENCE);
    for (int i = 0; i < w->count; ++i) {
        const tensor *t = &w->tensors[i];
        if (t->to && t->device)
            GDN_TRY(gdni_device_copy(w->device, t->data, t->device, tensor_bytes(t)));
        if (t->to)
            GDN_TRY(gather_tensor(group, t));
    }
    return GDN_STATUS_OK;
}

/* ---- Operator ----------------------------------------------------------------------------------
 */

static gdn_status add_operator(work *w, const gdn_problem *p, const gdni_operator_values *v,
                               gdn_tensors *t) {
    const gdn_dtype real = p->dtype;
    const gdn_dtype state = real == GDN_DTYPE_FP64 ? GDN_DTYPE_FP64 : GDN_DTYPE_FP32;
    const int64_t key = (int64_t)p->Hk * p->K, value = (int64_t)p->Hv * p->V, Hv = p->Hv;
    const int64_t KV = Hv * p->K * p->V;
    /* Backward wants room for o where the caller does not want it. */
    const struct {
        tensor t;
        void **data;
    } all[] = {
        {of_tokens(w, "q", real, key, v->q, NULL), (void **)&t->q},
        {of_tokens(w, "k", real, key, v->k, NULL), (void **)&t->k},
        {of_tokens(w, "v", real, value, v->v, NULL), (void **)&t->v},
        {of_tokens(w, "g", state, Hv, v->g, NULL), (void **)&t->g},
        {of_tokens(w, "beta", state, Hv, v->beta, NULL), (void **)&t->beta},
        {of_tokens(w, "do", real, value, v->do_, NULL), (void **)&t->do_},
        {of_sequences(w, "initial_state", state, KV, 1, v->initial_state, NULL),
         (void **)&t->initial_state},
        {of_sequences(w, "dht", state, KV, 0, v->dht, NULL), (void **)&t->dht},
        {of_tokens(w, "o", real, value, NULL, v->o), &t->o},
        {of_sequences(w, "final_state", state, KV, 0, NULL, v->final_state), &t->final_state},
        {of_tokens(w, "dq", real, key, NULL, v->dq), &t->dq},
        {of_tokens(w, "dk", real, key, NULL, v->dk), &t->dk},
        {of_tokens(w, "dv", real, value, NULL, v->dv), &t->dv},
        {of_tokens(w, "dg", state, Hv, NULL, v->dg), &t->dg},
        {of_tokens(w, "dbeta", state, Hv, NULL, v->dbeta), &t->dbeta},
        {of_sequences(w, "dh0", state, KV, 1, NULL, v->dh0), &t->dh0},
    };
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); ++i)
        GDN_TRY(add(w, all[i].t, all[i].data));
    return GDN_STATUS_OK;
}

/* On a device what CHECKED has found is asked for. */
static gdn_status checked(const work *w, const gdn_dist_plan *plan, const gdn_tensors *t,
                          gdn_status status) {
    gdn_dist_local local = GDN_DIST_LOCAL_INIT;
    if (status != GDN_STATUS_OK || !w->checked_report)
        return status;
    GDN_TRY(gdn_dist_plan_local(plan, &local));
    return gdn_checked_status(w->device, &local.problem, t, NULL);
}

static gdn_status run_operator(work *w, const gdn_context *context, const gdn_problem *problem,
                               const gdni_operator_values *v, gdn_dist_plan **plan) {
    gdn_tensors t = GDN_TENSORS_INIT;
    gdn_sizes sizes = GDN_SIZES_INIT;
    GDN_TRY(gdn_dist_plan_create(plan, w->dist, context, problem, &w->shard));
    GDN_TRY(gdn_dist_plan_sizes(*plan, &sizes));
    GDN_TRY(reserve_call(w, &sizes));
    GDN_TRY(add_operator(w, problem, v, &t));
    t.saved = w->saved;
    t.workspace = w->workspace;
    t.workspace_size = w->workspace_size;
    t.checked_report = w->checked_report;
    GDN_TRY(checked(w, *plan, &t, gdn_dist_forward(*plan, &t, NULL)));
    if (v->do_)
        GDN_TRY(checked(w, *plan, &t, gdn_dist_backward(*plan, &t, NULL)));
    return gather(w);
}

gdn_status cli_evaluate_operator(gdn_dist *dist, const gdn_context *context,
                                 const gdn_problem *problem, const gdni_operator_values *values) {
    work w;
    gdn_dist_plan *plan = NULL;
    if (!dist)
        return gdni_evaluate_operator(context, problem, values);
    GDN_TRY(open_work(&w, dist, context, problem->T, problem->N, values->cu_seqlens));
    const gdn_status status = run_operator(&w, context, problem, values, &plan);
    gdn_dist_plan_destroy(plan);
    close_work(&w);
    return status;
}

/* ---- Layer -------------------------------------------------------------------------------------
 */

static gdn_status add_weights(work *w, const gdn_layer *layer, const gdn_layer_weights *from,
                              const gdn_layer_weights *to, gdn_layer_weights *local) {
    for (int i = 0; i < GDNI_LAYER_WEIGHTS; ++i) {
        const gdni_shape s = gdni_layer_weight_shape(layer, i);
        /* Whole on every rank, and after the sum rank 0's to report. */
        const tensor t = {.name = s.name,
                          .dtype = layer->dtype,
                          .row = s.count,
                          .rows = 1,
                          .kept = cli_rank(w->dist) == 0,
                          .from = from ? *gdni_layer_weight(from, i) : NULL,
                          .to = to ? *gdni_layer_weight(to, i) : NULL};
        GDN_TRY(add(w, t, gdni_layer_weight(local, i)));
    }
    return GDN_STATUS_OK;
}

static gdn_status run_layer(work *w, const gdn_context *context, const gdn_layer *layer,
                            const gdni_layer_values *v, gdn_dist_layer **l) {
    gdn_layer_tensors t = GDN_LAYER_TENSORS_INIT;
    gdn_layer_weights weights = GDN_LAYER_WEIGHTS_INIT, dweights = GDN_LAYER_WEIGHTS_INIT;
    gdn_sizes sizes = GDN_SIZES_INIT;
    const gdn_dtype dtype = layer->dtype;
    GDN_TRY(gdn_dist_layer_create(l, w->dist, context, layer, &w->shard));
    GDN_TRY(gdn_dist_layer_sizes(*l, &sizes));
    GDN_TRY(reserve_call(w, &sizes));
    GDN_TRY(add(w, of_tokens(w, "x", dtype, layer->D, v->x, NULL), (void **)&t.x));
    GDN_TRY(add(w, of_tokens(w, "dout", dtype, layer->D, v->dout, NULL), (void **)&t.dout));
    GDN_TRY(add(w, of_tokens(w, "out", dtype, layer->D, NULL, v->out), &t.out));
    GDN_TRY(add(w, of_tokens(w, "dx", dtype, layer->D, NULL, v->dx), &t.dx));
    GDN_TRY(add_weights(w, layer, v->weights, NULL, &weights));
    GDN_TRY(add_weights(w, layer, NULL, v->dweights, &dweights));
    t.weights = &weights;
    t.dweights = &dweights;
    t.saved = w->saved;
    t.workspace = w->workspace;
    t.workspace_size = w->workspace_size;
    GDN_TRY(gdn_dist_layer_forward(*l, &t, NULL));
    if (v->dout) {
        GDN_TRY(gdn_dist_layer_backward(*l, &t, NULL));
        GDN_TRY(gdn_dist_layer_reduce(w->dist, GDN_DIST_SEQUENCE, layer, &dweights));
    }
    return gather(w);
}

gdn_status cli_evaluate_layer(gdn_dist *dist, const gdn_context *context, const gdn_layer *layer,
                              const gdni_layer_values *values) {
    work w;
    gdn_dist_layer *l = NULL;
    if (!dist)
        return gdni_evaluate_layer(context, layer, values);
    GDN_TRY(open_work(&w, dist, context, layer->T, layer->N, values->cu_seqlens));
    const gdn_status status = run_layer(&w, context, layer, values, &l);
    gdn_dist_layer_destroy(l);
    close_work(&w);
    return status;
}
