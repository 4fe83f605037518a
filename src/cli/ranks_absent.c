/* Without MPI a command is always alone. */
#include "ranks.h"

#include <stdlib.h>

int cli_over_ranks(const char *command, cli_rank_setup setup, cli_ranked run, int argc,
                   char **argv) {
    const char *ranks = getenv("OMPI_COMM_WORLD_SIZE");
    if (ranks && atoi(ranks) > 1)
        return cli_usage(command, "started as one of %s ranks, but this build has no MPI", ranks);
    return run(argc, argv, NULL);
}

int32_t cli_rank(gdn_dist *dist) {
    return 0;
}

int32_t cli_nccl_version(void) {
    return 0;
}

int32_t cli_ranks(gdn_dist *dist) {
    return 1;
}

gdn_status cli_evaluate_operator(gdn_dist *dist, const gdn_context *context,
                                 const gdn_problem *problem, const gdni_operator_values *values) {
    return gdni_evaluate_operator(context, problem, values);
}

gdn_status cli_evaluate_layer(gdn_dist *dist, const gdn_context *context, const gdn_layer *layer,
                              const gdni_layer_values *values) {
    return gdni_evaluate_layer(context, layer, values);
}
