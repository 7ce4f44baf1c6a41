/*
 * ask.c - `tyto ask`: one question to a running service over its HTTP API, streamed.  The answer goes to
 * stdout as it comes, the receipt (what each stage took) to stderr.
 */
#include "orchestration/ask_options.h"
#include "orchestration/commands.h"
#include "orchestration/http_client.h"
#include "orchestration/picture_url.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EVENT_BYTES_MAX = 16 << 20 };

typedef struct {
    const char *url, *model, *prompt, *system, *api_key;
    ty_option_list image, video;
    ask_options ask;
    int timeout;
    bool quiet;
} options;

/* ---- the request ---- */

typedef struct {
    const ty_option_list *images, *videos;
    ty_err *err;
} pictures;

static json_t *picture_part(void *ctx, int i) {
    const pictures *p = ctx;
    char *url = NULL;
    bool video = i >= p->images->n;
    const char *file = video ? p->videos->item[i - p->images->n] : p->images->item[i];
    const char *type = video ? "video_url" : "image_url";
    if (picture_url_of_file(file, &url, p->err) != TY_OK) return NULL;
    json_t *part = json_pack("{s:s, s:{s:s}}", "type", type, type, "url", url);
    free(url);
    return part;
}

/* The body of the POST; free() it. */
static ty_status build_body(const options *o, const ty_option *table, const char *model,
                            char **body, ty_err *err) {
    ty_err why = {0};
    pictures p = {&o->image, &o->video, &why};
    json_t *messages = json_array();
    int bad = 0;
    if (o->system)
        bad |= json_array_append_new(
            messages, json_pack("{s:s, s:s}", "role", "system", "content", o->system));
    bad |= json_array_append_new(
        messages, ask_turn("user", o->image.n + o->video.n, picture_part, &p, o->prompt));
    json_t *r = json_pack("{s:s, s:o, s:b, s:{s:b}}", "model", model, "messages", messages,
                          "stream", 1, "stream_options", "include_usage", 1);
    if (r && !bad) bad = ask_options_to_json(&o->ask, table, r);
    *body = r && !bad ? json_dumps(r, JSON_COMPACT) : NULL;
    json_decref(r);
    if (*body) return TY_OK;
    if (why.code != TY_OK && err) *err = why;
    return why.code != TY_OK ? why.code : ty_fail(err, TY_EINVAL, "the prompt is not UTF-8 text");
}

/* ---- the answer ---- */

typedef struct {
    http_sse sse;
    json_t *timings, *usage;
    bool any, done, failed;
    char finish[32];
} stream;

static const char *text_at(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static double number_at(const json_t *o, const char *key) {
    return json_number_value(json_object_get(o, key));
}

/* An OpenAI error object, however it came. */
static void print_error(const json_t *error) {
    fprintf(stderr, "tyto ask: %s", text_at(error, "message"));
    if (*text_at(error, "code")) fprintf(stderr, " [%s]", text_at(error, "code"));
    fputc('\n', stderr);
}

static void keep(json_t **slot, json_t *value) {
    if (!json_is_object(value)) return;
    json_decref(*slot);
    *slot = json_incref(value);
}

static void on_event(void *ctx, const char *data, size_t len) {
    stream *s = ctx;
    if (len == 6 && memcmp(data, "[DONE]", 6) == 0) {
        s->done = true;
        return;
    }
    json_t *chunk = json_loadb(data, len, 0, NULL);
    json_t *error = json_object_get(chunk, "error");
    json_t *choice = json_array_get(json_object_get(chunk, "choices"), 0);
    const char *text = text_at(json_object_get(choice, "delta"), "content");
    if (error) {
        print_error(error);
        s->failed = true;
    }
    if (*text) {
        s->any = true;
        fputs(text, stdout);
        fflush(stdout);
    }
    if (*text_at(choice, "finish_reason"))
        snprintf(s->finish, sizeof(s->finish), "%s", text_at(choice, "finish_reason"));
    keep(&s->timings, json_object_get(chunk, "timings"));
    keep(&s->usage, json_object_get(chunk, "usage"));
    json_decref(chunk);
}

static bool on_data(void *ctx, const char *data, size_t len) {
    stream *s = ctx;
    return http_sse_feed(&s->sse, data, len) == TY_OK;
}

static void print_stage(const json_t *t) {
    double queue = number_at(t, "broker_queue_ms") + number_at(t, "worker_queue_ms");
    double wire = number_at(t, "wire_ms") + number_at(t, "return_ms");
    fprintf(stderr, "  %-11s %-13s %9.2f %9.2f %9.2f %6d %8d%s\n", text_at(t, "stage"),
            text_at(t, "worker"), queue, number_at(t, "compute_ms"), wire,
            (int)number_at(t, "batch"), (int)number_at(t, "attempt"),
            strcmp(text_at(t, "cache"), "hit") == 0 ? "  from the cache" : "");
}

static void print_receipt(const stream *s) {
    size_t i;
    json_t *t;
    if (!s->timings) return;
    fprintf(stderr, "  %-11s %-13s %9s %9s %9s %6s %8s\n", "stage", "worker", "queue ms", "compute",
            "wire", "batch", "attempt");
    json_array_foreach(json_object_get(s->timings, "stages"), i, t) print_stage(t);
    fprintf(stderr, "  %-11s %9.1f ms, first token after %.1f ms", "whole request",
            number_at(s->timings, "wall_ms"), number_at(s->timings, "ttft_ms"));
    if (s->usage)
        fprintf(stderr, "; %d prompt + %d new tokens, finish: %s",
                (int)number_at(s->usage, "prompt_tokens"),
                (int)number_at(s->usage, "completion_tokens"), s->finish);
    fputc('\n', stderr);
}

/* ---- the calls ---- */

static ty_status refused(const http_reply *reply, const char *url, ty_err *err) {
    json_t *body = reply->body.data ? json_loadb(reply->body.data, reply->body.len, 0, NULL) : NULL;
    const char *text = text_at(json_object_get(body, "error"), "message");
    ty_status st = ty_fail(err, TY_EIO, "%s answers %d: %s", url, reply->status,
                           *text ? text : (reply->body.data ? reply->body.data : ""));
    json_decref(body);
    return st;
}

/* The first model that the service lists. */
static ty_status first_model(const options *o, char *model, size_t size, ty_err *err) {
    char url[1024];
    http_reply reply;
    snprintf(url, sizeof(url), "%s/v1/models", o->url);
    http_call call = {.url = url, .bearer = o->api_key};
    ty_status st = http_client_call(&call, &reply, err);
    if (st == TY_OK && reply.status != 200) st = refused(&reply, url, err);
    json_t *list = st == TY_OK
                       ? json_loadb(reply.body.data ? reply.body.data : "", reply.body.len, 0, NULL)
                       : NULL;
    const json_t *one = json_array_get(json_object_get(list, "data"), 0);
    snprintf(model, size, "%s", text_at(one, "id"));
    if (st == TY_OK && !*model) st = ty_fail(err, TY_ENOTFOUND, "%s lists no model", url);
    json_decref(list);
    ty_buf_clear(&reply.body);
    return st;
}

static ty_status post(const options *o, const char *body, stream *s, ty_err *err) {
    char url[1024];
    http_reply reply;
    snprintf(url, sizeof(url), "%s/v1/chat/completions", o->url);
    http_call call = {.url = url,
                      .body = body,
                      .bearer = o->api_key,
                      .timeout_ms = o->timeout * 1000,
                      .on_data = on_data,
                      .ctx = s};
    ty_status st = http_client_call(&call, &reply, err);
    if (st == TY_OK && reply.status != 200) st = refused(&reply, url, err);
    ty_buf_clear(&reply.body);
    if (s->any) putchar('\n');
    (void)fflush(stdout); /* before the receipt on stderr */
    if (st == TY_OK && s->failed) return ty_fail(err, TY_EIO, "the answer is not complete");
    if (st == TY_OK && !s->done)
        return ty_fail(err, TY_EIO, "%s: the stream ended before [DONE]", url);
    return st;
}

static ty_status ask(const options *o, const ty_option *table, ty_err *err) {
    char model[512] = "", *body = NULL;
    stream s = {.sse = {.line = ty_buf_make(EVENT_BYTES_MAX), .on_event = on_event}};
    s.sse.ctx = &s;
    ty_status st = TY_OK;
    if (o->model)
        snprintf(model, sizeof(model), "%s", o->model);
    else
        st = first_model(o, model, sizeof(model), err);
    if (st == TY_OK) st = build_body(o, table, model, &body, err);
    if (st == TY_OK) st = post(o, body, &s, err);
    if (st == TY_OK && !o->quiet) print_receipt(&s);
    free(body);
    ty_buf_clear(&s.sse.line);
    json_decref(s.timings);
    json_decref(s.usage);
    return st;
}

static options opt;
static const ty_option table[] = {
    TY_OPT_STR("url", "TYTO_URL", opt.url, "http://127.0.0.1:8080", "URL", "the service"),
    TY_OPT_STR("model", NULL, opt.model, NULL, "NAME", "the first that the service lists"),
    TY_OPT_LIST("image", opt.image, "FILE", "JPEG, PNG or WebP; may repeat; \"-\" is stdin"),
    TY_OPT_LIST("video", opt.video, "FILE",
                "GIF, animated WebP, AVI, MP4 or Matroska, after the pictures; may repeat"),
    TY_OPT_STR("prompt", NULL, opt.prompt, NULL, "TEXT", "the question"),
    TY_OPT_STR("system", NULL, opt.system, NULL, "TEXT", "system message (replaces the preamble)"),
    ASK_OPTIONS(opt.ask),
    TY_OPT_STR("api-key", "TYTO_API_KEY", opt.api_key, NULL, "KEY", "when the service wants one"),
    TY_OPT_INT("timeout", NULL, opt.timeout, 600, 1, 86400, "seconds without a byte"),
    TY_OPT_FLAG("quiet", NULL, opt.quiet, "no receipt"),
    TY_OPT_END};

int cmd_ask(int argc, char **argv) {
    ty_options_next next = ty_options_parse(
        table, "tyto ask [--url URL] [--image FILE] --prompt TEXT",
        "Asks a running service one question over its HTTP API.  The answer goes to stdout, the "
        "receipt to stderr.",
        argc, argv, NULL);
    if (next != TY_OPTIONS_GO) return next == TY_OPTIONS_DONE ? 0 : 2;
    if (!opt.prompt) {
        fprintf(stderr, "tyto ask: --prompt TEXT is missing\n");
        return 2;
    }
    ty_err err = {0};
    ty_status st = ask(&opt, table, &err);
    if (st != TY_OK) fprintf(stderr, "tyto ask: %s\n", err.text);
    return st == TY_OK ? 0 : 1;
}
