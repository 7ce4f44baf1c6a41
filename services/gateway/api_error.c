/* api_error.c - see api_error.h. */
#include "services/gateway/api_error.h"

#include "services/gateway/json_text.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { RETRY_S = 1 };

typedef struct {
    ty_status status;
    const char *stage; /* NULL = any */
    int http;
    const char *code, *remedy;
} row;

/* The first row that fits counts. */
static const row rows[] = {
    {TY_EUNSUPPORTED, "preprocess", 400, "unsupported_image",
     "send a JPEG, PNG or WebP picture (videos: see docs/protocol.md)"},
    {TY_ELIMIT, "preprocess", 400, "image_too_large", "send a smaller picture"},
    {TY_ETIMEOUT, "preprocess", 504, "timeout", "send a smaller picture, or fewer at once"},
    {TY_EINVAL, NULL, 400, "invalid_value", NULL},
    {TY_EUNSUPPORTED, NULL, 400, "unsupported_value", NULL},
    {TY_ENOTFOUND, NULL, 404, "not_found", NULL},
    {TY_EEXIST, NULL, 409, "already_exists", NULL},
    {TY_ENOMEM, NULL, 503, "out_of_memory", "send it again later, or a smaller request"},
    {TY_EIO, NULL, 500, "io_error", "the service's log says more"},
    {TY_EFORMAT, NULL, 500, "bad_message", "the service's log says more"},
    {TY_ESHAPE, NULL, 500, "shape_mismatch", "the pipeline's stages do not fit; import it again"},
    {TY_ELIMIT, NULL, 400, "limit_exceeded", NULL},
    {TY_EIMAGE, NULL, 400, "invalid_image", "send a whole, undamaged file"},
    {TY_ECONTEXT, NULL, 400, "context_length_exceeded",
     "shorten the messages, send fewer pictures or lower max_tokens"},
    {TY_ECHECKSUM, NULL, 500, "checksum_mismatch", "send it again"},
    {TY_EVERSION, NULL, 503, "protocol_version", "run one version of Tyto in all processes"},
    {TY_ECONTRACT, NULL, 503, "pipeline_contract",
     "the stages do not fit; `tyto status` says more"},
    {TY_EOVERLOAD, NULL, 503, "overloaded", "send it again later"},
    {TY_EUNAVAILABLE, NULL, 503, "unavailable",
     "send it again later; GET /readyz says what is missing"},
    {TY_ETIMEOUT, NULL, 504, "timeout", "send it again, or ask for less"},
    {TY_ECANCELED, NULL, 499, "canceled", NULL},
    {TY_EAUTH, NULL, 401, "invalid_api_key", "send Authorization: Bearer KEY"},
    {TY_EINTERNAL, NULL, 500, "internal_error", "the service's log says more"},
};

static const row *find(ty_status st, const char *stage) {
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (rows[i].status == st && (!rows[i].stage || (stage && !strcmp(rows[i].stage, stage))))
            return &rows[i];
    return &rows[sizeof(rows) / sizeof(rows[0]) - 1];
}

static const char *type_of(int http) {
    switch (http) {
    case 401: return "authentication_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    case 503: return "service_unavailable_error";
    default: return http < 500 ? "invalid_request_error" : "server_error";
    }
}

static void fill(api_error *e, int http, const char *code, const char *param) {
    e->http = http;
    e->code = code;
    e->type = type_of(http);
    e->retry_after_s = http == 503 || http == 429 ? RETRY_S : 0;
    snprintf(e->param, sizeof(e->param), "%s", param ? param : "");
}

void api_error_set(api_error *e, ty_status st, const char *stage, const char *text,
                   const char *param) {
    const row *r = find(st, stage);
    fill(e, r->http, r->code, param);
    if (!text || !*text) text = ty_status_text(st);
    snprintf(e->message, sizeof(e->message), "%s%s%s%s%s", stage ? stage : "",
             stage && *stage ? ": " : "", text, r->remedy ? ". Remedy: " : "",
             r->remedy ? r->remedy : "");
}

void api_error_address(api_error *e, ty_status st, const char *text, const char *param) {
    if (st == TY_EAUTH)
        api_error_make(e, 400, "image_url_refused", param, "%s", text);
    else if (st == TY_EIO || st == TY_ETIMEOUT)
        api_error_make(e, 400, "image_url_failed", param, "%s. Remedy: send the picture itself",
                       text);
    else if (st == TY_ELIMIT)
        api_error_make(e, 400, "image_too_large", param, "%s", text);
    else
        api_error_set(e, st, "", text, param);
}

void api_error_no_store(api_error *e, const char *param) {
    api_error_make(e, 501, "no_store", param,
                   "This server keeps no conversations and files: it runs without Redis. Remedy: "
                   "send all messages; or start it with --redis-url or TYTO_REDIS_URL");
}

void api_error_store(api_error *e, ty_status st, const char *what, const char *text,
                     const char *param) {
    bool file = strcmp(what, "file") == 0;
    switch (st) {
    case TY_ENOTFOUND:
        api_error_make(e, 404, file ? "file_not_found" : "conversation_not_found", param,
                       "%s. Remedy: GET /v1/%ss lists those that there are", text, what);
        break;
    case TY_EEXIST:
    case TY_ECANCELED:
        api_error_make(e, 409, "conversation_busy", param,
                       "%s. Remedy: wait for its answer, or fork the conversation", text);
        break;
    case TY_ELIMIT: api_error_make(e, 403, "quota_exceeded", param, "%s", text); break;
    case TY_EOVERLOAD:
    case TY_EUNAVAILABLE:
    case TY_EIO:
    case TY_ETIMEOUT:
        api_error_make(e, 503, "store_unavailable", param,
                       "%s. Remedy: send it again later; requests without a conversation go on",
                       text);
        break;
    default: api_error_set(e, st, "", text, param);
    }
}

void api_error_make(api_error *e, int http, const char *code, const char *param, const char *fmt,
                    ...) {
    fill(e, http, code, param);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof(e->message), fmt, ap);
    va_end(ap);
}

json_t *api_error_json(const api_error *e) {
    return json_pack("{s:{s:o, s:s, s:o, s:s}}", "error", "message",
                     json_text(e->message, strlen(e->message)), "type", e->type, "param",
                     *e->param ? json_text(e->param, strlen(e->param)) : json_null(), "code",
                     e->code);
}
