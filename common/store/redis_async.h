/*
 * redis_async.h - a connection to a Redis server inside a libevent loop: commands go out at once, replies come to a
 * function.  For the gateway, whose one thread must never wait.
 *
 * It connects by itself, and again when the connection was lost or a reply did not come in time; a server counts as up
 * when it answered a PING, so one that still loads its data, or hangs, does not.  Commands travel in order.
 * A URL's host name is looked up with the system's resolver, which may wait: give an address or a socket.
 */
#ifndef TY_STORE_REDIS_ASYNC_H
#define TY_STORE_REDIS_ASYNC_H

#include "common/store/script.h"

#include <event2/event.h>
#include <stdbool.h>

typedef struct ty_redis_async ty_redis_async;
typedef struct ty_redis_sent ty_redis_sent; /* a command whose reply is not here yet */

/* r: borrowed for the call, may be an error reply.  NULL: the connection was lost or the reply did not come in
 * time (err is TY_EIO: the command may have been done, or not). */
typedef void (*ty_redis_reply_fn)(void *ctx, const redisReply *r, const ty_err *err);

/* timeout_ms: of a connection and of each reply.  Fails: TY_EINVAL (the URL), TY_ENOMEM.  A server that is away is no failure. */
ty_status ty_redis_async_create(ty_redis_async **out, struct event_base *base, const char *url,
                                int timeout_ms, ty_err *err);
/* Replies that are still to come are forgotten. */
void ty_redis_async_destroy(ty_redis_async **a);
/* Connects, and notices what is late; to be called a few times a second. */
void ty_redis_async_tick(ty_redis_async *a);
bool ty_redis_async_up(const ty_redis_async *a);
const char *ty_redis_async_reason(const ty_redis_async *a); /* why it is not up; "" when it is */

/* Sends a command (copied).  fn runs once, later, unless the command is forgotten before; *sent is valid until then.
 * Fails: TY_EUNAVAILABLE (not up), TY_ENOMEM. */
ty_status ty_redis_async_send(ty_redis_async *a, const ty_store_command *c, ty_redis_reply_fn fn,
                              void *ctx, ty_redis_sent **sent, ty_err *err);
/* fn will not be called; NULL is fine. */
void ty_redis_sent_forget(ty_redis_sent **sent);

#endif
