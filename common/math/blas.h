/*
 * blas.h - OpenBLAS's sgemm as an alternative to our own f32 kernels, and the peer they are measured
 * against.  Opened at run time: its core type must be known before it loads, for the wrong one is slow
 * or an illegal instruction, and it must start no threads of its own, which would fight ours.  The build with
 * threads is looked for first, held to one: Debian's serial build hands out its buffers without a lock, so
 * two calls at once may share one (seen as wrong sums); its calls are made one at a time.
 *
 * Off by default: our kernels measure faster (bench/SPEED.md), and a row's bits from sgemm may change
 * with the number of rows.  TYTO_BLAS=openblas turns it on for f32 layers and many rows.
 */
#ifndef TY_MATH_BLAS_H
#define TY_MATH_BLAS_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stdint.h>

/* TYTO_BLAS: unset, "" or "own" = no, "openblas" = yes.  TY_EINVAL: another value, or the library
 * cannot be opened.  *on may be NULL. */
ty_status ty_blas_wanted(bool *on, ty_err *err);
/* Opens the library once; later calls answer the same.  TY_EUNSUPPORTED when there is none. */
ty_status ty_blas_open(ty_err *err);
/* y [M, N] = x [M, K] w^T, w [N, K] row-major; only after ty_blas_open.  Single-threaded; may be called
 * by several threads at once. */
void ty_blas_gemm(int M, int N, int K, const float *x, int64_t ldx, const float *w, int64_t ldw,
                  float *y, int64_t ldy);
/* "openblas 0.3.21 Zen": what was opened; "none". */
const char *ty_blas_name(void);

#endif
