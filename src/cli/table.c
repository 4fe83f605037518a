#include "table.h"

#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    FEW_HEADS = 16
};

/* How much of its tolerances a row uses: above 1 it fails. */
static double use_of(const gdn_check_row *r) {
    const double error = r->error / r->tolerance;
    const double scale = r->scale_tolerance > 0 ? r->scale_error / r->scale_tolerance : 0;
    if (isnan(error) || isnan(scale))
        return INFINITY;
    return error > scale ? error : scale;
}

static void format_place(const gdn_check_row *r, char text[96]) {
    int n = snprintf(text, 96, "%s", r->ndim ? "[" : "");
    for (int i = 0; i < r->ndim; ++i)
        n += snprintf(text + n, 96 - (size_t)n, "%s%" PRId64, i ? ", " : "", r->worst[i]);
    snprintf(text + n, 96 - (size_t)n, "%s", r->ndim ? "]" : "");
}

static void print_row(const gdn_check_row *r, const char *note) {
    char head[16] = "-", scale[16] = "-", place[96], values[64] = "";
    if (r->head >= 0)
        snprintf(head, sizeof(head), "%d", r->head);
    if (r->ndim)
        snprintf(scale, sizeof(scale), "%.1e", r->scale_error);
    format_place(r, place);
    if (r->ndim)
        snprintf(values, sizeof(values), "%.9g, expected %.9g", r->worst_got, r->worst_want);
    printf("%-14s %-22s %5s  %8.1e  %9.1e  %8s  %-5s %-18s %s%s\n", r->name, r->against, head,
           r->error, r->tolerance, scale, r->pass ? "ok" : "FAIL", place, values, note);
}

/* Rows [first, end) have the same tensor and the same reference. */
static void print_group(const gdn_check_row *rows, size_t first, size_t end, int all) {
    size_t worst = first;
    for (size_t i = first; i < end; ++i) {
        if (all || end - first <= FEW_HEADS || !rows[i].pass)
            print_row(&rows[i], "");
        if (rows[i].pass && (!rows[worst].pass || use_of(&rows[i]) > use_of(&rows[worst])))
            worst = i;
    }
    if (!all && end - first > FEW_HEADS && rows[worst].pass) {
        char note[64];
        snprintf(note, sizeof(note), "  (worst of the %zu heads)", end - first);
        print_row(&rows[worst], note);
    }
}

void cli_print_report(const gdn_check_report *report, int all) {
    const gdn_check_row *rows = report->rows;
    printf("%-14s %-22s %5s  %8s  %9s  %8s  %-5s %-18s\n", "tensor", "against", "head", "error",
           "tolerance", "scale", "", "worst element");
    for (size_t first = 0, end; first < report->count; first = end) {
        for (end = first + 1; end < report->count && !strcmp(rows[end].name, rows[first].name) &&
                              !strcmp(rows[end].against, rows[first].against);
             ++end)
            continue;
        print_group(rows, first, end, all);
    }
}

/* Failing rows before passing ones, rows that can name an element before those that cannot. */
static int is_worse(const gdn_check_row *a, const gdn_check_row *b) {
    if (a->pass != b->pass)
        return !a->pass;
    if (!a->ndim != !b->ndim)
        return a->ndim > 0;
    return use_of(a) > use_of(b);
}

void cli_print_verdict(const char *command, const gdn_check_report *report) {
    const gdn_check_row *worst = report->count ? &report->rows[0] : NULL;
    size_t failed = 0;
    for (size_t i = 0; i < report->count; ++i) {
        failed += !report->rows[i].pass;
        if (is_worse(&report->rows[i], worst))
            worst = &report->rows[i];
    }
    printf("%s: %s, %zu of %zu rows fail", command, report->pass ? "PASS" : "FAIL", failed,
           report->count);
    if (worst) {
        char place[96];
        format_place(worst, place);
        printf("; worst: %s", worst->name);
        if (worst->head >= 0)
            printf(" head %d", worst->head);
        printf(" against %s, error %.2g of %.2g", worst->against, worst->error, worst->tolerance);
        if (worst->scale_tolerance > 0)
            printf(", scale %.2g of %.2g", worst->scale_error, worst->scale_tolerance);
        if (worst->ndim)
            printf(", element %s is %.9g, expected %.9g", place, worst->worst_got,
                   worst->worst_want);
    }
    printf("\n");
}

static int write_rows(FILE *file, const gdn_check_report *report) {
    fprintf(file, "tensor,against,head,error,scale_error,tolerance,pass\n");
    for (size_t i = 0; i < report->count; ++i) {
        const gdn_check_row *r = &report->rows[i];
        fprintf(file, "%s,%s,%d,%.9g,%.9g,%.9g,%d\n", r->name, r->against, r->head, r->error,
                r->scale_error, r->tolerance, r->pass);
    }
    return ferror(file) ? -1 : 0;
}

int cli_write_csv(const char *command, const char *path, const gdn_check_report *report) {
    char part[4096];
    FILE *file = NULL;
    int failed = 1;
    if (snprintf(part, sizeof(part), "%s.%ld.part", path, (long)getpid()) < (int)sizeof(part))
        file = fopen(part, "w");
    else
        errno = ENAMETOOLONG;
    if (file) {
        failed = write_rows(file, report);
        failed |= fflush(file) || fsync(fileno(file));
        failed |= fclose(file);
        failed = failed || rename(part, path);
        if (failed) {
            const int error = errno;
            remove(part);
            errno = error;
        }
    }
    if (!failed)
        return CLI_OK;
    fprintf(cli_messages(), "gdn %s: %s: cannot be written: %s\n", command, path, strerror(errno));
    return CLI_FAILED;
}
