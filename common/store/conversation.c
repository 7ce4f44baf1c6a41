/* conversation.c - see conversation.h.  The Lua that Redis runs stands here beside the C that sends it; what a
 * script may use besides Redis is script.c's prelude. */
#include "common/store/conversation.h"

#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

/* ---- scripts ---- */

/* Opens every script that gives a conversation back. */
#define SHOW                                                                                       \
    "local function info(c)\n"                                                                     \
    "  local h = redis.call('HMGET', 'tyto:conv:' .. c, 'owner', 'model', 'title', 'created', "    \
    "'updated', 'version', 'turns', 'bytes')\n"                                                    \
    "  return {c, h[1], h[2], h[3], h[4], h[5], h[6], h[7], h[8]}\n"                               \
    "end\n"                                                                                        \
    "local function whole()\n"                                                                     \
    "  return {'OK', info(id), redis.call('LRANGE', conv .. ':turns', 0, -1)}\n"                   \
    "end\n"

/* A new one lives as long as its lease until it has a turn. */
static const char BEGIN[] = SHOW
    "local create, model, lease, lease_ms, max_bytes, max_count, holder = ARGV[4] == '1', "
    "ARGV[5], ARGV[6], num(ARGV[7]), num(ARGV[8]), num(ARGV[9]), ARGV[10]\n"
    "local key, digest, was = ARGV[11], ARGV[12], false\n"
    "if key ~= '' then was = redis.call('GET', mine .. ':key:' .. key) end\n"
    "if was then\n"
    "  local c, n, d = string.match(was, '^(%S+) (%d+) (%S*)$')\n"
    "  if d ~= digest then\n"
    "    return no('EINVAL', 'the Idempotency-Key came with another request before')\n"
    "  end\n"
    "  if redis.call('EXISTS', 'tyto:conv:' .. c) == 1 then\n"
    "    return {'OK', info(c), redis.call('LRANGE', 'tyto:conv:' .. c .. ':turns', 0, n - 1), 1}\n"
    "  end\n"
    "end\n"
    "local there = redis.call('EXISTS', conv) == 1\n"
    "local again = there and is_mine(id) and get(id, 'lease') == lease\n"
    "local more = 0\n"
    "for i = 13, #ARGV, 2 do\n"
    "  if redis.call('SISMEMBER', conv .. ':pics', ARGV[i]) == 0 then more = more + num(ARGV[i + "
    "1]) end\n"
    "end\n"
    "prune()\n"
    "if create and not again then\n"
    "  if there then return no('EEXIST', 'a conversation of this id is there already') end\n"
    "  if too_many(max_count) then return no_slot(max_count) end\n"
    "  if too_much(more, max_bytes) then return no_room(max_bytes) end\n"
    "  redis.call('HSET', conv, 'owner', owner, 'model', model, 'title', '', 'created', now, "
    "'updated', now, 'version', 0, 'turns', 0, 'bytes', 0)\n"
    "elseif not again then\n"
    "  if not is_there() then return not_there() end\n"
    "  if num(get(id, 'lease_until')) > now then\n"
    "    return no('EEXIST', 'another turn of this conversation is being answered')\n"
    "  end\n"
    "  if too_much(more, max_bytes) then return no_room(max_bytes) end\n"
    "end\n"
    /* First what takes memory: a script that has written already is not stopped when there is none. */
    "local before = get(id, 'holder')\n"
    "redis.call('HSET', conv, 'lease', lease, 'lease_until', now + lease_ms, 'holder', holder)\n"
    "redis.call('SADD', 'tyto:leases:' .. holder, id)\n"
    "if before and before ~= holder then redis.call('SREM', 'tyto:leases:' .. before, id) end\n"
    "if num(get(id, 'version')) == 0 then redis.call('PEXPIRE', conv, lease_ms) else keep(id) end\n"
    "return whole()\n";

static const char RENEW[] =
    "local lease_ms = num(ARGV[5])\n"
    "if get(id, 'lease') ~= ARGV[4] then return no('ECANCELED', 'the lease was lost') end\n"
    "redis.call('HSET', conv, 'lease_until', now + lease_ms)\n"
    "if num(get(id, 'version')) == 0 then redis.call('PEXPIRE', conv, lease_ms) end\n"
    "return {'OK', 1}\n";

static const char COMMIT[] =
    "local lease, model, title, max_bytes, max_count, n_turn, n_pic = ARGV[4], ARGV[5], ARGV[6], "
    "num(ARGV[7]), num(ARGV[8]), num(ARGV[9]), num(ARGV[10])\n"
    "local key, digest, turns_at, pics_at = ARGV[11], ARGV[12], 12, 12 + n_turn\n"
    "if not is_there() then return not_there() end\n"
    "if get(id, 'done') == lease then return {'OK', num(get(id, 'version'))} end\n"
    "if get(id, 'lease') ~= lease then\n"
    "  return no('ECANCELED', 'the turn took too long: another one was begun in between')\n"
    "end\n"
    "if key ~= '' and redis.call('EXISTS', mine .. ':key:' .. key) == 1 then\n"
    "  return no('EEXIST', 'a request with the same Idempotency-Key was answered meanwhile')\n"
    "end\n"
    "local more = 0\n"
    "for i = 1, n_turn do more = more + #ARGV[turns_at + i] end\n"
    "for i = 1, n_pic do\n"
    "  if redis.call('SISMEMBER', conv .. ':pics', ARGV[pics_at + 2 * i - 1]) == 0 then\n"
    "    more = more + #ARGV[pics_at + 2 * i]\n"
    "  end\n"
    "end\n"
    "if num(get(id, 'version')) == 0 and too_many(max_count) then return no_slot(max_count) end\n"
    "if too_much(more, max_bytes) then return no_room(max_bytes) end\n"
    "for i = 1, n_turn do redis.call('RPUSH', conv .. ':turns', ARGV[turns_at + i]) end\n"
    "for i = 1, n_pic do\n"
    "  local sha, bytes = ARGV[pics_at + 2 * i - 1], ARGV[pics_at + 2 * i]\n"
    "  redis.call('SET', 'tyto:pic:' .. sha, bytes)\n"
    "  redis.call('SADD', 'tyto:pic:' .. sha .. ':refs', id)\n"
    "  redis.call('SADD', conv .. ':pics', sha)\n"
    "end\n"
    "redis.call('HINCRBY', conv, 'bytes', more)\n"
    "redis.call('HINCRBY', conv, 'turns', n_turn)\n"
    "redis.call('HSET', conv, 'updated', now, 'model', model, 'done', lease)\n"
    "if get(id, 'title') == '' then redis.call('HSET', conv, 'title', title) end\n"
    "if key ~= '' then\n"
    "  redis.call('SET', mine .. ':key:' .. key, id .. ' ' .. get(id, 'turns') .. ' ' .. digest, "
    "'EX', 86400)\n"
    "end\n"
    "free_lease(id)\n"
    "keep(id)\n"
    "return {'OK', redis.call('HINCRBY', conv, 'version', 1)}\n";

/* A conversation that was created for a turn that never came is no conversation. */
static const char ABANDON[] = "if get(id, 'lease') ~= ARGV[4] then return {'OK', 0} end\n"
                              "free_lease(id)\n"
                              "if num(get(id, 'version')) == 0 then redis.call('DEL', conv) end\n"
                              "return {'OK', 1}\n";

/* A lease begins with the mark of the life that made it. */
static const char RELEASE[] =
    "local holder, mark, n = ARGV[4], ARGV[5], 0\n"
    "for _, c in ipairs(redis.call('SMEMBERS', 'tyto:leases:' .. holder)) do\n"
    "  local lease = get(c, 'lease') or ''\n"
    "  if get(c, 'holder') ~= holder then\n"
    "    redis.call('SREM', 'tyto:leases:' .. holder, c)\n"
    "  elseif string.sub(lease, 1, #mark) ~= mark then\n"
    "    free_lease(c)\n"
    "    if num(get(c, 'version')) == 0 then redis.call('DEL', 'tyto:conv:' .. c) end\n"
    "    n = n + 1\n"
    "  end\n"
    "end\n"
    "return {'OK', n}\n";

static const char GET[] = SHOW "if not is_there() then return not_there() end\n"
                               "return whole()\n";

static const char LIST[] =
    SHOW "prune()\n"
         "local out, ids = {}, page(mine, ARGV[4], ARGV[5])\n"
         "if not ids then return not_there() end\n"
         "for _, c in ipairs(ids) do\n"
         "  if redis.call('EXISTS', 'tyto:conv:' .. c) == 1 then out[#out + 1] = info(c) end\n"
         "end\n"
         "return {'OK', out}\n";

static const char DELETE[] =
    "if not is_there() then return not_there() end\n"
    "for _, sha in ipairs(redis.call('SMEMBERS', conv .. ':pics')) do drop_ref(sha, id) end\n"
    "redis.call('DEL', conv, conv .. ':turns', conv .. ':pics')\n"
    "redis.call('ZREM', mine, id)\n"
    "redis.call('HDEL', mine .. ':bytes', id)\n"
    "return {'OK', 1}\n";

/* Only the pictures that the turns name go along.  A quote inside a JSON text has a backslash before it, so no
 * words of a turn can look like the key. */
static const char FORK[] = SHOW
    "local new, n, model, max_bytes, max_count = ARGV[4], num(ARGV[5]), ARGV[6], num(ARGV[7]), "
    "num(ARGV[8])\n"
    "local to = 'tyto:conv:' .. new\n"
    "if not is_there() then return not_there() end\n"
    "if n < 0 or n > num(get(id, 'turns')) then\n"
    "  return no('EINVAL', 'the conversation has ' .. get(id, 'turns') .. ' turns')\n"
    "end\n"
    "prune()\n"
    "if too_many(max_count) then return no_slot(max_count) end\n"
    "local turns, shown, bytes = {}, {}, 0\n"
    "if n > 0 then turns = redis.call('LRANGE', conv .. ':turns', 0, n - 1) end\n"
    "for _, t in ipairs(turns) do\n"
    "  bytes = bytes + #t\n"
    "  for sha in string.gmatch(t, '\"file_id\":\"(%x+)\"') do\n"
    "    if not shown[sha] and redis.call('SISMEMBER', conv .. ':pics', sha) == 1 then\n"
    "      shown[sha] = true\n"
    "      bytes = bytes + redis.call('STRLEN', 'tyto:pic:' .. sha)\n"
    "    end\n"
    "  end\n"
    "end\n"
    "if too_much(bytes, max_bytes) then return no_room(max_bytes) end\n"
    "for _, t in ipairs(turns) do redis.call('RPUSH', to .. ':turns', t) end\n"
    "for sha in pairs(shown) do\n"
    "  redis.call('SADD', to .. ':pics', sha)\n"
    "  redis.call('SADD', 'tyto:pic:' .. sha .. ':refs', new)\n"
    "end\n"
    "if model == '' then model = get(id, 'model') end\n"
    "redis.call('HSET', to, 'owner', owner, 'model', model, 'title', get(id, 'title'), 'created', "
    "now, 'updated', now, 'version', 1, 'turns', n, 'bytes', bytes)\n"
    "keep(new)\n"
    "return {'OK', {info(new)}}\n";

/* ---- making commands ---- */

static ty_status random_hex(char *out, int bytes, ty_err *err) {
    unsigned char raw[32];
    if (RAND_bytes(raw, bytes) != 1) return ty_fail(err, TY_EINTERNAL, "no random bytes");
    for (int i = 0; i < bytes; i++) snprintf(out + 2 * i, 3, "%02x", raw[i]);
    return TY_OK;
}

ty_status ty_conversation_new_id(char id[TY_CONVERSATION_ID], ty_err *err) {
    snprintf(id, TY_CONVERSATION_ID, "conv_");
    return random_hex(id + 5, 16, err);
}

ty_status ty_conversation_new_lease(const char *mark, char lease[TY_LEASE], ty_err *err) {
    int n = snprintf(lease, TY_LEASE, "%.*s", TY_LEASE_MARK, mark);
    return random_hex(lease + n, 16, err);
}

bool ty_conversation_id_valid(const char *id) {
    return strncmp(id, "conv_", 5) == 0 && strlen(id) == 37 &&
           strspn(id + 5, "0123456789abcdef") == 32;
}

ty_status ty_conversation_begin(ty_store_command *c, const ty_conversation_turn *t,
                                const ty_store_policy *p, ty_err *err) {
    ty_status st = ty_script_start(c, BEGIN, t->id, t->owner, p);
    ty_script_text(c, t->create ? "1" : "0", &st);
    ty_script_text(c, t->model, &st);
    ty_script_text(c, t->lease, &st);
    ty_script_number(c, t->lease_ms, &st);
    ty_script_number(c, p->owner_max_bytes, &st);
    ty_script_number(c, p->owner_max_count, &st);
    ty_script_text(c, t->holder, &st);
    ty_script_text(c, t->key, &st);
    ty_script_text(c, t->digest, &st);
    for (int i = 0; i < t->n_pic; i++) {
        ty_script_text(c, t->pics[i].sha256, &st);
        ty_script_number(c, (int64_t)t->pics[i].size, &st);
    }
    return ty_script_finish(c, st, err);
}

ty_status ty_conversation_renew(ty_store_command *c, const ty_conversation_turn *t, ty_err *err) {
    ty_status st = ty_script_start(c, RENEW, t->id, t->owner, NULL);
    ty_script_text(c, t->lease, &st);
    ty_script_number(c, t->lease_ms, &st);
    return ty_script_finish(c, st, err);
}

ty_status ty_conversation_commit(ty_store_command *c, const ty_conversation_turn *t,
                                 const ty_store_policy *p, ty_err *err) {
    ty_status st = ty_script_start(c, COMMIT, t->id, t->owner, p);
    ty_script_text(c, t->lease, &st);
    ty_script_text(c, t->model, &st);
    ty_script_text(c, t->title, &st);
    ty_script_number(c, p->owner_max_bytes, &st);
    ty_script_number(c, p->owner_max_count, &st);
    ty_script_number(c, t->n_turn, &st);
    ty_script_number(c, t->n_pic, &st);
    ty_script_text(c, t->key, &st);
    ty_script_text(c, t->digest, &st);
    for (int i = 0; i < t->n_turn; i++) ty_script_text(c, t->turns[i], &st);
    for (int i = 0; i < t->n_pic; i++) {
        ty_script_text(c, t->pics[i].sha256, &st);
        ty_script_push(c, t->pics[i].bytes, t->pics[i].size, &st);
    }
    return ty_script_finish(c, st, err);
}

ty_status ty_conversation_abandon(ty_store_command *c, const ty_conversation_turn *t, ty_err *err) {
    ty_status st = ty_script_start(c, ABANDON, t->id, t->owner, NULL);
    ty_script_text(c, t->lease, &st);
    return ty_script_finish(c, st, err);
}

ty_status ty_conversation_release(ty_store_command *c, const char *holder, const char *mark,
                                  ty_err *err) {
    ty_status st = ty_script_start(c, RELEASE, "", "", NULL);
    ty_script_text(c, holder, &st);
    ty_script_text(c, mark, &st);
    return ty_script_finish(c, st, err);
}

ty_status ty_conversation_get(ty_store_command *c, const char *id, const char *owner, ty_err *err) {
    return ty_script_finish(c, ty_script_start(c, GET, id, owner, NULL), err);
}

ty_status ty_conversation_list(ty_store_command *c, const char *owner, const char *after, int count,
                               const ty_store_policy *p, ty_err *err) {
    ty_status st = ty_script_start(c, LIST, "", owner, p);
    ty_script_text(c, after, &st);
    ty_script_number(c, count, &st);
    return ty_script_finish(c, st, err);
}

ty_status ty_conversation_delete(ty_store_command *c, const char *id, const char *owner,
                                 ty_err *err) {
    return ty_script_finish(c, ty_script_start(c, DELETE, id, owner, NULL), err);
}

ty_status ty_conversation_fork(ty_store_command *c, const char *id, const char *new_id,
                               const char *owner, int n_turn, const char *model,
                               const ty_store_policy *p, ty_err *err) {
    ty_status st = ty_script_start(c, FORK, id, owner, p);
    ty_script_text(c, new_id, &st);
    ty_script_number(c, n_turn, &st);
    ty_script_text(c, model, &st);
    ty_script_number(c, p->owner_max_bytes, &st);
    ty_script_number(c, p->owner_max_count, &st);
    return ty_script_finish(c, st, err);
}

/* ---- reading replies ---- */

/* The script's info() as an object; NULL when it is not one. */
static json_t *info_of(const redisReply *r) {
    static const struct {
        const char *name;
        json_t *(*read)(const redisReply *r);
    } field[] = {{"id", ty_script_text_of},        {"owner", ty_script_text_of},
                 {"model", ty_script_text_of},     {"title", ty_script_text_of},
                 {"created", ty_script_number_of}, {"updated", ty_script_number_of},
                 {"version", ty_script_number_of}, {"turn_count", ty_script_number_of},
                 {"bytes", ty_script_number_of}};
    enum { N = sizeof(field) / sizeof(field[0]) };
    if (r->type != REDIS_REPLY_ARRAY || r->elements != N) return NULL;
    json_t *o = json_object();
    for (size_t i = 0; o && i < N; i++) {
        if (json_object_set_new(o, field[i].name, field[i].read(r->element[i])) == 0) continue;
        json_decref(o);
        o = NULL;
    }
    return o;
}

static json_t *turns_of(const redisReply *r) {
    json_t *turns = json_array();
    for (size_t i = 0; turns && i < r->elements; i++) {
        json_t *t = json_loadb(r->element[i]->str, r->element[i]->len, 0, NULL);
        if (t && json_array_append_new(turns, t) == 0) continue;
        json_decref(turns);
        turns = NULL;
    }
    return turns;
}

ty_status ty_conversation_read(const redisReply *r, json_t **out, ty_err *err) {
    *out = NULL;
    ty_status st = ty_script_status(r, 2, err);
    if (st != TY_OK) return st;
    json_t *info = info_of(r->element[1]);
    json_t *turns = turns_of(r->element[2]);
    bool done = r->elements > 3;
    if (!info || !turns || json_object_set(info, "turns", turns) != 0 ||
        (done && json_object_set_new(info, "done", json_true()) != 0)) {
        json_decref(info);
        info = NULL;
        st = ty_fail(err, TY_EINTERNAL, "a conversation in Redis cannot be read");
    }
    json_decref(turns);
    *out = info;
    return st;
}

ty_status ty_conversation_read_list(const redisReply *r, json_t **out, ty_err *err) {
    return ty_script_list(r, info_of, "conversations", out, err);
}
