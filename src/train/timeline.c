#include "timeline.h"

#include <math.h>
#include <stdlib.h>

#include "error.h"

const char *const gdni_span_parts[GDNI_SPAN_PARTS] = {
    "embedding",           "norms", "projections", "convolution, gate", "operator",
    "output of the layer", "layer", "MLP",         "head and its loss", "sum over ranks",
    "norm and AdamW"};
const char *const gdni_span_passes[GDNI_SPAN_PASSES] = {"forward", "forward again", "backward",
                                                        "update"};

gdn_status gdni_timeline_add(gdni_timeline *t, gdni_span_part part, gdni_span_pass pass,
                             int32_t block) {
    if (t->count == t->capacity) {
        const int32_t capacity = 2 * t->capacity + 256;
        gdni_span *spans = realloc(t->spans, (size_t)capacity * sizeof(*spans));
        if (!spans)
            return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "timeline: out of memory");
        t->spans = spans;
        t->capacity = capacity;
    }
    t->spans[t->count++] = (gdni_span){.part = part, .pass = pass, .block = block};
    return GDN_STATUS_OK;
}

void gdni_timeline_free(gdni_timeline *t) {
    free(t->spans);
    *t = (gdni_timeline){0};
}

void gdni_timeline_row(const gdni_span *s, double row[GDNI_SPAN_COLUMNS]) {
    row[0] = s->part;
    row[1] = s->pass;
    row[2] = s->block;
    row[3] = s->begin;
    row[4] = s->end;
}

static int is_index(double x, int low, int high) {
    return x >= low && x <= high && x == floor(x);
}

gdn_status gdni_timeline_read(gdni_timeline *t, const double *rows, size_t count,
                              const char *path) {
    for (size_t i = 0; i < count; ++i) {
        const double *r = rows + i * GDNI_SPAN_COLUMNS;
        if (!is_index(r[0], 0, GDNI_SPAN_PARTS - 1) || !is_index(r[1], 0, GDNI_SPAN_PASSES - 1) ||
            !is_index(r[2], -1, 1 << 20) || !(r[3] >= 0 && r[4] >= r[3] && isfinite(r[4])))
            return gdni_fail(GDN_STATUS_BAD_FILE,
                             "%s: timeline: row %zu: expected part, pass, block, begin, end, found "
                             "%g %g %g %g %g",
                             path, i, r[0], r[1], r[2], r[3], r[4]);
        GDN_TRY(gdni_timeline_add(t, (gdni_span_part)r[0], (gdni_span_pass)r[1], (int32_t)r[2]));
        t->spans[i].begin = r[3];
        t->spans[i].end = r[4];
    }
    return GDN_STATUS_OK;
}
