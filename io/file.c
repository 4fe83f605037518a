/* Opening files for reading, and what kind a file is. */
#include "internal.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

gdn_status gdni_file_stat(gdni_file *file, const char *path) {
    struct stat about;
    file->path = path;
    file->id = -1;
    if (stat(path, &about))
        return gdni_io_fail(GDN_STATUS_BAD_FILE, path, "cannot open: %s", strerror(errno));
    if (!S_ISREG(about.st_mode))
        return gdni_io_fail(GDN_STATUS_BAD_FILE, path, "expected an HDF5 file, found %s",
                            S_ISDIR(about.st_mode) ? "a directory" : "no regular file");
    file->bytes = about.st_size;
    return GDN_STATUS_OK;
}

gdn_status gdni_file_open(gdni_file *file, const char *path) {
    GDN_TRY(gdni_file_stat(file, path));
    file->id = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (file->id < 0)
        return gdni_h5_fail(GDN_STATUS_BAD_FILE, path,
                            "expected an HDF5 file, found %lld bytes that are none or damaged",
                            (long long)file->bytes);
    return GDN_STATUS_OK;
}

void gdni_file_close(gdni_file *file) {
    if (file->id >= 0)
        H5Fclose(file->id);
    file->id = -1;
}

gdn_status gdni_file_expect(const gdni_file *file, const char *format) {
    char found[64];
    int64_t version;
    GDN_TRY(gdni_attr_read_text(file, "format", found, sizeof(found)));
    if (strcmp(found, format))
        return gdni_io_fail(GDN_STATUS_BAD_FILE, file->path,
                            "attribute format: expected \"%s\", found \"%s\"", format, found);
    return gdni_attr_read_int(file, "version", 1, 1, &version);
}

static gdn_status file_kind(const char *path, gdn_io_kind *kind) {
    static const char *const names[] = {"gdn-case",         "gdn-result",  "gdn-layer-case",
                                        "gdn-layer-result", "gdn-dataset", "gdn-checkpoint",
                                        "gdn-log"};
    char found[64];
    gdni_file file;
    gdn_status status = gdni_file_open(&file, path);
    if (status == GDN_STATUS_OK)
        status = gdni_attr_read_text(&file, "format", found, sizeof(found));
    gdni_file_close(&file);
    GDN_TRY(status);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); ++i)
        if (!strcmp(found, names[i])) {
            *kind = (gdn_io_kind)i;
            return GDN_STATUS_OK;
        }
    return gdni_io_fail(GDN_STATUS_BAD_FILE, path,
                        "attribute format: expected that of a libgdn file, found \"%s\"", found);
}

static gdn_status rehearse_kind(const char *path) {
    gdn_io_kind kind;
    return file_kind(path, &kind);
}

gdn_status gdn_io_file_kind(const char *path, gdn_io_kind *kind) {
    gdni_quiet quiet;
    gdni_clear_error();
    GDNI_REQUIRE(path && kind, "gdn_io_file_kind: path or kind is NULL");
    gdni_quiet_begin(&quiet);
    gdn_status status = gdni_rehearse(path, rehearse_kind);
    if (status == GDN_STATUS_OK)
        status = file_kind(path, kind);
    gdni_quiet_end(&quiet);
    return status;
}

int32_t gdn_io_is_thread_safe(void) {
    hbool_t safe = 0;
    return H5is_library_threadsafe(&safe) >= 0 && safe;
}
