/* script.c - see script.h. */
#include "common/store/script.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What every script has at hand. */
static const char prelude[] =
    "local T = redis.call('TIME')\n"
    "local now = T[1] * 1000 + math.floor(T[2] / 1000)\n"
    "local id, owner, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])\n"
    "local conv, mine = 'tyto:conv:' .. id, 'tyto:owner:' .. owner\n"
    "local function get(c, f) return redis.call('HGET', 'tyto:conv:' .. c, f) end\n"
    "local function is_mine(c) return get(c, 'owner') == owner end\n"
    "local function num(x) return tonumber(x or '0') or 0 end\n"
    "local function no(code, text) return {code, text} end\n"
    "local function keep_picture(sha)\n"
    "  redis.call('EXPIRE', 'tyto:pic:' .. sha, ttl)\n"
    "  redis.call('EXPIRE', 'tyto:pic:' .. sha .. ':refs', ttl)\n"
    "end\n"
    "local function keep_mine()\n"
    "  for _, k in ipairs({'', ':bytes', ':files'}) do redis.call('EXPIRE', mine .. k, ttl) end\n"
    "end\n"
    "local function keep(c)\n"
    "  local k = 'tyto:conv:' .. c\n"
    "  redis.call('EXPIRE', k, ttl)\n"
    "  redis.call('EXPIRE', k .. ':turns', ttl)\n"
    "  redis.call('EXPIRE', k .. ':pics', ttl)\n"
    "  for _, sha in ipairs(redis.call('SMEMBERS', k .. ':pics')) do keep_picture(sha) end\n"
    "  redis.call('ZADD', mine, now, c)\n"
    "  redis.call('HSET', mine .. ':bytes', c, num(get(c, 'bytes')))\n"
    "  keep_mine()\n"
    "end\n"
    "local function drop_ref(sha, ref)\n"
    "  redis.call('SREM', 'tyto:pic:' .. sha .. ':refs', ref)\n"
    "  if redis.call('SCARD', 'tyto:pic:' .. sha .. ':refs') == 0 then\n"
    "    redis.call('DEL', 'tyto:pic:' .. sha)\n"
    "  end\n"
    "end\n"
    "local function drop_file(sha)\n"
    "  redis.call('ZREM', mine .. ':files', sha)\n"
    "  redis.call('HDEL', mine .. ':bytes', 'file:' .. sha)\n"
    "  redis.call('DEL', mine .. ':file:' .. sha)\n"
    "  drop_ref(sha, 'file:' .. owner)\n"
    "end\n"
    /* What expired by itself still stands in the owner's books. */
    "local function prune()\n"
    "  local old = '(' .. string.format('%.0f', now - ttl * 1000)\n"
    "  for _, c in ipairs(redis.call('ZRANGEBYSCORE', mine, '-inf', old)) do\n"
    "    redis.call('ZREM', mine, c)\n"
    "    redis.call('HDEL', mine .. ':bytes', c)\n"
    "  end\n"
    "  for _, f in ipairs(redis.call('ZRANGEBYSCORE', mine .. ':files', '-inf', old)) do\n"
    "    drop_file(f)\n"
    "  end\n"
    "end\n"
    "local function held()\n"
    "  local sum = 0\n"
    "  for _, b in ipairs(redis.call('HVALS', mine .. ':bytes')) do sum = sum + num(b) end\n"
    "  return sum\n"
    "end\n"
    "local function too_much(more, max_bytes)\n"
    "  return max_bytes > 0 and held() + more > max_bytes\n"
    "end\n"
    "local function no_room(max_bytes)\n"
    "  return no('ELIMIT', 'the owner would hold more than ' .. string.format('%.0f', max_bytes) "
    ".. "
    "' bytes; delete a conversation or a file')\n"
    "end\n"
    "local function too_many(max_count)\n"
    "  return max_count > 0 and redis.call('ZCARD', mine) >= max_count\n"
    "end\n"
    "local function no_slot(max_count)\n"
    "  return no('ELIMIT', 'the owner has ' .. max_count .. ' conversations, the most allowed; "
    "delete one')\n"
    "end\n"
    "local function free_lease(c)\n"
    "  redis.call('SREM', 'tyto:leases:' .. (get(c, 'holder') or ''), c)\n"
    "  redis.call('HDEL', 'tyto:conv:' .. c, 'lease', 'lease_until', 'holder')\n"
    "end\n"
    "local function is_there() return redis.call('EXISTS', conv) == 1 and is_mine(id) end\n"
    "local function not_there() return no('ENOTFOUND', 'no such conversation') end\n"
    /* Ranks first.. of a zset, newest first: from `after` on; nil when that is not in it. */
    "local function page(key, after, count)\n"
    "  local first = 0\n"
    "  if after ~= '' then\n"
    "    local rank = redis.call('ZREVRANK', key, after)\n"
    "    if not rank then return nil end\n"
    "    first = rank + 1\n"
    "  end\n"
    "  return redis.call('ZREVRANGE', key, first, first + num(count) - 1)\n"
    "end\n";

void ty_store_command_clear(ty_store_command *c) {
    for (int i = 0; i < c->argc; i++) free(c->argv[i]);
    free(c->argv);
    free(c->len);
    *c = (ty_store_command){0};
}

ty_status ty_store_do(ty_redis *r, const ty_store_command *c, redisReply **reply, ty_err *err) {
    return ty_redis_command(r, c->argc, (const char *const *)c->argv, c->len, reply, err);
}

/* Takes the bytes over, also on failure. */
static void push_own(ty_store_command *c, char *own, size_t n, ty_status *st) {
    size_t slots = (size_t)c->argc + 1;
    char **argv = realloc(c->argv, slots * sizeof(*argv));
    if (argv) c->argv = argv;
    size_t *len = realloc(c->len, slots * sizeof(*len));
    if (len) c->len = len;
    if (!own || !argv || !len) {
        free(own);
        *st = TY_ENOMEM;
        return;
    }
    c->argv[c->argc] = own;
    c->len[c->argc++] = n;
}

void ty_script_push(ty_store_command *c, const void *bytes, size_t n, ty_status *st) {
    if (*st != TY_OK) return;
    char *copy = malloc(n + 1);
    if (copy) {
        if (n) memcpy(copy, bytes, n);
        copy[n] = '\0';
    }
    push_own(c, copy, n, st);
}

void ty_script_text(ty_store_command *c, const char *text, ty_status *st) {
    ty_script_push(c, text ? text : "", text ? strlen(text) : 0, st);
}

void ty_script_number(ty_store_command *c, int64_t n, ty_status *st) {
    char text[32];
    snprintf(text, sizeof(text), "%lld", (long long)n);
    ty_script_text(c, text, st);
}

ty_status ty_script_start(ty_store_command *c, const char *body, const char *id, const char *owner,
                          const ty_store_policy *p) {
    ty_status st = TY_OK;
    *c = (ty_store_command){0};
    ty_script_text(c, "EVAL", &st);
    size_t n = strlen(body);
    char *script = malloc(sizeof(prelude) + n);
    if (script) {
        memcpy(script, prelude, sizeof(prelude) - 1);
        memcpy(script + sizeof(prelude) - 1, body, n + 1);
    }
    if (st == TY_OK)
        push_own(c, script, sizeof(prelude) - 1 + n, &st);
    else
        free(script);
    ty_script_text(c, "0", &st);
    ty_script_text(c, id, &st);
    ty_script_text(c, owner, &st);
    ty_script_number(c, p ? p->ttl_s : 0, &st);
    return st;
}

ty_status ty_script_finish(ty_store_command *c, ty_status st, ty_err *err) {
    if (st == TY_OK) return TY_OK;
    ty_store_command_clear(c);
    return ty_fail(err, st, "no memory for a command to Redis");
}

/* What Redis says when it cannot do it now: it has no room, or it passes by itself. */
static ty_status refusal(const char *text) {
    static const struct {
        const char *word;
        ty_status st;
    } known[] = {{"OOM", TY_EOVERLOAD},           {"MISCONF", TY_EOVERLOAD},
                 {"LOADING", TY_EUNAVAILABLE},    {"BUSY", TY_EUNAVAILABLE},
                 {"READONLY", TY_EUNAVAILABLE},   {"MASTERDOWN", TY_EUNAVAILABLE},
                 {"NOREPLICAS", TY_EUNAVAILABLE}, {"TRYAGAIN", TY_EUNAVAILABLE}};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strncmp(text, known[i].word, strlen(known[i].word)) == 0) return known[i].st;
    return TY_EINTERNAL;
}

ty_status ty_script_status(const redisReply *r, size_t values, ty_err *err) {
    if (r->type == REDIS_REPLY_ERROR) return ty_fail(err, refusal(r->str), "Redis: %s", r->str);
    if (r->type != REDIS_REPLY_ARRAY || r->elements < 2 ||
        r->element[0]->type != REDIS_REPLY_STRING)
        return ty_fail(err, TY_EINTERNAL, "Redis answered in another form than the script's");
    const char *name = r->element[0]->str;
    if (strcmp(name, "OK") != 0)
        return ty_fail(err, ty_status_from_name(name), "%s", r->element[1]->str);
    if (r->elements < 1 + values)
        return ty_fail(err, TY_EINTERNAL, "Redis answered in another form than the script's");
    return TY_OK;
}

ty_status ty_script_list(const redisReply *r, json_t *(*read)(const redisReply *r),
                         const char *what, json_t **out, ty_err *err) {
    *out = NULL;
    ty_status st = ty_script_status(r, 1, err);
    if (st != TY_OK) return st;
    json_t *list = json_array();
    for (size_t i = 0; list && i < r->element[1]->elements; i++) {
        if (json_array_append_new(list, read(r->element[1]->element[i])) == 0) continue;
        json_decref(list);
        list = NULL;
    }
    *out = list;
    return list ? TY_OK
                : ty_fail(err, TY_EINTERNAL, "the list of %s in Redis cannot be read", what);
}

json_t *ty_script_text_of(const redisReply *r) {
    return r->type == REDIS_REPLY_STRING ? json_stringn(r->str, r->len) : json_null();
}

json_t *ty_script_number_of(const redisReply *r) {
    return json_integer(r->type == REDIS_REPLY_STRING ? strtoll(r->str, NULL, 10) : 0);
}

ty_status ty_store_read_done(const redisReply *r, int64_t *number, ty_err *err) {
    ty_status st = ty_script_status(r, 1, err);
    if (st == TY_OK && number) *number = r->element[1]->integer;
    return st;
}
