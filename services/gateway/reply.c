/* reply.c - see reply.h. */
#include "services/gateway/reply.h"

#include "services/gateway/json_text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

json_t *reply_usage(const Tyto__DecodeResult *r) {
    json_int_t prompt = r->prompt_tokens, completion = r->completion_tokens;
    return json_pack("{s:I, s:I, s:I, s:{s:I, s:I}}", "prompt_tokens", prompt, "completion_tokens",
                     completion, "total_tokens", prompt + completion, "prompt_tokens_details",
                     "cached_tokens", (json_int_t)r->cached_tokens, "visual_tokens",
                     (json_int_t)r->visual_tokens);
}

/* The part that a token and an alternative share. */
static json_t *token_json(ProtobufCBinaryData piece, double logprob) {
    json_t *bytes = json_array();
    for (size_t i = 0; i < piece.len; i++)
        (void)json_array_append_new(bytes, json_integer(piece.data[i]));
    return json_pack("{s:o, s:f, s:o}", "token", json_text((const char *)piece.data, piece.len),
                     "logprob", isfinite(logprob) ? logprob : -9999.0, "bytes", bytes);
}

json_t *reply_logprob(const Tyto__TokenInfo *t) {
    json_t *top = json_array(), *o = token_json(t->piece, t->logprob);
    for (size_t i = 0; i < t->n_top; i++)
        (void)json_array_append_new(top, token_json(t->top[i]->piece, t->top[i]->logprob));
    (void)json_object_set_new(o, "top_logprobs", top);
    return o;
}

json_t *reply_logprobs(json_t *entries) {
    if (!entries) return json_null();
    return json_pack("{s:o, s:n}", "content", entries, "refusal");
}

static json_t *head(const reply_head *h, const char *object, json_t *choices) {
    return json_pack("{s:s, s:s, s:I, s:o, s:s, s:o}", "id", h->id, "object", object, "created",
                     (json_int_t)h->created, "model", json_text(h->model, strlen(h->model)),
                     "system_fingerprint", h->fingerprint, "choices", choices);
}

json_t *reply_completion(const reply_head *h, const Tyto__DecodeResult *r, json_t *logprobs,
                         json_t *timings) {
    json_t *choice =
        json_pack("{s:i, s:{s:s, s:o, s:n}, s:o, s:s}", "index", 0, "message", "role", "assistant",
                  "content", json_text(r->text, strlen(r->text)), "refusal", "logprobs",
                  logprobs ? logprobs : json_null(), "finish_reason", r->finish_reason);
    json_t *o = head(h, "chat.completion", json_pack("[o]", choice));
    if (!o) {
        json_decref(timings);
        return NULL;
    }
    (void)json_object_set_new(o, "usage", reply_usage(r));
    (void)json_object_set_new(o, "timings", timings);
    return o;
}

json_t *reply_chunk(const reply_head *h, const char *role, const char *text, size_t len,
                    const char *finish, json_t *logprobs, bool usage_null) {
    json_t *delta = json_object();
    if (role) (void)json_object_set_new(delta, "role", json_string(role));
    if (text) (void)json_object_set_new(delta, "content", json_text(text, len));
    json_t *choice = json_pack("{s:i, s:o, s:o, s:o}", "index", 0, "delta", delta, "logprobs",
                               logprobs ? logprobs : json_null(), "finish_reason",
                               finish ? json_string(finish) : json_null());
    json_t *o = head(h, "chat.completion.chunk", json_pack("[o]", choice));
    if (o && usage_null) (void)json_object_set_new(o, "usage", json_null());
    return o;
}

/* The last place of `mark`: what stands before it may be a client's words, what stands behind it is ours. */
static char *find_last(char *text, const char *mark) {
    char *last = NULL;
    for (char *p = text; (p = strstr(p, mark)); p++) last = p;
    return last;
}

ty_status reply_event_make(reply_event *e, const reply_head *h, bool usage_null) {
    static const char mark[] = "\"\\u0001\"";
    json_t *chunk = reply_chunk(h, NULL, "\x01", 1, NULL, NULL, usage_null);
    char *text = chunk ? json_dumps(chunk, JSON_COMPACT) : NULL;
    char *at = text ? find_last(text, mark) : NULL;
    json_decref(chunk);
    *e = (reply_event){0};
    if (at) {
        e->before = strndup(text, (size_t)(at - text));
        e->behind = strdup(at + strlen(mark));
    }
    free(text);
    if (e->before && e->behind) return TY_OK;
    reply_event_clear(e);
    return TY_ENOMEM;
}

ty_status reply_event_write(const reply_event *e, const char *text, size_t len, ty_buf *out) {
    ty_buf_reset(out);
    ty_buf_puts(out, "data: ");
    ty_buf_puts(out, e->before);
    json_text_write(out, text, len);
    ty_buf_puts(out, e->behind);
    ty_buf_puts(out, "\n\n");
    return out->failed;
}

void reply_event_clear(reply_event *e) {
    free(e->before);
    free(e->behind);
    *e = (reply_event){0};
}

json_t *reply_usage_chunk(const reply_head *h, const Tyto__DecodeResult *r) {
    json_t *o = head(h, "chat.completion.chunk", json_array());
    if (o) (void)json_object_set_new(o, "usage", reply_usage(r));
    return o;
}
