/* gdn bench --rows, --summary and --memory. */
#include "bench.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../cli.h"
#include "error.h"
#include "progress.h"

int cli_bench_rows(int argc, char **argv);

enum {
    GO_ON = -1,
    MOST_FILTERS = 32
};

typedef struct command {
    bench_options o;
    const char *filters[MOST_FILTERS], *summary;
    gdn_backend backend;
    int memory, backend_given;
    int64_t heads[2];
} command;

/* ---- Options ---- */

static int parse_number(const char *option, const char *text, int64_t least, int64_t most,
                        int64_t *out) {
    char *end;
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < least || value > most)
        return cli_usage("bench", "%s: expected an integer from %lld to %lld, found '%s'", option,
                         (long long)least, (long long)most, text);
    *out = value;
    return GO_ON;
}

static int parse_heads(const char *text, int64_t heads[2]) {
    char *end;
    heads[0] = strtoll(text, &end, 10);
    heads[1] = *end == '/' ? strtoll(end + 1, &end, 10) : 0;
    if (*end || heads[0] < 1 || heads[1] < heads[0] || heads[1] > 65536 || heads[1] % heads[0])
        return cli_usage("bench", "--heads: expected Hk/Hv such as 16/32, found '%s'", text);
    return GO_ON;
}

static int parse_backend(const char *text, command *c) {
    for (int b = GDN_BACKEND_CPU; b <= GDN_BACKEND_CUDA; ++b)
        if (!strcmp(text, gdn_backend_name((gdn_backend)b))) {
            c->backend = (gdn_backend)b;
            return GO_ON;
        }
    return cli_usage("bench", "--backend: expected cuda, with --memory also cpu, found '%s'", text);
}

/* What becomes a part of a file's name. */
static int check_word(const char *option, const char *text) {
    if (!*text || strlen(text) > 60 ||
        strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRST"
                     "UVWXYZ0123456789.-_") != strlen(text))
        return cli_usage("bench", "%s: expected letters, digits, '.', '-' and '_', found '%s'",
                         option, text);
    return GO_ON;
}

static int parse_one(command *c, int option, char *text) {
    bench_options *o = &c->o;
    int64_t number = 0;
    int code = GO_ON;
    switch (option) {
    case 'R':
        o->rows = text;
        break;
    case 'S':
        c->summary = text;
        break;
    case 'M':
        c->memory = 1;
        break;
    case 'b':
        code = parse_backend(text, c);
        break;
    case 'H':
        code = parse_heads(text, c->heads);
        break;
    case 'f':
        if (o->filter_count == MOST_FILTERS)
            return cli_usage("bench", "--filter: expected at most %d", (int)MOST_FILTERS);
        c->filters[o->filter_count++] = text;
        break;
    case 'o':
        o->output = text;
        break;
    case 'l':
        o->label = text;
        code = check_word("--label", text);
        break;
    case 'c':
        o->commit = text;
        code = check_word("--commit", text);
        break;
    case 'd':
        code = parse_number("--device", text, 0, 1023, &number);
        o->device = (int32_t)number;
        break;
    case 'j':
        code = parse_number("--threads", text, 1, 64, &number);
        o->threads = (int32_t)number;
        break;
    case 'r':
        code = parse_number("--repeat", text, 1, 10000, &o->repeats);
        break;
    case 's':
        code = parse_number("--seed", text, 0, INT64_C(1) << 48, &number);
        o->seed = (uint64_t)number;
        break;
    case 'V':
        o->save = 1;
        break;
    case 'x':
        o->exact = 1;
        break;
    case 'v':
        o->verbose = 1;
        break;
    }
    return code;
}

static int parse(int argc, char **argv, command *c) {
    static const struct option known[] = {
        {"rows", required_argument, NULL, 'R'},   {"summary", required_argument, NULL, 'S'},
        {"memory", no_argument, NULL, 'M'},       {"backend", required_argument, NULL, 'b'},
        {"heads", required_argument, NULL, 'H'},  {"filter", required_argument, NULL, 'f'},
        {"label", required_argument, NULL, 'l'},  {"commit", required_argument, NULL, 'c'},
        {"device", required_argument, NULL, 'd'}, {"threads", required_argument, NULL, 'j'},
        {"repeat", required_argument, NULL, 'r'}, {"seed", required_argument, NULL, 's'},
        {"save", no_argument, NULL, 'V'},         {"exact", no_argument, NULL, 'x'},
        {"verbose", no_argument, NULL, 'v'},      {NULL, 0, NULL, 0}};
    int option, code = GO_ON;
    opterr = 0;
    while (code == GO_ON && (option = getopt_long(argc, argv, ":o:", known, NULL)) != -1) {
        if (option == ':')
            return cli_usage("bench", "%s: expected a value, found nothing", argv[optind - 1]);
        if (option == '?')
            return cli_usage("bench", "unknown option '%s' beside --rows, --summary or --memory",
                             argv[optind - 1]);
        code = parse_one(c, option, optarg);
    }
    if (code == GO_ON && optind < argc)
        return cli_usage("bench", "expected options alone, found '%s'", argv[optind]);
    if (code == GO_ON && !!c->o.rows + !!c->summary + c->memory != 1)
        return cli_usage("bench", "expected one of --rows, --summary and --memory, found several");
    if (code == GO_ON && c->o.rows && c->backend != GDN_BACKEND_CUDA)
        return cli_usage("bench", "--rows: expected --backend cuda, found %s",
                         gdn_backend_name(c->backend));
    return code;
}

/* ---- The rows ---- */

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

static int run_memory(const command *c) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context;
    config.backend = c->backend;
    config.device = c->o.device;
    CLI_TRY(gdn_context_create(&context, &config));
    const gdn_status status = bench_memory(context, (int32_t)c->heads[0], (int32_t)c->heads[1]);
    gdn_context_destroy(context);
    return status == GDN_STATUS_OK ? CLI_OK : cli_report(status);
}

int cli_bench_rows(int argc, char **argv) {
    command c = {.o = {.output = "tests/bench/results", .seed = 1},
                 .backend = GDN_BACKEND_CUDA,
                 .heads = {16, 32}};
    const int code = parse(argc, argv, &c);
    if (code != GO_ON)
        return code;
    c.o.filters = c.filters;
    return c.memory ? run_memory(&c) : c.summary ? run_summary(c.summary) : run_rows(&c.o);
}
