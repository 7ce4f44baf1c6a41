/*
 * worker_cache.h - a worker's cache in front of its computation: the outputs that it or another worker made of the
 * same picture before.
 *
 * A thread of its own talks to Redis: a task that may be known waits here first, then is answered, or goes on to the
 * compute thread, which never waits for a cache.  Outputs are kept from here too, behind the lookups; when too
 * many wait, the newest is not kept.
 *
 * Lock: the worker's, except inside the functions that say so.
 */
#ifndef TY_WIRE_WORKER_CACHE_H
#define TY_WIRE_WORKER_CACHE_H

#include "common/wire/worker_internal.h"

/* Starts the thread when the contract names a cache and the stage is a pure one.  Fails: TY_EINVAL (the URL),
 * TY_ENOMEM, TY_EIO. */
ty_status ty_worker_cache_start(ty_worker *w, ty_err *err);
/* Keeps what waits to be kept as far as the server is quick, ends the thread.  The I/O thread may go on with the rest. */
void ty_worker_cache_stop(ty_worker *w);
/* After ty_worker_cache_stop and the I/O thread's end.  Jobs that still wait are dropped. */
void ty_worker_cache_destroy(ty_worker *w);

/* I/O thread: takes a job that may be known (lock not held); false: it is none. */
bool ty_worker_cache_take(ty_worker *w, ty_job *j);
/* Lock held: will a job still come to `waiting`, or be answered, from here? */
bool ty_worker_cache_busy(const ty_worker *w);
/* Lock held: takes out the job of that dispatch which still waits; NULL: there is none. */
ty_job *ty_worker_cache_find(ty_worker *w, const ty_worker_link *l, uint64_t dispatch);
/* Lock held: moves the jobs that still wait there for broker l (NULL: all) to the end of the list. */
void ty_worker_cache_move(ty_worker *w, const ty_worker_link *l, struct ty_job_list *to);
/* Compute thread: the output of a job that was not known; shares the frames, drops nothing of it. */
void ty_worker_cache_keep(ty_worker *w, const ty_job *j, const ty_message *result);

#endif
