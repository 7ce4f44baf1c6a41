/*
 * broker_link.c - see broker_link.h.
 *
 * ZeroMQ's file descriptor tells of changes, not of messages: every time, and after every send (which may have
 * taken a change in), the socket is read until it is empty.
 */
#include "services/gateway/broker_link.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/wire/socket.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WELCOME_MS = 2000, /* hello -> welcome */
    REFUSED_MS = 5000, /* after a refusal, hello again */
    STATUS_MS = 2000,  /* how often the queues are asked for */
    DRAIN_MESSAGES = 256,
    GOODBYE_MS = 200,
};

typedef enum { CONNECTING, GREETED, UP, REFUSED } link_state;

struct broker_link {
    broker_link_options opt;
    char *endpoint;
    void *zmq, *socket;
    struct event_base *base;
    struct event *event;
    link_state state;
    int64_t since_us, heard_us, beat_us, asked_us;
    int heartbeat_ms;
    ty_message *welcome;
    char reason[400];
};

static void drain(broker_link *l);

static void on_readable(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    drain(arg);
}

static void enter(broker_link *l, link_state s) {
    l->state = s;
    l->since_us = ty_now_us();
}

static void close_socket(broker_link *l, int linger_ms) {
    if (l->event) event_free(l->event);
    l->event = NULL;
    ty_socket_close(&l->socket, linger_ms);
}

static ty_status open_socket(broker_link *l, ty_err *err) {
    close_socket(l, 0);
    ty_status st =
        ty_socket_connect(l->zmq, ZMQ_DEALER, l->endpoint, l->opt.security, &l->socket, err);
    if (st != TY_OK) return st;
    int fd = ty_socket_fd(l->socket);
    if (fd < 0) return ty_fail(err, TY_EIO, "socket descriptor: %s", zmq_strerror(errno));
    l->event = event_new(l->base, fd, EV_READ | EV_PERSIST, on_readable, l);
    if (!l->event || event_add(l->event, NULL) != 0)
        return ty_fail(err, TY_ENOMEM, "no memory for the event of %s", l->endpoint);
    enter(l, CONNECTING);
    snprintf(l->reason, sizeof(l->reason), "no broker answers at %s", l->endpoint);
    return TY_OK;
}

ty_status broker_link_create(broker_link **out, void *zmq, struct event_base *base,
                             const broker_link_options *opt, ty_err *err) {
    *out = NULL;
    broker_link *l = calloc(1, sizeof(*l));
    if (!l) return ty_fail(err, TY_ENOMEM, "no memory for a broker link");
    l->opt = *opt;
    l->zmq = zmq;
    l->base = base;
    l->heartbeat_ms = TY_HEARTBEAT_MS;
    l->endpoint = strdup(opt->endpoint);
    ty_status st = l->endpoint ? open_socket(l, err) : ty_fail(err, TY_ENOMEM, "no memory");
    if (st != TY_OK)
        broker_link_destroy(&l);
    else
        *out = l;
    return st;
}

bool broker_link_up(const broker_link *l) {
    return l->state == UP;
}

bool broker_link_takes(const broker_link *l) {
    return l->state == UP && l->welcome && !l->welcome->env->welcome->draining;
}

const char *broker_link_endpoint(const broker_link *l) {
    return l->endpoint;
}

const char *broker_link_reason(const broker_link *l) {
    return l->state == UP ? "" : l->reason;
}

const Tyto__Welcome *broker_link_welcome(const broker_link *l) {
    return l->state == UP && l->welcome ? l->welcome->env->welcome : NULL;
}

/* ---- sending ---- */

static ty_status send_now(broker_link *l, ty_message **m, ty_err *err) {
    ty_status st = ty_message_send(l->socket, false, m, err);
    if (l->event) event_active(l->event, EV_READ, 0); /* see the top */
    return st;
}

ty_status broker_link_send(broker_link *l, ty_message **m, ty_err *err) {
    if (l->state != UP) return ty_fail(err, TY_EUNAVAILABLE, "%s", l->reason);
    return send_now(l, m, err);
}

/* A message with a body alone; the body is freed when it does not go. */
static ty_status send_body(broker_link *l, Tyto__Envelope__BodyCase c, void *body) {
    ty_message *m = ty_message_new();
    if (!m || !body) {
        if (body) protobuf_c_message_free_unpacked(body, NULL);
        ty_message_destroy(&m);
        return TY_ENOMEM;
    }
    ty_message_set_body(m, c, body);
    ty_status st = send_now(l, &m, NULL);
    ty_message_destroy(&m);
    return st;
}

static void say_hello(broker_link *l) {
    if (send_body(l, TYTO__ENVELOPE__BODY_GATEWAY_HELLO, l->opt.hello(l->opt.ctx)) == TY_OK)
        enter(l, GREETED);
}

static void beat(broker_link *l, int64_t now) {
    Tyto__Heartbeat *h = ty_pb_new(&tyto__heartbeat__descriptor);
    if (h) h->in_flight = (uint32_t)l->opt.in_flight(l->opt.ctx);
    (void)send_body(l, TYTO__ENVELOPE__BODY_HEARTBEAT, h); /* a lost one is as good as late */
    l->beat_us = now;
}

/* ---- receiving ---- */

static void on_welcome(broker_link *l, ty_message **m) {
    const Tyto__Welcome *w = (*m)->env->welcome;
    if (!w->accepted) {
        const char *why = w->error ? w->error->text : "it gives no reason";
        if (l->state != REFUSED) ty_error("broker=%s refuses this gateway: %s", l->endpoint, why);
        snprintf(l->reason, sizeof(l->reason), "the broker at %s refuses: %.300s", l->endpoint,
                 why);
        enter(l, REFUSED);
    } else {
        bool news = l->state != UP;
        if (w->heartbeat_ms) l->heartbeat_ms = (int)w->heartbeat_ms;
        if (w->draining && broker_link_takes(l)) ty_info("broker=%s drains", l->endpoint);
        ty_message_destroy(&l->welcome);
        l->welcome = *m;
        *m = NULL;
        if (news) {
            enter(l, UP);
            ty_info("broker=%s up", l->endpoint);
        }
    }
    l->opt.on_change(l->opt.ctx, l->opt.index);
}

/* The broker is gone, or no longer knows us: a new socket, so that nothing of the old life comes in. */
static void lose(broker_link *l, const char *why) {
    bool was_up = l->state == UP;
    ty_err err = {0};
    ty_message_destroy(&l->welcome);
    if (open_socket(l, &err) != TY_OK) ty_error("broker=%s %s", l->endpoint, err.text);
    if (!was_up) return;
    ty_warn("broker=%s lost: %s", l->endpoint, why);
    l->opt.on_change(l->opt.ctx, l->opt.index);
    l->opt.on_lost(l->opt.ctx, l->opt.index);
}

/* False when the link was lost by it: then the socket is another. */
static bool take(broker_link *l, ty_message **m) {
    const Tyto__Envelope *e = (*m)->env;
    l->heard_us = ty_now_us();
    switch (e->body_case) {
    case TYTO__ENVELOPE__BODY_WELCOME: on_welcome(l, m); return true;
    case TYTO__ENVELOPE__BODY_HEARTBEAT: return true;
    case TYTO__ENVELOPE__BODY_GOODBYE:
        (void)send_body(l, TYTO__ENVELOPE__BODY_GOODBYE, ty_pb_new(&tyto__goodbye__descriptor));
        close_socket(l, GOODBYE_MS); /* it leaves as soon as that arrives */
        lose(l, "it said goodbye");
        return false;
    case TYTO__ENVELOPE__BODY_ERROR:
        if (*e->request_id) break;
        ty_warn("broker=%s %s: %s", l->endpoint, e->error->status, e->error->text);
        if (l->state == UP) {
            lose(l, e->error->text);
            return false;
        }
        return true;
    default: break;
    }
    if (l->state == UP) l->opt.on_message(l->opt.ctx, l->opt.index, m);
    return true;
}

static void drain(broker_link *l) {
    for (int i = 0; i < DRAIN_MESSAGES && l->socket; i++) {
        ty_message *m = NULL;
        ty_err err = {0};
        ty_status st = ty_message_recv(l->socket, false, &m, &err);
        if (st == TY_ENOTFOUND) return;
        bool go = st == TY_OK ? take(l, &m) : st != TY_EIO;
        if (st != TY_OK) ty_warn("broker=%s a message is refused: %s", l->endpoint, err.text);
        ty_message_destroy(&m);
        if (!go) return;
    }
    if (l->event) event_active(l->event, EV_READ, 0); /* more waits; HTTP first */
}

void broker_link_tick(broker_link *l) {
    if (!l->socket) {
        lose(l, "no socket");
        return;
    }
    drain(l);
    int64_t now = ty_now_us(), since_ms = (now - l->since_us) / 1000;
    switch (l->state) {
    case CONNECTING:
        say_hello(l);
        /* One that refuses our key is not asked again on the same socket: see worker_io.c. */
        if (l->state == CONNECTING && since_ms > REFUSED_MS && l->opt.security->keys &&
            ty_socket_is_tcp(l->endpoint))
            lose(l, "no connection");
        break;
    case GREETED:
        if (since_ms > WELCOME_MS) lose(l, "no welcome");
        break;
    case REFUSED:
        if (since_ms > REFUSED_MS) say_hello(l);
        break;
    case UP:
        if (now - l->heard_us > (int64_t)TY_HEARTBEATS_MISSED * l->heartbeat_ms * 1000) {
            lose(l, "three heartbeats missed");
            break;
        }
        if (now - l->beat_us >= (int64_t)l->heartbeat_ms * 1000) beat(l, now);
        if (now - l->asked_us >= STATUS_MS * 1000) {
            (void)send_body(l, TYTO__ENVELOPE__BODY_STATUS_QUERY,
                            ty_pb_new(&tyto__status_query__descriptor));
            l->asked_us = now;
        }
        break;
    }
}

int64_t broker_link_due_us(const broker_link *l) {
    int64_t beat = (int64_t)l->heartbeat_ms * 1000,
            lost = l->heard_us + TY_HEARTBEATS_MISSED * beat;
    int64_t ask = l->asked_us + STATUS_MS * 1000, due = l->beat_us + beat;
    if (l->state != UP) return 0;
    if (ask < due) due = ask;
    return lost < due ? lost : due;
}

void broker_link_destroy(broker_link **lp) {
    if (!lp || !*lp) return;
    broker_link *l = *lp;
    if (l->socket && l->state == UP)
        (void)send_body(l, TYTO__ENVELOPE__BODY_GOODBYE, ty_pb_new(&tyto__goodbye__descriptor));
    close_socket(l, GOODBYE_MS);
    ty_message_destroy(&l->welcome);
    free(l->endpoint);
    free(l);
    *lp = NULL;
}
