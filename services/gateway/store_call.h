/*
 * store_call.h - an HTTP call that one command to the store answers: what all such routes do alike.
 */
#ifndef GATEWAY_STORE_CALL_H
#define GATEWAY_STORE_CALL_H

#include "services/gateway/gateway.h"

#include "common/store/conversation.h"

typedef struct store_call store_call;

struct store_call {
    gateway *g;
    http_call *call;
    char owner[AUTH_OWNER];
    char id[80];      /* segment 2 of the path, when the route has one */
    const char *what; /* "conversation", "file": whose the errors are */
    int limit;        /* of a list */
    /* Reads the reply and answers the call; a failure it returns is answered for it. */
    ty_status (*answer)(store_call *s, const redisReply *r, ty_err *err);
    ty_redis_sent *sent;
};

/* NULL: the call is answered with why not. */
store_call *store_call_create(gateway *g, http_call *c, const char *what,
                              ty_status (*answer)(store_call *s, const redisReply *r, ty_err *err));
/* Sends a command that was made (or not: then that is the answer); takes both over. */
void store_call_send(store_call *s, ty_status made, ty_store_command *command, const ty_err *err);
/* Answers with a failure and ends it. */
void store_call_fail(store_call *s, ty_status st, const char *text, const char *param);
/* limit and after of a list's address.  False: answered and ended. */
bool store_call_page(store_call *s, char *after, size_t size);
/* {"object": "list", ...}: at most s->limit of items, which hold one more when there are more; taken over. */
void store_call_reply_list(const store_call *s, json_t *items);
/* Unix ms to the API's seconds. */
json_t *store_call_seconds(const json_t *object, const char *key);

#endif
