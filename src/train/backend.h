/* Where a run computes, and in which dtype. */
#ifndef GDNI_TRAIN_BACKEND_H
#define GDNI_TRAIN_BACKEND_H

#include "config.h"
#include "lm.h"
#include "ranks.h"

enum {
    GDNI_BACKEND_TEXT = 16
};

typedef struct gdni_backend {
    gdn_context *context;         /* CUDA; NULL: the host */
    int64_t backend, dtype;       /* as in a configuration, never AUTO */
    char text[GDNI_BACKEND_TEXT]; /* "cuda bf16" */
    char about[400];              /* the device, or why `auto` is the host */
    double peak;                  /* FLOP/s of the device's dense bf16 products; 0 = not known */
} gdni_backend;

/*
 * Settles backend and dtype of a checked configuration, for the model of `shape`, whose dtype is
 * set to that of activations. With ranks, all call it, after they have agreed on the configuration;
 * those of one machine take its devices in turn. NO_BACKEND: cuda was asked for and is not here.
 * UNSUPPORTED: cuda was asked for and cannot compute this model. INVALID_ARGUMENT: bf16
 * without cuda.
 */
gdn_status gdni_backend_open(gdni_backend *b, const gdni_config *config, gdni_ranks *ranks,
                             gdni_lm_shape *shape);
/* How a model of this run is set up. */
gdni_lm_setup gdni_backend_setup(const gdni_backend *b, const gdni_config *config,
                                 gdni_ranks *ranks);
void gdni_backend_close(gdni_backend *b);

/* FLOP/s of dense bf16 products of the device that gdn_device_describe() calls so, by NVIDIA's data
 * sheets; 0 where they are not here. */
double gdni_backend_peak(const char *about);

/* "cuda bf16", from a configuration's text, into text; of one from before there were backends:
 * "cpu fp32". */
void gdni_backend_recorded(const char *config, char text[GDNI_BACKEND_TEXT]);

#endif /* GDNI_TRAIN_BACKEND_H */
