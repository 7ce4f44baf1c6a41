/*
 * eval.c - `tyto eval owlet`: puts an exam to a running service over its HTTP API, several questions at a time,
 * and marks the answers.  A question of several turns is asked turn by turn, with the model's own answers
 * between them.  With --blank every picture is a grey one: what is still right then did not come from the pictures.
 */
#include "orchestration/commands.h"
#include "orchestration/http_client.h"
#include "orchestration/picture_url.h"

#include "common/base/file.h"
#include "common/base/options.h"
#include "eval/exam.h"
#include "eval/exam_page.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    const char *exam, *url, *model, *api_key, *page, *json;
    int limit, at_once, max_tokens, timeout;
    bool blank;
} opt;

static const ty_option table[] = {
    TY_OPT_STR("exam", NULL, opt.exam, NULL, "FILE",
               "exam.jsonl, its pictures beside it (owlet-data makes one)"),
    TY_OPT_STR("url", "TYTO_URL", opt.url, "http://127.0.0.1:8080", "URL", "the service"),
    TY_OPT_STR("model", NULL, opt.model, NULL, "NAME",
               "one of /v1/models; must be given when there are several"),
    TY_OPT_STR("api-key", "TYTO_API_KEY", opt.api_key, NULL, "KEY", "if the service wants one"),
    TY_OPT_INT("limit", NULL, opt.limit, 0, 0, 1 << 24, "ask the first N questions; 0 = all"),
    TY_OPT_INT("at-once", NULL, opt.at_once, 8, 1, 256, "questions under way at the same time"),
    TY_OPT_INT("max-tokens", NULL, opt.max_tokens, 64, 1, 4096, "longest answer"),
    TY_OPT_INT("timeout", NULL, opt.timeout, 300, 1, 86400,
               "seconds without a byte from the service"),
    TY_OPT_FLAG("blank", NULL, opt.blank, "every picture grey: the control"),
    TY_OPT_STR("page", NULL, opt.page, NULL, "FILE", "write an HTML page with tables and examples"),
    TY_OPT_STR("json", NULL, opt.json, NULL, "FILE", "write sums and answers as JSON"),
    TY_OPT_END,
};

/* A grey PNG of 8 x 8 pixels: a picture like any other, with nothing on it. */
static const unsigned char GREY_PNG[] = {
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48, 0x44,
    0x52, 0x00, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00, 0x08, 0x08, 0x00, 0x00, 0x00, 0x00, 0xe1,
    0x64, 0xe1, 0x57, 0x00, 0x00, 0x00, 0x0e, 0x49, 0x44, 0x41, 0x54, 0x78, 0xda, 0x63, 0x68,
    0x80, 0x02, 0x06, 0xca, 0x18, 0x00, 0x80, 0x84, 0x20, 0x01, 0x10, 0xe8, 0x6a, 0x17, 0x00,
    0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82};

typedef struct {
    exam e;
    size_t next, n;
    pthread_mutex_t lock; /* of next, of the exam's answers, of failed */
    char model[512];
    ty_err failed;
} session;

static const char *text_at(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* ---- one question ---- */

static ty_status picture_part(const session *s, const char *name, json_t **part, ty_err *err) {
    char path[8192], *url = NULL;
    snprintf(path, sizeof path, "%s/%s", s->e.folder, name);
    ty_status st = opt.blank ? picture_url_of_bytes(GREY_PNG, sizeof GREY_PNG, &url, err)
                             : picture_url_of_file(path, &url, err);
    *part = st == TY_OK ? json_pack("{s:s, s:{s:s}}", "type", "image_url", "image_url", "url", url)
                        : NULL;
    free(url);
    return st;
}

/* The first user message has the pictures. */
static ty_status first_content(const session *s, const json_t *q, const char *text,
                               json_t **content, ty_err *err) {
    size_t i;
    json_t *name, *part;
    ty_status st = TY_OK;
    *content = json_array();
    json_array_foreach(json_object_get(q, "image"), i, name) {
        st = picture_part(s, json_string_value(name), &part, err);
        if (st != TY_OK) return st;
        json_array_append_new(*content, part);
    }
    json_array_append_new(*content, json_pack("{s:s, s:s}", "type", "text", "text", text));
    return TY_OK;
}

/* Sends the messages; *answer: free() it. */
static ty_status converse(const session *s, const json_t *messages, char **answer, ty_err *err) {
    char url[1024];
    http_reply reply = {0};
    json_t *r = json_pack("{s:s, s:O, s:i, s:i}", "model", s->model, "messages", messages,
                          "max_tokens", opt.max_tokens, "temperature", 0);
    char *body = r ? json_dumps(r, JSON_COMPACT) : NULL;
    json_decref(r);
    if (!body) return ty_fail(err, TY_ENOMEM, "out of memory for a request");
    snprintf(url, sizeof url, "%s/v1/chat/completions", opt.url);
    http_call call = {
        .url = url, .body = body, .bearer = opt.api_key, .timeout_ms = opt.timeout * 1000};
    ty_status st = http_client_call(&call, &reply, err);
    free(body);
    json_t *o = st == TY_OK
                    ? json_loadb(reply.body.data ? reply.body.data : "", reply.body.len, 0, NULL)
                    : NULL;
    const json_t *choice = json_array_get(json_object_get(o, "choices"), 0);
    const char *text =
        json_string_value(json_object_get(json_object_get(choice, "message"), "content"));
    if (st == TY_OK && (reply.status != 200 || !text))
        st = ty_fail(err, TY_EIO, "%s answers %d: %s", url, reply.status,
                     text_at(json_object_get(o, "error"), "message"));
    if (st == TY_OK) *answer = strdup(text);
    if (st == TY_OK && !*answer) st = ty_fail(err, TY_ENOMEM, "out of memory for an answer");
    json_decref(o);
    ty_buf_clear(&reply.body);
    return st;
}

static ty_status ask(session *s, size_t i, ty_err *err) {
    json_t *q = json_array_get(s->e.questions, i), *turns = json_object_get(q, "turns"),
           *messages = json_array();
    size_t n = json_array_size(turns);
    ty_status st = TY_OK;
    for (size_t k = 0; k < n && st == TY_OK; k++) {
        json_t *turn = json_array_get(turns, k), *content = NULL;
        char *answer = NULL;
        if (k == 0)
            st = first_content(s, q, text_at(turn, "question"), &content, err);
        else
            content = json_string(text_at(turn, "question"));
        json_array_append_new(messages,
                              json_pack("{s:s, s:o}", "role", "user", "content", content));
        if (st == TY_OK) st = converse(s, messages, &answer, err);
        if (st == TY_OK)
            json_array_append_new(messages,
                                  json_pack("{s:s, s:s}", "role", "assistant", "content", answer));
        pthread_mutex_lock(&s->lock);
        if (st == TY_OK && k < n - 1) json_object_set_new(turn, "given", json_string(answer));
        if (st == TY_OK && k == n - 1) st = exam_mark(&s->e, i, answer, err);
        pthread_mutex_unlock(&s->lock);
        free(answer);
    }
    json_decref(messages);
    return st;
}

/* ---- all of them ---- */

static void *examiner(void *ctx) {
    session *s = ctx;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        bool done = s->next >= s->n || s->failed.code != TY_OK;
        size_t i = s->next++;
        pthread_mutex_unlock(&s->lock);
        if (done) return NULL;
        ty_err err = {0};
        ty_status st = ask(s, i, &err);
        pthread_mutex_lock(&s->lock);
        if (st != TY_OK && s->failed.code == TY_OK) {
            s->failed = err;
            ty_err_context(&s->failed, "question %zu", i + 1);
        }
        if (isatty(2)) fprintf(stderr, "\r%zu of %zu", i + 1, s->n);
        pthread_mutex_unlock(&s->lock);
    }
}

static ty_status ask_all(session *s, ty_err *err) {
    pthread_t thread[256];
    int n = 0;
    while (n < opt.at_once && pthread_create(&thread[n], NULL, examiner, s) == 0) n++;
    if (n == 0) examiner(s);
    for (int i = 0; i < n; i++) pthread_join(thread[i], NULL);
    if (isatty(2)) fputc('\n', stderr);
    if (s->failed.code != TY_OK && err) *err = s->failed;
    return s->failed.code;
}

static ty_status choose_model(session *s, ty_err *err) {
    char url[1024];
    http_reply reply = {0};
    snprintf(s->model, sizeof s->model, "%s", opt.model ? opt.model : "");
    if (opt.model) return TY_OK;
    snprintf(url, sizeof url, "%s/v1/models", opt.url);
    ty_status st = http_client_call(&(http_call){.url = url, .bearer = opt.api_key}, &reply, err);
    json_t *o = st == TY_OK
                    ? json_loadb(reply.body.data ? reply.body.data : "", reply.body.len, 0, NULL)
                    : NULL;
    const json_t *list = json_object_get(o, "data");
    if (st == TY_OK && json_array_size(list) != 1)
        st = ty_fail(err, TY_EINVAL, "%s lists %zu models: choose one with --model", url,
                     json_array_size(list));
    if (st == TY_OK)
        snprintf(s->model, sizeof s->model, "%s", text_at(json_array_get(list, 0), "id"));
    json_decref(o);
    ty_buf_clear(&reply.body);
    return st;
}

/* ---- what came out ---- */

static void print_line(const char *name, const json_t *sum) {
    printf("%-12s %6d %7.1f %%   (guessing %.1f %%)\n", name,
           (int)json_integer_value(json_object_get(sum, "asked")),
           100 * json_number_value(json_object_get(sum, "share")),
           100 * json_number_value(json_object_get(sum, "guess")));
}

static void print_sum(const json_t *sum) {
    const char *name;
    size_t i;
    json_t *ability, *c;
    printf("%-12s %6s %9s\n", "ability", "asked", "right");
    json_object_foreach(json_object_get(sum, "abilities"), name, ability) print_line(name, ability);
    print_line("all", sum);
    json_array_foreach(json_object_get(sum, "confusions"), i, c) {
        if (i == 0) printf("most confused:\n");
        if (i == 10) break;
        printf("  %s %s: %s for %s, %d times\n", text_at(c, "ability"), text_at(c, "language"),
               text_at(c, "answered"), text_at(c, "expected"),
               (int)json_integer_value(json_object_get(c, "n")));
    }
}

static ty_status report(const session *s, ty_err *err) {
    char title[700];
    ty_status st = TY_OK;
    json_t *sum = exam_sum(&s->e);
    if (!sum) return ty_fail(err, TY_ENOMEM, "out of memory for the sums");
    print_sum(sum);
    snprintf(title, sizeof title, "%s: %d questions%s", s->model,
             (int)json_integer_value(json_object_get(sum, "asked")),
             opt.blank ? ", every picture blank" : "");
    if (opt.page) st = exam_page_write(&s->e, sum, title, opt.page, err);
    if (st == TY_OK && opt.json) {
        json_t *all = json_pack("{s:s, s:b, s:O, s:O}", "model", s->model, "blank", opt.blank,
                                "sum", sum, "questions", s->e.questions);
        char *text = all ? json_dumps(all, JSON_INDENT(1)) : NULL;
        st = text ? ty_file_write_atomic(opt.json, text, strlen(text), err)
                  : ty_fail(err, TY_ENOMEM, "out of memory for %s", opt.json);
        free(text);
        json_decref(all);
    }
    json_decref(sum);
    return st;
}

int cmd_eval(int argc, char **argv) {
    static session s = {.lock = PTHREAD_MUTEX_INITIALIZER};
    int rest = argc;
    ty_options_next next = ty_options_parse(
        table, "tyto eval owlet --exam FILE [--url URL]",
        "Puts an exam to a running service and marks the answers by ability.", argc, argv, &rest);
    if (next != TY_OPTIONS_GO) return next == TY_OPTIONS_DONE ? 0 : 2;
    if (rest != argc - 1 || strcmp(argv[rest], "owlet") != 0 || !opt.exam) {
        fprintf(
            stderr,
            "tyto eval: say which, and give its questions: tyto eval owlet --exam exam.jsonl\n");
        return 2;
    }
    ty_err err = {0};
    ty_status st = exam_read(&s.e, opt.exam, &err);
    if (st == TY_OK) {
        s.n = json_array_size(s.e.questions);
        if (opt.limit && (size_t)opt.limit < s.n) s.n = (size_t)opt.limit;
        st = choose_model(&s, &err);
    }
    if (st == TY_OK) st = ask_all(&s, &err);
    if (st == TY_OK) st = report(&s, &err);
    exam_clear(&s.e);
    if (st != TY_OK) fprintf(stderr, "tyto eval: %s\n", err.text);
    return st == TY_OK ? 0 : 1;
}
