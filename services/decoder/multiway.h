/*
 * multiway.h - mPLUG-Owl2's modality-adaptive module (NOTES §4): both norms of a layer and its k and v
 * projections exist twice, for text rows and for visual rows; all else is shared.
 *
 * The rows of a batch are put in order, text first (order.h), so that each kind is one matrix and the products stay
 * large.  Attention goes by positions and does not mind.  A batch without visual rows, as every step
 * of decoding is, takes the plain LLaMA's way and reads the text weights alone.
 */
#ifndef TY_DECODER_MULTIWAY_H
#define TY_DECODER_MULTIWAY_H

#include "services/decoder/llama_impl.h"

/* y = rmsnorm(x) of `rows`: each kind by its own gain [d_model].  pool as in nn.h. */
void multiway_norm(const llama *m, ty_pool *pool, const llama_rows *rows, const float *text,
                   const float *visual, const float *x, float *y);

/* m->qkv = q, k and v of m->y: q by the shared weights, k and v by those of each kind. */
ty_status multiway_qkv(llama *m, const llama_layer *w, const llama_rows *rows);

#endif
