/*
 * linear.h - a linear layer in the layout that this machine's kernels want: y = x W^T + b.
 *
 * Created once from a checkpoint tensor W [N, K] (its bytes are copied and repacked, the file may be
 * unmapped afterwards), then applied to any number of rows M.  It is the one object on the hot path
 * that knows how weights lie in memory.
 *
 * Batch-invariant: row i of y has the same bits whatever M is and whichever rows stand beside it,
 * with the same weights, compute mode and instruction set.  So an answer does not depend on what
 * else is in the batch.
 */
#ifndef TY_MATH_LINEAR_H
#define TY_MATH_LINEAR_H

#include "common/math/dtype.h"
#include "common/math/pool.h"

/* What the arithmetic is done in.  Storage (the dtype of W) is another matter. */
typedef enum {
    TY_COMPUTE_AUTO, /* f32 for f32, f16 and bf16 weights; int8 for quantised ones */
    TY_COMPUTE_F32,  /* weights widened to f32 on the fly, f32 activations */
    TY_COMPUTE_BF16, /* weights and activations rounded to bf16, f32 accumulation */
    TY_COMPUTE_INT8, /* activations quantised per block of 32; f32/f16/bf16 weights become Q8_0 at load */
} ty_compute;

int ty_compute_parse(const char *name); /* "auto" "f32" "bf16" "int8"; -1 unknown */

typedef struct ty_linear ty_linear;

/* One layer whose output is the concatenation of n weights' outputs (fused QKV, gate+up): each w[i]
 * is [N_i, K] with one K; types may differ.  bias[i]: N_i floats or NULL; bias itself may be NULL.
 * A K that the block of a quantised type or of int8 does not divide computes in f32.
 * Fails: TY_ESHAPE, TY_ENOMEM. */
ty_status ty_linear_create(ty_linear **out, const ty_tensor *w, const float *const *bias, int n,
                           ty_compute compute, ty_pool *pool, ty_err *err);
int64_t ty_linear_out(const ty_linear *l);  /* N */
int64_t ty_linear_in(const ty_linear *l);   /* K */
size_t ty_linear_bytes(const ty_linear *l); /* of the packed weights: what one pass reads */

/* x [M, K] rows ldx apart, y [M, N] rows ldy apart; y is overwritten, x and y do not overlap.
 * Scratch is the layer's own pool's (grown on first use, none after warm-up).
 * Cannot fail once scratch is warm; returns TY_ENOMEM otherwise. */
ty_status ty_linear_apply(const ty_linear *l, ty_pool *pool, const float *x, int64_t ldx, int M,
                          float *y, int64_t ldy);
/* The outputs of weights [first, first + n) alone: y is still whole rows, the other columns of which
 * stay as they are. */
ty_status ty_linear_apply_parts(const ty_linear *l, ty_pool *pool, int first, int n, const float *x,
                                int64_t ldx, int M, float *y, int64_t ldy);
void ty_linear_destroy(ty_linear **l);

#endif
