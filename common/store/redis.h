/*
 * redis.h - one connection to a Redis server, for a thread that may wait (workers, tests, `tyto`).
 *
 * Connects on first use and again after a failure, at most once per `retry_ms`, so that a server that is
 * away costs a caller microseconds and recovers by itself.  Every command has a time limit.
 * The process must ignore SIGPIPE: hiredis writes with write(2).
 */
#ifndef TY_STORE_REDIS_H
#define TY_STORE_REDIS_H

#include "common/base/err.h"

#include <hiredis/hiredis.h>
#include <stddef.h>

typedef struct ty_redis ty_redis;

typedef struct {
    char host[256]; /* host name, or a socket's path when port is 0 */
    int port;
    int db;
    char password[512]; /* "" = none */
} ty_redis_address;

/* "redis://[:PASSWORD@]HOST[:PORT][/DB]" or "unix:///path/redis.sock[?db=N]".  Fails: TY_EINVAL. */
ty_status ty_redis_address_parse(ty_redis_address *a, const char *url, ty_err *err);

/* Does not connect yet.  timeout_ms bounds the connection and each command. */
ty_status ty_redis_create(ty_redis **out, const char *url, int timeout_ms, ty_err *err);
void ty_redis_destroy(ty_redis **r);

/* One command, arguments as bytes.  *reply is the caller's (freeReplyObject), never an error reply.
 * Fails: TY_EUNAVAILABLE (server away: try later), TY_EIO (the connection broke in mid-command),
 * TY_EINTERNAL (Redis refused the command: its words). */
ty_status ty_redis_command(ty_redis *r, int argc, const char *const *argv, const size_t *len,
                           redisReply **reply, ty_err *err);

#endif
