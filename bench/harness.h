/* harness.h - what every bench needs: to end with a reason, folders, numbers, models, and the time of a thing. */
#ifndef TY_BENCH_HARNESS_H
#define TY_BENCH_HARNESS_H

#include <stdbool.h>
#include <stddef.h>

/* "bench: what: why" on stderr, and the end of the process: a bench has nobody to hand an error to. */
_Noreturn void bench_stop(const char *what, const char *why);
/* Makes the folders that path is in. */
void bench_make_parents(const char *path);
/* Is `what` to be measured?  only: the one that is, "" for all. */
bool bench_wanted(const char *only, const char *what);
/* n numbers in [-1, 1), always the same; free() them. */
float *bench_floats(size_t n);

/* A model of random weights: runs `tyto synth DIR args...` (NULL-ended) unless DIR, which is models/name, is
 * there.  Writes DIR. */
void bench_model(char *dir, size_t size, const char *tyto, const char *models, const char *name,
                 const char *const *args);

typedef struct {
    double ms; /* of the fastest run */
    double
        cores; /* CPU time over wall time of all runs, for the kernel counts other threads' time in ticks */
} bench_time;

/* The best of n runs; one before them warms up. */
bench_time bench_best_of(int n, void (*run)(void *), void *ctx);

#endif
