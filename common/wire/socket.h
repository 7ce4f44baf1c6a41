/*
 * socket.h - ZeroMQ sockets as Tyto uses them: endpoints checked, every limit set, no blocking close.
 *
 * Endpoints are ipc:///path or tcp://host:port.  An ipc socket is protected by its file: it is made with mode
 * 0600, in a directory where nobody else can put another one.  A tcp socket is protected by CURVE keys
 * (keys.h); without them an address that others can reach is refused.
 */
#ifndef TY_WIRE_SOCKET_H
#define TY_WIRE_SOCKET_H

#include "common/base/err.h"
#include "common/wire/keys.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    TY_SOCKET_HWM = 4096,            /* messages that wait for one peer, each way */
    TY_SOCKET_FRAME_MAX = 256 << 20, /* a larger frame disconnects its sender */
    TY_HEARTBEAT_MS = 500,           /* what a peer assumes before the Welcome */
    TY_HEARTBEATS_MISSED = 3,        /* so many intervals without a sign = dead */
};

/* Of tcp sockets; ipc ones do without. */
typedef struct {
    const ty_keys *keys; /* NULL: no encryption.  Borrowed for the call */
    const char *domain;  /* binding: how peers' keys are judged (ZAP); NULL when connecting */
    bool insecure;       /* without keys: addresses beyond this machine all the same */
} ty_socket_security;

/* A context that is terminated with zmq_ctx_term once its sockets are closed; NULL when out of memory. */
void *ty_socket_context(void);

/* type: ZMQ_ROUTER (mandatory: a send to an absent peer fails) or ZMQ_DEALER.  Fails: TY_EINVAL (the
 * endpoint), TY_EAUTH (others may write to the socket's directory), TY_EEXIST (a living process listens
 * there), TY_EIO. */
ty_status ty_socket_bind(void *ctx, int type, const char *endpoint, const ty_socket_security *sec,
                         void **out, ty_err *err);
/* Connects in the background, for ever; nothing is queued while there is no connection (a send gives
 * TY_EOVERLOAD), so that a new broker is not met with an old one's messages. */
ty_status ty_socket_connect(void *ctx, int type, const char *endpoint,
                            const ty_socket_security *sec, void **out, ty_err *err);
/* Is it protected by keys, when there are some? */
bool ty_socket_is_tcp(const char *endpoint);
/* For poll(2); -1, which it ignores, if there is none.  It tells of changes alone, and whoever uses the socket may have
 * taken one in: ask ty_socket_waits before each sleep. */
int ty_socket_fd(void *socket);
/* Is there a message to receive? */
bool ty_socket_waits(void *socket);
/* What was sent gets linger_ms to leave, while the context is being terminated.  NULL is allowed. */
void ty_socket_close(void **socket, int linger_ms);

#endif
