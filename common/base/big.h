/*
 * big.h - memory for large arrays: weights, activations, scratch.
 *
 * From 2 MiB on it lies on huge pages where the kernel gives them: what walks down a column of a matrix
 * touches another 4 KiB page with each row, and the first touch of a page costs a fault.
 */
#ifndef TY_BASE_BIG_H
#define TY_BASE_BIG_H

#include <stddef.h>

/* 64-byte aligned and not zeroed; free() it.  NULL: no memory. */
void *ty_big_alloc(size_t bytes);

#endif
