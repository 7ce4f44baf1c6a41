/* worker_io.c - the worker's I/O thread, to which its sockets belong.
 *
 * Says hello to each broker until it is welcomed, then gives a sign of life every interval.  A broker that
 * gave none for three intervals gets a new hello, while what it asked for is computed; its results leave
 * once we are welcome again.  When it is gone for long, or does not know us any more, nobody waits for
 * them there: they are dropped, and their places are the other brokers'. */
#include "common/wire/worker_cache.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/wire/socket.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    RECV_AT_ONCE = 64,
    FLUSH_MS = 2000,
    FULL_MS = 5,
    GONE_BEATS = 4 * TY_HEARTBEATS_MISSED, /* so long silent: what it asked for is dropped */
    DRAIN_MS = 30000,
    REOPEN_US = 5000000,
};

static ty_credit *credit_of(ty_worker *w, const ty_worker_link *l) {
    return &w->credit[l - w->link];
}

static bool is_draining(ty_worker *w) {
    pthread_mutex_lock(&w->lock);
    bool yes = w->draining;
    pthread_mutex_unlock(&w->lock);
    return yes;
}

/* ---- what we say ---- */

static ty_status append_spec(const Tyto__TensorSpec *from, Tyto__TensorSpec ***list, size_t *n) {
    Tyto__TensorSpec *s = ty_pb_new(&tyto__tensor_spec__descriptor);
    if (!s) return TY_ENOMEM;
    s->shape = malloc((from->n_shape + 1) * sizeof(*s->shape));
    if (!s->shape || ty_pb_set_str(&s->name, from->name) != TY_OK) goto failed;
    if (from->n_shape) memcpy(s->shape, from->shape, from->n_shape * sizeof(*s->shape));
    s->n_shape = from->n_shape;
    s->dtype = from->dtype;
    if (ty_pb_append(list, n, s) == TY_OK) return TY_OK;
failed:
    tyto__tensor_spec__free_unpacked(s, NULL);
    return TY_ENOMEM;
}

/* The credits of a hello; they count as granted once we are welcome. */
static uint32_t offer(ty_worker *w, ty_worker_link *l) {
    ty_credit *c = credit_of(w, l);
    if (is_draining(w)) return l->offered = 0;
    ty_credit_begin(w->credit, w->n_link, (int)(l - w->link), (uint32_t)w->contract->credits);
    l->offered = c->granted;
    if (!c->live) c->granted = 0;
    return l->offered;
}

static ty_status fill_hello(ty_worker *w, ty_worker_link *l, Tyto__Hello *h) {
    const ty_worker_contract *c = w->contract;
    ty_status st = TY_OK;
    h->incarnation = w->incarnation;
    h->pid = (uint32_t)getpid();
    h->credits = offer(w, l);
    h->holds = credit_of(w, l)->held;
    h->batch_limit = c->batch_limit > 0 ? (uint32_t)c->batch_limit : 1;
    if (ty_pb_set_str(&h->stage, w->stage->name) != TY_OK ||
        ty_pb_set_str(&h->worker, c->worker) != TY_OK ||
        ty_pb_set_str(&h->model, c->model_id) != TY_OK ||
        ty_pb_set_str(&h->pipeline, c->pipeline) != TY_OK ||
        ty_pb_set_str(&h->cpu, c->cpu) != TY_OK ||
        ty_pb_set_str(&h->kernels, c->kernels) != TY_OK ||
        ty_pb_set_str(&h->arithmetic, c->arithmetic) != TY_OK)
        return TY_ENOMEM;
    for (int i = 0; st == TY_OK && i < c->n_takes; i++)
        st = append_spec(c->takes[i], &h->takes, &h->n_takes);
    for (int i = 0; st == TY_OK && i < c->n_gives; i++)
        st = append_spec(c->gives[i], &h->gives, &h->n_gives);
    for (int i = 0; st == TY_OK && i < c->n_adapters; i++) {
        char *id = strdup(c->adapters[i]);
        st = id ? ty_pb_append(&h->adapters, &h->n_adapters, id) : TY_ENOMEM;
        if (st != TY_OK) free(id);
    }
    return st;
}

/* Sends a message with that body; a broker that is away or full gets the next one. */
static bool say(ty_worker_link *l, Tyto__Envelope__BodyCase c, void *body) {
    ty_message *m = ty_message_new();
    if (!m || !body) {
        ty_message_destroy(&m);
        if (body) protobuf_c_message_free_unpacked(body, NULL);
        return false;
    }
    ty_message_set_body(m, c, body);
    bool sent = ty_message_send(l->socket, false, &m, NULL) == TY_OK;
    ty_message_destroy(&m);
    return sent;
}

static void say_hello(ty_worker *w, ty_worker_link *l) {
    Tyto__Hello *h = ty_pb_new(&tyto__hello__descriptor);
    if (h && fill_hello(w, l, h) != TY_OK) {
        tyto__hello__free_unpacked(h, NULL);
        h = NULL;
    }
    if (!say(l, TYTO__ENVELOPE__BODY_HELLO, h) && !l->said_waiting) {
        ty_info("waiting for a broker at %s", l->endpoint);
        l->said_waiting = true;
    }
}

/* NULL: out of memory, or the stage counts none. */
static Tyto__Pages *make_pages(ty_worker *w) {
    Tyto__Pages *p = w->stage->pages ? ty_pb_new(&tyto__pages__descriptor) : NULL;
    if (!p) return NULL;
    pthread_mutex_lock(&w->lock);
    p->used = w->pages.used;
    p->cached = w->pages.cached;
    p->total = w->pages.total;
    pthread_mutex_unlock(&w->lock);
    return p;
}

static void say_heartbeat(ty_worker *w, ty_worker_link *l) {
    Tyto__Heartbeat *h = ty_pb_new(&tyto__heartbeat__descriptor);
    if (h) {
        h->in_flight = credit_of(w, l)->held;
        h->pages = make_pages(w);
    }
    say(l, TYTO__ENVELOPE__BODY_HEARTBEAT, h);
}

static bool say_credit(ty_worker_link *l, int32_t change, bool leaving) {
    Tyto__Credit *c = ty_pb_new(&tyto__credit__descriptor);
    if (c) {
        c->change = change;
        c->leaving = leaving;
    }
    return say(l, TYTO__ENVELOPE__BODY_CREDIT, c);
}

/* Credits go where they are wanted. */
static void balance(ty_worker *w) {
    int32_t change[TY_ENDPOINTS_MAX];
    if (is_draining(w)) return;
    ty_credit_balance(w->credit, w->n_link, (uint32_t)w->contract->credits, change);
    for (int i = 0; i < w->n_link; i++)
        if (change[i] != 0 && !say_credit(&w->link[i], change[i], false))
            w->credit[i].granted = (uint32_t)((int64_t)w->credit[i].granted - change[i]);
}

/* ---- a broker that is away ---- */

static void set_welcome(ty_worker *w, ty_worker_link *l, bool welcome) {
    ty_credit *c = credit_of(w, l);
    l->welcomed = c->live = welcome;
    c->granted = welcome ? l->offered : 0;
}

/* Nobody there waits for what the link's broker asked for: waiting jobs go, open ones are cancelled,
 * and nothing that they still say is sent. */
static void drop_tasks(ty_worker *w, ty_worker_link *l) {
    ty_job *j, *after;
    struct ty_job_list dropped = TAILQ_HEAD_INITIALIZER(dropped);
    struct ty_outbox unsent = TAILQ_HEAD_INITIALIZER(unsent);
    uint32_t n = credit_of(w, l)->held;
    pthread_mutex_lock(&w->lock);
    for (j = TAILQ_FIRST(&w->waiting); j; j = after) {
        after = TAILQ_NEXT(j, next);
        if (j->link != l) continue;
        TAILQ_REMOVE(&w->waiting, j, next);
        TAILQ_INSERT_TAIL(&dropped, j, next);
    }
    TAILQ_FOREACH(j, &w->open, next)
    if (j->link == l) j->cancel_wanted = j->orphan = true;
    ty_worker_cache_move(w, l, &dropped);
    TAILQ_CONCAT(&unsent, &l->outbox, next);
    l->epoch++;
    pthread_mutex_unlock(&w->lock);
    ty_worker_drop_jobs(&dropped);
    ty_worker_drop_outbox(&unsent);
    credit_of(w, l)->held = 0;
    if (n > 0) ty_info("broker %s: %u of its tasks are dropped", l->endpoint, n);
}

static void notice_silence(ty_worker *w, ty_worker_link *l, int64_t silent_us, int64_t interval) {
    if (l->welcomed && silent_us > TY_HEARTBEATS_MISSED * interval) {
        ty_warn("broker %s gave no sign for %d ms", l->endpoint,
                TY_HEARTBEATS_MISSED * l->heartbeat_ms);
        set_welcome(w, l, false);
    }
    if (!l->welcomed && credit_of(w, l)->held > 0 && silent_us > GONE_BEATS * interval)
        drop_tasks(w, l);
}

/* A broker that refuses our key closes the connection, and ZeroMQ makes no other by itself: by and by the
 * keys may be put right. */
static void connect_anew(ty_worker *w, ty_worker_link *l, int64_t now) {
    void *fresh = NULL;
    if (l->welcomed || !w->security.keys || !ty_socket_is_tcp(l->endpoint)) return;
    if (now - l->opened_us < REOPEN_US || now - l->heard_us < REOPEN_US) return;
    l->opened_us = now;
    if (ty_socket_connect(w->zmq, ZMQ_DEALER, l->endpoint, &w->security, &fresh, NULL) != TY_OK)
        return;
    ty_socket_close(&l->socket, 0);
    l->socket = fresh;
}

/* The sign of life that is due: a heartbeat, or a hello while we are not welcome. */
static void tick(ty_worker *w, ty_worker_link *l, int64_t now) {
    int64_t interval = (int64_t)l->heartbeat_ms * 1000;
    notice_silence(w, l, now - l->heard_us, interval);
    connect_anew(w, l, now);
    if (l->beat_us && now - l->beat_us < interval) return;
    l->beat_us = now;
    if (l->welcomed)
        say_heartbeat(w, l);
    else
        say_hello(w, l);
}

/* ---- what we hear ---- */

static void refuse_run(ty_worker *w, const ty_worker_link *l, ty_status st, const char *text) {
    pthread_mutex_lock(&w->lock);
    ty_fail(&w->refused, st, "broker %s refuses worker %s: %s", l->endpoint, w->contract->worker,
            text);
    w->leave = true;
    pthread_cond_broadcast(&w->work);
    pthread_mutex_unlock(&w->lock);
}

static void on_welcome(ty_worker *w, ty_worker_link *l, const Tyto__Welcome *x) {
    if (x->accepted) {
        if (!l->welcomed) ty_info("welcome at broker %s", l->endpoint);
        if (l->broker && x->incarnation != l->broker) drop_tasks(w, l);
        l->broker = x->incarnation;
        set_welcome(w, l, true);
        l->said_waiting = false;
        if (is_draining(w)) say_credit(l, 0, true);
        if (x->heartbeat_ms > 0 && x->heartbeat_ms < 3600000)
            l->heartbeat_ms = (int)x->heartbeat_ms;
        return;
    }
    set_welcome(w, l, false);
    ty_status st = x->error ? ty_status_from_name(x->error->status) : TY_EINTERNAL;
    const char *text = x->error ? x->error->text : "";
    if (ty_status_transient(st))
        ty_warn("broker %s is not ready for us: %s", l->endpoint, text);
    else
        refuse_run(w, l, st, text);
}

static void on_error(ty_worker *w, ty_worker_link *l, const Tyto__Error *e) {
    ty_status st = ty_status_from_name(e->status);
    if (st == TY_EVERSION) {
        refuse_run(w, l, st, e->text);
    } else if (st == TY_EUNAVAILABLE) {
        /* It started anew, or took us for dead: introduce ourselves at once. */
        if (l->welcomed) ty_info("broker %s does not know us: hello again", l->endpoint);
        set_welcome(w, l, false);
        drop_tasks(w, l);
        l->beat_us = 0;
    } else {
        ty_warn("broker %s: %s: %s", l->endpoint, e->status, e->text);
    }
}

/* A task that is not begun goes to another worker. */
static void hand_back(ty_worker *w, ty_worker_link *l, const ty_message *task) {
    ty_message *m = ty_message_new();
    void *body = ty_pb_new(&tyto__handed_back__descriptor);
    if (!m || !body || ty_message_copy_ids(m, task) != TY_OK) {
        ty_error("req=%s lost: no memory to hand it back", task->env->request_id);
        if (body) protobuf_c_message_free_unpacked(body, NULL);
        ty_message_destroy(&m);
        return;
    }
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_HANDED_BACK, body);
    ty_worker_post(w, l, l->epoch, m, true);
}

static void on_task(ty_worker *w, ty_worker_link *l, ty_message **m) {
    const char *id = (*m)->env->request_id;
    ty_credit_take(w->credit, (int)(l - w->link));
    if (is_draining(w)) { /* it was on its way when we began to leave */
        hand_back(w, l, *m);
        return;
    }
    ty_job *j = ty_job_create(w, l, m);
    if (!j) {
        ty_error("req=%s lost: no memory for a job", id);
        return;
    }
    if (ty_worker_cache_take(w, j)) return;
    pthread_mutex_lock(&w->lock);
    TAILQ_INSERT_TAIL(&w->waiting, j, next);
    pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->lock);
}

/* A waiting job is dropped, an open one is the compute thread's to end (a pure stage's comes to its
 * end anyway, and the broker drops the result). */
static void on_cancel(ty_worker *w, const ty_worker_link *l, uint64_t dispatch) {
    ty_job *j;
    pthread_mutex_lock(&w->lock);
    TAILQ_FOREACH(j, &w->waiting, next)
    if (j->link == l && j->task->env->dispatch == dispatch) break;
    if (j) {
        TAILQ_REMOVE(&w->waiting, j, next);
    } else if (!(j = ty_worker_cache_find(w, l, dispatch))) {
        ty_job *o;
        TAILQ_FOREACH(o, &w->open, next)
        if (o->link == l && o->task->env->dispatch == dispatch) o->cancel_wanted = true;
    }
    pthread_mutex_unlock(&w->lock);
    if (j) ty_job_fail(j, TY_ECANCELED, "cancelled before it was computed");
}

static void on_message(ty_worker *w, ty_worker_link *l, ty_message **m) {
    const Tyto__Envelope *e = (*m)->env;
    l->heard_us = ty_now_us();
    switch (e->body_case) {
    case TYTO__ENVELOPE__BODY_WELCOME: on_welcome(w, l, e->welcome); break;
    case TYTO__ENVELOPE__BODY_HEARTBEAT: break;
    case TYTO__ENVELOPE__BODY_TASK: on_task(w, l, m); break;
    case TYTO__ENVELOPE__BODY_CANCEL: on_cancel(w, l, e->dispatch); break;
    case TYTO__ENVELOPE__BODY_ERROR: on_error(w, l, e->error); break;
    case TYTO__ENVELOPE__BODY_GOODBYE:
        ty_info("broker %s says goodbye", l->endpoint);
        set_welcome(w, l, false);
        break;
    default: ty_warn("broker %s: unexpected message, body %d", l->endpoint, (int)e->body_case);
    }
}

/* A message that could not be read.  One that names a task is answered, so that nobody waits. */
static void on_bad_message(ty_worker *w, ty_worker_link *l, ty_message *m, const ty_err *err) {
    ty_warn("broker %s: refused a message: %s", l->endpoint, err->text);
    if (err->code == TY_EVERSION && !l->welcomed) refuse_run(w, l, err->code, err->text);
    if (!m || m->env->dispatch == 0) return;
    ty_message *answer = ty_message_new();
    if (!answer || ty_message_copy_ids(answer, m) != TY_OK) {
        ty_message_destroy(&answer);
        return;
    }
    ty_message_set_error(answer, err->code, err->text, w->stage->name);
    ty_credit_take(w->credit, (int)(l - w->link)); /* the answer lets go of it */
    ty_worker_post(w, l, l->epoch, answer, true);
}

static void receive(ty_worker *w, ty_worker_link *l) {
    for (int i = 0; i < RECV_AT_ONCE; i++) {
        ty_message *m = NULL;
        ty_err err = {0};
        ty_status st = ty_message_recv(l->socket, false, &m, &err);
        if (st == TY_ENOTFOUND) return;
        if (st == TY_OK)
            on_message(w, l, &m);
        else
            on_bad_message(w, l, m, &err);
        ty_message_destroy(&m);
    }
}

/* ---- what leaves ---- */

/* The oldest of the outbox, left in it. */
static ty_outgoing *peek(ty_worker *w, ty_worker_link *l) {
    pthread_mutex_lock(&w->lock);
    ty_outgoing *o = TAILQ_FIRST(&l->outbox);
    pthread_mutex_unlock(&w->lock);
    return o;
}

static void remove_outgoing(ty_worker *w, ty_worker_link *l, ty_outgoing *o) {
    pthread_mutex_lock(&w->lock);
    TAILQ_REMOVE(&l->outbox, o, next);
    pthread_mutex_unlock(&w->lock);
    ty_message_destroy(&o->m);
    free(o);
}

/* Its task's place is free from now on; the answer grants it anew, if that broker is to have it. */
static void release(ty_worker *w, ty_worker_link *l, ty_outgoing *o) {
    Tyto__Envelope *e = o->m->env;
    uint32_t granted =
        ty_credit_release(w->credit, w->n_link, (int)(l - w->link), (uint32_t)w->contract->credits);
    if (is_draining(w)) granted = 0;
    o->closes = false; /* not a second time */
    if (e->body_case == TYTO__ENVELOPE__BODY_RESULT) e->result->credits = granted;
    if (e->body_case == TYTO__ENVELOPE__BODY_ERROR) e->error->credits = granted;
}

/* True when everything has left. */
static bool flush(ty_worker *w, ty_worker_link *l) {
    for (ty_outgoing *o; (o = peek(w, l));) {
        ty_err err;
        if (o->epoch != l->epoch) { /* of a task that was dropped */
            remove_outgoing(w, l, o);
            continue;
        }
        if (!l->welcomed) return false;
        if (o->closes) release(w, l, o);
        ty_status st = ty_message_send(l->socket, false, &o->m, &err);
        if (st == TY_EOVERLOAD) return false;
        if (st != TY_OK) ty_error("broker %s: an answer is lost: %s", l->endpoint, err.text);
        remove_outgoing(w, l, o);
    }
    return true;
}

static bool flush_all(ty_worker *w) {
    bool all = true;
    for (int i = 0; i < w->n_link; i++) all = flush(w, &w->link[i]) && all;
    return all;
}

/* ---- the loop ---- */

/* No broker sends more, and what is not begun goes back; what is open is computed to its end. */
static void begin_draining(ty_worker *w) {
    int n = 0, ms = w->contract->drain_ms > 0 ? w->contract->drain_ms : DRAIN_MS;
    struct ty_job_list back = TAILQ_HEAD_INITIALIZER(back);
    w->drain_until_us = ty_now_us() + (int64_t)ms * 1000;
    for (int i = 0; i < w->n_link; i++) {
        w->credit[i].granted = 0;
        if (w->link[i].welcomed) say_credit(&w->link[i], 0, true);
    }
    pthread_mutex_lock(&w->lock);
    TAILQ_CONCAT(&back, &w->waiting, next);
    ty_worker_cache_move(w, NULL, &back);
    pthread_mutex_unlock(&w->lock);
    for (ty_job *j; (j = TAILQ_FIRST(&back)); n++) {
        TAILQ_REMOVE(&back, j, next);
        hand_back(w, j->link, j->task);
        ty_job_destroy(j);
    }
    ty_info("draining: at most %d ms for what is open, %d tasks handed back", ms, n);
}

/* SIGTERM drains; a second one, or the end of the time, leaves what is open to other workers. */
static void check_signals(ty_worker *w) {
    int n = ty_worker_signals();
    if (n == 0) return;
    pthread_mutex_lock(&w->lock);
    bool begins = !w->draining, left = w->leave;
    w->draining = true;
    bool late = !begins && ty_now_us() >= w->drain_until_us;
    if (n > 1 || late) w->leave = true;
    pthread_cond_broadcast(&w->work);
    pthread_mutex_unlock(&w->lock);
    if (begins) begin_draining(w);
    if (late && !left) ty_warn("the time to drain is over: what is open is left to other workers");
}

static bool is_finished(ty_worker *w) {
    pthread_mutex_lock(&w->lock);
    bool yes = w->finished;
    pthread_mutex_unlock(&w->lock);
    return yes;
}

static long next_timeout_ms(const ty_worker *w, bool flushed, int64_t now) {
    int64_t until = now + 1000000;
    if (w->drain_until_us > now && w->drain_until_us < until) until = w->drain_until_us;
    for (int i = 0; i < w->n_link; i++) {
        const ty_worker_link *l = &w->link[i];
        int64_t beat = l->beat_us + (int64_t)l->heartbeat_ms * 1000;
        if (beat < until) until = beat;
        if (!flushed && l->welcomed && now + FULL_MS * 1000 < until) until = now + FULL_MS * 1000;
    }
    return until > now ? (long)((until - now + 999) / 1000) : 0;
}

bool ty_worker_send_now(ty_worker *w, ty_worker_link *l, uint32_t epoch, ty_message **m) {
    if (pthread_mutex_trylock(&w->sockets) != 0) return false;
    pthread_mutex_lock(&w->lock);
    bool may = TAILQ_EMPTY(&l->outbox) && epoch == l->epoch;
    pthread_mutex_unlock(&w->lock);
    bool sent = may && l->welcomed && ty_message_send(l->socket, false, m, NULL) == TY_OK;
    if (sent && ty_socket_waits(l->socket)) ty_worker_wake(w);
    pthread_mutex_unlock(&w->sockets);
    return sent;
}

static void sleep_until(ty_worker *w, long timeout_ms) {
    struct pollfd item[TY_ENDPOINTS_MAX + 1];
    uint64_t count;
    for (int i = 0; i < w->n_link; i++)
        item[i] = (struct pollfd){.fd = ty_socket_fd(w->link[i].socket), .events = POLLIN};
    item[w->n_link] = (struct pollfd){.fd = w->wake_fd, .events = POLLIN};
    pthread_mutex_unlock(&w->sockets);
    int n = poll(item, (nfds_t)w->n_link + 1, (int)timeout_ms);
    pthread_mutex_lock(&w->sockets);
    if (n > 0 && (item[w->n_link].revents & POLLIN) && read(w->wake_fd, &count, sizeof(count)) < 0)
        return; /* another wake-up comes with the next write */
}

static void wait_and_receive(ty_worker *w, long timeout_ms) {
    bool any = false;
    for (int i = 0; i < w->n_link; i++) any = ty_socket_waits(w->link[i].socket) || any;
    if (!any) sleep_until(w, timeout_ms);
    for (int i = 0; i < w->n_link; i++) receive(w, &w->link[i]);
}

static void leave(ty_worker *w) {
    int64_t until = ty_now_us() + FLUSH_MS * 1000;
    while (!flush_all(w) && ty_now_us() < until) wait_and_receive(w, FULL_MS);
    for (int i = 0; i < w->n_link; i++)
        if (w->link[i].welcomed)
            say(&w->link[i], TYTO__ENVELOPE__BODY_GOODBYE, ty_pb_new(&tyto__goodbye__descriptor));
}

void *ty_worker_io(void *arg) {
    ty_worker *w = arg;
    pthread_mutex_lock(&w->sockets);
    while (!is_finished(w)) {
        check_signals(w);
        for (int i = 0; i < w->n_link; i++) tick(w, &w->link[i], ty_now_us());
        bool flushed = flush_all(w);
        balance(w);
        wait_and_receive(w, next_timeout_ms(w, flushed, ty_now_us()));
    }
    leave(w);
    pthread_mutex_unlock(&w->sockets);
    return NULL;
}
