/*
 * order.h - where the rows of a batch stand: those that go through the same weights stand together, so that each
 * kind is one matrix.  First by weights (mPLUG-Owl2's visual rows behind the text, see multiway.h), then by
 * adapter (adapt.h), rows without one first.  Rows of one kind keep their order.
 */
#ifndef TY_DECODER_ORDER_H
#define TY_DECODER_ORDER_H

#include "services/decoder/llama_impl.h"

/* order[i]: the place of the i-th row in order of the spans.  run[*n_run]: the rows that have an adapter; room for
 * as many as there are rows.  Returns the number of text rows; not multiway: of all. */
int order_rows(const llama_span *span, int n_span, bool multiway, int *order, llama_run *run,
               int *n_run);

#endif
