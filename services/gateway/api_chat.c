/*
 * api_chat.c - POST /v1/chat/completions, from the request's JSON to an ask.  What comes back is chat_reply.c's.
 *
 *   parse ──► [conversation: begin its turn ──► parse again, on top of what it holds] ──► gather pictures ──► ask
 *
 * In brackets and where a picture is elsewhere it waits for the store; everything else is done at once.
 */
#include "services/gateway/chat.h"
#include "services/gateway/data_url.h"

#include "common/base/clock.h"
#include "common/chat/history.h"
#include "common/wire/chat_codec.h"

#include <ctype.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { KEY_MAX = 255 };

static chat *chat_create(gateway *g, http_call *call) {
    chat *c = calloc(1, sizeof(*c));
    if (!c) return NULL;
    c->g = g;
    c->call = call;
    c->text = ty_buf_make(CHAT_ANSWER_MAX_BYTES);
    auth_owner(g->auth, http_call_header(call, "Authorization"), c->owner);
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

static void fail(chat *c, ty_status st, const char *text, const char *param) {
    api_error e;
    api_error_set(&e, st, "", text, param);
    chat_fail(c, &e);
}

/* A body that is no JSON is the client's fault; the same status from the wire is ours. */
static void fail_parse(chat *c, ty_status st, const char *text, const char *param) {
    api_error e;
    if (st == TY_EFORMAT)
        api_error_make(&e, 400, "invalid_json", NULL, "%s", text);
    else
        api_error_set(&e, st, "", text, param);
    if (st == TY_EUNSUPPORTED) e.code = "unsupported_parameter";
    chat_fail(c, &e);
}

/* ---- the request's JSON ---- */

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
static ty_status read_request(chat *c, const char *body, size_t len, char *param, ty_err *err) {
    lift *l = &c->lift;
    ty_chat_request *r = &c->request;
    ty_status st = lift_init(l, body, len, err);
    if (st != TY_OK) return st;
    c->json = l->json;
    c->json_len = l->len;
    st = ty_chat_request_parse(r, l->json, l->len, true, param, CHAT_PARAM_MAX, err);
    if (l->n == 0) return st;
    if (st == TY_OK && count_lifted(r, l) == l->n) return st;
    if (st == TY_OK) ty_chat_request_clear(r);
    lift_clear(l);
    c->json = body;
    c->json_len = len;
    return ty_chat_request_parse(r, body, len, true, param, CHAT_PARAM_MAX, err);
}

static ty_status read_url(chat *c, gathered *p, const char *text, char *param, ty_err *err) {
    lift_url u = lift_find(&c->lift, text);
    ty_status st;
    if (!p->video && c->g->fetch && fetch_is_address(u.bytes, u.len)) {
        st = fetch_check(c->g->fetch, text, err);
        p->address = st == TY_OK ? strdup(text) : NULL;
        if (st == TY_OK && !p->address) st = ty_fail(err, TY_ENOMEM, "no memory for the pictures");
    } else {
        st = data_url_decode(u.bytes, u.len, p->video, GATEWAY_PICTURE_MAX_BYTES, &p->bytes,
                             &p->size, err);
    }
    if (st == TY_OK) return st;
    snprintf(param, CHAT_PARAM_MAX, "%s.%s_url.url", p->param, p->video ? "video" : "image");
    ty_err_context(err, "%s", p->param);
    return st;
}

/* The request's own pictures: what is inside it is decoded, what is elsewhere noted.  A conversation knows them by
 * the SHA-256 of their bytes. */
static ty_status read_pictures(chat *c, char *param, ty_err *err) {
    const ty_chat_request *r = &c->request;
    c->picture = calloc((size_t)ty_chat_request_images(r) + 1, sizeof(*c->picture));
    if (!c->picture) return ty_fail(err, TY_ENOMEM, "no memory for the pictures");
    for (int i = 0; i < r->n_turn; i++) {
        for (int j = 0; j < r->turn[i].n_part; j++) {
            const ty_part *part = &r->turn[i].part[j];
            if (!part->is_image) continue;
            gathered *p = &c->picture[c->n_pictures++];
            snprintf(p->param, sizeof(p->param), "messages[%d].content[%d]", i, j);
            p->video = part->is_video;
            if (part->is_file) {
                snprintf(p->sha256, sizeof(p->sha256), "%s", part->text);
                continue;
            }
            ty_status st = read_url(c, p, part->text ? part->text : "", param, err);
            if (st != TY_OK) return st;
            if (*r->conversation && p->bytes) ty_sha256_hex(p->bytes, p->size, p->sha256);
        }
    }
    return TY_OK;
}

/* ---- which model ---- */

static void fail_unknown_model(chat *c, const char *model) {
    const gateway *g = c->g;
    ty_buf names = ty_buf_make(400);
    for (int i = 0; i < g->n_pipeline; i++)
        ty_buf_printf(&names, "%s%s", i ? ", " : "", g->pipeline[i].info.name);
    api_error e;
    api_error_make(&e, 404, "model_not_found", "model",
                   "The model \"%.200s\" does not exist; this server has: %s", model,
                   names.data ? names.data : "none");
    ty_buf_clear(&names);
    chat_fail(c, &e);
}

/* False: the request is answered. */
static bool take_model(chat *c, const char *model) {
    c->pipeline = gateway_find(c->g, model);
    if (!c->pipeline) {
        fail_unknown_model(c, model);
        return false;
    }
    if (!gateway_accepts(c->g, c->pipeline)) {
        char text[768];
        snprintf(text, sizeof(text), "the model %s is not ready: %s", c->pipeline->info.name,
                 c->pipeline->reason);
        fail(c, c->pipeline->status == TY_ECONTRACT ? TY_ECONTRACT : TY_EUNAVAILABLE, text, NULL);
        return false;
    }
    c->head.model = c->pipeline->info.name;
    c->head.fingerprint = c->pipeline->fingerprint;
    return true;
}

/* ---- on its way ---- */

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

static bool is_brought(const chat *c, const char *sha256) {
    for (int i = 0; i < c->n_brought; i++)
        if (strcmp(c->brought[i].sha256, sha256) == 0) return true;
    return false;
}

/* Copies of the new pictures, each once: the ask takes the bytes themselves. */
static ty_status keep_pictures(chat *c, ty_err *err) {
    c->brought = calloc((size_t)c->n_pictures + 1, sizeof(*c->brought));
    if (!c->brought) return ty_fail(err, TY_ENOMEM, "no memory for the pictures");
    for (int i = 0; i < c->n_pictures; i++) {
        const gathered *p = &c->picture[i];
        if (p->stored || is_brought(c, p->sha256)) continue;
        char *sha256 = strdup(p->sha256), *copy = malloc(p->size + 1);
        if (copy) memcpy(copy, p->bytes, p->size);
        c->brought[c->n_brought++] = (ty_conversation_picture){sha256, copy, p->size};
        if (!sha256 || !copy) return ty_fail(err, TY_ENOMEM, "no memory for the pictures");
    }
    return TY_OK;
}

/* The request's own messages and parameters, for the commit. */
static ty_status keep_turn(chat *c, ty_err *err) {
    const ty_chat_request *r = &c->request;
    const char *id[TY_CHAT_IMAGES_MAX];
    int at = 0;
    c->messages = json_array();
    c->params = ty_chat_params_json(r);
    ty_chat_title(r, c->title, sizeof(c->title));
    while (at < c->n_pictures && c->picture[at].stored) at++;
    for (int i = r->n_stored; i < r->n_turn; i++) {
        int n = ty_turn_images(&r->turn[i]);
        for (int k = 0; k < n; k++) id[k] = c->picture[at++].sha256;
        json_t *m = ty_chat_turn_json(&r->turn[i], id);
        if (m) (void)json_object_set_new(m, "created", json_integer((json_int_t)time(NULL)));
        if (json_array_append_new(c->messages, m) != 0)
            return ty_fail(err, TY_ENOMEM, "no memory for the turn");
    }
    if (!c->params) return ty_fail(err, TY_ENOMEM, "no memory for the turn");
    return keep_pictures(c, err);
}

/* All is here.  Afterwards the chat is the sink's: it may be gone. */
static void start_ask(chat *c) {
    ty_err err = {0};
    Tyto__DecodeTask *decode = NULL;
    int n = c->n_pictures;
    ask_picture *pictures = calloc((size_t)n + 1, sizeof(*pictures));
    ty_status st = pictures ? TY_OK : ty_fail(&err, TY_ENOMEM, "no memory for the pictures");
    if (st == TY_OK && c->turn) st = keep_turn(c, &err);
    if (st == TY_OK) st = draw_seed(&c->request.sampling, &err);
    if (st == TY_OK) st = ty_chat_codec_encode(&c->request, &decode, &err);
    if (st != TY_OK) {
        free(pictures);
        fail(c, st, err.text, NULL);
        return;
    }
    for (int i = 0; i < n; i++) {
        const gathered *p = &c->picture[i];
        pictures[i] = (ask_picture){p->bytes, p->size, p->sha256, c->request.upright, p->video};
        c->picture[i].bytes = NULL;
    }
    c->stream = c->request.stream;
    c->include_usage = c->request.include_usage;
    c->logprobs = c->request.sampling.logprobs;
    ty_chat_request_clear(&c->request);
    ty_metric_add(c->g->metrics.pictures, n, NULL);
    chat_set_waiting(c, false); /* the ask is counted */
    ask_sink sink = chat_sink(c);
    ask **slot = &c->ask;
    st = gateway_ask(c->g, slot, c->pipeline, http_call_id(c->call), traceparent(c->call), pictures,
                     n, decode, &sink, &err);
    free(pictures);
    if (st != TY_OK) fail(c, st, err.text, NULL);
}

/* ---- pictures from elsewhere ---- */

static void fail_picture(chat *c, int failed, ty_status st, const char *text) {
    api_error e;
    if (failed < 0) {
        fail(c, st, text, NULL);
        return;
    }
    const gathered *p = &c->picture[failed];
    if (p->address) {
        char param[CHAT_PARAM_MAX];
        snprintf(param, sizeof(param), "%s.image_url.url", p->param);
        api_error_address(&e, st, text, param);
    } else {
        api_error_store(&e, st, "file", text, p->param);
    }
    chat_fail(c, &e);
}

static void on_gathered(void *ctx, int failed, const ty_err *err) {
    chat *c = ctx;
    gather_destroy(&c->gather);
    if (failed >= 0) {
        fail_picture(c, failed, err->code, err->text);
        return;
    }
    c->receipt.loaded_us = ty_now_us();
    start_ask(c);
}

/* The request is read: its body is needed no more. */
static void collect(chat *c) {
    ty_err err = {0};
    int failed;
    http_call_drop_body(c->call);
    lift_clear(&c->lift);
    gather_options o = {.redis = c->g->redis,
                        .policy = &c->g->store_policy,
                        .owner = c->owner,
                        .fetch = c->g->fetch};
    ty_status st =
        gather_create(&c->gather, &o, c->picture, c->n_pictures, on_gathered, c, &failed, &err);
    if (st != TY_OK)
        fail_picture(c, failed, st, err.text);
    else if (!c->gather)
        start_ask(c);
}

/* ---- a conversation ---- */

/* The parameters of the last answer. */
static const json_t *last_params(const json_t *turns) {
    for (size_t i = json_array_size(turns); i-- > 0;) {
        const json_t *p = json_object_get(json_array_get(turns, i), "params");
        if (p) return p;
    }
    return NULL;
}

/* Puts the conversation's pictures in front of the request's. */
static ty_status put_stored_pictures(chat *c, ty_err *err) {
    const ty_chat_request *r = &c->request;
    int n = 0;
    for (int i = 0; i < r->n_stored; i++) n += ty_turn_images(&r->turn[i]);
    gathered *all = calloc((size_t)(n + c->n_pictures) + 1, sizeof(*all));
    if (!all) return ty_fail(err, TY_ENOMEM, "no memory for the pictures");
    memcpy(all + n, c->picture, (size_t)c->n_pictures * sizeof(*all));
    free(c->picture);
    c->picture = all;
    c->n_pictures += n;
    for (int i = 0, k = 0; i < r->n_stored; i++)
        for (int j = 0; j < r->turn[i].n_part; j++) {
            if (!r->turn[i].part[j].is_image) continue;
            gathered *p = &all[k++];
            p->stored = true;
            snprintf(p->param, sizeof(p->param), "conversation");
            p->video = r->turn[i].part[j].is_video;
            snprintf(p->sha256, sizeof(p->sha256), "%s", r->turn[i].part[j].text);
        }
    return TY_OK;
}

static void on_begun(void *ctx, json_t *conversation, const ty_err *why) {
    chat *c = ctx;
    ty_err err = {0};
    char param[CHAT_PARAM_MAX] = "";
    if (!conversation) {
        api_error e;
        api_error_store(&e, why->code, "conversation", why->text, "conversation");
        chat_fail(c, &e);
        return;
    }
    c->receipt.loaded_us = ty_now_us();
    if (json_is_true(json_object_get(conversation, "done"))) {
        chat_replay(c, conversation);
        return;
    }
    if (!turn_is_new(c->turn)) {
        const json_t *turns = json_object_get(conversation, "turns");
        ty_chat_request_clear(&c->request);
        ty_status st = ty_chat_request_parse_turn(&c->request, c->json, c->json_len, turns,
                                                  last_params(turns), param, sizeof(param), &err);
        if (st != TY_OK) {
            fail_parse(c, st, err.text, param);
            return;
        }
        if ((st = put_stored_pictures(c, &err)) != TY_OK) {
            fail(c, st, err.text, NULL);
            return;
        }
        const char *model = json_string_value(json_object_get(conversation, "model"));
        if (!take_model(c, *c->request.model ? c->request.model : model ? model : "")) return;
    }
    collect(c);
}

static void begin_turn(chat *c) {
    const char *id = c->request.conversation;
    ty_err err = {0};
    api_error e;
    if (!c->g->redis) {
        api_error_no_store(&e, "conversation");
        chat_fail(c, &e);
        return;
    }
    turn_options o = {.base = c->g->base,
                      .redis = c->g->redis,
                      .policy = &c->g->store_policy,
                      .holder = c->g->opt.name,
                      .mark = c->g->life,
                      .owner = c->owner,
                      .id = strcmp(id, "new") == 0 ? NULL : id,
                      .model = c->head.model,
                      .key = c->key,
                      .digest = c->digest};
    ty_status st = turn_create(&c->turn, &o, &err);
    if (st == TY_OK) {
        /* Their sizes: no answer is worked out that the owner's quota would refuse. */
        ty_conversation_picture known[TY_CHAT_IMAGES_MAX];
        int n = 0;
        for (int i = 0; i < c->n_pictures; i++)
            if (c->picture[i].bytes)
                known[n++] =
                    (ty_conversation_picture){c->picture[i].sha256, NULL, c->picture[i].size};
        st = turn_begin(c->turn, known, n, on_begun, c, &err);
    }
    if (st == TY_OK) return;
    api_error_store(&e, st, "conversation", err.text, "conversation");
    chat_fail(c, &e);
}

/* A request that its client names may be sent again: what was answered once is not answered twice.  The key is the
 * client's word, so its digest is kept. */
static bool read_key(chat *c, const char *body, size_t len) {
    const char *key = http_call_header(c->call, "Idempotency-Key");
    if (!key || !*c->request.conversation) return true;
    size_t n = strlen(key);
    if (n == 0 || n > KEY_MAX) {
        fail(c, TY_EINVAL, "the header Idempotency-Key must have 1 to 255 bytes",
             "Idempotency-Key");
        return false;
    }
    ty_sha256_hex(key, n, c->key);
    ty_sha256_hex(body, len, c->digest);
    return true;
}

/* ---- the route ---- */

void api_chat(void *ctx, http_call *call) {
    gateway *g = ctx;
    const char *body;
    size_t len;
    ty_err err = {0};
    char param[CHAT_PARAM_MAX] = "";
    chat *c = chat_create(g, call);
    if (!c) {
        api_error e;
        api_error_set(&e, TY_ENOMEM, "", "no memory for the request", NULL);
        http_reply_error(call, &e);
        return;
    }
    ty_status st = http_call_body(call, &body, &len, &err);
    if (st != TY_OK) {
        fail(c, st, err.text, NULL);
        return;
    }
    st = read_request(c, body, len, param, &err);
    if (st != TY_OK) {
        fail_parse(c, st, err.text, param);
        return;
    }
    if (gateway_in_flight(g) >= g->opt.max_in_flight) {
        snprintf(err.text, sizeof(err.text), "%d requests are in flight already",
                 g->opt.max_in_flight);
        fail(c, TY_EOVERLOAD, err.text, NULL);
        return;
    }
    if (*c->request.model && !take_model(c, c->request.model)) return;
    if (!read_key(c, body, len)) return;
    st = read_pictures(c, param, &err);
    if (st == TY_EAUTH) {
        api_error e;
        api_error_address(&e, st, err.text, param);
        chat_fail(c, &e);
        return;
    }
    if (st != TY_OK) {
        fail(c, st, err.text, param);
        return;
    }
    c->receipt.parsed_us = ty_now_us();
    chat_set_waiting(c, true);
    http_call_on_gone(call, chat_gone, c);
    if (*c->request.conversation)
        begin_turn(c);
    else
        collect(c);
}
