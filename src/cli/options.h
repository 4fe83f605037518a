/* Options that run, compare and gradcheck share. */
#ifndef GDN_CLI_OPTIONS_H
#define GDN_CLI_OPTIONS_H

#include "cli.h"
#include "gdn_io.h"
#include "ranks.h"

enum {
    CLI_OPT_OUTPUT = 1 << 0,
    CLI_OPT_BACKEND = 1 << 1, /* --backend, --exact */
    CLI_OPT_DTYPE = 1 << 2,
    CLI_OPT_TOLERANCE = 1 << 3,
    CLI_OPT_CHECK = 1 << 4, /* --directions, --seed, --result */
    CLI_OPT_ALL = 1 << 5,
    CLI_OPT_RANKS = 1 << 6,
    CLI_OPT_CARD = 1 << 7, /* --multiprocessors */
    CLI_MAX_TOLERANCES = 32
};

/* --tol NAME=VALUE */
typedef struct cli_tolerance {
    char name[32];
    double value;
} cli_tolerance;

typedef struct cli_options {
    const char *command;
    const char *path[2]; /* the positional arguments */
    const char *output;  /* NULL: not given */
    gdn_backend backend; /* AUTO: not given */
    int exact;
    int dtype_given;
    gdn_dtype dtype;
    int32_t directions;
    uint64_t seed;
    const char *result;
    int all;
    int32_t ranks, multiprocessors; /* 0: not given */
    gdn_dist *dist;                 /* NULL: alone; not parsed */
    int tolerances;
    cli_tolerance tolerance[CLI_MAX_TOLERANCES];
} cli_options;

/* What a command takes. */
typedef struct cli_syntax {
    const char *command;
    unsigned options;        /* CLI_OPT_... */
    const char *operands[2]; /* names of the positional arguments; NULL: none */
    const char *help;
} cli_syntax;

enum {
    CLI_GO_ON = -1
};

/* CLI_GO_ON, or the code to exit with: after --help, or with one line on stderr. */
int cli_parse(const cli_syntax *syntax, int argc, char **argv, cli_options *options);

/* Opens the backend for a case of that kind and settles the dtype: bf16 on cuda, fp32 on cpu, fp64
 * on reference, which takes no other. CLI_GO_ON or an exit code. */
int cli_open_context(cli_options *options, gdn_io_kind kind, gdn_context **context);

/* Whether path[0] is an operator or a layer case, and result, if given, one of the same kind.
 * CLI_GO_ON or an exit code. */
int cli_case_kind(const cli_options *options, gdn_io_kind *kind);

/* Prints "gdn COMMAND: PATH: <gdn_last_error()>", the path only if the line does not have it, and
 * returns the status's exit code. */
int cli_report_file(const char *command, const char *path, gdn_status status);

#endif /* GDN_CLI_OPTIONS_H */
