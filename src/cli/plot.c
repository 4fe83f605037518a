/* gdn plot: loss curves of runs, or the errors of a gradient check, as an SVG file. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bench/bench.h"
#include "chart.h"
#include "cli.h"
#include "error.h"
#include "gdn_io.h"
#include "report.h"
#include "timeline.h"

int cli_plot(int argc, char **argv);

enum {
    MAX_RUNS = 8,
    SERIES_A_RUN = 3, /* loss of every step, smoothed loss, held-out loss */
    SMOOTHING = 10    /* steps that one point of the smoothed curve averages */
};

static void print_help(void) {
    printf("usage: gdn plot RUN.h5|DIR [RUN...] -o PLOT.svg\n"
           "       gdn plot RUN.h5|DIR --timeline -o PLOT.svg\n"
           "       gdn plot REPORT.csv -o PLOT.svg\n"
           "       gdn plot TIMES.csv [--filter PASS/HK/HV] -o PLOT.svg\n\n"
           "Draws the training and held-out loss of one to eight runs (a log.h5, or the folder of\n"
           "gdn train that has it), with --timeline where the time of the step that gdn train\n"
           "--profile STEP measured went, the errors by head of gdn gradcheck -o\n"
           "REPORT.csv, or the times of a table of gdn bench --rows: of the rows that match, or of "
           "all\n"
           "with one sequence.\n\n"
           "example:\n"
           "  gdn plot run long -o loss.svg\n"
           "  gdn plot run --timeline -o step.svg\n"
           "  gdn plot tests/bench/published_h200.csv --filter fwd/16/32 -o times.svg\n");
}

typedef struct curves {
    gdni_series series[MAX_RUNS * SERIES_A_RUN];
    char names[MAX_RUNS][SERIES_A_RUN][160];
    int64_t count;
} curves;

static gdn_status column(const char *path, const gdn_io_log *log, const char *name, size_t *index) {
    for (*index = 0; *index < log->columns; ++*index)
        if (!strcmp(log->names[*index], name))
            return GDN_STATUS_OK;
    return gdni_fail(GDN_STATUS_BAD_FILE, "%s: expected a column %s, found none", path, name);
}

static gdn_status add_series(curves *c, int run, int which, const char *title, size_t rows,
                             gdni_series **out) {
    static const char *const kinds[] = {"training loss, every step", "training loss, smoothed",
                                        "held-out loss"};
    gdni_series *s = &c->series[c->count++];
    snprintf(c->names[run][which], sizeof(c->names[run][which]), "%s: %s", title, kinds[which]);
    /* In the background: the smoothed curve of the same colour stands for it in the legend. */
    s->name = which == 0 ? NULL : c->names[run][which];
    s->colour = which < 2 ? 2 * run : 2 * run + 1;
    if (which == 0)
        s->style = GDNI_SERIES_FAINT;
    else
        s->style = which == 1 ? GDNI_SERIES_LINE : GDNI_SERIES_MARKED;
    s->x = malloc(rows * sizeof(double));
    s->y = malloc(rows * sizeof(double));
    if (!s->x || !s->y)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "plot: out of memory");
    *out = s;
    return GDN_STATUS_OK;
}

static void fill_loss(const gdn_io_log *log, size_t tokens, size_t loss, gdni_series *raw,
                      gdni_series *smooth) {
    double sum = 0, first = 0;
    int in_sum = 0;
    for (size_t r = 0; r < log->rows; ++r) {
        const double *row = log->values + r * log->columns;
        raw->x[r] = row[tokens];
        raw->y[r] = row[loss];
        sum += row[loss];
        first = in_sum ? first : row[tokens];
        if (++in_sum < SMOOTHING && r + 1 < log->rows)
            continue;
        smooth->x[smooth->count] = 0.5 * (first + row[tokens]);
        smooth->y[smooth->count++] = sum / in_sum;
        sum = 0;
        in_sum = 0;
    }
    raw->count = (int64_t)log->rows;
}

static gdn_status add_run(curves *c, int run, const char *path, const gdn_io_log *log) {
    size_t tokens, loss, heldout;
    gdni_series *raw = NULL, *smooth = NULL, *held = NULL;
    GDN_TRY(column(path, log, "tokens", &tokens));
    GDN_TRY(column(path, log, "loss", &loss));
    GDN_TRY(column(path, log, "heldout", &heldout));
    GDN_TRY(add_series(c, run, 0, path, log->rows, &raw));
    GDN_TRY(add_series(c, run, 1, path, log->rows, &smooth));
    GDN_TRY(add_series(c, run, 2, path, log->rows, &held));
    fill_loss(log, tokens, loss, raw, smooth);
    for (size_t r = 0; r < log->rows; ++r) {
        const double *row = log->values + r * log->columns;
        if (isnan(row[heldout]))
            continue;
        held->x[held->count] = row[tokens];
        held->y[held->count++] = row[heldout];
    }
    return GDN_STATUS_OK;
}

static gdn_status open_run(const char *path, gdn_io_log **log) {
    char log_path[4096];
    struct stat about;
    const int folder = !stat(path, &about) && S_ISDIR(about.st_mode);
    snprintf(log_path, sizeof(log_path), folder ? "%s/log.h5" : "%s", path);
    return gdn_io_log_read(log_path, log);
}

static gdn_status plot_timeline(const char *path, const char *out) {
    gdn_io_log *log = NULL;
    gdni_timeline timeline = {0};
    char title[200];
    GDN_TRY(open_run(path, &log));
    gdn_status status =
        log->span_count
            ? gdni_timeline_read(&timeline, log->spans, log->span_count, path)
            : gdni_fail(GDN_STATUS_BAD_FILE,
                        "%s: expected a timeline (gdn train --profile STEP), found none", path);
    snprintf(title, sizeof(title), "%s: one training step", path);
    if (status == GDN_STATUS_OK)
        status = gdni_timeline_draw(&timeline, title, out);
    gdni_timeline_free(&timeline);
    gdn_io_log_free(log);
    return status;
}

static gdn_status read_run(curves *c, int run, const char *path) {
    gdn_io_log *log = NULL;
    GDN_TRY(open_run(path, &log));
    const gdn_status status = add_run(c, run, path, log);
    gdn_io_log_free(log);
    return status;
}

static gdn_status plot_runs(char **paths, int count, const char *out) {
    gdn_status status = GDN_STATUS_OK;
    curves *c = calloc(1, sizeof(*c));
    if (!c)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "plot: out of memory");
    for (int i = 0; i < count && status == GDN_STATUS_OK; ++i)
        status = read_run(c, i, paths[i]);
    if (status == GDN_STATUS_OK) {
        const gdni_chart chart = {.title = "Loss",
                                  .x_label = "tokens seen",
                                  .y_label = "cross-entropy, nats a token",
                                  .y_part = 0.96, /* without the fall of the first steps */
                                  .series = c->series,
                                  .count = c->count};
        status = gdni_chart_write(&chart, out);
    }
    for (int64_t i = 0; i < c->count; ++i) {
        free(c->series[i].x);
        free(c->series[i].y);
    }
    free(c);
    return status;
}

/* Whether a CSV file's first line that is no comment is the header of a table of times. */
static int is_times(const char *path) {
    char line[512] = "";
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof(line), file) && line[0] == '#')
        while (!strchr(line, '\n') && fgets(line, sizeof(line), file))
            continue;
    if (file)
        fclose(file);
    return !strncmp(line, "pass,", 5);
}

int cli_plot(int argc, char **argv) {
    char *inputs[MAX_RUNS];
    const char *out = NULL, *filter = NULL;
    int count = 0, reports = 0, timeline = 0;
    if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        print_help();
        return CLI_OK;
    }
    for (int i = 1; i < argc; ++i) {
        const size_t length = strlen(argv[i]);
        if (!strcmp(argv[i], "-o")) {
            if (++i == argc)
                return cli_usage("plot", "-o: expected a file, found nothing");
            out = argv[i];
        } else if (!strcmp(argv[i], "--filter")) {
            if (++i == argc)
                return cli_usage("plot", "--filter: expected PASS/HK/HV, found nothing");
            filter = argv[i];
        } else if (!strcmp(argv[i], "--timeline")) {
            timeline = 1;
        } else if (argv[i][0] == '-') {
            return cli_usage("plot", "unknown option '%s'", argv[i]);
        } else if (count == MAX_RUNS) {
            return cli_usage("plot", "expected at most %d runs, found more", (int)MAX_RUNS);
        } else {
            inputs[count++] = argv[i];
            reports += length > 4 && !strcmp(argv[i] + length - 4, ".csv");
        }
    }
    if (!count)
        return cli_usage("plot", "expected a run or a report, found nothing");
    if (!out)
        return cli_usage("plot", "-o: expected an SVG file to write, found nothing");
    if (reports && count > 1)
        return cli_usage("plot", "expected runs or one report, found %d reports among %d files",
                         reports, count);
    if (timeline && (reports || count > 1))
        return cli_usage("plot", "--timeline: expected one run, found %s",
                         reports ? inputs[0] : "several");
    if (timeline) {
        CLI_TRY(plot_timeline(inputs[0], out));
        return CLI_OK;
    }
    const int times = reports && is_times(inputs[0]);
    if (filter && !times)
        return cli_usage("plot", "--filter: expected a table of times, found %s", inputs[0]);
    CLI_TRY(times     ? bench_plot(inputs[0], filter, out)
            : reports ? gdni_report_plot(inputs[0], out)
                      : plot_runs(inputs, count, out));
    return CLI_OK;
}
