/* Batches: evaluation predicts the same tokens at every context; draws depend on the position. */
#include "batch.h"

#include "harness.h"

enum {
    TEXT = 4000
};

static gdn_io_dataset *make_dataset(const char *folder, unsigned char *text) {
    char text_path[4096], data_path[4096];
    gdn_io_dataset_options options = GDN_IO_DATASET_OPTIONS_INIT;
    gdn_io_dataset *dataset = NULL;
    harness_random r = {9};
    snprintf(text_path, sizeof(text_path), "%s/batch.txt", folder);
    snprintf(data_path, sizeof(data_path), "%s/batch.h5", folder);
    for (int i = 0; i < TEXT; ++i)
        text[i] = (unsigned char)('a' + harness_next(&r) % 26);
    FILE *file = fopen(text_path, "w");
    CHECK(file && fwrite(text, 1, TEXT, file) == TEXT && !fclose(file), "%s", text_path);
    options.heldout_fraction = 0.25;
    gdn_status status = gdn_io_dataset_create(data_path, text_path, &options);
    if (status == GDN_STATUS_OK)
        status = gdn_io_dataset_open(data_path, &dataset);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    return dataset;
}

static void check_heldout(gdn_io_dataset *dataset, const unsigned char *text, int64_t context,
                          int64_t N, int64_t predicted) {
    const int64_t base = gdn_io_dataset_tokens(dataset, GDN_IO_TRAIN);
    gdni_batch batch = {0};
    int64_t next = 1, counted = 1, good = 1;
    const gdn_status made = gdni_batch_create(&batch, N, context, 0, N * context);
    CHECK(made == GDN_STATUS_OK, "%s", gdn_last_error());
    for (int64_t first = 0; counted; first += N) {
        const gdn_status status = gdni_batch_heldout(&batch, dataset, predicted, first, &counted);
        CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
        for (int64_t i = 0; i < N * context; ++i) {
            if (batch.targets[i] < 0)
                continue;
            good &=
                batch.targets[i] == text[base + next] && batch.tokens[i] == text[base + next - 1];
            ++next;
        }
    }
    CHECK(next == predicted + 1, "context %lld: predicts %lld tokens, expected %lld",
          (long long)context, (long long)next - 1, (long long)predicted);
    CHECK(good, "context %lld: other tokens", (long long)context);
    gdni_batch_free(&batch);
}

static void check_draws(gdn_io_dataset *dataset, const unsigned char *text) {
    gdni_batch a = {0}, b = {0};
    const int64_t context = 50, N = 4;
    int shifted = 1;
    gdn_status status = gdni_batch_create(&a, N, context, 0, N * context);
    if (status == GDN_STATUS_OK)
        status = gdni_batch_create(&b, N, context, 0, N * context);
    if (status == GDN_STATUS_OK)
        status = gdni_batch_draw(&a, dataset, 1, 600);
    if (status == GDN_STATUS_OK)
        status = gdni_batch_draw(&b, dataset, 1, 600);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(!memcmp(a.tokens, b.tokens, (size_t)(N * context) * sizeof(int32_t)),
          "the same position gives another batch");
    for (int64_t i = 0; i + 1 < context; ++i)
        shifted &= a.targets[i] == a.tokens[i + 1];
    CHECK(shifted, "targets are not the tokens after");
    char row[64];
    for (int64_t i = 0; i < context; ++i)
        row[i] = (char)a.tokens[i];
    row[context] = 0;
    CHECK(strstr((const char *)text, row) != NULL, "not in the text: %s", row);
    status = gdni_batch_draw(&b, dataset, 1, 800);
    CHECK(status == GDN_STATUS_OK && memcmp(a.tokens, b.tokens, (size_t)context * sizeof(int32_t)),
          "another position gives the same window");
    status = gdni_batch_draw(&b, dataset, 2, 600);
    CHECK(status == GDN_STATUS_OK && memcmp(a.tokens, b.tokens, (size_t)context * sizeof(int32_t)),
          "another seed gives the same window");
    gdni_batch_free(&a);
    gdni_batch_free(&b);
}

int main(int argc, char **argv) {
    unsigned char text[TEXT + 1] = {0};
    gdn_io_dataset *dataset = make_dataset(argc > 1 ? argv[1] : ".", text);
    if (dataset) {
        check_heldout(dataset, text, 8, 16, 900);
        check_heldout(dataset, text, 64, 2, 900);
        check_heldout(dataset, text, 512, 1, 900);
        check_heldout(dataset, text, 100, 3, 999);
        check_draws(dataset, text);
    }
    gdn_io_dataset_close(dataset);
    return harness_finish();
}
