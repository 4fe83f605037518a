/*
 * What the portable kernels tell the plan: the shape of their chains, which is chosen on the host,
 * the cost model's constants, and how many borders a plan may have.
 */
#ifndef GDNI_PLAN_MODEL_H
#define GDNI_PLAN_MODEL_H

#include <stddef.h>

#include "gdn.h"
#include "plan.h"

/* Tokens in a chunk, by bytes of an element: what keeps the tiles of K = 256 inside the shared
 * memory of every device. */
#define GDNI_PORTABLE_CHUNK(element) ((element) == 4 ? 32 : 64)

typedef struct gdni_plan_device {
    int32_t multiprocessors;
    int32_t capability;   /* 10 x major + minor */
    size_t shared_memory; /* bytes that one CTA may have */
} gdni_plan_device;

/* Whether the kernels for Hopper are made for this problem. */
static inline int gdni_plan_on_hopper(int32_t capability, const gdn_problem *p) {
    return capability == 90 && p->dtype == GDN_DTYPE_BF16 && p->K == 128 && p->V == 128;
}

/* A chain's CTAs: warps that compute, chunks in shared memory at once, CTAs a head. */
typedef struct gdni_chain_shape {
    int32_t warps, stages, slices;
    size_t shared;
    float cycles; /* a chunk */
} gdni_chain_shape;

/* Kernels are made for these K; columns beyond the problem's are zeros. */
static inline int32_t gdni_portable_padded(int32_t K) {
    return K <= 64 ? 64 : K <= 128 ? 128 : 256;
}

/* Bytes of one chunk's tiles: K and the inverse, with_q: Q and the scores too; V or dO; gates. Rows
 * are padded by 16 bytes. */
GDNI_BOTH size_t gdni_chain_stage(size_t element, int32_t padded_k, int32_t warps, int with_q) {
    const size_t C = GDNI_PORTABLE_CHUNK(element), piece = 16 / element;
    const size_t pair = element * C * ((size_t)padded_k + C + 2 * piece);
    return pair * (with_q ? 2 : 1) + element * C * (16 * (size_t)warps + piece) +
           3 * sizeof(float) * C;
}

/*
 * The cost model: a chunk costs a CTA of w warps max(1650, 520 w) + 700 cycles at K = 128 and 16
 * bits (tensor work of a warp on its own scheduler; shared memory, which all warps read in full),
 * one CTA fills the registers of a multiprocessor, and without a second stage the copy (2000
 * cycles) is not hidden. FMA units take six times as long as tensor cores. chains: how many run at
 * once; cut: sequences may be cut to fill the device, so that the widest CTA is best.
 */
static inline gdni_chain_shape gdni_chain_choose(const gdni_plan_device *device,
                                                 const gdn_problem *p, int64_t chains, int cut,
                                                 int with_q) {
    const size_t element = gdn_dtype_size(p->dtype);
    const int32_t K = gdni_portable_padded(p->K);
    gdni_chain_shape best = {0, 0, 0, 0, 0.0f};
    float best_cost = 0.0f;
    for (int32_t warps = 4; warps >= 1; warps /= 2)
        for (int32_t stages = 2; stages >= 1; --stages) {
            const size_t bytes = (size_t)stages * gdni_chain_stage(element, K, warps, with_q);
            if (bytes > device->shared_memory)
                continue;
            const int32_t slices = (p->V + 16 * warps - 1) / (16 * warps);
            const float chunk = (warps == 4 ? 4600.0f : 4100.0f) + (stages == 2 ? 0.0f : 2000.0f);
            const float cycles = chunk * (float)K / 128.0f * (element == 4 ? 6.0f : 1.0f);
            const int64_t waves =
                (chains * slices + device->multiprocessors - 1) / device->multiprocessors;
            const float cost = (float)waves * cycles;
            if (best.warps == 0 || cost < best_cost * 0.98f) {
                const gdni_chain_shape shape = {warps, stages, slices, bytes, cycles};
                best = shape;
                best_cost = cost;
                if (cut && chains * slices * 4 <= device->multiprocessors)
                    return best;
            }
        }
    return best;
}

/* The exact pass always takes the widest CTA: there are as many tasks as fill the device. */
static inline gdni_chain_shape gdni_chain_exact(const gdni_plan_device *device,
                                                const gdn_problem *p) {
    return gdni_chain_choose(device, p, 0, 1, 1);
}

static inline gdni_plan_model gdni_portable_model(const gdni_plan_device *device,
                                                  const gdn_problem *p) {
    const int64_t chains = p->N * p->Hv;
    const gdni_chain_shape forward = gdni_chain_choose(device, p, chains, 1, 1);
    const gdni_chain_shape backward = gdni_chain_choose(device, p, 2 * chains, 1, 1);
    const gdni_chain_shape exact = gdni_chain_exact(device, p);
    gdni_plan_model m;
    m.slots = device->multiprocessors;
    m.forward_slices = forward.slices;
    m.backward_slices = backward.slices;
    m.state_slices = exact.slices;
    m.matrix_slices = (p->K + 16 * exact.warps - 1) / (16 * exact.warps);
    m.forward = forward.cycles;
    m.backward = backward.cycles;
    m.exact = exact.cycles;
    /* A matrix of K x K through a CTA's shared memory; two launches. */
    m.scan = 3500.0f * (float)(p->K * p->K) / (128.0f * 128.0f);
    m.launch = 10000.0f;
    m.both = 1;
    m.narrow = 0.0f;
    return m;
}

/*
 * Borders between segments that a plan may make, over all sequences: none where making the plan
 * costs more than it can gain, as far as the host can know; packed: the lengths of sequences are
 * unknown to it. Backward's chains fill most of the device with N Hv above a third of its
 * multiprocessors at V = 128; then only a few long ones of many sequences could gain, and 10 us for
 * the plan are 1% of a call of 25000 (chunk, head) pairs. On Hopper forward gains with the more
 * heads the longer the sequences are on average, but not where its fused kernel is as fast, and
 * backward up to 8 heads from 16384 tokens (H200, 2026-11-25: plans of 1 to 32 segments for the
 * rows of tests/bench/published_h200.csv, kernels/hopper/README.md). At most two items a
 * multiprocessor, and segments of at least four chunks on average.
 *
 * shortest: 0, or the plan cuts nothing unless the longest sequence has so many chunks. On Hopper
 * forward with 17 to 24 heads in few sequences loses where they are alike, and gains up to a third
 * where one has most of the tokens.
 */
static inline int64_t gdni_plan_max_borders(const gdni_plan_device *device, const gdn_problem *p,
                                            int packed, int backward, int64_t *shortest) {
    const int64_t chunks = p->T / GDNI_PORTABLE_CHUNK(gdn_dtype_size(p->dtype));
    const int64_t heads = p->N * p->Hv;
    *shortest = 0;
    if (p->segments == 1)
        return 0;
    if (p->segments > 1) {
        const int64_t wanted = p->N * (p->segments - 1);
        return wanted < chunks ? wanted : chunks;
    }
    const int full = heads * ((p->V + 63) / 64) * 5 > device->multiprocessors * 2;
    /* Fewest chunks of a sequence on average, most heads; prepare costs more a v-head where few
     * share a k-head. */
    int64_t least = heads <= 16 ? 64 : 128;
    if ((heads > 8 && heads <= 16 && p->Hv < 2 * p->Hk) ||
        (heads > 24 && p->N == 1 && p->Hv < 4 * p->Hk))
        least *= 2;
    const int64_t most = p->N == 1 && p->Hv < 2 * p->Hk ? 31 : 32;
    int worth = chunks >= 48 && (!full || (packed && p->N > 1 && chunks * p->Hv >= 25000));
    if (gdni_plan_on_hopper(device->capability, p)) {
        worth =
            backward ? heads <= 8 && chunks >= 256 * p->N : heads <= most && chunks >= least * p->N;
        if (!worth && !backward && packed && p->N > 1 && heads > most && heads < 64 &&
            p->Hv <= 24 && chunks >= 384) {
            worth = 1;
            *shortest = chunks * 5 / 8;
        }
    }
    if (p->Hv > GDNI_PLAN_MAX_HEADS || !worth)
        return 0;
    const int64_t wanted = 2 * device->multiprocessors / p->Hv;
    return wanted < chunks / 4 ? wanted : chunks / 4;
}

/*
 * The chains for Hopper, one CTA a multiprocessor. Forward has both halves of a head in a CTA, or
 * in its narrow shape one; the exact pass one. Forward alone decides for forward: its times are
 * those of all stages of plans of 2 to 8 segments on an H200 at 1.98 GHz, 2026-11-25. For backward
 * both do, whose chains have one half a CTA (0.8 us a chunk of the states, 1.2 us of their
 * gradients), by older times (H100, 2026-11-24), with which its tables were made.
 */
static inline gdni_plan_model gdni_hopper_model(const gdni_plan_device *device, int backward) {
    gdni_plan_model m;
    m.slots = device->multiprocessors;
    m.forward_slices = 1;
    m.backward_slices = 2;
    m.state_slices = m.matrix_slices = backward ? 1 : 2;
    m.forward = backward ? 2900.0f : 3450.0f;
    m.backward = 2200.0f;
    m.exact = backward ? 3000.0f : 1550.0f;
    m.scan = backward ? 3500.0f : 2800.0f;
    m.launch = backward ? 10000.0f : 16000.0f;
    m.both = backward;
    m.narrow = backward ? 0.0f : 2350.0f;
    return m;
}

static inline gdni_plan_model gdni_plan_model_of(const gdni_plan_device *device,
                                                 const gdn_problem *p, int backward) {
    return gdni_plan_on_hopper(device->capability, p) ? gdni_hopper_model(device, backward)
                                                      : gdni_portable_model(device, p);
}

/* The decay threshold that a plan takes: none is low enough for exact results. */
static inline float gdni_plan_threshold(const gdn_problem *p) {
    return p->flags & GDN_FLAG_EXACT ? -INFINITY : (float)p->decay_threshold;
}

#endif /* GDNI_PLAN_MODEL_H */
