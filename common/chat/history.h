/*
 * history.h - what is kept of a chat request in a conversation, as JSON in the words of a request: its messages, with
 * pictures by their file's id, and its parameters.  ty_chat_request_parse_turn reads both.
 */
#ifndef TY_CHAT_HISTORY_H
#define TY_CHAT_HISTORY_H

#include "common/chat/request.h"

#include <jansson.h>

/* {"role", "content"}: a string when the message is one text, else an array of parts.  file_id[i] is the i-th picture
 * part's, in the turn's order.  New reference; NULL: out of memory. */
json_t *ty_chat_turn_json(const ty_turn *t, const char *const *file_id);
/* The template and all of sampling that a later turn shall inherit: not logprobs (how it is answered), and a seed only
 * when the request gave one.  New reference; NULL: out of memory. */
json_t *ty_chat_params_json(const ty_chat_request *r);
/* What a list of conversations calls it: the first text of the request's own turns, at most max bytes, whole characters. */
void ty_chat_title(const ty_chat_request *r, char *out, size_t max);

#endif
