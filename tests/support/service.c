/* service.c - see service.h. */
#include "tests/support/ty_test.h"

#include "tests/support/service.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "orchestration/http_client.h"
#include "tests/support/process.h"

#include <errno.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { READY_S = 120, STOP_S = 60, ANSWER_MS = 300000, ARGS_MAX = 40 };

int test_free_port(void) {
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(in);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&in, size), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &size), 0);
    close(fd);
    return ntohs(in.sin_port);
}

/* argv from a fixed part and an optional rest. */
static void join_args(char **argv, char *const *fixed, char *const *extra) {
    int n = 0;
    for (; *fixed; fixed++) argv[n++] = *fixed;
    for (; extra && *extra; extra++) {
        assert_true(n < ARGS_MAX - 1);
        argv[n++] = *extra;
    }
    argv[n] = NULL;
}

const char *test_import(const char *golden, const char *name, char *const *extra) {
    static char dirs[16][512];
    static int next;
    char *dir = dirs[next++ % 16], src[512], *argv[ARGS_MAX];
    snprintf(src, sizeof(src), "%s/%s", test_golden_dir(), golden);
    snprintf(dir, sizeof(dirs[0]), "%s/%s", test_temp_dir(), name);
    char *const fixed[] = {(char *)test_bin("tyto"), (char *)"import", src, dir, NULL};
    join_args(argv, fixed, extra);
    test_output o = test_run(argv, NULL, 0, 120);
    if (o.exit_code != 0) fail_msg("import %s: %d\n%s%s", src, o.exit_code, o.out, o.err);
    test_output_clear(&o);
    return dir;
}

const char *test_synth(const char *name, const char *llm, const char *vit, const char *vit_layers) {
    static char dir[512];
    snprintf(dir, sizeof(dir), "%s/%s", test_temp_dir(), name);
    test_output o = TEST_RUN((char *)test_bin("tyto"), (char *)"synth", dir, (char *)"--llm",
                             (char *)llm, (char *)"--vit", (char *)vit, (char *)"--vit-layers",
                             (char *)vit_layers, (char *)"--queries", (char *)"8");
    if (o.exit_code != 0) fail_msg("tyto synth: %s%s", o.out, o.err);
    test_output_clear(&o);
    return dir;
}

static void show_log(const char *path) {
    char *text = NULL;
    size_t n = 0;
    if (ty_file_read(path, 1 << 20, &text, &n, NULL) == TY_OK) print_error("%s:\n%s\n", path, text);
    free(text);
}

static bool is_ready(const test_service *s) {
    json_t *all = test_service_status(s);
    const char *state = json_string_value(json_object_get(all, "state"));
    bool ready = state && strcmp(state, "ready") == 0;
    json_decref(all);
    return ready;
}

static void wait_ready(test_service *s) {
    for (int64_t until = ty_now_us() + READY_S * 1000000LL; ty_now_us() < until;) {
        if (is_ready(s)) return;
        if (waitpid(s->pid, NULL, WNOHANG) == s->pid) break;
        test_nap_ms(20);
    }
    show_log(s->log);
    fail_msg("`tyto up` is not ready");
}

void test_service_again(test_service *s, const char *pipeline, char *const *extra) {
    char listen[64], *argv[ARGS_MAX];
    snprintf(listen, sizeof(listen), "127.0.0.1:%d", s->port);
    char *const fixed[] = {(char *)test_bin("tyto"), (char *)"up",       (char *)"--pipeline",
                           (char *)pipeline,         (char *)"--listen", listen,
                           (char *)"--state",        s->state,           NULL};
    join_args(argv, fixed, extra);
    s->pid = test_spawn(argv, s->log);
    wait_ready(s);
}

test_service test_service_up(const char *pipeline, char *const *extra) {
    test_service s = {.port = test_free_port()};
    snprintf(s.state, sizeof(s.state), "%s/state", test_temp_dir());
    snprintf(s.log, sizeof(s.log), "%s.up.log", s.state);
    snprintf(s.url, sizeof(s.url), "http://127.0.0.1:%d", s.port);
    test_service_again(&s, pipeline, extra);
    return s;
}

void test_service_down(test_service *s) {
    int rc = test_stop(s->pid, SIGTERM, STOP_S);
    if (rc != 0) show_log(s->log);
    assert_int_equal(rc, 0);
    s->pid = 0;
}

json_t *test_service_status(const test_service *s) {
    test_output o = TEST_RUN((char *)test_bin("tyto"), (char *)"status", (char *)"--json",
                             (char *)"--state", (char *)s->state);
    json_t *all = o.exit_code == 0 ? json_loads(o.out, 0, NULL) : NULL;
    test_output_clear(&o);
    return all;
}

pid_t test_service_pid(const test_service *s, const char *name, int *restarts) {
    json_t *all = test_service_status(s), *p;
    size_t i;
    pid_t pid = 0;
    json_array_foreach(json_object_get(all, "processes"), i, p) {
        if (strcmp(json_string_value(json_object_get(p, "name")), name) != 0) continue;
        pid = (pid_t)json_integer_value(json_object_get(p, "pid"));
        if (restarts) *restarts = (int)json_integer_value(json_object_get(p, "restarts"));
    }
    json_decref(all);
    return pid;
}

/* ---- questions ---- */

typedef struct {
    const char *url;
    test_question *q;
    int n;
    atomic_int next;
    pthread_barrier_t start;
    pthread_t thread[256];
} asking;

typedef struct {
    test_question *q;
    http_sse sse;
    ty_buf text, logprobs;
} listener;

static void take_logprobs(ty_buf *out, const json_t *choice) {
    json_t *entries = json_object_get(json_object_get(choice, "logprobs"), "content"), *e;
    size_t i;
    json_array_foreach(entries, i, e) {
        (void)ty_buf_printf(out, "%s %.9g\n", json_string_value(json_object_get(e, "token")),
                            json_real_value(json_object_get(e, "logprob")));
    }
}

static void take_json(listener *l, const json_t *reply, const char *where) {
    test_question *q = l->q;
    const json_t *choice = json_array_get(json_object_get(reply, "choices"), 0);
    const char *piece =
        json_string_value(json_object_get(json_object_get(choice, where), "content"));
    if (piece && *piece) {
        (void)ty_buf_puts(&l->text, piece);
        q->pieces++;
    }
    take_logprobs(&l->logprobs, choice);
    if (json_is_string(json_object_get(choice, "finish_reason"))) q->finishes++;
    const char *id = json_string_value(json_object_get(reply, "conversation"));
    if (id) snprintf(q->conversation, sizeof(q->conversation), "%s", id);
    json_t *t = json_object_get(reply, "timings");
    if (json_is_object(t)) {
        json_decref(q->timings);
        q->timings = json_incref(t);
    }
}

static void on_event(void *ctx, const char *data, size_t len) {
    listener *l = ctx;
    json_t *chunk = json_loadb(data, len, 0, NULL);
    take_json(l, chunk, "delta");
    if (json_object_get(chunk, "error") && !l->q->raw) l->q->raw = strdup(data);
    json_decref(chunk);
}

static bool on_data(void *ctx, const char *data, size_t len) {
    listener *l = ctx;
    return http_sse_feed(&l->sse, data, len) == TY_OK;
}

/* No assertions here: this is not the test's thread. */
static void ask(const char *url, test_question *q) {
    char path[256];
    http_reply reply;
    ty_err err = {0};
    bool streamed = strstr(q->body, "\"stream\": true") != NULL;
    listener l = {.q = q, .text = ty_buf_make(1 << 24), .logprobs = ty_buf_make(1 << 24)};
    l.sse = (http_sse){.line = ty_buf_make(1 << 24), .on_event = on_event, .ctx = &l};
    snprintf(path, sizeof(path), "%s/v1/chat/completions", url);
    http_call call = {.url = path, .body = q->body, .timeout_ms = ANSWER_MS, .ctx = &l};
    if (streamed) call.on_data = on_data;
    ty_status st = http_client_call(&call, &reply, &err);
    q->status = st == TY_OK ? reply.status : 0;
    if (st == TY_OK && reply.status == 200 && !streamed) {
        json_t *whole = json_loadb(reply.body.data, reply.body.len, 0, NULL);
        take_json(&l, whole, "message");
        json_decref(whole);
    } else if (st != TY_OK || reply.status != 200) {
        q->raw = strdup(st != TY_OK ? err.text : reply.body.data ? reply.body.data : "");
    }
    q->text = ty_buf_take(&l.text);
    q->logprobs = ty_buf_take(&l.logprobs);
    ty_buf_clear(&l.text);
    ty_buf_clear(&l.logprobs);
    ty_buf_clear(&l.sse.line);
    ty_buf_clear(&reply.body);
    q->done = true;
}

static void *ask_one(void *ctx) {
    asking *a = ctx;
    int i = atomic_fetch_add(&a->next, 1);
    (void)pthread_barrier_wait(&a->start);
    ask(a->url, &a->q[i]);
    return NULL;
}

void *test_ask_begin(const test_service *s, test_question *q, int n) {
    asking *a = calloc(1, sizeof(*a));
    assert_non_null(a);
    assert_true(n <= 256);
    a->url = s->url;
    a->q = q;
    a->n = n;
    assert_int_equal(pthread_barrier_init(&a->start, NULL, (unsigned)n), 0);
    for (int i = 0; i < n; i++)
        assert_int_equal(pthread_create(&a->thread[i], NULL, ask_one, a), 0);
    return a;
}

void test_ask_join(void *handle) {
    asking *a = handle;
    for (int i = 0; i < a->n; i++) assert_int_equal(pthread_join(a->thread[i], NULL), 0);
    pthread_barrier_destroy(&a->start);
    free(a);
}

void test_ask_all(const test_service *s, test_question *q, int n) {
    test_ask_join(test_ask_begin(s, q, n));
}

void test_question_clear(test_question *q) {
    free(q->text);
    free(q->logprobs);
    free(q->raw);
    json_decref(q->timings);
    *q = (test_question){.body = q->body};
}

int test_receipt_max(const json_t *timings, const char *stage, const char *key) {
    json_t *t;
    size_t i;
    int most = 0;
    json_array_foreach(json_object_get(timings, "stages"), i, t) {
        const char *name = json_string_value(json_object_get(t, "stage"));
        int v = (int)json_integer_value(json_object_get(t, key));
        if (name && strcmp(name, stage) == 0 && v > most) most = v;
    }
    return most;
}

json_t *test_image_part(const char *path) {
    char *file = NULL;
    size_t size = 0;
    ty_err e = {0};
    if (ty_file_read(path, 1 << 24, &file, &size, &e) != TY_OK) fail_msg("%s", e.text);
    char *url = malloc(4 * ((size + 2) / 3) + 64);
    assert_non_null(url);
    int n = sprintf(url, "data:image/jpeg;base64,");
    EVP_EncodeBlock((unsigned char *)url + n, (const unsigned char *)file, (int)size);
    json_t *part = json_pack("{s:s, s:{s:s}}", "type", "image_url", "image_url", "url", url);
    free(url);
    free(file);
    return part;
}

char *test_run_raw(const char *pipeline, const char *prompt, const char *const *images, int n,
                   int max_tokens) {
    char most[16];
    snprintf(most, sizeof(most), "%d", max_tokens);
    const char *argv[ARGS_MAX] = {test_bin("tyto"), "run",    "--pipeline",   pipeline, "--raw",
                                  prompt,           "--json", "--max-tokens", most};
    int k = 9;
    for (int i = 0; i < n; i++) {
        assert_true(k + 2 < ARGS_MAX);
        argv[k++] = "--image";
        argv[k++] = images[i];
    }
    test_output o = test_run((char *const *)argv, NULL, 0, 60);
    if (o.exit_code != 0) fail_msg("tyto run: %s", o.err);
    json_t *j = json_loads(o.out, 0, NULL);
    const char *text = json_string_value(json_object_get(j, "text"));
    if (!text) fail_msg("tyto run: %s", o.out);
    char *copy = strdup(text);
    json_decref(j);
    test_output_clear(&o);
    return copy;
}

char *test_request(const char *model, const char *text, const char *picture, const char *more) {
    char *bytes = NULL, *body;
    size_t size = 0;
    ty_err err = {0};
    if (picture && ty_file_read(picture, 1 << 24, &bytes, &size, &err) != TY_OK)
        fail_msg("%s", err.text);
    size_t room = 4 * ((size + 2) / 3) + strlen(text) + strlen(more) + strlen(model) + 512;
    assert_non_null(body = malloc(room));
    int n = snprintf(body, room,
                     "{\"model\": \"%s\", %s%s\"messages\": [{\"role\": \"user\", "
                     "\"content\": [",
                     model, more, *more ? ", " : "");
    if (picture) {
        n += snprintf(
            body + n, room - (size_t)n,
            "{\"type\": \"image_url\", \"image_url\": {\"url\": \"data:image/jpeg;base64,");
        n += EVP_EncodeBlock((unsigned char *)body + n, (unsigned char *)bytes, (int)size);
        n += snprintf(body + n, room - (size_t)n, "\"}}, ");
    }
    snprintf(body + n, room - (size_t)n, "{\"type\": \"text\", \"text\": \"%s\"}]}]}", text);
    free(bytes);
    return body;
}
