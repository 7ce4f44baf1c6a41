/* run_options.h - how a compute stage runs, apart from its model file: the same for vit, abstractor
 * and decoder. */
#ifndef TY_MODEL_RUN_OPTIONS_H
#define TY_MODEL_RUN_OPTIONS_H

#include "common/math/linear.h"

typedef struct {
    ty_compute compute; /* TY_COMPUTE_AUTO by default */
    ty_pool *pool;      /* borrowed; outlives the stage */
} ty_run_options;

#endif
