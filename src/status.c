#include "error.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char last_error[1024];

const char *gdn_status_string(gdn_status status) {
    switch (status) {
#define GDNI_STATUS_CASE(name, value, text)                                                        \
    case GDN_STATUS_##name:                                                                        \
        return text;
        GDN_STATUS_LIST(GDNI_STATUS_CASE)
#undef GDNI_STATUS_CASE
    }
    return "unknown status";
}

const char *gdn_last_error(void) {
    return last_error;
}

gdn_status gdni_fail(gdn_status status, const char *format, ...) {
    /* A caller may pass its own last_error as an argument: format into a copy. */
    char line[sizeof(last_error)];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    snprintf(last_error, sizeof(last_error), "%s", line);
    return status;
}

void gdni_clear_error(void) {
    last_error[0] = '\0';
}

uint32_t gdn_version(void) {
    return GDN_VERSION_MAJOR * 10000 + GDN_VERSION_MINOR * 100 + GDN_VERSION_PATCH;
}
