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

int32_t cli_ranks(gdn_dist *dist) {
    return dist ? gdn_dist_ranks(dist, GDN_DIST_WORLD) : 1;
}

/* The first line of what a command printed, without "gdn ". */
static char *first_line(char *text) {
    text[strcspn(text, "\n")] = '\0';
    return strncmp(text, "gdn ", 4) ? text : text + 4;
}

static int run_rank(cli_ranked run, int argc, char **argv, gdn_dist *dist) {
    char *text = NULL;
    size_t size = 0;
    FILE *errors = stderr, *kept = open_memstream(&text, &size);
    if (!kept || (cli_rank(dist) > 0 && !freopen("/dev/null", "w", stdout)))
        gdn_dist_abort(dist, CLI_FAILED, "no memory for messages, or no /dev/null");
    stderr = kept;
    const int code = run(argc, argv, dist);
    fclose(kept);
    stderr = errors;
    if (code != CLI_OK && *text)
        gdn_dist_abort(dist, code, first_line(text));
    if (cli_rank(dist) == 0)
        fputs(text, stderr);
    free(text);
    return code;
}

int cli_over_ranks(const char *command, cli_ranked run, int argc, char **argv) {
    gdn_dist_config config = GDN_DIST_CONFIG_INIT;
    gdn_dist *dist = NULL;
    int32_t started = 0;
    CLI_TRY(gdn_dist_start(0.0, &started));
    if (!started)
        return run(argc, argv, NULL);
    config.wait_limit = PATIENCE;
    const gdn_status status = gdn_dist_create(&dist, &config);
    if (status != GDN_STATUS_OK)
        gdn_dist_abort(dist, cli_exit_code(status), NULL);
    gdn_dist_note(dist, command);
    const int code = run_rank(run, argc, argv, dist);
    gdn_dist_destroy(dist);
    gdn_dist_finish(0.0);
    return code;
}
