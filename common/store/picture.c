/* picture.c - see picture.h. */
#include "common/store/picture.h"

#include <string.h>

/* An uploaded file is held by its owner under the reference "file:OWNER". */
#define SHOW                                                                                       \
    "local sha = ARGV[4]\n"                                                                        \
    "local function file(s)\n"                                                                     \
    "  local h = redis.call('HMGET', mine .. ':file:' .. s, 'name', 'purpose', 'created', "        \
    "'bytes')\n"                                                                                   \
    "  return {s, h[1], h[2], h[3], h[4]}\n"                                                       \
    "end\n"                                                                                        \
    "local function has(s) return redis.call('EXISTS', mine .. ':file:' .. s) == 1 end\n"          \
    "local function none() return no('ENOTFOUND', 'no such file') end\n"                           \
    "local function keep_file(s)\n"                                                                \
    "  keep_picture(s)\n"                                                                          \
    "  redis.call('ZADD', mine .. ':files', now, s)\n"                                             \
    "  redis.call('EXPIRE', mine .. ':file:' .. s, ttl)\n"                                         \
    "  keep_mine()\n"                                                                              \
    "end\n"

static const char PUT[] =
    SHOW "local bytes, name, purpose, max_bytes = ARGV[5], ARGV[6], ARGV[7], num(ARGV[8])\n"
         "prune()\n"
         "if redis.call('HEXISTS', mine .. ':bytes', 'file:' .. sha) == 0 then\n"
         "  if too_much(#bytes, max_bytes) then return no_room(max_bytes) end\n"
         "  redis.call('HSET', mine .. ':bytes', 'file:' .. sha, #bytes)\n"
         "end\n"
         "redis.call('HSETNX', mine .. ':file:' .. sha, 'created', now)\n"
         "redis.call('HSET', mine .. ':file:' .. sha, 'name', name, 'purpose', purpose, 'bytes', "
         "#bytes)\n"
         "redis.call('SET', 'tyto:pic:' .. sha, bytes)\n"
         "redis.call('SADD', 'tyto:pic:' .. sha .. ':refs', 'file:' .. owner)\n"
         "keep_file(sha)\n"
         "return {'OK', file(sha)}\n";

static const char INFO[] = SHOW "if not has(sha) then return none() end\n"
                                "return {'OK', file(sha)}\n";

static const char LIST[] = SHOW "prune()\n"
                                "local out, all = {}, page(mine .. ':files', sha, ARGV[5])\n"
                                "if not all then return none() end\n"
                                "for _, s in ipairs(all) do\n"
                                "  if has(s) then out[#out + 1] = file(s) end\n"
                                "end\n"
                                "return {'OK', out}\n";

static const char DELETE[] = SHOW "if not has(sha) then return none() end\n"
                                  "drop_file(sha)\n"
                                  "return {'OK', 1}\n";

static const char GET[] =
    SHOW "for _, ref in ipairs(redis.call('SMEMBERS', 'tyto:pic:' .. sha .. ':refs')) do\n"
         "  if ref == 'file:' .. owner or is_mine(ref) then\n"
         "    local bytes = redis.call('GET', 'tyto:pic:' .. sha)\n"
         "    if not bytes then return none() end\n"
         "    if has(sha) then keep_file(sha) else keep_picture(sha) end\n"
         "    return {'OK', bytes}\n"
         "  end\n"
         "end\n"
         "return none()\n";

bool ty_picture_id_valid(const char *sha256) {
    return strlen(sha256) == 64 && strspn(sha256, "0123456789abcdef") == 64;
}

ty_status ty_picture_put(ty_store_command *c, const char *owner, const ty_picture_file *f,
                         const ty_store_policy *p, ty_err *err) {
    ty_status st = ty_script_start(c, PUT, "", owner, p);
    ty_script_text(c, f->sha256, &st);
    ty_script_push(c, f->bytes, f->size, &st);
    ty_script_text(c, f->name, &st);
    ty_script_text(c, f->purpose, &st);
    ty_script_number(c, p->owner_max_bytes, &st);
    return ty_script_finish(c, st, err);
}

static ty_status by_id(ty_store_command *c, const char *script, const char *owner,
                       const char *sha256, const ty_store_policy *p, ty_err *err) {
    ty_status st = ty_script_start(c, script, "", owner, p);
    ty_script_text(c, sha256, &st);
    return ty_script_finish(c, st, err);
}

ty_status ty_picture_info(ty_store_command *c, const char *owner, const char *sha256,
                          const ty_store_policy *p, ty_err *err) {
    return by_id(c, INFO, owner, sha256, p, err);
}

ty_status ty_picture_get(ty_store_command *c, const char *owner, const char *sha256,
                         const ty_store_policy *p, ty_err *err) {
    return by_id(c, GET, owner, sha256, p, err);
}

ty_status ty_picture_delete(ty_store_command *c, const char *owner, const char *sha256,
                            ty_err *err) {
    return by_id(c, DELETE, owner, sha256, NULL, err);
}

ty_status ty_picture_list(ty_store_command *c, const char *owner, const char *after, int count,
                          const ty_store_policy *p, ty_err *err) {
    ty_status st = ty_script_start(c, LIST, "", owner, p);
    ty_script_text(c, after, &st);
    ty_script_number(c, count, &st);
    return ty_script_finish(c, st, err);
}

static json_t *file_of(const redisReply *r) {
    if (r->type != REDIS_REPLY_ARRAY || r->elements != 5) return NULL;
    redisReply **e = r->element;
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "id", ty_script_text_of(e[0]), "name",
                     ty_script_text_of(e[1]), "purpose", ty_script_text_of(e[2]), "created",
                     ty_script_number_of(e[3]), "bytes", ty_script_number_of(e[4]));
}

ty_status ty_picture_read_file(const redisReply *r, json_t **out, ty_err *err) {
    *out = NULL;
    ty_status st = ty_script_status(r, 1, err);
    if (st != TY_OK) return st;
    *out = file_of(r->element[1]);
    return *out ? TY_OK : ty_fail(err, TY_EINTERNAL, "a file in Redis cannot be read");
}

ty_status ty_picture_read_list(const redisReply *r, json_t **out, ty_err *err) {
    return ty_script_list(r, file_of, "files", out, err);
}

ty_status ty_picture_read(const redisReply *r, const char **bytes, size_t *size, ty_err *err) {
    ty_status st = ty_script_status(r, 1, err);
    if (st != TY_OK) return st;
    *bytes = r->element[1]->str;
    *size = r->element[1]->len;
    return TY_OK;
}
