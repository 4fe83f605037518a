#include "batch.h"

#include <stdlib.h>

#include "error.h"
#include "random.h"

enum {
    STREAM_WINDOWS = 0x77696e64
};

gdn_status gdni_batch_create(gdni_batch *batch, int64_t N, int64_t context, int64_t first,
                             int64_t count) {
    const size_t size = (size_t)(count ? count : 1);
    batch->N = N;
    batch->context = context;
    batch->first = first;
    batch->count = count;
    batch->tokens = malloc(size * sizeof(int32_t));
    batch->targets = malloc(size * sizeof(int32_t));
    batch->window = malloc((size_t)(context + 1) * sizeof(int32_t));
    if (!batch->tokens || !batch->targets || !batch->window)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "batch: out of memory for %zu tokens", size);
    return GDN_STATUS_OK;
}

void gdni_batch_free(gdni_batch *batch) {
    free(batch->tokens);
    free(batch->targets);
    free(batch->window);
}

/* What the batch holds of its sequence n, whose first token is number `begin` of the split and
 * whose first `known` tokens have a target. */
static gdn_status read_sequence(gdni_batch *batch, gdn_io_dataset *dataset, gdn_io_split split,
                                int64_t n, int64_t begin, int64_t known) {
    const int64_t start = n * batch->context, end = batch->first + batch->count;
    const int64_t low = start < batch->first ? batch->first - start : 0;
    const int64_t high = start + batch->context > end ? end - start : batch->context;
    const int64_t last = known < high ? known : high; /* of those with a target */
    if (low >= high)
        return GDN_STATUS_OK;
    if (low < last)
        GDN_TRY(gdn_io_dataset_read(dataset, split, begin + low, last - low + 1, batch->window));
    int32_t *tokens = batch->tokens + (start + low - batch->first);
    int32_t *targets = batch->targets + (start + low - batch->first);
    for (int64_t i = 0; i < high - low; ++i) {
        tokens[i] = low + i < last ? batch->window[i] : 0;
        targets[i] = low + i < last ? batch->window[i + 1] : -1;
    }
    return GDN_STATUS_OK;
}

gdn_status gdni_batch_draw(gdni_batch *batch, gdn_io_dataset *dataset, uint64_t seed,
                           int64_t position) {
    const int64_t starts = gdn_io_dataset_tokens(dataset, GDN_IO_TRAIN) - batch->context;
    for (int64_t n = 0; n < batch->N; ++n) {
        const double u = gdni_random_uniform(seed, STREAM_WINDOWS, (uint64_t)(position + n));
        const int64_t begin = (int64_t)(u * (double)starts);
        GDN_TRY(read_sequence(batch, dataset, GDN_IO_TRAIN, n, begin, batch->context));
    }
    return GDN_STATUS_OK;
}

gdn_status gdni_batch_heldout(gdni_batch *batch, gdn_io_dataset *dataset, int64_t predicted,
                              int64_t first, int64_t *counted) {
    *counted = 0;
    for (int64_t n = 0; n < batch->N; ++n) {
        const int64_t begin = (first + n) * batch->context;
        int64_t known = predicted - begin;
        known = known < 0 ? 0 : known < batch->context ? known : batch->context;
        GDN_TRY(read_sequence(batch, dataset, GDN_IO_HELDOUT, n, begin, known));
        *counted += known;
    }
    return GDN_STATUS_OK;
}
