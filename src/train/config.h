/*
 * What a training run is made from: one table of keys, filled from defaults, an INI file and
 * command-line flags, in this order.
 */
#ifndef GDNI_TRAIN_CONFIG_H
#define GDNI_TRAIN_CONFIG_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "gdn.h"

/* Values of backend and dtype. */
enum {
    GDNI_RUN_AUTO = 0,
    GDNI_RUN_CPU = 1,
    GDNI_RUN_CUDA = 2,
    GDNI_RUN_FP32 = 1,
    GDNI_RUN_BF16 = 2
}; /* those of recompute are gdni_recompute */

typedef struct gdni_config {
    /* [model] */
    int64_t width, layers, key_heads, value_heads, key_dim, value_dim, conv_width, mlp, tied;
    /* [train] */
    int64_t steps, context, batch_tokens, warmup, seed, eval_every, eval_tokens, checkpoint_every,
        keep, log_every, threads, sequence_ranks, backend, dtype, passes, recompute, save_inverse,
        graph, profile;
    double lr, min_lr, weight_decay, beta1, beta2, clip;
    /* [sample] */
    int64_t sample_tokens, sample_seed;
    double temperature;
} gdni_config;

typedef enum gdni_key_type {
    GDNI_KEY_INTEGER,
    GDNI_KEY_REAL,
    GDNI_KEY_BOOL,
    GDNI_KEY_BACKEND, /* words, and places in their list */
    GDNI_KEY_DTYPE,
    GDNI_KEY_RECOMPUTE
} gdni_key_type;

/* A fixed key cannot change when a run is resumed: the run would be another one. */
typedef struct gdni_key {
    const char *section, *name, *flag;
    gdni_key_type type;
    size_t offset;
    double low, high, standard;
    int fixed;
    const char *help;
} gdni_key;

/* The table; *count entries. */
const gdni_key *gdni_config_keys(size_t *count);

void gdni_config_defaults(gdni_config *config);

/* Sets one key from text. INVALID_ARGUMENT: `where: expected ..., found '...'`. */
gdn_status gdni_config_set(gdni_config *config, const gdni_key *key, const char *value,
                           const char *where);

/* Reads an INI file. BAD_FILE with file, line, key, expected, found. UNSUPPORTED: no INI parser in
 * this build. */
gdn_status gdni_config_read(gdni_config *config, const char *path);

/* What one key alone cannot show: divisibility, order. */
gdn_status gdni_config_check(const gdni_config *config);

/* The key's value as text. */
void gdni_config_value(const gdni_config *config, const gdni_key *key, char *text, size_t size);

/* The whole configuration as INI text; release with free(). OUT_OF_MEMORY. */
gdn_status gdni_config_text(const gdni_config *config, char **text);

/* A key's value in such a text; "nothing" if it is not there. */
void gdni_config_find(const char *text, const char *section, const char *name, char *value,
                      size_t size);

/* Compares with the text that an earlier gdni_config_text() gave: INVALID_ARGUMENT names the first
 * key that differs; only_section NULL looks at all fixed keys, otherwise at that section's. */
gdn_status gdni_config_same(const gdni_config *config, const char *text, const char *only_section,
                            const char *path);

#endif /* GDNI_TRAIN_CONFIG_H */
