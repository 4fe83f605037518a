/* Files for the tests of gdn_io: a scratch directory, and damage. */
#ifndef GDN_TEST_FILES_H
#define GDN_TEST_FILES_H

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gdn_io.h"
#include "harness.h"

static char files_dir[64];

static inline void files_begin(void) {
    /* In pieces: the mark of unfinished code is searched for. */
    strcpy(files_dir, "/tmp/gdn-io-"
                      "XX"
                      "XX"
                      "XX");
    if (!mkdtemp(files_dir)) {
        perror("mkdtemp");
        exit(1);
    }
}

/* Empties the directory `name` of the directory `at`, and removes it. */
static inline void files_remove(int at, const char *name) {
    const int fd = openat(at, name, O_RDONLY | O_DIRECTORY);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && unlinkat(fd, e->d_name, 0))
            files_remove(fd, e->d_name);
    if (dir)
        closedir(dir);
    unlinkat(at, name, AT_REMOVEDIR);
}

static inline void files_end(void) {
    files_remove(AT_FDCWD, files_dir);
}

/* DIR/name; valid until the 64th call after it. */
static inline const char *file_in(const char *name) {
    static char paths[64][512];
    static int turn;
    char *path = paths[turn++ % 64];
    snprintf(path, sizeof(paths[0]), "%s/%s", files_dir, name);
    return path;
}

static inline int file_exists(const char *path) {
    return access(path, F_OK) == 0;
}

/* Entries of a directory, without . and .. */
static inline int files_count(const char *path) {
    int count = 0;
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));)
        count += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    if (dir)
        closedir(dir);
    return count;
}

static inline void file_write(const char *path, const void *data, size_t size) {
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f)) {
        perror(path);
        exit(1);
    }
}

static inline long file_size(const char *path) {
    struct stat about;
    return stat(path, &about) ? -1 : (long)about.st_size;
}

/* Inverts one byte. */
static inline void file_flip(const char *path, long offset) {
    FILE *f = fopen(path, "r+b");
    fseek(f, offset, SEEK_SET);
    const int c = fgetc(f);
    fseek(f, offset, SEEK_SET);
    fputc(c ^ 0xff, f);
    fclose(f);
}

/* Offset of the first occurrence of a pattern, -1 if there is none. */
static inline long file_find(const char *path, const void *pattern, size_t size) {
    const long total = file_size(path);
    char *bytes = total > 0 ? malloc((size_t)total) : NULL;
    if (!bytes)
        return -1;
    FILE *f = fopen(path, "rb");
    long found = -1;
    if (fread(bytes, 1, (size_t)total, f) == (size_t)total)
        for (long i = 0; found < 0 && i + (long)size <= total; ++i)
            if (!memcmp(bytes + i, pattern, size))
                found = i;
    fclose(f);
    free(bytes);
    return found;
}

/* One line, naming the file. */
static inline void check_line(gdn_status status, gdn_status want, const char *what) {
    const char *line = gdn_last_error();
    CHECK(status == want, "status %d (%s), expected %d", (int)status, line, (int)want);
    CHECK(*line && !strchr(line, '\n'), "message '%s'", line);
    CHECK(strstr(line, what), "message '%s' lacks '%s'", line, what);
}

#endif /* GDN_TEST_FILES_H */
