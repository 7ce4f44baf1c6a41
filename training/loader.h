/*
 * loader.h - reader threads that prepare micro-batches ahead: pictures decoded, samples spliced.
 *
 * What micro-batch i holds depends on (data set, seed, i) alone, not on which thread made it or when, so a
 * run that is resumed at i reads what the run that was not interrupted read.
 */
#ifndef TRAIN_LOADER_H
#define TRAIN_LOADER_H

#include "training/batch.h"
#include "training/dataset.h"
#include "training/owl.h"
#include "training/pictures.h"

typedef struct {
    const dataset *data;
    const pictures *pictures; /* NULL: text alone */
    const owl *model;
    uint64_t seed;
    int samples; /* of a micro-batch */
    int labels;  /* places of a picture that its labels speak of (batch.h); 0: texts */
    int stride; /* micro-batches that all ranks make between two of this rank's, itself included: ranks */
    int threads, ahead;
} loader_config;

typedef struct {
    owl_batch batch;
    float *pixels;
    int n_sample,
        n_skipped;     /* samples left out: their picture cannot be read, or they do not fit */
    char skipped[512]; /* why, of the first */
} loaded;

typedef struct loader loader;

/* First hands out micro-batch `first`, then first + stride, ... */
ty_status loader_open(loader **out, const loader_config *c, int64_t first, ty_err *err);
/* The next one, waiting for it; *out stays valid until loader_done gives it back.  Several may be held, up
 * to `ahead`.  Fails with what a reader failed with: TY_ENOMEM. */
ty_status loader_next(loader *l, loaded **out, ty_err *err);
void loader_done(loader *l, loaded *b);
void loader_close(loader **l);

#endif
