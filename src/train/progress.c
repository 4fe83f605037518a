#include "progress.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "error.h"
#include "gdn_io.h"

const char *const gdni_log_names[GDNI_LOG_COLUMNS] = {
    "step",    "loss",   "lr",  "grad_norm", "tokens_per_s",
    "heldout", "tokens", "mfu", "memory",    "communication"};

double gdni_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

gdn_status gdni_progress_open(gdni_progress *p, const char *dir) {
    char path[4096];
    snprintf(path, sizeof(path), "%s/log.txt", dir);
    p->text = fopen(path, "a");
    if (!p->text)
        return gdni_fail(GDN_STATUS_IO_ERROR, "%s: cannot write: %s", path, strerror(errno));
    return GDN_STATUS_OK;
}

void gdni_progress_close(gdni_progress *p) {
    if (p->text)
        fclose(p->text);
    free(p->rows);
}

gdn_status gdni_progress_reserve(gdni_progress *p, int64_t count) {
    if (count <= p->capacity)
        return GDN_STATUS_OK;
    const int64_t capacity = count < 2048 ? 4096 : 2 * count;
    double *rows = realloc(p->rows, (size_t)capacity * GDNI_LOG_COLUMNS * sizeof(double));
    if (!rows)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "log: out of memory for %lld rows",
                         (long long)capacity);
    p->rows = rows;
    p->capacity = capacity;
    return GDN_STATUS_OK;
}

static void clear_line(const gdni_progress *p) {
    if (p->screen && p->terminal)
        fputs("\r\033[K", p->screen);
}

/* The brief form fits a line of 80 columns, which is updated in place. */
static void print_row(const gdni_progress *p, FILE *to, const double *row, int brief) {
    const double done = row[GDNI_LOG_STEP] - (double)p->first_step;
    const double left = (double)p->steps - row[GDNI_LOG_STEP];
    const long eta = lround((gdni_seconds() - p->started) / (done > 0 ? done : 1) * left);
    fprintf(to, "step %lld/%lld  loss %.4f", (long long)row[GDNI_LOG_STEP], (long long)p->steps,
            row[GDNI_LOG_LOSS]);
    if (!brief)
        fprintf(to, "  lr %.2e  gradient %.3f", row[GDNI_LOG_LR], row[GDNI_LOG_GRAD_NORM]);
    fprintf(to, "  %.0f tokens/s", row[GDNI_LOG_TOKENS_PER_S]);
    if (!isnan(row[GDNI_LOG_MFU]))
        fprintf(to, "  MFU %.1f%%", 100 * row[GDNI_LOG_MFU]);
    if (!brief && !isnan(row[GDNI_LOG_MEMORY]))
        fprintf(to, "  %.1f GB", 1e-9 * row[GDNI_LOG_MEMORY]);
    if (!brief && !isnan(row[GDNI_LOG_COMMUNICATION]))
        fprintf(to, "  communication %.1f%%", 100 * row[GDNI_LOG_COMMUNICATION]);
    fprintf(to, "  ETA %ld:%02ld:%02ld  %s", eta / 3600, eta / 60 % 60, eta % 60, p->backend);
}

gdn_status gdni_progress_row(gdni_progress *p, const double row[GDNI_LOG_COLUMNS]) {
    const int64_t step = (int64_t)row[GDNI_LOG_STEP];
    const int line = step == 1 || step == p->steps || step % p->log_every == 0;
    GDN_TRY(gdni_progress_reserve(p, p->count + 1));
    memcpy(p->rows + p->count++ * GDNI_LOG_COLUMNS, row, GDNI_LOG_COLUMNS * sizeof(double));
    if (p->screen && p->terminal) {
        clear_line(p);
        print_row(p, p->screen, row, 1);
        fflush(p->screen);
    } else if (p->screen && line) {
        print_row(p, p->screen, row, 0);
        fputc('\n', p->screen);
        fflush(p->screen);
    }
    if (line && p->text) {
        print_row(p, p->text, row, 0);
        fputc('\n', p->text);
        fflush(p->text);
    }
    if (!isnan(row[GDNI_LOG_HELDOUT]))
        gdni_progress_say(p, "step %lld/%lld  heldout_loss %.4f", (long long)step,
                          (long long)p->steps, row[GDNI_LOG_HELDOUT]);
    return GDN_STATUS_OK;
}

void gdni_progress_say(gdni_progress *p, const char *format, ...) {
    FILE *to[2] = {p->screen, p->text};
    clear_line(p);
    for (int i = 0; i < 2; ++i) {
        va_list args;
        if (!to[i])
            continue;
        va_start(args, format);
        vfprintf(to[i], format, args);
        va_end(args);
        fputc('\n', to[i]);
        fflush(to[i]);
    }
}

gdn_status gdni_progress_save(const gdni_progress *p, const char *dir, const char *config) {
    char path[4096];
    const size_t spans = p->timeline ? (size_t)p->timeline->count : 0;
    double(*rows)[GDNI_SPAN_COLUMNS] = malloc((spans + 1) * sizeof(*rows));
    if (!rows)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "log: out of memory");
    for (size_t i = 0; i < spans; ++i)
        gdni_timeline_row(&p->timeline->spans[i], rows[i]);
    const gdn_io_log log = {.size = sizeof(log),
                            .columns = GDNI_LOG_COLUMNS,
                            .rows = (size_t)p->count,
                            .names = gdni_log_names,
                            .values = p->rows,
                            .config = config,
                            .spans = spans ? rows[0] : NULL,
                            .span_count = spans};
    snprintf(path, sizeof(path), "%s/log.h5", dir);
    const gdn_status status = gdn_io_log_write(path, &log);
    free(rows);
    return status;
}
