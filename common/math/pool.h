/*
 * pool.h - the persistent thread team.  One per process; the caller's thread is member 0.
 *
 * ty_pool_run splits n_tasks dynamically: members take the next index from a shared counter, so a
 * member that a neighbour slows down takes fewer.  Members spin briefly, then sleep, so an idle
 * process uses no CPU.  Not reentrant: a task must not call ty_pool_run, and one thread runs it at
 * a time.
 */
#ifndef TY_MATH_POOL_H
#define TY_MATH_POOL_H

#include "common/base/err.h"

#include <stddef.h>

typedef struct ty_pool ty_pool;

/* n_threads 0 = one per core this process may use. */
ty_status ty_pool_create(ty_pool **out, int n_threads, ty_err *err);
int ty_pool_size(const ty_pool *p);
/* Calls fn(ctx, task, member) for each task in [0, n_tasks), member in [0, size); returns when all
 * are done.  pool may be NULL: the caller does everything. */
void ty_pool_run(ty_pool *p, int n_tasks, void (*fn)(void *ctx, int task, int member), void *ctx);
void ty_pool_destroy(ty_pool **p);

/* Scratch that lives with the pool, so that nothing is allocated after warm-up: 64-byte aligned,
 * grown when needed, valid until the next call with the same slot.  Only the thread that calls
 * ty_pool_run may ask.  p is not NULL.  NULL: out of memory.  The slots belong to math/. */
enum { TY_POOL_SCRATCH_ACT, TY_POOL_SCRATCH_MEMBERS, TY_POOL_SCRATCH_ATTENTION, TY_POOL_SLOTS };
void *ty_pool_scratch(ty_pool *p, int slot, size_t bytes);

#endif
