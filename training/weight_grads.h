/*
 * weight_grads.h - gradients of weights, put off: a backward notes what it has of them, and once a layer is through,
 * all parts of a batch (pass.h) are added to the parameters together.
 *
 * A sum over rows is one chain over the rows of all parts, those of text before those of pictures, each in the order
 * of the samples: the order of a batch that is in one part.  So its bits do not depend on the number of parts.
 */
#ifndef TRAIN_WEIGHT_GRADS_H
#define TRAIN_WEIGHT_GRADS_H

#include "common/math/matmul.h"
#include "training/param.h"

typedef enum {
    WEIGHT_PRODUCT, /* w [out, in] += dy^T x */
    WEIGHT_BIAS,    /* w [out] += sum of rows of dy */
    WEIGHT_NORM,    /* w += sum of dy (x - mean) inv; b (may be NULL) += sum of dy */
} weight_grad_kind;

typedef struct {
    weight_grad_kind kind;
    param *w, *b;
    const float *x, *dy; /* [rows, in], [rows, out]; they stay as they are until they are added */
    const float *mean, *inv;
    int64_t rows, n_text; /* rows [0, n_text) are the first of the two kinds */
} weight_grad;

typedef struct {
    weight_grad *item;
    int n, cap;
} weight_grads;

/* Fails: TY_ENOMEM. */
ty_status weight_grads_note(weight_grads *l, const weight_grad *g, ty_err *err);
/* Adds what `n` lists have, which noted the same things in the same order, and empties them.  Several parts: over the
 * pool by pieces of parameters; one: operation by operation.  *flops grows by what the products take.
 * Fails: TY_ENOMEM. */
ty_status weight_grads_add(weight_grads *const *of, int n, ty_pool *pool, ty_products products,
                           double *flops, ty_err *err);
void weight_grads_clear(weight_grads *l);

#endif
