/* A dataset that is open. */
#ifndef GDNI_IO_DATASET_H
#define GDNI_IO_DATASET_H

#include "bpe.h"
#include "internal.h"

struct gdn_io_dataset {
    gdni_file file;
    char *path;
    gdn_io_tokenizer tokenizer;
    int32_t vocab;
    int64_t tokens[2]; /* of each gdn_io_split */
    gdni_bpe *bpe;     /* NULL: byte tokens, or a build without SentencePiece */
};

/* The dataset of each gdn_io_split. */
extern const char *const gdni_split_names[2];

/* Tokens [first, first + count), checked against the vocabulary; the range is the caller's. */
gdn_status gdni_dataset_read(const gdn_io_dataset *dataset, gdn_io_split split, int64_t first,
                             int64_t count, int32_t *tokens);

#endif /* GDNI_IO_DATASET_H */
