/* Where a run's operator is computed, and in which dtype. The other parts run on the host in fp32.
 */
#ifndef GDNI_TRAIN_BACKEND_H
#define GDNI_TRAIN_BACKEND_H

#include "config.h"
#include "device.h"
#include "ranks.h"

enum {
    GDNI_BACKEND_TEXT = 16
};

typedef struct gdni_backend {
    gdn_context *context;         /* CUDA; NULL: the host */
    int64_t backend, dtype;       /* as in a configuration, never AUTO */
    char text[GDNI_BACKEND_TEXT]; /* "cuda bf16" */
    char about[400];              /* the device, or why `auto` is the host */
} gdni_backend;

/*
 * Settles backend and dtype of a checked configuration. With ranks, all call it, after they have
 * agreed on the configuration; those of one machine take its devices in turn. NO_BACKEND: cuda was
 * asked for and is not here. UNSUPPORTED: cuda was asked for and cannot compute this model, or its
 * ranks share sequences. INVALID_ARGUMENT: bf16 without cuda.
 */
gdn_status gdni_backend_open(gdni_backend *b, const gdni_config *config, gdni_ranks *ranks);
void gdni_backend_close(gdni_backend *b);

/* "cuda bf16", from a configuration's text, into text; of one from before there were backends:
 * "cpu fp32". */
void gdni_backend_recorded(const char *config, char text[GDNI_BACKEND_TEXT]);

#endif /* GDNI_TRAIN_BACKEND_H */
