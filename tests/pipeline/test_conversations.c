/*
 * Conversations with real processes: two gateways, one Redis.  What a turn answers is what `tyto run` answers for the
 * text of the whole conversation; what was acknowledged survives kill -9; one of two turns at once wins.
 */
#include "tests/support/http_client.h"
#include "tests/support/process.h"
#include "tests/support/redis.h"
#include "tests/support/service.h"
#include "tests/support/ty_test.h"

#include "common/base/buf.h"
#include "common/base/file.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHAT "/v1/chat/completions"
#define BUSY "another turn of this conversation is being answered"

/* String literals are const; exec* takes them as they are. */
#define ARGV(...) ((char *const *)(const char *const[]){__VA_ARGS__, NULL})

enum { MAX_TOKENS = 12, WAIT_S = 60 };

static test_redis redis;
static test_service service;
static const char *pipeline;
static int port[2]; /* the two gateways' */

/* ---- helpers ---- */

static json_t *parse(test_reply *r, int status) {
    if (r->status != status) fail_msg("status %d, want %d: %s", r->status, status, r->body);
    json_t *j = json_loads(r->body, 0, NULL);
    if (!j) fail_msg("no JSON: %s", r->body);
    test_reply_clear(r);
    return j;
}

static void expect_error(test_reply r, int status, const char *code) {
    json_t *j = parse(&r, status);
    const char *got = json_string_value(json_object_get(json_object_get(j, "error"), "code"));
    if (!got || strcmp(got, code) != 0) fail_msg("code %s, want %s", got ? got : "none", code);
    json_decref(j);
}

static char *read_picture(const char *name, size_t *size) {
    char *file = NULL;
    ty_err e = {0};
    if (ty_file_read(test_path("%s/images/%s", test_golden_dir(), name), 1 << 24, &file, size,
                     &e) != TY_OK)
        fail_msg("%s", e.text);
    return file;
}

static json_t *image_part(const char *name) {
    return test_image_part(test_path("%s/images/%s", test_golden_dir(), name));
}

/* One user message: a picture part (taken over, NULL: none), then the text. */
static json_t *request(const char *conversation, json_t *image, const char *text) {
    json_t *content = json_array();
    if (image) json_array_append_new(content, image);
    json_array_append_new(content, json_pack("{s:s, s:s}", "type", "text", "text", text));
    json_t *body = json_pack("{s:[{s:s, s:o}]}", "messages", "role", "user", "content", content);
    if (conversation) json_object_set_new(body, "conversation", json_string(conversation));
    if (!conversation || strcmp(conversation, "new") == 0) {
        json_object_set_new(body, "model", json_string("v1-micro"));
        json_object_set_new(body, "max_tokens", json_integer(MAX_TOKENS));
    }
    return body;
}

static test_reply post(int at_port, const char *path, const char *headers, json_t *body) {
    char *text = json_dumps(body, JSON_COMPACT);
    assert_non_null(text);
    test_reply r = test_http(at_port, "POST", path, headers, text, strlen(text));
    free(text);
    json_decref(body);
    return r;
}

/* A turn's answer and the conversation's id, from one JSON or from a stream. */
typedef struct {
    char *text, id[64];
    json_t *last; /* the reply, or the stream's last chunk */
} answered;

static void answered_clear(answered *a) {
    free(a->text);
    json_decref(a->last);
}

static answered read_stream(const char *body) {
    answered a = {0};
    ty_buf text = ty_buf_make(1 << 20);
    const char *p = body;
    for (; strncmp(p, "data: [DONE]", 12) != 0;) {
        const char *end = strstr(p, "\n\n");
        if (strncmp(p, "data: ", 6) != 0 || !end) fail_msg("no event: %s", p);
        json_decref(a.last);
        a.last = json_loadb(p + 6, (size_t)(end - p - 6), 0, NULL);
        json_t *choice = json_array_get(json_object_get(a.last, "choices"), 0);
        const char *piece =
            json_string_value(json_object_get(json_object_get(choice, "delta"), "content"));
        if (piece) ty_buf_puts(&text, piece);
        p = end + 2;
    }
    a.text = ty_buf_take(&text);
    return a;
}

static answered ask(int at_port, const char *headers, json_t *body, bool stream) {
    if (stream) json_object_set_new(body, "stream", json_true());
    test_reply r = post(at_port, CHAT, headers, body);
    answered a = {0};
    if (r.status != 200) fail_msg("status %d: %s", r.status, r.body);
    if (stream) {
        a = read_stream(r.body);
        test_reply_clear(&r);
    } else {
        a.last = parse(&r, 200);
        json_t *m =
            json_object_get(json_array_get(json_object_get(a.last, "choices"), 0), "message");
        a.text = strdup(json_string_value(json_object_get(m, "content")));
    }
    const char *id = json_string_value(json_object_get(a.last, "conversation"));
    if (id) snprintf(a.id, sizeof(a.id), "%s", id);
    return a;
}

/* A new conversation with one answered turn. */
static void begin_one(int at_port, const char *headers, char id[64]) {
    answered a = ask(at_port, headers, request("new", NULL, "Hello there."), false);
    assert_memory_equal(a.id, "conv_", 5);
    memcpy(id, a.id, sizeof(a.id));
    answered_clear(&a);
}

static json_t *get(int at_port, const char *headers, const char *id, int status) {
    test_reply r =
        test_http(at_port, "GET", test_path("/v1/conversations/%s", id), headers, NULL, 0);
    return parse(&r, status);
}

static int count_turns(int at_port, const char *id) {
    json_t *c = get(at_port, NULL, id, 200);
    int n = (int)json_array_size(json_object_get(c, "turns"));
    json_decref(c);
    return n;
}

static double metric(int at_port, const char *name) {
    test_reply r = TEST_GET(at_port, "/metrics");
    char *p = strstr(r.body, test_path("\n%s ", name));
    double v = p ? strtod(p + strlen(name) + 2, NULL) : 0;
    test_reply_clear(&r);
    return v;
}

static void wait_metric(int at_port, const char *name, double want) {
    for (int i = 0; i < WAIT_S * 100; i++) {
        if (metric(at_port, name) == want) return;
        test_nap_ms(10);
    }
    fail_msg("%s is %g, want %g", name, metric(at_port, name), want);
}

/* The decoder stands still, so that a turn is surely under way, until it goes on. */
static void hold_decoder(void) {
    assert_int_equal(kill(test_service_pid(&service, "decoder.0", NULL), SIGSTOP), 0);
}

static void release_decoder(void) {
    assert_int_equal(kill(test_service_pid(&service, "decoder.0", NULL), SIGCONT), 0);
}

/* Sends a turn and returns its connection; the turn is under way. */
static int send_turn(int at_port, const char *id) {
    json_t *body = request(id, NULL, "Go on.");
    char *text = json_dumps(body, JSON_COMPACT);
    int fd = test_http_connect(at_port);
    test_http_send(fd, "POST", CHAT, NULL, text, strlen(text));
    free(text);
    json_decref(body);
    wait_metric(at_port, "tyto_gateway_requests_in_flight", 1);
    return fd;
}

static bool says(int at_port, const char *path, const char *word) {
    test_reply r = TEST_GET(at_port, path);
    bool yes = r.body && strstr(r.body, word) != NULL;
    test_reply_clear(&r);
    return yes;
}

static void wait_until(int at_port, const char *path, const char *word) {
    for (int i = 0; i < WAIT_S * 50; i++) {
        if (says(at_port, path, word)) return;
        test_nap_ms(20);
    }
    fail_msg("%s does not say %s", path, word);
}

static void wait_store(bool up) {
    for (int g = 0; g < 2; g++)
        wait_until(port[g], "/readyz", up ? "\"store\":{\"up\":true" : "\"store\":{\"up\":false");
}

/* Another gateway at the same broker, with its own options. */
static pid_t start_gateway(const char *name, const char *const *more, int *at_port) {
    char file[300], broker[300];
    snprintf(file, sizeof(file), "%s/%s.port", test_temp_dir(), name);
    snprintf(broker, sizeof(broker), "ipc://%s/run/gateways.0.sock", service.state);
    const char *argv[40] = {test_bin("tyto-gateway"),
                            "--name",
                            name,
                            "--pipeline",
                            pipeline,
                            "--connect",
                            broker,
                            "--listen",
                            "127.0.0.1:0",
                            "--port-file",
                            file,
                            "--redis-url",
                            redis.url};
    for (int k = 13; more && *more; k++) argv[k] = *more++;
    pid_t pid = test_spawn((char *const *)argv, test_path("%s/%s.log", test_temp_dir(), name));
    *at_port = 0;
    for (int i = 0; i < WAIT_S * 50 && !*at_port; i++) {
        char *text = NULL;
        size_t size = 0;
        if (ty_file_read(file, 64, &text, &size, NULL) == TY_OK) *at_port = atoi(text);
        free(text);
        if (!*at_port) test_nap_ms(20);
    }
    assert_true(*at_port > 0);
    wait_until(*at_port, "/readyz", "\"store\":{\"up\":true");
    wait_until(*at_port, "/readyz", "\"ready\":true");
    return pid;
}

/* ---- turns ---- */

/* A conversation of six turns, and what is known of it: the last test goes on with it. */
enum { TURNS = 6 };
static struct {
    char id[64];
    ty_buf text; /* the prompt so far, answers included */
    const char *image[TURNS];
    int n_image;
} long_talk;

/* The next turn, through one of the gateways; its answer must be tyto run's for the whole. */
static answered go_on(int at_port, const char *picture, const char *question, bool stream) {
    if (picture) {
        const char *path = test_path("%s/images/%s", test_golden_dir(), picture);
        long_talk.image[long_talk.n_image++] = strdup(path);
        ty_buf_puts(&long_talk.text, "\nHuman: <image>");
    }
    ty_buf_printf(&long_talk.text, "\nHuman: %s\nAI: ", question);
    char *want =
        test_run_raw(pipeline, long_talk.text.data, long_talk.image, long_talk.n_image, MAX_TOKENS);
    json_t *body = request(*long_talk.id ? long_talk.id : "new",
                           picture ? image_part(picture) : NULL, question);
    answered a = ask(at_port, NULL, body, stream);
    assert_string_equal(a.text, want);
    assert_true(!*long_talk.id || strcmp(a.id, long_talk.id) == 0);
    memcpy(long_talk.id, a.id, sizeof(long_talk.id));
    ty_buf_puts(&long_talk.text, a.text);
    free(want);
    return a;
}

static int count_stages(const answered *a, const char *stage) {
    json_t *s, *all = json_object_get(json_object_get(a->last, "timings"), "stages");
    size_t i;
    int n = 0;
    json_array_foreach(all, i, s) n +=
        strcmp(json_string_value(json_object_get(s, "stage")), stage) == 0;
    return n;
}

static int decoder_number(const answered *a, const char *key) {
    return test_receipt_max(json_object_get(a->last, "timings"), "decoder", key);
}

static void each_turn_answers_as_tyto_run_does_for_the_whole(void **state) {
    (void)state;
    static const char *const picture[TURNS] = {"photo_9.jpg", NULL,           "photo_47.jpg",
                                               NULL,          "photo_48.jpg", NULL};
    static const char *const question[TURNS] = {"What is this?",    "And who are you?",
                                                "And this one?",    "Which is older?",
                                                "Now look at that", "Which was best?"};
    long_talk.text = ty_buf_make(1 << 16);
    ty_buf_puts(&long_talk.text,
                "The following is a conversation between a curious human and AI assistant. The "
                "assistant gives helpful, detailed, and polite answers to the user's questions.");
    for (int i = 0; i < TURNS; i++) {
        answered a = go_on(port[i % 2], picture[i], question[i], i >= 3);
        /* what earlier turns showed is not encoded again, what they said not read again */
        assert_int_equal(count_stages(&a, "vit"), picture[i] ? 1 : 0);
        if (i > 0) assert_true(decoder_number(&a, "cached_tokens") > 50);
        assert_true(decoder_number(&a, "prefill_tokens") < (i > 0 ? 60 : 200));
        answered_clear(&a);
    }
    assert_int_equal(count_turns(port[0], long_talk.id), 2 * TURNS);
}

static int visual_tokens(const answered *a) {
    const json_t *usage = json_object_get(a->last, "usage");
    return (int)json_integer_value(
        json_object_get(json_object_get(usage, "prompt_tokens_details"), "visual_tokens"));
}

/* The model may say what its placeholders say: the conversation goes on, with the pictures that it has. */
static void an_answer_s_words_are_no_pictures(void **state) {
    (void)state;
    json_t *body = request("new", image_part("photo_47.jpg"), "What is it?"), *next;
    json_t *messages = json_object_get(body, "messages");
    json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "assistant", "content",
                                              "<image>, or <|image|> in HTML: <image>"));
    json_array_append_new(messages,
                          json_pack("{s:s, s:s}", "role", "user", "content", "Is it so?"));
    answered a = ask(port[0], NULL, body, false);
    assert_true(visual_tokens(&a) > 0);
    for (int i = 0; i < 2; i++) {
        next = request(a.id, i ? image_part("photo_47.jpg") : NULL, "And?");
        answered b = ask(port[i], NULL, next, false);
        assert_int_equal(visual_tokens(&b), (1 + i) * visual_tokens(&a));
        answered_clear(&b);
    }
    answered_clear(&a);
}

static void parameters_persist_until_another_value_comes(void **state) {
    (void)state;
    json_t *body = request("new", NULL, "Tell me something.");
    json_object_set_new(body, "temperature", json_real(0.9));
    json_object_set_new(body, "seed", json_integer(7));
    json_object_set_new(body, "stop", json_pack("[s]", "zzzz"));
    answered a = ask(port[0], NULL, body, false);
    body = request(a.id, NULL, "More.");
    json_object_set_new(body, "max_completion_tokens", json_integer(3));
    json_object_set_new(body, "logprobs", json_true());
    answered b = ask(port[1], NULL, body, false);
    json_t *usage = json_object_get(b.last, "usage");
    assert_int_equal(json_integer_value(json_object_get(usage, "completion_tokens")), 3);
    json_t *c = get(port[0], NULL, a.id, 200), *turns = json_object_get(c, "turns");
    assert_string_equal(json_string_value(json_object_get(c, "title")), "Tell me something.");
    json_t *first = json_object_get(json_array_get(turns, 1), "params");
    json_t *second = json_object_get(json_array_get(turns, 3), "params");
    assert_int_equal(json_integer_value(json_object_get(first, "max_tokens")), MAX_TOKENS);
    assert_int_equal(json_integer_value(json_object_get(second, "max_tokens")), 3);
    json_t *rest = json_copy(first);
    json_object_set_new(rest, "max_tokens", json_integer(3));
    assert_true(json_equal(rest, second));
    assert_int_equal(json_integer_value(json_object_get(second, "seed")), 7);
    /* who answered */
    json_t *stages = json_object_get(json_array_get(turns, 3), "stages");
    assert_int_equal(strlen(json_string_value(json_object_get(stages, "decoder"))), 32);
    json_decref(rest);
    json_decref(c);
    /* a wrong turn changes nothing and leaves the conversation free */
    body = request(a.id, NULL, "Wrong.");
    json_object_set_new(body, "num_beams", json_integer(3));
    json_object_set_new(body, "logprobs", json_true());
    expect_error(post(port[0], CHAT, NULL, body), 400, "unsupported_parameter");
    assert_int_equal(count_turns(port[0], a.id), 4);
    answered d = ask(port[0], NULL, request(a.id, NULL, "Right."), false);
    answered_clear(&d);
    answered_clear(&b);
    answered_clear(&a);
}

static void one_of_two_turns_at_once_wins(void **state) {
    (void)state;
    char id[64];
    begin_one(port[0], NULL, id);
    hold_decoder();
    int fd = send_turn(port[0], id);
    test_reply r = post(port[1], CHAT, NULL, request(id, NULL, "Me too."));
    assert_non_null(strstr(r.body, BUSY));
    expect_error(r, 409, "conversation_busy");
    release_decoder();
    r = test_http_read(fd);
    json_decref(parse(&r, 200));
    assert_int_equal(count_turns(port[1], id), 4);
    answered a = ask(port[1], NULL, request(id, NULL, "Now me."), false);
    answered_clear(&a);
    assert_int_equal(count_turns(port[0], id), 6);
}

static void client_that_goes_away_leaves_no_trace(void **state) {
    (void)state;
    char id[64];
    begin_one(port[0], NULL, id);
    hold_decoder();
    int fd = send_turn(port[0], id);
    close(fd);
    wait_metric(port[0], "tyto_gateway_requests_in_flight", 0);
    release_decoder();
    assert_int_equal(count_turns(port[0], id), 2);
    answered a = ask(port[1], NULL, request(id, NULL, "Still here."), false);
    answered_clear(&a);
    assert_int_equal(count_turns(port[0], id), 4);
}

/* A client that did not get the answer sends the request again, to whichever gateway. */
static void request_with_a_key_is_answered_once(void **state) {
    (void)state;
    static const char first[] = "Idempotency-Key: one\r\n", second[] = "Idempotency-Key: two\r\n";
    answered a = ask(port[0], first, request("new", image_part("photo_9.jpg"), "What?"), false);
    answered b = ask(port[1], first, request("new", image_part("photo_9.jpg"), "What?"), false);
    assert_string_equal(b.id, a.id);
    assert_string_equal(b.text, a.text);
    assert_true(json_equal(json_object_get(a.last, "usage"), json_object_get(b.last, "usage")));
    answered c = ask(port[0], second, request(a.id, NULL, "And?"), true);
    answered d = ask(port[1], second, request(a.id, NULL, "And?"), true);
    assert_string_equal(c.text, d.text);
    assert_int_equal(count_turns(port[0], a.id), 4);
    answered e = ask(port[1], first, request("new", image_part("photo_9.jpg"), "What?"), false);
    assert_string_equal(e.text, a.text); /* it has gone on meanwhile */
    expect_error(post(port[0], CHAT, first, request("new", NULL, "Something else")), 400,
                 "invalid_value");
    answered_clear(&a);
    answered_clear(&b);
    answered_clear(&c);
    answered_clear(&d);
    answered_clear(&e);
}

static void wrong_conversations_are_refused(void **state) {
    (void)state;
    expect_error(post(port[0], CHAT, NULL, request("conv_1", NULL, "?")), 404,
                 "conversation_not_found");
    expect_error(
        post(port[0], CHAT, NULL, request("conv_00000000000000000000000000000000", NULL, "?")), 404,
        "conversation_not_found");
    json_t *body = request("new", NULL, "?");
    json_object_set_new(body, "conversation", json_integer(4));
    expect_error(post(port[0], CHAT, NULL, body), 400, "invalid_value");
    body = request("new", NULL, "?");
    json_object_del(body, "model");
    expect_error(post(port[0], CHAT, NULL, body), 400, "invalid_value");
}

/* ---- the list ---- */

static void conversations_are_listed_forked_and_deleted(void **state) {
    (void)state;
    char id[64], copy[64];
    begin_one(port[0], NULL, id);
    answered a = ask(port[0], NULL, request(id, image_part("photo_9.jpg"), "And this?"), false);
    test_reply r = TEST_GET(port[1], "/v1/conversations?limit=1");
    json_t *list = parse(&r, 200), *one = json_array_get(json_object_get(list, "data"), 0);
    assert_string_equal(json_string_value(json_object_get(one, "id")), id);
    assert_int_equal(json_integer_value(json_object_get(one, "turn_count")), 4);
    assert_null(json_object_get(one, "owner"));
    assert_true(json_is_true(json_object_get(list, "has_more"))); /* of the other tests */
    json_decref(list);
    r = TEST_GET(port[1], test_path("/v1/conversations?limit=100&after=%s", id));
    assert_null(strstr(r.body, id));
    json_decref(parse(&r, 200));
    expect_error(TEST_GET(port[1], "/v1/conversations?limit=0"), 400, "invalid_value");

    /* the same question to the copy has the same answer, and the first keeps its own turns */
    r = post(port[1], test_path("/v1/conversations/%s/fork", id), NULL,
             json_pack("{s:i}", "turns", 2));
    json_t *fork = parse(&r, 200);
    snprintf(copy, sizeof(copy), "%s", json_string_value(json_object_get(fork, "id")));
    json_decref(fork);
    assert_int_equal(count_turns(port[0], copy), 2);
    answered b = ask(port[1], NULL, request(copy, image_part("photo_9.jpg"), "And this?"), false);
    assert_string_equal(a.text, b.text);
    assert_int_equal(count_turns(port[0], id), 4);
    expect_error(post(port[1], test_path("/v1/conversations/%s/fork", id), NULL,
                      json_pack("{s:i}", "turns", 5)),
                 400, "invalid_value");
    expect_error(post(port[1], test_path("/v1/conversations/%s/fork", id), NULL,
                      json_pack("{s:i, s:s}", "turns", 1, "model", "none")),
                 400, "invalid_value");
    expect_error(post(port[1], test_path("/v1/conversations/%s/fork", id), NULL,
                      json_pack("{s:i, s:i}", "turns", 1, "n", 1)),
                 400, "unsupported_value");

    r = test_http(port[1], "DELETE", test_path("/v1/conversations/%s", id), NULL, NULL, 0);
    json_decref(parse(&r, 200));
    json_decref(get(port[0], NULL, id, 404));
    expect_error(post(port[0], CHAT, NULL, request(id, NULL, "?")), 404, "conversation_not_found");
    /* the copy's picture is its own */
    answered c = ask(port[0], NULL, request(copy, NULL, "Again?"), false);
    answered_clear(&a);
    answered_clear(&b);
    answered_clear(&c);
}

/* ---- files ---- */

static json_t *file_part(const char *id) {
    return json_pack("{s:s, s:{s:s}}", "type", "image_file", "image_file", "file_id", id);
}

static void files_are_sent_once_and_named_afterwards(void **state) {
    (void)state;
    size_t size;
    char *bytes = read_picture("photo_9.jpg", &size), id[80];
    test_reply r = test_http(port[0], "POST", "/v1/files?filename=nine.jpg",
                             "Content-Type: image/jpeg\r\n", bytes, size);
    json_t *f = parse(&r, 200);
    snprintf(id, sizeof(id), "%s", json_string_value(json_object_get(f, "id")));
    assert_int_equal(strlen(id), 64);
    assert_string_equal(json_string_value(json_object_get(f, "object")), "file");
    assert_string_equal(json_string_value(json_object_get(f, "filename")), "nine.jpg");
    assert_int_equal(json_integer_value(json_object_get(f, "bytes")), size);
    json_decref(f);
    /* the same bytes in a form: the same file */
    ty_buf form = ty_buf_make(1 << 24);
    ty_buf_puts(&form, "--xx\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nvision\r\n"
                       "--xx\r\nContent-Disposition: form-data; name=\"file\"; "
                       "filename=\"9.jpg\"\r\n\r\n");
    ty_buf_append(&form, bytes, size);
    ty_buf_puts(&form, "\r\n--xx--\r\n");
    r = test_http(port[1], "POST", "/v1/files",
                  "Content-Type: multipart/form-data; boundary=xx\r\n", form.data, form.len);
    f = parse(&r, 200);
    assert_string_equal(json_string_value(json_object_get(f, "id")), id);
    assert_string_equal(json_string_value(json_object_get(f, "filename")), "9.jpg");
    json_decref(f);
    ty_buf_clear(&form);
    r = TEST_GET(port[1], "/v1/files");
    f = parse(&r, 200);
    assert_int_equal(json_array_size(json_object_get(f, "data")), 1);
    json_decref(f);
    r = TEST_GET(port[1], test_path("/v1/files/%s/content", id));
    assert_int_equal(r.status, 200);
    assert_int_equal(r.body_size, size);
    assert_memory_equal(r.body, bytes, size);
    assert_string_equal(test_reply_header(&r, "Content-Type"), "image/jpeg");
    assert_non_null(strstr(test_reply_header(&r, "Content-Security-Policy"), "sandbox"));
    test_reply_clear(&r);
    free(bytes);

    /* asked about by its id, it is the picture */
    answered a = ask(port[0], NULL, request(NULL, image_part("photo_9.jpg"), "What?"), false);
    answered b = ask(port[1], NULL, request(NULL, file_part(id), "What?"), false);
    answered c = ask(port[1], NULL, request("new", file_part(id), "What?"), true);
    assert_string_equal(a.text, b.text);
    assert_string_equal(a.text, c.text);
    /* deleted, it lives on in the conversation that shows it, and nowhere else */
    r = test_http(port[0], "DELETE", test_path("/v1/files/%s", id), NULL, NULL, 0);
    json_decref(parse(&r, 200));
    expect_error(TEST_GET(port[0], test_path("/v1/files/%s", id)), 404, "file_not_found");
    answered d = ask(port[0], NULL, request(c.id, NULL, "And what else?"), false);
    r = test_http(port[0], "DELETE", test_path("/v1/conversations/%s", c.id), NULL, NULL, 0);
    json_decref(parse(&r, 200));
    json_t *conversation = get(port[0], NULL, c.id, 404);
    json_decref(conversation);
    answered_clear(&a);
    answered_clear(&b);
    answered_clear(&c);
    answered_clear(&d);
}

static void wrong_files_are_refused(void **state) {
    (void)state;
    static const char none[] = "0000000000000000000000000000000000000000000000000000000000000000";
    test_reply r = test_http(port[0], "POST", "/v1/files", "Content-Type: image/bmp\r\n",
                             "BM..............", 16);
    expect_error(r, 400, "unsupported_value");
    r = test_http(port[0], "POST", "/v1/files", "Content-Type: multipart/form-data; boundary=x\r\n",
                  "--y", 3);
    expect_error(r, 400, "invalid_value");
    expect_error(TEST_GET(port[0], test_path("/v1/files/%s/content", none)), 404, "file_not_found");
    expect_error(TEST_GET(port[0], "/v1/files/xyz"), 404, "file_not_found");
    r = post(port[0], CHAT, NULL, request(NULL, file_part(none), "?"));
    assert_non_null(strstr(r.body, "messages[0].content[0]"));
    expect_error(r, 404, "file_not_found");
    expect_error(post(port[0], CHAT, NULL, request("new", file_part(none), "?")), 404,
                 "file_not_found");
    expect_error(post(port[0], CHAT, NULL, request(NULL, file_part("../x"), "?")), 400,
                 "invalid_value");
}

/* ---- addresses ---- */

static json_t *url_part(const char *url) {
    return json_pack("{s:s, s:{s:s}}", "type", "image_url", "image_url", "url", url);
}

/* The other gateway's files are pictures at an address. */
static void pictures_are_fetched_where_that_is_allowed(void **state) {
    (void)state;
    size_t size;
    char *bytes = read_picture("photo_48.jpg", &size), hosts[64], url[200];
    int closed_net, wary;
    test_reply r = test_http(port[1], "POST", "/v1/files", NULL, bytes, size);
    json_t *f = parse(&r, 200);
    snprintf(url, sizeof(url), "http://127.0.0.1:%d/v1/files/%s/content", port[1],
             json_string_value(json_object_get(f, "id")));
    json_decref(f);
    free(bytes);
    snprintf(hosts, sizeof(hosts), "127.0.0.1:%d", port[1]);
    pid_t a = start_gateway("gateway.6",
                            (const char *const[]){"--image-hosts", hosts, "--image-private", NULL},
                            &closed_net);
    snprintf(hosts, sizeof(hosts), "*:%d", port[1]);
    pid_t b =
        start_gateway("gateway.7", (const char *const[]){"--image-hosts", hosts, NULL}, &wary);

    answered want = ask(port[0], NULL, request(NULL, image_part("photo_48.jpg"), "What?"), false);
    answered got = ask(closed_net, NULL, request("new", url_part(url), "What?"), false);
    assert_string_equal(got.text, want.text);
    /* the conversation keeps the picture, not its address */
    json_t *c = get(port[0], NULL, got.id, 200);
    char *text = json_dumps(c, 0);
    assert_null(strstr(text, "http://"));
    assert_non_null(strstr(text, "file_id"));
    free(text);
    json_decref(c);

    expect_error(post(port[0], CHAT, NULL, request(NULL, url_part(url), "?")), 400,
                 "unsupported_value");
    r = post(wary, CHAT, NULL, request(NULL, url_part(url), "?"));
    assert_non_null(strstr(r.body, "not public"));
    assert_non_null(strstr(r.body, "messages[0].content[0].image_url.url"));
    expect_error(r, 400, "image_url_refused");
    expect_error(post(wary, CHAT, NULL, request("new", url_part("http://[::1]:1/"), "?")), 400,
                 "image_url_refused");
    expect_error(post(closed_net, CHAT, NULL, request(NULL, url_part("http://localhost/a"), "?")),
                 400, "image_url_refused");
    snprintf(url, sizeof(url), "http://127.0.0.1:%d/nothing", port[1]);
    expect_error(post(closed_net, CHAT, NULL, request(NULL, url_part(url), "?")), 400,
                 "image_url_failed");
    answered_clear(&want);
    answered_clear(&got);
    assert_int_equal(test_stop(a, SIGTERM, 30), 0);
    assert_int_equal(test_stop(b, SIGTERM, 30), 0);
}

/* Two keys, room for two conversations and a megabyte each, forgotten after two seconds. */
static void owners_have_their_own_and_quotas(void **state) {
    (void)state;
    static const char ann[] = "Authorization: Bearer ann\r\n",
                      bob[] = "Authorization: Bearer bob\r\n";
    char keys[300], first[64], second[64];
    int at_port;
    snprintf(keys, sizeof(keys), "%s/keys", test_temp_dir());
    assert_int_equal(ty_file_write_atomic(keys, "ann\nbob\n", 8, NULL), TY_OK);
    pid_t pid = start_gateway("gateway.8",
                              (const char *const[]){"--api-key-file", keys, "--conversation-ttl-s",
                                                    "3", "--owner-max-mb", "1",
                                                    "--owner-max-conversations", "2", NULL},
                              &at_port);
    begin_one(at_port, ann, first);
    json_decref(get(at_port, bob, first, 404));
    test_reply r = test_http(at_port, "GET", "/v1/conversations", bob, NULL, 0);
    json_t *list = parse(&r, 200);
    assert_int_equal(json_array_size(json_object_get(list, "data")), 0);
    json_decref(list);
    expect_error(post(at_port, CHAT, bob, request(first, NULL, "Mine?")), 404,
                 "conversation_not_found");
    begin_one(at_port, ann, second);
    expect_error(post(at_port, CHAT, ann, request("new", NULL, "A third?")), 403, "quota_exceeded");
    begin_one(at_port, bob, second);
    /* a picture over the quota is refused before the answer is worked out */
    char *big = malloc(2 << 20);
    assert_non_null(big);
    memset(big, 'A', 2 << 20);
    memcpy(big, "data:image/jpeg;base64,", 23);
    big[23 + (1 << 20) + (1 << 19)] = '\0';
    json_t *part = json_pack("{s:s, s:{s:s}}", "type", "image_url", "image_url", "url", big);
    free(big);
    expect_error(post(at_port, CHAT, bob, request(second, part, "?")), 403, "quota_exceeded");
    /* unused for its time to live */
    for (int i = 0; i < WAIT_S * 10; i++) {
        r = test_http(at_port, "GET", test_path("/v1/conversations/%s", first), ann, NULL, 0);
        int status = r.status;
        test_reply_clear(&r);
        if (status == 404) break;
        assert_int_equal(status, 200);
        test_nap_ms(100);
    }
    json_decref(get(at_port, ann, first, 404));
    begin_one(at_port, ann, first); /* what is forgotten counts no more */
    assert_int_equal(test_stop(pid, SIGTERM, 30), 0);
}

/* ---- what dies ---- */

static void redis_away_stops_conversations_alone(void **state) {
    (void)state;
    char id[64];
    begin_one(port[0], NULL, id);
    test_redis_kill(&redis);
    wait_store(false);
    test_reply r = post(port[0], CHAT, NULL, request(id, NULL, "Anybody there?"));
    assert_non_null(test_reply_header(&r, "Retry-After"));
    expect_error(r, 503, "store_unavailable");
    expect_error(post(port[1], CHAT, NULL, request("new", NULL, "?")), 503, "store_unavailable");
    expect_error(TEST_GET(port[0], "/v1/conversations"), 503, "store_unavailable");
    answered a = ask(port[0], NULL, request(NULL, NULL, "Stateless?"), false);
    assert_null(json_object_get(a.last, "conversation"));
    answered_clear(&a);
    test_redis_start(&redis, redis.dir, 1);
    wait_store(true);
    assert_int_equal(count_turns(port[1], id), 2);
    a = ask(port[0], NULL, request(id, NULL, "Back again?"), true);
    answered_clear(&a);
    assert_int_equal(count_turns(port[1], id), 4);
}

/* Redis is killed while a turn is being answered: the commit waits for it. */
static void turn_survives_the_death_of_redis(void **state) {
    (void)state;
    char id[64];
    begin_one(port[0], NULL, id);
    hold_decoder();
    int fd = send_turn(port[0], id);
    test_redis_kill(&redis);
    wait_store(false);
    release_decoder();
    test_nap_ms(200); /* the answer may be made by now; there is nowhere to put it */
    test_redis_start(&redis, redis.dir, 1);
    test_reply r = test_http_read(fd);
    json_decref(parse(&r, 200));
    wait_store(true);
    assert_int_equal(count_turns(port[1], id), 4);
}

/* A gateway that dies in mid-turn has appended nothing, and its lease lapses. */
static void gateways_death_frees_the_conversation(void **state) {
    (void)state;
    char id[64];
    int restarts = 0, status = 409;
    begin_one(port[0], NULL, id);
    hold_decoder();
    int fd = send_turn(port[0], id);
    assert_int_equal(kill(test_service_pid(&service, "gateway.0", NULL), SIGKILL), 0);
    close(fd);
    release_decoder();
    expect_error(post(port[1], CHAT, NULL, request(id, NULL, "Free?")), 409, "conversation_busy");
    assert_int_equal(count_turns(port[1], id), 2);
    for (int i = 0; i < WAIT_S * 5 && status == 409; i++) {
        test_reply r = post(port[1], CHAT, NULL, request(id, NULL, "Free now?"));
        status = r.status;
        test_reply_clear(&r);
        if (status == 409) test_nap_ms(200);
    }
    assert_int_equal(status, 200);
    assert_int_equal(count_turns(port[1], id), 4);
    for (int i = 0; i < WAIT_S * 50 && !test_service_pid(&service, "gateway.0", &restarts); i++)
        test_nap_ms(20);
    assert_true(restarts > 0);
}

static void start_service(void);

/* Everything is killed at once; what was acknowledged is there, with its pictures, and goes on. */
static void conversation_survives_the_death_of_everything(void **state) {
    (void)state;
    answered a = go_on(port[0], NULL, "Still there?", true);
    json_t *all = test_service_status(&service), *p;
    size_t i;
    kill(service.pid, SIGKILL);
    json_array_foreach(json_object_get(all, "processes"), i, p)
        kill((pid_t)json_integer_value(json_object_get(p, "pid")), SIGKILL);
    json_decref(all);
    test_redis_kill(&redis);
    (void)test_stop(service.pid, SIGKILL, 10);
    test_redis_start(&redis, redis.dir, 1);
    start_service();
    json_t *c = get(port[1], NULL, long_talk.id, 200), *turns = json_object_get(c, "turns");
    assert_int_equal(json_array_size(turns), 2 * (TURNS + 1));
    json_t *last = json_array_get(turns, 2 * TURNS + 1);
    assert_string_equal(json_string_value(json_object_get(last, "content")), a.text);
    json_decref(c);
    answered_clear(&a);
    a = go_on(port[0], NULL, "And now?", false);
    assert_int_equal(count_stages(&a, "vit"), 3); /* from the conversation's own bytes */
    assert_int_equal(decoder_number(&a, "cached_tokens"), 0);
    answered_clear(&a);
    for (int k = 0; k < long_talk.n_image; k++) free((char *)(uintptr_t)long_talk.image[k]);
    ty_buf_clear(&long_talk.text);
}

/* ---- set-up ---- */

static void start_service(void) {
    char listen[64];
    port[0] = test_free_port();
    do port[1] = test_free_port();
    while (port[1] == port[0]);
    snprintf(listen, sizeof(listen), "127.0.0.1:%d,127.0.0.1:%d", port[0], port[1]);
    service = test_service_up(pipeline,
                              ARGV("--listen", listen, "--gateway", "2", "--redis-url", redis.url));
    wait_store(true);
}

static int start_all(void **state) {
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    char dir[64];
    snprintf(dir, sizeof(dir), "%s", test_temp_dir());
    test_redis_start(&redis, dir, 1);
    pipeline = test_import("v1-micro", "v1-micro", NULL);
    start_service();
    return 0;
}

static int stop_all(void **state) {
    (void)state;
    test_service_down(&service);
    test_redis_kill(&redis);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_turn_answers_as_tyto_run_does_for_the_whole),
        cmocka_unit_test(an_answer_s_words_are_no_pictures),
        cmocka_unit_test(parameters_persist_until_another_value_comes),
        cmocka_unit_test(one_of_two_turns_at_once_wins),
        cmocka_unit_test(client_that_goes_away_leaves_no_trace),
        cmocka_unit_test(request_with_a_key_is_answered_once),
        cmocka_unit_test(wrong_conversations_are_refused),
        cmocka_unit_test(conversations_are_listed_forked_and_deleted),
        cmocka_unit_test(files_are_sent_once_and_named_afterwards),
        cmocka_unit_test(wrong_files_are_refused),
        cmocka_unit_test(pictures_are_fetched_where_that_is_allowed),
        cmocka_unit_test(owners_have_their_own_and_quotas),
        cmocka_unit_test(redis_away_stops_conversations_alone),
        cmocka_unit_test(turn_survives_the_death_of_redis),
        cmocka_unit_test(gateways_death_frees_the_conversation),
        cmocka_unit_test(conversation_survives_the_death_of_everything),
    };
    return cmocka_run_group_tests_name("conversations", tests, start_all, stop_all);
}
