/*
 * matmul_block.h - what matmul.c and matmul_bf16.c share; for these two files alone.
 */
#ifndef TY_MATH_MATMUL_BLOCK_H
#define TY_MATH_MATMUL_BLOCK_H

#include "common/math/matmul.h"

/* Row r of what b stores, elements [first, first + n), as floats: in place where they are that already,
 * else in `wide`. */
const float *matmul_b_row(const ty_matmul *m, int64_t r, int64_t first, int64_t n, float *wide);

/* ty_matmul_run, _serial and _scratch of TY_PRODUCTS_BF16. */
ty_status matmul_bf16_run(const ty_matmul *m, ty_pool *pool, ty_err *err);
void matmul_bf16_serial(const ty_matmul *m, void *scratch);
size_t matmul_bf16_scratch(void);

#endif
