/* api_conversations.c - /v1/conversations: list, get, delete, fork. */
#include "services/gateway/store_call.h"

#include "common/store/conversation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* As the API shows it; whose it is stays inside.  turns may be NULL. */
static json_t *show(const json_t *c, json_t *turns) {
    json_t *o = json_pack(
        "{s:O, s:s, s:O, s:O, s:o, s:o, s:O, s:O, s:O}", "id", json_object_get(c, "id"), "object",
        "conversation", "model", json_object_get(c, "model"), "title", json_object_get(c, "title"),
        "created_at", store_call_seconds(c, "created"), "updated_at",
        store_call_seconds(c, "updated"), "turn_count", json_object_get(c, "turn_count"), "bytes",
        json_object_get(c, "bytes"), "version", json_object_get(c, "version"));
    if (o && turns) (void)json_object_set(o, "turns", turns);
    return o;
}

/* An id that cannot be one is not asked for. */
static store_call *create_for_id(gateway *g, http_call *c,
                                 ty_status (*answer)(store_call *s, const redisReply *r,
                                                     ty_err *err)) {
    store_call *s = store_call_create(g, c, "conversation", answer);
    if (!s || ty_conversation_id_valid(s->id)) return s;
    store_call_fail(s, TY_ENOTFOUND, "no such conversation", NULL);
    return NULL;
}

static ty_status answer_list(store_call *s, const redisReply *r, ty_err *err) {
    json_t *list = NULL, *c, *data;
    size_t i;
    ty_status st = ty_conversation_read_list(r, &list, err);
    if (st != TY_OK) return st;
    data = json_array();
    json_array_foreach(list, i, c)(void) json_array_append_new(data, show(c, NULL));
    json_decref(list);
    store_call_reply_list(s, data);
    return TY_OK;
}

void api_conversations_list(void *ctx, http_call *c) {
    ty_store_command command = {0};
    ty_err err = {0};
    char after[64];
    store_call *s = store_call_create(ctx, c, "conversation", answer_list);
    if (!s || !store_call_page(s, after, sizeof(after))) return;
    ty_status st =
        ty_conversation_list(&command, s->owner, after, s->limit + 1, &s->g->store_policy, &err);
    store_call_send(s, st, &command, &err);
}

static ty_status answer_one(store_call *s, const redisReply *r, ty_err *err) {
    json_t *conversation = NULL;
    ty_status st = ty_conversation_read(r, &conversation, err);
    if (st != TY_OK) return st;
    http_reply_json(s->call, 200, show(conversation, json_object_get(conversation, "turns")));
    json_decref(conversation);
    return TY_OK;
}

void api_conversation_get(void *ctx, http_call *c) {
    ty_store_command command = {0};
    ty_err err = {0};
    store_call *s = create_for_id(ctx, c, answer_one);
    if (s) store_call_send(s, ty_conversation_get(&command, s->id, s->owner, &err), &command, &err);
}

static ty_status answer_deleted(store_call *s, const redisReply *r, ty_err *err) {
    ty_status st = ty_store_read_done(r, NULL, err);
    if (st != TY_OK) return st;
    http_reply_json(
        s->call, 200,
        json_pack("{s:s, s:s, s:b}", "id", s->id, "object", "conversation.deleted", "deleted", 1));
    return TY_OK;
}

void api_conversation_delete(void *ctx, http_call *c) {
    ty_store_command command = {0};
    ty_err err = {0};
    store_call *s = create_for_id(ctx, c, answer_deleted);
    if (s)
        store_call_send(s, ty_conversation_delete(&command, s->id, s->owner, &err), &command, &err);
}

static ty_status answer_fork(store_call *s, const redisReply *r, ty_err *err) {
    json_t *list = NULL;
    ty_status st = ty_conversation_read_list(r, &list, err);
    if (st != TY_OK) return st;
    http_reply_json(s->call, 200, show(json_array_get(list, 0), NULL));
    json_decref(list);
    return TY_OK;
}

typedef struct {
    int turns;
    char model[256]; /* "" = as before */
} fork_request;

/* {"turns": n, "model": "..."}, nothing else; param: the field that is wrong. */
static ty_status read_fork(gateway *g, http_call *c, fork_request *f, const char **param,
                           ty_err *err) {
    const char *body, *key;
    size_t len;
    json_t *value;
    *f = (fork_request){.turns = -1};
    *param = NULL;
    ty_status st = http_call_body(c, &body, &len, err);
    if (st != TY_OK) return st;
    json_t *json = json_loadb(body, len, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(json))
        st = ty_fail(err, TY_EINVAL, "the body is no JSON object like {\"turns\": 2}");
    json_object_foreach(json, key, value) {
        if (st != TY_OK) break;
        const char *text = json_string_value(value);
        if (strcmp(key, "turns") == 0 && json_is_integer(value) && json_integer_value(value) >= 0 &&
            json_integer_value(value) <= 1 << 20) {
            f->turns = (int)json_integer_value(value);
        } else if (strcmp(key, "model") == 0 && text && gateway_find(g, text)) {
            snprintf(f->model, sizeof(f->model), "%s", text);
        } else if (strcmp(key, "turns") == 0) {
            *param = "turns";
            st = ty_fail(err, TY_EINVAL, "turns must be a whole number from 0");
        } else if (strcmp(key, "model") == 0) {
            *param = "model";
            st = ty_fail(err, TY_EINVAL, "model must be one that GET /v1/models lists");
        } else {
            st = ty_fail(err, TY_EUNSUPPORTED, "\"%.40s\" is not a known field", key);
        }
    }
    if (st == TY_OK && f->turns < 0) {
        *param = "turns";
        st = ty_fail(err, TY_EINVAL, "turns is missing: how many turns to keep");
    }
    json_decref(json);
    return st;
}

void api_conversation_fork(void *ctx, http_call *c) {
    ty_store_command command = {0};
    ty_err err = {0};
    char new_id[TY_CONVERSATION_ID];
    fork_request f;
    const char *param;
    store_call *s = create_for_id(ctx, c, answer_fork);
    if (!s) return;
    ty_status st = read_fork(s->g, c, &f, &param, &err);
    if (st != TY_OK) {
        store_call_fail(s, st, err.text, param);
        return;
    }
    st = ty_conversation_new_id(new_id, &err);
    if (st == TY_OK)
        st = ty_conversation_fork(&command, s->id, new_id, s->owner, f.turns, f.model,
                                  &s->g->store_policy, &err);
    store_call_send(s, st, &command, &err);
}
