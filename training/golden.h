/*
 * golden.h - a training run of the reference, repeated: five steps on one batch.
 *
 * DIR holds a checkpoint, golden.json (training.RUN: which names train, the optimizer's numbers) and
 * golden.safetensors (train/batchA).  Written are RUN/grad/NAME (first step, before clipping),
 * RUN/param_step1/NAME, RUN/param_step5/NAME, RUN/losses [6] and RUN/grad_norms [5].
 */
#ifndef TRAIN_GOLDEN_H
#define TRAIN_GOLDEN_H

#include "common/math/pool.h"

#include <stdbool.h>

ty_status golden_run(const char *dir, const char *run, const char *out, bool recompute,
                     ty_pool *pool, ty_err *err);

#endif
