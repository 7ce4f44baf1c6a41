/*
 * random.h - random numbers that depend on (seed, stream, index) alone: no state, so a run that
 * is resumed, or shared out over ranks, draws the same.
 */
#ifndef TRAIN_RANDOM_H
#define TRAIN_RANDOM_H

#include <stdint.h>

/* In [0, 1) (Philox). */
double random_unit(uint64_t seed, uint64_t stream, uint64_t index);
/* In [-bound, bound): n numbers. */
void random_uniform(uint64_t seed, uint64_t stream, double bound, int64_t n, float *out);
/* Normal with mean 0: n numbers.  This one and dropout take a cheaper generator (splitmix64): there are many. */
void random_normal(uint64_t seed, uint64_t stream, double deviation, int64_t n, float *out);
/* y = x / (1 - p) where a draw of (seed, stream) keeps the element, 0 where it does not, which happens with
 * probability p; y may be x. */
void random_dropout(uint64_t seed, uint64_t stream, double p, const float *x, int64_t n, float *y);

#endif
