/*
 * reply.h - answers in OpenAI's shapes: chat.completion, chat.completion.chunk, usage, logprobs.
 * Every function that returns json_t returns a new reference, NULL when out of memory.
 */
#ifndef GATEWAY_REPLY_H
#define GATEWAY_REPLY_H

#include "common/base/buf.h"
#include "tyto.pb-c.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    char id[48]; /* "chatcmpl-..." */
    int64_t created;
    const char *model;       /* borrowed */
    const char *fingerprint; /* of the decoder's file; borrowed */
} reply_head;

/* Usage of a finished request; visual rows are prompt tokens. */
json_t *reply_usage(const Tyto__DecodeResult *r);
/* One entry of logprobs.content. */
json_t *reply_logprob(const Tyto__TokenInfo *t);
/* {"content": entries, "refusal": null}; takes the array over; NULL -> null. */
json_t *reply_logprobs(json_t *entries);

/* The whole answer.  usage, logprobs, timings are taken over. */
json_t *reply_completion(const reply_head *h, const Tyto__DecodeResult *r, json_t *logprobs,
                         json_t *timings);
/* A chunk with one choice: role (first chunk), text or neither; finish NULL = null; logprobs taken over.
 * usage_null: the request asked for usage, which stands in the last chunk. */
json_t *reply_chunk(const reply_head *h, const char *role, const char *text, size_t len,
                    const char *finish, json_t *logprobs, bool usage_null);
/* What is the same in every event of a stream whose chunk holds text and nothing else: such a chunk comes with each
 * token, and is written from this, without a tree. */
typedef struct {
    char *before, *behind; /* the text; each ends with NUL */
} reply_event;

/* Takes reply_chunk's own text apart.  Fails: TY_ENOMEM.  Clear it; clearing is harmless before and twice. */
ty_status reply_event_make(reply_event *e, const reply_head *h, bool usage_null);
/* "data: " and the chunk with this text and an empty line, in the place of what `out` holds.  Fails as ty_buf does. */
ty_status reply_event_write(const reply_event *e, const char *text, size_t len, ty_buf *out);
void reply_event_clear(reply_event *e);

/* The chunk without choices that carries usage. */
json_t *reply_usage_chunk(const reply_head *h, const Tyto__DecodeResult *r);

#endif
