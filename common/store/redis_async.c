/*
 * redis_async.c - see redis_async.h.
 *
 * hiredis frees a context by itself when its connection fails, after it has called every pending command's function
 * with no reply.  So the first such call, or the connect or disconnect function, is the word that it is gone.
 */
#include "common/store/redis_async.h"

#include "common/base/clock.h"
#include "common/base/log.h"

#include <hiredis/async.h>
#include <hiredis/adapters/libevent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RETRY_US = 200000 };

struct ty_redis_async {
    struct event_base *base;
    ty_redis_address address;
    int64_t timeout_us;
    redisAsyncContext *context; /* NULL: not connected */
    bool up;
    int64_t next_try_us;
    ty_redis_sent *oldest, *newest; /* sent, in order */
    char reason[192];
};

struct ty_redis_sent {
    ty_redis_async *owner;
    ty_redis_reply_fn fn; /* NULL: forgotten */
    void *ctx;
    int64_t sent_us;
    ty_redis_sent *next;
};

/* ---- the list of what is under way: replies come in order ---- */

static void list_push(ty_redis_async *a, ty_redis_sent *s) {
    if (a->newest)
        a->newest->next = s;
    else
        a->oldest = s;
    a->newest = s;
}

static void list_remove(ty_redis_async *a, ty_redis_sent *s) {
    ty_redis_sent **p = &a->oldest, *before = NULL;
    while (*p && *p != s) {
        before = *p;
        p = &(*p)->next;
    }
    if (!*p) return;
    *p = s->next;
    if (a->newest == s) a->newest = before;
}

/* ---- losing the connection ---- */

static void note_down(ty_redis_async *a, const char *why) {
    if (a->up) ty_warn("redis=%s away: %s", a->address.host, why);
    a->up = false;
    a->context = NULL;
    a->next_try_us = ty_now_us() + RETRY_US;
    snprintf(a->reason, sizeof(a->reason), "%s", why);
}

/* We end it: pending commands hear of it. */
static void drop(ty_redis_async *a, const char *why) {
    redisAsyncContext *c = a->context;
    note_down(a, why);
    if (c) redisAsyncFree(c);
}

static void note_lost(ty_redis_async *a, const redisAsyncContext *c) {
    if (a->context != c) return; /* known already */
    note_down(a, c->err && c->errstr && *c->errstr ? c->errstr : "the connection was closed");
}

static void on_reply(redisAsyncContext *c, void *reply, void *arg) {
    ty_redis_sent *s = arg;
    ty_redis_async *a = s->owner;
    if (!reply) note_lost(a, c);
    list_remove(a, s);
    ty_err err = {0};
    if (!reply) (void)ty_fail(&err, TY_EIO, "Redis at %s: %s", a->address.host, a->reason);
    if (s->fn) s->fn(s->ctx, reply, &err);
    free(s);
}

static void on_disconnect(const redisAsyncContext *c, int status) {
    (void)status;
    note_lost(c->data, c);
}

static void on_connect(const redisAsyncContext *c, int status) {
    if (status != REDIS_OK) note_lost(c->data, c);
}

/* ---- connecting ---- */

static ty_status send_argv(ty_redis_async *a, int argc, const char *const *argv, const size_t *len,
                           ty_redis_reply_fn fn, void *ctx, ty_redis_sent **sent, ty_err *err) {
    ty_redis_sent *s = calloc(1, sizeof(*s));
    if (!s) return ty_fail(err, TY_ENOMEM, "no memory for a command to Redis");
    *s = (ty_redis_sent){.owner = a, .fn = fn, .ctx = ctx, .sent_us = ty_now_us()};
    list_push(a, s);
    /* hiredis 0.14 declares argv without the inner const; it does not write. */
    if (redisAsyncCommandArgv(a->context, on_reply, s, argc, (const char **)(uintptr_t)argv, len) !=
        REDIS_OK) {
        list_remove(a, s);
        free(s);
        return ty_fail(err, TY_EUNAVAILABLE, "Redis at %s takes no command", a->address.host);
    }
    if (sent) *sent = s;
    return TY_OK;
}

/* The last word of the greeting: PING is answered, so the server is there and has loaded its data. */
static void on_greeting(void *ctx, const redisReply *r, const ty_err *err) {
    (void)err;
    ty_redis_async *a = ctx;
    if (!r) return;
    if (r->type == REDIS_REPLY_ERROR) {
        /* Not from inside hiredis' own call of us: the tick drops it. */
        snprintf(a->reason, sizeof(a->reason), "%s", r->str);
        a->next_try_us = 0;
        return;
    }
    if (strcmp(r->str ? r->str : "", "PONG") != 0) return; /* AUTH's or SELECT's */
    a->up = true;
    a->reason[0] = '\0';
    ty_info("redis=%s up", a->address.host);
}

static ty_status greet(ty_redis_async *a) {
    const ty_redis_address *to = &a->address;
    char db[16];
    snprintf(db, sizeof(db), "%d", to->db);
    const char *auth[] = {"AUTH", to->password}, *select[] = {"SELECT", db}, *ping[] = {"PING"};
    size_t auth_len[] = {4, strlen(to->password)}, select_len[] = {6, strlen(db)}, ping_len[] = {4};
    ty_status st = TY_OK;
    if (to->password[0]) st = send_argv(a, 2, auth, auth_len, on_greeting, a, NULL, NULL);
    if (st == TY_OK && to->db) st = send_argv(a, 2, select, select_len, on_greeting, a, NULL, NULL);
    if (st == TY_OK) st = send_argv(a, 1, ping, ping_len, on_greeting, a, NULL, NULL);
    return st;
}

static void connect_now(ty_redis_async *a) {
    const ty_redis_address *to = &a->address;
    a->next_try_us = INT64_MAX; /* on_greeting sets it to 0 when the server refuses us */
    redisAsyncContext *c =
        to->port ? redisAsyncConnect(to->host, to->port) : redisAsyncConnectUnix(to->host);
    if (!c || c->err) {
        note_down(a, c && c->errstr ? c->errstr : "no memory");
        if (c) redisAsyncFree(c);
        return;
    }
    a->context = c;
    c->data = a;
    if (redisLibeventAttach(c, a->base) != REDIS_OK ||
        redisAsyncSetConnectCallback(c, on_connect) != REDIS_OK ||
        redisAsyncSetDisconnectCallback(c, on_disconnect) != REDIS_OK || greet(a) != TY_OK)
        drop(a, "no memory");
}

/* ---- public ---- */

ty_status ty_redis_async_create(ty_redis_async **out, struct event_base *base, const char *url,
                                int timeout_ms, ty_err *err) {
    *out = NULL;
    ty_redis_address address;
    ty_status st = ty_redis_address_parse(&address, url, err);
    if (st != TY_OK) return st;
    ty_redis_async *a = calloc(1, sizeof(*a));
    if (!a) return ty_fail(err, TY_ENOMEM, "no memory for a Redis connection");
    a->base = base;
    a->address = address;
    a->timeout_us = (int64_t)timeout_ms * 1000;
    snprintf(a->reason, sizeof(a->reason), "not connected yet");
    *out = a;
    return TY_OK;
}

void ty_redis_async_destroy(ty_redis_async **a) {
    if (!a || !*a) return;
    for (ty_redis_sent *s = (*a)->oldest; s; s = s->next) s->fn = NULL;
    if ((*a)->context) drop(*a, "closed");
    free(*a);
    *a = NULL;
}

void ty_redis_async_tick(ty_redis_async *a) {
    int64_t now = ty_now_us();
    if (a->context && a->oldest && now - a->oldest->sent_us > a->timeout_us)
        drop(a, "no answer in time");
    else if (a->context && !a->up && a->next_try_us == 0) {
        char why[sizeof(a->reason)];
        snprintf(why, sizeof(why), "%s", a->reason);
        drop(a, why);
    }
    if (!a->context && now >= a->next_try_us) connect_now(a);
}

bool ty_redis_async_up(const ty_redis_async *a) {
    return a->up;
}

const char *ty_redis_async_reason(const ty_redis_async *a) {
    return a->reason;
}

ty_status ty_redis_async_send(ty_redis_async *a, const ty_store_command *c, ty_redis_reply_fn fn,
                              void *ctx, ty_redis_sent **sent, ty_err *err) {
    if (sent) *sent = NULL;
    if (!a->up)
        return ty_fail(err, TY_EUNAVAILABLE, "Redis at %s is away: %s", a->address.host, a->reason);
    return send_argv(a, c->argc, (const char *const *)c->argv, c->len, fn, ctx, sent, err);
}

void ty_redis_sent_forget(ty_redis_sent **sent) {
    if (!*sent) return;
    (*sent)->fn = NULL;
    *sent = NULL;
}
