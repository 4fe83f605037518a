/* gdn train: a language model of GDN layers on a dataset of `gdn data`. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ranks.h"
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
    gdni_config defaults;
    char value[40];
    const gdni_key *keys = gdni_config_keys(&count);
    const char *section = "";
    printf(
        "usage: gdn train --data DATA.h5 --out DIR [--config RUN.ini] [OPTIONS]\n\n"
        "Trains a byte- or BPE-level language model. DIR gets checkpoints (step-....h5), log.txt\n"
        "and log.h5 (see gdn plot). Ctrl-C or SIGTERM finishes the step, writes a checkpoint and\n"
        "exits with 0; a loss that is not finite ends the run with exit code 4.\n\n"
        "Under mpirun -n P the ranks share every sequence by tokens, for P times the context, or\n"
        "are groups of --sequence-ranks that do, which share the batch by sequences. A batch is\n"
        "--batch-tokens in all, the same for any P; losses differ by rounding. Rank 0 writes. "
        "DATA\n"
        "and DIR have to be there on every host. A failure of one rank ends all.\n\n"
        "On cuda all of the model is on the GPU: in bf16 unless --dtype says fp32, with "
        "parameters,\n"
        "gradients and AdamW in fp32. Checkpoints are the same: --resume may change backend and\n"
        "dtype. Without a GPU, --backend cuda exits with 3. Ranks of one machine take its GPUs in\n"
        "turn; messages go over NCCL where it is here and each rank has a GPU of its own,\n"
        "otherwise through the host. Memory is for --recompute to save: see README.md.\n\n"
        "  %-20s configuration file; options given here go before it\n"
        "  %-20s continue from the newest checkpoint of DIR, if it has one: give\n"
        "  %-20s the same command again. Bitwise as if never stopped, with the\n"
        "  %-20s same number of threads and the same backend\n"
        "  %-20s new run from the weights and AdamW state of a checkpoint, or of\n"
        "  %-20s a folder's newest, on new data, with a schedule of its own; or\n"
        "  %-20s from the layers that gdn import has read\n"
        "  %-20s stop after step N of the schedule, as Ctrl-C would\n"
        "  %-20s under mpirun: a rank silent for so long ends the job [30]\n",
        "--config RUN.ini", "--resume", "", "", "--init-from PATH", "", "", "--stop-at N",
        "--deadline SECONDS");
    gdni_config_defaults(&defaults);
    for (size_t i = 0; i < count; ++i) {
        if (strcmp(section, keys[i].section))
            printf("\n[%s]\n", keys[i].section);
        section = keys[i].section;
        gdni_config_value(&defaults, &keys[i], value, sizeof(value));
        printf("  %-20s %s = %s: %s\n", keys[i].flag, keys[i].name, value, keys[i].help);
    }
    printf("\nexample:\n"
           "  gdn data book.txt -o book.h5\n"
           "  gdn train --data book.h5 --out run --steps 500 --context 128 --sample 200\n"
           "  gdn train --data book.h5 --out long --init-from run --context 1024 --steps 100\n"
           "  mpirun -n 2 gdn train --data book.h5 --out wide --context 4096 --batch-tokens 4096 "
           "--threads 1\n");
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

static int parse_step(const char *text, int64_t *step) {
    char *end;
    *step = strtoll(text, &end, 10);
    if (*end || *step < 1)
        return cli_usage("train", "--stop-at: expected a step from 1, found '%s'", text);
    return CLI_OK;
}

static int parse_deadline(const char *text, double *deadline) {
    char *end;
    *deadline = strtod(text, &end);
    if (end == text || *end || !(*deadline >= 0.5 && *deadline <= 3600.0))
        return cli_usage("train", "--deadline: expected seconds from 0.5 to 3600, found '%s'",
                         text);
    return CLI_OK;
}

static int parse(int argc, char **argv, gdni_run *run, double *deadline) {
    int bad = CLI_OK;
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
        const int limit = !strcmp(argv[i], "--deadline");
        if (!key && !stop && !limit && !is_path("--config", argv[i], next, &config) &&
            !is_path("--data", argv[i], next, &run->data) &&
            !is_path("--out", argv[i], next, &run->out) &&
            !is_path("--init-from", argv[i], next, &run->init_from))
            return cli_usage("train", "unknown option '%s'", argv[i]);
        if (!next)
            return cli_usage("train", "%s: expected a value, found nothing", argv[i]);
        if (key)
            CLI_TRY(gdni_config_set(&run->config, key, next, argv[i]));
        if (stop)
            bad = parse_step(next, &run->stop_at);
        else if (limit)
            bad = parse_deadline(next, deadline);
        if (bad)
            return bad;
        ++i;
    }
    if (!run->data)
        return cli_usage("train", "--data: expected a dataset, found nothing");
    if (!run->out)
        return cli_usage("train", "--out: expected a folder, found nothing");
    return CLI_OK;
}

static int wants_help(int argc, char **argv) {
    return argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"));
}

static int set_up_ranks(int argc, char **argv, cli_rank_settings *settings) {
    gdni_run run = {0};
    if (wants_help(argc, argv))
        return CLI_OK;
    const int bad = parse(argc, argv, &run, &settings->deadline);
    settings->sequence_ranks = (int32_t)run.config.sequence_ranks;
    return bad;
}

static int train(int argc, char **argv, gdn_dist *dist) {
    gdni_run run = {.interrupted = &interrupted, .screen = stdout};
    gdni_ranks ranks;
    double deadline;
    if (wants_help(argc, argv)) {
        print_help();
        return CLI_OK;
    }
    const int bad = parse(argc, argv, &run, &deadline);
    if (bad)
        return bad;
    if (!dist && run.config.sequence_ranks > 1)
        return cli_usage("train", "--sequence-ranks: expected at most 1 without mpirun, found %lld",
                         (long long)run.config.sequence_ranks);
    if (cli_ranks(dist) > 1) {
        CLI_TRY(gdni_ranks_open(&ranks, dist));
        run.ranks = &ranks;
    }
    if (cli_rank(dist) > 0)
        run.screen = NULL;
    run.terminal = !dist && isatty(STDOUT_FILENO); /* mpirun gives ranks one, whatever its own is */
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    CLI_TRY(gdni_train(&run));
    if (run.ranks)
        gdni_ranks_close(run.ranks);
    return CLI_OK;
}

int cli_train(int argc, char **argv) {
    return cli_over_ranks("train", set_up_ranks, train, argc, argv);
}
