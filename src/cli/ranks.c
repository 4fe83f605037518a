#include "ranks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gdn_dist.h"

/* Ranks may be busy with a large case for as long as they answer. */
static const double PATIENCE = 86400.0;

int32_t cli_rank(gdn_dist *dist) {
    return dist ? gdn_dist_rank(dist, GDN_DIST_WORLD) : 0;
}

int32_t cli_nccl_version(void) {
    return gdn_dist_nccl_version();
}

int32_t cli_ranks(gdn_dist *dist) {
    return dist ? gdn_dist_ranks(dist, GDN_DIST_WORLD) : 1;
}

/* The first line of what a command printed, without "gdn " or "gdn: ". */
static char *first_line(char *text) {
    text[strcspn(text, "\n")] = '\0';
    if (!strncmp(text, "gdn: ", 5))
        return text + 5;
    return strncmp(text, "gdn ", 4) ? text : text + 4;
}

/* The messages between begin and end, kept in text. */
typedef struct capture {
    FILE *stream;
    char *text;
    size_t size;
} capture;

static int begin_capture(capture *c) {
    *c = (capture){0};
    c->stream = open_memstream(&c->text, &c->size);
    if (c->stream)
        cli_keep_messages(c->stream);
    return c->stream != NULL;
}

static void end_capture(capture *c) {
    cli_keep_messages(NULL);
    fclose(c->stream);
}

static int run_rank(cli_ranked run, int argc, char **argv, gdn_dist *dist) {
    capture c;
    if (!begin_capture(&c) || (cli_rank(dist) > 0 && !freopen("/dev/null", "w", stdout)))
        gdn_dist_abort(dist, CLI_FAILED, "no memory for messages, or no /dev/null");
    const int code = run(argc, argv, dist);
    end_capture(&c);
    if (code != CLI_OK && *c.text)
        gdn_dist_abort(dist, code, first_line(c.text));
    if (cli_rank(dist) == 0)
        fputs(c.text, stderr);
    free(c.text);
    return code;
}

static int create(gdn_dist **dist, const cli_rank_settings *settings) {
    gdn_dist_config config = GDN_DIST_CONFIG_INIT;
    config.sequence_ranks = settings->sequence_ranks;
    config.deadline = settings->deadline;
    config.wait_limit = PATIENCE;
    const gdn_status status = gdn_dist_create(dist, &config);
    if (status != GDN_STATUS_OK && *dist)
        gdn_dist_abort(*dist, cli_exit_code(status), NULL);
    return status == GDN_STATUS_OK ? CLI_OK : cli_report(status);
}

int cli_over_ranks(const char *command, cli_rank_setup setup, cli_ranked run, int argc,
                   char **argv) {
    cli_rank_settings settings = {0, 0.0};
    gdn_dist *dist = NULL;
    char note[64];
    int32_t started = 0;
    int code = CLI_OK;
    capture c = {0};
    if (setup && begin_capture(&c)) {
        /* What is wrong with the arguments, run finds again, and all ranks can hear of it. */
        code = setup(argc, argv, &settings);
        end_capture(&c);
        free(c.text);
    }
    if (code != CLI_OK)
        settings = (cli_rank_settings){0, 0.0};
    CLI_TRY(gdn_dist_start(settings.deadline, &started));
    if (!started)
        return run(argc, argv, NULL);
    code = create(&dist, &settings);
    if (code != CLI_OK)
        return code;
    snprintf(note, sizeof(note), "gdn %s", command);
    gdn_dist_note(dist, note);
    code = run_rank(run, argc, argv, dist);
    gdn_dist_destroy(dist);
    gdn_dist_finish(settings.deadline);
    return code;
}
