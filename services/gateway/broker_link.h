/*
 * broker_link.h - the gateway's connection to one broker: a DEALER socket in libevent's loop, hello,
 * heartbeats, and a new beginning when the broker is not heard of for three of them.
 *
 * Up means: the broker has welcomed this gateway and is heard of.  What was sent before a loss is the
 * owner's to send again (on_lost).
 */
#ifndef GATEWAY_BROKER_LINK_H
#define GATEWAY_BROKER_LINK_H

#include "common/wire/message.h"
#include "common/wire/socket.h"

#include <event2/event.h>

typedef struct broker_link broker_link;

typedef struct {
    const char *endpoint; /* "ipc:///run/.../gateway.sock", "tcp://127.0.0.1:7000"; copied */
    const ty_socket_security *security; /* borrowed while the link lives */
    int index;                          /* given back to the callbacks */
    void *ctx;
    /* A new GatewayHello; NULL: out of memory. */
    Tyto__GatewayHello *(*hello)(void *ctx);
    int (*in_flight)(void *ctx); /* for heartbeats */
    /* Any message that is not about the connection itself; takes *m over. */
    void (*on_message)(void *ctx, int index, ty_message **m);
    /* Up, down, or news about pipelines: see broker_link_welcome. */
    void (*on_change)(void *ctx, int index);
    void (*on_lost)(void *ctx, int index);
} broker_link_options;

/* Fails: TY_EINVAL (endpoint), TY_EIO, TY_ENOMEM. */
ty_status broker_link_create(broker_link **out, void *zmq, struct event_base *base,
                             const broker_link_options *opt, ty_err *err);
bool broker_link_up(const broker_link *l);
/* Up, and not about to leave: may it be given tasks? */
bool broker_link_takes(const broker_link *l);
const char *broker_link_endpoint(const broker_link *l);
/* Why it is not up; "" when it is. */
const char *broker_link_reason(const broker_link *l);
/* The broker's last word on the pipelines; NULL when not up.  Borrowed until the next event. */
const Tyto__Welcome *broker_link_welcome(const broker_link *l);
/* Consumes *m on success.  Fails: TY_EUNAVAILABLE (not up), TY_EOVERLOAD. */
ty_status broker_link_send(broker_link *l, ty_message **m, ty_err *err);
/* Heartbeats, losses, hello: every few tens of milliseconds while it is not up, else at broker_link_due_us and a few
 * times a second. */
void broker_link_tick(broker_link *l);
/* Monotonic: when a link that is up has something to do next; 0: it is not up. */
int64_t broker_link_due_us(const broker_link *l);
/* Says goodbye and closes. */
void broker_link_destroy(broker_link **l);

#endif
