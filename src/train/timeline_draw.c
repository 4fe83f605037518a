/* A timeline as an SVG picture. */
#include "timeline.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "error.h"

enum {
    WIDTH = 960,
    LEFT = 150,  /* room for the names */
    RIGHT = 150, /* and for the sums */
    TOP = 50,
    LANE = 30,
    TICKS = 8
};

static const char *const colours[GDNI_SPAN_PASSES] = {"#3b76af", "#8fb5d6", "#c8553d", "#5a9a54"};

/* What each part takes, in seconds; returns the step's time. */
static double sum_parts(const gdni_timeline *t, double sums[GDNI_SPAN_PARTS]) {
    double end = 0;
    memset(sums, 0, GDNI_SPAN_PARTS * sizeof(*sums));
    for (int32_t i = 0; i < t->count; ++i) {
        sums[t->spans[i].part] += t->spans[i].end - t->spans[i].begin;
        end = fmax(end, t->spans[i].end);
    }
    return end;
}

/* 1, 2 or 5 times a power of ten, of which at most TICKS fit. */
static double tick_of(double end) {
    const double power = pow(10, floor(log10(end / TICKS)));
    for (int i = 1; i <= 5; i = i == 2 ? 5 : 2 * i)
        if (end / (i * power) <= TICKS)
            return i * power;
    return 10 * power;
}

static void axis(FILE *file, double end, double bottom) {
    const double scale = (WIDTH - LEFT - RIGHT) / end, tick = tick_of(end);
    for (double at = 0; at <= end * (1 + 1e-9); at += tick)
        fprintf(file,
                "<path d=\"M%.1f %dV%.0f\" stroke=\"#ddd\"/>\n"
                "<text x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\">%g</text>\n",
                LEFT + at * scale, TOP, bottom, LEFT + at * scale, bottom + 16, 1e3 * at);
    fprintf(file, "<text x=\"%d\" y=\"%.0f\" text-anchor=\"middle\">milliseconds</text>\n",
            (LEFT + WIDTH - RIGHT) / 2, bottom + 34);
}

static void lanes(FILE *file, const gdni_timeline *t, const double sums[GDNI_SPAN_PARTS],
                  double end) {
    const double scale = (WIDTH - LEFT - RIGHT) / end;
    int lane = 0;
    for (int part = 0; part < GDNI_SPAN_PARTS; ++part) {
        const int top = TOP + lane * LANE;
        if (!(sums[part] > 0))
            continue;
        fprintf(file,
                "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n"
                "<text x=\"%d\" y=\"%d\">%.2f ms, %.1f%%</text>\n",
                LEFT - 8, top + 20, gdni_span_parts[part], WIDTH - RIGHT + 8, top + 20,
                1e3 * sums[part], 100 * sums[part] / end);
        for (int32_t i = 0; i < t->count; ++i) {
            const gdni_span *s = &t->spans[i];
            if (s->part == part)
                fprintf(file,
                        "<rect x=\"%.2f\" y=\"%d\" width=\"%.2f\" height=\"%d\" fill=\"%s\"/>\n",
                        LEFT + s->begin * scale, top + 4, fmax((s->end - s->begin) * scale, 0.1),
                        LANE - 8, colours[s->pass]);
        }
        ++lane;
    }
}

static void legend(FILE *file, const gdni_timeline *t, double y) {
    double sums[GDNI_SPAN_PASSES] = {0};
    for (int32_t i = 0; i < t->count; ++i)
        sums[t->spans[i].pass] += t->spans[i].end - t->spans[i].begin;
    for (int pass = 0, x = LEFT; pass < GDNI_SPAN_PASSES; ++pass) {
        if (!(sums[pass] > 0))
            continue;
        fprintf(file,
                "<rect x=\"%d\" y=\"%.0f\" width=\"12\" height=\"12\" fill=\"%s\"/>\n"
                "<text x=\"%d\" y=\"%.0f\">%s, %.2f ms</text>\n",
                x, y - 10, colours[pass], x + 18, y, gdni_span_passes[pass], 1e3 * sums[pass]);
        x += 180;
    }
}

gdn_status gdni_timeline_draw(const gdni_timeline *t, const char *title, const char *path) {
    char temporary[4096];
    double sums[GDNI_SPAN_PARTS];
    const double end = sum_parts(t, sums);
    int used = 0;
    for (int part = 0; part < GDNI_SPAN_PARTS; ++part)
        used += sums[part] > 0;
    if (!used)
        return gdni_fail(GDN_STATUS_BAD_DATA, "%s: expected spans of time to draw, found none",
                         path);
    const double bottom = TOP + used * LANE, height = bottom + 80;
    snprintf(temporary, sizeof(temporary), "%s.part", path);
    FILE *file = fopen(temporary, "w");
    if (!file)
        return gdni_fail(GDN_STATUS_IO_ERROR, "%s: cannot write: %s", temporary, strerror(errno));
    fprintf(file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%.0f\" "
            "viewBox=\"0 0 %d %.0f\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n"
            "<rect width=\"%d\" height=\"%.0f\" fill=\"white\"/>\n"
            "<text x=\"%d\" y=\"28\" font-size=\"16\">%s: %.2f ms</text>\n",
            WIDTH, height, WIDTH, height, WIDTH, height, LEFT, title, 1e3 * end);
    axis(file, end, bottom);
    lanes(file, t, sums, end);
    legend(file, t, bottom + 62);
    fputs("</svg>\n", file);
    const int bad = ferror(file);
    if (fclose(file) || bad || rename(temporary, path)) {
        const int error = errno;
        remove(temporary);
        return gdni_fail(GDN_STATUS_IO_ERROR, "%s: cannot write: %s", path, strerror(error));
    }
    return GDN_STATUS_OK;
}
