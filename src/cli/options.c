#include "options.h"
#include "ranks.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_HELP = 'h',
    OPT_OUTPUT = 'o',
    OPT_BACKEND = 256,
    OPT_EXACT,
    OPT_DTYPE,
    OPT_TOLERANCE,
    OPT_DIRECTIONS,
    OPT_SEED,
    OPT_RESULT,
    OPT_ALL,
    OPT_RANKS,
    OPT_MULTIPROCESSORS
};

static const struct {
    unsigned mask;
    struct option option;
} all_options[] = {
    {0, {"help", no_argument, NULL, OPT_HELP}},
    {CLI_OPT_OUTPUT, {"output", required_argument, NULL, OPT_OUTPUT}},
    {CLI_OPT_BACKEND, {"backend", required_argument, NULL, OPT_BACKEND}},
    {CLI_OPT_BACKEND, {"exact", no_argument, NULL, OPT_EXACT}},
    {CLI_OPT_DTYPE, {"dtype", required_argument, NULL, OPT_DTYPE}},
    {CLI_OPT_TOLERANCE, {"tol", required_argument, NULL, OPT_TOLERANCE}},
    {CLI_OPT_CHECK, {"directions", required_argument, NULL, OPT_DIRECTIONS}},
    {CLI_OPT_CHECK, {"seed", required_argument, NULL, OPT_SEED}},
    {CLI_OPT_CHECK, {"result", required_argument, NULL, OPT_RESULT}},
    {CLI_OPT_ALL, {"all", no_argument, NULL, OPT_ALL}},
    {CLI_OPT_RANKS, {"ranks", required_argument, NULL, OPT_RANKS}},
    {CLI_OPT_CARD, {"multiprocessors", required_argument, NULL, OPT_MULTIPROCESSORS}},
};
enum {
    N_OPTIONS = sizeof(all_options) / sizeof(all_options[0])
};

static int parse_backend(cli_options *o, const char *text) {
    for (int b = GDN_BACKEND_REFERENCE; b <= GDN_BACKEND_CUDA; ++b)
        if (!strcmp(text, gdn_backend_name((gdn_backend)b))) {
            o->backend = (gdn_backend)b;
            return CLI_GO_ON;
        }
    return cli_usage(o->command, "--backend: expected reference, cpu or cuda, found '%s'", text);
}

static int parse_dtype(cli_options *o, const char *text) {
    for (int d = GDN_DTYPE_FP32; d <= GDN_DTYPE_FP64; ++d)
        if (!strcmp(text, gdn_dtype_name((gdn_dtype)d))) {
            o->dtype = (gdn_dtype)d;
            o->dtype_given = 1;
            return CLI_GO_ON;
        }
    return cli_usage(o->command, "--dtype: expected fp64, fp32, bf16 or fp16, found '%s'", text);
}

static int parse_count(const cli_options *o, const char *option, const char *text, uint64_t least,
                       uint64_t most, uint64_t *out) {
    char *end;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || value < least || value > most)
        return cli_usage(o->command, "%s: expected an integer from %llu to %llu, found '%s'",
                         option, (unsigned long long)least, (unsigned long long)most, text);
    *out = value;
    return CLI_GO_ON;
}

static int parse_tolerance(cli_options *o, const char *text) {
    const char *equals = strchr(text, '=');
    cli_tolerance *t = &o->tolerance[o->tolerances];
    char *end;
    if (!equals || equals == text || (size_t)(equals - text) >= sizeof(t->name))
        return cli_usage(o->command, "--tol: expected NAME=NUMBER such as dg=1e-3, found '%s'",
                         text);
    t->value = strtod(equals + 1, &end);
    if (end == equals + 1 || *end || !(t->value > 0) || !isfinite(t->value))
        return cli_usage(o->command, "--tol: expected a positive number after '=', found '%s'",
                         text);
    if (o->tolerances == CLI_MAX_TOLERANCES - 1)
        return cli_usage(o->command, "--tol: expected at most %d of them, found more",
                         CLI_MAX_TOLERANCES - 1);
    memcpy(t->name, text, (size_t)(equals - text));
    ++o->tolerances;
    return CLI_GO_ON;
}

static int parse_option(cli_options *o, int option, const char *text) {
    uint64_t count = 0;
    int code = CLI_GO_ON;
    switch (option) {
    case OPT_OUTPUT:
        o->output = text;
        return *text ? CLI_GO_ON : cli_usage(o->command, "-o: expected a file, found ''");
    case OPT_BACKEND:
        return parse_backend(o, text);
    case OPT_EXACT:
        o->exact = 1;
        return CLI_GO_ON;
    case OPT_DTYPE:
        return parse_dtype(o, text);
    case OPT_TOLERANCE:
        return parse_tolerance(o, text);
    case OPT_DIRECTIONS:
        code = parse_count(o, "--directions", text, 0, 1000, &count);
        if (code == CLI_GO_ON)
            o->directions = (int32_t)count;
        return code;
    case OPT_SEED:
        return parse_count(o, "--seed", text, 0, UINT64_MAX, &o->seed);
    case OPT_RESULT:
        o->result = text;
        return CLI_GO_ON;
    case OPT_RANKS:
        code = parse_count(o, "--ranks", text, 1, 65536, &count);
        o->ranks = (int32_t)count;
        return code;
    case OPT_MULTIPROCESSORS:
        code = parse_count(o, "--multiprocessors", text, 1, 65536, &count);
        o->multiprocessors = (int32_t)count;
        return code;
    default: /* OPT_ALL */
        o->all = 1;
        return CLI_GO_ON;
    }
}

int cli_parse(const cli_syntax *syntax, int argc, char **argv, cli_options *o) {
    struct option accepted[N_OPTIONS + 1] = {{NULL, 0, NULL, 0}};
    int n = 0, option, index;
    for (int i = 0; i < N_OPTIONS; ++i)
        if (!all_options[i].mask || (all_options[i].mask & syntax->options))
            accepted[n++] = all_options[i].option;
    memset(o, 0, sizeof(*o));
    o->command = syntax->command;
    o->directions = 2;
    o->seed = 1;
    opterr = 0;
    const char *letters = syntax->options & CLI_OPT_OUTPUT ? ":ho:" : ":h";
    while ((option = getopt_long(argc, argv, letters, accepted, &index)) != -1) {
        if (option == OPT_HELP) {
            fputs(syntax->help, stdout);
            return CLI_OK;
        }
        if (option == ':')
            return cli_usage(o->command, "%s: expected a value, found nothing", argv[optind - 1]);
        if (option == '?' && optopt > 255)
            return cli_usage(o->command, "%s: expected no value", argv[optind - 1]);
        if (option == '?' && optopt)
            return cli_usage(o->command, "unknown option '-%c'", optopt);
        if (option == '?')
            return cli_usage(o->command, "unknown option '%s'", argv[optind - 1]);
        const int code = parse_option(o, option, optarg);
        if (code != CLI_GO_ON)
            return code;
    }
    for (int i = 0; i < 2 && syntax->operands[i]; ++i, ++optind) {
        if (optind >= argc)
            return cli_usage(o->command, "expected %s, found nothing", syntax->operands[i]);
        o->path[i] = argv[optind];
    }
    if (optind < argc)
        return cli_usage(o->command, "unexpected argument '%s'", argv[optind]);
    return CLI_GO_ON;
}

int cli_open_context(cli_options *o, gdn_io_kind kind, gdn_context **context) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    config.backend = o->backend;
    if (config.backend == GDN_BACKEND_AUTO && kind != GDN_IO_CASE)
        config.backend = GDN_BACKEND_CPU; /* takes layers of any shape */
    if (config.backend == GDN_BACKEND_CUDA || config.backend == GDN_BACKEND_AUTO) {
        const int32_t devices = gdn_device_count();
        config.device = devices ? cli_rank(o->dist) % devices : 0;
    }
    CLI_TRY(gdn_context_create(context, &config));
    const gdn_backend backend = gdn_context_backend(*context);
    if (!o->dtype_given)
        o->dtype = backend == GDN_BACKEND_CUDA  ? GDN_DTYPE_BF16
                   : backend == GDN_BACKEND_CPU ? GDN_DTYPE_FP32
                                                : GDN_DTYPE_FP64;
    if ((backend == GDN_BACKEND_REFERENCE) != (o->dtype == GDN_DTYPE_FP64)) {
        const int code = cli_usage(o->command, "--dtype: expected %s on the %s backend, found %s",
                                   backend == GDN_BACKEND_REFERENCE ? "fp64" : "fp32, bf16 or fp16",
                                   gdn_backend_name(backend), gdn_dtype_name(o->dtype));
        gdn_context_destroy(*context);
        *context = NULL;
        return code;
    }
    return CLI_GO_ON;
}

/* The file's kind has to be one of two. */
static int expect_kind(const cli_options *o, const char *path, gdn_io_kind operator_kind,
                       gdn_io_kind layer_kind, const char *expected, gdn_io_kind *kind) {
    const gdn_status status = gdn_io_file_kind(path, kind);
    if (status != GDN_STATUS_OK)
        return cli_report_file(o->command, path, status);
    if (*kind == operator_kind || *kind == layer_kind)
        return CLI_GO_ON;
    fprintf(cli_messages(), "gdn %s: %s: expected %s, found another kind of file\n", o->command,
            path, expected);
    return CLI_BAD_INPUT;
}

int cli_case_kind(const cli_options *o, gdn_io_kind *kind) {
    gdn_io_kind result;
    int code = expect_kind(o, o->path[0], GDN_IO_CASE, GDN_IO_LAYER_CASE,
                           "an operator or layer case", kind);
    if (code != CLI_GO_ON || !o->result)
        return code;
    return *kind == GDN_IO_CASE
               ? expect_kind(o, o->result, GDN_IO_RESULT, GDN_IO_RESULT,
                             "an operator result, as the case", &result)
               : expect_kind(o, o->result, GDN_IO_LAYER_RESULT, GDN_IO_LAYER_RESULT,
                             "a layer result, as the case", &result);
}

int cli_report_file(const char *command, const char *path, gdn_status status) {
    const char *line = gdn_last_error();
    if (!*line)
        line = gdn_status_string(status);
    if (strstr(line, path))
        fprintf(cli_messages(), "gdn %s: %s\n", command, line);
    else
        fprintf(cli_messages(), "gdn %s: %s: %s\n", command, path, line);
    return cli_exit_code(status);
}
