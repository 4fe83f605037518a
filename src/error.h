/* Reporting failures: one line a thread, and the macros that pass a status up. */
#ifndef GDNI_ERROR_H
#define GDNI_ERROR_H

#include "gdn.h"

/* Records one formatted line for gdn_last_error() and returns status. */
__attribute__((format(printf, 2, 3))) GDN_API gdn_status gdni_fail(gdn_status status,
                                                                   const char *format, ...);
/* Forgets the thread's last failure; every public call starts with it. */
GDN_API void gdni_clear_error(void);

#define GDN_TRY(call)                                                                              \
    do {                                                                                           \
        gdn_status gdni_status_ = (call);                                                          \
        if (gdni_status_ != GDN_STATUS_OK)                                                         \
            return gdni_status_;                                                                   \
    } while (0)

/* Assigns the variable `status` of the enclosing function and jumps to label on failure. */
#define GDN_TRY_GOTO(call, label)                                                                  \
    do {                                                                                           \
        status = (call);                                                                           \
        if (status != GDN_STATUS_OK)                                                               \
            goto label;                                                                            \
    } while (0)

#define GDNI_REQUIRE(condition, ...)                                                               \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return gdni_fail(GDN_STATUS_INVALID_ARGUMENT, __VA_ARGS__);                            \
    } while (0)

#endif /* GDNI_ERROR_H */
