/*
 * ggml_blocks.h - ggml's block types that Tyto reads and does not compute with or write: one block to
 * floats.  Layouts: ggml-common.h of the ggml repository.  A block holds 32 elements (q4_1, q5_0, q5_1) or
 * 256 (the k-quants).
 */
#ifndef TY_MATH_GGML_BLOCKS_H
#define TY_MATH_GGML_BLOCKS_H

#include "common/math/dtype.h"

typedef void (*ty_block_reader)(const uint8_t *block, float *dst);
/* NULL for any other type. */
ty_block_reader ty_ggml_block_reader(ty_dtype t);

#endif
