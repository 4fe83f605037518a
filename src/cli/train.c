/* gdn train: a language model of GDN layers on a dataset of `gdn data`. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "trainer.h"

int cli_train(int argc, char **argv);

static volatile sig_atomic_t interrupted;

/* A second signal ends the process at once. */
static void on_signal(int number) {
    interrupted = 1;
    signal(number, SIG_DFL);
}

static void print_help(void) {
    size_t count;
    const gdni_key *keys = gdni_config_keys(&count);
    const char *section = "";
    printf(
        "usage: gdn train --data DATA.h5 --out DIR [--config RUN.ini] [OPTIONS]\n\n"
        "Trains a byte- or BPE-level language model. DIR gets checkpoints (step-....h5), log.txt\n"
        "and log.h5 (see gdn plot). Ctrl-C or SIGTERM finishes the step, writes a checkpoint and\n"
        "exits with 0; a loss that is not finite ends the run with exit code 4.\n\n"
        "  %-20s configuration file; options given here go before it\n"
        "  %-20s continue from the newest checkpoint of DIR, if it has one: give\n"
        "  %-20s the same command again. Bitwise as if never stopped, with the\n"
        "  %-20s same number of threads\n"
        "  %-20s new run from the weights and AdamW state of a checkpoint, or of\n"
        "  %-20s a folder's newest, on new data, with a schedule of its own\n"
        "  %-20s stop after step N of the schedule, as Ctrl-C would\n",
        "--config RUN.ini", "--resume", "", "", "--init-from PATH", "", "--stop-at N");
    for (size_t i = 0; i < count; ++i) {
        if (strcmp(section, keys[i].section))
            printf("\n[%s]\n", keys[i].section);
        section = keys[i].section;
        printf("  %-20s %s = %.6g: %s\n", keys[i].flag, keys[i].name, keys[i].standard,
               keys[i].help);
    }
    printf("\nexample:\n"
           "  gdn data book.txt -o book.h5\n"
           "  gdn train --data book.h5 --out run --steps 500 --context 128 --sample 200\n"
           "  gdn train --data book.h5 --out long --init-from run --context 1024 --steps 100\n");
}

static const gdni_key *find_key(const char *flag) {
    size_t count;
    const gdni_key *keys = gdni_config_keys(&count);
    for (size_t i = 0; i < count; ++i)
        if (!strcmp(flag, keys[i].flag))
            return &keys[i];
    return NULL;
}

/* A path option: 1 if argv[i] is it, with its value in *value. */
static int is_path(const char *flag, const char *argument, char *next, const char **value) {
    if (strcmp(flag, argument))
        return 0;
    *value = next;
    return 1;
}

static int parse(int argc, char **argv, gdni_run *run) {
    const char *config = NULL;
    for (int i = 1; i + 1 < argc; ++i)
        is_path("--config", argv[i], argv[i + 1], &config);
    gdni_config_defaults(&run->config);
    if (config)
        CLI_TRY(gdni_config_read(&run->config, config));
    for (int i = 1; i < argc; ++i) {
        const gdni_key *key = find_key(argv[i]);
        char *next = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(argv[i], "--resume")) {
            run->resume = 1;
            continue;
        }
        const int stop = !strcmp(argv[i], "--stop-at");
        if (!key && !stop && !is_path("--config", argv[i], next, &config) &&
            !is_path("--data", argv[i], next, &run->data) &&
            !is_path("--out", argv[i], next, &run->out) &&
            !is_path("--init-from", argv[i], next, &run->init_from))
            return cli_usage("train", "unknown option '%s'", argv[i]);
        if (!next)
            return cli_usage("train", "%s: expected a value, found nothing", argv[i]);
        if (key)
            CLI_TRY(gdni_config_set(&run->config, key, next, argv[i]));
        if (stop) {
            char *end;
            run->stop_at = strtoll(next, &end, 10);
            if (*end || run->stop_at < 1)
                return cli_usage("train", "--stop-at: expected a step from 1, found '%s'", next);
        }
        ++i;
    }
    if (!run->data)
        return cli_usage("train", "--data: expected a dataset, found nothing");
    if (!run->out)
        return cli_usage("train", "--out: expected a folder, found nothing");
    return CLI_OK;
}

int cli_train(int argc, char **argv) {
    gdni_run run = {.interrupted = &interrupted, .screen = stdout};
    if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        print_help();
        return CLI_OK;
    }
    const int bad = parse(argc, argv, &run);
    if (bad)
        return bad;
    run.terminal = isatty(STDOUT_FILENO);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    CLI_TRY(gdni_train(&run));
    return CLI_OK;
}
