/*
 * rope.h - the rotary table: cos and sin of every position and frequency, with the scaling that the
 * file states (linear, YaRN, or LLaMA 3's factors in the tensor rope_freqs.weight [d_head / 2]).
 */
#ifndef TY_DECODER_ROPE_H
#define TY_DECODER_ROPE_H

#include "services/decoder/llama.h"

typedef struct {
    float *cos, *sin; /* [context][d_head / 2] */
} llama_rope;

/* Fails: TY_ESHAPE and TY_EFORMAT (rope_freqs.weight), TY_ENOMEM. */
ty_status llama_rope_create(llama_rope *r, const ty_gguf *g, const llama_dims *d, int context,
                            ty_err *err);
void llama_rope_clear(llama_rope *r);

#endif
