/* Tokenised datasets: open, read, decode. */
#include "dataset.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

const char *const gdni_split_names[2] = {"train", "heldout"};

gdn_status gdni_dataset_read(const gdn_io_dataset *d, gdn_io_split split, int64_t first,
                             int64_t count, int32_t *tokens) {
    const char *name = gdni_split_names[split];
    gdni_shape shape = {"[tokens]", 1, {d->tokens[split]}};
    if (count == 0)
        return GDN_STATUS_OK;
    GDN_TRY(gdni_tensor_read_rows(&d->file, name,
                                  d->tokenizer == GDN_IO_TOKENIZER_BYTE ? GDNI_BYTES : GDNI_INTEGER,
                                  &shape, first, count, H5T_NATIVE_INT32, tokens));
    for (int64_t i = 0; i < count; ++i)
        if (tokens[i] < 0 || tokens[i] >= d->vocab)
            return gdni_io_fail(GDN_STATUS_BAD_FILE, d->path,
                                "dataset %s: expected tokens from 0 to %d, found %d at [%" PRId64
                                "]",
                                name, d->vocab - 1, tokens[i], first + i);
    return GDN_STATUS_OK;
}

/* Reads all tokens once: later reads then fail only if the disk does. */
static gdn_status scan(const gdn_io_dataset *d) {
    const int64_t block = 1 << 20;
    int32_t *tokens = malloc((size_t)block * sizeof(*tokens));
    gdn_status status = GDN_STATUS_OK;
    if (!tokens)
        return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, d->path, "no memory to read it");
    for (int split = 0; split < 2; ++split)
        for (int64_t i = 0; status == GDN_STATUS_OK && i < d->tokens[split]; i += block) {
            const int64_t rest = d->tokens[split] - i;
            status =
                gdni_dataset_read(d, (gdn_io_split)split, i, rest < block ? rest : block, tokens);
        }
    free(tokens);
    return status;
}

static gdn_status read_model(gdn_io_dataset *d) {
    gdni_shape shape = {"[bytes]", 1, {-1}};
    void *model;
    GDN_TRY(gdni_tensor_read(&d->file, "sentencepiece_model", GDNI_BYTES, &shape, H5T_NATIVE_UCHAR,
                             &model));
    gdn_status status = gdni_bpe_load(d->path, model, (size_t)shape.dim[0], &d->bpe);
    free(model);
    if (status == GDN_STATUS_UNSUPPORTED)
        return GDN_STATUS_OK; /* tokens can be read all the same */
    GDN_TRY(status);
    if (gdni_bpe_vocab(d->bpe) != d->vocab)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, d->path,
                            "attribute vocab: expected %d as in sentencepiece_model, found %d",
                            gdni_bpe_vocab(d->bpe), d->vocab);
    return GDN_STATUS_OK;
}

static gdn_status open_file(const char *path, gdn_io_dataset *d) {
    char tokenizer[16];
    int64_t vocab;
    GDN_TRY(gdni_file_open(&d->file, path));
    d->file.path = d->path;
    GDN_TRY(gdni_file_expect(&d->file, "gdn-dataset"));
    GDN_TRY(gdni_attr_read_text(&d->file, "tokenizer", tokenizer, sizeof(tokenizer)));
    if (strcmp(tokenizer, "byte") && strcmp(tokenizer, "bpe"))
        return gdni_io_fail(GDN_STATUS_BAD_FILE, d->path,
                            "attribute tokenizer: expected byte or bpe, found \"%s\"", tokenizer);
    d->tokenizer = strcmp(tokenizer, "byte") ? GDN_IO_TOKENIZER_BPE : GDN_IO_TOKENIZER_BYTE;
    const int byte = d->tokenizer == GDN_IO_TOKENIZER_BYTE;
    GDN_TRY(gdni_attr_read_int(&d->file, "vocab", byte ? 256 : 1, byte ? 256 : 1000000, &vocab));
    d->vocab = (int32_t)vocab;
    for (int split = 0; split < 2; ++split) {
        gdni_shape shape = {"[tokens]", 1, {-1}};
        GDN_TRY(gdni_tensor_check(&d->file, gdni_split_names[split],
                                  byte ? GDNI_BYTES : GDNI_INTEGER, &shape));
        d->tokens[split] = shape.dim[0];
    }
    return byte ? GDN_STATUS_OK : read_model(d);
}

static gdn_status dataset_open(const char *path, gdn_io_dataset **out) {
    *out = NULL;
    gdn_io_dataset *d = calloc(1, sizeof(*d));
    char *copy = strdup(path);
    if (!d || !copy) {
        free(d);
        free(copy);
        return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, path, "no memory to open it");
    }
    d->file.id = -1;
    d->path = copy;
    const gdn_status status = open_file(path, d);
    if (status == GDN_STATUS_OK)
        *out = d;
    else
        gdn_io_dataset_close(d);
    return status;
}

/* In a child process; see guard.c. */
static gdn_status rehearse_dataset(const char *path) {
    gdn_io_dataset *d;
    gdn_status status = dataset_open(path, &d);
    if (status == GDN_STATUS_OK)
        status = scan(d);
    gdn_io_dataset_close(d);
    return status;
}

gdn_status gdn_io_dataset_open(const char *path, gdn_io_dataset **out) {
    gdni_quiet quiet;
    gdni_clear_error();
    GDNI_REQUIRE(path && out, "gdn_io_dataset_open: path or out is NULL");
    *out = NULL;
    gdni_quiet_begin(&quiet);
    gdn_status status = gdni_rehearse(path, rehearse_dataset);
    if (status == GDN_STATUS_OK)
        status = dataset_open(path, out);
    gdni_quiet_end(&quiet);
    return status;
}

void gdn_io_dataset_close(gdn_io_dataset *d) {
    if (!d)
        return;
    gdni_file_close(&d->file);
    gdni_bpe_free(d->bpe);
    free(d->path);
    free(d);
}

int32_t gdn_io_dataset_vocab(const gdn_io_dataset *d) {
    return d ? d->vocab : 0;
}

int64_t gdn_io_dataset_tokens(const gdn_io_dataset *d, gdn_io_split split) {
    return d && (split == GDN_IO_TRAIN || split == GDN_IO_HELDOUT) ? d->tokens[split] : 0;
}

static gdn_status dataset_read(const gdn_io_dataset *d, gdn_io_split split, int64_t first,
                               int64_t count, int32_t *tokens) {
    GDNI_REQUIRE(d && (tokens || !count), "gdn_io_dataset_read: dataset or tokens is NULL");
    GDNI_REQUIRE(split == GDN_IO_TRAIN || split == GDN_IO_HELDOUT,
                 "gdn_io_dataset_read: split is %d, expected a gdn_io_split", (int)split);
    GDNI_REQUIRE(first >= 0 && count >= 0 && first <= d->tokens[split] &&
                     count <= d->tokens[split] - first,
                 "gdn_io_dataset_read: tokens [%" PRId64 ", %" PRId64 " more), expected within the "
                 "%" PRId64 " of %s",
                 first, count, d->tokens[split], gdni_split_names[split]);
    return gdni_dataset_read(d, split, first, count, tokens);
}

gdn_status gdn_io_dataset_read(gdn_io_dataset *dataset, gdn_io_split split, int64_t first,
                               int64_t count, int32_t *tokens) {
    gdni_quiet quiet;
    gdni_quiet_begin(&quiet);
    const gdn_status status = dataset_read(dataset, split, first, count, tokens);
    gdni_quiet_end(&quiet);
    return status;
}

gdn_status gdn_io_dataset_decode(const gdn_io_dataset *d, const int32_t *tokens, int64_t count,
                                 char **text, size_t *bytes) {
    gdni_clear_error();
    GDNI_REQUIRE(d && text && bytes && count >= 0 && (tokens || !count),
                 "gdn_io_dataset_decode: an argument is NULL or count is negative");
    *text = NULL;
    *bytes = 0;
    for (int64_t i = 0; i < count; ++i)
        GDNI_REQUIRE(tokens[i] >= 0 && tokens[i] < d->vocab,
                     "gdn_io_dataset_decode: tokens[%" PRId64 "] is %d, expected 0 to %d", i,
                     tokens[i], d->vocab - 1);
    if (d->tokenizer == GDN_IO_TOKENIZER_BPE)
        return gdni_bpe_decode(d->bpe, tokens, count, text, bytes);
    *text = malloc(count ? (size_t)count : 1);
    if (!*text)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "gdn_io_dataset_decode: no memory");
    for (int64_t i = 0; i < count; ++i)
        (*text)[i] = (char)tokens[i];
    *bytes = (size_t)count;
    return GDN_STATUS_OK;
}
