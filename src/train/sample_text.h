/* What a run says at its end: text of its model. */
#ifndef GDNI_TRAIN_SAMPLE_TEXT_H
#define GDNI_TRAIN_SAMPLE_TEXT_H

#include "config.h"
#include "gdn_io.h"
#include "progress.h"
#include "sampler.h"

/* Says text that goes on from the first held-out tokens, and those. */
gdn_status gdni_sample_text(gdni_sampler *sampler, gdni_lm *lm, const gdni_config *config,
                            gdn_io_dataset *dataset, gdni_progress *progress);

#endif /* GDNI_TRAIN_SAMPLE_TEXT_H */
