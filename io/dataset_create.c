/* Tokenising a text file into a dataset. */
#include "dataset.h"
#include "sha256.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct source {
    const char *path;
    char *text;
    size_t bytes;
    size_t train; /* bytes of the training split */
} source;

static gdn_status read_text(source *s) {
    struct stat about;
    const int fd = open(s->path, O_RDONLY | O_CLOEXEC);
    gdn_status status = GDN_STATUS_OK;
    if (fd < 0 || fstat(fd, &about)) {
        status = gdni_io_fail(GDN_STATUS_BAD_FILE, s->path, "cannot open: %s", strerror(errno));
        goto cleanup;
    }
    if (!S_ISREG(about.st_mode) || about.st_size == 0) {
        status = gdni_io_fail(GDN_STATUS_BAD_FILE, s->path, "expected a text file, found %s",
                              S_ISREG(about.st_mode)   ? "an empty one"
                              : S_ISDIR(about.st_mode) ? "a directory"
                                                       : "no regular file");
        goto cleanup;
    }
    s->bytes = (size_t)about.st_size;
    s->text = malloc(s->bytes);
    if (!s->text) {
        status = gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, s->path, "no memory for its %zu bytes",
                              s->bytes);
        goto cleanup;
    }
    for (size_t done = 0; done < s->bytes;) {
        const ssize_t got = read(fd, s->text + done, s->bytes - done);
        if (got <= 0 && !(got < 0 && errno == EINTR)) {
            status = gdni_io_fail(GDN_STATUS_BAD_FILE, s->path, "cannot read: %s",
                                  got ? strerror(errno) : "it shrank");
            break;
        }
        done += got > 0 ? (size_t)got : 0;
    }
cleanup:
    if (fd >= 0)
        close(fd);
    return status;
}

/* Length of the UTF-8 character at text, 0 if there is none. */
static size_t utf8_length(const unsigned char *c, size_t rest) {
    const size_t length = c[0] < 0x80   ? 1
                          : c[0] < 0xc2 ? 0
                          : c[0] < 0xe0 ? 2
                          : c[0] < 0xf0 ? 3
                          : c[0] < 0xf5 ? 4
                                        : 0;
    if (length == 0 || length > rest)
        return 0;
    for (size_t i = 1; i < length; ++i)
        if ((c[i] & 0xc0) != 0x80)
            return 0;
    /* Overlong forms, surrogates, and what lies past U+10FFFF. */
    if ((c[0] == 0xe0 && c[1] < 0xa0) || (c[0] == 0xed && c[1] > 0x9f) ||
        (c[0] == 0xf0 && c[1] < 0x90) || (c[0] == 0xf4 && c[1] > 0x8f))
        return 0;
    return length;
}

/* SentencePiece would replace what is not UTF-8; the text has to come back as it was. */
static gdn_status check_utf8(const source *s) {
    for (size_t i = 0, length; i < s->bytes; i += length) {
        length = utf8_length((const unsigned char *)s->text + i, s->bytes - i);
        if (!length)
            return gdni_io_fail(GDN_STATUS_BAD_FILE, s->path,
                                "expected UTF-8 text for BPE, found byte 0x%02x at offset %zu",
                                (unsigned char)s->text[i], i);
    }
    return GDN_STATUS_OK;
}

static gdn_status write_split(const gdni_writer *w, gdn_io_split split, int64_t count,
                              hid_t file_type, hid_t memory_type, const void *tokens) {
    const gdni_shape shape = {"[tokens]", 1, {count}};
    return gdni_tensor_write(w, gdni_split_names[split], &shape, file_type, memory_type, tokens);
}

static gdn_status write_bytes(const gdni_writer *w, const source *s) {
    GDN_TRY(
        write_split(w, GDN_IO_TRAIN, (int64_t)s->train, H5T_STD_U8LE, H5T_NATIVE_UCHAR, s->text));
    GDN_TRY(write_split(w, GDN_IO_HELDOUT, (int64_t)(s->bytes - s->train), H5T_STD_U8LE,
                        H5T_NATIVE_UCHAR, s->text + s->train));
    return gdni_attr_write_int(w, "vocab", 256);
}

/* The model sees the training split alone. */
static gdn_status write_bpe(const gdni_writer *w, const source *s, int32_t vocab) {
    gdni_bpe *bpe = NULL;
    void *model = NULL;
    int32_t *tokens = NULL;
    gdni_shape shape = {"[bytes]", 1, {0}};
    size_t model_bytes = 0;
    gdn_status status;
    GDN_TRY_GOTO(gdni_bpe_train(s->path, s->text, s->train, vocab, &model, &model_bytes), cleanup);
    GDN_TRY_GOTO(gdni_bpe_load(s->path, model, model_bytes, &bpe), cleanup);
    shape.dim[0] = (int64_t)model_bytes;
    GDN_TRY_GOTO(
        gdni_tensor_write(w, "sentencepiece_model", &shape, H5T_STD_U8LE, H5T_NATIVE_UCHAR, model),
        cleanup);
    GDN_TRY_GOTO(gdni_attr_write_int(w, "vocab", gdni_bpe_vocab(bpe)), cleanup);
    for (int split = 0; split < 2; ++split) {
        int64_t count;
        const char *text = s->text + (split ? s->train : 0);
        const hid_t type = gdni_bpe_vocab(bpe) <= 65536 ? H5T_STD_U16LE : H5T_STD_U32LE;
        GDN_TRY_GOTO(gdni_bpe_encode(bpe, s->path, text, split ? s->bytes - s->train : s->train,
                                     &tokens, &count),
                     cleanup);
        GDN_TRY_GOTO(write_split(w, (gdn_io_split)split, count, type, H5T_NATIVE_INT32, tokens),
                     cleanup);
        free(tokens);
        tokens = NULL;
    }
cleanup:
    free(tokens);
    free(model);
    gdni_bpe_free(bpe);
    return status;
}

static gdn_status write_about(const gdni_writer *w, const source *s,
                              const gdn_io_dataset_options *o) {
    const char *slash = strrchr(s->path, '/');
    char digest[65];
    gdni_sha256(s->text, s->bytes, digest);
    GDN_TRY(gdni_attr_write_text(w, "tokenizer",
                                 o->tokenizer == GDN_IO_TOKENIZER_BYTE ? "byte" : "bpe"));
    GDN_TRY(gdni_attr_write_text(w, "source_name", slash ? slash + 1 : s->path));
    GDN_TRY(gdni_attr_write_int(w, "source_bytes", (int64_t)s->bytes));
    GDN_TRY(gdni_attr_write_text(w, "source_sha256", digest));
    return gdni_attr_write_real(w, "heldout_fraction", o->heldout_fraction);
}

static gdn_status dataset_create(const char *path, const char *text_path,
                                 const gdn_io_dataset_options *options) {
    const gdn_io_dataset_options init = GDN_IO_DATASET_OPTIONS_INIT;
    gdn_io_dataset_options o = init;
    source s = {text_path, NULL, 0, 0};
    gdni_writer writer;
    gdn_status status;
    GDNI_REQUIRE(path && text_path, "gdn_io_dataset_create: path or text_path is NULL");
    if (options)
        GDNI_TAKE(&o, options, "gdn_io_dataset_create: options");
    const int byte = o.tokenizer == GDN_IO_TOKENIZER_BYTE;
    GDNI_REQUIRE(byte || o.tokenizer == GDN_IO_TOKENIZER_BPE,
                 "gdn_io_dataset_create: tokenizer is %d, expected a gdn_io_tokenizer",
                 (int)o.tokenizer);
    GDNI_REQUIRE(byte || (o.vocab >= 300 && o.vocab <= 1000000),
                 "gdn_io_dataset_create: vocab is %d, expected 300 to 1000000", o.vocab);
    GDNI_REQUIRE(o.heldout_fraction >= 0 && o.heldout_fraction < 1,
                 "gdn_io_dataset_create: heldout_fraction is %g, expected 0 or more and below 1",
                 o.heldout_fraction);
    GDN_TRY_GOTO(read_text(&s), cleanup);
    s.train = s.bytes - (size_t)((double)s.bytes * o.heldout_fraction);
    if (!byte) {
        GDN_TRY_GOTO(check_utf8(&s), cleanup);
        while (s.train < s.bytes && ((unsigned char)s.text[s.train] & 0xc0) == 0x80)
            ++s.train;
    }
    GDN_TRY_GOTO(gdni_writer_open(&writer, path, "gdn-dataset"), cleanup);
    status = write_about(&writer, &s, &o);
    if (status == GDN_STATUS_OK)
        status = byte ? write_bytes(&writer, &s) : write_bpe(&writer, &s, o.vocab);
    status = gdni_writer_close(&writer, status);
cleanup:
    free(s.text);
    return status;
}

gdn_status gdn_io_dataset_create(const char *path, const char *text_path,
                                 const gdn_io_dataset_options *options) {
    gdni_quiet quiet;
    gdni_quiet_begin(&quiet);
    const gdn_status status = dataset_create(path, text_path, options);
    gdni_quiet_end(&quiet);
    return status;
}
