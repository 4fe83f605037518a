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

static void *image_malloc(size_t size, H5FD_file_image_op_t op, void *image) {
    (void)op;
    (void)image;
    return malloc(size);
}

static void *image_memcpy(void *to, const void *from, size_t size, H5FD_file_image_op_t op,
                          void *image) {
    (void)op;
    (void)image;
    return memcpy(to, from, size);
}

static void *image_realloc(void *bytes, size_t size, H5FD_file_image_op_t op, void *user) {
    gdni_image *image = user;
    (void)op;
    void *grown = realloc(bytes, size);
    if (grown)
        image->size = size;
    return grown;
}

/* The bytes of the closed file are kept instead of freed. */
static herr_t image_free(void *bytes, H5FD_file_image_op_t op, void *user) {
    gdni_image *image = user;
    if (op == H5FD_FILE_IMAGE_OP_FILE_CLOSE)
        image->bytes = bytes;
    else
        free(bytes);
    return 0;
}

static void *image_share(void *user) {
    return user;
}

static herr_t image_release(void *user) {
    (void)user;
    return 0;
}

/* Files in memory, in a version of the format whose metadata carries checksums. */
static hid_t access_properties(gdni_image *image) {
    H5FD_file_image_callbacks_t callbacks = {image_malloc, image_memcpy,  image_realloc, image_free,
                                             image_share,  image_release, image};
    const hid_t properties = H5Pcreate(H5P_FILE_ACCESS);
    if (properties < 0 || H5Pset_fapl_core(properties, 1 << 20, 0) < 0 ||
        H5Pset_file_image_callbacks(properties, &callbacks) < 0 ||
        H5Pset_libver_bounds(properties, H5F_LIBVER_V110, H5F_LIBVER_V110) < 0) {
        H5Pclose(properties);
        return -1;
    }
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
    const gdni_writer none = {-1, NULL, NULL, NULL, NULL};
    *w = none;
    GDNI_REQUIRE(path != NULL, "path is NULL");
    GDNI_REQUIRE(*path && path[strlen(path) - 1] != '/', "'%s': expected the name of a file", path);
    if (!stat(path, &about) && !S_ISREG(about.st_mode))
        return gdni_io_fail(GDN_STATUS_IO_ERROR, path,
                            "expected a file to write or replace, found %s",
                            S_ISDIR(about.st_mode) ? "a directory" : "no regular file");
    GDN_TRY_GOTO(make_names(w, path), fail);
    w->image = calloc(1, sizeof(*w->image));
    const hid_t properties = w->image ? access_properties(w->image) : -1;
    if (properties >= 0) {
        w->id = H5Fcreate(w->temporary, H5F_ACC_TRUNC, H5P_DEFAULT, properties);
        H5Pclose(properties);
    }
    if (w->id < 0) {
        status = gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, path, "no memory for the file");
        goto fail;
    }
    GDN_TRY_GOTO(gdni_attr_write_text(w, "format", format), fail);
    GDN_TRY_GOTO(gdni_attr_write_int(w, "version", 1), fail);
    return GDN_STATUS_OK;
fail:
    return gdni_writer_close(w, status);
}

static gdn_status write_all(int fd, const unsigned char *bytes, size_t size, const char *target) {
    while (size) {
        const ssize_t written = write(fd, bytes, size < 1 << 30 ? size : 1 << 30);
        if (written < 0 && errno != EINTR)
            return gdni_io_fail(GDN_STATUS_IO_ERROR, target, "cannot write: %s", strerror(errno));
        bytes += written > 0 ? written : 0;
        size -= written > 0 ? (size_t)written : 0;
    }
    return GDN_STATUS_OK;
}

static gdn_status sync_directory(const gdni_writer *w) {
    const int fd = open(w->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    gdn_status status = GDN_STATUS_OK;
    /* Some file systems cannot sync a directory, and say EINVAL. */
    if (fd < 0 || (fsync(fd) && errno != EINVAL))
        status = gdni_io_fail(GDN_STATUS_IO_ERROR, w->target, "cannot sync its directory: %s",
                              strerror(errno));
    if (fd >= 0)
        close(fd);
    return status;
}

/* Image to temporary to target. */
static gdn_status publish(const gdni_writer *w) {
    const char *slash = strrchr(w->target, '/');
    char prefix[300];
    snprintf(prefix, sizeof(prefix), ".%s.tmp.", slash ? slash + 1 : w->target);
    gdni_remove_leftovers(w->directory, prefix);
    const int fd = open(w->temporary, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0666);
    if (fd < 0)
        return gdni_io_fail(GDN_STATUS_IO_ERROR, w->target, "cannot write: %s", strerror(errno));
    gdn_status status = write_all(fd, w->image->bytes, w->image->size, w->target);
    if (status == GDN_STATUS_OK && fsync(fd))
        status = gdni_io_fail(GDN_STATUS_IO_ERROR, w->target, "cannot sync: %s", strerror(errno));
    if (close(fd) && status == GDN_STATUS_OK)
        status = gdni_io_fail(GDN_STATUS_IO_ERROR, w->target, "cannot write: %s", strerror(errno));
    if (status == GDN_STATUS_OK && rename(w->temporary, w->target))
        status = gdni_io_fail(GDN_STATUS_IO_ERROR, w->target, "cannot rename into place: %s",
                              strerror(errno));
    if (status != GDN_STATUS_OK) {
        unlink(w->temporary);
        return status;
    }
    return sync_directory(w);
}

/* HDF5 grows the image in large steps; the superblock (version 3) says where the file ends. */
static int trim_image(gdni_image *image) {
    uint64_t end = 0;
    if (!image->bytes || image->size < 48 || image->bytes[8] != 3)
        return 0;
    for (int i = 7; i >= 0; --i)
        end = end << 8 | image->bytes[28 + i];
    if (end > image->size)
        return 0;
    image->size = (size_t)end;
    return 1;
}

gdn_status gdni_writer_close(gdni_writer *w, gdn_status status) {
    if (w->id >= 0) {
        const int closed = H5Fclose(w->id) >= 0 && trim_image(w->image);
        if (!closed && status == GDN_STATUS_OK)
            status = gdni_h5_fail(GDN_STATUS_OUT_OF_MEMORY, w->target, "cannot build the file");
        if (status == GDN_STATUS_OK)
            status = publish(w);
    }
    if (w->image)
        free(w->image->bytes);
    free(w->image);
    free(w->target);
    free(w->temporary);
    free(w->directory);
    return status;
}
