/* worker.c - see worker.h: the compute thread's loops, and the run as a whole. */
#include "common/wire/worker_cache.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/wire/socket.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* A signal handler reaches nothing else.  It may run on any thread, so that threads which the stage
 * started before us need not block the signals. */
static atomic_int signal_count;
static atomic_int signal_wake_fd = -1;

int ty_worker_signals(void) {
    return atomic_load(&signal_count);
}

static void wake(int fd) {
    uint64_t one = 1;
    /* A full counter is awake already; nothing else can go wrong with an eventfd. */
    if (write(fd, &one, sizeof(one)) < 0) return;
}

static void on_signal(int signo) {
    (void)signo;
    int saved = errno;
    atomic_fetch_add(&signal_count, 1);
    int fd = atomic_load(&signal_wake_fd);
    if (fd >= 0) wake(fd);
    errno = saved;
}

void ty_worker_wake(ty_worker *w) {
    wake(w->wake_fd);
}

void ty_worker_post(ty_worker *w, ty_worker_link *l, uint32_t epoch, ty_message *m, bool closes) {
    if (!closes && ty_worker_send_now(w, l, epoch, &m)) return;
    ty_outgoing *o = malloc(sizeof(*o));
    if (!o) {
        ty_error("req=%s lost: no memory to send", m->env->request_id);
        ty_message_destroy(&m);
        return;
    }
    *o = (ty_outgoing){.m = m, .epoch = epoch, .closes = closes};
    pthread_mutex_lock(&w->lock);
    bool first = TAILQ_EMPTY(&l->outbox);
    TAILQ_INSERT_TAIL(&l->outbox, o, next);
    pthread_mutex_unlock(&w->lock);
    if (first) wake(w->wake_fd);
}

/* ---- compute thread ---- */

/* Ends jobs that need no computing: too late, or damaged. */
static bool admit(ty_job *j) {
    ty_err err;
    int64_t deadline = ty_job_deadline_unix_us(j);
    if (deadline && ty_now_unix_us() >= deadline) {
        ty_job_fail(j, TY_ETIMEOUT, "the deadline passed before it was computed");
        return false;
    }
    ty_status st = ty_job_verify(j, &err);
    if (st != TY_OK) ty_job_fail(j, st, err.text);
    return st == TY_OK;
}

/* Moves up to `most` waiting jobs to `open`; lock held. */
static int take_waiting(ty_worker *w, ty_job **jobs, int most) {
    int n = 0;
    while (n < most && !TAILQ_EMPTY(&w->waiting)) {
        ty_job *j = TAILQ_FIRST(&w->waiting);
        TAILQ_REMOVE(&w->waiting, j, next);
        TAILQ_INSERT_TAIL(&w->open, j, next);
        j->open = true;
        jobs[n++] = j;
    }
    return n;
}

static int admit_all(ty_job **jobs, int n) {
    int kept = 0;
    for (int i = 0; i < n; i++)
        if (admit(jobs[i])) jobs[kept++] = jobs[i];
    return kept;
}

/* Jobs that the stage left open, which its contract forbids. */
static void fail_left_open(ty_worker *w) {
    for (;;) {
        pthread_mutex_lock(&w->lock);
        ty_job *j = TAILQ_FIRST(&w->open);
        pthread_mutex_unlock(&w->lock);
        if (!j) return;
        ty_job_fail(j, TY_EINTERNAL, "the stage gave no answer");
    }
}

static void run_batch(ty_worker *w, ty_job **jobs, int n) {
    int64_t now = ty_now_us();
    for (int i = 0; i < n; i++) {
        jobs[i]->start_us = now;
        jobs[i]->batch = (uint32_t)n;
    }
    w->stage->batch(w->ctx, jobs, n);
    fail_left_open(w);
}

static void compute_batches(ty_worker *w, ty_job **jobs, int most) {
    for (;;) {
        pthread_mutex_lock(&w->lock);
        while (TAILQ_EMPTY(&w->waiting) && !w->leave && (!w->draining || ty_worker_cache_busy(w)))
            pthread_cond_wait(&w->work, &w->lock);
        int n = w->leave ? 0 : take_waiting(w, jobs, most);
        pthread_mutex_unlock(&w->lock);
        if (n == 0) return;
        n = admit_all(jobs, n);
        if (n > 0) run_batch(w, jobs, n);
    }
}

static void submit_all(ty_worker *w, ty_job **jobs, int n) {
    for (int i = 0; i < n; i++) {
        if (!admit(jobs[i])) continue;
        jobs[i]->start_us = ty_now_us();
        w->stage->submit(w->ctx, jobs[i]);
    }
}

/* The next open job that must be cancelled, marked as told; NULL when there is none. */
static ty_job *next_to_cancel(ty_worker *w, int64_t now_unix, bool all) {
    ty_job *j;
    pthread_mutex_lock(&w->lock);
    TAILQ_FOREACH(j, &w->open, next) {
        int64_t deadline = ty_job_deadline_unix_us(j);
        bool late = deadline && now_unix >= deadline;
        if (j->cancel_told || !(late || j->cancel_wanted || all)) continue;
        j->timed_out = late;
        j->abandoned = all || j->orphan;
        j->cancel_told = true;
        break;
    }
    pthread_mutex_unlock(&w->lock);
    return j;
}

static void cancel_unwanted(ty_worker *w, bool all) {
    int64_t now = ty_now_unix_us();
    for (ty_job *j; (j = next_to_cancel(w, now, all));) w->stage->cancel(w->ctx, j);
}

/* Waits until there is something to do; the number of jobs taken, -1 at the end. */
static int next_stream_work(ty_worker *w, ty_job **jobs, int most) {
    pthread_mutex_lock(&w->lock);
    while (TAILQ_EMPTY(&w->waiting) && TAILQ_EMPTY(&w->open) && !w->draining && !w->leave)
        pthread_cond_wait(&w->work, &w->lock);
    bool done = w->leave || (TAILQ_EMPTY(&w->waiting) && TAILQ_EMPTY(&w->open));
    int n = done ? -1 : take_waiting(w, jobs, most);
    pthread_mutex_unlock(&w->lock);
    return n;
}

static void count_pages(ty_worker *w) {
    ty_stage_pages p = {0};
    if (!w->stage->pages) return;
    w->stage->pages(w->ctx, &p);
    pthread_mutex_lock(&w->lock);
    w->pages = p;
    pthread_mutex_unlock(&w->lock);
}

static void compute_stream(ty_worker *w, ty_job **jobs, int most) {
    count_pages(w);
    for (int n; (n = next_stream_work(w, jobs, most)) >= 0;) {
        submit_all(w, jobs, n);
        cancel_unwanted(w, false);
        pthread_mutex_lock(&w->lock);
        bool any = !TAILQ_EMPTY(&w->open);
        pthread_mutex_unlock(&w->lock);
        /* A stage that has nothing to do for an open job gets no busy loop. */
        if (any && w->stage->step(w->ctx) == 0 && n == 0) usleep(1000);
        count_pages(w);
    }
    /* Left in a hurry: the stage lets go of what is open, and nobody is answered. */
    for (bool any = true; any;) {
        cancel_unwanted(w, true);
        pthread_mutex_lock(&w->lock);
        any = !TAILQ_EMPTY(&w->open);
        pthread_mutex_unlock(&w->lock);
        if (any && w->stage->step(w->ctx) == 0) break;
    }
}

static ty_status compute(ty_worker *w, ty_err *err) {
    int most = w->contract->batch_limit > 0 ? w->contract->batch_limit : 1;
    ty_job **jobs = calloc((size_t)most, sizeof(*jobs));
    if (!jobs) return ty_fail(err, TY_ENOMEM, "no memory for a batch of %d", most);
    if (w->stage->batch)
        compute_batches(w, jobs, most);
    else
        compute_stream(w, jobs, most);
    free(jobs);
    return TY_OK;
}

/* ---- the run ---- */

static ty_status open_link(ty_worker *w, const char *endpoint, ty_err *err) {
    ty_worker_link *l = &w->link[w->n_link];
    ty_status st = ty_socket_connect(w->zmq, ZMQ_DEALER, endpoint, &w->security, &l->socket, err);
    if (st != TY_OK) return st;
    w->n_link++;
    TAILQ_INIT(&l->outbox);
    l->heartbeat_ms = TY_HEARTBEAT_MS;
    l->opened_us = ty_now_us();
    l->endpoint = strdup(endpoint);
    return l->endpoint ? TY_OK : ty_fail(err, TY_ENOMEM, "no memory");
}

static ty_status open_links(ty_worker *w, ty_err *err) {
    ty_endpoints e;
    const ty_worker_contract *c = w->contract;
    ty_status st = ty_endpoints_parse(&e, c->connect, err);
    w->security.insecure = c->insecure_tcp;
    if (st == TY_OK && c->keys && *c->keys) {
        st = ty_keys_load(&w->keys, c->keys, w->stage->name, err);
        w->security.keys = &w->keys;
    }
    for (int i = 0; st == TY_OK && i < e.n; i++) st = open_link(w, e.item[i], err);
    ty_endpoints_clear(&e);
    return st;
}

void ty_worker_drop_jobs(struct ty_job_list *list) {
    for (ty_job *j; (j = TAILQ_FIRST(list));) {
        TAILQ_REMOVE(list, j, next);
        ty_job_destroy(j);
    }
}

void ty_worker_drop_outbox(struct ty_outbox *list) {
    for (ty_outgoing *o; (o = TAILQ_FIRST(list));) {
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): it loses sight of what a TAILQ holds */
        TAILQ_REMOVE(list, o, next);
        ty_message_destroy(&o->m);
        free(o);
    }
}

static void close_worker(ty_worker *w) {
    for (int i = 0; i < w->n_link; i++) {
        ty_worker_link *l = &w->link[i];
        ty_worker_drop_outbox(&l->outbox);
        ty_socket_close(&l->socket, 500);
        free(l->endpoint);
    }
    ty_worker_drop_jobs(&w->waiting);
    ty_worker_drop_jobs(&w->open);
    ty_keys_clear(&w->keys);
    if (w->zmq) zmq_ctx_term(w->zmq);
    if (w->wake_fd >= 0) close(w->wake_fd);
    pthread_cond_destroy(&w->work);
    pthread_mutex_destroy(&w->lock);
    pthread_mutex_destroy(&w->sockets);
}

static ty_status check_stage(const ty_stage *s, const ty_worker_contract *c, ty_err *err) {
    if (!s->batch && !(s->submit && s->step && s->cancel))
        return ty_fail(err, TY_EINVAL, "stage %s: neither a pure nor a streaming one", s->name);
    if (!c->connect || !*c->connect) return ty_fail(err, TY_EINVAL, "no broker to connect to");
    if (!c->worker || !*c->worker) return ty_fail(err, TY_EINVAL, "the worker has no name");
    if (c->credits < 1)
        return ty_fail(err, TY_EINVAL, "worker %s: %d credits, want at least 1", c->worker,
                       c->credits);
    return TY_OK;
}

/* Computes until the end, beside the I/O thread. */
static ty_status run_threads(ty_worker *w, ty_err *err) {
    pthread_t io;
    int rc = pthread_create(&io, NULL, ty_worker_io, w);
    if (rc != 0) return ty_fail(err, TY_EIO, "thread: %s", strerror(rc));
    ty_status st = compute(w, err);
    ty_worker_cache_stop(w);
    pthread_mutex_lock(&w->lock);
    w->finished = true;
    pthread_mutex_unlock(&w->lock);
    wake(w->wake_fd);
    pthread_join(io, NULL);
    if (st == TY_OK && w->refused.code != TY_OK) {
        st = w->refused.code;
        if (err) *err = w->refused;
    }
    return st;
}

ty_status ty_worker_run(const ty_stage *stage, void *ctx, const ty_worker_contract *c,
                        ty_err *err) {
    int none = -1;
    ty_worker w = {.stage = stage, .ctx = ctx, .contract = c, .wake_fd = -1};
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, was_term, was_int;
    ty_status st = check_stage(stage, c, err);
    if (st != TY_OK) return st;
    w.incarnation = (uint64_t)ty_now_unix_us();
    TAILQ_INIT(&w.waiting);
    TAILQ_INIT(&w.open);
    pthread_mutex_init(&w.sockets, NULL);
    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.work, NULL);
    w.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    w.zmq = ty_socket_context();
    if (w.wake_fd < 0 || !w.zmq) {
        st = ty_fail(err, TY_EIO, "eventfd or context: %s", strerror(errno));
        goto done;
    }
    st = open_links(&w, err);
    if (st == TY_OK) st = ty_worker_cache_start(&w, err);
    if (st != TY_OK) goto done;
    if (!atomic_compare_exchange_strong(&signal_wake_fd, &none, w.wake_fd)) {
        st = ty_fail(err, TY_EEXIST, "a worker runs in this process already");
        goto done;
    }
    atomic_store(&signal_count, 0);
    sigemptyset(&act.sa_mask);
    sigaction(SIGTERM, &act, &was_term);
    sigaction(SIGINT, &act, &was_int);
    st = run_threads(&w, err);
    sigaction(SIGTERM, &was_term, NULL);
    sigaction(SIGINT, &was_int, NULL);
    atomic_store(&signal_wake_fd, -1);
done:
    ty_worker_cache_stop(&w);
    ty_worker_cache_destroy(&w);
    close_worker(&w);
    return st;
}
