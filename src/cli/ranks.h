/* Commands that mpirun may start as several ranks. */
#ifndef GDN_CLI_RANKS_H
#define GDN_CLI_RANKS_H

#include "check/check.h"
#include "cli.h"

typedef struct gdn_dist gdn_dist;

/* A command as one of several ranks; dist is NULL where it is alone. */
typedef int (*cli_ranked)(int argc, char **argv, gdn_dist *dist);

/* How the ranks of a command are to be grouped and watched, from its arguments; 0 = as by default.
 * Prints what is wrong with them, and then returns its exit code. */
typedef struct cli_rank_settings {
    int32_t sequence_ranks;
    double deadline; /* seconds after which a silent rank ends the job */
} cli_rank_settings;

typedef int (*cli_rank_setup)(int argc, char **argv, cli_rank_settings *settings);

/*
 * Runs it, with MPI where mpirun has started this process; setup NULL: settings are 0. Then rank 0
 * alone prints; an exit code with a line on stderr, on any rank, ends all ranks with that code and
 * one line, which names the rank.
 */
int cli_over_ranks(const char *command, cli_rank_setup setup, cli_ranked run, int argc,
                   char **argv);

int32_t cli_rank(gdn_dist *dist); /* 0 where dist is NULL */
int32_t cli_ranks(gdn_dist *dist);

int32_t cli_nccl_version(void); /* 0: not part of this build */

/* gdni_evaluate_operator and gdni_evaluate_layer, over even shards where dist is not NULL. All
 * ranks give the whole inputs; rank 0 gets the whole outputs. */
gdn_status cli_evaluate_operator(gdn_dist *dist, const gdn_context *context,
                                 const gdn_problem *problem, const gdni_operator_values *values);
gdn_status cli_evaluate_layer(gdn_dist *dist, const gdn_context *context, const gdn_layer *layer,
                              const gdni_layer_values *values);

#endif /* GDN_CLI_RANKS_H */
