/* Where the time of one step goes: spans that follow each other, part by part. */
#ifndef GDNI_TRAIN_TIMELINE_H
#define GDNI_TRAIN_TIMELINE_H

#include <stddef.h>
#include <stdint.h>

#include "gdn.h"

typedef enum gdni_span_part {
    GDNI_SPAN_EMBEDDING,
    GDNI_SPAN_NORM,
    GDNI_SPAN_PROJECTIONS, /* of the layer's input; backward: of their gradients */
    GDNI_SPAN_CONVOLUTION, /* with the gate */
    GDNI_SPAN_OPERATOR,
    GDNI_SPAN_OUTPUT, /* the layer's gated norm and output projection */
    GDNI_SPAN_LAYER,  /* all of it, where ranks share it */
    GDNI_SPAN_MLP,
    GDNI_SPAN_HEAD,  /* cross-entropy and its gradients */
    GDNI_SPAN_SUM,   /* of gradients, over ranks */
    GDNI_SPAN_ADAMW, /* with the gradient's norm */
    GDNI_SPAN_PARTS
} gdni_span_part;

typedef enum gdni_span_pass {
    GDNI_SPAN_FORWARD,
    GDNI_SPAN_AGAIN, /* forward once more, for backward */
    GDNI_SPAN_BACKWARD,
    GDNI_SPAN_UPDATE,
    GDNI_SPAN_PASSES
} gdni_span_pass;

typedef struct gdni_span {
    int32_t part, pass, block; /* block: -1 where it is of none */
    double begin, end;         /* seconds from the step's start */
} gdni_span;

typedef struct gdni_timeline {
    gdni_span *spans;
    int32_t count, capacity;
} gdni_timeline;

extern const char *const gdni_span_parts[GDNI_SPAN_PARTS];
extern const char *const gdni_span_passes[GDNI_SPAN_PASSES];

gdn_status gdni_timeline_add(gdni_timeline *timeline, gdni_span_part part, gdni_span_pass pass,
                             int32_t block);
void gdni_timeline_free(gdni_timeline *timeline);

/* As rows of numbers and back: part, pass, block, begin, end. */
enum {
    GDNI_SPAN_COLUMNS = 5
};
void gdni_timeline_row(const gdni_span *span, double row[GDNI_SPAN_COLUMNS]);
/* BAD_FILE: not the rows of a timeline. */
gdn_status gdni_timeline_read(gdni_timeline *timeline, const double *rows, size_t count,
                              const char *path);

/* One lane a part, forward above backward by colour, with the sum and share of each. */
gdn_status gdni_timeline_draw(const gdni_timeline *timeline, const char *title, const char *path);

#endif /* GDNI_TRAIN_TIMELINE_H */
