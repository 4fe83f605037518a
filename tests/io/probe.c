/*
 * Drives gdn_io from scripts:
 *
 *     probe read KIND PATH            reads all of it; prints what it is
 *     probe copy KIND PATH OUT        reads it and writes it again
 *     probe rename layer_case PATH OUT  the same, in the other naming of projections
 *     probe make checkpoint DIR       writes a small checkpoint
 *     probe make log PATH             writes a small log
 *     probe make dataset PATH TEXT [VOCAB]
 *
 * Exit codes as the gdn command: 0, or 2 with one line on stderr for what is bad, 4 otherwise.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gdn_io.h"

static int report(gdn_status status) {
    if (status == GDN_STATUS_OK)
        return 0;
    fprintf(stderr, "probe: %s\n", gdn_last_error());
    return status == GDN_STATUS_BAD_FILE || status == GDN_STATUS_BAD_DATA ||
                   status == GDN_STATUS_INVALID_ARGUMENT || status == GDN_STATUS_UNSUPPORTED
               ? 2
               : 4;
}

/* Reads a struct of one kind and, if out is set, writes it again. */
#define COPY(type, name)                                                                           \
    static gdn_status copy_##name(const char *path, const char *out) {                             \
        type data = {.size = sizeof(data)};                                                        \
        gdn_status status = gdn_io_##name##_read(path, &data);                                     \
        if (status == GDN_STATUS_OK && out)                                                        \
            status = gdn_io_##name##_write(out, &data);                                            \
        gdn_io_##name##_free(&data);                                                               \
        return status;                                                                             \
    }
COPY(gdn_io_case, case)
COPY(gdn_io_result, result)
COPY(gdn_io_layer_case, layer_case)
COPY(gdn_io_layer_result, layer_result)

static gdn_status rename_layer_case(const char *path, const char *out) {
    gdn_io_layer_case c = {.size = sizeof(c)};
    gdn_status status = gdn_io_layer_case_read(path, &c);
    c.naming = c.naming == GDN_IO_QWEN3_5 ? GDN_IO_QWEN3_NEXT : GDN_IO_QWEN3_5;
    if (status == GDN_STATUS_OK)
        status = gdn_io_layer_case_write(out, &c);
    gdn_io_layer_case_free(&c);
    return status;
}

static gdn_status copy_log(const char *path, const char *out) {
    gdn_io_log *log;
    gdn_status status = gdn_io_log_read(path, &log);
    if (status == GDN_STATUS_OK && out)
        status = gdn_io_log_write(out, log);
    if (status == GDN_STATUS_OK)
        printf("%zu columns, %zu rows\n", log->columns, log->rows);
    gdn_io_log_free(log);
    return status;
}

static gdn_status read_dataset(const char *path, const char *out) {
    gdn_io_dataset *d;
    gdn_status status = gdn_io_dataset_open(path, &d);
    if (status != GDN_STATUS_OK)
        return status;
    double unigram, bigram;
    char *text = NULL;
    size_t bytes = 0;
    const int64_t count = gdn_io_dataset_tokens(d, GDN_IO_TRAIN);
    int32_t *tokens = malloc((size_t)(count ? count : 1) * sizeof(*tokens));
    status = gdn_io_dataset_entropy(d, &unigram, &bigram);
    if (status == GDN_STATUS_OK)
        status = gdn_io_dataset_read(d, GDN_IO_TRAIN, 0, count, tokens);
    if (status == GDN_STATUS_OK)
        status = gdn_io_dataset_decode(d, tokens, count, &text, &bytes);
    if (status == GDN_STATUS_OK)
        printf("%lld tokens, %zu bytes, %.6f, %.6f\n", (long long)count, bytes, unigram, bigram);
    free(tokens);
    free(text);
    gdn_io_dataset_close(d);
    return status;
}

enum {
    WEIGHTS = 600
};

static gdn_status make_checkpoint(const char *dir, const char *unused) {
    float weights[WEIGHTS];
    double loss[2] = {1.5, 2.5};
    const int64_t position = 42;
    const uint64_t seed[2] = {~UINT64_C(0), 7};
    for (int i = 0; i < WEIGHTS; ++i)
        weights[i] = (float)i / 8 - 3;
    const gdn_io_entry entries[] = {
        {"model/weights", GDN_IO_F32, 2, {20, 30}, weights},
        {"model/empty", GDN_IO_F32, 2, {0, 30}, NULL},
        {"optimizer/loss", GDN_IO_F64, 1, {2}, loss},
        {"position", GDN_IO_I64, 0, {0}, &position},
        {"random", GDN_IO_U64, 1, {2}, seed},
        {"config", GDN_IO_TEXT, 1, {5}, "a = 1"},
    };
    return gdn_io_checkpoint_write(dir, 7, 2, entries, sizeof(entries) / sizeof(entries[0]));
}

static gdn_status read_checkpoint(const char *path, const char *out) {
    gdn_io_checkpoint *c;
    gdn_status status = gdn_io_checkpoint_open(path, &c);
    if (status != GDN_STATUS_OK)
        return status;
    float weights[WEIGHTS];
    double loss[2];
    int64_t position;
    uint64_t seed[2];
    char config[5];
    const gdn_io_entry entries[] = {
        {"model/weights", GDN_IO_F32, 2, {20, 30}, weights},
        {"model/empty", GDN_IO_F32, 2, {0, 30}, weights},
        {"optimizer/loss", GDN_IO_F64, 1, {2}, loss},
        {"position", GDN_IO_I64, 0, {0}, &position},
        {"random", GDN_IO_U64, 1, {2}, seed},
        {"config", GDN_IO_TEXT, 1, {5}, config},
    };
    for (size_t i = 0; status == GDN_STATUS_OK && i < sizeof(entries) / sizeof(entries[0]); ++i) {
        int32_t ndim;
        int64_t shape[4];
        status = gdn_io_checkpoint_shape(c, entries[i].name, entries[i].type, &ndim, shape);
        if (status == GDN_STATUS_OK)
            status = gdn_io_checkpoint_read(c, &entries[i], (void *)entries[i].data);
    }
    if (status == GDN_STATUS_OK)
        printf("step %lld, position %lld\n", (long long)gdn_io_checkpoint_step(c),
               (long long)position);
    gdn_io_checkpoint_close(c);
    return status;
}

static gdn_status make_log(const char *path, const char *unused) {
    const char *const names[] = {"step", "loss"};
    const double values[] = {1, 5.5, 2, 5.25, 3, NAN};
    const gdn_io_log log = {sizeof(log), 2, 3, names, values, "steps = 3", NULL, 0};
    return gdn_io_log_write(path, &log);
}

static gdn_status make_dataset(const char *path, const char *text, const char *vocab) {
    gdn_io_dataset_options options = GDN_IO_DATASET_OPTIONS_INIT;
    if (vocab) {
        options.tokenizer = GDN_IO_TOKENIZER_BPE;
        options.vocab = atoi(vocab);
    }
    return gdn_io_dataset_create(path, text, &options);
}

int main(int argc, char **argv) {
    static const struct {
        const char *verb, *kind;
        gdn_status (*call)(const char *, const char *);
    } table[] = {
        {"read", "case", copy_case},
        {"read", "result", copy_result},
        {"read", "layer_case", copy_layer_case},
        {"read", "layer_result", copy_layer_result},
        {"read", "log", copy_log},
        {"read", "dataset", read_dataset},
        {"read", "checkpoint", read_checkpoint},
        {"copy", "case", copy_case},
        {"copy", "result", copy_result},
        {"copy", "layer_case", copy_layer_case},
        {"copy", "layer_result", copy_layer_result},
        {"copy", "log", copy_log},
        {"rename", "layer_case", rename_layer_case},
        {"make", "checkpoint", make_checkpoint},
        {"make", "log", make_log},
    };
    if (argc >= 5 && !strcmp(argv[1], "make") && !strcmp(argv[2], "dataset"))
        return report(make_dataset(argv[3], argv[4], argc > 5 ? argv[5] : NULL));
    if (argc >= 4)
        for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); ++i)
            if (!strcmp(argv[1], table[i].verb) && !strcmp(argv[2], table[i].kind))
                return report(table[i].call(argv[3], argc > 4 ? argv[4] : NULL));
    fprintf(stderr, "usage: probe read|copy|rename|make KIND PATH [OUT]\n");
    return 2;
}
