/*
 * adapt.h - LoRA adapters (common/model/adapter.h) at run time: rows of a sequence that has one get
 *
 *     y += alpha / r B (A x)
 *
 * behind each linear layer that the adapter changes; the weights stay as they are.  Rows of one adapter stand
 * together in the batch (order.h), so each is a product of its own; rows without one, and a batch without any,
 * pay nothing.  A and B are f32 and computed in f32, whatever the weights are.  As with the weights, a row's
 * numbers do not depend on the rows beside it.
 */
#ifndef TY_DECODER_ADAPT_H
#define TY_DECODER_ADAPT_H

#include "common/model/adapter.h"
#include "services/decoder/llama_impl.h"

/* Makes the adapter ready for m.  Every layer that it changes must be one of m's language model, of the same shape.
 * Fails: TY_EUNSUPPORTED (embeddings or head), TY_ENOTFOUND (a layer that m does not have), TY_ESHAPE, TY_ENOMEM. */
ty_status adapt_create(llama_adapter **out, llama *m, const ty_adapter *a, ty_err *err);
void adapt_destroy(llama_adapter **a);
/* Floating-point operations for one row. */
double adapt_flops(const llama_adapter *a);

/* Where in a layer. */
typedef enum { ADAPT_QKV, ADAPT_O, ADAPT_GATE_UP, ADAPT_DOWN } adapt_place;

/* Adds to y, the output of layer l's weights at that place for the batch's x, what the rows' adapters have.  Rows
 * are ldx and ldy apart, as the weights' own are.  Fails: TY_ENOMEM. */
ty_status adapt_add(llama *m, const llama_rows *rows, int l, adapt_place place, const float *x,
                    int64_t ldx, float *y, int64_t ldy);

#endif
