/*
 * bloom.h - what BLOOM (mPLUG-Owl's multilingual variant, NOTES §13) has instead of LLaMA's parts:
 *
 *   x = layernorm(embeddings); visual rows come as they are
 *   each layer:  x += o(attend(q, k, v)),  q, k, v = qkv(layernorm(x)); no rotary positions: ALiBi
 *                x += down(gelu(up)),      up = up(layernorm(x))
 *   logits = embeddings(layernorm(x))
 *
 * all linear layers with biases.  Tensors are named as llama.cpp's converter names them; attn_qkv's rows are q,
 * then k, then v.  Source: transformers' modeling_bloom.py.
 */
#ifndef TY_DECODER_BLOOM_H
#define TY_DECODER_BLOOM_H

#include "services/decoder/llama_impl.h"

/* The layers, the norms at both ends, and the slopes; not the embeddings and the head.  Errors as in
 * llama_create; llama_destroy frees what there is. */
ty_status bloom_load(llama *m, const ty_gguf *g, const ty_run_options *run, ty_err *err);
/* Does this tensor of layer l ("attn_qkv.bias"), or of the ends ("output_norm.bias"), belong to BLOOM? */
bool bloom_knows(const char *name);

/* ALiBi's slopes of n heads: powers of 2^(-8/m), m the largest power of two in n; further heads take the
 * odd powers of 2^(-4/m). */
void bloom_slopes(int n, float *slope);

#endif
