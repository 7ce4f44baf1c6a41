/*
 * http_conns.h - the connections of the HTTP server, apart from what is asked over them: their number has a limit, and
 * what evhttp answers by itself (a malformed head, a body over its own limit) goes out in OpenAI's shape.
 *
 * evhttp 2.1 has a hook for neither.  So it is given bufferevents that are looked after here: what is written to one
 * while no call owns the connection is evhttp's own answer, and is exchanged for ours before it leaves.
 */
#ifndef GATEWAY_HTTP_CONNS_H
#define GATEWAY_HTTP_CONNS_H

#include "common/base/err.h"

#include <event2/http.h>
#include <stdbool.h>

typedef struct http_conns http_conns;
typedef struct http_conn http_conn;

/* Raises the process's limit of open files when `most` connections need it.
 * Fails: TY_ENOMEM, TY_ELIMIT (most does not fit under the hard limit; names both). */
ty_status http_conns_create(http_conns **out, struct event_base *base, struct evhttp *http,
                            int most, ty_err *err);
/* Connections behind this socket are accepted up to a few more than `most`: those are answered that it is too many.
 * The others wait in the kernel's queue. */
void http_conns_bound(http_conns *s, struct evhttp_bound_socket *bound); /* NULL: it is closed */
/* After evhttp_free. */
void http_conns_destroy(http_conns **s);

/* NULL when there was no memory for its record. */
http_conn *http_conns_find(http_conns *s, struct evhttp_connection *con);
/* From now on the connection's output is this call's, and on_close is called when it goes down. */
void http_conn_own(http_conn *c, void (*on_close)(void *call), void *call);
void http_conn_disown(http_conn *c);
/* It is one too many: its request is refused. */
bool http_conn_is_surplus(const http_conn *c);

#endif
