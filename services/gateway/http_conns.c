/* http_conns.c - see http_conns.h. */
#include "services/gateway/http_conns.h"

#include "common/base/log.h"
#include "services/gateway/api_error.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/resource.h>

enum {
    SURPLUS = 64,     /* connections over the limit that hear so at once */
    SURPLUS_S = 5,    /* how long such a one may take to ask */
    OTHER_FILES = 96, /* what the process has open beside its connections */
};

struct http_conn {
    TAILQ_ENTRY(http_conn) next;
    http_conns *owner;
    struct bufferevent *bev;
    struct evhttp_connection *con; /* NULL until evhttp has made it */
    void (*on_close)(void *call);
    void *call; /* NULL: nobody's, evhttp may speak */
    bool surplus, inside;
    int refusal; /* status that evhttp answers by itself; 0 = none */
};

struct http_conns {
    struct event_base *base;
    struct evhttp_bound_socket *bound;
    TAILQ_HEAD(, http_conn) all;
    int n, most;
    bool paused;
};

/* ---- how many ---- */

static void pace(http_conns *s) {
    bool pause = s->n >= s->most + SURPLUS;
    if (!s->bound || pause == s->paused) return;
    struct evconnlistener *l = evhttp_bound_socket_get_listener(s->bound);
    s->paused = pause;
    if (pause) {
        ty_warn("connections=%d: no more are accepted for now", s->n);
        evconnlistener_disable(l);
    } else {
        evconnlistener_enable(l);
    }
}

static void forget(http_conn *c) {
    http_conns *s = c->owner;
    TAILQ_REMOVE(&s->all, c, next);
    s->n--;
    free(c);
    pace(s);
}

static void on_down(struct evhttp_connection *con, void *arg) {
    http_conn *c = arg;
    evhttp_connection_set_closecb(con, NULL, NULL);
    if (c->call) c->on_close(c->call);
    forget(c);
}

/* ---- what evhttp says by itself ---- */

static void make_refusal(int status, api_error *e) {
    if (status == 413)
        api_error_make(e, 413, "request_too_large", NULL,
                       "The request is too large; send smaller or fewer pictures");
    else if (status < 500)
        api_error_make(e, 400, "invalid_http", NULL,
                       "This is not an HTTP request that the server understands (status %d); check "
                       "its first line, its "
                       "headers and their size",
                       status);
    else
        api_error_make(e, status == 501 ? 405 : status,
                       status == 501 ? "method_not_allowed" : "internal_error", NULL,
                       "The server cannot answer this request (status %d)", status);
}

static void put_refusal(int status, struct evbuffer *out) {
    api_error e;
    make_refusal(status, &e);
    json_t *json = api_error_json(&e);
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    const char *body = text ? text : "{}";
    evbuffer_add_printf(
        out,
        "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
        "Connection: close\r\n\r\n%s",
        e.http, e.http < 500 ? "Bad Request" : "Internal Server Error", strlen(body), body);
    free(text);
}

/* The status when the last n bytes begin an answer; 0 when they do not. */
static int status_of(struct evbuffer *b, size_t n) {
    char line[13] = "";
    struct evbuffer_ptr at;
    if (n < sizeof(line) ||
        evbuffer_ptr_set(b, &at, evbuffer_get_length(b) - n, EVBUFFER_PTR_SET) != 0 ||
        evbuffer_copyout_from(b, &at, line, sizeof(line) - 1) < (ev_ssize_t)sizeof(line) - 1)
        return 0;
    return strncmp(line, "HTTP/1.", 7) == 0 ? (int)strtol(line + 9, NULL, 10) : 0;
}

/* evhttp writes an answer in pieces, all before the first byte leaves: after each the buffer holds ours alone. */
static void on_output(struct evbuffer *b, const struct evbuffer_cb_info *info, void *arg) {
    http_conn *c = arg;
    if (info->n_added == 0 || c->call || c->inside) return;
    int status = status_of(b, info->n_added);
    if (status && status != 100) c->refusal = status; /* 100: go on and send the body */
    if (!c->refusal) return;
    c->inside = true;
    evbuffer_unfreeze(b, 1);
    evbuffer_drain(b, evbuffer_get_length(b));
    evbuffer_freeze(b, 1);
    put_refusal(c->refusal, b);
    c->inside = false;
}

/* ---- a new one ---- */

/* evhttp has made its connection meanwhile, and its callbacks have it as their argument. */
static void attach(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    http_conn *c = arg;
    struct bufferevent *bev = c->bev;
    bufferevent_event_cb event_cb = NULL;
    void *con = NULL;
    bufferevent_getcb(bev, NULL, NULL, &event_cb, &con);
    if (event_cb && con) {
        c->con = con;
        evhttp_connection_set_closecb(c->con, on_down, c);
        if (c->surplus) evhttp_connection_set_timeout(c->con, SURPLUS_S);
    } else {
        forget(c);
    }
    bufferevent_decref(bev);
}

/* evhttp asks for the bufferevent of a connection that it has accepted. */
static struct bufferevent *on_accept(struct event_base *base, void *arg) {
    http_conns *s = arg;
    struct bufferevent *bev = bufferevent_socket_new(base, -1, 0);
    http_conn *c = bev ? calloc(1, sizeof(*c)) : NULL;
    if (!c) return bev;
    *c = (http_conn){.owner = s, .bev = bev, .surplus = s->n >= s->most};
    if (!evbuffer_add_cb(bufferevent_get_output(bev), on_output, c)) {
        free(c);
        return bev;
    }
    bufferevent_incref(bev); /* attach's own */
    if (event_base_once(base, -1, EV_TIMEOUT, attach, c, &(struct timeval){0}) != 0) {
        evbuffer_remove_cb(bufferevent_get_output(bev), on_output, c);
        bufferevent_decref(bev);
        free(c);
        return bev;
    }
    TAILQ_INSERT_TAIL(&s->all, c, next);
    s->n++;
    pace(s);
    return bev;
}

/* ---- public ---- */

static ty_status allow_files(int most, ty_err *err) {
    struct rlimit r;
    rlim_t want = (rlim_t)most + SURPLUS + OTHER_FILES;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur >= want) return TY_OK;
    rlim_t hard = r.rlim_max;
    r.rlim_cur = want;
    if (want <= hard && setrlimit(RLIMIT_NOFILE, &r) == 0) return TY_OK;
    return ty_fail(err, TY_ELIMIT,
                   "%d connections need %llu open files, this process may have %llu; raise it "
                   "(ulimit -n) or lower "
                   "--max-connections",
                   most, (unsigned long long)want, (unsigned long long)hard);
}

ty_status http_conns_create(http_conns **out, struct event_base *base, struct evhttp *http,
                            int most, ty_err *err) {
    *out = NULL;
    ty_status st = allow_files(most, err);
    if (st != TY_OK) return st;
    http_conns *s = calloc(1, sizeof(*s));
    if (!s) return ty_fail(err, TY_ENOMEM, "no memory for the HTTP server");
    s->base = base;
    s->most = most;
    TAILQ_INIT(&s->all);
    evhttp_set_bevcb(http, on_accept, s);
    *out = s;
    return TY_OK;
}

void http_conns_bound(http_conns *s, struct evhttp_bound_socket *bound) {
    s->bound = bound;
    s->paused = false;
}

void http_conns_destroy(http_conns **s) {
    if (!s || !*s) return;
    http_conn *c;
    (*s)->bound = NULL;
    while ((c = TAILQ_FIRST(&(*s)->all))) { /* those that evhttp never took */
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): it loses sight of what a TAILQ holds */
        if (!c->con) bufferevent_decref(c->bev);
        forget(c);
    }
    free(*s);
    *s = NULL;
}

http_conn *http_conns_find(http_conns *s, struct evhttp_connection *con) {
    http_conn *c;
    TAILQ_FOREACH(c, &s->all, next)
    if (c->con == con) break;
    return c;
}

void http_conn_own(http_conn *c, void (*on_close)(void *call), void *call) {
    c->on_close = on_close;
    c->call = call;
}

void http_conn_disown(http_conn *c) {
    c->call = NULL;
}

bool http_conn_is_surplus(const http_conn *c) {
    return c->surplus;
}
