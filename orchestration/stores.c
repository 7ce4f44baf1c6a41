/* stores.c - see stores.h. */
#include "orchestration/stores.h"

#include "common/store/redis.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PING_TIMEOUT_MS = 500 };

static const struct {
    const char *name, *process, *socket, *variable, *flag;
} kinds[STORE_COUNT] = {
    {"conversations", "redis.state", "redis.sock", "TYTO_REDIS_URL", "--redis-url"},
    {"cache", "redis.cache", "cache.sock", "TYTO_CACHE_URL", "--cache-url"},
};

bool stores_find_server(const char *name, char out[STATE_PATH]) {
    const char *path = getenv("PATH");
    if (strchr(name, '/')) {
        snprintf(out, STATE_PATH, "%s", name);
        return access(out, X_OK) == 0;
    }
    for (const char *p = path ? path : ""; *p; p += strspn(p, ":")) {
        size_t n = strcspn(p, ":");
        snprintf(out, STATE_PATH, "%.*s/%s", (int)n, p, name);
        if (access(out, X_OK) == 0) return true;
        p += n;
    }
    return false;
}

static ty_status prepare_own(stores *s, store_kind k, const state_dir *state, ty_err *err) {
    s->own[k] = true;
    int n = snprintf(s->url[k], STATE_PATH, "unix://%s/%s", state->run, kinds[k].socket);
    if (n < 0 || n >= STATE_PATH)
        return ty_fail(err, TY_EINVAL, "%s: the path is too long", state->run);
    if (s->program[0]) return TY_OK;
    if (stores_find_server(s->server, s->program))
        return state_path(state->dir, "data", s->dir)
                   ? state_private_dir(s->dir, err)
                   : ty_fail(err, TY_EINVAL, "%s: the path is too long", state->dir);
    s->program[0] = '\0';
    return ty_fail(err, TY_ENOTFOUND,
                   "%s is not found; it keeps conversations and the cache of pictures: apt-get "
                   "install redis-server, or name servers of your own (TYTO_REDIS_URL, "
                   "TYTO_CACHE_URL), or do without: --redis-url none --cache-url none",
                   s->server);
}

ty_status stores_prepare(stores *s, const state_dir *state, ty_err *err) {
    for (int k = 0; k < STORE_COUNT; k++) {
        const char *given = s->given[k];
        ty_redis_address address;
        ty_status st = TY_OK;
        s->url[k][0] = '\0';
        if (!given || !*given) {
            st = prepare_own(s, (store_kind)k, state, err);
        } else if (strcmp(given, "none") != 0) {
            st = ty_redis_address_parse(&address, given, err);
            if (st == TY_OK && snprintf(s->url[k], STATE_PATH, "%s", given) >= STATE_PATH)
                st = ty_fail(err, TY_EINVAL, "%s: the URL is too long", kinds[k].flag);
        }
        if (st != TY_OK) return st;
    }
    return TY_OK;
}

ty_status stores_export(const stores *s, ty_err *err) {
    for (int k = 0; k < STORE_COUNT; k++) {
        int rc =
            s->url[k][0] ? setenv(kinds[k].variable, s->url[k], 1) : unsetenv(kinds[k].variable);
        if (rc != 0) return ty_fail(err, TY_ENOMEM, "%s: %s", kinds[k].variable, strerror(errno));
    }
    return TY_OK;
}

static ty_status add_server(const stores *s, store_kind k, supervisor *sup, int stop_phase,
                            ty_err *err) {
    bool durable = k == STORE_STATE;
    char limit[32];
    snprintf(limit, sizeof(limit), "%dmb", s->mib[k]);
    const char *const args[] = {
        s->program, "--port", "0", "--unixsocket", s->url[k] + strlen("unix://"),
        "--unixsocketperm", "600", "--daemonize", "no", "--dir", s->dir,
        /* no snapshots: one is durable by its append-only file, the other not at all */
        "--save", "", "--appendonly", durable ? "yes" : "no",
        /* its own chores four times a second, not ten: each wakes a core that computes */
        "--hz", "4",
        /* acknowledged is on disk */
        "--appendfsync", durable ? "always" : "no", "--maxmemory", limit, "--maxmemory-policy",
        durable ? "noeviction" : "allkeys-lru"};
    supervisor_child c = {.stop_phase = stop_phase};
    ty_status st = TY_OK;
    snprintf(c.name, sizeof(c.name), "%s", kinds[k].process);
    snprintf(c.stage, sizeof(c.stage), "redis");
    for (size_t i = 0; i < sizeof(args) / sizeof(args[0]) && st == TY_OK; i++)
        st = supervisor_arg(&c, args[i], err);
    if (st == TY_OK) st = supervisor_add(sup, &c, err);
    supervisor_child_clear(&c);
    return st;
}

ty_status stores_add(const stores *s, supervisor *sup, int stop_phase, ty_err *err) {
    ty_status st = TY_OK;
    for (int k = 0; k < STORE_COUNT && st == TY_OK; k++)
        if (s->own[k]) st = add_server(s, (store_kind)k, sup, stop_phase, err);
    return st;
}

/* A server that still reads its file answers PING with an error. */
static bool answers(const char *url, ty_err *err) {
    ty_redis *r = NULL;
    redisReply *reply = NULL;
    const char *argv[] = {"PING"};
    size_t len[] = {4};
    bool yes = ty_redis_create(&r, url, PING_TIMEOUT_MS, err) == TY_OK &&
               ty_redis_command(r, 1, argv, len, &reply, err) == TY_OK;
    if (reply) freeReplyObject(reply);
    ty_redis_destroy(&r);
    return yes;
}

bool stores_ready(const stores *s, char *why) {
    for (int k = 0; k < STORE_COUNT; k++) {
        ty_err err = {0};
        if (!s->own[k] || answers(s->url[k], &err)) continue;
        snprintf(why, SUPERVISOR_PROBE_TEXT, "%s: %.200s", kinds[k].process, err.text);
        return false;
    }
    return true;
}
