/*
 * matmul.h - the general f32 matrix product, for weights that change at every step: both operands are
 * packed on the way.  (linear.h packs a layer's weights once, and serves.)
 *
 *     c [M, N] = a [M, K] b [K, N]      c += a b when `add`
 *
 * The three products of a linear layer y = x W^T, W [out, in]:
 *     y  = x W^T     a = x,   b = W with b_stored_nk (b is stored [N, K])
 *     dx = dy W      a = dy,  b = W as it is
 *     dW += dy^T x   a = dy with a_stored_km (a is stored [K, M]), b = x, add
 *
 * Every output element is one chain of fused multiply-adds over k rising from 0, whatever the number
 * of threads, so a run gives the same bits on one thread and on many.
 *
 * With TY_PRODUCTS_BF16 both operands are rounded to bf16 (to nearest even) as they are packed, and one
 * instruction multiplies two k: twice the rate, a relative error of 2^-9 in each operand.  Sums and c
 * stay f32, and what is stored stays as it is.  A chain is then over pairs of k (kernel.h,
 * ty_pair_kernels): again the same bits on one thread and on many.
 */
#ifndef TY_MATH_MATMUL_H
#define TY_MATH_MATMUL_H

#include "common/math/dtype.h"
#include "common/math/pool.h"

typedef enum { TY_PRODUCTS_F32, TY_PRODUCTS_BF16 } ty_products;

/* "f32", "bf16"; -1: neither. */
int ty_products_parse(const char *name);
const char *ty_products_name(ty_products p);
/* TY_EUNSUPPORTED where this CPU, or the kernels that TYTO_CPU names, have no instruction for them: such
 * products are still right, but slower than f32's many times over. */
ty_status ty_products_check(ty_products p, ty_err *err);

typedef struct {
    int64_t M, N, K;
    const float *a;
    int64_t lda;      /* floats between rows of what is stored */
    bool a_stored_km; /* a is stored [K, M] */
    const void *b; /* b_type, one of F32, F16, BF16, Q8_0, Q4_0: widened to f32 as it is packed */
    ty_dtype b_type;
    int64_t ldb;      /* elements between rows of what is stored; a multiple of the type's block */
    bool b_stored_nk; /* b is stored [N, K] */
    float *c;
    int64_t ldc;
    bool add;
    ty_products products;
} ty_matmul;

/* Rows at this distance (floats) all go to a few lines of L1: a product copies them first. */
static inline bool ty_matmul_collides(int64_t ld) {
    return ld % 512 == 0;
}

/* Spread over the pool (NULL: the caller alone).  Fails: TY_ENOMEM, before its scratch is warm. */
ty_status ty_matmul_run(const ty_matmul *m, ty_pool *pool, ty_err *err);

/* Inside a pool's task: alone, with scratch of its own of ty_matmul_scratch() bytes, 64-byte
 * aligned.  The same bits as ty_matmul_run. */
size_t ty_matmul_scratch(void);
void ty_matmul_serial(const ty_matmul *m, void *scratch);

#endif
