/* The ranks of a run, over gdn_dist. */
#include "error.h"
#include "gdn_dist.h"
#include "ranks.h"

static gdn_status plan(gdni_ranks *r, gdni_ranks_plan which, const gdn_context *context,
                       const gdn_layer *layer, const gdni_part *part, gdn_sizes *sizes) {
    gdn_shard shard = GDN_SHARD_INIT;
    gdn_dist_layer *made = NULL;
    shard.T = layer->T;
    shard.N = layer->N;
    shard.first = part->first - part->group_first;
    shard.count = part->count;
    GDN_TRY(gdn_dist_layer_create(&made, r->dist, context, layer, &shard));
    gdn_dist_layer_destroy(r->layers[which]);
    r->layers[which] = made;
    r->crossed = gdn_dist_layer_crossed(made);
    return gdn_dist_layer_sizes(made, sizes);
}

static gdn_status forward(gdni_ranks *r, gdni_ranks_plan which, const gdn_layer_tensors *tensors,
                          gdn_stream stream) {
    return gdn_dist_layer_forward(r->layers[which], tensors, stream);
}

static gdn_status backward(gdni_ranks *r, const gdn_layer_tensors *tensors, gdn_stream stream) {
    return gdn_dist_layer_backward(r->layers[GDNI_RANKS_BACKWARD], tensors, stream);
}

static gdn_status forward_again(gdni_ranks *r, const gdn_layer_tensors *tensors,
                                gdn_stream stream) {
    return gdn_dist_layer_forward_again(r->layers[GDNI_RANKS_BACKWARD], tensors, stream);
}

static gdn_status sum(gdni_ranks *r, gdn_dtype dtype, void *data, int64_t count) {
    gdn_transport *world = gdn_dist_transport(r->dist, GDN_DIST_WORLD);
    return world->all_reduce(world, dtype, data, count, "summing gradients");
}

static gdn_status sum_device(gdni_ranks *r, float *data, int64_t count, gdn_stream stream) {
    gdn_transport *world = gdn_dist_transport(r->dist, GDN_DIST_WORLD);
    return world->device_all_reduce(world, GDN_DTYPE_FP32, data, count, stream);
}

static gdn_status finish_device(gdni_ranks *r, gdn_stream stream) {
    gdn_transport *world = gdn_dist_transport(r->dist, GDN_DIST_WORLD);
    return world->device_finish(world, stream);
}

static gdn_status gather(gdni_ranks *r, const void *mine, void *all, size_t bytes) {
    gdn_transport *world = gdn_dist_transport(r->dist, GDN_DIST_WORLD);
    return world->all_gather(world, mine, all, bytes, "gathering the loss");
}

static gdn_status agree(gdni_ranks *r, gdn_status mine, const char *description) {
    return gdn_dist_agree(r->dist, GDN_DIST_WORLD, mine, "gdn train", description);
}

static void note(gdni_ranks *r, const char *doing) {
    gdn_dist_note(r->dist, doing);
}

gdn_status gdni_ranks_open(gdni_ranks *ranks, gdn_dist *dist) {
    *ranks = (gdni_ranks){.rank = gdn_dist_rank(dist, GDN_DIST_WORLD),
                          .ranks = gdn_dist_ranks(dist, GDN_DIST_WORLD),
                          .width = gdn_dist_ranks(dist, GDN_DIST_SEQUENCE),
                          .dist = dist,
                          .plan = plan,
                          .forward = forward,
                          .backward = backward,
                          .forward_again = forward_again,
                          .sum = sum,
                          .gather = gather,
                          .agree = agree,
                          .note = note};
    return GDN_STATUS_OK;
}

gdn_status gdni_ranks_use_device(gdni_ranks *r, const gdn_context *context) {
    if (!gdn_dist_nccl_version())
        return GDN_STATUS_OK;
    const gdn_status status = gdn_dist_use_nccl(r->dist, context, NULL);
    if (status == GDN_STATUS_UNSUPPORTED) { /* ranks share a device */
        gdni_clear_error();
        return GDN_STATUS_OK;
    }
    GDN_TRY(status);
    r->sum_device = sum_device;
    r->finish_device = finish_device;
    return GDN_STATUS_OK;
}

void gdni_ranks_close(gdni_ranks *ranks) {
    for (int i = 0; i < GDNI_RANKS_PLANS; ++i) {
        gdn_dist_layer_destroy(ranks->layers[i]);
        ranks->layers[i] = NULL;
    }
}
