/* http_client.c - see http_client.h. */
#include "orchestration/http_client.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>

typedef struct {
    const http_call *call;
    http_reply *reply;
    struct event_base *base;
    struct evhttp_request *request;
    bool finished, canceled, failed;
    enum evhttp_request_error why;
    int os_error;
} exchange;

static void take_data(exchange *x, struct evbuffer *in) {
    char piece[16384];
    for (int n; (n = evbuffer_remove(in, piece, sizeof(piece))) > 0;) {
        /* pieces of an error's body are collected, so that the caller can show it */
        bool collect = !x->call->on_data || x->reply->status != 200;
        if (collect) {
            (void)ty_buf_append(&x->reply->body, piece, (size_t)n); /* `failed` remembers */
        } else if (!x->canceled && !x->call->on_data(x->call->ctx, piece, (size_t)n)) {
            x->canceled = true;
            event_base_loopbreak(x->base);
        }
    }
}

static void on_chunk(struct evhttp_request *req, void *ctx) {
    exchange *x = ctx;
    x->reply->status = evhttp_request_get_response_code(req);
    take_data(x, evhttp_request_get_input_buffer(req));
}

static void on_error(enum evhttp_request_error why, void *ctx) {
    exchange *x = ctx;
    x->failed = true;
    x->why = why;
}

static void on_done(struct evhttp_request *req, void *ctx) {
    exchange *x = ctx;
    x->os_error = errno;
    if (req && evhttp_request_get_response_code(req) != 0) {
        on_chunk(req, x);
        x->finished = true;
    }
    event_base_loopbreak(x->base);
}

static ty_status prepare(exchange *x, const struct evhttp_uri *uri, ty_err *err) {
    const http_call *c = x->call;
    x->request = evhttp_request_new(on_done, x);
    if (!x->request) return ty_fail(err, TY_ENOMEM, "out of memory for a request");
    evhttp_request_set_chunked_cb(x->request, on_chunk);
    evhttp_request_set_error_cb(x->request, on_error);
    struct evkeyvalq *head = evhttp_request_get_output_headers(x->request);
    char value[512];
    snprintf(value, sizeof(value), "%s:%d", evhttp_uri_get_host(uri), evhttp_uri_get_port(uri));
    int rc = evhttp_add_header(head, "Host", value);
    rc |= evhttp_add_header(head, "Connection", "close");
    if (c->bearer) {
        snprintf(value, sizeof(value), "Bearer %s", c->bearer);
        rc |= evhttp_add_header(head, "Authorization", value);
    }
    if (c->body) {
        rc |= evhttp_add_header(head, "Content-Type", "application/json");
        rc |= evbuffer_add(evhttp_request_get_output_buffer(x->request), c->body, strlen(c->body));
    }
    return rc == 0 ? TY_OK : ty_fail(err, TY_ENOMEM, "out of memory for a request");
}

static ty_status outcome(const exchange *x, ty_err *err) {
    const char *url = x->call->url;
    if (x->canceled) return ty_fail(err, TY_ECANCELED, "%s: the call was ended", url);
    if (x->reply->body.failed != TY_OK)
        return ty_fail(err, TY_ELIMIT, "%s: the reply is over %d bytes", url, HTTP_CLIENT_BODY_MAX);
    if (x->finished) return TY_OK;
    if (x->failed && x->why == EVREQ_HTTP_TIMEOUT)
        return ty_fail(err, TY_ETIMEOUT, "%s: no answer in time", url);
    if (x->reply->status != 0)
        return ty_fail(err, TY_EIO, "%s: the connection broke in mid-reply", url);
    return ty_fail(err, TY_EUNAVAILABLE, "%s: no connection (%s); is `tyto up` running there?", url,
                   x->os_error ? strerror(x->os_error) : "closed");
}

static ty_status exchange_over(exchange *x, const struct evhttp_uri *uri,
                               struct evhttp_connection *con, ty_err *err) {
    ty_status st = prepare(x, uri, err);
    if (st != TY_OK) {
        if (x->request) evhttp_request_free(x->request);
        return st;
    }
    int ms = x->call->timeout_ms > 0 ? x->call->timeout_ms : 60000;
    struct timeval limit = {.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000};
    evhttp_connection_set_timeout_tv(con, &limit);
    const char *path = evhttp_uri_get_path(uri);
    /* the connection owns the request from here on, also when this fails */
    if (evhttp_make_request(con, x->request, x->call->body ? EVHTTP_REQ_POST : EVHTTP_REQ_GET,
                            path && *path ? path : "/") != 0)
        return ty_fail(err, TY_EUNAVAILABLE, "%s: no connection", x->call->url);
    errno = 0;
    event_base_dispatch(x->base);
    return outcome(x, err);
}

ty_status http_client_call(const http_call *call, http_reply *reply, ty_err *err) {
    *reply = (http_reply){.body = ty_buf_make(HTTP_CLIENT_BODY_MAX)};
    exchange x = {.call = call, .reply = reply};
    struct evhttp_connection *con = NULL;
    ty_status st = TY_OK;
    struct evhttp_uri *uri = evhttp_uri_parse(call->url);
    const char *scheme = uri ? evhttp_uri_get_scheme(uri) : NULL;
    const char *host = uri ? evhttp_uri_get_host(uri) : NULL;
    if (!scheme || strcmp(scheme, "http") != 0 || !host || !*host) {
        st = ty_fail(err, TY_EINVAL, "\"%s\" is no URL of the form http://HOST:PORT", call->url);
        goto done;
    }
    if (evhttp_uri_get_port(uri) < 0) (void)evhttp_uri_set_port(uri, 80);
    x.base = event_base_new();
    if (x.base)
        con = evhttp_connection_base_new(x.base, NULL, host,
                                         (unsigned short)evhttp_uri_get_port(uri));
    if (!con) {
        st = ty_fail(err, TY_ENOMEM, "out of memory for a connection");
        goto done;
    }
    st = exchange_over(&x, uri, con, err);
done:
    if (con) evhttp_connection_free(con);
    if (x.base) event_base_free(x.base);
    if (uri) evhttp_uri_free(uri);
    return st;
}

static void end_line(http_sse *s) {
    static const char tag[] = "data:";
    size_t skip = sizeof(tag) - 1;
    if (s->line.len > 0 && s->line.data[s->line.len - 1] == '\r')
        s->line.data[--s->line.len] = '\0';
    if (s->line.len >= skip && memcmp(s->line.data, tag, skip) == 0) {
        if (s->line.data[skip] == ' ') skip++;
        s->on_event(s->ctx, s->line.data + skip, s->line.len - skip);
    }
    ty_buf_reset(&s->line);
}

ty_status http_sse_feed(http_sse *s, const char *data, size_t len) {
    while (len > 0) {
        const char *end = memchr(data, '\n', len);
        size_t n = end ? (size_t)(end - data) : len;
        ty_status st = ty_buf_append(&s->line, data, n);
        if (st != TY_OK) return st;
        if (!end) return TY_OK;
        end_line(s);
        data += n + 1;
        len -= n + 1;
    }
    return TY_OK;
}
