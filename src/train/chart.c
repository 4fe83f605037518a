#include "chart.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

/* Pixels. */
enum {
    WIDTH = 900,
    LEFT = 76,
    RIGHT = 24,
    TOP = 44,
    PLOT_HEIGHT = 400,
    BELOW_AXIS = 58,
    LEGEND_ROW = 20,
    LEGEND_MARK = 44, /* a legend's mark and the room around it */
    CHARACTER = 7     /* about the width of one */
};

typedef struct frame {
    FILE *file;
    const gdni_chart *chart;
    double low[2], high[2]; /* of x and y (log10 of y) */
} frame;

static const char *colour(int32_t index) {
    static const char *const palette[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                          "#e69f00", "#56b4e9", "#8c564b", "#7f3fbf"};
    if (index == -1)
        return "#888888";
    if (index == -2)
        return "#d00000";
    return palette[index % 8];
}

static double y_value(const gdni_chart *chart, double y) {
    return chart->log_y ? log10(y) : y;
}

static int drawable(const gdni_chart *chart, double x, double y) {
    return isfinite(x) && isfinite(y) && (!chart->log_y || y > 0);
}

static double px(const frame *f, double x) {
    return LEFT + (x - f->low[0]) / (f->high[0] - f->low[0]) * (WIDTH - LEFT - RIGHT);
}

static double py(const frame *f, double y) {
    const double part = (y_value(f->chart, y) - f->low[1]) / (f->high[1] - f->low[1]);
    return TOP + (1 - part) * PLOT_HEIGHT;
}

static void text_escaped(FILE *file, const char *text) {
    for (; *text; ++text) {
        if (*text == '<')
            fputs("&lt;", file);
        else if (*text == '>')
            fputs("&gt;", file);
        else if (*text == '&')
            fputs("&amp;", file);
        else
            fputc(*text, file);
    }
}

static void label(const frame *f, double x, double y, const char *attributes, const char *text) {
    fprintf(f->file, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, attributes);
    text_escaped(f->file, text);
    fputs("</text>\n", f->file);
}

/* 1, 2 or 5 times a power of ten: about `wanted` steps over the range. */
static double tick_step(double range, int wanted) {
    const double raw = range / wanted, power = pow(10, floor(log10(raw)));
    const double part = raw / power;
    return power * (part < 1.5 ? 1 : part < 3.5 ? 2 : part < 7.5 ? 5 : 10);
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The value below which `part` of all the y lie. */
static gdn_status quantile(const gdni_chart *c, double part, double *value) {
    int64_t total = 0, count = 0;
    for (int64_t s = 0; s < c->count; ++s)
        total += c->series[s].count;
    double *all = malloc((size_t)(total + 1) * sizeof(double));
    if (!all)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "chart: out of memory");
    for (int64_t s = 0; s < c->count; ++s)
        for (int64_t i = 0; i < c->series[s].count; ++i)
            if (drawable(c, c->series[s].x[i], c->series[s].y[i]))
                all[count++] = y_value(c, c->series[s].y[i]);
    qsort(all, (size_t)count, sizeof(double), compare);
    if (count)
        *value = all[(int64_t)(part * (double)(count - 1))];
    free(all);
    return GDN_STATUS_OK;
}

/* The ranges of the axes; 0 points where there is nothing to draw. */
static gdn_status find_range(frame *f, int64_t *drawn) {
    const gdni_chart *c = f->chart;
    int64_t points = 0;
    for (int axis = 0; axis < 2; ++axis) {
        f->low[axis] = INFINITY;
        f->high[axis] = -INFINITY;
    }
    for (int64_t s = 0; s < c->count; ++s) {
        for (int64_t i = 0; i < c->series[s].count; ++i) {
            const double x = c->series[s].x[i], y = c->series[s].y[i];
            if (!drawable(c, x, y))
                continue;
            const double at[2] = {x, y_value(c, y)};
            for (int axis = 0; axis < 2; ++axis) {
                f->low[axis] = fmin(f->low[axis], at[axis]);
                f->high[axis] = fmax(f->high[axis], at[axis]);
            }
            ++points;
        }
    }
    if (c->categories) {
        f->low[0] = -0.5;
        f->high[0] = (double)c->category_count - 0.5;
    }
    if (c->y_part > 0)
        GDN_TRY(quantile(c, c->y_part, &f->high[1]));
    for (int axis = 0; axis < 2 && points; ++axis) {
        const double range = f->high[axis] - f->low[axis];
        const int exact = axis == 0;
        const double pad = range > 0 ? (exact ? 0 : 0.05 * range) : 0.5;
        f->low[axis] -= pad;
        f->high[axis] += pad;
    }
    if (c->log_y && points) { /* whole decades read best */
        f->low[1] = floor(f->low[1]);
        f->high[1] = ceil(f->high[1]);
    }
    *drawn = points;
    return GDN_STATUS_OK;
}

static void x_axis(const frame *f) {
    const gdni_chart *c = f->chart;
    const double bottom = TOP + PLOT_HEIGHT;
    if (c->categories) {
        for (int64_t i = 0; i < c->category_count; ++i) {
            char attributes[160];
            const double x = px(f, (double)i), y = bottom + 14;
            snprintf(attributes, sizeof(attributes),
                     "text-anchor=\"end\" font-size=\"11\" transform=\"rotate(-40 %.1f %.1f)\"", x,
                     y);
            label(f, x, y, attributes, c->categories[i]);
        }
        return;
    }
    const double step = tick_step(f->high[0] - f->low[0], 8);
    for (double x = ceil(f->low[0] / step) * step; x <= f->high[0] + 1e-9 * step; x += step) {
        char number[32];
        fprintf(f->file, "<path d=\"M%.1f %.1fv5\" stroke=\"#444\"/>\n", px(f, x), bottom);
        const double unit = step >= 1e6 ? 1e6 : step >= 1e3 ? 1e3 : 1;
        snprintf(number, sizeof(number), "%.10g%s", x / unit,
                 x == 0 || unit == 1 ? ""
                 : unit == 1e3       ? "k"
                                     : "M");
        label(f, px(f, x), bottom + 19, "text-anchor=\"middle\"", number);
    }
}

static void y_axis(const frame *f) {
    const gdni_chart *c = f->chart;
    const double range = f->high[1] - f->low[1];
    double step = c->log_y ? fmax(1, ceil(range / 10)) : tick_step(range, 7);
    for (double y = ceil(f->low[1] / step) * step; y <= f->high[1] + 1e-9 * step; y += step) {
        char number[32];
        const double at = py(f, c->log_y ? pow(10, y) : y);
        snprintf(number, sizeof(number), c->log_y ? "1e%.0f" : "%.6g",
                 fabs(y) < 1e-9 * step ? 0 : y);
        fprintf(f->file, "<path d=\"M%d %.1fH%d\" stroke=\"#e4e4e4\"/>\n", LEFT, at, WIDTH - RIGHT);
        label(f, LEFT - 8, at + 4, "text-anchor=\"end\"", number);
    }
}

static void draw_line(const frame *f, const gdni_series *s) {
    int pen_down = 0;
    fprintf(f->file,
            "<path fill=\"none\" stroke=\"%s\" stroke-width=\"%s\" stroke-opacity=\"%s\" "
            "stroke-linejoin=\"round\" d=\"",
            colour(s->colour), s->style == GDNI_SERIES_FAINT ? "1" : "2",
            s->style == GDNI_SERIES_FAINT ? "0.35" : "1");
    for (int64_t i = 0; i < s->count; ++i) {
        if (!drawable(f->chart, s->x[i], s->y[i])) {
            pen_down = 0;
            continue;
        }
        fprintf(f->file, "%c%.1f %.1f", pen_down ? 'L' : 'M', px(f, s->x[i]), py(f, s->y[i]));
        pen_down = 1;
    }
    fputs("\"/>\n", f->file);
}

static void draw_marks(const frame *f, const gdni_series *s) {
    const double half = 0.4 * (WIDTH - LEFT - RIGHT) / (f->high[0] - f->low[0]);
    for (int64_t i = 0; i < s->count; ++i) {
        if (!drawable(f->chart, s->x[i], s->y[i]))
            continue;
        const double x = px(f, s->x[i]), y = py(f, s->y[i]);
        if (s->style == GDNI_SERIES_BARS)
            fprintf(f->file, "<path d=\"M%.1f %.1fh%.1f\" stroke=\"%s\" stroke-width=\"2\"/>\n",
                    x - half, y, 2 * half, colour(s->colour));
        else
            fprintf(f->file, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", x, y,
                    colour(s->colour));
    }
}

static void draw_series(const frame *f) {
    for (int64_t i = 0; i < f->chart->count; ++i) {
        const gdni_series *s = &f->chart->series[i];
        if (s->style <= GDNI_SERIES_MARKED)
            draw_line(f, s);
        if (s->style >= GDNI_SERIES_MARKED)
            draw_marks(f, s);
    }
}

/* Rows of the legend, and how many entries a row has room for. */
static int64_t legend_rows(const gdni_chart *chart, int64_t *columns) {
    int64_t entries = 0;
    size_t longest = 1;
    for (int64_t i = 0; i < chart->count; ++i) {
        if (!chart->series[i].name)
            continue;
        ++entries;
        if (strlen(chart->series[i].name) > longest)
            longest = strlen(chart->series[i].name);
    }
    *columns = (WIDTH - LEFT - RIGHT) / (LEGEND_MARK + CHARACTER * (int64_t)longest);
    *columns = *columns < 1 ? 1 : *columns > 4 ? 4 : *columns;
    return (entries + *columns - 1) / *columns;
}

/* Slanted names need more room than numbers. */
static double axis_room(const gdni_chart *chart) {
    size_t longest = 0;
    for (int64_t i = 0; chart->categories && i < chart->category_count; ++i)
        if (strlen(chart->categories[i]) > longest)
            longest = strlen(chart->categories[i]);
    return BELOW_AXIS + 0.48 * CHARACTER * (double)longest;
}

static void legend(const frame *f, double top) {
    int64_t entry = 0, columns;
    legend_rows(f->chart, &columns);
    for (int64_t i = 0; i < f->chart->count; ++i) {
        const gdni_series *s = &f->chart->series[i];
        if (!s->name)
            continue;
        const double x = LEFT + (double)(entry % columns) * (WIDTH - LEFT - RIGHT) / columns;
        const double y = top + (double)(entry / columns) * LEGEND_ROW;
        if (s->style != GDNI_SERIES_DOTS)
            fprintf(f->file,
                    "<path d=\"M%.1f %.1fh22\" stroke=\"%s\" stroke-width=\"2\" "
                    "stroke-opacity=\"%s\"/>\n",
                    x, y - 4, colour(s->colour), s->style == GDNI_SERIES_FAINT ? "0.5" : "1");
        if (s->style == GDNI_SERIES_DOTS || s->style == GDNI_SERIES_MARKED)
            fprintf(f->file, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", x + 11,
                    y - 4, colour(s->colour));
        label(f, x + 30, y, "", s->name);
        ++entry;
    }
}

static void draw(frame *f) {
    const gdni_chart *c = f->chart;
    int64_t columns;
    const double bottom = TOP + PLOT_HEIGHT + axis_room(c);
    const double height = bottom + 10 + (double)legend_rows(c, &columns) * LEGEND_ROW;
    char attributes[128];
    fprintf(f->file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%.0f\" "
            "viewBox=\"0 0 %d %.0f\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n"
            "<rect width=\"%d\" height=\"%.0f\" fill=\"white\"/>\n",
            WIDTH, height, WIDTH, height, WIDTH, height);
    label(f, LEFT, 26, "font-size=\"16\"", c->title);
    y_axis(f);
    x_axis(f);
    fprintf(f->file, "<path d=\"M%d %dV%dH%d\" fill=\"none\" stroke=\"#444\"/>\n", LEFT, TOP,
            TOP + PLOT_HEIGHT, WIDTH - RIGHT);
    fprintf(f->file,
            "<clipPath id=\"plot\"><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>"
            "</clipPath>\n<g clip-path=\"url(#plot)\">\n",
            LEFT - 4, TOP, WIDTH - LEFT - RIGHT + 8, PLOT_HEIGHT + 4);
    draw_series(f);
    fputs("</g>\n", f->file);
    label(f, (LEFT + WIDTH - RIGHT) / 2.0, bottom - 16, "text-anchor=\"middle\"", c->x_label);
    snprintf(attributes, sizeof(attributes),
             "text-anchor=\"middle\" transform=\"rotate(-90 20 %d)\"", TOP + PLOT_HEIGHT / 2);
    label(f, 20, TOP + PLOT_HEIGHT / 2.0, attributes, c->y_label);
    legend(f, bottom + 10);
    fputs("</svg>\n", f->file);
}

gdn_status gdni_chart_write(const gdni_chart *chart, const char *path) {
    frame f = {.chart = chart};
    char temporary[4096];
    int64_t drawn = 0;
    GDN_TRY(find_range(&f, &drawn));
    if (!drawn)
        return gdni_fail(GDN_STATUS_BAD_DATA, "%s: expected at least one finite value to draw",
                         path);
    snprintf(temporary, sizeof(temporary), "%s.part", path);
    f.file = fopen(temporary, "w");
    if (!f.file)
        return gdni_fail(GDN_STATUS_IO_ERROR, "%s: cannot write: %s", temporary, strerror(errno));
    draw(&f);
    const int bad = ferror(f.file);
    if (fclose(f.file) || bad || rename(temporary, path)) {
        const int error = errno;
        remove(temporary);
        return gdni_fail(GDN_STATUS_IO_ERROR, "%s: cannot write: %s", path, strerror(error));
    }
    return GDN_STATUS_OK;
}
