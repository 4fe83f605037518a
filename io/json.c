/* JSON, value after value. */
#include "json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_DEPTH = 64,
    MAX_NUMBER = 64 /* bytes */
};

/* --- Characters --- */

/* The next byte, or -1 at the end. */
static int peek(const gdni_json *j) {
    return j->at < j->size ? (unsigned char)j->text[j->at] : -1;
}

static void skip_space(gdni_json *j) {
    while (j->at < j->size && memchr(" \t\n\r", j->text[j->at], 4))
        ++j->at;
}

static gdn_status expected(const gdni_json *j, const char *wanted) {
    char found[32] = "the end";
    const int c = peek(j);
    if (c > 32 && c < 127)
        snprintf(found, sizeof(found), "'%c'", c);
    else if (c >= 0)
        snprintf(found, sizeof(found), "byte 0x%02x", (unsigned)c);
    return gdni_io_fail(GDN_STATUS_BAD_FILE, j->path, "%s, byte %zu: expected %s, found %s",
                        j->what, j->at, wanted, found);
}

/* Past one character after white space, if it is this one. */
static int take(gdni_json *j, char c) {
    skip_space(j);
    if (peek(j) != c)
        return 0;
    ++j->at;
    return 1;
}

/* Bytes of the UTF-8 character at text, or 0. */
static size_t utf8_length(const unsigned char *text, size_t size) {
    static const struct {
        unsigned char first, last, second_low, second_high;
        size_t length;
    } forms[] = {
        {0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); ++i) {
        if (*text < forms[i].first || *text > forms[i].last)
            continue;
        const size_t length = forms[i].length;
        if (length > size ||
            (length > 1 && (text[1] < forms[i].second_low || text[1] > forms[i].second_high)))
            return 0;
        for (size_t b = 2; b < length; ++b)
            if ((text[b] & 0xc0) != 0x80)
                return 0;
        return length;
    }
    return 0;
}

int gdni_utf8_valid(const char *text, size_t size) {
    for (size_t at = 0, length; at < size; at += length)
        if (!(length = utf8_length((const unsigned char *)text + at, size - at)))
            return 0;
    return 1;
}

static char *put_utf8(char *to, uint32_t c) {
    if (c < 0x80) {
        *to++ = (char)c;
    } else if (c < 0x800) {
        *to++ = (char)(0xc0 | c >> 6);
        *to++ = (char)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        *to++ = (char)(0xe0 | c >> 12);
        *to++ = (char)(0x80 | (c >> 6 & 0x3f));
        *to++ = (char)(0x80 | (c & 0x3f));
    } else {
        *to++ = (char)(0xf0 | c >> 18);
        *to++ = (char)(0x80 | (c >> 12 & 0x3f));
        *to++ = (char)(0x80 | (c >> 6 & 0x3f));
        *to++ = (char)(0x80 | (c & 0x3f));
    }
    return to;
}

/* --- Strings --- */

static gdn_status hex4(gdni_json *j, uint32_t *value) {
    static const char digits[] = "0123456789abcdefABCDEF";
    *value = 0;
    for (int i = 0; i < 4; ++i, ++j->at) {
        const int c = peek(j);
        const char *at = c > 0 ? strchr(digits, c) : NULL;
        if (!at)
            return expected(j, "four hexadecimal digits");
        const uint32_t digit = (uint32_t)(at - digits);
        *value = *value << 4 | (digit < 16 ? digit : digit - 6);
    }
    return GDN_STATUS_OK;
}

/* What follows \u: one code point, of two such escapes if the first is half a pair. */
static gdn_status code_point(gdni_json *j, uint32_t *c) {
    uint32_t low;
    GDN_TRY(hex4(j, c));
    if (*c == 0 || (*c >= 0xdc00 && *c < 0xe000))
        return expected(j, "a character, not NUL or half a surrogate pair, before this");
    if (*c < 0xd800 || *c >= 0xe000)
        return GDN_STATUS_OK;
    if (peek(j) != '\\' || j->at + 1 >= j->size || j->text[j->at + 1] != 'u')
        return expected(j, "the second half of a surrogate pair");
    j->at += 2;
    GDN_TRY(hex4(j, &low));
    if (low < 0xdc00 || low >= 0xe000)
        return expected(j, "the second half of a surrogate pair before this");
    *c = 0x10000 + ((*c - 0xd800) << 10 | (low - 0xdc00));
    return GDN_STATUS_OK;
}

static gdn_status escape(gdni_json *j, char **to) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    const int c = peek(j);
    if (c == 'u') {
        uint32_t code;
        ++j->at;
        GDN_TRY(code_point(j, &code));
        *to = put_utf8(*to, code);
        return GDN_STATUS_OK;
    }
    const char *at = c > 0 ? strchr(names, c) : NULL;
    if (!at)
        return expected(j, "one of \"\\/bfnrtu after \\");
    ++j->at;
    *(*to)++ = values[at - names];
    return GDN_STATUS_OK;
}

/* The rest of a string after its quote; to has room for it. */
static gdn_status string_rest(gdni_json *j, char *to) {
    for (;;) {
        const int c = peek(j);
        if (c == '"') {
            ++j->at;
            *to = '\0';
            return GDN_STATUS_OK;
        }
        if (c < 32)
            return expected(j, "the end of a string");
        if (c == '\\') {
            ++j->at;
            GDN_TRY(escape(j, &to));
            continue;
        }
        const size_t length = utf8_length((const unsigned char *)j->text + j->at, j->size - j->at);
        if (!length)
            return expected(j, "UTF-8");
        memcpy(to, j->text + j->at, length);
        to += length;
        j->at += length;
    }
}

gdn_status gdni_json_string(gdni_json *j, char **text) {
    size_t end;
    *text = NULL;
    if (!take(j, '"'))
        return expected(j, "a string");
    /* Escapes are longer than what they stand for. */
    for (end = j->at; end < j->size && j->text[end] != '"'; ++end)
        end += j->text[end] == '\\';
    char *copy = malloc((end < j->size ? end : j->size) - j->at + 1);
    if (!copy)
        return gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, j->path, "no memory for its names");
    const gdn_status status = string_rest(j, copy);
    if (status == GDN_STATUS_OK)
        *text = copy;
    else
        free(copy);
    return status;
}

/* --- Numbers --- */

/* Past the digits; their count. */
static size_t skip_digits(gdni_json *j) {
    const size_t from = j->at;
    while (peek(j) >= '0' && peek(j) <= '9')
        ++j->at;
    return j->at - from;
}

/* Past a number; *integer: digits alone. */
static gdn_status skip_number(gdni_json *j, int *integer) {
    skip_space(j);
    *integer = peek(j) != '-';
    j->at += !*integer;
    if (peek(j) == '0')
        ++j->at;
    else if (!skip_digits(j))
        return expected(j, "a number");
    if (peek(j) == '.') {
        ++j->at;
        *integer = 0;
        if (!skip_digits(j))
            return expected(j, "a digit");
    }
    if (peek(j) == 'e' || peek(j) == 'E') {
        ++j->at;
        *integer = 0;
        j->at += peek(j) == '+' || peek(j) == '-';
        if (!skip_digits(j))
            return expected(j, "a digit");
    }
    return GDN_STATUS_OK;
}

gdn_status gdni_json_count(gdni_json *j, int64_t *value) {
    int integer;
    skip_space(j);
    const size_t from = j->at;
    GDN_TRY(skip_number(j, &integer));
    *value = 0;
    for (size_t i = from; integer && i < j->at; ++i)
        integer = !__builtin_mul_overflow(*value, 10, value) &&
                  !__builtin_add_overflow(*value, j->text[i] - '0', value);
    if (integer)
        return GDN_STATUS_OK;
    j->at = from;
    return expected(j, "an integer from 0 to 2^63 - 1");
}

gdn_status gdni_json_real(gdni_json *j, double *value) {
    char copy[MAX_NUMBER];
    int integer;
    skip_space(j);
    const size_t from = j->at;
    GDN_TRY(skip_number(j, &integer));
    if (j->at - from >= sizeof(copy)) {
        j->at = from;
        return expected(j, "a number of fewer digits");
    }
    memcpy(copy, j->text + from, j->at - from);
    copy[j->at - from] = '\0';
    *value = strtod(copy, NULL);
    return GDN_STATUS_OK;
}

/* --- Objects, arrays, anything --- */

static gdn_status enter(gdni_json *j, char open, const char *wanted) {
    if (!take(j, open))
        return expected(j, wanted);
    if (++j->depth > MAX_DEPTH)
        return expected(j, "no deeper nesting before this");
    return GDN_STATUS_OK;
}

static gdn_status member(gdni_json *j, gdni_json_member read, void *user) {
    char *key;
    GDN_TRY(gdni_json_string(j, &key));
    gdn_status status = take(j, ':') ? GDN_STATUS_OK : expected(j, "':'");
    if (status == GDN_STATUS_OK)
        status = read(user, j, key);
    free(key);
    return status;
}

gdn_status gdni_json_object(gdni_json *j, gdni_json_member read, void *user) {
    GDN_TRY(enter(j, '{', "an object"));
    if (!take(j, '}')) {
        do {
            GDN_TRY(member(j, read, user));
        } while (take(j, ','));
        if (!take(j, '}'))
            return expected(j, "',' or '}'");
    }
    --j->depth;
    return GDN_STATUS_OK;
}

gdn_status gdni_json_array(gdni_json *j, gdni_json_element read, void *user) {
    GDN_TRY(enter(j, '[', "an array"));
    if (!take(j, ']')) {
        do {
            GDN_TRY(read(user, j));
        } while (take(j, ','));
        if (!take(j, ']'))
            return expected(j, "',' or ']'");
    }
    --j->depth;
    return GDN_STATUS_OK;
}

static gdn_status skip_element(void *user, gdni_json *j) {
    (void)user;
    return gdni_json_skip(j);
}

static gdn_status skip_member(void *user, gdni_json *j, const char *key) {
    (void)user;
    (void)key;
    return gdni_json_skip(j);
}

gdn_status gdni_json_skip(gdni_json *j) {
    static const char *const words[] = {"true", "false", "null"};
    int integer;
    skip_space(j);
    const int c = peek(j);
    if (c == '{')
        return gdni_json_object(j, skip_member, NULL);
    if (c == '[')
        return gdni_json_array(j, skip_element, NULL);
    if (c == '"') {
        char *text;
        GDN_TRY(gdni_json_string(j, &text));
        free(text);
        return GDN_STATUS_OK;
    }
    for (int i = 0; i < 3; ++i) {
        const size_t length = strlen(words[i]);
        if (j->size - j->at >= length && !memcmp(j->text + j->at, words[i], length)) {
            j->at += length;
            return GDN_STATUS_OK;
        }
    }
    if (c == '-' || (c >= '0' && c <= '9'))
        return skip_number(j, &integer);
    return expected(j, "a value");
}

int gdni_json_at_object(gdni_json *j) {
    skip_space(j);
    return peek(j) == '{';
}

gdn_status gdni_json_end(gdni_json *j) {
    skip_space(j);
    return j->at == j->size ? GDN_STATUS_OK : expected(j, "the end");
}
