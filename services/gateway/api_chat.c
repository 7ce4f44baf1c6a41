/*
 * api_chat.c - POST /v1/chat/completions: from the request's JSON to an ask, and from what the ask gives to
 * one JSON answer or a stream of events.
 *
 * A stream's status line goes out with the first token: what fails before it (a bad picture, a prompt that
 * is too long) still is an HTTP error.
 */
#include "services/gateway/data_url.h"
#include "services/gateway/gateway.h"
#include "services/gateway/lift.h"
#include "services/gateway/receipt.h"
#include "services/gateway/reply.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/chat/request.h"
#include "common/wire/chat_codec.h"

#include <ctype.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PARAM_MAX = 256, ANSWER_MAX_BYTES = 16 << 20, PICTURE_MAX_BYTES = 64 << 20 };

typedef struct {
    gateway *g; /* first: gateway_send and gateway_event read it */
    http_call *call;
    ask *ask;
    gateway_pipeline *pipeline;
    reply_head head;
    bool stream, include_usage, logprobs;
    bool started; /* the stream's head is out */
    int n_pictures;
    char (*picture_param)[48]; /* "messages[0].content[1]" of each picture */
    ty_buf text;               /* what was streamed */
    json_t *entries;           /* logprobs that were not sent yet */
    receipt receipt;
} chat;

static void chat_free(chat *c) {
    if (!c) return;
    ty_buf_clear(&c->text);
    json_decref(c->entries);
    receipt_clear(&c->receipt);
    free(c->picture_param);
    free(c);
}

static chat *chat_create(gateway *g, http_call *call) {
    chat *c = calloc(1, sizeof(*c));
    if (!c) return NULL;
    c->g = g;
    c->call = call;
    c->text = ty_buf_make(ANSWER_MAX_BYTES);
    unsigned char r[12];
    if (receipt_init(&c->receipt, http_call_received_us(call)) != TY_OK ||
        RAND_bytes(r, sizeof(r)) != 1) {
        chat_free(c);
        return NULL;
    }
    int n = snprintf(c->head.id, sizeof(c->head.id), "chatcmpl-");
    for (size_t i = 0; i < sizeof(r); i++)
        n += snprintf(c->head.id + n, sizeof(c->head.id) - (size_t)n, "%02x", r[i]);
    c->head.created = (int64_t)time(NULL);
    return c;
}

static void reply_failure(http_call *call, ty_status st, const char *stage, const char *text,
                          const char *param) {
    api_error e;
    api_error_set(&e, st, stage, text, param);
    http_reply_error(call, &e);
}

/* ---- streaming ---- */

/* The client reads too slowly, or there is no memory: nobody gets the rest. */
static void drop_stream(chat *c, ty_status st) {
    ty_warn("req=%s stream dropped: %s", http_call_id(c->call),
            st == TY_ELIMIT ? "the client reads too slowly" : ty_status_text(st));
    if (st == TY_ELIMIT) ty_metric_add(c->g->metrics.slow_readers, 1, NULL);
    ask_cancel(c->ask);
    http_abort(c->call);
    chat_free(c);
}

/* One event, json taken over.  False: the stream is gone and so is the chat. */
static bool send_event(chat *c, json_t *json) {
    ty_buf b = ty_buf_make(ANSWER_MAX_BYTES);
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
    http_stream_start(c->call);
    return send_event(c, reply_chunk(&c->head, "assistant", "", 0, NULL, NULL, c->include_usage));
}

static json_t *take_logprobs(chat *c) {
    json_t *entries = c->entries;
    c->entries = NULL;
    return entries ? reply_logprobs(entries) : NULL;
}

/* Text that is certain now; with logprobs a token without text goes out too. */
static bool stream_text(chat *c, const char *text, size_t len) {
    if (!len && !c->entries) return true;
    if (ty_buf_append(&c->text, text, len) != TY_OK) {
        drop_stream(c, TY_ENOMEM);
        return false;
    }
    return send_event(
        c, reply_chunk(&c->head, NULL, text, len, NULL, take_logprobs(c), c->include_usage));
}

/* ---- what the ask says ---- */

static void on_part(void *ctx, int part, const ty_message *m, int sends) {
    chat *c = ctx;
    bool picture = part < c->n_pictures;
    receipt_add(&c->receipt, m, picture ? part : -1, sends);
    gateway_metrics_part(&c->g->metrics, m->env);
    if (picture) c->receipt.pictures_us = ty_now_us(); /* the last one's stays */
}

static void on_first_token(chat *c) {
    c->receipt.first_token_us = ty_now_us();
    ty_metric_observe(c->g->metrics.ttft_s,
                      (double)(c->receipt.first_token_us - c->receipt.received_us) / 1e6,
                      TY_LABELS(c->head.model));
}

static void on_token(void *ctx, const Tyto__TokenInfo *t) {
    chat *c = ctx;
    if (!c->receipt.first_token_us) on_first_token(c);
    /* A control token (the end) has no bytes and stands in no text. */
    if (c->logprobs && t->piece.len) {
        if (!c->entries) c->entries = json_array();
        (void)json_array_append_new(c->entries, reply_logprob(t));
    }
    if (c->stream && start_stream(c)) (void)stream_text(c, t->text, strlen(t->text));
}

static void count_answer(const chat *c, const Tyto__DecodeResult *r) {
    gateway_metrics *m = &c->g->metrics;
    const char *model = c->head.model;
    ty_metric_add(m->prompt_tokens, r->prompt_tokens, TY_LABELS(model));
    ty_metric_add(m->visual_tokens, r->visual_tokens, TY_LABELS(model));
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
    return stream_text(c, r->text + had, len - had);
}

static void finish_stream(chat *c, const Tyto__DecodeResult *r) {
    if (!start_stream(c) || !stream_rest(c, r)) return;
    json_t *last = reply_chunk(&c->head, NULL, NULL, 0, r->finish_reason, NULL, c->include_usage);
    if (c->include_usage) {
        if (!send_event(c, last)) return;
        last = reply_usage_chunk(&c->head, r);
    }
    if (last) (void)json_object_set_new(last, "timings", receipt_json(&c->receipt));
    if (!send_event(c, last)) return;
    ty_status st = http_stream_send(c->call, "data: [DONE]\n\n", 14);
    if (st != TY_OK) {
        drop_stream(c, st);
        return;
    }
    http_stream_end(c->call);
    chat_free(c);
}

static void on_done(void *ctx, const Tyto__DecodeResult *r) {
    chat *c = ctx;
    count_answer(c, r);
    if (c->stream) {
        finish_stream(c, r);
        return;
    }
    if (c->logprobs && !c->entries) c->entries = json_array();
    http_reply_json(c->call, 200,
                    reply_completion(&c->head, r, take_logprobs(c), receipt_json(&c->receipt)));
    chat_free(c);
}

static void on_fail(void *ctx, ty_status st, const char *stage, const char *text, int picture) {
    chat *c = ctx;
    api_error e;
    api_error_set(&e, st, stage, text, picture >= 0 ? c->picture_param[picture] : NULL);
    if (c->started) {
        if (!send_event(c, api_error_json(&e))) return;
        http_stream_end(c->call);
    } else {
        http_reply_error(c->call, &e);
    }
    chat_free(c);
}

static void on_gone(void *ctx) {
    chat *c = ctx;
    ask_cancel(c->ask);
    chat_free(c);
}

/* ---- from JSON to an ask ---- */

static void free_pictures(ask_picture *p, int n) {
    for (int i = 0; p && i < n; i++) free(p[i].bytes);
    free(p);
}

/* Decodes every picture and forgets its URL, which may be large. */
static ty_status read_pictures(chat *c, ty_chat_request *r, const lift *l, ask_picture *p,
                               char *param, ty_err *err) {
    int n = 0;
    for (int i = 0; i < r->n_turn; i++) {
        for (int j = 0; j < r->turn[i].n_part; j++) {
            ty_part *part = &r->turn[i].part[j];
            if (!part->is_image) continue;
            snprintf(c->picture_param[n], sizeof(c->picture_param[n]), "messages[%d].content[%d]",
                     i, j);
            lift_url u = lift_find(l, part->text ? part->text : "");
            ty_status st =
                data_url_decode(u.bytes, u.len, PICTURE_MAX_BYTES, &p[n].bytes, &p[n].size, err);
            if (st != TY_OK) {
                snprintf(param, PARAM_MAX, "%s.image_url.url", c->picture_param[n]);
                ty_err_context(err, "%s", c->picture_param[n]);
                return st;
            }
            free(part->text);
            part->text = NULL;
            n++;
        }
    }
    return TY_OK;
}

/* W3C trace context, passed on when it has the form. */
static const char *traceparent(http_call *call) {
    const char *t = http_call_header(call, "traceparent");
    if (!t || strlen(t) != 55) return NULL;
    for (const char *p = t; *p; p++)
        if (!isxdigit((unsigned char)*p) && *p != '-') return NULL;
    return t;
}

static ty_status draw_seed(ty_sampling *s, ty_err *err) {
    if (s->has_seed) return TY_OK;
    if (RAND_bytes((unsigned char *)&s->seed, sizeof(s->seed)) != 1)
        return ty_fail(err, TY_EINTERNAL, "the system gives no random numbers");
    s->has_seed = true;
    return TY_OK;
}

/* Everything that can fail before the request is on its way. */
static ty_status start(chat *c, ty_chat_request *r, const lift *l, char *param, ty_err *err) {
    int n = ty_chat_request_images(r);
    Tyto__DecodeTask *decode = NULL;
    ask_picture *pictures = calloc((size_t)n + 1, sizeof(*pictures));
    c->picture_param = calloc((size_t)n + 1, sizeof(*c->picture_param));
    ty_status st = TY_OK;
    if (!pictures || !c->picture_param) st = ty_fail(err, TY_ENOMEM, "no memory for the pictures");
    if (st == TY_OK) st = read_pictures(c, r, l, pictures, param, err);
    if (st == TY_OK) st = draw_seed(&r->sampling, err);
    if (st == TY_OK) st = ty_chat_codec_encode(r, &decode, err);
    if (st != TY_OK) {
        free_pictures(pictures, n);
        return st;
    }
    http_call_drop_body(c->call);
    c->n_pictures = n;
    c->stream = r->stream;
    c->include_usage = r->include_usage;
    c->logprobs = r->sampling.logprobs;
    c->receipt.parsed_us = ty_now_us();
    ty_metric_add(c->g->metrics.pictures, n, NULL);
    ask_sink sink = {c, gateway_send, on_part, on_token, on_done, on_fail, gateway_event};
    http_call_on_gone(c->call, on_gone, c);
    /* From here on the chat is the sink's: it may be gone when this returns. */
    http_call *call = c->call;
    ask **slot = &c->ask;
    st = gateway_ask(c->g, slot, c->pipeline, http_call_id(call), traceparent(call), pictures, n,
                     decode, &sink, err);
    free(pictures);
    if (st != TY_OK) http_call_on_gone(call, NULL, NULL);
    return st;
}

static void reply_unknown_model(const gateway *g, http_call *call, const char *model) {
    ty_buf names = ty_buf_make(400);
    for (int i = 0; i < g->n_pipeline; i++)
        ty_buf_printf(&names, "%s%s", i ? ", " : "", g->pipeline[i].info.name);
    api_error e;
    api_error_make(&e, 404, "model_not_found", "model",
                   "The model \"%.200s\" does not exist; this server has: %s", model,
                   names.data ? names.data : "none");
    ty_buf_clear(&names);
    http_reply_error(call, &e);
}

/* True when the request may go on; else it is answered. */
static bool admit(gateway *g, http_call *call, const ty_chat_request *r, gateway_pipeline **p) {
    *p = gateway_find(g, r->model ? r->model : "");
    if (!*p) {
        reply_unknown_model(g, call, r->model ? r->model : "");
    } else if (gateway_in_flight(g) >= g->opt.max_in_flight) {
        char text[96];
        snprintf(text, sizeof(text), "%d requests are in flight already", g->opt.max_in_flight);
        reply_failure(call, TY_EOVERLOAD, "", text, NULL);
    } else if (!gateway_accepts(g, *p)) {
        char text[768];
        snprintf(text, sizeof(text), "the model %s is not ready: %s", (*p)->info.name,
                 (*p)->reason);
        reply_failure(call, TY_EUNAVAILABLE, "", text, NULL);
    } else {
        return true;
    }
    return false;
}

/* A body that is no JSON is the client's fault; the same status from the wire is ours. */
static void reply_parse_error(http_call *call, ty_status st, const char *text, const char *param) {
    api_error e;
    if (st == TY_EFORMAT)
        api_error_make(&e, 400, "invalid_json", NULL, "%s", text);
    else
        api_error_set(&e, st, "", text, param);
    if (st == TY_EUNSUPPORTED) e.code = "unsupported_parameter";
    http_reply_error(call, &e);
}

/* Picture parts whose URL was lifted. */
static int count_lifted(const ty_chat_request *r, const lift *l) {
    int n = 0;
    for (int i = 0; i < r->n_turn; i++)
        for (int j = 0; j < r->turn[i].n_part; j++) {
            const ty_part *p = &r->turn[i].part[j];
            n += p->is_image && p->text && lift_find(l, p->text).bytes != p->text;
        }
    return n;
}

/* Large URLs are lifted out first.  When something is wrong, or when one of them stood where no picture is, the
 * body is parsed once more as it came: then the error names the place, and a text is a text. */
static ty_status read_request(const char *body, size_t len, lift *l, ty_chat_request *r,
                              char *param, ty_err *err) {
    ty_status st = lift_init(l, body, len, err);
    if (st != TY_OK) return st;
    st = ty_chat_request_parse(r, l->json, l->len, true, param, PARAM_MAX, err);
    if (l->n == 0) return st;
    if (st == TY_OK && count_lifted(r, l) == l->n) return st;
    if (st == TY_OK) ty_chat_request_clear(r);
    lift_clear(l);
    return ty_chat_request_parse(r, body, len, true, param, PARAM_MAX, err);
}

/* The request is good JSON: it goes on its way, or is answered with what is wrong. */
static void serve(gateway *g, http_call *call, ty_chat_request *r, const lift *l) {
    gateway_pipeline *p = NULL;
    ty_err err = {0};
    char param[PARAM_MAX] = "";
    if (!admit(g, call, r, &p)) return;
    chat *c = chat_create(g, call);
    if (!c) {
        reply_failure(call, TY_ENOMEM, "", "no memory for the request", NULL);
        return;
    }
    c->pipeline = p;
    c->head.model = p->info.name;
    c->head.fingerprint = p->fingerprint;
    ty_status st = start(c, r, l, param, &err);
    if (st == TY_OK) return;
    reply_failure(call, st, "", err.text, param);
    chat_free(c);
}

void api_chat(void *ctx, http_call *call) {
    gateway *g = ctx;
    const char *body;
    size_t len;
    ty_err err = {0};
    char param[PARAM_MAX] = "";
    ty_chat_request r;
    lift l;
    ty_status st = http_call_body(call, &body, &len, &err);
    if (st != TY_OK) {
        reply_failure(call, st, "", err.text, NULL);
        return;
    }
    st = read_request(body, len, &l, &r, param, &err);
    if (st != TY_OK) {
        reply_parse_error(call, st, err.text, param);
        return;
    }
    serve(g, call, &r, &l);
    ty_chat_request_clear(&r);
    lift_clear(&l);
}
