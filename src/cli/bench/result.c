/* Tables of results: the input's columns, then our own. */
#include "bench.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "error.h"

static gdn_status make_folder(const char *path) {
    char part[4096];
    snprintf(part, sizeof(part), "%s", path);
    for (char *at = part + 1;; ++at) {
        const char was = *at;
        if (was && was != '/')
            continue;
        *at = 0;
        if (mkdir(part, 0777) && errno != EEXIST)
            return gdni_fail(GDN_STATUS_IO_ERROR, "%s: cannot create: %s", part, strerror(errno));
        if (!was)
            return GDN_STATUS_OK;
        *at = was;
    }
}

/* "NVIDIA H100 80GB HBM3" -> "h100-80gb-hbm3" */
static void short_name(const char *gpu, char *out, size_t size) {
    size_t n = 0;
    if (!strncmp(gpu, "NVIDIA ", 7))
        gpu += 7;
    for (; *gpu && n + 1 < size; ++gpu)
        out[n++] = isalnum((unsigned char)*gpu) ? (char)tolower((unsigned char)*gpu) : '-';
    out[n] = 0;
}

/* The commit of the folder that the command runs in; "unknown" outside of a checkout. */
static void find_commit(char *out, size_t size) {
    FILE *git = popen("git rev-parse --short HEAD 2>/dev/null", "r");
    if (!git || !fgets(out, (int)size, git))
        snprintf(out, size, "unknown");
    out[strcspn(out, "\n")] = 0;
    if (git)
        pclose(git);
}

static void write_head(const bench_output *out, const bench_options *o, const bench_machine *m,
                       const bench_table *t, const char *date) {
    fprintf(out->file, "# gdn bench --rows %s, seed %llu, %d%% undecayed%s%s; commit %s, %s\n",
            o->rows, (unsigned long long)o->seed, o->undecayed, o->save ? ", --save" : "",
            o->exact ? ", --exact" : "", out->commit, date);
    fprintf(out->file, "# %s, driver %s, %d multiprocessors, SM clock at most %d MHz\n", m->gpu,
            m->driver, m->multiprocessors, m->most_clock);
    fprintf(out->file,
            "# One CUDA graph a call. libgdn_ms: median of replays back to back; min_ms, max_ms: "
            "their range; libgdn_cold_ms: L2 flushed before each; sm_mhz: during them.\n"
            "# uncut_ms: in turns with libgdn_ms; the same number where no plan is made.\n"
            "# max_rel_err: worst relative L2 of any head and output against float64 (long rows: "
            "fp32, see README.md), over a head that decays and one that does not. libgdn_ms is "
            "empty where a check failed.\n");
    if (t->comments)
        fprintf(out->file, "# The other times and the inputs are those of %s:\n%s", o->rows,
                t->comments);
    for (int c = 0; c < t->column_count; ++c)
        fprintf(out->file, "%s,", t->columns[c]);
    for (int c = 0; bench_own_columns[c]; ++c)
        fprintf(out->file, c ? ",%s" : "%s", bench_own_columns[c]);
    fputc('\n', out->file);
    fflush(out->file);
}

gdn_status bench_output_open(bench_output *out, const bench_options *o, const bench_machine *m,
                             const bench_table *t, int all_rows) {
    char gpu[128], date[32], folder[2048], label[160] = "";
    const time_t now = time(NULL);
    const int plain = all_rows && !o->save && !o->exact && !o->label && o->undecayed == 25;
    memset(out, 0, sizeof(*out));
    short_name(m->gpu, gpu, sizeof(gpu));
    strftime(date, sizeof(date), "%Y-%m-%d", gmtime(&now));
    if (o->commit)
        snprintf(out->commit, sizeof(out->commit), "%s", o->commit);
    else
        find_commit(out->commit, sizeof(out->commit));
    if (!plain)
        snprintf(label, sizeof(label), "%s%s%s%s%.100s", all_rows ? "" : "-part",
                 o->save ? "-saved" : "", o->exact ? "-exact" : "", o->label ? "-" : "",
                 o->label ? o->label : "");
    snprintf(folder, sizeof(folder), "%s%s", o->output, plain ? "" : "/other");
    GDN_TRY(make_folder(folder));
    snprintf(out->path, sizeof(out->path), "%s/%s-%s-%s%s.csv", folder, gpu, date, out->commit,
             label);
    out->save = o->save;
    out->file = fopen(out->path, "w");
    if (!out->file)
        return gdni_fail(GDN_STATUS_IO_ERROR, "%s: cannot write: %s", out->path, strerror(errno));
    write_head(out, o, m, t, date);
    return GDN_STATUS_OK;
}

/* A number and a comma, or the comma alone. */
static void write_number(FILE *file, const char *format, double value, int known) {
    if (known && isfinite(value))
        fprintf(file, format, value);
    fputc(',', file);
}

gdn_status bench_output_row(bench_output *out, const bench_table *t, const bench_row *row,
                            const bench_result *r) {
    const bench_work least =
        bench_least(row->backward, bench_row_saved(row, out->save) == BENCH_STATES, row->Hk,
                    row->Hv, row->cu[row->N]);
    const int good = !r->failed;
    FILE *file = out->file;
    for (int c = 0; c < t->column_count; ++c)
        fprintf(file, "%s,", row->cells[c]);
    write_number(file, "%.4f", r->ms, good);
    write_number(file, "%.4f", r->cold_ms, good);
    write_number(file, "%.4f", r->uncut_ms, good);
    if (isnan(r->error))
        fputs("nan,", file);
    else
        fprintf(file, "%.2e,", r->error);
    fprintf(file, "%s,%s,", r->backend, out->commit);
    write_number(file, "%.1f", least.flop / r->ms * 1e-9, good);
    write_number(file, "%.0f", least.bytes / r->ms * 1e-6, good);
    write_number(file, "%.3f", least.floor_ms / r->ms, good);
    write_number(file, "%.0f", r->segments, r->segments > 0);
    fprintf(file, "%zu,%zu,", r->workspace, r->saved);
    write_number(file, "%.4f", r->min_ms, good);
    write_number(file, "%.4f", r->max_ms, good);
    if (r->clock)
        fprintf(file, "%d", r->clock);
    fputc('\n', file);
    if (fflush(file))
        return gdni_fail(GDN_STATUS_IO_ERROR, "%s: cannot write: %s", out->path, strerror(errno));
    return GDN_STATUS_OK;
}

gdn_status bench_output_close(bench_output *out) {
    if (out->file && fclose(out->file))
        return gdni_fail(GDN_STATUS_IO_ERROR, "%s: cannot write: %s", out->path, strerror(errno));
    out->file = NULL;
    return GDN_STATUS_OK;
}
