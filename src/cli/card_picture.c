/*
 * The picture of a plan: one forward on a device, time to the right, a row per CTA slot. CTAs go to
 * the slot that is free first, in the order in which the kernels launch them, and take as long as
 * the cost model says.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "card.h"
#include "internal.h"

enum {
    WIDTH = 900,
    LEFT = 60,
    RIGHT = 20,
    TOP = 60,
    BOTTOM = 50,
    ROW = 4 /* pixels of a slot */
};

typedef struct picture {
    FILE *file;
    const gdni_plan *plan;
    double *free_at; /* [slots] in cycles */
    double end;      /* the latest of what was placed */
    double scale;    /* pixels a cycle; 0: only measure */
} picture;

static const char *colour(int32_t head) {
    static const char *const palette[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                          "#e69f00", "#56b4e9", "#8c564b", "#7f3fbf"};
    return palette[head % 8];
}

static void bar(const picture *p, int32_t slot, double from, double to, const char *fill,
                double opacity) {
    if (p->scale > 0 && to > from)
        fprintf(p->file,
                "<rect x=\"%.2f\" y=\"%d\" width=\"%.2f\" height=\"%d\" fill=\"%s\" "
                "fill-opacity=\"%.2f\"/>\n",
                LEFT + from * p->scale, TOP + slot * ROW, (to - from) * p->scale, ROW - 1, fill,
                opacity);
}

/* One CTA: `warm` cycles of warm-up, then `work`. */
static void place(picture *p, double warm, double work, const char *fill, double opacity) {
    int32_t slot = 0;
    for (int32_t i = 1; i < p->plan->problem.model.slots; ++i)
        if (p->free_at[i] < p->free_at[slot])
            slot = i;
    const double from = p->free_at[slot];
    bar(p, slot, from, from + warm, fill, 0.3 * opacity);
    bar(p, slot, from + warm, from + warm + work, fill, opacity);
    p->free_at[slot] = from + warm + work;
    if (p->free_at[slot] > p->end)
        p->end = p->free_at[slot];
}

/* No kernel begins before the one before it has ended. */
static void next_kernel(picture *p, double pause) {
    p->end += pause;
    for (int32_t i = 0; i < p->plan->problem.model.slots; ++i)
        p->free_at[i] = p->end;
}

static void lay_out(picture *p) {
    const gdni_plan_problem *problem = &p->plan->problem;
    const gdni_plan_model *m = &problem->model;
    int64_t run = 0, longest_run = 0, tasks = 0;
    p->end = 0;
    next_kernel(p, 0);
    for (int64_t i = 0; i < p->plan->count; ++i) {
        const gdni_work_item *item = &p->plan->items[i];
        const double state = (double)(item->last - item->first) * (double)m->exact;
        const double matrix = (double)(item->last - item->stored) * (double)m->exact;
        for (int32_t s = 0; s < m->state_slices && item->flags & GDNI_ITEM_STATE; ++s, ++tasks)
            place(p, 0, state, "#555555", 1);
        for (int32_t s = 0; s < m->matrix_slices && item->flags & GDNI_ITEM_TRANSFER; ++s, ++tasks)
            place(p, 0, matrix, "#aaaaaa", 1);
    }
    for (int32_t h = 0; h < problem->Hv; ++h, run = 0)
        for (int64_t i = h; i < p->plan->count; i += problem->Hv) {
            run = p->plan->items[i].flags & GDNI_ITEM_TRANSFER ? run + 1 : 0;
            longest_run = run > longest_run ? run : longest_run;
        }
    next_kernel(p, tasks ? (double)m->launch + (double)m->scan * (double)longest_run : 0);
    for (int64_t i = 0; i < p->plan->count; ++i) {
        const gdni_work_item *item = &p->plan->items[i];
        for (int32_t s = 0; s < m->forward_slices; ++s)
            place(p, (double)(item->stored - item->first) * (double)m->forward,
                  (double)(item->last - item->stored) * (double)m->forward, colour(item->head), 1);
    }
}

static void draw(picture *p) {
    const int32_t slots = p->plan->problem.model.slots;
    const int bottom = TOP + slots * ROW;
    fprintf(p->file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "font-family=\"sans-serif\" font-size=\"12\">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n"
            "<text x=\"%d\" y=\"20\" font-size=\"14\">One forward, %lld segments of %d v-heads on "
            "%d multiprocessors, by the cost model</text>\n"
            "<text x=\"%d\" y=\"40\">a colour a head, its warm-ups pale; dark grey: exit states of "
            "the exact pass, light grey: transfer matrices</text>\n",
            WIDTH, bottom + BOTTOM, LEFT, (long long)(p->plan->count / p->plan->problem.Hv),
            p->plan->problem.Hv, slots, LEFT);
    lay_out(p);
    fprintf(p->file,
            "<path d=\"M%d %d V%d H%d\" stroke=\"black\" fill=\"none\"/>\n"
            "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%.2f million cycles</text>\n"
            "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\" transform=\"rotate(-90 20 %d)\">"
            "multiprocessor</text>\n</svg>\n",
            LEFT, TOP, bottom, WIDTH - RIGHT, WIDTH - RIGHT, bottom + 20, 1e-6 * p->end, 20,
            TOP + slots * ROW / 2, TOP + slots * ROW / 2);
}

gdn_status cli_card_picture(const gdni_plan *plan, const char *path) {
    picture p = {.plan = plan};
    char temporary[4096];
    gdn_status status = GDN_STATUS_OK;
    if (snprintf(temporary, sizeof(temporary), "%s.part", path) >= (int)sizeof(temporary))
        return gdni_fail(GDN_STATUS_IO_ERROR, "%s: the name is too long", path);
    p.free_at = malloc(sizeof(*p.free_at) * (size_t)plan->problem.model.slots);
    if (!p.free_at)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "%s: out of memory", path);
    lay_out(&p);
    p.scale = p.end > 0 ? (WIDTH - LEFT - RIGHT) / p.end : 1;
    p.file = fopen(temporary, "w");
    if (!p.file) {
        status = gdni_fail(GDN_STATUS_IO_ERROR, "%s: %s", path, strerror(errno));
    } else {
        draw(&p);
        const int bad = ferror(p.file);
        if (fclose(p.file) || bad || rename(temporary, path)) {
            status = gdni_fail(GDN_STATUS_IO_ERROR, "%s: %s", path, strerror(errno));
            remove(temporary);
        }
    }
    free(p.free_at);
    return status;
}
