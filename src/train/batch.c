#include "batch.h"

#include <stdlib.h>

#include "error.h"
#include "random.h"

enum {
    STREAM_WINDOWS = 0x77696e64
};

gdn_status gdni_batch_create(gdni_batch *batch, int64_t N, int64_t context) {
    const size_t T = (size_t)(N * context);
    batch->N = N;
    batch->context = context;
    batch->tokens = malloc(T * sizeof(int32_t));
    batch->targets = malloc(T * sizeof(int32_t));
    batch->window = malloc((size_t)(context + 1) * sizeof(int32_t));
    if (!batch->tokens || !batch->targets || !batch->window)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "batch: out of memory for %zu tokens", T);
    return GDN_STATUS_OK;
}

void gdni_batch_free(gdni_batch *batch) {
    free(batch->tokens);
    free(batch->targets);
    free(batch->window);
}

/* Row n of the batch: `known` inputs with their targets from the window, nothing after. */
static void set_row(gdni_batch *batch, int64_t n, int64_t known) {
    int32_t *tokens = batch->tokens + n * batch->context;
    int32_t *targets = batch->targets + n * batch->context;
    for (int64_t i = 0; i < batch->context; ++i) {
        tokens[i] = i < known ? batch->window[i] : 0;
        targets[i] = i < known ? batch->window[i + 1] : -1;
    }
}

gdn_status gdni_batch_draw(gdni_batch *batch, gdn_io_dataset *dataset, uint64_t seed,
                           int64_t position) {
    const int64_t starts = gdn_io_dataset_tokens(dataset, GDN_IO_TRAIN) - batch->context;
    for (int64_t n = 0; n < batch->N; ++n) {
        const double u = gdni_random_uniform(seed, STREAM_WINDOWS, (uint64_t)(position + n));
        const int64_t first = (int64_t)(u * (double)starts);
        GDN_TRY(
            gdn_io_dataset_read(dataset, GDN_IO_TRAIN, first, batch->context + 1, batch->window));
        set_row(batch, n, batch->context);
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
        if (known)
            GDN_TRY(gdn_io_dataset_read(dataset, GDN_IO_HELDOUT, begin, known + 1, batch->window));
        set_row(batch, n, known);
        *counted += known;
    }
    return GDN_STATUS_OK;
}
