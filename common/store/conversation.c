/*
 * conversation.c - see conversation.h.  The Lua that Redis runs stands here beside the C that sends it:
 * each script is PRELUDE and a body, and returns {status name, value}.
 */
#include "common/store/conversation.h"

#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ARGV[1] is always the conversation's id (or "" for none), ARGV[2] the owner, ARGV[3] the ttl. */
#define PRELUDE                                                                                    \
    "local T = redis.call('TIME')\n"                                                               \
    "local now = T[1] * 1000 + math.floor(T[2] / 1000)\n"                                          \
    "local id, owner, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])\n"                                 \
    "local conv, mine = 'tyto:conv:' .. id, 'tyto:owner:' .. owner\n"                              \
    "local function get(c, f) return redis.call('HGET', 'tyto:conv:' .. c, f) end\n"               \
    "local function is_mine(c) return get(c, 'owner') == owner end\n"                              \
    "local function num(x) return tonumber(x or '0') or 0 end\n"                                   \
    "local function no(code, text) return {code, text} end\n"                                      \
    "local function keep_picture(sha)\n"                                                           \
    "  redis.call('EXPIRE', 'tyto:pic:' .. sha, ttl)\n"                                            \
    "  redis.call('EXPIRE', 'tyto:pic:' .. sha .. ':refs', ttl)\n"                                 \
    "end\n"                                                                                        \
    "local function keep(c)\n"                                                                     \
    "  local k = 'tyto:conv:' .. c\n"                                                              \
    "  redis.call('EXPIRE', k, ttl)\n"                                                             \
    "  redis.call('EXPIRE', k .. ':turns', ttl)\n"                                                 \
    "  redis.call('EXPIRE', k .. ':pics', ttl)\n"                                                  \
    "  for _, sha in ipairs(redis.call('SMEMBERS', k .. ':pics')) do keep_picture(sha) end\n"      \
    "  redis.call('ZADD', mine, now, c)\n"                                                         \
    "  redis.call('HSET', mine .. ':bytes', c, num(get(c, 'bytes')))\n"                            \
    "  redis.call('EXPIRE', mine, ttl)\n"                                                          \
    "  redis.call('EXPIRE', mine .. ':bytes', ttl)\n"                                              \
    "end\n"                                                                                        \
    "local function prune()\n"                                                                     \
    "  local old = redis.call('ZRANGEBYSCORE', mine, '-inf', '(' .. (now - ttl * 1000))\n"         \
    "  for _, c in ipairs(old) do\n"                                                               \
    "    redis.call('ZREM', mine, c)\n"                                                            \
    "    redis.call('HDEL', mine .. ':bytes', c)\n"                                                \
    "  end\n"                                                                                      \
    "end\n"                                                                                        \
    "local function held()\n"                                                                      \
    "  local sum = 0\n"                                                                            \
    "  for _, b in ipairs(redis.call('HVALS', mine .. ':bytes')) do sum = sum + num(b) end\n"      \
    "  return sum\n"                                                                               \
    "end\n"                                                                                        \
    "local function info(c)\n"                                                                     \
    "  local h = redis.call('HMGET', 'tyto:conv:' .. c, 'owner', 'model', 'created', 'updated', "  \
    "'version', 'turns', 'bytes')\n"                                                               \
    "  return {c, h[1], h[2], h[3], h[4], h[5], h[6], h[7]}\n"                                     \
    "end\n"                                                                                        \
    "local function whole()\n"                                                                     \
    "  return {'OK', info(id), redis.call('LRANGE', conv .. ':turns', 0, -1)}\n"                   \
    "end\n"                                                                                        \
    "local function drop_ref(sha, ref)\n"                                                          \
    "  redis.call('SREM', 'tyto:pic:' .. sha .. ':refs', ref)\n"                                   \
    "  if redis.call('SCARD', 'tyto:pic:' .. sha .. ':refs') == 0 then redis.call('DEL', "         \
    "'tyto:pic:' .. sha) end\n"                                                                    \
    "end\n"

static const char BEGIN[] = PRELUDE
    "local create, model, lease, lease_ms, max_count = ARGV[4], ARGV[5], ARGV[6], ARGV[7], "
    "num(ARGV[8])\n"
    "local there = redis.call('EXISTS', conv) == 1\n"
    "if create == '1' then\n"
    "  if there then return no('EEXIST', 'a conversation of this id is there already') end\n"
    "  prune()\n"
    "  if max_count > 0 and redis.call('ZCARD', mine) >= max_count then\n"
    "    return no('ELIMIT', 'the owner has ' .. max_count .. ' conversations, the most allowed; "
    "delete one')\n"
    "  end\n"
    "  redis.call('HSET', conv, 'owner', owner, 'model', model, 'created', now, 'updated', now, "
    "'version', 0, 'turns', 0, 'bytes', 0)\n"
    "elseif not there or not is_mine(id) then\n"
    "  return no('ENOTFOUND', 'no such conversation')\n"
    "elseif num(get(id, 'lease_until')) > now then\n"
    "  return no('EEXIST', 'another turn of this conversation is being answered')\n"
    "end\n"
    "redis.call('HSET', conv, 'lease', lease, 'lease_until', now + num(lease_ms))\n"
    "keep(id)\n"
    "return whole()\n";

static const char COMMIT[] = PRELUDE
    "local lease, max_bytes, n_turn, n_pic = ARGV[4], num(ARGV[5]), num(ARGV[6]), num(ARGV[7])\n"
    "if redis.call('EXISTS', conv) == 0 or not is_mine(id) then\n"
    "  return no('ENOTFOUND', 'no such conversation')\n"
    "end\n"
    "if get(id, 'lease') ~= lease then\n"
    "  return no('ECANCELED', 'the turn took too long: another one was begun in between')\n"
    "end\n"
    "local more = 0\n"
    "for i = 1, n_turn do more = more + #ARGV[7 + i] end\n"
    "for i = 1, n_pic do\n"
    "  local sha = ARGV[7 + n_turn + 2 * i - 1]\n"
    "  if redis.call('SISMEMBER', conv .. ':pics', sha) == 0 then\n"
    "    more = more + #ARGV[7 + n_turn + 2 * i]\n"
    "  end\n"
    "end\n"
    "if max_bytes > 0 and held() + more > max_bytes then\n"
    "  return no('ELIMIT', 'the owner would hold more than ' .. max_bytes .. ' bytes; delete a "
    "conversation')\n"
    "end\n"
    "for i = 1, n_turn do redis.call('RPUSH', conv .. ':turns', ARGV[7 + i]) end\n"
    "for i = 1, n_pic do\n"
    "  local sha, bytes = ARGV[7 + n_turn + 2 * i - 1], ARGV[7 + n_turn + 2 * i]\n"
    "  redis.call('SET', 'tyto:pic:' .. sha, bytes)\n"
    "  redis.call('SADD', 'tyto:pic:' .. sha .. ':refs', id)\n"
    "  redis.call('SADD', conv .. ':pics', sha)\n"
    "end\n"
    "redis.call('HINCRBY', conv, 'bytes', more)\n"
    "redis.call('HINCRBY', conv, 'turns', n_turn)\n"
    "redis.call('HSET', conv, 'updated', now)\n"
    "redis.call('HDEL', conv, 'lease', 'lease_until')\n"
    "keep(id)\n"
    "return {'OK', redis.call('HINCRBY', conv, 'version', 1)}\n";

/* A conversation that was created for a turn that never came is no conversation. */
static const char ABANDON[] = PRELUDE "if get(id, 'lease') ~= ARGV[4] then return {'OK', 0} end\n"
                                      "redis.call('HDEL', conv, 'lease', 'lease_until')\n"
                                      "if num(get(id, 'turns')) == 0 then\n"
                                      "  local whose = 'tyto:owner:' .. get(id, 'owner')\n"
                                      "  redis.call('ZREM', whose, id)\n"
                                      "  redis.call('HDEL', whose .. ':bytes', id)\n"
                                      "  redis.call('DEL', conv)\n"
                                      "end\n"
                                      "return {'OK', 1}\n";

static const char GET[] = PRELUDE "if redis.call('EXISTS', conv) == 0 or not is_mine(id) then\n"
                                  "  return no('ENOTFOUND', 'no such conversation')\n"
                                  "end\n"
                                  "return whole()\n";

static const char LIST[] =
    PRELUDE "prune()\n"
            "local out = {}\n"
            "for _, c in ipairs(redis.call('ZREVRANGE', mine, ARGV[4], ARGV[5])) do\n"
            "  if redis.call('EXISTS', 'tyto:conv:' .. c) == 1 then out[#out + 1] = info(c) end\n"
            "end\n"
            "return {'OK', out}\n";

static const char DELETE[] = PRELUDE
    "if redis.call('EXISTS', conv) == 0 or not is_mine(id) then\n"
    "  return no('ENOTFOUND', 'no such conversation')\n"
    "end\n"
    "for _, sha in ipairs(redis.call('SMEMBERS', conv .. ':pics')) do drop_ref(sha, id) end\n"
    "redis.call('DEL', conv, conv .. ':turns', conv .. ':pics')\n"
    "redis.call('ZREM', mine, id)\n"
    "redis.call('HDEL', mine .. ':bytes', id)\n"
    "return {'OK', 1}\n";

/* Pictures are taken over whole: which of them the first turns show is inside the turns' text. */
static const char FORK[] = PRELUDE
    "local new, n, model, max_bytes, max_count = ARGV[4], num(ARGV[5]), ARGV[6], num(ARGV[7]), "
    "num(ARGV[8])\n"
    "local to = 'tyto:conv:' .. new\n"
    "if redis.call('EXISTS', conv) == 0 or not is_mine(id) then\n"
    "  return no('ENOTFOUND', 'no such conversation')\n"
    "end\n"
    "if n < 0 or n > num(get(id, 'turns')) then\n"
    "  return no('EINVAL', 'the conversation has ' .. get(id, 'turns') .. ' turns')\n"
    "end\n"
    "prune()\n"
    "if max_count > 0 and redis.call('ZCARD', mine) >= max_count then\n"
    "  return no('ELIMIT', 'the owner has ' .. max_count .. ' conversations, the most allowed; "
    "delete one')\n"
    "end\n"
    "local bytes = num(get(id, 'bytes'))\n"
    "if max_bytes > 0 and held() + bytes > max_bytes then\n"
    "  return no('ELIMIT', 'the owner would hold more than ' .. max_bytes .. ' bytes; delete a "
    "conversation')\n"
    "end\n"
    "if n > 0 then\n"
    "  for _, t in ipairs(redis.call('LRANGE', conv .. ':turns', 0, n - 1)) do\n"
    "    redis.call('RPUSH', to .. ':turns', t)\n"
    "  end\n"
    "end\n"
    "for _, sha in ipairs(redis.call('SMEMBERS', conv .. ':pics')) do\n"
    "  redis.call('SADD', to .. ':pics', sha)\n"
    "  redis.call('SADD', 'tyto:pic:' .. sha .. ':refs', new)\n"
    "end\n"
    "if model == '' then model = get(id, 'model') end\n"
    "redis.call('HSET', to, 'owner', owner, 'model', model, 'created', now, 'updated', now, "
    "'version', 1, 'turns', n, 'bytes', bytes)\n"
    "keep(new)\n"
    "return {'OK', 1}\n";

/* An uploaded file is held by its owner under the reference "file:OWNER". */
static const char PICTURE_PUT[] = PRELUDE
    "local sha, bytes, max_bytes = ARGV[4], ARGV[5], num(ARGV[6])\n"
    "local ref = 'file:' .. owner\n"
    "prune()\n"
    "if redis.call('HEXISTS', mine .. ':bytes', 'file:' .. sha) == 0 then\n"
    "  if max_bytes > 0 and held() + #bytes > max_bytes then\n"
    "    return no('ELIMIT', 'the owner would hold more than ' .. max_bytes .. ' bytes; delete a "
    "conversation')\n"
    "  end\n"
    "  redis.call('HSET', mine .. ':bytes', 'file:' .. sha, #bytes)\n"
    "  redis.call('ZADD', mine .. ':files', now, sha)\n"
    "end\n"
    "redis.call('SET', 'tyto:pic:' .. sha, bytes)\n"
    "redis.call('SADD', 'tyto:pic:' .. sha .. ':refs', ref)\n"
    "keep_picture(sha)\n"
    "redis.call('EXPIRE', mine .. ':bytes', ttl)\n"
    "redis.call('EXPIRE', mine .. ':files', ttl)\n"
    "return {'OK', 1}\n";

static const char PICTURE_GET[] =
    PRELUDE "local sha = ARGV[4]\n"
            "for _, ref in ipairs(redis.call('SMEMBERS', 'tyto:pic:' .. sha .. ':refs')) do\n"
            "  if ref == 'file:' .. owner or is_mine(ref) then\n"
            "    local bytes = redis.call('GET', 'tyto:pic:' .. sha)\n"
            "    if bytes then\n"
            "      keep_picture(sha)\n"
            "      return {'OK', bytes}\n"
            "    end\n"
            "  end\n"
            "end\n"
            "return no('ENOTFOUND', 'no such picture')\n";

/* ---- making commands ---- */

void ty_store_command_clear(ty_store_command *c) {
    for (int i = 0; i < c->argc; i++) free(c->argv[i]);
    free(c->argv);
    free(c->len);
    *c = (ty_store_command){0};
}

static void push(ty_store_command *c, const void *bytes, size_t n, ty_status *st) {
    if (*st != TY_OK) return;
    size_t slots = (size_t)c->argc + 1;
    char **argv = realloc(c->argv, slots * sizeof(*argv));
    if (argv) c->argv = argv;
    size_t *len = realloc(c->len, slots * sizeof(*len));
    if (len) c->len = len;
    char *copy = malloc(n + 1);
    if (!argv || !len || !copy) {
        free(copy);
        *st = TY_ENOMEM;
        return;
    }
    memcpy(copy, bytes, n);
    copy[n] = '\0';
    c->argv[c->argc] = copy;
    c->len[c->argc++] = n;
}

static void push_text(ty_store_command *c, const char *text, ty_status *st) {
    push(c, text, strlen(text), st);
}

static void push_number(ty_store_command *c, int64_t n, ty_status *st) {
    char text[32];
    snprintf(text, sizeof(text), "%lld", (long long)n);
    push_text(c, text, st);
}

/* EVAL script 0 id owner ttl */
static ty_status start(ty_store_command *c, const char *script, const char *id, const char *owner,
                       const ty_conversation_policy *p) {
    ty_status st = TY_OK;
    *c = (ty_store_command){0};
    push_text(c, "EVAL", &st);
    push_text(c, script, &st);
    push_text(c, "0", &st);
    push_text(c, id, &st);
    push_text(c, owner, &st);
    push_number(c, p ? p->ttl_s : 0, &st);
    return st;
}

static ty_status finish(ty_store_command *c, ty_status st, ty_err *err) {
    if (st == TY_OK) return TY_OK;
    ty_store_command_clear(c);
    return ty_fail(err, st, "no memory for a command to Redis");
}

static ty_status random_hex(char *out, int bytes, ty_err *err) {
    unsigned char raw[32];
    if (RAND_bytes(raw, bytes) != 1) return ty_fail(err, TY_EINTERNAL, "no random bytes");
    for (int i = 0; i < bytes; i++) snprintf(out + 2 * i, 3, "%02x", raw[i]);
    return TY_OK;
}

ty_status ty_conversation_new_id(char id[TY_CONVERSATION_ID], ty_err *err) {
    memcpy(id, "conv_", 5);
    return random_hex(id + 5, 16, err);
}

ty_status ty_conversation_new_lease(char lease[TY_LEASE], ty_err *err) {
    return random_hex(lease, 16, err);
}

int ty_conversation_id_valid(const char *id) {
    return strncmp(id, "conv_", 5) == 0 && strlen(id) == 37 &&
           strspn(id + 5, "0123456789abcdef") == 32;
}

ty_status ty_conversation_begin(ty_store_command *c, const char *id, const char *owner,
                                const char *model, int create, const char *lease, int64_t lease_ms,
                                const ty_conversation_policy *p, ty_err *err) {
    ty_status st = start(c, BEGIN, id, owner, p);
    push_text(c, create ? "1" : "0", &st);
    push_text(c, model, &st);
    push_text(c, lease, &st);
    push_number(c, lease_ms, &st);
    push_number(c, p->owner_max_count, &st);
    return finish(c, st, err);
}

ty_status ty_conversation_commit(ty_store_command *c, const char *id, const char *owner,
                                 const char *lease, const char *const *turns, int n_turn,
                                 const ty_conversation_picture *pics, int n_pic,
                                 const ty_conversation_policy *p, ty_err *err) {
    ty_status st = start(c, COMMIT, id, owner, p);
    push_text(c, lease, &st);
    push_number(c, p->owner_max_bytes, &st);
    push_number(c, n_turn, &st);
    push_number(c, n_pic, &st);
    for (int i = 0; i < n_turn; i++) push_text(c, turns[i], &st);
    for (int i = 0; i < n_pic; i++) {
        push_text(c, pics[i].sha256, &st);
        push(c, pics[i].bytes, pics[i].size, &st);
    }
    return finish(c, st, err);
}

ty_status ty_conversation_abandon(ty_store_command *c, const char *id, const char *lease,
                                  ty_err *err) {
    ty_status st = start(c, ABANDON, id, "", NULL);
    push_text(c, lease, &st);
    return finish(c, st, err);
}

ty_status ty_conversation_get(ty_store_command *c, const char *id, const char *owner, ty_err *err) {
    return finish(c, start(c, GET, id, owner, NULL), err);
}

ty_status ty_conversation_list(ty_store_command *c, const char *owner, int first, int count,
                               const ty_conversation_policy *p, ty_err *err) {
    ty_status st = start(c, LIST, "", owner, p);
    push_number(c, first, &st);
    push_number(c, (int64_t)first + count - 1, &st);
    return finish(c, st, err);
}

ty_status ty_conversation_delete(ty_store_command *c, const char *id, const char *owner,
                                 ty_err *err) {
    return finish(c, start(c, DELETE, id, owner, NULL), err);
}

ty_status ty_conversation_fork(ty_store_command *c, const char *id, const char *new_id,
                               const char *owner, int n_turn, const char *model,
                               const ty_conversation_policy *p, ty_err *err) {
    ty_status st = start(c, FORK, id, owner, p);
    push_text(c, new_id, &st);
    push_number(c, n_turn, &st);
    push_text(c, model, &st);
    push_number(c, p->owner_max_bytes, &st);
    push_number(c, p->owner_max_count, &st);
    return finish(c, st, err);
}

ty_status ty_picture_put(ty_store_command *c, const char *owner, const ty_conversation_picture *pic,
                         const ty_conversation_policy *p, ty_err *err) {
    ty_status st = start(c, PICTURE_PUT, "", owner, p);
    push_text(c, pic->sha256, &st);
    push(c, pic->bytes, pic->size, &st);
    push_number(c, p->owner_max_bytes, &st);
    return finish(c, st, err);
}

ty_status ty_picture_get(ty_store_command *c, const char *owner, const char *sha256,
                         const ty_conversation_policy *p, ty_err *err) {
    ty_status st = start(c, PICTURE_GET, "", owner, p);
    push_text(c, sha256, &st);
    return finish(c, st, err);
}

/* ---- reading replies ---- */

/* {"OK", value...} or {status name, text}. */
static ty_status status_of(const redisReply *r, size_t values, ty_err *err) {
    if (r->type == REDIS_REPLY_ERROR) return ty_fail(err, TY_EINTERNAL, "Redis: %s", r->str);
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

static json_t *text_of(const redisReply *r) {
    return r->type == REDIS_REPLY_STRING ? json_stringn(r->str, r->len) : json_null();
}

static json_t *number_of(const redisReply *r) {
    return json_integer(r->type == REDIS_REPLY_STRING ? strtoll(r->str, NULL, 10) : 0);
}

/* The script's info() as an object; NULL when it is not one. */
static json_t *info_of(const redisReply *r) {
    if (r->type != REDIS_REPLY_ARRAY || r->elements != 8) return NULL;
    redisReply **e = r->element;
    return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "id", text_of(e[0]), "owner",
                     text_of(e[1]), "model", text_of(e[2]), "created", number_of(e[3]), "updated",
                     number_of(e[4]), "version", number_of(e[5]), "turn_count", number_of(e[6]),
                     "bytes", number_of(e[7]));
}

static json_t *turns_of(const redisReply *r) {
    json_t *turns = json_array();
    for (size_t i = 0; turns && i < r->elements; i++) {
        json_t *t = json_loadb(r->element[i]->str, r->element[i]->len, 0, NULL);
        if (!t || json_array_append_new(turns, t) != 0) {
            json_decref(turns);
            return NULL;
        }
    }
    return turns;
}

ty_status ty_conversation_read(const redisReply *r, json_t **out, ty_err *err) {
    *out = NULL;
    ty_status st = status_of(r, 2, err);
    if (st != TY_OK) return st;
    json_t *info = info_of(r->element[1]);
    json_t *turns = turns_of(r->element[2]);
    if (!info || !turns || json_object_set(info, "turns", turns) != 0) {
        json_decref(info);
        info = NULL;
        st = ty_fail(err, TY_EINTERNAL, "a conversation in Redis cannot be read");
    }
    json_decref(turns);
    *out = info;
    return st;
}

ty_status ty_conversation_read_list(const redisReply *r, json_t **out, ty_err *err) {
    *out = NULL;
    ty_status st = status_of(r, 1, err);
    if (st != TY_OK) return st;
    json_t *list = json_array();
    for (size_t i = 0; list && i < r->element[1]->elements; i++) {
        if (json_array_append_new(list, info_of(r->element[1]->element[i])) == 0) continue;
        json_decref(list);
        list = NULL;
    }
    if (!list)
        return ty_fail(err, TY_EINTERNAL, "the list of conversations in Redis cannot be read");
    *out = list;
    return TY_OK;
}

ty_status ty_conversation_read_version(const redisReply *r, int64_t *version, ty_err *err) {
    ty_status st = status_of(r, 1, err);
    if (st == TY_OK) *version = r->element[1]->integer;
    return st;
}

ty_status ty_picture_read(const redisReply *r, const char **bytes, size_t *size, ty_err *err) {
    ty_status st = status_of(r, 1, err);
    if (st != TY_OK) return st;
    *bytes = r->element[1]->str;
    *size = r->element[1]->len;
    return TY_OK;
}

ty_status ty_conversation_do(ty_redis *r, const ty_store_command *c, redisReply **reply,
                             ty_err *err) {
    return ty_redis_command(r, c->argc, (const char *const *)c->argv, c->len, reply, err);
}
