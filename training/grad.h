/*
 * grad.h - one backward per forward, for the operations of common/math/nn.h and the loss: everything
 * that is not a matrix product.  A backward gets the forward's inputs again (never its statistics:
 * they are recomputed) and the gradient of its output.
 *
 * All f32, row-major, rows spread over the pool (NULL: the caller alone).  Sums over rows (gradients
 * of weights, which are added to) are the caller's alone, and each a chain in the order of the rows.
 */
#ifndef TRAIN_GRAD_H
#define TRAIN_GRAD_H

#include "common/math/nn.h"

#include <stdbool.h>

/* y = (x - mean) inv w (+ b), mean and inv = 1 / sqrt(var + eps) of a row; without `centre` mean is 0: an RMSNorm.
 * dx = base (NULL: 0) + the gradient of x; dx may be dy or base, NULL: nobody wants it.  mean, inv [rows] are written.
 *   x, dy, base, dx [rows, n]; w [n] */
void grad_norm(ty_pool *p, const float *x, const float *dy, int64_t rows, int64_t n, const float *w,
               bool centre, float eps, const float *base, float *dx, float *mean, float *inv);
/* dw += sum of dy (x - mean) inv, db += sum of dy, of n columns of rows ld apart; either may be NULL. */
void grad_norm_weights(const float *x, const float *dy, int64_t rows, int64_t n, int64_t ld,
                       const float *mean, const float *inv, float *dw, float *db);
/* sum[c] += sum over rows of dy[r][c]: the gradient of a bias; n columns of rows ld apart. */
void grad_bias(const float *dy, int64_t rows, int64_t n, int64_t ld, float *sum);
/* y = x sigmoid(1.702 x), n elements; dx may be dy. */
void grad_quick_gelu(ty_pool *p, const float *x, const float *dy, int64_t n, float *dx);
/* y = silu(gate) up, n elements; d_up may be dy. */
void grad_silu_mul(ty_pool *p, const float *gate, const float *up, const float *dy, int64_t n,
                   float *d_gate, float *d_up);
/*
 * Cross-entropy of rows of logits, in place: logits become their gradient,
 *     (softmax(logits[r]) - onehot(target[r])) * weight
 * loss[r] = log(sum exp(logits[r])) - logits[r][target[r]].
 */
void grad_cross_entropy(ty_pool *p, float *logits, int64_t rows, int64_t n, const int32_t *target,
                        float weight, float *loss);

/*
 * Multi-head attention, forward and backward, over sequences whose rows may lie anywhere: the rows of
 * sequence s are q_row[q_start[s] .. q_start[s + 1]), its keys and values likewise (q_row NULL: row i
 * is i).  Causal: query t sees keys 0..t (as many queries as keys).  Head h of a row starts at
 * base + row * ld + h * hd.
 */
typedef struct {
    const float *q, *k, *v;
    int64_t ldq, ldk, ldv, hdq, hdk, hdv;
    int n_seq, n_head, d;
    const int *q_start, *q_row, *kv_start, *kv_row; /* starts: n_seq + 1 numbers */
    float scale;
    bool causal;
} grad_attention;

/* With q, k and v in rows of one length, heads `hd` apart and d wide, scaled by 1 / sqrt(d); rows are where their starts
 * say. */
grad_attention grad_attention_of(const float *q, const float *k, const float *v, int64_t ld,
                                 int64_t hd, int n_head, int d, int n_seq, const int *q_start,
                                 const int *kv_start);
/* ctx[row] of every query row, heads side by side, rows ldo apart.  Fails: TY_ENOMEM. */
ty_status attention_forward(ty_pool *p, const grad_attention *a, float *ctx, int64_t ldo,
                            ty_err *err);
/* dq, dk, dv lie as q, k and v do and are written (rows of no sequence are left alone).
 * Fails: TY_ENOMEM. */
ty_status attention_backward(ty_pool *p, const grad_attention *a, const float *dctx, int64_t ldo,
                             float *dq, float *dk, float *dv, ty_err *err);

#endif
