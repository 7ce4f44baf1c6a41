/*
 * pool.c - a team of threads that outlives its jobs.
 *
 * A job is published by raising `generation` and opening it (`open` = its generation).  A worker
 * that sees a new generation enters (`inside`++), looks whether a job is open and, if so, takes
 * tasks until none is left.  The caller works too, closes the job when the tasks have run out, and
 * waits for those inside alone: a worker that the kernel has not scheduled yet is not waited for,
 * which is what keeps small jobs cheap on a machine that others use.
 *
 * `inside`/`open` are a Dekker pair: the worker raises inside and then reads open, the caller
 * clears open and then reads inside, all sequentially consistent, so that one of them sees the
 * other.  Threads are not pinned: several Tyto processes share one machine, and a pinned thread
 * cannot leave the core that another process has taken.
 */
#include "common/math/pool.h"
#include "common/base/big.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SPINS = 2000, SLOTS = TY_POOL_SLOTS }; /* about 30 us, then sleep */

typedef struct {
    ty_pool *pool;
    int member;
    pthread_t thread;
} worker;

struct ty_pool {
    int n_member;
    int n_started;
    worker *workers;
    void (*fn)(void *ctx, int task, int member);
    void *ctx;
    int n_tasks;
    _Alignas(64) atomic_int next;
    _Alignas(64) atomic_uint generation;
    atomic_uint open; /* generation that may be entered; 0 = none */
    _Alignas(64) atomic_int inside;
    atomic_int sleepers;
    atomic_bool caller_sleeps, stop;
    pthread_mutex_t mutex;
    pthread_cond_t wake, left;
    struct {
        void *data;
        size_t size;
    } scratch[SLOTS];
};

static void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void take_tasks(ty_pool *p, int member) {
    int n = p->n_tasks;
    for (;;) {
        int task = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (task >= n) return;
        p->fn(p->ctx, task, member);
    }
}

static void enter_and_work(ty_pool *p, int member) {
    atomic_fetch_add(&p->inside, 1);
    if (atomic_load(&p->open)) take_tasks(p, member);
    if (atomic_fetch_sub(&p->inside, 1) == 1 && atomic_load(&p->caller_sleeps)) {
        pthread_mutex_lock(&p->mutex);
        pthread_cond_signal(&p->left);
        pthread_mutex_unlock(&p->mutex);
    }
}

/* Returns when the generation differs from `seen` or the pool stops. */
static void await_job(ty_pool *p, unsigned seen) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&p->generation, memory_order_acquire) != seen) return;
        cpu_relax();
    }
    pthread_mutex_lock(&p->mutex);
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->generation) == seen && !atomic_load(&p->stop))
        pthread_cond_wait(&p->wake, &p->mutex);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->mutex);
}

static void *worker_main(void *arg) {
    worker *w = arg;
    ty_pool *p = w->pool;
    unsigned seen = 0;
    for (;;) {
        await_job(p, seen);
        if (atomic_load(&p->stop)) return NULL;
        seen = atomic_load(&p->generation);
        enter_and_work(p, w->member);
    }
}

static int cores_allowed(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    int n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}

/* Signals are for the process's own threads: workers start with all of them blocked. */
static int start_workers(ty_pool *p) {
    sigset_t all, before;
    int rc = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 1; i < p->n_member && rc == 0; i++) {
        worker *w = &p->workers[p->n_started];
        *w = (worker){.pool = p, .member = i};
        rc = pthread_create(&w->thread, NULL, worker_main, w);
        if (rc == 0) p->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

ty_status ty_pool_create(ty_pool **out, int n_threads, ty_err *err) {
    *out = NULL;
    if (n_threads < 0 || n_threads > 1024)
        return ty_fail(err, TY_EINVAL, "%d threads: want 0 (one per core) to 1024", n_threads);
    if (n_threads == 0) n_threads = cores_allowed();
    ty_pool *p = aligned_alloc(64, (sizeof *p + 63) / 64 * 64);
    if (!p) return ty_fail(err, TY_ENOMEM, "thread pool: out of memory");
    memset(p, 0, sizeof *p);
    p->n_member = n_threads;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->left, NULL);
    p->workers = calloc((size_t)n_threads, sizeof *p->workers);
    if (!p->workers) {
        ty_pool_destroy(&p);
        return ty_fail(err, TY_ENOMEM, "thread pool: out of memory");
    }
    int rc = start_workers(p);
    if (rc != 0) {
        ty_status st = ty_fail(err, TY_ENOMEM, "thread pool: thread %d of %d: %s", p->n_started + 2,
                               n_threads, strerror(rc));
        ty_pool_destroy(&p);
        return st;
    }
    *out = p;
    return TY_OK;
}

int ty_pool_size(const ty_pool *p) {
    return p ? p->n_member : 1;
}

static void await_leavers(ty_pool *p) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load(&p->inside) == 0) return;
        cpu_relax();
    }
    pthread_mutex_lock(&p->mutex);
    atomic_store(&p->caller_sleeps, true);
    while (atomic_load(&p->inside) != 0) pthread_cond_wait(&p->left, &p->mutex);
    atomic_store(&p->caller_sleeps, false);
    pthread_mutex_unlock(&p->mutex);
}

static void publish(ty_pool *p) {
    unsigned g = atomic_load(&p->generation) + 1;
    if (g == 0) g = 1;
    atomic_store(&p->open, g);
    atomic_store(&p->generation, g);
    if (atomic_load(&p->sleepers) == 0) return;
    pthread_mutex_lock(&p->mutex);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->mutex);
}

void ty_pool_run(ty_pool *p, int n_tasks, void (*fn)(void *ctx, int task, int member), void *ctx) {
    if (!p || p->n_member == 1 || n_tasks <= 1) {
        for (int i = 0; i < n_tasks; i++) fn(ctx, i, 0);
        return;
    }
    p->fn = fn;
    p->ctx = ctx;
    p->n_tasks = n_tasks;
    atomic_store(&p->next, 0);
    publish(p);
    take_tasks(p, 0);
    atomic_store(&p->open, 0);
    await_leavers(p);
}

void *ty_pool_scratch(ty_pool *p, int slot, size_t bytes) {
    if (p->scratch[slot].size >= bytes && p->scratch[slot].data) return p->scratch[slot].data;
    if (bytes > SIZE_MAX - 4096) return NULL;
    size_t size = bytes ? (bytes + 4095) / 4096 * 4096 : 4096;
    void *data = ty_big_alloc(size);
    if (!data) return NULL;
    free(p->scratch[slot].data);
    p->scratch[slot].data = data;
    p->scratch[slot].size = size;
    return data;
}

void ty_pool_destroy(ty_pool **pp) {
    ty_pool *p = *pp;
    *pp = NULL;
    if (!p) return;
    pthread_mutex_lock(&p->mutex);
    atomic_store(&p->stop, true);
    atomic_fetch_add(&p->generation, 1);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->mutex);
    for (int i = 0; i < p->n_started; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->left);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->mutex);
    for (int i = 0; i < SLOTS; i++) free(p->scratch[i].data);
    free(p->workers);
    free(p);
}
