/* store_call.c - see store_call.h. */
#include "services/gateway/store_call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIMIT = 20, LIMIT_MAX = 100 };

store_call *store_call_create(gateway *g, http_call *c, const char *what,
                              ty_status (*answer)(store_call *s, const redisReply *r,
                                                  ty_err *err)) {
    api_error e;
    store_call *s = NULL;
    if (!g->redis)
        api_error_no_store(&e, NULL);
    else if (!(s = calloc(1, sizeof(*s))))
        api_error_set(&e, TY_ENOMEM, "", "no memory for the request", NULL);
    if (!s) {
        http_reply_error(c, &e);
        return NULL;
    }
    *s = (store_call){.g = g, .call = c, .what = what, .answer = answer};
    auth_owner(g->auth, http_call_header(c, "Authorization"), s->owner);
    (void)http_call_segment(c, 2, s->id, sizeof(s->id));
    return s;
}

void store_call_fail(store_call *s, ty_status st, const char *text, const char *param) {
    api_error e;
    api_error_store(&e, st, s->what, text, param);
    http_reply_error(s->call, &e);
    free(s);
}

static void on_reply(void *ctx, const redisReply *r, const ty_err *lost) {
    store_call *s = ctx;
    ty_err err = {0};
    if (!r) err = *lost;
    ty_status st = r ? s->answer(s, r, &err) : lost->code;
    if (st == TY_OK)
        free(s);
    else
        store_call_fail(s, st, err.text, NULL);
}

static void on_gone(void *ctx) {
    store_call *s = ctx;
    ty_redis_sent_forget(&s->sent);
    free(s);
}

void store_call_send(store_call *s, ty_status made, ty_store_command *command, const ty_err *err) {
    ty_err why = err ? *err : (ty_err){0};
    ty_status st = made;
    if (st == TY_OK) {
        st = ty_redis_async_send(s->g->redis, command, on_reply, s, &s->sent, &why);
        ty_store_command_clear(command);
    }
    if (st == TY_OK)
        http_call_on_gone(s->call, on_gone, s);
    else
        store_call_fail(s, st, why.text, NULL);
}

bool store_call_page(store_call *s, char *after, size_t size) {
    char limit[16];
    s->limit = LIMIT;
    if (http_call_query(s->call, "limit", limit, sizeof(limit))) {
        char *end;
        long n = strtol(limit, &end, 10);
        if (*end || n < 1 || n > LIMIT_MAX) {
            store_call_fail(s, TY_EINVAL, "limit is not a number from 1 to 100", "limit");
            return false;
        }
        s->limit = (int)n;
    }
    if (!http_call_query(s->call, "after", after, size)) *after = '\0';
    return true;
}

void store_call_reply_list(const store_call *s, json_t *items) {
    size_t n = json_array_size(items), most = (size_t)s->limit;
    while (json_array_size(items) > most) (void)json_array_remove(items, most);
    size_t m = json_array_size(items);
    json_t *first = json_object_get(json_array_get(items, 0), "id");
    json_t *last = m ? json_object_get(json_array_get(items, m - 1), "id") : NULL;
    http_reply_json(s->call, 200,
                    json_pack("{s:s, s:O?, s:O?, s:b, s:o}", "object", "list", "first_id", first,
                              "last_id", last, "has_more", n > most, "data", items));
}

json_t *store_call_seconds(const json_t *object, const char *key) {
    return json_integer(json_integer_value(json_object_get(object, key)) / 1000);
}
