/*
 * http_client.h - one HTTP call through libevent, for `tyto ask`, the supervisor's readiness probe
 * and the tests.  Each call has an event base of its own, so threads may call at the same time.
 */
#ifndef TY_HTTP_CLIENT_H
#define TY_HTTP_CLIENT_H

#include "common/base/buf.h"

#include <stdbool.h>

typedef struct {
    const char *url;    /* "http://127.0.0.1:8080/v1/models" */
    const char *body;   /* NULL: GET; else POST, as application/json */
    const char *bearer; /* API key or NULL */
    int timeout_ms;     /* without a byte from the server; 0 = 60 s */
    /* Called with each piece of the body as it comes; false ends the call (TY_ECANCELED).  NULL: the
     * body is collected in the reply. */
    bool (*on_data)(void *ctx, const char *data, size_t len);
    void *ctx;
} http_call;

typedef struct {
    int status;  /* 200... */
    ty_buf body; /* ty_buf_clear it */
} http_reply;

enum { HTTP_CLIENT_BODY_MAX = 64 << 20 };

/* TY_OK whatever the status, once a whole reply came.  Fails: TY_EINVAL (URL), TY_EUNAVAILABLE (no
 * connection), TY_EIO (the connection broke), TY_ETIMEOUT, TY_ECANCELED. */
ty_status http_client_call(const http_call *call, http_reply *reply, ty_err *err);

/* Server-sent events: feed pieces, get the payload of each whole `data:` line (NUL-terminated). */
typedef struct {
    ty_buf line;
    void (*on_event)(void *ctx, const char *data, size_t len);
    void *ctx;
} http_sse;
ty_status http_sse_feed(http_sse *s, const char *data, size_t len);

#endif
