#include "config.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

#ifdef GDNI_HAVE_INIH
#include <ini.h>
#endif

#define AT(member) offsetof(gdni_config, member)
#define INTEGER GDNI_KEY_INTEGER
#define REAL GDNI_KEY_REAL
#define BOOL GDNI_KEY_BOOL
#define BACKEND GDNI_KEY_BACKEND
#define DTYPE GDNI_KEY_DTYPE
#define RECOMPUTE GDNI_KEY_RECOMPUTE
#define MANY 1e9

/* clang-format off */
static const gdni_key keys[] = {
    {"model", "width", "--width", INTEGER, AT(width), 1, 65536, 128, 1, "size of the residual stream"},
    {"model", "layers", "--layers", INTEGER, AT(layers), 1, 1024, 2, 1, "blocks of GDN and MLP"},
    {"model", "key_heads", "--key-heads", INTEGER, AT(key_heads), 1, 1024, 2, 1, "heads of q and k"},
    {"model", "value_heads", "--value-heads", INTEGER, AT(value_heads), 1, 1024, 2, 1, "heads of v, a multiple of key_heads"},
    {"model", "key_dim", "--key-dim", INTEGER, AT(key_dim), 1, 1024, 32, 1, "head dim of q and k"},
    {"model", "value_dim", "--value-dim", INTEGER, AT(value_dim), 1, 1024, 32, 1, "head dim of v"},
    {"model", "conv_width", "--conv-width", INTEGER, AT(conv_width), 1, 64, 4, 1, "taps of the short convolution"},
    {"model", "mlp", "--mlp", INTEGER, AT(mlp), 1, 262144, 256, 1, "hidden size of SwiGLU"},
    {"model", "tied", "--tied", BOOL, AT(tied), 0, 1, 1, 1, "head and embedding are one matrix"},
    {"train", "steps", "--steps", INTEGER, AT(steps), 1, MANY, 1000, 0, "updates in all"},
    {"train", "context", "--context", INTEGER, AT(context), 1, MANY, 128, 1, "tokens a sequence"},
    {"train", "batch_tokens", "--batch-tokens", INTEGER, AT(batch_tokens), 1, MANY, 1024, 1, "tokens an update, a multiple of context"},
    {"train", "lr", "--lr", REAL, AT(lr), 0, 1e30, 3e-3, 0, "learning rate after warm-up"},
    {"train", "min_lr", "--min-lr", REAL, AT(min_lr), 0, 1e30, 3e-4, 0, "learning rate at the end of the cosine"},
    {"train", "warmup", "--warmup", INTEGER, AT(warmup), 0, MANY, 50, 0, "steps of linear warm-up"},
    {"train", "weight_decay", "--weight-decay", REAL, AT(weight_decay), 0, 1e3, 0.1, 0, "AdamW; matrices only"},
    {"train", "beta1", "--beta1", REAL, AT(beta1), 0, 0.999999, 0.9, 0, "AdamW"},
    {"train", "beta2", "--beta2", REAL, AT(beta2), 0, 0.999999, 0.95, 0, "AdamW"},
    {"train", "clip", "--clip", REAL, AT(clip), 0, 1e30, 1, 0, "global gradient norm; 0 = no clipping"},
    {"train", "seed", "--seed", INTEGER, AT(seed), 0, 9e15, 1, 1, "of weights and batches"},
    {"train", "eval_every", "--eval-every", INTEGER, AT(eval_every), 0, MANY, 200, 0, "steps between evaluations; 0 = at the end only"},
    {"train", "eval_tokens", "--eval-tokens", INTEGER, AT(eval_tokens), 1, MANY, 16384, 1, "held-out tokens to predict"},
    {"train", "checkpoint_every", "--checkpoint-every", INTEGER, AT(checkpoint_every), 0, MANY, 200, 0, "steps between checkpoints; 0 = at the end only"},
    {"train", "keep", "--keep", INTEGER, AT(keep), 0, MANY, 2, 0, "newest checkpoints to keep; 0 = all"},
    {"train", "log_every", "--log-every", INTEGER, AT(log_every), 1, MANY, 20, 0, "steps between lines of log.txt"},
    {"train", "threads", "--threads", INTEGER, AT(threads), 0, 4096, 0, 0, "0 = all; bitwise repeatable for a given number"},
    {"train", "sequence_ranks", "--sequence-ranks", INTEGER, AT(sequence_ranks), 0, 65536, 0, 0, "under mpirun: ranks that share a sequence; 0 = all"},
    {"train", "backend", "--backend", BACKEND, AT(backend), 0, 0, GDNI_RUN_AUTO, 0, "auto, cpu or cuda; auto = cuda if usable"},
    {"train", "dtype", "--dtype", DTYPE, AT(dtype), 0, 0, GDNI_RUN_AUTO, 0, "auto, fp32 or bf16: of activations; auto = bf16 on cuda, fp32 on cpu"},
    {"train", "passes", "--passes", INTEGER, AT(passes), 1, 64, 1, 0, "over a part of the batch's sequences each, for less memory: their mean is the update's"},
    {"train", "recompute", "--recompute", RECOMPUTE, AT(recompute), 0, 0, 0, 0, "none, states or layer: what backward computes again, for less memory"},
    {"train", "save_inverse", "--save-inverse", BOOL, AT(save_inverse), 0, 1, 0, 0, "on cuda: the operator's forward keeps its inverses: more memory, less work"},
    {"train", "graph", "--graph", BOOL, AT(graph), 0, 1, 1, 0, "on cuda: steps are one CUDA graph, replayed"},
    {"train", "profile", "--profile", INTEGER, AT(profile), 0, MANY, 0, 0, "step whose time by part is kept, see gdn plot --timeline; 0 = none"},
    {"sample", "tokens", "--sample", INTEGER, AT(sample_tokens), 0, MANY, 200, 0, "tokens of text to print at the end; 0 = none"},
    {"sample", "temperature", "--temperature", REAL, AT(temperature), 0, 100, 0.8, 0, "0 = always the likeliest"},
    {"sample", "seed", "--sample-seed", INTEGER, AT(sample_seed), 0, 9e15, 1, 0, "of the text"},
};
/* clang-format on */

enum {
    KEY_COUNT = sizeof(keys) / sizeof(keys[0])
};

const gdni_key *gdni_config_keys(size_t *count) {
    *count = KEY_COUNT;
    return keys;
}

static void store(gdni_config *config, const gdni_key *key, double value) {
    char *at = (char *)config + key->offset;
    if (key->type == GDNI_KEY_REAL)
        *(double *)at = value;
    else
        *(int64_t *)at = (int64_t)value;
}

void gdni_config_defaults(gdni_config *config) {
    for (size_t i = 0; i < KEY_COUNT; ++i)
        store(config, &keys[i], keys[i].standard);
}

/* The words of a key's values, in their order; NULL: it is a number. */
static const char *const *words_of(gdni_key_type type) {
    static const char *const bools[] = {"false", "true", NULL};
    static const char *const backends[] = {"auto", "cpu", "cuda", NULL};
    static const char *const dtypes[] = {"auto", "fp32", "bf16", NULL};
    static const char *const recomputes[] = {"none", "states", "layer", NULL};
    switch (type) {
    case GDNI_KEY_BOOL:
        return bools;
    case GDNI_KEY_BACKEND:
        return backends;
    case GDNI_KEY_DTYPE:
        return dtypes;
    case GDNI_KEY_RECOMPUTE:
        return recomputes;
    case GDNI_KEY_INTEGER:
    case GDNI_KEY_REAL:
        break;
    }
    return NULL;
}

static int parse_word(const char *const *words, const char *text, double *value) {
    for (int i = 0; words[i]; ++i) {
        if (!strcmp(text, words[i])) {
            *value = i;
            return 1;
        }
    }
    return 0;
}

static int parse_bool(const char *text, double *value) {
    static const char *const words[] = {"false", "true", "no", "yes", "0", "1"};
    for (int i = 0; i < 6; ++i) {
        if (!strcmp(text, words[i])) {
            *value = i % 2;
            return 1;
        }
    }
    return 0;
}

gdn_status gdni_config_set(gdni_config *config, const gdni_key *key, const char *value,
                           const char *where) {
    double number = 0;
    char *end = NULL;
    int good;
    if (key->type == GDNI_KEY_BOOL) {
        GDNI_REQUIRE(parse_bool(value, &number), "%s: expected true or false, found '%s'", where,
                     value);
        store(config, key, number);
        return GDN_STATUS_OK;
    }
    const char *const *words = words_of(key->type);
    if (words) {
        GDNI_REQUIRE(parse_word(words, value, &number), "%s: expected %s, %s or %s, found '%s'",
                     where, words[0], words[1], words[2], value);
        store(config, key, number);
        return GDN_STATUS_OK;
    }
    errno = 0;
    if (key->type == GDNI_KEY_INTEGER)
        number = (double)strtoll(value, &end, 10);
    else
        number = strtod(value, &end);
    good = end != value && !*end && errno != ERANGE && number >= key->low && number <= key->high;
    GDNI_REQUIRE(good, "%s: expected %s from %.15g to %.15g, found '%s'", where,
                 key->type == GDNI_KEY_INTEGER ? "an integer" : "a number", key->low, key->high,
                 value);
    store(config, key, number);
    return GDN_STATUS_OK;
}

gdn_status gdni_config_check(const gdni_config *c) {
    GDNI_REQUIRE(c->value_heads % c->key_heads == 0,
                 "[model] value_heads: expected a multiple of key_heads (%lld), found %lld",
                 (long long)c->key_heads, (long long)c->value_heads);
    GDNI_REQUIRE(c->batch_tokens % c->context == 0,
                 "[train] batch_tokens: expected a multiple of context (%lld), found %lld",
                 (long long)c->context, (long long)c->batch_tokens);
    GDNI_REQUIRE(c->batch_tokens / c->context % c->passes == 0,
                 "[train] passes: expected a divisor of the batch's sequences (%lld), found %lld",
                 (long long)(c->batch_tokens / c->context), (long long)c->passes);
    GDNI_REQUIRE(c->warmup <= c->steps, "[train] warmup: expected at most steps (%lld), found %lld",
                 (long long)c->steps, (long long)c->warmup);
    GDNI_REQUIRE(c->min_lr <= c->lr, "[train] min_lr: expected at most lr (%g), found %g", c->lr,
                 c->min_lr);
    return GDN_STATUS_OK;
}

#ifdef GDNI_HAVE_INIH
typedef struct reading {
    gdni_config *config;
    unsigned char seen[KEY_COUNT];
    char problem[256]; /* of the first bad line */
} reading;

/* What is wrong with a key that the table does not have: its section, or its name. */
static void unknown_key(reading *r, const char *section, const char *name) {
    int known = 0;
    for (size_t i = 0; i < KEY_COUNT; ++i)
        known |= !strcmp(section, keys[i].section);
    if (known)
        snprintf(r->problem, sizeof(r->problem), "[%s] %s: unknown key (see gdn train --help)",
                 section, name);
    else
        snprintf(r->problem, sizeof(r->problem),
                 "[%s] %s: expected section [model], [train] or [sample], found [%s]", section,
                 name, section);
}

static int on_key(void *user, const char *section, const char *name, const char *value) {
    reading *r = user;
    char where[128];
    if (r->problem[0])
        return 0;
    for (size_t i = 0; i < KEY_COUNT; ++i) {
        if (strcmp(section, keys[i].section) || strcmp(name, keys[i].name))
            continue;
        snprintf(where, sizeof(where), "[%s] %s", section, name);
        if (r->seen[i]++) {
            snprintf(r->problem, sizeof(r->problem), "%s: expected once, found again", where);
            return 0;
        }
        if (gdni_config_set(r->config, &keys[i], value, where) == GDN_STATUS_OK)
            return 1;
        snprintf(r->problem, sizeof(r->problem), "%s", gdn_last_error());
        return 0;
    }
    unknown_key(r, section, name);
    return 0;
}

gdn_status gdni_config_read(gdni_config *config, const char *path) {
    reading r = {.config = config};
    FILE *file = fopen(path, "r");
    if (!file)
        return gdni_fail(GDN_STATUS_BAD_FILE, "%s: cannot read: %s", path, strerror(errno));
    const int line = ini_parse_file(file, on_key, &r);
    const int unreadable = ferror(file); /* a directory, say */
    fclose(file);
    if (unreadable)
        return gdni_fail(GDN_STATUS_BAD_FILE, "%s: cannot read it as a file", path);
    if (!line)
        return GDN_STATUS_OK;
    if (line > 0)
        return gdni_fail(GDN_STATUS_BAD_FILE, "%s:%d: %s", path, line,
                         r.problem[0] ? r.problem
                                      : "expected [section] or key = value, found something else");
    return gdni_fail(GDN_STATUS_BAD_FILE, "%s: cannot read", path);
}
#else
gdn_status gdni_config_read(gdni_config *config, const char *path) {
    return gdni_fail(GDN_STATUS_UNSUPPORTED,
                     "%s: this build has no INI parser (libinih); give the keys as flags", path);
}
#endif

/* The shortest decimal text that reads back as the same number. */
static void print_real(char *text, size_t size, double x) {
    for (int digits = 6; digits <= 17; ++digits) {
        snprintf(text, size, "%.*g", digits, x);
        if (strtod(text, NULL) == x)
            return;
    }
}

void gdni_config_value(const gdni_config *config, const gdni_key *key, char *text, size_t size) {
    const char *at = (const char *)config + key->offset;
    const char *const *words = words_of(key->type);
    if (key->type == GDNI_KEY_REAL)
        print_real(text, size, *(const double *)at);
    else if (words)
        snprintf(text, size, "%s", words[*(const int64_t *)at]);
    else
        snprintf(text, size, "%lld", (long long)*(const int64_t *)at);
}

gdn_status gdni_config_text(const gdni_config *config, char **text) {
    const size_t size = KEY_COUNT * 80;
    const char *section = "";
    size_t used = 0;
    *text = malloc(size);
    if (!*text)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "config: out of memory");
    for (size_t i = 0; i < KEY_COUNT; ++i) {
        char value[40];
        gdni_config_value(config, &keys[i], value, sizeof(value));
        if (strcmp(section, keys[i].section))
            used += (size_t)snprintf(*text + used, size - used, "%s[%s]\n", used ? "\n" : "",
                                     keys[i].section);
        section = keys[i].section;
        used += (size_t)snprintf(*text + used, size - used, "%s = %s\n", keys[i].name, value);
    }
    return GDN_STATUS_OK;
}

void gdni_config_find(const char *text, const char *section, const char *name, char *value,
                      size_t size) {
    char start[64];
    snprintf(value, size, "nothing");
    snprintf(start, sizeof(start), "[%s]\n", section);
    const char *at = strstr(text, start);
    if (!at)
        return;
    snprintf(start, sizeof(start), "%s = ", name);
    for (at = strchr(at, '\n') + 1; *at && *at != '['; at += strcspn(at, "\n"), at += *at != 0) {
        if (strncmp(at, start, strlen(start)))
            continue;
        at += strlen(start);
        snprintf(value, size, "%.*s", (int)strcspn(at, "\n"), at);
        return;
    }
}

gdn_status gdni_config_same(const gdni_config *config, const char *text, const char *only_section,
                            const char *path) {
    for (size_t i = 0; i < KEY_COUNT; ++i) {
        char now[40], then[40];
        if (!keys[i].fixed || (only_section && strcmp(only_section, keys[i].section)))
            continue;
        gdni_config_value(config, &keys[i], now, sizeof(now));
        gdni_config_find(text, keys[i].section, keys[i].name, then, sizeof(then));
        GDNI_REQUIRE(!strcmp(now, then), "[%s] %s: expected %s as in %s, found %s", keys[i].section,
                     keys[i].name, then, path, now);
    }
    return GDN_STATUS_OK;
}
