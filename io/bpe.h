/* Byte-pair tokens by SentencePiece: bpe.cc, or bpe_absent.c in a build without it. */
#ifndef GDNI_IO_BPE_H
#define GDNI_IO_BPE_H

#include "gdn_io.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gdni_bpe gdni_bpe;

/* Trains on text and gives the serialized model, to be released with free(). path: for messages. */
gdn_status gdni_bpe_train(const char *path, const char *text, size_t bytes, int32_t vocab,
                          void **model, size_t *model_bytes);
gdn_status gdni_bpe_load(const char *path, const void *model, size_t model_bytes, gdni_bpe **bpe);
void gdni_bpe_free(gdni_bpe *bpe);
int32_t gdni_bpe_vocab(const gdni_bpe *bpe);
/* Tokens of text, line by line (a line's end is a token of its own); *tokens: free(). */
gdn_status gdni_bpe_encode(const gdni_bpe *bpe, const char *path, const char *text, size_t bytes,
                           int32_t **tokens, int64_t *count);
/* Bytes that tokens in [0, vocab) stand for; *text: free(). */
gdn_status gdni_bpe_decode(const gdni_bpe *bpe, const int32_t *tokens, int64_t count, char **text,
                           size_t *bytes);

#ifdef __cplusplus
}
#endif

#endif /* GDNI_IO_BPE_H */
