/* Tables of rows: comma-separated, no quotes, comments start with #. */
#include "bench.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

const char *const bench_own_columns[] = {
    "libgdn_ms",      "libgdn_cold_ms", "uncut_ms",        "max_rel_err",
    "backend",        "commit",         "libgdn_tflops",   "libgdn_gbps",
    "roofline_share", "segments",       "workspace_bytes", "saved_bytes",
    "min_ms",         "max_ms",         "sm_mhz",          NULL};

/* Limits of the format: lines, columns, tokens of a row. */
enum {
    LINE_SIZE = 65536,
    MOST_COLUMNS = 64,
    MOST_HEADS = 65536
};
static const int64_t MOST_TOKENS = INT64_C(1) << 32;

/* The column "saved", by bench_saved. */
static const char *const saved_names[] = {"nothing", "inverse", "states"};

/* Where a complaint belongs. */
typedef struct place {
    const char *path;
    long line;
} place;

static int is_own(const char *column) {
    for (const char *const *own = bench_own_columns; *own; ++own)
        if (!strcmp(column, *own))
            return 1;
    return 0;
}

static int is_time(const char *column) {
    const size_t length = strlen(column);
    return length > 3 && !strcmp(column + length - 3, "_ms");
}

int bench_is_rival(const char *column) {
    return is_time(column) && !is_own(column);
}

int bench_table_column(const bench_table *table, const char *name) {
    for (int c = 0; c < table->column_count; ++c)
        if (!strcmp(table->columns[c], name))
            return c;
    return -1;
}

double bench_table_number(const bench_row *row, int column) {
    return row->cells[column][0] ? strtod(row->cells[column], NULL) : NAN;
}

/* Cuts text at its commas; cells [MOST_COLUMNS]. The count, or -1 where there are more. */
static int split(char *text, char **cells) {
    int count = 0;
    for (char *at = text; at; ++count) {
        char *comma = strchr(at, ',');
        if (count == MOST_COLUMNS)
            return -1;
        if (comma)
            *comma++ = 0;
        cells[count] = at;
        at = comma;
    }
    return count;
}

/* A copy of the line and of pointers into it. */
static gdn_status split_copy(const char *line, const place *at, char **text, char ***cells,
                             int *count) {
    char *found[MOST_COLUMNS];
    *text = strdup(line);
    if (!*text)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: out of memory");
    *count = split(*text, found);
    if (*count < 0)
        return gdni_fail(GDN_STATUS_BAD_FILE, "%s:%ld: expected at most %d columns, found more",
                         at->path, at->line, (int)MOST_COLUMNS);
    *cells = malloc(sizeof(**cells) * (size_t)*count);
    if (!*cells)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: out of memory");
    memcpy(*cells, found, sizeof(**cells) * (size_t)*count);
    return GDN_STATUS_OK;
}

static gdn_status read_header(bench_table *t, const char *line, const place *at) {
    static const char *const needed[] = {"pass", "model", "h_k", "h_v", "lengths"};
    GDN_TRY(split_copy(line, at, &t->header, &t->columns, &t->column_count));
    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); ++i)
        if (bench_table_column(t, needed[i]) < 0)
            return gdni_fail(GDN_STATUS_BAD_FILE,
                             "%s:%ld: expected the columns pass, model, h_k, h_v, lengths, found "
                             "no %s",
                             at->path, at->line, needed[i]);
    for (int c = 0; c < t->column_count; ++c)
        if (bench_table_column(t, t->columns[c]) < c)
            return gdni_fail(GDN_STATUS_BAD_FILE,
                             "%s:%ld: expected each column once, found %s twice", at->path,
                             at->line, t->columns[c]);
    return GDN_STATUS_OK;
}

/* Digits alone, from 1 to most. */
static int whole_number(const char *text, int64_t most, int64_t *out, const char **end) {
    char *after;
    if (!isdigit((unsigned char)text[0]))
        return 0;
    errno = 0;
    *out = strtoll(text, &after, 10);
    *end = after;
    return !errno && *out >= 1 && *out <= most;
}

static gdn_status read_heads(const bench_table *t, bench_row *r, const place *at) {
    const char *name[2] = {"h_k", "h_v"};
    int64_t heads[2];
    for (int i = 0; i < 2; ++i) {
        const char *end, *text = r->cells[bench_table_column(t, name[i])];
        if (!whole_number(text, MOST_HEADS, &heads[i], &end) || *end)
            return gdni_fail(GDN_STATUS_BAD_FILE,
                             "%s:%ld: %s: expected an integer from 1 to %d, found '%.40s'",
                             at->path, at->line, name[i], (int)MOST_HEADS, text);
    }
    if (heads[1] % heads[0])
        return gdni_fail(GDN_STATUS_BAD_FILE,
                         "%s:%ld: h_v: expected a multiple of h_k = %" PRId64 ", found %" PRId64,
                         at->path, at->line, heads[0], heads[1]);
    r->Hk = (int32_t)heads[0];
    r->Hv = (int32_t)heads[1];
    return GDN_STATUS_OK;
}

/* "4096+2048": one packed batch. */
static gdn_status read_lengths(const bench_table *t, bench_row *r, const place *at) {
    const char *text = r->cells[bench_table_column(t, "lengths")], *next = text;
    int64_t sequences = 1;
    for (const char *c = text; *c; ++c)
        sequences += *c == '+';
    r->cu = calloc((size_t)sequences + 1, sizeof(*r->cu));
    if (!r->cu)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: out of memory");
    for (r->N = 0; r->N < sequences; ++r->N, ++next) {
        int64_t length;
        const char *end = r->N + 1 < sequences ? "+" : "";
        if (!whole_number(next, MOST_TOKENS - r->cu[r->N], &length, &next) || *next != *end)
            return gdni_fail(GDN_STATUS_BAD_FILE,
                             "%s:%ld: lengths: expected positive integers joined by +, at most "
                             "%" PRId64 " tokens, found '%.60s'",
                             at->path, at->line, MOST_TOKENS, text);
        r->cu[r->N + 1] = r->cu[r->N] + length;
    }
    return GDN_STATUS_OK;
}

static gdn_status read_times(const bench_table *t, const bench_row *r, const place *at) {
    for (int c = 0; c < t->column_count; ++c) {
        char *end;
        if (!is_time(t->columns[c]) || !r->cells[c][0])
            continue;
        const double ms = strtod(r->cells[c], &end);
        if (*end || !(ms > 0) || !isfinite(ms))
            return gdni_fail(GDN_STATUS_BAD_FILE,
                             "%s:%ld: %s: expected a time in milliseconds or nothing, found "
                             "'%.40s'",
                             at->path, at->line, t->columns[c], r->cells[c]);
    }
    return GDN_STATUS_OK;
}

static gdn_status read_saved(const bench_table *t, bench_row *r, const place *at) {
    const int column = bench_table_column(t, "saved");
    r->saved = -1;
    if (column < 0)
        return GDN_STATUS_OK;
    for (int i = BENCH_NOTHING; i <= BENCH_STATES; ++i)
        if (!strcmp(r->cells[column], saved_names[i]))
            r->saved = i;
    if (r->saved < 0)
        return gdni_fail(GDN_STATUS_BAD_FILE,
                         "%s:%ld: saved: expected nothing, inverse or states, found '%.40s'",
                         at->path, at->line, r->cells[column]);
    return GDN_STATUS_OK;
}

bench_saved bench_row_saved(const bench_row *r, int save) {
    return r->saved >= 0 ? (bench_saved)r->saved
           : save        ? BENCH_STATES
           : r->backward ? BENCH_INVERSE
                         : BENCH_NOTHING;
}

static gdn_status read_row(bench_table *t, const char *line, const place *at) {
    int count;
    bench_row *rows = realloc(t->rows, (size_t)(t->count + 1) * sizeof(*rows));
    if (!rows)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: out of memory");
    t->rows = rows;
    bench_row *r = &rows[t->count++];
    memset(r, 0, sizeof(*r));
    GDN_TRY(split_copy(line, at, &r->text, &r->cells, &count));
    if (count != t->column_count)
        return gdni_fail(GDN_STATUS_BAD_FILE, "%s:%ld: expected %d columns, found %d", at->path,
                         at->line, t->column_count, count);
    const char *pass = r->cells[bench_table_column(t, "pass")];
    r->backward = !strcmp(pass, "bwd");
    if (!r->backward && strcmp(pass, "fwd"))
        return gdni_fail(GDN_STATUS_BAD_FILE, "%s:%ld: pass: expected fwd or bwd, found '%.40s'",
                         at->path, at->line, pass);
    GDN_TRY(read_heads(t, r, at));
    GDN_TRY(read_lengths(t, r, at));
    GDN_TRY(read_saved(t, r, at));
    return read_times(t, r, at);
}

static gdn_status keep_comment(bench_table *t, const char *line, size_t length) {
    const size_t before = t->comments ? strlen(t->comments) : 0;
    char *comments = realloc(t->comments, before + length + 1);
    if (!comments)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: out of memory");
    memcpy(comments + before, line, length + 1);
    t->comments = comments;
    return GDN_STATUS_OK;
}

static gdn_status read_lines(bench_table *t, FILE *file, const char *path) {
    static char line[LINE_SIZE];
    place at = {path, 0};
    while (fgets(line, sizeof(line), file)) {
        const size_t length = strlen(line);
        ++at.line;
        if (length + 1 == sizeof(line) && line[length - 1] != '\n')
            return gdni_fail(GDN_STATUS_BAD_FILE, "%s:%ld: expected at most %d characters a line",
                             path, at.line, (int)LINE_SIZE - 2);
        if (line[0] == '#' && !t->header)
            GDN_TRY(keep_comment(t, line, length));
        line[strcspn(line, "\r\n")] = 0;
        if (!line[0] || line[0] == '#')
            continue;
        GDN_TRY(t->header ? read_row(t, line, &at) : read_header(t, line, &at));
    }
    if (ferror(file))
        return gdni_fail(GDN_STATUS_BAD_FILE, "%s: cannot read: %s", path, strerror(errno));
    if (!t->count)
        return gdni_fail(GDN_STATUS_BAD_FILE, "%s: expected a header and rows, found %s", path,
                         t->header ? "no row" : "nothing");
    return GDN_STATUS_OK;
}

gdn_status bench_table_read(bench_table *t, const char *path) {
    memset(t, 0, sizeof(*t));
    FILE *file = fopen(path, "r");
    if (!file)
        return gdni_fail(GDN_STATUS_BAD_FILE, "%s: cannot read: %s", path, strerror(errno));
    const gdn_status status = read_lines(t, file, path);
    fclose(file);
    if (status != GDN_STATUS_OK)
        bench_table_free(t);
    return status;
}

void bench_table_free(bench_table *t) {
    for (int64_t i = 0; i < t->count; ++i) {
        free(t->rows[i].text);
        free(t->rows[i].cells);
        free(t->rows[i].cu);
    }
    free(t->rows);
    free(t->columns);
    free(t->header);
    free(t->comments);
    memset(t, 0, sizeof(*t));
}

void bench_row_name(const bench_row *r, char *name, size_t size) {
    int64_t n = 0;
    size_t used =
        (size_t)snprintf(name, size, "%s %d/%d ", r->backward ? "bwd" : "fwd", r->Hk, r->Hv);
    while (n < r->N && used < size) {
        const int64_t length = r->cu[n + 1] - r->cu[n], first = n;
        while (n < r->N && r->cu[n + 1] - r->cu[n] == length)
            ++n;
        used += (size_t)snprintf(name + used, size - used, n - first > 1 ? "%s%" PRId64 "x" : "%s",
                                 first ? "+" : "", n - first);
        if (used < size)
            used += (size_t)snprintf(name + used, size - used, "%" PRId64, length);
    }
    if (r->saved >= 0 && used < size)
        snprintf(name + used, size - used, ", %s saved", saved_names[r->saved]);
}

int bench_row_matches(const bench_row *row, const bench_table *table, const char *filter) {
    static const char *const parts[] = {"pass", "h_k", "h_v", "lengths"};
    const char *at = filter;
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && *at; ++i) {
        const char *cell = row->cells[bench_table_column(table, parts[i])];
        const size_t length = strcspn(at, "/");
        const int any = length == 0 || (length == 1 && *at == '*');
        if (!any && (strlen(cell) != length || strncmp(cell, at, length)))
            return 0;
        at += length + (at[length] == '/');
    }
    return !*at;
}
