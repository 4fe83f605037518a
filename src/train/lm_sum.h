/* What the passes of a model on several ranks add up. */
#ifndef GDNI_TRAIN_LM_SUM_H
#define GDNI_TRAIN_LM_SUM_H

#include "gdn_model.h"
#include "lm.h"

/*
 * On the host, from the mean over this rank's n_r targets to that over all n: the loss becomes
 * sum_r n_r loss_r / n, and with backward the gradients of the head, from which all others follow,
 * are multiplied by n_r / n.
 */
gdn_status gdni_lm_join_loss(gdni_lm *lm, int backward);

/* The same loss of a step on a device, from what each rank has read back. */
gdn_status gdni_lm_join_read(gdni_lm *lm, const gdni_lm_targets *targets, double *loss);

/* On a device: begins the sum of the matrices' gradients of a block, which its backward has just
 * enqueued, where messages run beside it. */
gdn_status gdni_lm_sum_block(gdni_lm *lm, int32_t block);

/* All gradients are those of all ranks, and the mean of all passes, after this. */
gdn_status gdni_lm_sum_rest(gdni_lm *lm);

/* The gradient's norm and how to scale it, into numbers. */
gdn_grad_norm gdni_lm_norm_part(const gdni_lm *lm, double clip);

#endif /* GDNI_TRAIN_LM_SUM_H */
