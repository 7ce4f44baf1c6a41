/*
 * conversation.h - conversations in Redis: turns, parameters, which stage models answered, and the bytes
 * of their pictures, which live as long as a conversation that shows them.
 *
 * Every operation is one script that Redis runs atomically, so any gateway may do it and a gateway that
 * dies in between leaves nothing half done.  A turn is begun (which takes the conversation's lease: a
 * second turn at the same time is refused with TY_EEXIST) and committed or abandoned with the same lease; a lease
 * whose owner died lapses by itself.  What commit acknowledged is in Redis' append-only file.
 *
 * The module makes commands and reads replies; who sends them is the caller's choice: the gateway from its
 * event loop (hiredis async), tests and tools with ty_conversation_do.
 *
 * Keys, all under `tyto:`:
 *   conv:ID          hash    owner, model, created, updated (unix ms), version, turns (count), bytes, lease, lease_until
 *   conv:ID:turns    list    one JSON text per turn, as the caller made it
 *   conv:ID:pics     set     SHA-256 of its pictures
 *   pic:SHA          string  a picture file's bytes;   pic:SHA:refs  set of conversation ids
 *   owner:OWNER      zset    conversation ids by `updated`;  owner:OWNER:bytes  what they hold
 * All of a conversation's keys expire ttl_s after its last use, its pictures with the last that shows them.
 */
#ifndef TY_STORE_CONVERSATION_H
#define TY_STORE_CONVERSATION_H

#include "common/store/redis.h"

#include <jansson.h>
#include <stdint.h>

enum { TY_CONVERSATION_ID = 40, TY_LEASE = 40 };

typedef struct {
    int64_t ttl_s;           /* after the last use */
    int64_t owner_max_bytes; /* turns and pictures of one owner; 0 = no limit */
    int64_t owner_max_count; /* conversations of one owner; 0 = no limit */
} ty_conversation_policy;

/* A command ready to send; arguments are owned. */
typedef struct {
    int argc;
    char **argv;
    size_t *len;
} ty_store_command;
void ty_store_command_clear(ty_store_command *c);

/* "conv_" and 32 random hex digits; the same for a lease without the prefix. */
ty_status ty_conversation_new_id(char id[TY_CONVERSATION_ID], ty_err *err);
ty_status ty_conversation_new_lease(char lease[TY_LEASE], ty_err *err);
/* Is it shaped like an id?  Others are refused before they reach Redis. */
int ty_conversation_id_valid(const char *id);

/*
 * Begin a turn.  create: a new conversation under `id` (TY_EEXIST if it is there, TY_ELIMIT over the owner's
 * count), else an existing one of this owner (TY_ENOTFOUND).  Takes the lease for lease_ms.
 * Reply (ty_conversation_read): the conversation with all its turns.
 */
ty_status ty_conversation_begin(ty_store_command *c, const char *id, const char *owner,
                                const char *model, int create, const char *lease, int64_t lease_ms,
                                const ty_conversation_policy *p, ty_err *err);
/*
 * Commit: appends turns (JSON texts) and pictures, gives up the lease.  TY_ECANCELED when the lease was
 * lost; TY_ELIMIT over the owner's bytes (nothing is stored, the lease stays).  Reply: ty_conversation_read_version.
 */
typedef struct {
    const char *sha256; /* 64 hex digits */
    const void *bytes;
    size_t size;
} ty_conversation_picture;
ty_status ty_conversation_commit(ty_store_command *c, const char *id, const char *owner,
                                 const char *lease, const char *const *turns, int n_turn,
                                 const ty_conversation_picture *pics, int n_pic,
                                 const ty_conversation_policy *p, ty_err *err);
/* Gives up the lease without a turn. */
ty_status ty_conversation_abandon(ty_store_command *c, const char *id, const char *lease,
                                  ty_err *err);
/* One conversation with its turns; all of an owner's, newest first, without turns. */
ty_status ty_conversation_get(ty_store_command *c, const char *id, const char *owner, ty_err *err);
ty_status ty_conversation_list(ty_store_command *c, const char *owner, int first, int count,
                               const ty_conversation_policy *p, ty_err *err);
/* Removes it; pictures that no other conversation shows go with it. */
ty_status ty_conversation_delete(ty_store_command *c, const char *id, const char *owner,
                                 ty_err *err);
/* A new conversation with the first n_turn turns of another (and their pictures, given as the SHA-256 in use). */
ty_status ty_conversation_fork(ty_store_command *c, const char *id, const char *new_id,
                               const char *owner, int n_turn, const char *model,
                               const ty_conversation_policy *p, ty_err *err);

/* Pictures by themselves: /v1/files.  put: kept ttl_s after the last use. */
ty_status ty_picture_put(ty_store_command *c, const char *owner, const ty_conversation_picture *pic,
                         const ty_conversation_policy *p, ty_err *err);
/* Only what the owner put or shows in a conversation: TY_ENOTFOUND else.  ty_picture_read: borrowed bytes. */
ty_status ty_picture_get(ty_store_command *c, const char *owner, const char *sha256,
                         const ty_conversation_policy *p, ty_err *err);
ty_status ty_picture_read(const redisReply *r, const char **bytes, size_t *size, ty_err *err);

/*
 * Reads a reply of begin, get: {"id","owner","model","created","updated","version","turn_count","bytes",
 * "turns":[...]}; of list: an array of the same without turns.  Refusals become the statuses named above.
 * *out is a new reference.
 */
ty_status ty_conversation_read_list(const redisReply *r, json_t **out, ty_err *err);
ty_status ty_conversation_read(const redisReply *r, json_t **out, ty_err *err);
/* Of commit, abandon, delete, fork, picture put: the new version, or a count. */
ty_status ty_conversation_read_version(const redisReply *r, int64_t *version, ty_err *err);

/* Sends one command on a waiting connection; *reply is the caller's. */
ty_status ty_conversation_do(ty_redis *r, const ty_store_command *c, redisReply **reply,
                             ty_err *err);

#endif
