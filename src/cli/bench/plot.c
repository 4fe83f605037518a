/* A table of results as a chart: a place a row, a mark a column. */
#include "bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chart.h"
#include "error.h"

enum {
    MOST_PLACES = 64,
    MOST_SERIES = 16
};

typedef struct picture {
    char names[MOST_PLACES][160];
    const char *categories[MOST_PLACES];
    const bench_row *rows[MOST_PLACES];
    int64_t count;
} picture;

/* Where the lengths of sequences would fill the picture, their number and their sum. */
static void name_row(const bench_row *r, char *name, size_t size) {
    bench_row_name(r, name, size);
    if (strlen(name) > 24 && r->N > 1)
        snprintf(name, size, "%s %d/%d %d sequences, %lld", r->backward ? "bwd" : "fwd", (int)r->Hk,
                 (int)r->Hv, (int)r->N, (long long)r->cu[r->N]);
}

static gdn_status choose_rows(picture *p, const bench_table *t, const char *path,
                              const char *filter) {
    for (int64_t i = 0; i < t->count; ++i) {
        const bench_row *r = &t->rows[i];
        if (filter ? !bench_row_matches(r, t, filter) : r->N > 1)
            continue;
        if (p->count == MOST_PLACES)
            return gdni_fail(GDN_STATUS_UNSUPPORTED,
                             "%s: expected at most %d rows to draw (see --filter)", path,
                             (int)MOST_PLACES);
        name_row(r, p->names[p->count], sizeof(p->names[0]));
        p->categories[p->count] = p->names[p->count];
        p->rows[p->count++] = r;
    }
    if (!p->count)
        return gdni_fail(GDN_STATUS_BAD_DATA, "%s: expected a row to draw, found none that %s",
                         path, filter ? "the filter takes" : "is one sequence alone");
    return GDN_STATUS_OK;
}

static int has_values(const picture *p, int column) {
    for (int64_t i = 0; i < p->count; ++i)
        if (p->rows[i]->cells[column][0])
            return 1;
    return 0;
}

/* Whether a column has a value that none of the series before it has. */
static int says_more(const picture *p, int column, const int *columns, int64_t count) {
    for (int64_t s = 0; s < count; ++s) {
        int64_t same = 0;
        while (same < p->count &&
               !strcmp(p->rows[same]->cells[column], p->rows[same]->cells[columns[s]]))
            ++same;
        if (same == p->count)
            return 0;
    }
    return has_values(p, column);
}

/* libgdn's times first. */
static int64_t choose_series(const picture *p, const bench_table *t, gdni_series *series,
                             int *columns) {
    int64_t count = 0;
    for (int ours = 1; ours >= 0; --ours)
        for (int c = 0; c < t->column_count && count < MOST_SERIES; ++c) {
            const char *name = t->columns[c];
            const int is_ours = !strcmp(name, "libgdn_ms") || !strcmp(name, "uncut_ms");
            if (is_ours != ours || (!ours && !bench_is_rival(name)) ||
                !says_more(p, c, columns, count))
                continue;
            series[count] = (gdni_series){.name = name,
                                          .style = ours ? GDNI_SERIES_BARS : GDNI_SERIES_DOTS,
                                          .colour = (int32_t)count};
            columns[count++] = c;
        }
    return count;
}

static gdn_status draw(const picture *p, const bench_table *t, const char *path, const char *out) {
    char title[160];
    const char *slash = strrchr(path, '/');
    static gdni_series series[MOST_SERIES];
    int columns[MOST_SERIES];
    const int64_t count = choose_series(p, t, series, columns);
    double *memory = malloc(sizeof(*memory) * (size_t)(2 * MOST_SERIES * p->count));
    if (!memory)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "plot: out of memory");
    for (int64_t s = 0; s < count; ++s) {
        series[s].x = memory + 2 * s * p->count;
        series[s].y = series[s].x + p->count;
        series[s].count = p->count;
        for (int64_t i = 0; i < p->count; ++i) {
            series[s].x[i] = (double)i;
            series[s].y[i] = bench_table_number(p->rows[i], columns[s]);
        }
    }
    snprintf(title, sizeof(title), "Time of a call, %.100s", slash ? slash + 1 : path);
    const gdni_chart chart = {.title = title,
                              .x_label = "pass, Hk/Hv, tokens",
                              .y_label = "ms",
                              .log_y = 1,
                              .series = series,
                              .count = count,
                              .categories = p->categories,
                              .category_count = p->count};
    const gdn_status status = gdni_chart_write(&chart, out);
    free(memory);
    return status;
}

gdn_status bench_plot(const char *path, const char *filter, const char *out) {
    bench_table table;
    GDN_TRY(bench_table_read(&table, path));
    picture *p = calloc(1, sizeof(*p));
    gdn_status status = p ? choose_rows(p, &table, path, filter)
                          : gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "plot: out of memory");
    if (status == GDN_STATUS_OK)
        status = draw(p, &table, path, out);
    free(p);
    bench_table_free(&table);
    return status;
}
