/* The gdn command: one file a subcommand, exit codes as documented in io/README.md. */
#ifndef GDN_CLI_H
#define GDN_CLI_H

#include <stdio.h>

#include "gdn.h"

enum {
    CLI_OK = 0,
    CLI_CHECK_FAILED = 1,
    CLI_BAD_INPUT = 2,  /* usage, files, problems that are not supported */
    CLI_NO_BACKEND = 3, /* backend not built or no device */
    CLI_FAILED = 4
};

/* Exit code of a status. */
int cli_exit_code(gdn_status status);

/*
 * Where a command's messages go: stderr, or the stream that keeps them (NULL: stderr again).
 * `stderr` itself stays what it is: a library that is loaded meanwhile, such as cuBLASLt, may keep
 * it and flush it as the process exits.
 */
FILE *cli_messages(void);
void cli_keep_messages(FILE *stream);

/* Prints "gdn: <gdn_last_error()>" there and returns the status's exit code. */
int cli_report(gdn_status status);

/* Prints "gdn <command>: <formatted line>" there and returns CLI_BAD_INPUT. */
__attribute__((format(printf, 2, 3))) int cli_usage(const char *command, const char *format, ...);

#define CLI_TRY(call)                                                                              \
    do {                                                                                           \
        gdn_status cli_status_ = (call);                                                           \
        if (cli_status_ != GDN_STATUS_OK)                                                          \
            return cli_report(cli_status_);                                                        \
    } while (0)

/* Subcommands: argv[0] is the subcommand's name. */
typedef struct cli_command {
    const char *name;
    const char *summary;
    int (*run)(int argc, char **argv);
} cli_command;

#endif /* GDN_CLI_H */
