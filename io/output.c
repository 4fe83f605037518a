/* Files that appear complete or not at all: a temporary beside the target, synced and renamed. */
#include "internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Splits path into directory and name, and makes DIRECTORY/.NAME.tmp.PID. */
static gdn_status make_names(gdni_output *o, const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const size_t length = strlen(path) + 32;
    o->target = strdup(path);
    o->directory = strdup(path);
    o->temporary = malloc(length);
    if (!o->target || !o->directory || !o->temporary)
        return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, path, "no memory for its name");
    if (!slash)
        strcpy(o->directory, "."); /* a name has at least one character, checked by the caller */
    else
        o->directory[slash == path ? 1 : slash - path] = '\0';
    snprintf(o->temporary, length, "%.*s.%s.tmp.%ld", (int)(name - path), path, name,
             (long)getpid());
    return GDN_STATUS_OK;
}

void gdni_remove_leftovers(const char *directory, const char *prefix) {
    DIR *entries = opendir(directory);
    if (!entries)
        return;
    for (struct dirent *e; (e = readdir(entries));) {
        const char *mark = NULL;
        char *end;
        if (strncmp(e->d_name, prefix, strlen(prefix)))
            continue;
        for (const char *p = e->d_name; (p = strstr(p, ".tmp.")); p += 5)
            mark = p + 5;
        if (!mark)
            continue;
        const long pid = strtol(mark, &end, 10);
        if (end != mark && !*end && pid > 0 && kill((pid_t)pid, 0) && errno == ESRCH)
            unlinkat(dirfd(entries), e->d_name, 0);
    }
    closedir(entries);
}

gdn_status gdni_output_prepare(gdni_output *o, const char *path) {
    struct stat about;
    const gdni_output none = {NULL, NULL, NULL, -1};
    *o = none;
    GDNI_REQUIRE(path != NULL, "path is NULL");
    GDNI_REQUIRE(*path && path[strlen(path) - 1] != '/', "'%s': expected the name of a file", path);
    if (!stat(path, &about) && !S_ISREG(about.st_mode))
        return gdni_io_fail(GDN_STATUS_IO_ERROR, path,
                            "expected a file to write or replace, found %s",
                            S_ISDIR(about.st_mode) ? "a directory" : "no regular file");
    return make_names(o, path);
}

gdn_status gdni_output_begin(gdni_output *o) {
    const char *slash = strrchr(o->target, '/');
    char prefix[300];
    snprintf(prefix, sizeof(prefix), ".%s.tmp.", slash ? slash + 1 : o->target);
    gdni_remove_leftovers(o->directory, prefix);
    o->fd = open(o->temporary, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0666);
    if (o->fd < 0)
        return gdni_io_fail(GDN_STATUS_IO_ERROR, o->target, "cannot write: %s", strerror(errno));
    return GDN_STATUS_OK;
}

gdn_status gdni_output_write(const gdni_output *o, const void *data, size_t size) {
    const unsigned char *bytes = data;
    while (size) {
        const ssize_t written = write(o->fd, bytes, size < 1 << 30 ? size : 1 << 30);
        if (written < 0 && errno != EINTR)
            return gdni_io_fail(GDN_STATUS_IO_ERROR, o->target, "cannot write: %s",
                                strerror(errno));
        bytes += written > 0 ? written : 0;
        size -= written > 0 ? (size_t)written : 0;
    }
    return GDN_STATUS_OK;
}

static gdn_status sync_directory(const gdni_output *o) {
    const int fd = open(o->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    gdn_status status = GDN_STATUS_OK;
    /* Some file systems cannot sync a directory, and say EINVAL. */
    if (fd < 0 || (fsync(fd) && errno != EINVAL))
        status = gdni_io_fail(GDN_STATUS_IO_ERROR, o->target, "cannot sync its directory: %s",
                              strerror(errno));
    if (fd >= 0)
        close(fd);
    return status;
}

/* Temporary to target. */
static gdn_status publish(gdni_output *o, gdn_status status) {
    if (status == GDN_STATUS_OK && fsync(o->fd))
        status = gdni_io_fail(GDN_STATUS_IO_ERROR, o->target, "cannot sync: %s", strerror(errno));
    if (close(o->fd) && status == GDN_STATUS_OK)
        status = gdni_io_fail(GDN_STATUS_IO_ERROR, o->target, "cannot write: %s", strerror(errno));
    if (status == GDN_STATUS_OK && rename(o->temporary, o->target))
        status = gdni_io_fail(GDN_STATUS_IO_ERROR, o->target, "cannot rename into place: %s",
                              strerror(errno));
    if (status != GDN_STATUS_OK) {
        unlink(o->temporary);
        return status;
    }
    return sync_directory(o);
}

gdn_status gdni_output_close(gdni_output *o, gdn_status status) {
    if (o->fd >= 0)
        status = publish(o, status);
    free(o->target);
    free(o->temporary);
    free(o->directory);
    return status;
}
