#include "cli.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Each subcommand's function is declared beside its row. */
int cli_run(int argc, char **argv);
int cli_compare(int argc, char **argv);
int cli_gradcheck(int argc, char **argv);
int cli_plan(int argc, char **argv);
int cli_data(int argc, char **argv);
int cli_train(int argc, char **argv);
int cli_plot(int argc, char **argv);
int cli_import(int argc, char **argv);
int cli_export(int argc, char **argv);
int cli_bench(int argc, char **argv);
int cli_info(int argc, char **argv);

static const cli_command commands[] = {
    {"run", "run a case file forward and backward", cli_run},
    {"compare", "compare a result with a reference", cli_compare},
    {"gradcheck", "check gradients against float64 and finite differences", cli_gradcheck},
    {"plan", "print what ranks would exchange for a case, and why", cli_plan},
    {"data", "turn a text into a dataset of tokens", cli_data},
    {"train", "train a language model of GDN layers", cli_train},
    {"plot", "draw loss curves or gradient checks as SVG", cli_plot},
    {"import", "turn layers of a Hugging Face model into a checkpoint", cli_import},
    {"export", "write the layers of a checkpoint as safetensors", cli_export},
    {"bench", "time the operator, and check what was timed", cli_bench},
    {"info", "what this build contains and this machine has", cli_info},
    {NULL, NULL, NULL},
};

int cli_exit_code(gdn_status status) {
    switch (status) {
    case GDN_STATUS_OK:
        return CLI_OK;
    case GDN_STATUS_CHECK_FAILED:
        return CLI_CHECK_FAILED;
    case GDN_STATUS_INVALID_ARGUMENT:
    case GDN_STATUS_UNSUPPORTED:
    case GDN_STATUS_BAD_DATA:
    case GDN_STATUS_BAD_FILE:
        return CLI_BAD_INPUT;
    case GDN_STATUS_NO_BACKEND:
        return CLI_NO_BACKEND;
    default:
        return CLI_FAILED;
    }
}

static FILE *kept_messages;

FILE *cli_messages(void) {
    return kept_messages ? kept_messages : stderr;
}

void cli_keep_messages(FILE *stream) {
    kept_messages = stream;
}

int cli_report(gdn_status status) {
    const char *line = gdn_last_error();
    fprintf(cli_messages(), "gdn: %s\n", *line ? line : gdn_status_string(status));
    return cli_exit_code(status);
}

int cli_usage(const char *command, const char *format, ...) {
    va_list args;
    fprintf(cli_messages(), "gdn %s: ", command);
    va_start(args, format);
    vfprintf(cli_messages(), format, args);
    va_end(args);
    fprintf(cli_messages(), " (see gdn %s --help)\n", command);
    return CLI_BAD_INPUT;
}

static void print_help(void) {
    printf("gdn %s: training with Gated DeltaNet\n\nusage: gdn COMMAND [ARGUMENTS]\n\n",
           GDN_VERSION_STRING);
    for (const cli_command *c = commands; c->name; ++c)
        printf("  %-10s %s\n", c->name, c->summary);
    printf("\ngdn COMMAND --help explains a command and gives an example.\n");
}

int main(int argc, char **argv) {
    /* A file beyond the size limit is an error like a full disk, not a death. */
    signal(SIGXFSZ, SIG_IGN);
    if (argc < 2) {
        fprintf(cli_messages(), "gdn: expected a command (see gdn --help)\n");
        return CLI_BAD_INPUT;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        print_help();
        return CLI_OK;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("gdn %s\n", GDN_VERSION_STRING);
        return CLI_OK;
    }
    for (const cli_command *c = commands; c->name; ++c)
        if (!strcmp(argv[1], c->name))
            return c->run(argc - 1, argv + 1);
    fprintf(cli_messages(), "gdn: unknown command '%s' (see gdn --help)\n", argv[1]);
    return CLI_BAD_INPUT;
}
