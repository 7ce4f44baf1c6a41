/* broker.c - see broker.h: the sockets, the loop, the clock. */
#include "services/broker/state.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/wire/socket.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    RECV_AT_ONCE = 256,   /* of one socket, before the other has its turn */
    CLOCK_US = 10000,     /* between two looks at the clock, however many messages come */
    BUSY_CLOCK_MS = 50,   /* while tasks are here: their graces and workers */
    RETRY_MS = 20,        /* for a peer that took nothing */
    NEWS_US = 50000,      /* changes within this time are told together */
    GOODBYE_MS = 500,     /* for the last messages to leave and be read */
    REFUSED_US = 1000000, /* refused messages: one log line in this time */
};

static ty_status fill_options(broker_options *to, const broker_options *o, ty_err *err) {
    if (!o->gateways || !*o->gateways || !o->workers || !*o->workers)
        return ty_fail(err, TY_EINVAL,
                       "the broker needs an endpoint for gateways and one for workers");
    *to = *o;
    if (to->heartbeat_ms == 0) to->heartbeat_ms = TY_HEARTBEAT_MS;
    if (to->queue_limit == 0) to->queue_limit = 1024;
    if (to->grace_ms == 0) to->grace_ms = 2000;
    if (to->lost_grace_ms == 0) to->lost_grace_ms = 30000;
    if (to->drain_ms == 0) to->drain_ms = 10000;
    return TY_OK;
}

static bool has_keys(const broker *b) {
    return b->opt.keys && *b->opt.keys;
}

static ty_status bind_sockets(broker *b, ty_err *err) {
    ty_keys keys = {0};
    ty_status st = TY_OK;
    if (has_keys(b)) st = ty_keys_load(&keys, b->opt.keys, "broker", err);
    if (st == TY_OK && has_keys(b)) st = broker_zap_create(&b->zap, b->zmq, b->opt.keys, err);
    ty_socket_security sec = {.keys = has_keys(b) ? &keys : NULL,
                              .insecure = b->opt.insecure_tcp,
                              .domain = BROKER_ZAP_GATEWAYS};
    if (st == TY_OK)
        st = ty_socket_bind(b->zmq, ZMQ_ROUTER, b->opt.gateways, &sec, &b->gw_socket, err);
    sec.domain = BROKER_ZAP_WORKERS;
    if (st == TY_OK)
        st = ty_socket_bind(b->zmq, ZMQ_ROUTER, b->opt.workers, &sec, &b->wk_socket, err);
    b->workers_secured = has_keys(b) && ty_socket_is_tcp(b->opt.workers);
    ty_keys_clear(&keys);
    return st;
}

ty_status broker_create(const broker_options *o, broker **out, ty_err *err) {
    *out = NULL;
    broker *b = calloc(1, sizeof(*b));
    if (!b) return ty_fail(err, TY_ENOMEM, "no memory for the broker");
    TAILQ_INIT(&b->workers);
    TAILQ_INIT(&b->gateways);
    TAILQ_INIT(&b->queues);
    TAILQ_INIT(&b->tasks);
    /* Not from 1: a worker that outlived an earlier broker must not hit one of our numbers. */
    b->incarnation = b->next_dispatch = (uint64_t)ty_now_unix_us();
    b->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    b->zmq = ty_socket_context();
    b->affinity = broker_affinity_create();
    ty_status st = fill_options(&b->opt, o, err);
    if (st == TY_OK && !b->affinity) st = ty_fail(err, TY_ENOMEM, "no memory for the broker");
    if (st == TY_OK && (b->wake_fd < 0 || !b->zmq))
        st = ty_fail(err, TY_EIO, "eventfd or context: %s", strerror(errno));
    if (st == TY_OK) st = bind_sockets(b, err);
    if (st != TY_OK)
        broker_destroy(&b);
    else
        *out = b;
    return st;
}

void broker_stop(broker *b) {
    uint64_t one = 1;
    int saved = errno;
    atomic_store(&b->stop, true);
    if (write(b->wake_fd, &one, sizeof(one)) < 0) errno = saved; /* it is awake already */
    errno = saved;
}

void broker_destroy(broker **bp) {
    broker *b = *bp;
    if (!b) return;
    /* Gateways first: their tasks go with them, out of the workers' lists. */
    for (broker_gateway *g; (g = TAILQ_FIRST(&b->gateways));) broker_gateway_destroy(b, g);
    for (broker_worker *w; (w = TAILQ_FIRST(&b->workers));) broker_worker_destroy(b, w);
    broker_queues_destroy(b);
    broker_affinity_destroy(&b->affinity);
    ty_socket_close(&b->gw_socket, GOODBYE_MS);
    ty_socket_close(&b->wk_socket, GOODBYE_MS);
    broker_zap_destroy(&b->zap);
    if (b->zmq) zmq_ctx_term(b->zmq);
    if (b->wake_fd >= 0) close(b->wake_fd);
    free(b);
    *bp = NULL;
}

/* ---- receiving ---- */

/* A flood of garbage must not fill the log. */
static void log_refused(broker *b, const char *side, const ty_err *err) {
    int64_t now = ty_now_us();
    b->n_refused++;
    if (b->refused_log_us && now - b->refused_log_us < REFUSED_US) return;
    ty_warn("refused=%d from a %s status=%s text=\"%s\"", b->n_refused, side,
            ty_status_name(err->code), err->text);
    b->refused_log_us = now;
    b->n_refused = 0;
}

static void receive_bad(broker *b, bool from_worker, ty_message **m, const ty_err *err) {
    log_refused(b, from_worker ? "worker" : "gateway", err);
    if (!*m || !(*m)->identity) return;
    if (from_worker)
        broker_worker_bad_message(b, m, err);
    else
        broker_refuse(b->gw_socket, m, err->code, err->text);
}

static void receive(broker *b, bool from_worker) {
    void *socket = from_worker ? b->wk_socket : b->gw_socket;
    for (int i = 0; i < RECV_AT_ONCE; i++) {
        ty_message *m = NULL;
        ty_err err = {0};
        ty_status st = from_worker ? ty_message_recv_to_forward(socket, &m, &err)
                                   : ty_message_recv(socket, true, &m, &err);
        if (st == TY_ENOTFOUND) return;
        if (st != TY_OK)
            receive_bad(b, from_worker, &m, &err);
        else if (from_worker)
            broker_worker_message(b, &m);
        else
            broker_gateway_message(b, &m);
        ty_message_destroy(&m);
    }
}

/* ---- the clock ---- */

static void judge(broker_peer *p, int64_t now, int64_t limit, int64_t slept) {
    /* The broker itself stood still for a while: what its peers sent meanwhile comes next. */
    if (slept > limit / TY_HEARTBEATS_MISSED) p->heard_us = now;
    if (!p->lost && now - p->heard_us > limit) p->lost = "no heartbeat";
}

static void judge_peers(broker *b, int64_t now) {
    broker_worker *w;
    broker_gateway *g;
    int64_t limit = (int64_t)b->opt.heartbeat_ms * TY_HEARTBEATS_MISSED * 1000;
    int64_t slept = now - b->judged_us - (int64_t)b->opt.heartbeat_ms * 1000;
    TAILQ_FOREACH(w, &b->workers, next) judge(&w->peer, now, limit, slept);
    TAILQ_FOREACH(g, &b->gateways, next) judge(&g->peer, now, limit, slept);
    b->judged_us = now;
}

static ty_message *make_heartbeat(void) {
    return broker_make(TYTO__ENVELOPE__BODY_HEARTBEAT, ty_pb_new(&tyto__heartbeat__descriptor));
}

static void beat(broker *b, int64_t now) {
    broker_worker *w;
    broker_gateway *g;
    if (now - b->beat_us < (int64_t)b->opt.heartbeat_ms * 1000) return;
    b->beat_us = now;
    TAILQ_FOREACH(w, &b->workers, next) broker_peer_tell(&w->peer, make_heartbeat());
    TAILQ_FOREACH(g, &b->gateways, next) broker_peer_tell(&g->peer, make_heartbeat());
}

/* False: nothing waits for any of them. */
static bool flush(broker *b) {
    broker_worker *w;
    broker_gateway *g;
    int n = 0;
    TAILQ_FOREACH(w, &b->workers, next) {
        broker_peer_flush(&w->peer);
        n += w->peer.n_outbox;
    }
    TAILQ_FOREACH(g, &b->gateways, next) {
        broker_peer_flush(&g->peer);
        n += g->peer.n_outbox;
    }
    return n > 0;
}

static void tell_news(broker *b, int64_t now) {
    if (!b->news || now - b->news_us < NEWS_US) return;
    b->news = false;
    b->news_us = now;
    broker_gateways_news(b);
}

/* What time alone brings.  Not with each message: of a stream's tokens it would cost as much as their way. */
static void look_at_clock(broker *b, int64_t now) {
    b->clock_us = now;
    judge_peers(b, now);
    beat(b, now);
    b->unsent = flush(b);
    b->deadline_unix_us = broker_tasks_expire(b, now);
    tell_news(b, now);
    b->changed = true; /* perhaps */
}

/* Who is lost goes, and what waits is handed out: to the others, if one is found lost by that. */
static void rearrange(broker *b) {
    b->changed = false;
    broker_gateways_reap(b);
    broker_workers_reap(b);
    do broker_dispatch(b);
    while (broker_workers_reap(b));
}

static void tick(broker *b) {
    int64_t now = ty_now_us();
    if (now - b->clock_us >= CLOCK_US) look_at_clock(b, now);
    if (b->changed) rearrange(b);
}

static int64_t earlier(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* How long the loop may sleep if no message comes. */
static int next_timeout_ms(const broker *b) {
    int64_t now = ty_now_us(), at = b->beat_us + (int64_t)b->opt.heartbeat_ms * 1000;
    if (b->n_task > 0) at = earlier(at, b->clock_us + BUSY_CLOCK_MS * 1000);
    if (b->deadline_unix_us) at = earlier(at, now + b->deadline_unix_us - ty_now_unix_us());
    if (b->news) at = earlier(at, b->news_us + NEWS_US);
    if (b->unsent || b->draining) at = earlier(at, now + RETRY_MS * 1000);
    /* Before CLOCK_US it would do nothing. */
    if (at < b->clock_us + CLOCK_US) at = b->clock_us + CLOCK_US;
    return at > now ? (int)((at - now + 999) / 1000) : 0;
}

/* ---- the loop ---- */

static void check_stop(broker *b) {
    if (b->draining || !atomic_load(&b->stop)) return;
    b->draining = true;
    b->drain_until_us = ty_now_us() + (int64_t)b->opt.drain_ms * 1000;
    ty_info("draining tasks=%d", b->n_task);
    /* First the news, so that what is handed back goes elsewhere. */
    broker_gateways_news(b);
    broker_tasks_hand_back(b);
    b->changed = true;
}

static bool is_over(const broker *b) {
    return b->draining && (b->n_task == 0 || ty_now_us() >= b->drain_until_us);
}

/* Not zmq_poll, which asks each socket several times: with each token of a stream that costs more than its way. */
static ty_status turn(broker *b, ty_err *err) {
    uint64_t count;
    bool workers = ty_socket_waits(b->wk_socket), gateways = ty_socket_waits(b->gw_socket);
    bool any = workers || gateways || (b->zap && ty_socket_waits(broker_zap_socket(b->zap)));
    struct pollfd item[] = {
        {.fd = ty_socket_fd(b->wk_socket), .events = POLLIN},
        {.fd = ty_socket_fd(b->gw_socket), .events = POLLIN},
        {.fd = b->wake_fd, .events = POLLIN},
        {.fd = b->zap ? ty_socket_fd(broker_zap_socket(b->zap)) : -1, .events = POLLIN},
    };
    int n = poll(item, sizeof(item) / sizeof(item[0]), any ? 0 : next_timeout_ms(b));
    if (n < 0 && errno != EINTR) return ty_fail(err, TY_EIO, "poll: %s", strerror(errno));
    if (n > 0 && item[2].revents && read(b->wake_fd, &count, sizeof(count)) < 0 &&
        errno != EAGAIN && errno != EINTR)
        return ty_fail(err, TY_EIO, "eventfd: %s", strerror(errno));
    check_stop(b);
    if (b->zap) broker_zap_answer(b->zap);
    if (workers || (n > 0 && item[0].revents)) receive(b, true);
    if (gateways || (n > 0 && item[1].revents)) receive(b, false);
    tick(b);
    return TY_OK;
}

static void say_goodbye(broker *b) {
    broker_worker *w;
    broker_gateway *g;
    while (!TAILQ_EMPTY(&b->tasks))
        broker_task_fail(b, TAILQ_FIRST(&b->tasks), TY_EUNAVAILABLE, "the broker is shutting down",
                         "");
    TAILQ_FOREACH(w, &b->workers, next)
    broker_peer_tell(
        &w->peer, broker_make(TYTO__ENVELOPE__BODY_GOODBYE, ty_pb_new(&tyto__goodbye__descriptor)));
    TAILQ_FOREACH(g, &b->gateways, next)
    broker_peer_tell(
        &g->peer, broker_make(TYTO__ENVELOPE__BODY_GOODBYE, ty_pb_new(&tyto__goodbye__descriptor)));
}

ty_status broker_run(broker *b, ty_err *err) {
    ty_status st = TY_OK;
    b->judged_us = b->beat_us = ty_now_us();
    while (st == TY_OK && !is_over(b)) st = turn(b, err);
    say_goodbye(b);
    /* A DEALER drops what it has not read when we close: close when the gateways say that they have. */
    int64_t until = ty_now_us() + GOODBYE_MS * 1000;
    while (st == TY_OK && !TAILQ_EMPTY(&b->gateways) && ty_now_us() < until) st = turn(b, err);
    return st;
}
