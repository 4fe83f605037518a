#include "state.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "error.h"
#include "random.h"
#include "weights.h"

enum {
    BUFFERS = 3,      /* model, adam_m, adam_v */
    OTHERS = 9,       /* entries that are not tensors of the model */
    PROBE = 4096,     /* tokens at either end that make a fingerprint */
    NAME_SIZE = 72,   /* of an entry */
    NAMES_TEXT = 160, /* of the log's columns in one text */
};

typedef struct entry_list {
    gdn_io_entry *entries;
    char (*names)[NAME_SIZE];
    int32_t tensors;
} entry_list;

static gdn_status probe(gdn_io_dataset *dataset, gdn_io_split split, int64_t first, int64_t count,
                        uint64_t *hash) {
    int32_t tokens[PROBE];
    GDN_TRY(gdn_io_dataset_read(dataset, split, first, count, tokens));
    for (int64_t i = 0; i < count; ++i)
        *hash = gdni_mix(*hash ^ (uint64_t)tokens[i]);
    return GDN_STATUS_OK;
}

gdn_status gdni_state_fingerprint(gdn_io_dataset *dataset, uint64_t *fingerprint) {
    uint64_t hash = gdni_mix((uint64_t)gdn_io_dataset_vocab(dataset));
    for (int split = GDN_IO_TRAIN; split <= GDN_IO_HELDOUT; ++split) {
        const int64_t total = gdn_io_dataset_tokens(dataset, (gdn_io_split)split);
        const int64_t count = total < PROBE ? total : PROBE;
        hash = gdni_mix(hash ^ (uint64_t)total);
        GDN_TRY(probe(dataset, (gdn_io_split)split, 0, count, &hash));
        GDN_TRY(probe(dataset, (gdn_io_split)split, total - count, count, &hash));
    }
    *fingerprint = hash;
    return GDN_STATUS_OK;
}

static void free_entries(entry_list *list) {
    free(list->entries);
    free(list->names);
}

/* Entries of the model's tensors in the three buffers; data points into them. */
static gdn_status list_tensors(const gdni_lm *lm, entry_list *list) {
    static const char *const groups[BUFFERS] = {"model", "adam_m", "adam_v"};
    void *const buffers[BUFFERS] = {lm->kept.param, lm->kept.m, lm->kept.v};
    const gdn_io_type type = lm->master == GDN_DTYPE_FP64 ? GDN_IO_F64 : GDN_IO_F32;
    list->tensors = BUFFERS * lm->param_count;
    list->entries = calloc((size_t)list->tensors + OTHERS, sizeof(*list->entries));
    list->names = calloc((size_t)list->tensors, sizeof(*list->names));
    if (!list->entries || !list->names) {
        free_entries(list);
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "checkpoint: out of memory");
    }
    for (int32_t i = 0; i < list->tensors; ++i) {
        const int32_t group = i / lm->param_count, t = i % lm->param_count;
        const gdni_lm_param *p = &lm->params[t];
        snprintf(list->names[i], NAME_SIZE, "%s/%s", groups[group], p->name);
        list->entries[i] = (gdn_io_entry){.name = list->names[i],
                                          .type = type,
                                          .ndim = p->ndim,
                                          .shape = {p->shape[0], p->shape[1]},
                                          .data = gdni_lm_at(lm, buffers[group], t)};
    }
    return GDN_STATUS_OK;
}

static gdn_io_entry scalar(const char *name, gdn_io_type type, const void *value) {
    return (gdn_io_entry){.name = name, .type = type, .ndim = 1, .shape = {1}, .data = value};
}

static gdn_io_entry ranks_entry(const int64_t *ranks) {
    return (gdn_io_entry){
        .name = "run/ranks", .type = GDN_IO_I64, .ndim = 1, .shape = {2}, .data = ranks};
}

static gdn_io_entry text(const char *name, const char *value) {
    return (gdn_io_entry){.name = name,
                          .type = GDN_IO_TEXT,
                          .ndim = 1,
                          .shape = {(int64_t)strlen(value)},
                          .data = value};
}

gdn_status gdni_state_write(const char *dir, int64_t keep, const gdni_state *state,
                            const gdni_lm *lm, const gdni_progress *log, const char *config) {
    entry_list list;
    char names[NAMES_TEXT] = "";
    for (int i = 0; i < GDNI_LOG_COLUMNS; ++i) {
        strcat(names, i ? "," : "");
        strcat(names, gdni_log_names[i]);
    }
    GDN_TRY(list_tensors(lm, &list));
    gdn_io_entry *e = list.entries + list.tensors;
    *e++ = scalar("run/updates", GDN_IO_I64, &state->updates);
    *e++ = scalar("run/tokens", GDN_IO_I64, &state->tokens);
    *e++ = scalar("run/seed", GDN_IO_U64, &state->seed);
    *e++ = scalar("run/threads", GDN_IO_I64, &state->threads);
    *e++ = scalar("run/dataset", GDN_IO_U64, &state->dataset);
    if (state->ranks[0] > 1)
        *e++ = ranks_entry(state->ranks);
    *e++ = (gdn_io_entry){.name = "log/values",
                          .type = GDN_IO_F64,
                          .ndim = 2,
                          .shape = {log->count, GDNI_LOG_COLUMNS},
                          .data = log->rows};
    *e++ = text("log/names", names);
    *e++ = text("config", config);
    const gdn_status status = gdn_io_checkpoint_write(dir, state->step, (int32_t)keep, list.entries,
                                                      (size_t)(e - list.entries));
    free_entries(&list);
    return status;
}

int gdni_state_present(const char *dir) {
    int found = 0;
    DIR *folder = opendir(dir);
    if (!folder)
        return 0;
    for (struct dirent *e = readdir(folder); e && !found; e = readdir(folder)) {
        const size_t length = strlen(e->d_name);
        found =
            length > 8 && !strncmp(e->d_name, "step-", 5) && !strcmp(e->d_name + length - 3, ".h5");
    }
    closedir(folder);
    return found;
}

static gdn_status read_tensors(gdn_io_checkpoint *file, gdni_lm *lm) {
    entry_list list;
    gdn_status status = GDN_STATUS_OK;
    GDN_TRY(gdni_lm_keep(lm));
    GDN_TRY(list_tensors(lm, &list));
    for (int32_t i = 0; i < list.tensors && status == GDN_STATUS_OK; ++i)
        status = gdn_io_checkpoint_read(file, &list.entries[i], (void *)list.entries[i].data);
    free_entries(&list);
    return status == GDN_STATUS_OK ? gdni_lm_send(lm) : status;
}

static gdn_status read_scalar(gdn_io_checkpoint *file, const char *name, gdn_io_type type,
                              void *value) {
    const gdn_io_entry want = scalar(name, type, NULL);
    return gdn_io_checkpoint_read(file, &want, value);
}

/* Runs of one rank do not write it. */
static gdn_status read_ranks(gdn_io_checkpoint *file, int64_t ranks[2]) {
    int32_t ndim;
    int64_t shape[4];
    const gdn_io_entry want = ranks_entry(NULL);
    ranks[0] = ranks[1] = 1;
    if (gdn_io_checkpoint_shape(file, want.name, want.type, &ndim, shape) != GDN_STATUS_OK) {
        gdni_clear_error();
        return GDN_STATUS_OK;
    }
    return gdn_io_checkpoint_read(file, &want, ranks);
}

gdn_status gdni_state_read_config(gdn_io_checkpoint *file, char **config) {
    int32_t ndim;
    gdn_io_entry want = {.name = "config", .type = GDN_IO_TEXT, .ndim = 1};
    GDN_TRY(gdn_io_checkpoint_shape(file, want.name, want.type, &ndim, want.shape));
    *config = calloc((size_t)want.shape[0] + 1, 1);
    if (!*config)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "checkpoint: out of memory");
    return gdn_io_checkpoint_read(file, &want, *config);
}

/* A log of before there were all of today's columns has NaN in the others. */
static void widen(double *rows, int64_t count, int64_t columns) {
    for (int64_t r = count - 1; r >= 0; --r)
        for (int64_t c = GDNI_LOG_COLUMNS - 1; c >= 0; --c)
            rows[r * GDNI_LOG_COLUMNS + c] = c < columns ? rows[r * columns + c] : NAN;
}

static gdn_status read_log(gdn_io_checkpoint *file, const char *path, gdni_progress *log) {
    int32_t ndim;
    gdn_io_entry want = {.name = "log/values", .type = GDN_IO_F64, .ndim = 2};
    GDN_TRY(gdn_io_checkpoint_shape(file, want.name, want.type, &ndim, want.shape));
    const int64_t columns = want.shape[ndim - 1];
    if (ndim != 2 || columns < GDNI_LOG_FIRST_COLUMNS || columns > GDNI_LOG_COLUMNS)
        return gdni_fail(GDN_STATUS_BAD_FILE, "%s: log/values: expected %d columns, found %lld",
                         path, (int)GDNI_LOG_COLUMNS, (long long)columns);
    GDN_TRY(gdni_progress_reserve(log, want.shape[0]));
    log->count = want.shape[0];
    GDN_TRY(gdn_io_checkpoint_read(file, &want, log->rows));
    widen(log->rows, log->count, columns);
    return GDN_STATUS_OK;
}

gdn_status gdni_state_resume(const char *path, const gdni_config *config, uint64_t dataset,
                             gdni_state *state, gdni_lm *lm, gdni_progress *log) {
    gdn_io_checkpoint *file = NULL;
    char *then = NULL;
    gdn_status status;
    GDN_TRY(gdn_io_checkpoint_open(path, &file));
    GDN_TRY_GOTO(gdni_state_read_config(file, &then), cleanup);
    GDN_TRY_GOTO(gdni_config_same(config, then, NULL, path), cleanup);
    gdni_backend_recorded(then, state->backend);
    GDN_TRY_GOTO(read_scalar(file, "run/updates", GDN_IO_I64, &state->updates), cleanup);
    GDN_TRY_GOTO(read_scalar(file, "run/tokens", GDN_IO_I64, &state->tokens), cleanup);
    GDN_TRY_GOTO(read_scalar(file, "run/seed", GDN_IO_U64, &state->seed), cleanup);
    GDN_TRY_GOTO(read_scalar(file, "run/threads", GDN_IO_I64, &state->threads), cleanup);
    GDN_TRY_GOTO(read_scalar(file, "run/dataset", GDN_IO_U64, &state->dataset), cleanup);
    GDN_TRY_GOTO(read_ranks(file, state->ranks), cleanup);
    state->step = gdn_io_checkpoint_step(file);
    if (state->dataset != dataset) {
        status = gdni_fail(GDN_STATUS_INVALID_ARGUMENT,
                           "--data: expected the dataset that %s was trained on (fingerprint "
                           "%016llx), found another (%016llx)",
                           path, (unsigned long long)state->dataset, (unsigned long long)dataset);
        goto cleanup;
    }
    GDN_TRY_GOTO(read_log(file, path, log), cleanup);
    GDN_TRY_GOTO(read_tensors(file, lm), cleanup);

cleanup:
    free(then);
    gdn_io_checkpoint_close(file);
    return status;
}

gdn_status gdni_state_start_from(const char *path, const gdni_config *config, gdni_state *state,
                                 gdni_lm *lm) {
    gdn_io_checkpoint *file = NULL;
    char *then = NULL, newest[4096];
    struct stat about;
    gdn_status status;
    if (!stat(path, &about) && S_ISDIR(about.st_mode)) {
        GDN_TRY(gdn_io_checkpoint_latest(path, newest, sizeof(newest)));
        path = newest;
    }
    GDN_TRY(gdn_io_checkpoint_open(path, &file));
    GDN_TRY_GOTO(gdni_state_read_config(file, &then), cleanup);
    if (gdni_weights_imported(then)) {
        GDN_TRY_GOTO(gdni_weights_take(file, path, then, config, lm), cleanup);
        status = gdni_lm_send(lm);
        goto cleanup;
    }
    GDN_TRY_GOTO(gdni_config_same(config, then, "model", path), cleanup);
    GDN_TRY_GOTO(read_scalar(file, "run/updates", GDN_IO_I64, &state->updates), cleanup);
    GDN_TRY_GOTO(read_scalar(file, "run/tokens", GDN_IO_I64, &state->tokens), cleanup);
    GDN_TRY_GOTO(read_tensors(file, lm), cleanup);

cleanup:
    free(then);
    gdn_io_checkpoint_close(file);
    return status;
}
