/*
 * data FOLDER shared|own: each rank's part of a batch is that of the whole batch. With a parallel
 * HDF5 the ranks share the file, otherwise each reads its slice of its own; the argument says which
 * this build has to do.
 */
#include "batch.h"
#include "gdn_dist.h"
#include "harness.h"
#include "ranks.h"

enum {
    TEXT = 300000, /* several chunks of the file */
    SEQUENCES = 5,
    CONTEXT = 3001,
    TOKENS = SEQUENCES * CONTEXT
};

/* Aborts the job: the other ranks would wait for this one. */
static void must(gdn_dist *dist, gdn_status status) {
    if (status != GDN_STATUS_OK)
        gdn_dist_abort(dist, 99, NULL);
}

static gdn_status make_file(const char *path, const char *text_path) {
    gdn_io_dataset_options options = GDN_IO_DATASET_OPTIONS_INIT;
    harness_random r = {9};
    FILE *file = fopen(text_path, "w");
    options.heldout_fraction = 0.25;
    CHECK(file, "%s: cannot write", text_path);
    for (int i = 0; file && i < TEXT; ++i)
        fputc((int)(harness_next(&r) % 256), file);
    if (file)
        fclose(file);
    return gdn_io_dataset_create(path, text_path, &options);
}

static void compare(const gdni_batch *part, const gdni_batch *whole, const char *what) {
    const size_t bytes = (size_t)part->count * sizeof(int32_t);
    CHECK(!memcmp(part->tokens, whole->tokens + part->first, bytes), "%s: other tokens", what);
    CHECK(!memcmp(part->targets, whole->targets + part->first, bytes), "%s: other targets", what);
}

/* alone: the same file, opened by this rank for itself. */
static void check_batches(gdn_dist *dist, gdni_ranks *ranks, gdn_io_dataset *dataset,
                          gdn_io_dataset *alone) {
    const gdni_part p = gdni_part_of(ranks, SEQUENCES, CONTEXT);
    gdni_batch part = {0}, whole = {0};
    int64_t counted, all;
    must(dist, gdni_batch_create(&part, SEQUENCES, CONTEXT, p.first, p.count));
    must(dist, gdni_batch_create(&whole, SEQUENCES, CONTEXT, 0, TOKENS));
    for (int64_t position = 0; position < 20 * TOKENS; position += TOKENS) {
        must(dist, gdni_batch_draw(&part, dataset, 3, position));
        must(dist, gdni_batch_draw(&whole, alone, 3, position));
        compare(&part, &whole, "a drawn batch");
    }
    for (int64_t first = 0; first < 3 * SEQUENCES; first += SEQUENCES) {
        must(dist, gdni_batch_heldout(&part, dataset, 40000, first, &counted));
        must(dist, gdni_batch_heldout(&whole, alone, 40000, first, &all));
        CHECK(counted == all, "%lld held-out tokens, expected %lld", (long long)counted,
              (long long)all);
        compare(&part, &whole, "a held-out batch");
    }
    gdni_batch_free(&part);
    gdni_batch_free(&whole);
}

static void check_file(gdn_dist *dist, const char *folder, int shared) {
    char path[4096], text_path[4096];
    gdni_ranks ranks;
    gdn_io_dataset *dataset = NULL, *alone = NULL;
    must(dist, gdni_ranks_open(&ranks, dist));
    snprintf(path, sizeof(path), "%s/data.P%d.h5", folder, ranks.ranks);
    snprintf(text_path, sizeof(text_path), "%s/data.P%d.txt", folder, ranks.ranks);
    const gdn_status made = ranks.rank ? GDN_STATUS_OK : make_file(path, text_path);
    must(dist, gdn_dist_agree(dist, GDN_DIST_WORLD, made, "making the file", NULL));
    must(dist, gdn_io_dataset_open(path, &dataset));
    must(dist, gdn_io_dataset_open(path, &alone));
    CHECK(gdn_io_can_share() == shared, "can share %d, expected %d", gdn_io_can_share(), shared);
    const gdn_status status = gdn_io_dataset_share(dataset, NULL);
    CHECK(status == (shared ? GDN_STATUS_OK : GDN_STATUS_UNSUPPORTED), "status %d: %s", (int)status,
          gdn_last_error());
    must(dist, gdn_dist_agree(dist, GDN_DIST_WORLD, GDN_STATUS_OK, "opening the file", NULL));
    check_batches(dist, &ranks, dataset, alone);
    gdn_io_dataset_close(alone);
    gdn_io_dataset_close(dataset);
    gdni_ranks_close(&ranks);
}

int main(int argc, char **argv) {
    gdn_dist *dist = NULL;
    int32_t started = 0;
    if (argc != 3)
        return 99;
    if (gdn_dist_start(0.0, &started) || !started || gdn_dist_create(&dist, NULL))
        gdn_dist_abort(dist, 99, NULL);
    check_file(dist, argv[1], !strcmp(argv[2], "shared"));
    gdn_dist_destroy(dist);
    gdn_dist_finish(0.0);
    return harness_finish();
}
