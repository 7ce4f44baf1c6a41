/*
 * http.h - the HTTP server: libevent's evhttp, a table of routes, and what evhttp leaves open: errors in
 * OpenAI's shape, API keys, request ids, streams with a bounded backlog, and word of clients that go away.
 *
 * One http_call is one request and its answer.  A handler either answers at once or keeps the call
 * and answers later; it must answer exactly once (http_reply*, or http_stream_start … _end, or http_abort).
 * From then on, and after its `gone` callback ran, the call is no longer the handler's.
 */
#ifndef GATEWAY_HTTP_H
#define GATEWAY_HTTP_H

#include "services/gateway/api_error.h"
#include "services/gateway/auth.h"

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct http_server http_server;
typedef struct http_call http_call;

typedef struct {
    const char *method; /* "GET" (answers HEAD too), "POST", "DELETE" */
    const char *path;   /* "/v1/models"; a segment that is a star alone fits any one */
    bool open;          /* no API key asked, answered while draining */
    void (*handle)(void *ctx, http_call *c);
} http_route;

typedef struct {
    const char *host;
    int port;        /* 0 = any */
    bool share_port; /* other servers may listen on the same one: the kernel spreads connections */
    int max_connections; /* at a time; a few more hear 503 overloaded */
    size_t max_body_bytes;
    size_t max_backlog_bytes; /* of one stream: what the client has not taken yet */
    int idle_s;               /* a connection that sends nothing for so long is closed */
    int write_s;              /* the same for one that takes nothing */
    const auth *auth;         /* borrowed */
    const http_route *routes; /* ended by a NULL path; borrowed */
    void *ctx;
    /* Once per request when its answer is complete or its client is gone (status 499). */
    void (*on_finish)(void *ctx, const char *route, int status, int64_t duration_us);
} http_options;

/* Fails: TY_EIO (names host, port and reason), TY_ENOMEM. */
ty_status http_server_create(http_server **out, struct event_base *base, const http_options *opt,
                             ty_err *err);
int http_server_port(const http_server *s); /* the bound one */
/* Accepts no more connections and refuses new requests with 503 shutting_down (but open routes). */
void http_server_drain(http_server *s);
/* Requests not yet fully answered. */
int http_server_active(const http_server *s);
/* Closes every connection (gone callbacks run). */
void http_server_destroy(http_server **s);

const char *http_call_id(const http_call *c); /* X-Request-Id, cleaned, or a random one */
const char *http_call_path(const http_call *c);
/* Segment i of the path, from 0 ("v1"); false when there is none or it does not fit. */
bool http_call_segment(const http_call *c, int i, char *out, size_t size);
/* A field of the address ("limit" of ?limit=20); false when absent or too long. */
bool http_call_query(const http_call *c, const char *name, char *out, size_t size);
const char *http_call_header(const http_call *c, const char *name); /* NULL */
/* Whole body, borrowed until http_call_drop_body or the answer. */
ty_status http_call_body(http_call *c, const char **data, size_t *len, ty_err *err);
void http_call_drop_body(http_call *c);            /* frees the body's memory early */
int64_t http_call_received_us(const http_call *c); /* ty_now_us() when it was complete */
/* Called once if the client goes away before the answer is complete.  NULL takes it back. */
void http_call_on_gone(http_call *c, void (*gone)(void *ctx), void *ctx);

/* A header of the answer to come; both texts are copied. */
void http_call_set_header(http_call *c, const char *name, const char *value);
void http_reply(http_call *c, int status, const char *content_type, const char *body, size_t len);
/* Takes the object over; NULL (out of memory) answers 500. */
void http_reply_json(http_call *c, int status, json_t *json);
void http_reply_error(http_call *c, const api_error *e);

/* Server-sent events.  _send fails with TY_ELIMIT when the client reads too slowly (the call is still
 * the handler's: abort it) and TY_ENOMEM. */
void http_stream_start(http_call *c);
ty_status http_stream_send(http_call *c, const char *bytes, size_t len);
void http_stream_end(http_call *c);
/* Closes the connection without more words. */
void http_abort(http_call *c);

#endif
