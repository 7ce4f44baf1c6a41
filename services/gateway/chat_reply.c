/*
 * chat_reply.c - what an ask gives, on its way to the client: one JSON answer, or a stream of events; and in a
 * conversation first to the store.
 *
 * A stream's status line goes out with the first token: what fails before it (a bad picture, a prompt that
 * is too long) still is an HTTP error.  The end of an answer (the last chunk, the one JSON) goes out when the turn is
 * stored: who has seen it can rely on it.
 */
#include "services/gateway/chat.h"
#include "services/gateway/json_text.h"

#include "common/base/clock.h"
#include "common/base/log.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- streaming ---- */

/* The client reads too slowly, or there is no memory: nobody gets the rest. */
static void drop_stream(chat *c, ty_status st) {
    ty_warn("req=%s stream dropped: %s", http_call_id(c->call),
            st == TY_ELIMIT ? "the client reads too slowly" : ty_status_text(st));
    if (st == TY_ELIMIT) ty_metric_add(c->g->metrics.slow_readers, 1, NULL);
    if (c->ask) ask_cancel(c->ask);
    http_abort(c->call);
    chat_free(c);
}

/* One event, json taken over.  False: the stream is gone and so is the chat. */
static bool send_event(chat *c, json_t *json) {
    ty_buf b = ty_buf_make(CHAT_ANSWER_MAX_BYTES);
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
    json_decref(json);
    ty_status st = TY_ENOMEM;
    if (text && ty_buf_printf(&b, "data: %s\n\n", text) == TY_OK)
        st = http_stream_send(c->call, b.data, b.len);
    free(text);
    ty_buf_clear(&b);
    if (st == TY_OK) return true;
    drop_stream(c, st);
    return false;
}

static bool start_stream(chat *c) {
    if (c->started) return true;
    c->started = true;
    ty_status st = reply_event_make(&c->event, &c->head, c->include_usage);
    c->line = ty_buf_make(CHAT_ANSWER_MAX_BYTES);
    http_stream_start(c->call);
    if (st != TY_OK) {
        drop_stream(c, st);
        return false;
    }
    return send_event(c, reply_chunk(&c->head, "assistant", "", 0, NULL, NULL, c->include_usage));
}

static json_t *take_logprobs(chat *c) {
    json_t *entries = c->entries;
    c->entries = NULL;
    return entries ? reply_logprobs(entries) : NULL;
}

/* Text that is certain now, in one event with what comes at once behind it (more); with logprobs a token without text goes
 * out too. */
static bool stream_text(chat *c, const char *text, size_t len, bool more) {
    ty_status st = ty_buf_append(&c->text, text, len);
    if (st == TY_OK && more) return true;
    len = c->text.len - c->n_sent;
    text = c->text.data + c->n_sent;
    if (st == TY_OK && !len && !c->entries) return true;
    c->n_sent = c->text.len;
    if (st == TY_OK && !c->entries) {
        st = reply_event_write(&c->event, text, len, &c->line);
        if (st == TY_OK) st = http_stream_send(c->call, c->line.data, c->line.len);
        if (st == TY_OK) return true;
    }
    if (st != TY_OK) {
        drop_stream(c, st);
        return false;
    }
    return send_event(
        c, reply_chunk(&c->head, NULL, text, len, NULL, take_logprobs(c), c->include_usage));
}

/* ---- what the ask says ---- */

static void on_part(void *ctx, int part, const ty_message *m, int sends) {
    chat *c = ctx;
    bool is_picture = part < c->n_pictures;
    receipt_add(&c->receipt, m, is_picture ? part : -1, sends);
    gateway_metrics_part(&c->g->metrics, m->env);
    if (is_picture) c->receipt.pictures_us = ty_now_us(); /* the last one's stays */
}

static void on_first_token(chat *c) {
    c->receipt.first_token_us = ty_now_us();
    ty_metric_observe(c->g->metrics.ttft_s,
                      (double)(c->receipt.first_token_us - c->receipt.received_us) / 1e6,
                      TY_LABELS(c->head.model));
}

static void on_token(void *ctx, const Tyto__TokenInfo *t, bool more) {
    chat *c = ctx;
    if (!c->receipt.first_token_us) on_first_token(c);
    /* A control token (the end) has no bytes and stands in no text. */
    if (c->logprobs && t->piece.len) {
        if (!c->entries) c->entries = json_array();
        (void)json_array_append_new(c->entries, reply_logprob(t));
    }
    if (c->stream && start_stream(c)) (void)stream_text(c, t->text, strlen(t->text), more);
}

static void count_answer(const chat *c, const Tyto__DecodeResult *r) {
    gateway_metrics *m = &c->g->metrics;
    const char *model = c->head.model;
    ty_metric_add(m->prompt_tokens, r->prompt_tokens, TY_LABELS(model));
    ty_metric_add(m->visual_tokens, r->visual_tokens, TY_LABELS(model));
    ty_metric_add(m->cached_tokens, r->cached_tokens, TY_LABELS(model));
    ty_metric_add(m->completion_tokens, r->completion_tokens, TY_LABELS(model));
    ty_metric_observe(m->request_s, (double)(ty_now_us() - c->receipt.received_us) / 1e6,
                      TY_LABELS(model));
}

/* What the answer has beyond what was streamed. */
static bool stream_rest(chat *c, const Tyto__DecodeResult *r) {
    size_t len = strlen(r->text), had = c->text.len;
    if (had > len || (had && memcmp(r->text, c->text.data, had) != 0)) {
        ty_error("req=%s the streamed text is not the answer's beginning", http_call_id(c->call));
        return true;
    }
    return stream_text(c, r->text + had, len - had, false);
}

/* The receipt; of a replay the one that the answer had. */
static json_t *timings_json(const chat *c) {
    if (!c->replay) return receipt_json(&c->receipt);
    return json_incref(json_object_get(c->replay, "timings"));
}

/* o NULL: out of memory, which the caller notices. */
static json_t *add_conversation(const chat *c, json_t *o) {
    if (o && c->turn) (void)json_object_set_new(o, "conversation", json_string(turn_id(c->turn)));
    return o;
}

static void finish_stream(chat *c, const Tyto__DecodeResult *r) {
    json_t *last = reply_chunk(&c->head, NULL, NULL, 0, r->finish_reason, NULL, c->include_usage);
    if (c->include_usage) {
        if (!send_event(c, last)) return;
        last = reply_usage_chunk(&c->head, r);
    }
    if (last) (void)json_object_set_new(last, "timings", timings_json(c));
    if (!send_event(c, add_conversation(c, last))) return;
    ty_status st = http_stream_send(c->call, "data: [DONE]\n\n", 14);
    if (st != TY_OK) {
        drop_stream(c, st);
        return;
    }
    http_stream_end(c->call);
    chat_free(c);
}

/* The last words; frees the chat. */
static void finish(chat *c, const Tyto__DecodeResult *r) {
    if (c->stream) {
        finish_stream(c, r);
        return;
    }
    if (c->logprobs && !c->entries) c->entries = json_array();
    json_t *whole = reply_completion(&c->head, r, take_logprobs(c), timings_json(c));
    http_reply_json(c->call, 200, add_conversation(c, whole));
    chat_free(c);
}

/* ---- a conversation's turn into the store ---- */

static void on_committed(void *ctx, ty_status st, const ty_err *err) {
    chat *c = ctx;
    if (st == TY_OK) {
        c->receipt.stored_us = ty_now_us();
        finish(c, c->result);
        return;
    }
    api_error e;
    api_error_store(&e, st, "conversation", err->text, "conversation");
    chat_fail(c, &e);
}

static json_t *stages_json(const ty_pipeline *p) {
    json_t *o = json_object();
    for (int k = 0; k < TY_STAGE_COUNT; k++)
        if (*p->path[k])
            (void)json_object_set_new(o, ty_stage_name((ty_stage_kind)k),
                                      json_string(p->model_id[k]));
    if (*p->adapter_id) (void)json_object_set_new(o, "adapter", json_string(p->adapter_id));
    return o;
}

/* The assistant's message as it is stored, with who said it and how. */
static json_t *answer_json(const chat *c, const Tyto__DecodeResult *r) {
    return json_pack("{s:s, s:o, s:s, s:I, s:s, s:o, s:O, s:o, s:o}", "role", "assistant",
                     "content", json_text(r->text, strlen(r->text)), "finish_reason",
                     r->finish_reason, "created", (json_int_t)time(NULL), "model", c->head.model,
                     "stages", stages_json(&c->pipeline->info), "params", c->params, "usage",
                     reply_usage(r), "timings", receipt_json(&c->receipt));
}

static void free_texts(char **text, size_t n) {
    for (size_t i = 0; text && i < n; i++) free(text[i]);
    free(text);
}

static ty_status commit(chat *c, const Tyto__DecodeResult *r, ty_err *err) {
    ty_status st = ty_fail(err, TY_ENOMEM, "no memory to store the turn");
    size_t n = json_array_size(c->messages) + 1;
    char **text = calloc(n, sizeof(*text));
    if (!text || json_array_append_new(c->messages, answer_json(c, r)) != 0) goto done;
    for (size_t i = 0; i < n; i++) {
        text[i] =
            json_dumps(json_array_get(c->messages, i), JSON_COMPACT | JSON_REAL_PRECISION(12));
        if (!text[i]) goto done;
    }
    turn_record record = {.model = c->head.model,
                          .title = c->title,
                          .texts = (const char *const *)text,
                          .n_text = (int)n,
                          .pics = c->brought,
                          .n_pic = c->n_brought};
    st = turn_commit(c->turn, &record, on_committed, c, err);
done:
    free_texts(text, n);
    return st;
}

/* The result lives until the ask is reaped, the commit perhaps longer. */
static Tyto__DecodeResult *dup_result(const Tyto__DecodeResult *r) {
    size_t n = tyto__decode_result__get_packed_size(r);
    uint8_t *bytes = malloc(n ? n : 1);
    if (!bytes) return NULL;
    Tyto__DecodeResult *copy =
        tyto__decode_result__unpack(NULL, tyto__decode_result__pack(r, bytes), bytes);
    free(bytes);
    return copy;
}

static void on_done(void *ctx, const Tyto__DecodeResult *r) {
    chat *c = ctx;
    if (!c->receipt.first_token_us) on_first_token(c); /* beams give all at once */
    count_answer(c, r);
    if (c->stream && (!start_stream(c) || !stream_rest(c, r))) return;
    c->receipt.decoded_us = ty_now_us();
    if (!c->turn) {
        finish(c, r);
        return;
    }
    ty_err err = {0};
    ty_status st = TY_ENOMEM;
    c->ask = NULL; /* it is reaped while the commit goes on */
    chat_set_waiting(c, true);
    c->result = dup_result(r);
    if (c->result) st = commit(c, c->result, &err);
    if (st == TY_OK) return;
    api_error e;
    api_error_store(&e, st, "conversation", err.text, "conversation");
    chat_fail(c, &e);
}

static uint32_t number_of(const json_t *o, const char *key) {
    return (uint32_t)json_integer_value(json_object_get(o, key));
}

void chat_replay(chat *c, const json_t *conversation) {
    const json_t *turns = json_object_get(conversation, "turns");
    size_t n = json_array_size(turns);
    c->replay = n ? json_incref(json_array_get(turns, n - 1)) : NULL;
    const json_t *usage = json_object_get(c->replay, "usage");
    const json_t *details = json_object_get(usage, "prompt_tokens_details");
    const char *text = json_string_value(json_object_get(c->replay, "content"));
    const char *finish_reason = json_string_value(json_object_get(c->replay, "finish_reason"));
    const char *model = json_string_value(json_object_get(c->replay, "model"));
    if (!text || !finish_reason || !model) {
        api_error e;
        api_error_set(&e, TY_EINTERNAL, "", "the stored answer cannot be read", NULL);
        chat_fail(c, &e);
        return;
    }
    const gateway_pipeline *p = gateway_find(c->g, model);
    c->head.model = model;
    c->head.fingerprint = p ? p->fingerprint : "";
    c->stream = c->request.stream;
    c->include_usage = c->request.include_usage;
    Tyto__DecodeResult r = TYTO__DECODE_RESULT__INIT;
    r.text = (char *)(uintptr_t)text; /* only read */
    r.finish_reason = (char *)(uintptr_t)finish_reason;
    r.prompt_tokens = number_of(usage, "prompt_tokens");
    r.completion_tokens = number_of(usage, "completion_tokens");
    r.visual_tokens = number_of(details, "visual_tokens");
    r.cached_tokens = number_of(details, "cached_tokens");
    http_call_set_header(c->call, "Idempotency-Replayed", "true");
    if (c->stream && (!start_stream(c) || !stream_rest(c, &r))) return;
    finish(c, &r);
}

static void on_fail(void *ctx, ty_status st, const char *stage, const char *text, int picture) {
    chat *c = ctx;
    api_error e;
    api_error_set(&e, st, stage, text, picture >= 0 ? c->picture[picture].param : NULL);
    chat_fail(c, &e);
}

ask_sink chat_sink(chat *c) {
    return (ask_sink){c, gateway_send, on_part, on_token, on_done, on_fail, gateway_event};
}

/* ---- ends ---- */

void chat_fail(chat *c, const api_error *e) {
    if (!c->started) {
        http_reply_error(c->call, e);
    } else {
        if (!send_event(c, api_error_json(e))) return;
        http_stream_end(c->call);
    }
    chat_free(c);
}

void chat_gone(void *ctx) {
    chat *c = ctx;
    if (c->ask) ask_cancel(c->ask);
    chat_free(c);
}

void chat_set_waiting(chat *c, bool waiting) {
    c->g->n_waiting += (int)waiting - (int)c->waiting;
    c->waiting = waiting;
}

void chat_free(chat *c) {
    if (!c) return;
    chat_set_waiting(c, false);
    gather_destroy(&c->gather);
    turn_end(&c->turn);
    for (int i = 0; i < c->n_pictures; i++) gathered_clear(&c->picture[i]);
    free(c->picture);
    for (int i = 0; i < c->n_brought; i++) {
        free((void *)(uintptr_t)c->brought[i].sha256);
        free((void *)(uintptr_t)c->brought[i].bytes);
    }
    free(c->brought);
    json_decref(c->params);
    json_decref(c->messages);
    json_decref(c->replay);
    if (c->result) tyto__decode_result__free_unpacked(c->result, NULL);
    ty_chat_request_clear(&c->request);
    lift_clear(&c->lift);
    ty_buf_clear(&c->text);
    reply_event_clear(&c->event);
    ty_buf_clear(&c->line);
    json_decref(c->entries);
    receipt_clear(&c->receipt);
    free(c);
}
