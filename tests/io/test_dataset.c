/* Datasets: splits, reading, entropies of known texts, decoding. */
#include "files.h"

static const char sample[] = "The cat sat. \xc3\xa9t\xc3\xa9!\n\n\tThe dog,  too.\r\n";

static gdn_io_dataset *make(const void *text, size_t bytes, gdn_io_tokenizer tokenizer,
                            int32_t vocab, double heldout) {
    gdn_io_dataset_options o = GDN_IO_DATASET_OPTIONS_INIT;
    gdn_io_dataset *d = NULL;
    o.tokenizer = tokenizer;
    o.vocab = vocab;
    o.heldout_fraction = heldout;
    file_write(file_in("text"), text, bytes);
    gdn_status status = gdn_io_dataset_create(file_in("data.h5"), file_in("text"), &o);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    status = gdn_io_dataset_open(file_in("data.h5"), &d);
    CHECK(status == GDN_STATUS_OK, "%s", gdn_last_error());
    return d;
}

/* Both splits decode to the text. */
static void check_text(gdn_io_dataset *d, const char *text, size_t bytes) {
    size_t done = 0;
    for (int split = 0; split < 2; ++split) {
        const int64_t count = gdn_io_dataset_tokens(d, (gdn_io_split)split);
        int32_t *tokens = malloc((size_t)count * sizeof(*tokens) + 1);
        char *got = NULL;
        size_t size = 0;
        CHECK(gdn_io_dataset_read(d, (gdn_io_split)split, 0, count, tokens) == GDN_STATUS_OK, "%s",
              gdn_last_error());
        CHECK(gdn_io_dataset_decode(d, tokens, count, &got, &size) == GDN_STATUS_OK, "%s",
              gdn_last_error());
        CHECK(done + size <= bytes && !memcmp(got, text + done, size), "split %d", split);
        done += size;
        free(got);
        free(tokens);
    }
    CHECK(done == bytes, "%zu of %zu bytes", done, bytes);
}

static void bytes(void) {
    char text[1000];
    for (int i = 0; i < 1000; ++i)
        text[i] = (char)i; /* every byte, no UTF-8 */
    gdn_io_dataset *d = make(text, sizeof(text), GDN_IO_TOKENIZER_BYTE, 0, 0.25);
    int32_t tokens[4];
    CHECK(gdn_io_dataset_vocab(d) == 256, "vocab %d", gdn_io_dataset_vocab(d));
    CHECK(gdn_io_dataset_tokens(d, GDN_IO_TRAIN) == 750, "train");
    CHECK(gdn_io_dataset_tokens(d, GDN_IO_HELDOUT) == 250, "heldout");
    CHECK(gdn_io_dataset_read(d, GDN_IO_HELDOUT, 246, 4, tokens) == GDN_STATUS_OK, "read");
    CHECK(tokens[0] == 996 % 256 && tokens[3] == 999 % 256, "%d %d", tokens[0], tokens[3]);
    check_line(gdn_io_dataset_read(d, GDN_IO_HELDOUT, 247, 4, tokens), GDN_STATUS_INVALID_ARGUMENT,
               "250 of heldout");
    check_line(gdn_io_dataset_read(d, GDN_IO_TRAIN, -1, 1, tokens), GDN_STATUS_INVALID_ARGUMENT,
               "750 of train");
    check_line(gdn_io_dataset_read(d, GDN_IO_TRAIN, INT64_MAX, INT64_MAX, tokens),
               GDN_STATUS_INVALID_ARGUMENT, "750 of train");
    check_text(d, text, sizeof(text));
    tokens[0] = 256;
    char *got;
    size_t size;
    check_line(gdn_io_dataset_decode(d, tokens, 1, &got, &size), GDN_STATUS_INVALID_ARGUMENT,
               "tokens[0] is 256");
    gdn_io_dataset_close(d);
}

/* Worked by hand. Train "aab", held out "ab": p(a) = 3/259, p(b) = 2/259. After the last b of the
 * training split nothing follows, so p(a | b) = p(a). After a come a and b, once each: p(b | a) =
 * (1 + 2 p(b)) / 4. */
static void entropy(void) {
    gdn_io_dataset *d = make("aabab", 5, GDN_IO_TOKENIZER_BYTE, 0, 0.4);
    const double pa = 3.0 / 259, pb = 2.0 / 259;
    double unigram = 0, bigram = 0;
    CHECK(gdn_io_dataset_entropy(d, &unigram, &bigram) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(fabs(unigram + (log(pa) + log(pb)) / 2) < 1e-12, "unigram %.15g", unigram);
    CHECK(fabs(bigram + (log(pa) + log((1 + 2 * pb) / 4)) / 2) < 1e-12, "bigram %.15g", bigram);
    gdn_io_dataset_close(d);
    d = make("aabab", 5, GDN_IO_TOKENIZER_BYTE, 0, 0);
    check_line(gdn_io_dataset_entropy(d, &unigram, &bigram), GDN_STATUS_INVALID_ARGUMENT,
               "dataset heldout");
    gdn_io_dataset_close(d);
}

static void refusals(void) {
    gdn_io_dataset_options o = GDN_IO_DATASET_OPTIONS_INIT;
    const char *out = file_in("refused.h5");
    check_line(gdn_io_dataset_create(out, file_in("absent"), &o), GDN_STATUS_BAD_FILE,
               "No such file");
    file_write(file_in("empty"), "", 0);
    check_line(gdn_io_dataset_create(out, file_in("empty"), &o), GDN_STATUS_BAD_FILE, "empty");
    check_line(gdn_io_dataset_create(out, files_dir, &o), GDN_STATUS_BAD_FILE, "a directory");
    o.heldout_fraction = 1;
    check_line(gdn_io_dataset_create(out, file_in("text"), &o), GDN_STATUS_INVALID_ARGUMENT,
               "heldout_fraction");
    o.heldout_fraction = NAN;
    check_line(gdn_io_dataset_create(out, file_in("text"), &o), GDN_STATUS_INVALID_ARGUMENT,
               "heldout_fraction");
    CHECK(!file_exists(out), "a refused dataset was written");
}

/* Returns 0 where this build has no SentencePiece. */
static int bpe(void) {
    gdn_io_dataset_options o = GDN_IO_DATASET_OPTIONS_INIT;
    char text[40 * sizeof(sample)];
    size_t size = 0;
    o.tokenizer = GDN_IO_TOKENIZER_BPE;
    o.vocab = 300;
    for (int i = 0; i < 40; ++i, size += sizeof(sample) - 1)
        memcpy(text + size, sample, sizeof(sample) - 1);
    file_write(file_in("text"), text, size);
    if (gdn_io_dataset_create(file_in("data.h5"), file_in("text"), &o) == GDN_STATUS_UNSUPPORTED)
        return 0;
    /* 0.111: the split falls inside a character, and moves behind it. */
    for (int i = 0; i < 3; ++i) {
        gdn_io_dataset *d = make(text, size, GDN_IO_TOKENIZER_BPE, 300, i * 0.111);
        const int32_t vocab = gdn_io_dataset_vocab(d);
        CHECK(vocab > 256 && vocab <= 300, "vocab %d", vocab);
        CHECK(gdn_io_dataset_tokens(d, GDN_IO_TRAIN) < (int64_t)size, "no merges");
        check_text(d, text, size);
        gdn_io_dataset_close(d);
    }
    /* A character that the model never saw comes back through byte tokens. */
    char rare[400];
    memset(rare, 'a', sizeof(rare));
    memcpy(rare + 396, "\xf0\x9f\x99\x82", 4);
    gdn_io_dataset *d = make(rare, sizeof(rare), GDN_IO_TOKENIZER_BPE, 300, 0.05);
    check_text(d, rare, sizeof(rare));
    gdn_io_dataset_close(d);
    file_write(file_in("text"), "ab\xff", 3);
    check_line(gdn_io_dataset_create(file_in("bad.h5"), file_in("text"), &o), GDN_STATUS_BAD_FILE,
               "expected UTF-8 text for BPE, found byte 0xff at offset 2");
    o.vocab = 10;
    check_line(gdn_io_dataset_create(file_in("bad.h5"), file_in("text"), &o),
               GDN_STATUS_INVALID_ARGUMENT, "vocab");
    CHECK(!file_exists(file_in("bad.h5")), "a refused dataset was written");
    return 1;
}

int main(void) {
    files_begin();
    bytes();
    entropy();
    refusals();
    if (!bpe())
        printf("BPE not tested: this build has no SentencePiece\n");
    files_end();
    return harness_finish();
}
