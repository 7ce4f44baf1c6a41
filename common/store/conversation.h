/*
 * conversation.h - conversations in Redis: turns, parameters, which stage models answered, and the bytes
 * of their pictures, which live as long as a conversation that shows them.
 *
 * A turn is begun, which takes the conversation's lease: a second turn at the same time is refused with
 * TY_EEXIST.  It is committed or abandoned with the same lease; a lease that is not renewed lapses by itself, as that of a
 * gateway that died, unless it comes back before and releases it.  What commit acknowledged is in Redis' append-only file.  Begin, renew, commit and abandon may be
 * sent again when it is not known whether they arrived: the second time does nothing more.
 *
 * Keys, and how commands travel: script.h.  Pictures by themselves: picture.h.
 */
#ifndef TY_STORE_CONVERSATION_H
#define TY_STORE_CONVERSATION_H

#include "common/store/script.h"

#include <stdbool.h>

enum { TY_CONVERSATION_ID = 40, TY_LEASE_MARK = 24, TY_LEASE = 64 };

/* "conv_" and 32 random hex digits. */
ty_status ty_conversation_new_id(char id[TY_CONVERSATION_ID], ty_err *err);
/* The mark of this life of the gateway (TY_LEASE_MARK bytes at most count), and random digits. */
ty_status ty_conversation_new_lease(const char *mark, char lease[TY_LEASE], ty_err *err);
/* Is it shaped like an id?  Others are refused before they reach Redis. */
bool ty_conversation_id_valid(const char *id);

typedef struct {
    const char *sha256; /* 64 hex digits */
    const void *bytes;
    size_t size;
} ty_conversation_picture;

/* One turn, from begin to commit; everything is borrowed for the call. */
typedef struct {
    const char *id, *owner, *lease;
    int64_t lease_ms;   /* begin, renew */
    const char *holder; /* begin: the gateway's name, the same over restarts */
    bool create;        /* begin: a new conversation */
    const char *model;  /* whose answer it is: the next turn's default */
    /* begin, commit: names the request, and says what it was (no blanks); NULL = neither */
    const char *key, *digest;
    const ty_conversation_picture
        *pics; /* that the turn brings; begin looks at their sizes alone */
    int n_pic;
    const char *title;        /* commit: "" or the conversation's, when it has none yet */
    const char *const *turns; /* commit: JSON texts, one a message */
    int n_turn;
} ty_conversation_turn;

/*
 * Begin a turn.  create: a new conversation (TY_EEXIST if it is there), else one of this owner
 * (TY_ENOTFOUND).  TY_ELIMIT: the pictures would be over the owner's bytes, or a new one over his count.  A new
 * conversation is seen by nobody, and goes with its lease, until its first commit.
 * Reply (ty_conversation_read): the conversation with all its turns.  When a request of this key was committed within a
 * day: that conversation up to that turn, with "done": true, and no lease; TY_EINVAL when its digest is another.
 */
ty_status ty_conversation_begin(ty_store_command *c, const ty_conversation_turn *t,
                                const ty_store_policy *p, ty_err *err);
/* The lease for lease_ms from now.  Reply (ty_store_read_done): TY_ECANCELED when it was lost. */
ty_status ty_conversation_renew(ty_store_command *c, const ty_conversation_turn *t, ty_err *err);
/*
 * Commit: appends turns and pictures, gives up the lease.  TY_ECANCELED when the lease was lost; TY_ELIMIT over the
 * owner's bytes or count (nothing is stored, the lease stays); TY_ENOTFOUND when it was deleted; TY_EEXIST when its key was committed meanwhile.  Reply
 * (ty_store_read_done): the new version.
 */
ty_status ty_conversation_commit(ty_store_command *c, const ty_conversation_turn *t,
                                 const ty_store_policy *p, ty_err *err);
/* Gives up the lease without a turn. */
ty_status ty_conversation_abandon(ty_store_command *c, const ty_conversation_turn *t, ty_err *err);
/* Frees the leases of a holder's former lives: all that do not begin with this one's mark.  Reply
 * (ty_store_read_done): how many. */
ty_status ty_conversation_release(ty_store_command *c, const char *holder, const char *mark,
                                  ty_err *err);

/* One conversation with its turns.  TY_ENOTFOUND. */
ty_status ty_conversation_get(ty_store_command *c, const char *id, const char *owner, ty_err *err);
/* An owner's, last used first, without turns: `count` of them behind the one called `after` ("": from the first).
 * TY_ENOTFOUND: there is no `after`. */
ty_status ty_conversation_list(ty_store_command *c, const char *owner, const char *after, int count,
                               const ty_store_policy *p, ty_err *err);
/* Removes it; pictures that nothing else shows go with it.  TY_ENOTFOUND. */
ty_status ty_conversation_delete(ty_store_command *c, const char *id, const char *owner,
                                 ty_err *err);
/* A new conversation with the first n_turn turns of another and the pictures in them; model "": as before.
 * TY_ENOTFOUND; TY_EINVAL: there are fewer turns; TY_ELIMIT.  Reply (ty_conversation_read_list): it alone. */
ty_status ty_conversation_fork(ty_store_command *c, const char *id, const char *new_id,
                               const char *owner, int n_turn, const char *model,
                               const ty_store_policy *p, ty_err *err);

/*
 * Reads a reply of begin, get: {"id","owner","model","title","created","updated","version","turn_count","bytes",
 * "turns":[...]}, times in unix ms; of list: an array of the same without turns.  Refusals become the statuses
 * named above, and TY_EOVERLOAD when Redis has no room, TY_EUNAVAILABLE when it cannot do it for now.  *out is a new reference.
 */
ty_status ty_conversation_read(const redisReply *r, json_t **out, ty_err *err);
ty_status ty_conversation_read_list(const redisReply *r, json_t **out, ty_err *err);

#endif
