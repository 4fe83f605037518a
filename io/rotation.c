/* A directory of checkpoints: which is the newest, which may go. */
#include "checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    NAME_SIZE = 48
};

static void step_name(int64_t step, char name[NAME_SIZE]) {
    snprintf(name, NAME_SIZE, "step-%012" PRId64 ".h5", step);
}

static int newest_first(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* Steps of the checkpoints of a directory, newest first. */
static gdn_status list_steps(const char *dir, int64_t **steps, size_t *count) {
    size_t capacity = 0;
    *steps = NULL;
    *count = 0;
    DIR *entries = opendir(dir);
    if (!entries)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, dir, "cannot open the directory: %s",
                            strerror(errno));
    for (struct dirent *e; (e = readdir(entries));) {
        char name[NAME_SIZE];
        if (strncmp(e->d_name, "step-", 5))
            continue;
        const int64_t step = strtoll(e->d_name + 5, NULL, 10);
        step_name(step, name);
        if (step < 0 || strcmp(e->d_name, name))
            continue;
        if (*count == capacity) {
            capacity = capacity ? 2 * capacity : 16;
            int64_t *grown = realloc(*steps, capacity * sizeof(*grown));
            if (!grown) {
                closedir(entries);
                free(*steps);
                *steps = NULL;
                return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, dir, "no memory to list it");
            }
            *steps = grown;
        }
        (*steps)[(*count)++] = step;
    }
    closedir(entries);
    if (*count)
        qsort(*steps, *count, sizeof(**steps), newest_first);
    return GDN_STATUS_OK;
}

static gdn_status step_path(const char *dir, int64_t step, char **path) {
    char name[NAME_SIZE];
    const size_t size = strlen(dir) + NAME_SIZE + 1;
    step_name(step, name);
    *path = malloc(size);
    if (!*path)
        return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, dir, "no memory for a path");
    snprintf(*path, size, "%s/%s", dir, name);
    return GDN_STATUS_OK;
}

/* mkdir -p */
static gdn_status make_directory(const char *dir) {
    char *path = strdup(dir);
    gdn_status status = GDN_STATUS_OK;
    if (!path)
        return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, dir, "no memory for its name");
    for (char *slash = path + 1; status == GDN_STATUS_OK && slash; ++slash) {
        slash = strchr(slash, '/');
        if (slash)
            *slash = '\0';
        struct stat about;
        if (mkdir(path, 0777) &&
            !(errno == EEXIST && !stat(path, &about) && S_ISDIR(about.st_mode)))
            status = gdni_io_fail(GDN_STATUS_IO_ERROR, dir, "cannot create the directory: %s",
                                  strerror(errno));
        if (!slash)
            break;
        *slash = '/';
    }
    free(path);
    return status;
}

/* All but the newest `keep` go; the one just written stays in any case. */
static gdn_status remove_old(const char *dir, int64_t written, int32_t keep) {
    int64_t *steps;
    size_t count;
    int32_t others = 1;
    GDN_TRY(list_steps(dir, &steps, &count));
    gdn_status status = GDN_STATUS_OK;
    for (size_t i = 0; status == GDN_STATUS_OK && i < count; ++i) {
        char *path;
        if (steps[i] == written || others++ < keep)
            continue;
        status = step_path(dir, steps[i], &path);
        if (status == GDN_STATUS_OK && unlink(path) && errno != ENOENT)
            status = gdni_io_fail(GDN_STATUS_IO_ERROR, path, "cannot remove an old checkpoint: %s",
                                  strerror(errno));
        free(path);
    }
    free(steps);
    return status;
}

static gdn_status checkpoint_write(const char *dir, int64_t step, int32_t keep,
                                   const gdn_io_entry *entries, size_t count) {
    char *path;
    GDNI_REQUIRE(dir && *dir, "gdn_io_checkpoint_write: dir is NULL or empty");
    GDNI_REQUIRE(step >= 0, "gdn_io_checkpoint_write: step is %" PRId64 ", expected 0 or more",
                 step);
    GDNI_REQUIRE(entries || !count, "gdn_io_checkpoint_write: entries is NULL");
    GDN_TRY(make_directory(dir));
    gdni_remove_leftovers(dir, ".step-");
    GDN_TRY(step_path(dir, step, &path));
    gdn_status status = gdni_checkpoint_write_file(path, step, entries, count);
    free(path);
    if (status == GDN_STATUS_OK && keep > 0)
        status = remove_old(dir, step, keep);
    return status;
}

gdn_status gdn_io_checkpoint_write(const char *dir, int64_t step, int32_t keep,
                                   const gdn_io_entry *entries, size_t count) {
    gdni_quiet quiet;
    gdni_quiet_begin(&quiet);
    const gdn_status status = checkpoint_write(dir, step, keep, entries, count);
    gdni_quiet_end(&quiet);
    return status;
}

static gdn_status checkpoint_latest(const char *dir, char *path, size_t path_size) {
    int64_t *steps;
    size_t count;
    GDNI_REQUIRE(dir && path && path_size, "gdn_io_checkpoint_latest: dir or path is NULL");
    *path = '\0';
    GDN_TRY(list_steps(dir, &steps, &count));
    gdn_status status = GDN_STATUS_BAD_FILE;
    for (size_t i = 0; status == GDN_STATUS_BAD_FILE && i < count; ++i) {
        char *candidate;
        status = step_path(dir, steps[i], &candidate);
        if (status != GDN_STATUS_OK)
            break;
        status = gdni_checkpoint_verify(candidate);
        if (status == GDN_STATUS_OK &&
            snprintf(path, path_size, "%s", candidate) >= (int)path_size) {
            *path = '\0';
            status = gdni_io_fail(GDN_STATUS_INVALID_ARGUMENT, dir,
                                  "expected room for a path of %zu bytes, found %zu",
                                  strlen(candidate) + 1, path_size);
        }
        free(candidate);
    }
    free(steps);
    if (status == GDN_STATUS_BAD_FILE)
        gdni_io_fail(status, dir, "expected a whole checkpoint step-*.h5, found %zu damaged ones",
                     count);
    return status;
}

gdn_status gdn_io_checkpoint_latest(const char *dir, char *path, size_t path_size) {
    gdni_quiet quiet;
    gdni_quiet_begin(&quiet);
    const gdn_status status = checkpoint_latest(dir, path, path_size);
    gdni_quiet_end(&quiet);
    return status;
}
