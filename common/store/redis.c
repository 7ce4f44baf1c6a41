/* redis.c - see redis.h. */
#include "common/store/redis.h"

#include "common/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RETRY_US = 200000 };

struct ty_redis {
    ty_redis_address address;
    struct timeval timeout;
    redisContext *context; /* NULL: not connected */
    int64_t next_try_us;
    char last_error[128];
};

/* A decimal number that ends the text. */
static int parse_number(const char *text, int min, int max, int *out) {
    char *end;
    long v = strtol(text, &end, 10);
    if (end == text || *end || v < min || v > max) return -1;
    *out = (int)v;
    return 0;
}

static ty_status parse_unix(ty_redis_address *a, const char *url, const char *rest, ty_err *err) {
    const char *query = strstr(rest, "?db=");
    size_t n = query ? (size_t)(query - rest) : strlen(rest);
    if (n == 0 || n >= sizeof(a->host) || rest[0] != '/')
        return ty_fail(err, TY_EINVAL, "%s: want unix:///path/to/redis.sock", url);
    memcpy(a->host, rest, n);
    if (query && parse_number(query + 4, 0, 1 << 20, &a->db) != 0)
        return ty_fail(err, TY_EINVAL, "%s: db is not a number", url);
    return TY_OK;
}

static ty_status parse_tcp(ty_redis_address *a, const char *url, const char *rest, ty_err *err) {
    char text[512];
    if (snprintf(text, sizeof(text), "%s", rest) >= (int)sizeof(text))
        return ty_fail(err, TY_EINVAL, "a Redis URL is too long");
    a->port = 6379;
    char *host = text, *at = strrchr(text, '@');
    if (at) {
        *at = '\0';
        host = at + 1;
        char *colon = strchr(text, ':'); /* "user:password" or ":password" */
        snprintf(a->password, sizeof(a->password), "%s", colon ? colon + 1 : text);
    }
    char *slash = strchr(host, '/');
    if (slash) {
        *slash = '\0';
        if (slash[1] && parse_number(slash + 1, 0, 1 << 20, &a->db) != 0)
            return ty_fail(err, TY_EINVAL, "a Redis URL's database is not a number");
    }
    char *colon = strrchr(host, ':');
    if (colon) {
        *colon = '\0';
        if (parse_number(colon + 1, 1, 65535, &a->port) != 0)
            return ty_fail(err, TY_EINVAL, "a Redis URL's port is not a number from 1 to 65535");
    }
    if (!*host || strlen(host) >= sizeof(a->host))
        return ty_fail(err, TY_EINVAL, "%s: names no host", at ? "a Redis URL" : url);
    memcpy(a->host, host, strlen(host) + 1);
    return TY_OK;
}

ty_status ty_redis_address_parse(ty_redis_address *a, const char *url, ty_err *err) {
    *a = (ty_redis_address){0};
    if (strncmp(url, "unix://", 7) == 0) return parse_unix(a, url, url + 7, err);
    if (strncmp(url, "redis://", 8) == 0) return parse_tcp(a, url, url + 8, err);
    return ty_fail(err, TY_EINVAL, "a Redis URL starts with redis:// or unix://");
}

ty_status ty_redis_create(ty_redis **out, const char *url, int timeout_ms, ty_err *err) {
    ty_redis_address address;
    *out = NULL;
    ty_status st = ty_redis_address_parse(&address, url, err);
    if (st != TY_OK) return st;
    ty_redis *r = calloc(1, sizeof(*r));
    if (!r) return ty_fail(err, TY_ENOMEM, "no memory for a Redis connection");
    r->address = address;
    r->timeout = (struct timeval){timeout_ms / 1000, (timeout_ms % 1000) * 1000};
    *out = r;
    return TY_OK;
}

void ty_redis_destroy(ty_redis **r) {
    if (!*r) return;
    if ((*r)->context) redisFree((*r)->context);
    free(*r);
    *r = NULL;
}

static void disconnect(ty_redis *r) {
    if (r->context) {
        snprintf(r->last_error, sizeof(r->last_error), "%s",
                 r->context->err ? r->context->errstr : "connection closed");
        redisFree(r->context);
    }
    r->context = NULL;
    r->next_try_us = ty_now_us() + RETRY_US;
}

/* AUTH and SELECT, when the URL asks for them. */
static int greet(ty_redis *r) {
    const ty_redis_address *a = &r->address;
    for (int step = 0; step < 2; step++) {
        if (step == 0 ? !a->password[0] : a->db == 0) continue;
        redisReply *reply = step == 0 ? redisCommand(r->context, "AUTH %s", a->password)
                                      : redisCommand(r->context, "SELECT %d", a->db);
        int bad = !reply || reply->type == REDIS_REPLY_ERROR;
        if (reply) freeReplyObject(reply);
        if (bad) return -1;
    }
    return 0;
}

static ty_status connect_now(ty_redis *r, ty_err *err) {
    if (r->context) return TY_OK;
    const ty_redis_address *a = &r->address;
    if (ty_now_us() >= r->next_try_us) {
        r->context = a->port ? redisConnectWithTimeout(a->host, a->port, r->timeout)
                             : redisConnectUnixWithTimeout(a->host, r->timeout);
        if (r->context && !r->context->err && redisSetTimeout(r->context, r->timeout) == REDIS_OK &&
            greet(r) == 0)
            return TY_OK;
        disconnect(r);
    }
    return ty_fail(err, TY_EUNAVAILABLE, "Redis at %s is away: %s", a->host, r->last_error);
}

ty_status ty_redis_command(ty_redis *r, int argc, const char *const *argv, const size_t *len,
                           redisReply **reply, ty_err *err) {
    *reply = NULL;
    ty_status st = connect_now(r, err);
    if (st != TY_OK) return st;
    /* hiredis 0.14 declares argv without the inner const; it does not write. */
    redisReply *got = redisCommandArgv(r->context, argc, (const char **)(uintptr_t)argv, len);
    if (!got) {
        disconnect(r);
        return ty_fail(err, TY_EIO, "Redis at %s: %s", r->address.host, r->last_error);
    }
    if (got->type == REDIS_REPLY_ERROR) {
        st = ty_fail(err, TY_EINTERNAL, "Redis at %s refuses %s: %s", r->address.host, argv[0],
                     got->str);
        freeReplyObject(got);
        return st;
    }
    *reply = got;
    return TY_OK;
}
