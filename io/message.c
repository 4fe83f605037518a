/* Messages of gdn_io, and the structs that cross its interface. */
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void gdni_quiet_begin(gdni_quiet *quiet) {
    gdni_clear_error();
    H5Eget_auto2(H5E_DEFAULT, &quiet->function, &quiet->data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

void gdni_quiet_end(const gdni_quiet *quiet) {
    H5Eclear2(H5E_DEFAULT);
    H5Eset_auto2(H5E_DEFAULT, quiet->function, quiet->data);
}

static gdn_status fail(gdn_status status, const char *path, const char *reason, const char *format,
                       va_list args) {
    char what[640], line[1000];
    vsnprintf(what, sizeof(what), format, args);
    if (reason && *reason)
        snprintf(line, sizeof(line), "%.255s: %s (%.96s)", path, what, reason);
    else
        snprintf(line, sizeof(line), "%.255s: %s", path, what);
    for (char *c = line; *c; ++c)
        if ((unsigned char)*c < 32 || *c == 127)
            *c = '?';
    return gdni_fail(status, "%s", line);
}

gdn_status gdni_io_fail(gdn_status status, const char *path, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fail(status, path, NULL, format, args);
    va_end(args);
    return status;
}

/* H5E_WALK_UPWARD calls it for the innermost record first. */
static herr_t first_message(unsigned n, const H5E_error2_t *record, void *text) {
    if (n == 0 && record->desc)
        snprintf(text, 128, "%s", record->desc);
    return 0;
}

gdn_status gdni_h5_fail(gdn_status status, const char *path, const char *format, ...) {
    char reason[128] = "";
    va_list args;
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, first_message, reason);
    va_start(args, format);
    fail(status, path, reason, format, args);
    va_end(args);
    return status;
}

gdn_status gdni_take_struct(const char *name, void *to, size_t known, const void *from,
                            size_t size) {
    GDNI_REQUIRE(size >= sizeof(size_t) && size <= known,
                 "%s: size is %zu, expected that of the struct, at most %zu", name, size, known);
    memset(to, 0, known);
    memcpy(to, from, size);
    return GDN_STATUS_OK;
}
