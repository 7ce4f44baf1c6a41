/*
 * state.h - everything that a run needs to go on exactly where it was: one file, written whole or not at
 * all, with a checksum.
 *
 * Values and both moments of this rank's share of what trains, the number of steps done (which gives the place in the data
 * and every random number), counters, and the settings that must not change between the two halves of a run.
 */
#ifndef TRAIN_STATE_H
#define TRAIN_STATE_H

#include "training/param.h"

typedef struct {
    int64_t step;      /* optimizer steps done */
    int64_t updates;   /* of them, those that had something to learn: the optimizer's t */
    int64_t n_skipped; /* samples left out so far */
    int64_t n_token, n_target;
} run_position;

/* settings: a text that describes the run; resuming with another is refused. */
ty_status state_save(const char *path, const param_set *s, const run_position *at,
                     const char *settings, ty_err *err);
/* TY_ENOTFOUND: there is none.  TY_ECHECKSUM, TY_EFORMAT; TY_EINVAL: the settings or parameters differ (says
 * which). */
ty_status state_load(const char *path, param_set *s, run_position *at, const char *settings,
                     ty_err *err);

#endif
