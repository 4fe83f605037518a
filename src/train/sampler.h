/*
 * Text from a model, one token at a time: every block carries its GDN state and the inputs of its
 * convolution, so a token costs the same however long the text before it is. On the host, from the
 * host's copy of the parameters (gdni_lm_fetch).
 */
#ifndef GDNI_TRAIN_SAMPLER_H
#define GDNI_TRAIN_SAMPLER_H

#include "lm.h"

typedef struct gdni_sampler gdni_sampler;

/* Allocates for one sequence. Errors: UNSUPPORTED, OUT_OF_MEMORY. */
gdn_status gdni_sampler_create(gdni_sampler **out, const gdni_lm *lm);
void gdni_sampler_destroy(gdni_sampler *sampler);

/* Forgets the text so far. */
void gdni_sampler_reset(gdni_sampler *sampler);

/* Reads one token; *logits [vocab], of the master type, are those of the token after it and stay
 * until the next call. */
gdn_status gdni_sampler_feed(gdni_sampler *sampler, int32_t token, const void **logits);

/* Draws a token from softmax(logits / temperature) with u uniform in [0, 1); temperature 0: the
 * likeliest. */
int32_t gdni_sampler_choose(const gdni_lm *lm, const void *logits, double temperature, double u);

#endif /* GDNI_TRAIN_SAMPLER_H */
