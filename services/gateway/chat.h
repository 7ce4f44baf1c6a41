/*
 * chat.h - one request to POST /v1/chat/completions between its two halves: api_chat.c brings it from JSON
 * to an ask, chat_reply.c brings what the ask gives to the client and, in a conversation, to the store.
 */
#ifndef GATEWAY_CHAT_H
#define GATEWAY_CHAT_H

#include "common/chat/request.h"
#include "services/gateway/gateway.h"
#include "services/gateway/gather.h"
#include "services/gateway/lift.h"
#include "services/gateway/receipt.h"
#include "services/gateway/reply.h"
#include "services/gateway/turn.h"

enum { CHAT_PARAM_MAX = 256, CHAT_ANSWER_MAX_BYTES = 16 << 20 };

typedef struct {
    gateway *g; /* first: gateway_send and gateway_event read it */
    http_call *call;
    gateway_pipeline *pipeline;
    reply_head head;
    receipt receipt;

    /* Until the ask is on its way: what was asked. */
    bool waiting; /* counted in g->n_waiting */
    ty_chat_request request;
    lift lift;
    const char *json; /* what the request was parsed from: the lift's, or the body */
    size_t json_len;
    gathered *picture; /* those of the conversation first, then the request's own */
    int n_pictures;
    gather *gather;

    /* A conversation's. */
    turn *turn; /* NULL: the request stands for itself */
    char owner[AUTH_OWNER];
    char key[TY_SHA256_HEX],
        digest[TY_SHA256_HEX]; /* of Idempotency-Key and its request; "" = none */
    json_t *replay;            /* the answer's turn when the request was answered before */
    json_t *params;            /* what the next turn inherits */
    json_t *messages;          /* the request's own, as they are stored */
    char title[96];
    ty_conversation_picture *brought; /* new pictures with copies of their bytes */
    int n_brought;
    Tyto__DecodeResult *result; /* while it is being stored */

    /* The answer. */
    ask *ask;
    bool stream, include_usage, logprobs;
    bool started;      /* the stream's head is out */
    ty_buf text;       /* what was streamed */
    size_t n_sent;     /* bytes of it that have left; the rest waits for the tokens behind it */
    reply_event event; /* of text alone */
    ty_buf line;       /* such an event on its way */
    json_t *entries;   /* logprobs that were not sent yet */
} chat;

/* Ends it wherever it is; the call must be answered, aborted or gone. */
void chat_free(chat *c);
/* Counts it among the requests in flight, while no ask does. */
void chat_set_waiting(chat *c, bool waiting);
/* What the ask shall call. */
ask_sink chat_sink(chat *c);
/* The client is gone. */
void chat_gone(void *ctx);
/* Answers as it was answered before: the conversation's last turn.  Frees the chat. */
void chat_replay(chat *c, const json_t *conversation);
/* Answers with an error: an HTTP error, or the last event of a stream that began.  Frees the chat. */
void chat_fail(chat *c, const api_error *e);

#endif
