/*
 * nn.h - the operations between the linear layers.  All f32, row-major, rows of one call are spread
 * over the pool (NULL: the caller alone).  Each output element is computed in an order that does
 * not depend on the number of rows.
 */
#ifndef TY_MATH_NN_H
#define TY_MATH_NN_H

#include "common/math/pool.h"

#include <stdint.h>

/* y[r] = (x[r] - mean) / sqrt(var + eps) * w + b over n columns; y may be x.  b may be NULL. */
void ty_layernorm(ty_pool *p, const float *x, int64_t rows, int64_t n, const float *w,
                  const float *b, float eps, float *y);
/* y[r] = x[r] / sqrt(mean(x[r]^2) + eps) * w; y may be x. */
void ty_rmsnorm(ty_pool *p, const float *x, int64_t rows, int64_t n, const float *w, float eps,
                float *y);
/* x *= sigmoid(1.702 x), elementwise over [rows, n] with rows ldx apart. */
void ty_quick_gelu(ty_pool *p, float *x, int64_t rows, int64_t n, int64_t ldx);
/* The same with the tanh approximation of GELU, as BLOOM has it. */
void ty_gelu_tanh(ty_pool *p, float *x, int64_t rows, int64_t n, int64_t ldx);
/* out[r] = silu(gate[r]) * up[r], n columns; gate and up rows are ld apart (two halves of one fused
 * output), out rows ldo apart; out may be gate. */
void ty_silu_mul(ty_pool *p, const float *gate, const float *up, int64_t rows, int64_t n,
                 int64_t ld, float *out, int64_t ldo);
/* y += x, n elements. */
void ty_add(ty_pool *p, float *y, const float *x, int64_t n);

/* Rotary embedding in Hugging Face's half-split convention: pairs (j, j + d/2) turned by
 * pos * freq[j], j < d/2.  x: one row of n_head heads of d, in place. */
void ty_rope_half(float *x, int n_head, int d, const float *cos, const float *sin);
/* The same for interleaved pairs (2j, 2j+1): the order of llama.cpp's permuted q/k rows. */
void ty_rope_pair(float *x, int n_head, int d, const float *cos, const float *sin);

/*
 * Full (unmasked) multi-head attention: ctx = softmax(q k^T * scale) v, for n_batch independent
 * samples, softmax statistics in f32.  Heads are addressed by strides so that no transpose or split
 * is made: head h of row t of sample b starts at base + (b * n_rows + t) * ld + h * hd.
 *   q   n_q rows a sample, k and v n_kv rows a sample; ctx [n_q rows, n_head * d], ld ldo.
 * Fails: TY_ENOMEM (scratch, before warm-up only).
 */
typedef struct {
    const float *q, *k, *v;
    int64_t ldq, ldk, ldv; /* row strides in floats */
    int64_t hdq, hdk, hdv; /* head strides in floats */
    int n_batch, n_q, n_kv, n_head, d;
    float scale;
    float *ctx;
    int64_t ldo; /* head h of ctx starts at h * d */
} ty_attention;
/* Self-attention over a fused product's rows, in which head h's q, k and v stand side by side, d floats each:
 *   qkv [n_batch n_token, 3 n_head d]; ctx [n_batch n_token, n_head d]; the scale is 1 / sqrt(d). */
ty_attention ty_attention_of_qkv(const float *qkv, int n_batch, int n_token, int n_head, int d,
                                 float *ctx);
ty_status ty_attention_full(ty_pool *p, const ty_attention *a, ty_err *err);

#endif
