/* gdn bench --rows, --summary and --memory. */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../options.h"
#include "error.h"
#include "progress.h"

int cli_bench_rows(int argc, char **argv);

typedef struct run {
    const bench_options *o;
    bench_table table;
    bench_result *results; /* one a row of the table */
    char *chosen;          /* by row */
    int64_t chosen_count, measured, written;
    bench_device *device;
    bench_checks *checks;
    bench_output output;
    double started;
} run;

static gdn_status choose(run *r) {
    for (int c = 0; c < r->table.column_count; ++c)
        for (int own = 0; bench_own_columns[own]; ++own)
            if (!strcmp(r->table.columns[c], bench_own_columns[own]))
                return gdni_fail(GDN_STATUS_BAD_FILE,
                                 "%s: expected rows to measure, found the column %s of results",
                                 r->o->rows, bench_own_columns[own]);
    if (r->o->save && bench_table_column(&r->table, "saved") >= 0)
        return gdni_fail(GDN_STATUS_INVALID_ARGUMENT,
                         "bench: --save: the rows of %s say themselves what is saved", r->o->rows);
    r->chosen = calloc((size_t)r->table.count, 1);
    r->results = calloc((size_t)r->table.count, sizeof(*r->results));
    if (!r->chosen || !r->results)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "bench: out of memory");
    for (int64_t i = 0; i < r->table.count; ++i) {
        bench_result *result = &r->results[i];
        result->ms = result->cold_ms = result->uncut_ms = result->min_ms = result->max_ms = NAN;
        r->chosen[i] = !r->o->filter_count;
        for (int f = 0; f < r->o->filter_count; ++f)
            r->chosen[i] |= (char)bench_row_matches(&r->table.rows[i], &r->table, r->o->filters[f]);
        r->chosen_count += r->chosen[i];
    }
    if (!r->chosen_count)
        return gdni_fail(GDN_STATUS_INVALID_ARGUMENT, "bench: --filter: no row of %s matches",
                         r->o->rows);
    return GDN_STATUS_OK;
}

/* Writes the rows whose checks are done, in order. */
static gdn_status write_done(run *r, int wait) {
    for (; r->written < r->measured; ++r->written) {
        const int64_t i = r->written;
        bench_result *result = &r->results[i];
        char name[160];
        if (!r->chosen[i])
            continue;
        if (!bench_checks_done(r->checks, result, wait))
            return GDN_STATUS_OK;
        bench_row_name(&r->table.rows[i], name, sizeof(name));
        if (result->failed)
            printf("%s%s: FAIL, %s\n", isatty(1) ? "\r\033[K" : "", name, result->worst);
        else if (r->o->verbose)
            printf("%s: worst %s\n", name, result->worst);
        GDN_TRY(bench_output_row(&r->output, &r->table, &r->table.rows[i], result));
    }
    return GDN_STATUS_OK;
}

/* A line that is updated in place on a terminal, plain lines elsewhere. */
static void progress(const run *r, int64_t row, int64_t done) {
    const bench_result *result = &r->results[row];
    const double passed = gdni_seconds() - r->started;
    const long left = lround(passed / (double)done * (double)(r->chosen_count - done));
    char name[160];
    bench_row_name(&r->table.rows[row], name, sizeof(name));
    printf("%srow %lld/%lld  %s  %.3f ms  ETA %ld:%02ld%s", isatty(1) ? "\r\033[K" : "",
           (long long)done, (long long)r->chosen_count, name, result->ms, left / 60, left % 60,
           isatty(1) ? "" : "\n");
    fflush(stdout);
}

static gdn_status measure_rows(run *r, const bench_machine *machine) {
    int64_t done = 0;
    GDN_TRY(
        bench_output_open(&r->output, r->o, machine, &r->table, r->chosen_count == r->table.count));
    printf("%s, driver %s, %lld rows into %s\n", machine->gpu, machine->driver,
           (long long)r->chosen_count, r->output.path);
    r->started = gdni_seconds();
    for (int64_t i = 0; i < r->table.count; ++i) {
        if (r->chosen[i]) {
            GDN_TRY(bench_measure(r->device, &r->table.rows[i], &r->results[i], r->checks));
            progress(r, i, ++done);
        }
        r->measured = i + 1;
        GDN_TRY(write_done(r, 0));
    }
    GDN_TRY(write_done(r, 1));
    printf("%s%lld rows in %.0f s\n\n", isatty(1) ? "\r\033[K" : "", (long long)done,
           gdni_seconds() - r->started);
    return bench_output_close(&r->output);
}

static int finish(const run *r) {
    int64_t failed = 0;
    double *ms = malloc(sizeof(*ms) * (size_t)r->table.count);
    if (!ms)
        return CLI_FAILED;
    for (int64_t i = 0; i < r->table.count; ++i) {
        ms[i] = r->results[i].failed ? NAN : r->results[i].ms;
        failed += r->results[i].failed;
    }
    bench_summary(stdout, &r->table, ms);
    free(ms);
    printf("\nbench: %s, %lld of %lld rows fail their check; %s\n", failed ? "FAIL" : "PASS",
           (long long)failed, (long long)r->chosen_count, r->output.path);
    return failed ? CLI_CHECK_FAILED : CLI_OK;
}

static int run_rows(const bench_options *o) {
    run r = {.o = o};
    bench_machine machine;
    gdn_status status = bench_table_read(&r.table, o->rows);
    if (status == GDN_STATUS_OK)
        status = choose(&r);
    if (status == GDN_STATUS_OK)
        status = bench_device_open(&r.device, o, &machine);
    if (status == GDN_STATUS_OK)
        status = bench_checks_open(&r.checks, o->threads, o->verbose);
    if (status == GDN_STATUS_OK)
        status = measure_rows(&r, &machine);
    int code = status == GDN_STATUS_OK ? CLI_OK : cli_report(status);
    status = bench_checks_close(r.checks);
    if (code == CLI_OK)
        code = status == GDN_STATUS_OK ? finish(&r) : cli_report(status);
    bench_device_close(r.device);
    status = bench_output_close(&r.output);
    if (code == CLI_OK && status != GDN_STATUS_OK)
        code = cli_report(status);
    free(r.results);
    free(r.chosen);
    bench_table_free(&r.table);
    return code;
}

/* ---- The other modes ---- */

static int run_summary(const char *path) {
    bench_table table;
    CLI_TRY(bench_table_read(&table, path));
    const int column = bench_table_column(&table, "libgdn_ms");
    double *ms = malloc(sizeof(*ms) * (size_t)table.count);
    int code = CLI_OK;
    if (column < 0)
        code = cli_report(
            gdni_fail(GDN_STATUS_BAD_FILE, "%s: expected a column libgdn_ms, found none", path));
    else if (!ms)
        code = CLI_FAILED;
    for (int64_t i = 0; code == CLI_OK && i < table.count; ++i)
        ms[i] = bench_table_number(&table.rows[i], column);
    if (code == CLI_OK)
        bench_summary(stdout, &table, ms);
    free(ms);
    bench_table_free(&table);
    return code;
}

static int run_memory(const bench_options *o) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context;
    config.backend = o->backend;
    config.device = o->device;
    CLI_TRY(gdn_context_create(&context, &config));
    const gdn_status status = bench_memory(context, (int32_t)o->heads[0], (int32_t)o->heads[1]);
    gdn_context_destroy(context);
    return status == GDN_STATUS_OK ? CLI_OK : cli_report(status);
}

int cli_bench_rows(int argc, char **argv) {
    bench_options o;
    const int code = bench_parse(argc, argv, &o);
    if (code != CLI_GO_ON)
        return code;
    return o.memory ? run_memory(&o) : o.summary ? run_summary(o.summary) : run_rows(&o);
}
