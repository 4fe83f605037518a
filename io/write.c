/* Files that appear complete or not at all. */
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

/* Metadata of this version of the file format carries checksums. */
static hid_t access_properties(void) {
    hid_t properties = H5Pcreate(H5P_FILE_ACCESS);
    if (properties >= 0)
        H5Pset_libver_bounds(properties, H5F_LIBVER_V110, H5F_LIBVER_V110);
    return properties;
}

/* Splits path into directory and name, and makes DIRECTORY/.NAME.tmp.PID. */
static gdn_status make_names(gdni_writer *w, const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const size_t length = strlen(path) + 32;
    w->target = strdup(path);
    w->directory = strdup(path);
    w->temporary = malloc(length);
    if (!w->target || !w->directory || !w->temporary)
        return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, path, "no memory for its name");
    if (!slash)
        strcpy(w->directory, "."); /* a name has at least one character, checked by the caller */
    else
        w->directory[slash == path ? 1 : slash - path] = '\0';
    snprintf(w->temporary, length, "%.*s.%s.tmp.%ld", (int)(name - path), path, name,
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

gdn_status gdni_writer_open(gdni_writer *w, const char *path, const char *format) {
    struct stat about;
    gdn_status status;
    char prefix[300];
    const gdni_writer none = {-1, NULL, NULL, NULL};
    *w = none;
    GDNI_REQUIRE(path != NULL, "path is NULL");
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    GDNI_REQUIRE(*name, "'%s': expected the name of a file to write", path);
    if (!stat(path, &about) && !S_ISREG(about.st_mode))
        return gdni_io_fail(GDN_STATUS_IO_ERROR, path,
                            "expected a file to write or replace, found %s",
                            S_ISDIR(about.st_mode) ? "a directory" : "no regular file");
    GDN_TRY_GOTO(make_names(w, path), fail);
    snprintf(prefix, sizeof(prefix), ".%s.tmp.", name);
    gdni_remove_leftovers(w->directory, prefix);
    /* The system says best why a file cannot be created. */
    const int fd = open(w->temporary, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0666);
    if (fd < 0) {
        status = gdni_io_fail(GDN_STATUS_IO_ERROR, path, "cannot write: %s", strerror(errno));
        goto fail;
    }
    close(fd);
    hid_t properties = access_properties();
    w->id = H5Fcreate(w->temporary, H5F_ACC_TRUNC, H5P_DEFAULT, properties);
    if (w->id < 0)
        status = gdni_h5_fail(GDN_STATUS_IO_ERROR, path, "cannot write");
    H5Pclose(properties);
    if (w->id < 0)
        goto fail;
    GDN_TRY_GOTO(gdni_attr_write_text(w, "format", format), fail);
    GDN_TRY_GOTO(gdni_attr_write_int(w, "version", 1), fail);
    return GDN_STATUS_OK;
fail:
    return gdni_writer_close(w, status);
}

static gdn_status sync_path(const char *path, const char *target) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    gdn_status status = GDN_STATUS_OK;
    if (fd < 0 || fsync(fd))
        status = gdni_io_fail(GDN_STATUS_IO_ERROR, target, "cannot sync: %s", strerror(errno));
    if (fd >= 0)
        close(fd);
    return status;
}

gdn_status gdni_writer_close(gdni_writer *w, gdn_status status) {
    if (w->id >= 0) {
        if (H5Fflush(w->id, H5F_SCOPE_LOCAL) < 0 && status == GDN_STATUS_OK)
            status = gdni_h5_fail(GDN_STATUS_IO_ERROR, w->target, "cannot write");
        if (H5Fclose(w->id) < 0 && status == GDN_STATUS_OK)
            status = gdni_h5_fail(GDN_STATUS_IO_ERROR, w->target, "cannot write");
    }
    if (w->temporary) {
        if (status == GDN_STATUS_OK)
            status = sync_path(w->temporary, w->target);
        if (status == GDN_STATUS_OK && rename(w->temporary, w->target))
            status = gdni_io_fail(GDN_STATUS_IO_ERROR, w->target, "cannot rename into place: %s",
                                  strerror(errno));
        if (status == GDN_STATUS_OK)
            status = sync_path(w->directory, w->target);
        else
            unlink(w->temporary);
    }
    free(w->target);
    free(w->temporary);
    free(w->directory);
    return status;
}
