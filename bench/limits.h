/* limits.h - what this machine can do at most, measured with the instruction set that Tyto's kernels
 * use: the numbers that a bench divides by. */
#ifndef TY_BENCH_LIMITS_H
#define TY_BENCH_LIMITS_H

#include "common/math/pool.h"

typedef struct {
    double f32_gflops; /* fused multiply-adds from registers, all threads; 2 operations each */
    double int8_gops;  /* u8 x s8 products added up, all threads, the fastest idiom of the set */
    double read_gbs_1; /* streaming read of a buffer far over the caches, one thread */
    double read_gbs;   /* all threads */
    const char *int8_idiom;
} limits;

/* About two seconds.  False when memory for the read buffer is missing. */
int limits_measure(ty_pool *pool, limits *out);
/* Streaming read rate again, GB/s: DRAM is shared, so ask in the same minute as what it is compared
 * with. */
double limits_read_gbs(ty_pool *pool, int threads);
/* CPU time of this process: beside the wall clock it tells how many cores a run really had. */
double limits_cpu_seconds(void);
void limits_close(void);

#endif
