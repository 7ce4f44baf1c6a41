/*
 * script.h - commands to the state store, and what its scripts answer.
 *
 * Every operation is one Lua script that Redis runs atomically, so any gateway may do it, and one that dies in between
 * leaves nothing half done.  The modules (conversation.h, picture.h) make commands and read replies; who sends
 * them is the caller's choice: the gateway from its event loop (redis_async.h), tests and tools with ty_store_do.
 *
 * Keys, all under `tyto:`:
 *   conv:ID            hash    owner, model, title, created, updated (unix ms), version, turns (count), bytes,
 *                              lease, lease_until, holder, done (lease of the last commit)
 *   leases:HOLDER      set     conversations that a gateway has begun a turn of
 *   conv:ID:turns      list    one JSON text per turn, as the caller made it
 *   conv:ID:pics       set     SHA-256 of its pictures
 *   pic:SHA            string  a picture file's bytes;   pic:SHA:refs  set of conversation ids and "file:OWNER"
 *   owner:OWNER        zset    conversation ids by `updated`;  owner:OWNER:bytes  what they and the files hold
 *   owner:OWNER:key:K  string  the conversation, its turns then, and the digest of a request with an idempotency key
 *   owner:OWNER:files  zset    SHA-256 of uploaded files by last use;  owner:OWNER:file:SHA  hash name, purpose, created, bytes
 * All of a conversation's keys expire ttl_s after its last use, its pictures with the last that shows them.
 * The keys are made inside the scripts: one server, no cluster.
 */
#ifndef TY_STORE_SCRIPT_H
#define TY_STORE_SCRIPT_H

#include "common/store/redis.h"

#include <jansson.h>
#include <stdint.h>

typedef struct {
    int64_t ttl_s;           /* after the last use */
    int64_t owner_max_bytes; /* turns, pictures and files of one owner; 0 = no limit */
    int64_t owner_max_count; /* conversations of one owner; 0 = no limit */
} ty_store_policy;

/* A command ready to send; arguments are owned. */
typedef struct {
    int argc;
    char **argv;
    size_t *len;
} ty_store_command;
void ty_store_command_clear(ty_store_command *c);

/* Sends one command on a waiting connection; *reply is the caller's. */
ty_status ty_store_do(ty_redis *r, const ty_store_command *c, redisReply **reply, ty_err *err);

/* A reply that says only whether it went well: of commit (the new version), renew, abandon, delete. */
ty_status ty_store_read_done(const redisReply *r, int64_t *number, ty_err *err);

/* ---- for the modules that make commands ---- */

/* EVAL (prelude + body) 0 id owner ttl; more is pushed behind.  p NULL: the script keeps nothing alive.  Every body
 * returns {status name, value}; what the prelude gives it stands in script.c. */
ty_status ty_script_start(ty_store_command *c, const char *body, const char *id, const char *owner,
                          const ty_store_policy *p);
/* Nothing happens when *st is a failure already. */
void ty_script_push(ty_store_command *c, const void *bytes, size_t n, ty_status *st);
void ty_script_text(ty_store_command *c, const char *text, ty_status *st); /* NULL = "" */
void ty_script_number(ty_store_command *c, int64_t n, ty_status *st);
/* On failure clears the command and fills err. */
ty_status ty_script_finish(ty_store_command *c, ty_status st, ty_err *err);
/* {"OK", and at least `values` more}; else {status name, text}: that failure. */
ty_status ty_script_status(const redisReply *r, size_t values, ty_err *err);
/* {"OK", array}: each element by `read` (a new reference, NULL: it cannot) into an array; what names the whole. */
ty_status ty_script_list(const redisReply *r, json_t *(*read)(const redisReply *r),
                         const char *what, json_t **out, ty_err *err);
/* A string or nil, and a number in a string, as JSON. */
json_t *ty_script_text_of(const redisReply *r);
json_t *ty_script_number_of(const redisReply *r);

#endif
