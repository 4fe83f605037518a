/* Charts as SVG, written directly: axes with ticks, series of lines or points, a legend. */
#ifndef GDNI_TRAIN_CHART_H
#define GDNI_TRAIN_CHART_H

#include <stdint.h>

#include "gdn.h"

typedef enum gdni_series_style {
    GDNI_SERIES_LINE,
    GDNI_SERIES_FAINT,  /* a line in the background */
    GDNI_SERIES_MARKED, /* a line with a dot at every point */
    GDNI_SERIES_DOTS,
    GDNI_SERIES_BARS /* short horizontal bars, such as limits */
} gdni_series_style;

typedef struct gdni_series {
    const char *name; /* in the legend; NULL = not there */
    gdni_series_style style;
    int32_t colour; /* of the palette; -1 = grey, -2 = red */
    int64_t count;
    double *x, *y; /* a NaN breaks a line */
} gdni_series;

typedef struct gdni_chart {
    const char *title, *x_label, *y_label;
    int log_y;
    double y_part; /* the axis shows this lower part of all values and cuts off the rest; 0 = all */
    const gdni_series *series;
    int64_t count;
    const char *const *categories; /* NULL, or names of x = 0, 1, ... instead of ticks */
    int64_t category_count;
} gdni_chart;

/* Writes the file whole or not at all. Errors: IO_ERROR; BAD_DATA: nothing to draw. */
gdn_status gdni_chart_write(const gdni_chart *chart, const char *path);

#endif /* GDNI_TRAIN_CHART_H */
