/*
 * adamw.h - the two AdamW of the references, to the order of their roundings.
 *
 *   ADAMW_HF     transformers.AdamW, v1: eps is added before the bias correction, and the decay is
 *                applied after the update, with the plain learning rate
 *   ADAMW_TORCH  torch.optim.AdamW, v2: the decay first, eps after the bias correction
 */
#ifndef TRAIN_ADAMW_H
#define TRAIN_ADAMW_H

#include "common/math/pool.h"
#include "training/param.h"

typedef enum { ADAMW_HF, ADAMW_TORCH } adamw_kind;

typedef struct {
    adamw_kind kind;
    double beta1, beta2, eps, weight_decay;
} adamw;

/* "adamw_hf", "adamw_torch"; -1 for another. */
int adamw_parse(const char *name);
/* The sum of squares of the gradients of the set's share; over all ranks: the square of their norm. */
double adamw_grad_squares(const param_set *s, ty_pool *pool);
/* What clipping multiplies gradients by: max / (norm + 1e-6), at most 1; max 0: no clipping. */
double adamw_clip(double norm, double max);
/* Step t (from 1) on the set's share of the elements, gradients times `scale`.  Parameters that were not
 * reached stay as they are, moments too. */
void adamw_step(const adamw *a, param_set *s, ty_pool *pool, int64_t t, double lr, double scale);

#endif
