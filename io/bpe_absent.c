/* A build without SentencePiece refuses what needs it. */
#include "bpe.h"

#include "../src/error.h"

static gdn_status absent(const char *path) {
    return gdni_fail(GDN_STATUS_UNSUPPORTED,
                     "%s: BPE tokens need SentencePiece, which this build lacks", path);
}

gdn_status gdni_bpe_train(const char *path, const char *text, size_t bytes, int32_t vocab,
                          void **model, size_t *model_bytes) {
    return absent(path);
}

gdn_status gdni_bpe_load(const char *path, const void *model, size_t model_bytes, gdni_bpe **bpe) {
    return absent(path);
}

void gdni_bpe_free(gdni_bpe *bpe) {}

int32_t gdni_bpe_vocab(const gdni_bpe *bpe) {
    return 0;
}

gdn_status gdni_bpe_encode(const gdni_bpe *bpe, const char *path, const char *text, size_t bytes,
                           int32_t **tokens, int64_t *count) {
    return absent(path);
}

gdn_status gdni_bpe_decode(const gdni_bpe *bpe, const int32_t *tokens, int64_t count, char **text,
                           size_t *bytes) {
    return absent("gdn_io_dataset_decode");
}
