/* kernel_check.h - a kernel table against kernel_ref: what every table must pass, run natively or
 * through an emulation of its instructions. */
#ifndef TY_KERNEL_CHECK_H
#define TY_KERNEL_CHECK_H

#include "common/math/kernel.h"

void check_gemm_floats(const ty_kernels *k);
void check_products(const ty_kernels *k);
void check_gemm_quantised(const ty_kernels *k);
void check_conversions(const ty_kernels *k);
void check_rows(const ty_kernels *k);
void check_grad_rows(const ty_kernels *k);
void check_attention_rows(const ty_kernels *k);

#endif
