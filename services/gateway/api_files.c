/*
 * api_files.c - /v1/files: pictures that are sent once and named by their SHA-256 afterwards.
 *
 * What the bytes are is found out by the preprocess stage, a process of its own; here only the first few say whether it
 * is a kind of picture at all.
 */
#include "services/gateway/multipart.h"
#include "services/gateway/store_call.h"

#include "common/store/picture.h"
#include "common/store/token_cache.h"
#include "services/gateway/json_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { FILE_MAX_BYTES = 64 << 20 };

/* NULL: neither picture nor video that can be read. */
static const char *media_type(const char *bytes, size_t size) {
    if (size >= 3 && memcmp(bytes, "\xff\xd8\xff", 3) == 0) return "image/jpeg";
    if (size >= 8 && memcmp(bytes, "\x89PNG\r\n\x1a\n", 8) == 0) return "image/png";
    if (size >= 12 && memcmp(bytes, "RIFF", 4) == 0 && memcmp(bytes + 8, "WEBP", 4) == 0)
        return "image/webp";
    if (size >= 4 && memcmp(bytes, "GIF8", 4) == 0) return "image/gif";
    if (size >= 12 && memcmp(bytes, "RIFF", 4) == 0 && memcmp(bytes + 8, "AVI ", 4) == 0)
        return "video/x-msvideo";
    if (size >= 12 && memcmp(bytes + 4, "ftyp", 4) == 0) return "video/mp4";
    if (size >= 4 && memcmp(bytes, "\x1A\x45\xDF\xA3", 4) == 0) return "video/webm";
    return NULL;
}

/* OpenAI's file object. */
static json_t *show(const json_t *f) {
    return json_pack("{s:O, s:s, s:O, s:o, s:O, s:O, s:s}", "id", json_object_get(f, "id"),
                     "object", "file", "bytes", json_object_get(f, "bytes"), "created_at",
                     store_call_seconds(f, "created"), "filename", json_object_get(f, "name"),
                     "purpose", json_object_get(f, "purpose"), "status", "processed");
}

static store_call *create_for_id(gateway *g, http_call *c,
                                 ty_status (*answer)(store_call *s, const redisReply *r,
                                                     ty_err *err)) {
    store_call *s = store_call_create(g, c, "file", answer);
    if (!s || ty_picture_id_valid(s->id)) return s;
    store_call_fail(s, TY_ENOTFOUND, "no such file", NULL);
    return NULL;
}

static ty_status answer_file(store_call *s, const redisReply *r, ty_err *err) {
    json_t *file = NULL;
    ty_status st = ty_picture_read_file(r, &file, err);
    if (st != TY_OK) return st;
    http_reply_json(s->call, 200, show(file));
    json_decref(file);
    return TY_OK;
}

/* ---- upload ---- */

typedef struct {
    char name[256], purpose[64];
    const char *bytes;
    size_t size;
} upload;

static ty_status read_form(upload *u, const char *type, const char *body, size_t size,
                           const char **param, ty_err *err) {
    multipart form;
    ty_status st = multipart_parse(&form, type, body, size, err);
    if (st != TY_OK) return st;
    for (int i = 0; i < form.n; i++) {
        const multipart_field *f = &form.field[i];
        if (strcmp(f->name, "file") == 0 || strcmp(f->name, "purpose") == 0) continue;
        return ty_fail(err, TY_EUNSUPPORTED, "the field %s is not supported", f->name);
    }
    const multipart_field *file = multipart_find(&form, "file");
    const multipart_field *purpose = multipart_find(&form, "purpose");
    *param = "file";
    if (!file) return ty_fail(err, TY_EINVAL, "the form has no field file");
    u->bytes = file->data;
    u->size = file->size;
    snprintf(u->name, sizeof(u->name), "%s", file->filename);
    *param = "purpose";
    if (purpose && (purpose->size == 0 || purpose->size >= sizeof(u->purpose)))
        return ty_fail(err, TY_EINVAL, "purpose must have 1 to %zu bytes", sizeof(u->purpose) - 1);
    if (purpose)
        snprintf(u->purpose, sizeof(u->purpose), "%.*s", (int)purpose->size, purpose->data);
    *param = NULL;
    return TY_OK;
}

/* A form as OpenAI's clients send it, or the file itself as the body. */
static ty_status read_upload(upload *u, http_call *c, const char **param, ty_err *err) {
    const char *type = http_call_header(c, "Content-Type"), *body;
    size_t size;
    *u = (upload){.purpose = "vision"};
    *param = NULL;
    ty_status st = http_call_body(c, &body, &size, err);
    if (st != TY_OK) return st;
    if (multipart_is(type)) {
        st = read_form(u, type, body, size, param, err);
    } else {
        u->bytes = body;
        u->size = size;
        (void)http_call_query(c, "filename", u->name, sizeof(u->name));
    }
    if (st != TY_OK) return st;
    if (json_text_valid(u->name, strlen(u->name)) != strlen(u->name) ||
        json_text_valid(u->purpose, strlen(u->purpose)) != strlen(u->purpose))
        return ty_fail(err, TY_EINVAL, "the file's name or purpose is not UTF-8");
    *param = "file";
    if (u->size > FILE_MAX_BYTES)
        return ty_fail(err, TY_EINVAL, "the file has %zu bytes, at most %d are taken", u->size,
                       FILE_MAX_BYTES);
    if (!media_type(u->bytes, u->size))
        return ty_fail(err, TY_EUNSUPPORTED,
                       "the file is no JPEG, PNG or WebP picture and no video");
    return TY_OK;
}

void api_file_create(void *ctx, http_call *c) {
    ty_store_command command = {0};
    ty_err err = {0};
    upload u;
    const char *param;
    char sha256[TY_SHA256_HEX];
    store_call *s = store_call_create(ctx, c, "file", answer_file);
    if (!s) return;
    ty_status st = read_upload(&u, c, &param, &err);
    if (st != TY_OK) {
        store_call_fail(s, st, err.text, param);
        return;
    }
    ty_sha256_hex(u.bytes, u.size, sha256);
    ty_picture_file f = {sha256, u.name, u.purpose, u.bytes, u.size};
    st = ty_picture_put(&command, s->owner, &f, &s->g->store_policy, &err);
    http_call_drop_body(c);
    store_call_send(s, st, &command, &err);
}

/* ---- the others ---- */

static ty_status answer_list(store_call *s, const redisReply *r, ty_err *err) {
    json_t *list = NULL, *f, *data;
    size_t i;
    ty_status st = ty_picture_read_list(r, &list, err);
    if (st != TY_OK) return st;
    data = json_array();
    json_array_foreach(list, i, f)(void) json_array_append_new(data, show(f));
    json_decref(list);
    store_call_reply_list(s, data);
    return TY_OK;
}

void api_files_list(void *ctx, http_call *c) {
    ty_store_command command = {0};
    ty_err err = {0};
    char after[80];
    store_call *s = store_call_create(ctx, c, "file", answer_list);
    if (!s || !store_call_page(s, after, sizeof(after))) return;
    ty_status st =
        ty_picture_list(&command, s->owner, after, s->limit + 1, &s->g->store_policy, &err);
    store_call_send(s, st, &command, &err);
}

void api_file_get(void *ctx, http_call *c) {
    ty_store_command command = {0};
    ty_err err = {0};
    store_call *s = create_for_id(ctx, c, answer_file);
    if (!s) return;
    ty_status st = ty_picture_info(&command, s->owner, s->id, &s->g->store_policy, &err);
    store_call_send(s, st, &command, &err);
}

static ty_status answer_deleted(store_call *s, const redisReply *r, ty_err *err) {
    ty_status st = ty_store_read_done(r, NULL, err);
    if (st != TY_OK) return st;
    http_reply_json(s->call, 200,
                    json_pack("{s:s, s:s, s:b}", "id", s->id, "object", "file", "deleted", 1));
    return TY_OK;
}

void api_file_delete(void *ctx, http_call *c) {
    ty_store_command command = {0};
    ty_err err = {0};
    store_call *s = create_for_id(ctx, c, answer_deleted);
    if (!s) return;
    ty_status st = ty_picture_delete(&command, s->owner, s->id, &err);
    store_call_send(s, st, &command, &err);
}

/* The bytes come from others: a browser shall show them and do nothing else with them. */
static ty_status answer_content(store_call *s, const redisReply *r, ty_err *err) {
    const char *bytes;
    size_t size;
    ty_status st = ty_picture_read(r, &bytes, &size, err);
    if (st != TY_OK) return st;
    const char *type = media_type(bytes, size);
    http_call_set_header(s->call, "Content-Security-Policy", "default-src 'none'; sandbox");
    http_call_set_header(s->call, "X-Content-Type-Options", "nosniff");
    http_call_set_header(s->call, "Cache-Control", "private, max-age=3600");
    http_reply(s->call, 200, type ? type : "application/octet-stream", bytes, size);
    return TY_OK;
}

void api_file_content(void *ctx, http_call *c) {
    ty_store_command command = {0};
    ty_err err = {0};
    store_call *s = create_for_id(ctx, c, answer_content);
    if (!s) return;
    ty_status st = ty_picture_get(&command, s->owner, s->id, &s->g->store_policy, &err);
    store_call_send(s, st, &command, &err);
}
