/*
 * A strict reader of JSON in memory, one value after another: no numbers in other notations than
 * the standard's, no invalid UTF-8, no control characters in strings, nothing but white space
 * behind the last value. Failures are BAD_FILE, and say at which byte.
 */
#ifndef GDNI_IO_JSON_H
#define GDNI_IO_JSON_H

#include "internal.h"

typedef struct gdni_json {
    const char *path, *what; /* for messages: the file, and what of it this is */
    const char *text;
    size_t size, at;
    int depth;
} gdni_json;

/* Called with every key of an object, to read its value. */
typedef gdn_status (*gdni_json_member)(void *user, gdni_json *json, const char *key);
/* Called for every element of an array, to read it. */
typedef gdn_status (*gdni_json_element)(void *user, gdni_json *json);

gdn_status gdni_json_object(gdni_json *json, gdni_json_member member, void *user);
gdn_status gdni_json_array(gdni_json *json, gdni_json_element element, void *user);
/* A string without NUL, in new memory. */
gdn_status gdni_json_string(gdni_json *json, char **text);
/* An integer from 0 to INT64_MAX. */
gdn_status gdni_json_count(gdni_json *json, int64_t *value);
gdn_status gdni_json_real(gdni_json *json, double *value);
/* Any value. */
gdn_status gdni_json_skip(gdni_json *json);
/* Whether the next value is an object. */
int gdni_json_at_object(gdni_json *json);
/* Nothing but white space is left. */
gdn_status gdni_json_end(gdni_json *json);

/* Whether a text is UTF-8, without surrogates, overlong forms and what is beyond U+10FFFF. */
int gdni_utf8_valid(const char *text, size_t size);

#endif /* GDNI_IO_JSON_H */
