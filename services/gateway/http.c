/*
 * http.c - see http.h.
 *
 * Three things about evhttp 2.1 that are not written on its box:
 *   - It stops reading while a request is handled, so it would not notice a client that goes away; and its
 *     read callback ends the process when bytes come then.  So reading goes on with no read callback, and
 *     a high watermark bounds what a pipelining client can leave there.
 *   - Its read timeout would close a connection that waits for its answer; it is off meanwhile.
 *   - What it refuses itself (a malformed head, a body over its own limit) it answers in HTML: http_conns.h.  Its limit
 *     is twice ours and a bit, so that what is over ours is answered here, with the numbers.
 */
#include "services/gateway/http.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "services/gateway/http_conns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/http.h>
#include <event2/http_struct.h>
#include <event2/keyvalq_struct.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    MAX_HEADER_BYTES = 64 << 10,
    ID_MAX = 64,
    PIPELINED_BYTES = 64 << 10,
    BODY_SLACK_BYTES = 1 << 20,
    CLIENT_GONE = 499,
    BACKLOG = 1024, /* connections that wait to be accepted */
};

struct http_server {
    http_options opt;
    struct evhttp *http;
    struct evhttp_bound_socket *bound;
    http_conns *conns;
    int port;
    int active;
    bool draining;
};

struct http_call {
    http_server *server;
    http_conn *conn;
    struct evhttp_request *req;
    const char *method;
    char *path; /* decoded */
    const http_route *route;
    char id[ID_MAX + 1];
    int status;     /* 0 while not answered */
    bool streaming; /* between http_stream_start and _end */
    int64_t received_us;
    void (*gone)(void *ctx);
    void *gone_ctx;
};

static const struct {
    enum evhttp_cmd_type type;
    const char *name;
} methods[] = {
    {EVHTTP_REQ_GET, "GET"},         {EVHTTP_REQ_POST, "POST"},       {EVHTTP_REQ_HEAD, "HEAD"},
    {EVHTTP_REQ_PUT, "PUT"},         {EVHTTP_REQ_DELETE, "DELETE"},   {EVHTTP_REQ_PATCH, "PATCH"},
    {EVHTTP_REQ_OPTIONS, "OPTIONS"}, {EVHTTP_REQ_CONNECT, "CONNECT"}, {EVHTTP_REQ_TRACE, "TRACE"},
};

static const char *method_name(enum evhttp_cmd_type type) {
    for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
        if (methods[i].type == type) return methods[i].name;
    return "?";
}

/* ---- life of a call ---- */

static void call_free(http_call *c) {
    c->server->active--;
    free(c->path);
    free(c);
}

static void finish(http_call *c, int status) {
    http_server *s = c->server;
    int64_t us = ty_now_us() - c->received_us;
    const char *route = c->route ? c->route->path : "";
    bool quiet = c->route && c->route->open && status < 400;
    ty_log(quiet ? TY_LOG_DEBUG : TY_LOG_INFO, "req=%s %s %s status=%d ms=%.1f", c->id, c->method,
           c->path ? c->path : "?", status, (double)us / 1e3);
    if (s->opt.on_finish) s->opt.on_finish(s->opt.ctx, route, status, us);
}

static struct bufferevent *bufferevent_of(const http_call *c) {
    struct evhttp_connection *con = evhttp_request_get_connection(c->req);
    return con ? evhttp_connection_get_bufferevent(con) : NULL;
}

static void set_timeouts(struct bufferevent *bev, int read_s, int write_s) {
    struct timeval r = {.tv_sec = read_s}, w = {.tv_sec = write_s};
    bufferevent_set_timeouts(bev, read_s ? &r : NULL, write_s ? &w : NULL);
}

/* The connection goes down.  Before the answer was complete evhttp hands the request to us. */
static void on_close(void *arg) {
    http_call *c = arg;
    if (!c->status || c->streaming) {
        if (c->gone) c->gone(c->gone_ctx);
        finish(c, CLIENT_GONE);
    }
    if (!evhttp_request_get_connection(c->req)) evhttp_request_free(c->req);
    call_free(c);
}

/* The last byte of the answer is with the kernel; the connection may carry another request. */
static void on_complete(struct evhttp_request *req, void *arg) {
    (void)req;
    http_call *c = arg;
    http_conn_disown(c->conn);
    struct bufferevent *bev = bufferevent_of(c);
    bufferevent_setwatermark(bev, EV_READ, 0, 0);
    set_timeouts(bev, c->server->opt.idle_s, c->server->opt.write_s);
    call_free(c);
}

/* Reading goes on without a callback: see the top. */
static void watch_client(http_call *c) {
    struct bufferevent *bev = bufferevent_of(c);
    bufferevent_event_cb event_cb = NULL;
    bufferevent_data_cb read_cb = NULL, write_cb = NULL;
    void *arg = NULL;
    bufferevent_getcb(bev, &read_cb, &write_cb, &event_cb, &arg);
    bufferevent_setcb(bev, NULL, write_cb, event_cb, arg);
    bufferevent_setwatermark(bev, EV_READ, 0, PIPELINED_BYTES);
    set_timeouts(bev, 0, c->server->opt.write_s);
    bufferevent_enable(bev, EV_READ);
    int one = 1;
    (void)setsockopt(bufferevent_getfd(bev), IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    http_conn_own(c->conn, on_close, c);
    evhttp_request_set_on_complete_cb(c->req, on_complete, c);
}

static void set_id(http_call *c) {
    const char *given = http_call_header(c, "X-Request-Id");
    size_t n = 0;
    for (; given && *given && n < ID_MAX; given++)
        if (strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.", *given))
            c->id[n++] = *given;
    c->id[n] = '\0';
    if (n) return;
    unsigned char r[12];
    if (RAND_bytes(r, sizeof(r)) != 1) memset(r, 0, sizeof(r));
    memcpy(c->id, "req-", 5);
    for (size_t i = 0; i < sizeof(r); i++) snprintf(c->id + 4 + 2 * i, 3, "%02x", r[i]);
}

static char *decode_path(struct evhttp_request *req) {
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
    const char *path = uri ? evhttp_uri_get_path(uri) : NULL;
    size_t len = 0;
    char *p = path ? evhttp_uridecode(path, 0, &len) : NULL;
    if (p && strlen(p) != len) *p = '\0'; /* an encoded NUL: no route has one */
    return p;
}

static http_call *call_create(http_server *s, struct evhttp_request *req) {
    http_call *c = calloc(1, sizeof(*c));
    if (!c) return NULL;
    c->server = s;
    c->conn = http_conns_find(s->conns, evhttp_request_get_connection(req));
    c->req = req;
    c->received_us = ty_now_us();
    c->method = method_name(evhttp_request_get_command(req));
    c->path = decode_path(req);
    if (!c->path || !c->conn) {
        free(c->path);
        free(c);
        return NULL;
    }
    set_id(c);
    s->active++;
    watch_client(c);
    return c;
}

/* ---- routing ---- */

/* Segment by segment; a star is any that is not empty. */
static bool path_fits(const char *pattern, const char *path) {
    for (; *pattern == '/' && *path == '/';) {
        size_t n = strcspn(++pattern, "/"), m = strcspn(++path, "/");
        bool star = n == 1 && *pattern == '*';
        if (star ? m == 0 : n != m || memcmp(pattern, path, n) != 0) return false;
        pattern += n;
        path += m;
    }
    return !*pattern && !*path;
}

static bool method_fits(const char *want, const char *got) {
    return strcmp(want, got) == 0 || (strcmp(want, "GET") == 0 && strcmp(got, "HEAD") == 0);
}

/* The route; NULL with *allow filled ("GET, HEAD") when the path is known, "" when it is not. */
static const http_route *find_route(const http_call *c, char *allow, size_t size) {
    *allow = '\0';
    for (const http_route *r = c->server->opt.routes; r->path; r++) {
        if (!path_fits(r->path, c->path)) continue;
        if (method_fits(r->method, c->method)) return r;
        size_t n = strlen(allow);
        snprintf(allow + n, size - n, "%s%s", n ? ", " : "",
                 strcmp(r->method, "GET") ? r->method : "GET, HEAD");
    }
    return NULL;
}

static void add_header(http_call *c, const char *name, const char *value) {
    evhttp_add_header(evhttp_request_get_output_headers(c->req), name, value);
}

static void reply_no_route(http_call *c, const char *allow) {
    api_error e;
    if (!*allow) {
        api_error_make(&e, 404, "unknown_url", NULL,
                       "Nothing is at %.200s; the API is at /v1/chat/completions and /v1/models",
                       c->path);
        http_reply_error(c, &e);
        return;
    }
    char all[128];
    snprintf(all, sizeof(all), "%s, OPTIONS", allow);
    add_header(c, "Allow", all);
    if (strcmp(c->method, "OPTIONS") == 0) {
        http_reply(c, 204, NULL, NULL, 0);
        return;
    }
    api_error_make(&e, 405, "method_not_allowed", NULL, "%s takes %s, not %s", c->path, allow,
                   c->method);
    http_reply_error(c, &e);
}

/* True when the call may go to its handler; else it is answered. */
static bool admit(http_call *c) {
    http_server *s = c->server;
    api_error e;
    if (evbuffer_get_length(evhttp_request_get_input_buffer(c->req)) > s->opt.max_body_bytes) {
        api_error_make(&e, 413, "request_too_large", NULL,
                       "The request is larger than %zu bytes; send smaller or fewer pictures",
                       s->opt.max_body_bytes);
    } else if (!c->route->open && !auth_allows(s->opt.auth, http_call_header(c, "Authorization"))) {
        api_error_make(&e, 401, "invalid_api_key", NULL,
                       "The API key is missing or not known; send Authorization: Bearer KEY");
        add_header(c, "WWW-Authenticate", "Bearer");
    } else if (http_conn_is_surplus(c->conn) && !c->route->open) {
        api_error_make(&e, 503, "overloaded", NULL,
                       "This server has %d connections, its limit; try again later",
                       s->opt.max_connections);
        e.retry_after_s = 1;
        add_header(c, "Connection", "close");
    } else if (s->draining && !c->route->open) {
        api_error_make(&e, 503, "shutting_down", NULL,
                       "This server is shutting down; send the request again");
        add_header(c, "Connection", "close");
    } else {
        return true;
    }
    http_reply_error(c, &e);
    return false;
}

static void on_request(struct evhttp_request *req, void *arg) {
    http_server *s = arg;
    http_call *c = call_create(s, req);
    if (!c) {
        evhttp_send_error(req, 500, "out of memory");
        return;
    }
    char allow[96];
    c->route = find_route(c, allow, sizeof(allow));
    if (!c->route)
        reply_no_route(c, allow);
    else if (admit(c))
        c->route->handle(s->opt.ctx, c);
}

/* ---- server ---- */

/* A listening socket; -1 and errno. */
static int open_listener(const http_options *o) {
    char service[16];
    struct addrinfo hint = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    snprintf(service, sizeof(service), "%d", o->port);
    if (getaddrinfo(o->host, service, &hint, &list) != 0) {
        errno = EADDRNOTAVAIL;
        return -1;
    }
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
    bool ok =
        fd >= 0 && evutil_make_listen_socket_reuseable(fd) == 0 &&
        (!o->share_port || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) == 0) &&
        bind(fd, list->ai_addr, list->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0;
    int why = errno;
    freeaddrinfo(list);
    if (!ok && fd >= 0) close(fd);
    errno = why;
    return ok ? fd : -1;
}

static ty_status bind_socket(http_server *s, ty_err *err) {
    int fd = open_listener(&s->opt);
    s->bound = fd >= 0 ? evhttp_accept_socket_with_handle(s->http, fd) : NULL;
    if (!s->bound) {
        int why = errno;
        if (fd >= 0) close(fd);
        return ty_fail(err, TY_EIO, "cannot listen on %s:%d: %s; choose another --listen",
                       s->opt.host, s->opt.port, strerror(why));
    }
    union {
        struct sockaddr_in6 v6;
        struct sockaddr_in v4;
        struct sockaddr any;
    } a = {0};
    socklen_t len = sizeof(a);
    if (getsockname(fd, &a.any, &len) != 0)
        return ty_fail(err, TY_EIO, "getsockname: %s", strerror(errno));
    s->port = ntohs(a.any.sa_family == AF_INET6 ? a.v6.sin6_port : a.v4.sin_port);
    return TY_OK;
}

ty_status http_server_create(http_server **out, struct event_base *base, const http_options *opt,
                             ty_err *err) {
    *out = NULL;
    http_server *s = calloc(1, sizeof(*s));
    if (!s) return ty_fail(err, TY_ENOMEM, "no memory for the HTTP server");
    s->opt = *opt;
    s->http = evhttp_new(base);
    if (!s->http) {
        http_server_destroy(&s);
        return ty_fail(err, TY_ENOMEM, "no memory for the HTTP server");
    }
    evhttp_set_allowed_methods(s->http, 0xffff); /* what is not ours is answered here */
    evhttp_set_max_headers_size(s->http, MAX_HEADER_BYTES);
    evhttp_set_max_body_size(s->http, (ev_ssize_t)(2 * opt->max_body_bytes + BODY_SLACK_BYTES));
    evhttp_set_flags(s->http, EVHTTP_SERVER_LINGERING_CLOSE);
    evhttp_set_timeout(s->http, opt->idle_s);
    evhttp_set_default_content_type(s->http, NULL);
    evhttp_set_gencb(s->http, on_request, s);
    ty_status st = http_conns_create(&s->conns, base, s->http, opt->max_connections, err);
    if (st == TY_OK) st = bind_socket(s, err);
    if (st == TY_OK) http_conns_bound(s->conns, s->bound);
    if (st != TY_OK) {
        http_server_destroy(&s);
        return st;
    }
    *out = s;
    return TY_OK;
}

int http_server_port(const http_server *s) {
    return s->port;
}

void http_server_drain(http_server *s) {
    s->draining = true;
    http_conns_bound(s->conns, NULL);
    if (s->bound) evhttp_del_accept_socket(s->http, s->bound);
    s->bound = NULL;
}

int http_server_active(const http_server *s) {
    return s->active;
}

void http_server_destroy(http_server **s) {
    if (!s || !*s) return;
    if ((*s)->conns) http_conns_bound((*s)->conns, NULL);
    if ((*s)->http) evhttp_free((*s)->http);
    http_conns_destroy(&(*s)->conns);
    free(*s);
    *s = NULL;
}

/* ---- a call's question ---- */

const char *http_call_id(const http_call *c) {
    return c->id;
}

const char *http_call_path(const http_call *c) {
    return c->path;
}

bool http_call_segment(const http_call *c, int i, char *out, size_t size) {
    const char *p = c->path;
    for (; *p == '/' && i > 0; i--) p += 1 + strcspn(p + 1, "/");
    if (*p != '/') return false;
    size_t n = strcspn(++p, "/");
    if (n == 0 || n >= size) return false;
    memcpy(out, p, n);
    out[n] = '\0';
    return true;
}

bool http_call_query(const http_call *c, const char *name, char *out, size_t size) {
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(c->req);
    const char *query = uri ? evhttp_uri_get_query(uri) : NULL;
    struct evkeyvalq fields;
    if (!query || evhttp_parse_query_str(query, &fields) != 0) return false;
    const char *value = evhttp_find_header(&fields, name);
    bool there = value && strlen(value) < size;
    if (there) memcpy(out, value, strlen(value) + 1);
    evhttp_clear_headers(&fields);
    return there;
}

const char *http_call_header(const http_call *c, const char *name) {
    return evhttp_find_header(evhttp_request_get_input_headers(c->req), name);
}

ty_status http_call_body(http_call *c, const char **data, size_t *len, ty_err *err) {
    struct evbuffer *in = evhttp_request_get_input_buffer(c->req);
    *len = evbuffer_get_length(in);
    *data = *len ? (const char *)evbuffer_pullup(in, -1) : "";
    if (!*data) return ty_fail(err, TY_ENOMEM, "no memory for a request of %zu bytes", *len);
    return TY_OK;
}

void http_call_drop_body(http_call *c) {
    struct evbuffer *in = evhttp_request_get_input_buffer(c->req);
    evbuffer_drain(in, evbuffer_get_length(in));
}

int64_t http_call_received_us(const http_call *c) {
    return c->received_us;
}

void http_call_on_gone(http_call *c, void (*gone)(void *ctx), void *ctx) {
    c->gone = gone;
    c->gone_ctx = ctx;
}

/* ---- a call's answer ---- */

static void set_status(http_call *c, int status) {
    c->status = status;
    add_header(c, "X-Request-Id", c->id);
}

static const char *phrase(int status) {
    static const struct {
        int status;
        const char *text;
    } known[] = {{200, "OK"},
                 {204, "No Content"},
                 {400, "Bad Request"},
                 {401, "Unauthorized"},
                 {404, "Not Found"},
                 {405, "Method Not Allowed"},
                 {409, "Conflict"},
                 {413, "Content Too Large"},
                 {403, "Forbidden"},
                 {501, "Not Implemented"},
                 {429, "Too Many Requests"},
                 {500, "Internal Server Error"},
                 {503, "Service Unavailable"},
                 {504, "Gateway Timeout"}};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (known[i].status == status) return known[i].text;
    return status < 500 ? "Bad Request" : "Internal Server Error";
}

void http_call_set_header(http_call *c, const char *name, const char *value) {
    add_header(c, name, value);
}

void http_reply(http_call *c, int status, const char *content_type, const char *body, size_t len) {
    set_status(c, status);
    if (content_type) add_header(c, "Content-Type", content_type);
    struct evbuffer *out = NULL;
    if (strcmp(c->method, "HEAD") == 0) {
        /* evhttp would send the body after all. */
        char size[24];
        snprintf(size, sizeof(size), "%zu", len);
        add_header(c, "Content-Length", size);
    } else if (len) {
        out = evbuffer_new();
        if (!out || evbuffer_add(out, body, len) != 0) {
            if (out) evbuffer_free(out);
            http_abort(c);
            return;
        }
    }
    finish(c, status);
    evhttp_send_reply(c->req, status, phrase(status), out); /* may end the call's life */
    if (out) evbuffer_free(out);
}

void http_reply_json(http_call *c, int status, json_t *json) {
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
    json_decref(json);
    static const char no_memory[] =
        "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\",\"param\":null,"
        "\"code\":\"out_of_memory\"}}";
    if (text)
        http_reply(c, status, "application/json", text, strlen(text));
    else
        http_reply(c, 500, "application/json", no_memory, sizeof(no_memory) - 1);
    free(text);
}

void http_reply_error(http_call *c, const api_error *e) {
    if (e->retry_after_s) {
        char s[16];
        snprintf(s, sizeof(s), "%d", e->retry_after_s);
        add_header(c, "Retry-After", s);
    }
    http_reply_json(c, e->http, api_error_json(e));
}

void http_stream_start(http_call *c) {
    set_status(c, 200);
    c->streaming = true;
    add_header(c, "Content-Type", "text/event-stream; charset=utf-8");
    add_header(c, "Cache-Control", "no-cache");
    add_header(c, "X-Accel-Buffering", "no");
    evhttp_send_reply_start(c->req, 200, "OK");
}

/* A token's few bytes go straight to the kernel, without evhttp's buffers, its event and the loop's turn between; so do
 * as many of them as it takes.  True: nothing is left to send.  What goes wrong evhttp will notice with what is left. */
static bool send_at_once(http_call *c, const char *bytes, size_t len) {
    char size[24];
    struct bufferevent *bev = bufferevent_of(c);
    struct evbuffer *out = bufferevent_get_output(bev);
    bool chunked = c->req->chunked;
    int n_size = snprintf(size, sizeof(size), "%zx\r\n", len);
    struct iovec part[] = {
        {size, (size_t)n_size}, {(void *)(uintptr_t)bytes, len}, {(void *)(uintptr_t) "\r\n", 2}};
    struct msghdr m = {.msg_iov = chunked ? part : part + 1, .msg_iovlen = chunked ? 3 : 1};
    if (len == 0 || evbuffer_get_length(out) > 0) return false;
    ssize_t sent = sendmsg(bufferevent_getfd(bev), &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent <= 0) return false;
    for (size_t i = 0; i < m.msg_iovlen; i++) {
        const struct iovec *v = &m.msg_iov[i];
        size_t had = (size_t)sent < v->iov_len ? (size_t)sent : v->iov_len;
        sent -= (ssize_t)had;
        /* Out of memory in the middle of a chunk: the stream is broken, and the client must see that. */
        if (evbuffer_add(out, (const char *)v->iov_base + had, v->iov_len - had) != 0)
            (void)shutdown(bufferevent_getfd(bev), SHUT_RDWR);
    }
    return true;
}

ty_status http_stream_send(http_call *c, const char *bytes, size_t len) {
    struct bufferevent *bev = bufferevent_of(c);
    if (send_at_once(c, bytes, len)) return TY_OK;
    if (evbuffer_get_length(bufferevent_get_output(bev)) + len > c->server->opt.max_backlog_bytes)
        return TY_ELIMIT;
    struct evbuffer *b = evbuffer_new();
    if (!b || evbuffer_add(b, bytes, len) != 0) {
        if (b) evbuffer_free(b);
        return TY_ENOMEM;
    }
    evhttp_send_reply_chunk(c->req, b);
    evbuffer_free(b);
    return TY_OK;
}

void http_stream_end(http_call *c) {
    c->streaming = false;
    finish(c, c->status);
    evhttp_send_reply_end(c->req); /* may end the call's life */
}

void http_abort(http_call *c) {
    struct evhttp_connection *con = evhttp_request_get_connection(c->req);
    finish(c, CLIENT_GONE);
    http_conn_disown(c->conn);
    call_free(c);
    evhttp_connection_free(con);
}
