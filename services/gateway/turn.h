/*
 * turn.h - one turn of a conversation in the store, from begin to commit: the lease and its renewal, and trying again
 * when the connection to Redis breaks.  Knows neither HTTP nor models.
 *
 * Between begin and commit the lease is renewed, so a turn may take as long as it likes, and that of a gateway that died
 * is free again when it is back (turn_release), at the latest within TURN_LEASE_MS.  One thread, the event loop's.
 */
#ifndef GATEWAY_TURN_H
#define GATEWAY_TURN_H

#include "common/store/conversation.h"
#include "common/store/redis_async.h"

enum {
    TURN_LEASE_MS = 6000,
    TURN_BEGIN_PATIENCE_MS = 2000,   /* when a begin was sent and its reply got lost */
    TURN_COMMIT_PATIENCE_MS = 15000, /* the answer is made: a Redis that restarts is waited for */
};

typedef struct turn turn;

typedef struct {
    struct event_base *base;
    ty_redis_async *redis;
    const ty_store_policy *policy; /* borrowed for the turn's life */
    const char *holder, *mark;     /* the gateway's name, and of its life */
    const char *owner;             /* copied, as all texts */
    const char *id;                /* NULL: a new conversation */
    const char *model;             /* of a new one */
    const char *key, *digest;      /* of the request, as in ty_conversation_turn; NULL: none */
} turn_options;

/* Frees what a former life of the gateway held; nothing is waited for.  Fails as ty_redis_async_send. */
ty_status turn_release(ty_redis_async *redis, const char *holder, const char *mark, ty_err *err);

ty_status turn_create(turn **out, const turn_options *opt, ty_err *err);
/* From the begin's reply on, that of the conversation which has the turn already, if one has. */
const char *turn_id(const turn *t);
bool turn_is_new(const turn *t);

/* conversation: borrowed for the call, as ty_conversation_read gives it; NULL: err says why not (statuses of
 * ty_conversation_begin, TY_EUNAVAILABLE and TY_EIO for a Redis that is away).  Not called from inside turn_begin. */
typedef void (*turn_begun_fn)(void *ctx, json_t *conversation, const ty_err *err);
/* pics: those known already, for their sizes.  Fails at once: TY_EUNAVAILABLE, TY_ENOMEM. */
ty_status turn_begin(turn *t, const ty_conversation_picture *pics, int n_pic, turn_begun_fn done,
                     void *ctx, ty_err *err);

/* st TY_OK: it is stored.  Not called from inside turn_commit. */
typedef void (*turn_committed_fn)(void *ctx, ty_status st, const ty_err *err);
typedef struct {
    const char *model, *title;
    const char *const *texts; /* JSON, one a message */
    int n_text;
    const ty_conversation_picture *pics;
    int n_pic;
} turn_record;
/* All is copied.  Fails at once: TY_ENOMEM. */
ty_status turn_commit(turn *t, const turn_record *r, turn_committed_fn done, void *ctx,
                      ty_err *err);

/* Ends it wherever it is: without a commit the lease is given up and nothing is appended; a commit that is on its way may
 * still arrive.  No function is called any more. */
void turn_end(turn **t);

#endif
