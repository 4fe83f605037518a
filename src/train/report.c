#include "report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chart.h"
#include "error.h"

enum {
    MAX_CATEGORIES = 64,
    LINE_SIZE = 512
};

/* Series of a report: errors that pass, errors that fail, tolerances. */
enum {
    PASSED,
    FAILED,
    TOLERANCE,
    REPORT_SERIES
};

typedef struct report_row {
    int64_t category;
    int head;
    double error, tolerance;
    int pass;
} report_row;

typedef struct report {
    char names[MAX_CATEGORIES][64];
    const char *categories[MAX_CATEGORIES];
    int heads[MAX_CATEGORIES];
    int64_t category_count;
    report_row *rows;
    int64_t count;
} report;

static int64_t find_category(report *r, const char *tensor, const char *against) {
    char name[64];
    snprintf(name, sizeof(name), "%.30s, %.30s", tensor, against);
    for (int64_t i = 0; i < r->category_count; ++i)
        if (!strcmp(name, r->names[i]))
            return i;
    if (r->category_count == MAX_CATEGORIES)
        return -1;
    strcpy(r->names[r->category_count], name);
    r->categories[r->category_count] = r->names[r->category_count];
    return r->category_count++;
}

/* One line of the report: tensor,against,head,error,scale_error,tolerance,pass. */
static gdn_status read_line(report *r, char *line, const char *path, int64_t number) {
    char tensor[64], against[64], pass[16];
    double error, scale, tolerance;
    int head;
    const int found = sscanf(line, "%63[^,],%63[^,],%d,%lf,%lf,%lf,%15s", tensor, against, &head,
                             &error, &scale, &tolerance, pass);
    if (found != 7)
        return gdni_fail(GDN_STATUS_BAD_FILE,
                         "%s:%lld: expected tensor,against,head,error,scale_error,tolerance,pass, "
                         "found '%.60s'",
                         path, (long long)number, line);
    if (r->count % 256 == 0) {
        report_row *rows = realloc(r->rows, (size_t)(r->count + 256) * sizeof(*rows));
        if (!rows)
            return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "plot: out of memory");
        r->rows = rows;
    }
    const int64_t category = find_category(r, tensor, against);
    if (category < 0)
        return gdni_fail(GDN_STATUS_UNSUPPORTED, "%s:%lld: expected at most %d tensors to draw",
                         path, (long long)number, (int)MAX_CATEGORIES);
    const int good = !strcmp(pass, "1") || !strcmp(pass, "true") || !strcmp(pass, "pass");
    r->rows[r->count++] = (report_row){category, head, error, tolerance, good};
    if (head >= r->heads[category])
        r->heads[category] = head + 1;
    return GDN_STATUS_OK;
}

static gdn_status read_report(report *r, const char *path) {
    char line[LINE_SIZE];
    gdn_status status = GDN_STATUS_OK;
    FILE *file = fopen(path, "r");
    if (!file)
        return gdni_fail(GDN_STATUS_BAD_FILE, "%s: cannot read", path);
    for (int64_t number = 1; status == GDN_STATUS_OK && fgets(line, sizeof(line), file); ++number) {
        line[strcspn(line, "\r\n")] = 0;
        if (number == 1 && strncmp(line, "tensor,against,head,error", 25))
            status = gdni_fail(GDN_STATUS_BAD_FILE,
                               "%s:1: expected the header tensor,against,head,error,..., found "
                               "'%.60s'",
                               path, line);
        else if (number > 1 && line[0])
            status = read_line(r, line, path, number);
    }
    fclose(file);
    return status;
}

/* Heads side by side within their tensor's place. */
static double row_x(const report *r, const report_row *row) {
    const int heads = r->heads[row->category];
    if (row->head < 0 || heads < 2)
        return (double)row->category;
    return (double)row->category + 0.7 * ((double)row->head / (heads - 1) - 0.5);
}

static void fill_report(const report *r, gdni_series *series) {
    for (int64_t i = 0; i < r->count; ++i) {
        const report_row *row = &r->rows[i];
        gdni_series *s = &series[row->pass ? PASSED : FAILED];
        s->x[s->count] = row_x(r, row);
        /* On the logarithmic axis an exact zero is drawn below any rounding, a NaN as 1. */
        s->y[s->count++] = row->error == 0 ? 1e-18 : isfinite(row->error) ? row->error : 1;
        if (row->head > 0)
            continue;
        series[TOLERANCE].x[series[TOLERANCE].count] = (double)row->category;
        series[TOLERANCE].y[series[TOLERANCE].count++] = row->tolerance;
    }
}

static gdn_status draw_report(const report *r, const char *out) {
    gdni_series series[REPORT_SERIES] = {
        {.name = "error of a head, passes", .style = GDNI_SERIES_DOTS, .colour = 0},
        {.name = "error of a head, fails", .style = GDNI_SERIES_DOTS, .colour = -2},
        {.name = "tolerance", .style = GDNI_SERIES_BARS, .colour = -1}};
    const gdni_chart chart = {.title = "Gradient check, error by head",
                              .x_label = "gradient, compared with (heads from left to right)",
                              .y_label = "relative error",
                              .log_y = 1,
                              .series = series,
                              .count = REPORT_SERIES,
                              .categories = r->categories,
                              .category_count = r->category_count};
    double *memory = malloc((size_t)(2 * REPORT_SERIES * r->count + 1) * sizeof(double));
    if (!memory)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "plot: out of memory");
    for (int i = 0; i < REPORT_SERIES; ++i) {
        series[i].x = memory + 2 * i * r->count;
        series[i].y = series[i].x + r->count;
    }
    fill_report(r, series);
    const gdn_status status = gdni_chart_write(&chart, out);
    free(memory);
    return status;
}

gdn_status gdni_report_plot(const char *path, const char *out) {
    report *r = calloc(1, sizeof(*r));
    if (!r)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "plot: out of memory");
    gdn_status status = read_report(r, path);
    if (status == GDN_STATUS_OK)
        status = draw_report(r, out);
    free(r->rows);
    free(r);
    return status;
}
