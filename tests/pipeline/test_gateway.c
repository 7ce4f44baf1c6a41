/*
 * The gateway with real processes behind it: broker, four stages, v1-micro imported into a temporary
 * directory.  The answers must be those of `tyto run`, alone, streamed and among others; what is wrong must be
 * a typed error; what nobody wants any more must be gone everywhere.
 */
#include "tests/support/http_client.h"
#include "tests/support/process.h"
#include "tests/support/service.h"
#include "tests/support/ty_test.h"

#include "common/base/buf.h"
#include "common/base/file.h"

#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* String literals are const; exec* takes them as they are. */
#define ARGV(...) ((char *const *)(const char *const[]){__VA_ARGS__, NULL})

enum { READY_S = 60, AT_ONCE = 8 };

static const char *const stages[] = {"preprocess", "vit", "abstractor", "decoder"};
static pid_t broker, worker[4], gateway;
static char dir[256], pipeline[300], gateways_at[300], workers_at[300];
static int port;

/* ---- processes ---- */

static const char *picture(const char *name) {
    return test_path("%s/images/%s", test_golden_dir(), name);
}

static void start_broker(void) {
    broker = test_spawn(
        ARGV(test_bin("tyto-broker"), "--gateways", gateways_at, "--workers", workers_at),
        test_path("%s/broker.log", dir));
}

static void start_worker(int k) {
    char model[400], name[32];
    snprintf(model, sizeof(model), "%s/%s.gguf", pipeline, stages[k]);
    snprintf(name, sizeof(name), "%s.0", stages[k]);
    worker[k] =
        test_spawn(ARGV(test_bin(test_path("tyto-%s", stages[k])), "--model", model, "--connect",
                        workers_at, "--worker", name, "--pipeline", "v1-micro"),
                   test_path("%s/%s.log", dir, stages[k]));
}

/* A gateway at any port; `more` are further options. */
static pid_t spawn_gateway(const char *name, const char *const *more, int *at_port) {
    char file[300];
    snprintf(file, sizeof(file), "%s/%s.port", dir, name);
    (void)unlink(file);
    const char *argv[24] = {test_bin("tyto-gateway"),
                            "--name",
                            name,
                            "--pipeline",
                            pipeline,
                            "--connect",
                            gateways_at,
                            "--listen",
                            "127.0.0.1:0",
                            "--port-file",
                            file};
    for (int k = 11; more && *more; k++) argv[k] = *more++;
    pid_t pid = test_spawn((char *const *)argv, test_path("%s/%s.log", dir, name));
    *at_port = 0;
    for (int i = 0; i < READY_S * 50 && !*at_port; i++) {
        char *text = NULL;
        size_t size = 0;
        if (ty_file_read(file, 64, &text, &size, NULL) == TY_OK) *at_port = atoi(text);
        free(text);
        if (!*at_port) test_nap_ms(20);
    }
    assert_true(*at_port > 0);
    return pid;
}

static void start_gateway(void) {
    gateway = spawn_gateway("gateway.0", NULL, &port);
}

static void wait_ready_at(int at_port) {
    test_reply r = {0};
    for (int i = 0; i < READY_S * 50; i++) {
        r = TEST_GET(at_port, "/readyz");
        if (r.status == 200) break;
        if (i + 1 == READY_S * 50) fail_msg("not ready: %s", r.body);
        test_reply_clear(&r);
        test_nap_ms(20);
    }
    test_reply_clear(&r);
}

static void wait_ready(void) {
    wait_ready_at(port);
}

static int start_all(void **state) {
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    snprintf(dir, sizeof(dir), "%s", test_temp_dir());
    snprintf(pipeline, sizeof(pipeline), "%s/v1-micro", dir);
    snprintf(gateways_at, sizeof(gateways_at), "ipc://%s/g.sock", dir);
    snprintf(workers_at, sizeof(workers_at), "ipc://%s/w.sock", dir);
    test_output o = test_run(
        ARGV(test_bin("tyto"), "import", test_path("%s/v1-micro", test_golden_dir()), pipeline),
        NULL, 0, 60);
    if (o.exit_code != 0) print_error("import: %s\n", o.err);
    int rc = o.exit_code;
    test_output_clear(&o);
    if (rc != 0) return -1;
    start_broker();
    for (int k = 0; k < 4; k++) start_worker(k);
    start_gateway();
    wait_ready();
    return 0;
}

/* SIGTERM ends every process in order, with exit code 0. */
static int stop_all(void **state) {
    (void)state;
    int bad = test_stop(gateway, SIGTERM, 30) != 0;
    for (int k = 0; k < 4; k++) bad += test_stop(worker[k], SIGTERM, 30) != 0;
    bad += test_stop(broker, SIGTERM, 30) != 0;
    if (bad) print_error("%d processes did not end with 0\n", bad);
    return bad ? -1 : 0;
}

/* ---- requests ---- */

/* Pictures (may be NULL) and then the text, in one user turn. */
static json_t *request(const char *image, const char *text, int max_tokens) {
    json_t *content = json_array();
    if (image) json_array_append_new(content, test_image_part(image));
    json_array_append_new(content, json_pack("{s:s, s:s}", "type", "text", "text", text));
    return json_pack("{s:s, s:[{s:s, s:o}], s:i}", "model", "v1-micro", "messages", "role", "user",
                     "content", content, "max_tokens", max_tokens);
}

static test_reply post(json_t *body) {
    char *text = json_dumps(body, JSON_COMPACT);
    assert_non_null(text);
    test_reply r = TEST_POST(port, "/v1/chat/completions", text);
    free(text);
    json_decref(body);
    return r;
}

static json_t *parse(test_reply *r, int status) {
    if (r->status != status) fail_msg("status %d, want %d: %s", r->status, status, r->body);
    json_error_t e;
    json_t *j = json_loads(r->body, 0, &e);
    if (!j) fail_msg("%s: %s", e.text, r->body);
    test_reply_clear(r);
    return j;
}

static json_t *at(json_t *j, const char *path) {
    char copy[128], *save = NULL;
    snprintf(copy, sizeof(copy), "%s", path);
    for (char *p = strtok_r(copy, "/", &save); p && j; p = strtok_r(NULL, "/", &save))
        j = json_is_array(j) ? json_array_get(j, (size_t)atoi(p)) : json_object_get(j, p);
    if (!j) fail_msg("no %s", path);
    return j;
}

static const char *answer_of(json_t *j) {
    return json_string_value(at(j, "choices/0/message/content"));
}

/* What `tyto run` answers; free it. */
static char *expected(const char *image, const char *text, int max_tokens, const char *beams) {
    char n[16];
    snprintf(n, sizeof(n), "%d", max_tokens);
    const char *argv[20] = {test_bin("tyto"), "run", "--pipeline", pipeline, "--prompt", text,
                            "--max-tokens",   n,     "--json"};
    int k = 9;
    if (image) argv[k++] = "--image", argv[k++] = image;
    if (beams) argv[k++] = "--num-beams", argv[k++] = beams;
    test_output o = test_run((char *const *)argv, NULL, 0, 60);
    if (o.exit_code != 0) fail_msg("tyto run: %s", o.err);
    json_t *j = json_loads(o.out, 0, NULL);
    assert_non_null(j);
    char *answer = strdup(json_string_value(at(j, "text")));
    assert_non_null(answer);
    json_decref(j);
    test_output_clear(&o);
    return answer;
}

static long long stage_number(json_t *j, const char *stage, const char *key) {
    long long most = -1;
    size_t i;
    json_t *s;
    json_array_foreach(at(j, "timings/stages"), i, s) {
        if (strcmp(json_string_value(at(s, "stage")), stage) != 0) continue;
        long long v = json_integer_value(at(s, key));
        if (v > most) most = v;
    }
    return most;
}

/* ---- tests ---- */

static void models_are_listed(void **state) {
    (void)state;
    test_reply r = TEST_GET(port, "/v1/models");
    json_t *j = parse(&r, 200);
    assert_string_equal(json_string_value(at(j, "object")), "list");
    assert_string_equal(json_string_value(at(j, "data/0/id")), "v1-micro");
    assert_int_equal(strlen(json_string_value(at(j, "data/0/tyto/stages/vit"))), 32);
    json_decref(j);
    r = TEST_GET(port, "/v1/models/v1-micro");
    j = parse(&r, 200);
    assert_string_equal(json_string_value(at(j, "object")), "model");
    json_decref(j);
    r = TEST_GET(port, "/v1/models/other");
    j = parse(&r, 404);
    assert_string_equal(json_string_value(at(j, "error/code")), "model_not_found");
    json_decref(j);
}

static void answers_are_those_of_tyto_run(void **state) {
    (void)state;
    const char *text = "What is in the picture?";
    char *want = expected(picture("photo_9.jpg"), text, 24, NULL);
    test_reply r = post(request(picture("photo_9.jpg"), text, 24));
    json_t *j = parse(&r, 200);
    assert_string_equal(answer_of(j), want);
    assert_string_equal(json_string_value(at(j, "object")), "chat.completion");
    assert_string_equal(json_string_value(at(j, "model")), "v1-micro");
    assert_true(json_integer_value(at(j, "usage/prompt_tokens_details/visual_tokens")) > 0);
    for (int k = 0; k < 4; k++) assert_int_equal(stage_number(j, stages[k], "attempt"), 1);
    double wall = json_real_value(at(j, "timings/wall_ms"));
    assert_true(wall > 0 && wall >= json_real_value(at(j, "timings/ttft_ms")));
    json_decref(j);
    free(want);
}

static void beams_answer_as_tyto_run_does(void **state) {
    (void)state;
    const char *text = "Describe it.";
    char *want = expected(picture("photo_47.jpg"), text, 16, "3");
    json_t *body = request(picture("photo_47.jpg"), text, 16);
    json_object_set_new(body, "num_beams", json_integer(3));
    test_reply r = post(body);
    json_t *j = parse(&r, 200);
    assert_string_equal(answer_of(j), want);
    json_decref(j);
    free(want);
}

static void text_alone_skips_vision(void **state) {
    (void)state;
    char *want = expected(NULL, "Who are you?", 16, NULL);
    test_reply r = post(request(NULL, "Who are you?", 16));
    json_t *j = parse(&r, 200);
    assert_string_equal(answer_of(j), want);
    assert_int_equal(json_array_size(at(j, "timings/stages")), 1);
    assert_int_equal(stage_number(j, "decoder", "attempt"), 1);
    assert_int_equal(json_integer_value(at(j, "usage/prompt_tokens_details/visual_tokens")), 0);
    json_decref(j);
    free(want);
}

/* Puts the deltas of a stream together and checks its form. */
static char *read_stream(const char *body, bool usage, json_t **last) {
    ty_buf b = ty_buf_make(1 << 20);
    bool role = false, finish = false, done = false;
    *last = NULL;
    for (const char *p = body; *p;) {
        const char *end = strstr(p, "\n\n");
        assert_non_null(end);
        assert_memory_equal(p, "data: ", 6);
        p += 6;
        assert_false(done);
        if (strncmp(p, "[DONE]", 6) == 0) {
            done = true;
            p = end + 2;
            continue;
        }
        json_t *j = json_loadb(p, (size_t)(end - p), 0, NULL);
        assert_non_null(j);
        assert_string_equal(json_string_value(at(j, "object")), "chat.completion.chunk");
        json_t *choice = json_array_get(at(j, "choices"), 0);
        if (choice) {
            json_t *delta = at(choice, "delta"), *text = json_object_get(delta, "content");
            if (!role) assert_string_equal(json_string_value(at(delta, "role")), "assistant");
            role = true;
            if (text) ty_buf_append(&b, json_string_value(text), json_string_length(text));
            if (json_is_string(at(choice, "finish_reason"))) finish = true;
            if (usage) assert_true(json_is_null(at(j, "usage")));
        } else {
            assert_true(usage && finish);
            assert_true(json_integer_value(at(j, "usage/completion_tokens")) > 0);
        }
        json_decref(*last);
        *last = j;
        p = end + 2;
    }
    assert_true(role && finish && done);
    return ty_buf_take(&b);
}

static void streams_say_the_same(void **state) {
    (void)state;
    for (int usage = 0; usage < 2; usage++) {
        const char *text = "Tell me about it.";
        char *want = expected(picture("photo_48.jpg"), text, 40, NULL);
        json_t *body = request(picture("photo_48.jpg"), text, 40), *last = NULL;
        json_object_set_new(body, "stream", json_true());
        if (usage)
            json_object_set_new(body, "stream_options", json_pack("{s:b}", "include_usage", 1));
        test_reply r = post(body);
        assert_int_equal(r.status, 200);
        char *got = read_stream(r.body, usage, &last);
        assert_string_equal(got, want);
        assert_true(json_array_size(at(last, "timings/stages")) == 4);
        json_decref(last);
        test_reply_clear(&r);
        free(got);
        free(want);
    }
}

static void logprobs_come_in_openais_form(void **state) {
    (void)state;
    json_t *body = request(NULL, "Say something.", 8);
    json_object_set_new(body, "logprobs", json_true());
    json_object_set_new(body, "top_logprobs", json_integer(3));
    test_reply r = post(body);
    json_t *j = parse(&r, 200), *content = at(j, "choices/0/logprobs/content"), *t;
    size_t i;
    assert_true(json_array_size(content) > 0);
    json_array_foreach(content, i, t) {
        assert_true(json_real_value(at(t, "logprob")) <= 0);
        assert_int_equal(json_array_size(at(t, "top_logprobs")), 3);
        /* greedy: the token is the best of its alternatives */
        assert_true(json_equal(at(t, "bytes"), at(t, "top_logprobs/0/bytes")));
    }
    json_decref(j);
}

/* The value of the sample that begins with `name`; fails the test when it is not there. */
static double metric(const char *name) {
    test_reply r = TEST_GET(port, "/metrics");
    assert_int_equal(r.status, 200);
    size_t n = strlen(name);
    for (const char *p = r.body; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : NULL)
        if (strncmp(p, name, n) == 0 && p[n] == ' ') {
            double v = strtod(p + n, NULL);
            test_reply_clear(&r);
            return v;
        }
    fail_msg("no metric %s", name);
    return 0;
}

static void wait_metric(const char *name, double want) {
    for (int i = 0; i < 1000; i++) {
        if (metric(name) == want) return;
        test_nap_ms(10);
    }
    fail_msg("%s is %g, want %g", name, metric(name), want);
}

/* The decoder stands still, so that what is sent is surely under way, until it goes on. */
static void hold_decoder(void) {
    assert_int_equal(kill(worker[3], SIGSTOP), 0);
}

static void release_decoder(void) {
    assert_int_equal(kill(worker[3], SIGCONT), 0);
}

typedef struct {
    const char *image;
    char text[64], *want;
    json_t *got;
    pthread_t thread;
} one;

static void *ask_one(void *arg) {
    one *o = arg;
    json_t *body = request(o->image, o->text, 120);
    test_reply r = post(body);
    o->got = r.status == 200 ? json_loads(r.body, 0, NULL) : NULL;
    test_reply_clear(&r);
    return NULL;
}

static void eight_at_once_answer_as_each_alone(void **state) {
    (void)state;
    static const char *const images[] = {"photo_9.jpg", "photo_47.jpg", "photo_48.jpg", "cmyk.jpg",
                                         "rgba.png",    "gray.jpg",     NULL,           NULL};
    one all[AT_ONCE];
    long long batch = 0;
    for (int i = 0; i < AT_ONCE; i++) {
        all[i] = (one){.image = images[i] ? strdup(picture(images[i])) : NULL};
        snprintf(all[i].text, sizeof(all[i].text), "Question number %d?", i);
        all[i].want = expected(all[i].image, all[i].text, 120, NULL);
    }
    hold_decoder();
    for (int i = 0; i < AT_ONCE; i++)
        assert_int_equal(pthread_create(&all[i].thread, NULL, ask_one, &all[i]), 0);
    wait_metric("tyto_gateway_requests_in_flight", AT_ONCE);
    release_decoder();
    for (int i = 0; i < AT_ONCE; i++) {
        assert_int_equal(pthread_join(all[i].thread, NULL), 0);
        assert_non_null(all[i].got);
        assert_string_equal(answer_of(all[i].got), all[i].want);
        for (int k = 0; k < 4; k++) {
            long long b = stage_number(all[i].got, stages[k], "batch");
            if (b > batch) batch = b;
        }
        json_decref(all[i].got);
        free(all[i].want);
        free((char *)(uintptr_t)all[i].image);
    }
    assert_true(batch > 1); /* really together */
}

static void expect_refusal(json_t *body, int status, const char *code, const char *param) {
    test_reply r = post(body);
    json_t *j = parse(&r, status);
    assert_string_equal(json_string_value(at(j, "error/code")), code);
    if (param) assert_string_equal(json_string_value(at(j, "error/param")), param);
    json_decref(j);
}

static json_t *with_url(const char *url) {
    return json_pack("{s:s, s:[{s:s, s:[{s:s, s:s}, {s:s, s:{s:s}}]}]}", "model", "v1-micro",
                     "messages", "role", "user", "content", "type", "text", "text", "?", "type",
                     "image_url", "image_url", "url", url);
}

/* 30000 x 30000, with the data of a few rows. */
static const char huge_png[] = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAdTAAAHUwCAIAAADpRW/"
                               "tAAAAEUlEQVR4nGNgGAWjYBQMdwAAA+gAAbOm00YAAAAASUVORK5CYII=";

static void wrong_requests_get_typed_errors(void **state) {
    (void)state;
    test_reply r = TEST_POST(port, "/v1/chat/completions", "{\"model\": \"v1-micro\",, }");
    json_t *j = parse(&r, 400);
    assert_string_equal(json_string_value(at(j, "error/code")), "invalid_json");
    assert_non_null(strstr(json_string_value(at(j, "error/message")), "line 1"));
    json_decref(j);
    json_t *body = request(NULL, "x", 4);
    json_object_set_new(body, "presence_penalty", json_real(1.5));
    expect_refusal(body, 400, "unsupported_parameter", "presence_penalty");
    body = request(NULL, "x", 4);
    json_object_set_new(body, "temperature", json_string("hot"));
    expect_refusal(body, 400, "invalid_value", "temperature");
    body = request(NULL, "x", 4);
    json_object_set_new(body, "model", json_string("gpt-4"));
    expect_refusal(body, 404, "model_not_found", "model");
    expect_refusal(with_url("https://example.org/a.jpg"), 400, "unsupported_value",
                   "messages[0].content[1].image_url.url");
    expect_refusal(with_url("data:image/png;base64,%%%%"), 400, "invalid_value",
                   "messages[0].content[1].image_url.url");
    expect_refusal(with_url(huge_png), 400, "image_too_large", "messages[0].content[1]");
    expect_refusal(with_url("data:image/jpeg;base64,/9j/4AAQSkZJRg=="), 400, "invalid_image",
                   "messages[0].content[1]");
    expect_refusal(with_url("data:image/gif;base64,R0lGODlhAQABAAAAACw="), 400, "unsupported_image",
                   "messages[0].content[1]");
    char *words = malloc(40001);
    assert_non_null(words);
    for (int i = 0; i < 40000; i++) words[i] = i % 4 == 3 ? ' ' : 'a';
    words[40000] = '\0';
    expect_refusal(request(NULL, words, 4), 400, "context_length_exceeded", NULL);
    json_t *streamed = request(NULL, words, 4); /* before the first token it is an HTTP error */
    json_object_set_new(streamed, "stream", json_true());
    expect_refusal(streamed, 400, "context_length_exceeded", NULL);
    free(words);
}

/* Sends a long request and returns its connection. */
static int begin(bool stream) {
    json_t *body = request(picture("photo_9.jpg"), "Go on and on.", 300);
    json_object_set_new(body, "stream", json_boolean(stream));
    json_object_set_new(body, "ignore_eos", json_true());
    char *text = json_dumps(body, JSON_COMPACT);
    int fd = test_http_connect(port);
    test_http_send(fd, "POST", "/v1/chat/completions", NULL, text, strlen(text));
    free(text);
    json_decref(body);
    return fd;
}

static void wait_all_free(void) {
    wait_metric("tyto_gateway_requests_in_flight", 0);
    for (int k = 0; k < 4; k++) {
        static const char *const gauges[] = {"tyto_stage_in_flight", "tyto_stage_queued"};
        for (int i = 0; i < 2; i++) {
            char name[512];
            snprintf(name, sizeof(name), "%s{model=\"v1-micro\",stage=\"%s\",broker=\"%s\"}",
                     gauges[i], stages[k], gateways_at);
            wait_metric(name, 0);
        }
    }
}

static void client_that_goes_away_frees_everything(void **state) {
    (void)state;
    char buf[512];
    hold_decoder(); /* before the first token */
    int first = begin(true), second = begin(false);
    wait_metric("tyto_gateway_requests_in_flight", 2);
    close(first);
    close(second);
    wait_metric("tyto_gateway_requests_total{route=\"/v1/chat/completions\",code=\"499\"}", 2);
    release_decoder();
    wait_all_free();
    first = begin(true); /* in mid-answer */
    assert_true(read(first, buf, sizeof(buf)) > 0);
    close(first);
    wait_all_free();
    test_reply r = post(request(NULL, "Still there?", 4));
    assert_int_equal(r.status, 200);
    test_reply_clear(&r);
}

static void metrics_are_prometheus_text(void **state) {
    (void)state;
    test_reply r = TEST_GET(port, "/metrics");
    assert_int_equal(r.status, 200);
    int samples = 0;
    for (char *p = r.body, *end; *p; p = end + 1) {
        end = strchr(p, '\n');
        assert_non_null(end);
        *end = '\0';
        if (*p == '#') {
            assert_true(strncmp(p, "# HELP tyto_", 12) == 0 || strncmp(p, "# TYPE tyto_", 12) == 0);
            continue;
        }
        char *value = strrchr(p, ' '), *rest = NULL;
        assert_non_null(value);
        (void)strtod(value + 1, &rest);
        assert_true(rest != value + 1 && *rest == '\0');
        assert_memory_equal(p, "tyto_", 5);
        samples++;
    }
    assert_true(samples > 100);
    test_reply_clear(&r);
    assert_true(metric("tyto_gateway_pipeline_ready{model=\"v1-micro\"}") == 1);
    assert_true(metric("tyto_stage_compute_seconds_count{stage=\"vit\"}") > 0);
    assert_true(metric("tyto_gateway_completion_tokens_total{model=\"v1-micro\"}") > 0);
}

static void *ask_long(void *arg) {
    one *o = arg;
    json_t *body = request(o->image, o->text, 250);
    json_object_set_new(body, "ignore_eos", json_true());
    test_reply r = post(body);
    o->got = r.status == 200 ? json_loads(r.body, 0, NULL) : NULL;
    if (!o->got) print_error("status %d: %s\n", r.status, r.body ? r.body : "");
    test_reply_clear(&r);
    return NULL;
}

/* The broker is killed while requests are with it: each is answered, as it would have been. */
static void requests_survive_the_brokers_death(void **state) {
    (void)state;
    one all[AT_ONCE];
    long long attempt = 0;
    char image[300];
    snprintf(image, sizeof(image), "%s", picture("photo_9.jpg"));
    hold_decoder();
    for (int i = 0; i < AT_ONCE; i++) {
        all[i] = (one){.image = i % 2 ? image : NULL};
        snprintf(all[i].text, sizeof(all[i].text), "Question number %d?", i % 2);
        assert_int_equal(pthread_create(&all[i].thread, NULL, ask_long, &all[i]), 0);
    }
    wait_metric("tyto_gateway_requests_in_flight", AT_ONCE);
    (void)test_stop(broker, SIGKILL, 10);
    start_broker();
    release_decoder();
    for (int i = 0; i < AT_ONCE; i++) {
        assert_int_equal(pthread_join(all[i].thread, NULL), 0);
        assert_non_null(all[i].got);
        assert_string_equal(answer_of(all[i].got), answer_of(all[i % 2].got));
        for (int k = 0; k < 4; k++) {
            long long n = stage_number(all[i].got, stages[k], "attempt");
            if (n > attempt) attempt = n;
        }
    }
    for (int i = 0; i < AT_ONCE; i++) json_decref(all[i].got);
    wait_ready();
    assert_true(attempt >= 2);
    assert_true(metric("tyto_gateway_requests_in_flight") == 0);
}

/* SIGTERM: what runs ends, nobody else comes in, the process ends with 0. */
static void gateway_drains_on_sigterm(void **state) {
    (void)state;
    one o = {.text = "A long answer, please."};
    int idle = test_http_connect(port);
    hold_decoder();
    assert_int_equal(pthread_create(&o.thread, NULL, ask_long, &o), 0);
    wait_metric("tyto_gateway_requests_in_flight", 1);
    assert_int_equal(kill(gateway, SIGTERM), 0);
    test_nap_ms(100);
    test_http_send(idle, "GET", "/readyz", NULL, NULL, 0);
    test_reply r = test_http_read(idle);
    assert_int_equal(r.status, 503);
    test_reply_clear(&r);
    release_decoder();
    assert_int_equal(pthread_join(o.thread, NULL), 0);
    assert_non_null(o.got);
    json_decref(o.got);
    assert_int_equal(test_stop(gateway, 0, 30), 0); /* by itself */
    start_gateway();
    wait_ready();
}

/* A second gateway with keys, room for one request, and two seconds for each. */
static void limits_are_kept(void **state) {
    (void)state;
    static const char key[] = "Authorization: Bearer sesame\r\n";
    char file[300], buf[512];
    int at_port = 0;
    snprintf(file, sizeof(file), "%s/keys", dir);
    assert_int_equal(ty_file_write_atomic(file, "sesame\n", 7, NULL), TY_OK);
    pid_t pid = spawn_gateway("gateway.1",
                              (const char *const[]){"--api-key-file", file, "--max-inflight", "1",
                                                    "--timeout-s", "2", NULL},
                              &at_port);
    wait_ready_at(at_port);
    test_reply r = TEST_GET(at_port, "/v1/models");
    json_decref(parse(&r, 401));
    r = test_http(at_port, "GET", "/v1/models", key, NULL, 0);
    json_decref(parse(&r, 200));

    json_t *body = request(NULL, "Are you there?", 4), *j;
    char *text = json_dumps(body, JSON_COMPACT);
    kill(worker[3], SIGSTOP); /* the decoder hangs */
    int fd = test_http_connect(at_port);
    test_http_send(fd, "POST", "/v1/chat/completions", key, text, strlen(text));
    for (int i = 0; i < 500; i++) {
        r = test_http(at_port, "GET", "/metrics", key, NULL, 0);
        bool there = strstr(r.body, "\ntyto_gateway_requests_in_flight 1\n") != NULL;
        test_reply_clear(&r);
        if (there) break;
        test_nap_ms(1);
    }
    r = test_http(at_port, "POST", "/v1/chat/completions", key, text, strlen(text));
    snprintf(buf, sizeof(buf), "%s", test_reply_header(&r, "Retry-After"));
    j = parse(&r, 503);
    assert_string_equal(json_string_value(at(j, "error/code")), "overloaded");
    assert_true(atoi(buf) > 0);
    json_decref(j);
    r = test_http_read(fd);
    j = parse(&r, 504);
    assert_string_equal(json_string_value(at(j, "error/code")), "timeout");
    json_decref(j);
    kill(worker[3], SIGCONT);
    for (int i = 0; i < 500; i++) { /* it says hello again */
        r = test_http(at_port, "POST", "/v1/chat/completions", key, text, strlen(text));
        int status = r.status;
        test_reply_clear(&r);
        if (status == 200) break;
        if (i == 499) fail_msg("status %d", status);
        test_nap_ms(20);
    }
    free(text);
    json_decref(body);
    assert_int_equal(test_stop(pid, SIGTERM, 30), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(models_are_listed),
        cmocka_unit_test(answers_are_those_of_tyto_run),
        cmocka_unit_test(beams_answer_as_tyto_run_does),
        cmocka_unit_test(text_alone_skips_vision),
        cmocka_unit_test(streams_say_the_same),
        cmocka_unit_test(logprobs_come_in_openais_form),
        cmocka_unit_test(eight_at_once_answer_as_each_alone),
        cmocka_unit_test(wrong_requests_get_typed_errors),
        cmocka_unit_test(client_that_goes_away_frees_everything),
        cmocka_unit_test(metrics_are_prometheus_text),
        cmocka_unit_test(requests_survive_the_brokers_death),
        cmocka_unit_test(limits_are_kept),
        cmocka_unit_test(gateway_drains_on_sigterm),
    };
    return cmocka_run_group_tests_name("gateway", tests, start_all, stop_all);
}
