/*
 * batch.h - what one pass reads: samples spliced into rows, without padding.
 *
 * Rows of text come first, then rows of pictures, whatever their place in the samples: so what differs
 * between the two (embedding, v2's copies of weights) works on two runs of memory.  A sample's own
 * order is in `order`.  Padding is not there at all: it only follows, so no position sees it.
 */
#ifndef TRAIN_BATCH_H
#define TRAIN_BATCH_H

#include "common/base/arena.h"
#include "common/base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum { OWL_IGNORE = -100 };

/* One sample as the data set gives it: ids with placeholders (v1: a run of -1 of Q + 1 ids for each
 * picture; v2: one -200 for each), and the label of each id, OWL_IGNORE where it is not learnt. */
typedef struct {
    const int32_t *id, *label;
    int n;
    int n_picture; /* pictures that belong to the sample, in order */
} owl_sample;

typedef struct {
    int n_sample, n_picture;
    const float *pixels; /* [n_picture, 3, S, S], borrowed */
    int n_row, n_text, n_visual;
    int32_t *token; /* [n_text] */
    int *visual;    /* [n_visual] picture * (Q + 1) + row of it */
    int *start;     /* [n_sample + 1] into order; NULL: of labels */
    int *picture;   /* [n_sample + 1] first picture of each sample; NULL: of labels */
    int *order;     /* [n_row] row of each position, sample by sample */
    int *position;  /* [n_row] of each row, within its sample */
    int n_target;
    int *target_row; /* [n_target] the row that predicts, sample by sample */
    int32_t *target; /* [n_target] the token to predict; of labels: [n_label] */
    int n_label;
} owl_batch;

/* Splices.  version 1 or 2 (0: no pictures), visual_rows Q + 1.  Fails: TY_EINVAL (more placeholders than
 * pictures, an id outside the vocabulary, longer than n_ctx), TY_ENOMEM. */
ty_status owl_batch_make(owl_batch *b, int version, int visual_rows, int n_vocab, int n_ctx,
                         const owl_sample *sample, int n_sample, const float *pixels, ty_err *err);
/* Of pictures without a text: each sample one picture, labels [texts, places] (sample.h): places are cells, or rows of one
 * text.  target is [n_picture, places, texts] then, with OWL_IGNORE where nothing is learnt, and n_target counts the others;
 * n_row are the labelled places.  Fails: TY_ENOMEM. */
ty_status owl_batch_of_labels(owl_batch *b, int places, const owl_sample *sample, int n_sample,
                              const float *pixels, ty_err *err);
/* Samples [first, first + n) of b as a batch of their own, rows and pictures counted from 0.  Its arrays lie in the
 * arena or in b; pixels of a picture: 3 S S.  Fails: TY_ENOMEM. */
ty_status owl_batch_part(const owl_batch *b, int first, int n, int visual_rows, int64_t pixels,
                         ty_arena *arena, owl_batch *part, ty_err *err);
/* Rows of a sample: what its share of the work is measured by. */
int owl_batch_rows(const owl_batch *b, int sample);
void owl_batch_clear(owl_batch *b);

#endif
