/*
 * test_cache.c - pictures that were encoded before, through the whole service: they are not encoded again, the answers
 * are the same to the last bit, and nobody waits for a cache that is away, hangs or is full.
 */
#include "tests/support/process.h"
#include "tests/support/service.h"
#include "tests/support/ty_test.h"

#include "common/base/clock.h"
#include "common/store/redis.h"
#include "orchestration/http_client.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARG(x) ((char *)(x))

enum { WAIT_S = 30 };

static const char *pipeline; /* v1-micro, imported once */
static char *body; /* a question about a picture, with the model's own numbers in the answer */

static int prepare(void **state) {
    (void)state;
    pipeline = test_import("v1-micro", "micro", NULL);
    body = test_request("micro", "What is in this picture?",
                        test_path("%s/images/photo_47.jpg", test_golden_dir()),
                        "\"max_tokens\": 12, \"ignore_eos\": true, \"logprobs\": true");
    return 0;
}

static int clean(void **state) {
    (void)state;
    free(body);
    return 0;
}

/* ---- one answer, and what its receipt says of the cache ---- */

typedef struct {
    char *numbers; /* text and logprobs, as JSON */
    json_t *timings;
} answer;

static void answer_clear(answer *a) {
    free(a->numbers);
    json_decref(a->timings);
}

static answer ask(const test_service *s, const char *request) {
    answer a = {0};
    http_reply reply;
    ty_err err = {0};
    http_call call = {.url = test_path("%s/v1/chat/completions", s->url), .body = request};
    if (http_client_call(&call, &reply, &err) != TY_OK) fail_msg("%s", err.text);
    json_t *all = json_loadb(reply.body.data, reply.body.len, 0, NULL);
    if (reply.status != 200)
        fail_msg("%d %.*s", reply.status, (int)reply.body.len, reply.body.data);
    a.numbers = json_dumps(json_object_get(all, "choices"), JSON_SORT_KEYS);
    a.timings = json_incref(json_object_get(all, "timings"));
    assert_true(a.numbers && a.timings);
    json_decref(all);
    ty_buf_clear(&reply.body);
    return a;
}

/* What a stage's record says: "hit", "miss", "error", "off"; "" = the stage has no record. */
static const char *use_of(const answer *a, const char *stage) {
    size_t i;
    json_t *t;
    json_array_foreach(json_object_get(a->timings, "stages"), i, t) {
        if (strcmp(json_string_value(json_object_get(t, "stage")), stage) != 0) continue;
        const char *use = json_string_value(json_object_get(t, "cache"));
        return use ? use : "off";
    }
    return "";
}

/* Asks until the stage's record says so; every answer must have the same numbers. */
static answer ask_until(const test_service *s, const char *want_numbers, const char *stage,
                        const char *use) {
    char last[32] = "";
    for (int64_t until = ty_now_us() + WAIT_S * 1000000LL; ty_now_us() < until; test_nap_ms(20)) {
        answer a = ask(s, body);
        if (want_numbers) assert_string_equal(a.numbers, want_numbers);
        if (strcmp(use_of(&a, stage), use) == 0) return a;
        snprintf(last, sizeof(last), "%s", use_of(&a, stage));
        answer_clear(&a);
    }
    fail_msg("%s: the cache says \"%s\", want \"%s\"", stage, last, use);
    return (answer){0};
}

static void expect(const test_service *s, const char *numbers, const char *stage, const char *use) {
    answer a = ask_until(s, numbers, stage, use);
    answer_clear(&a);
}

/* A counter of the gateway; 0 when the series is not there. */
static double metric(const test_service *s, const char *series) {
    http_reply reply;
    ty_err err = {0};
    http_call call = {.url = test_path("%s/metrics", s->url)};
    if (http_client_call(&call, &reply, &err) != TY_OK) fail_msg("%s", err.text);
    assert_int_equal(ty_buf_append(&reply.body, "", 1), TY_OK);
    const char *at = strstr(reply.body.data, series);
    double v = at ? strtod(at + strlen(series), NULL) : 0;
    ty_buf_clear(&reply.body);
    return v;
}

/* ---- tests ---- */

/* About exif_orient.jpg, a photograph that lies on its side; nothing of it is known yet. */
static answer ask_about_photo(const test_service *s, bool upright) {
    char *request = test_request(
        "micro", "What is it?", test_path("%s/images/exif_orient.jpg", test_golden_dir()),
        upright ? "\"max_tokens\": 12, \"logprobs\": true, \"upright\": true"
                : "\"max_tokens\": 12, \"logprobs\": true");
    answer a = ask(s, request);
    assert_string_equal(use_of(&a, "vit"), "miss");
    free(request);
    return a;
}

/* `upright` makes another picture of it: other numbers, and an entry of its own. */
static void upright_pictures_are_kept_apart(void **state) {
    (void)state;
    test_service s = test_service_up(pipeline, NULL);
    answer lying = ask_about_photo(&s, false), upright = ask_about_photo(&s, true);
    assert_string_not_equal(lying.numbers, upright.numbers);
    answer_clear(&lying);
    answer_clear(&upright);
    test_service_down(&s);
}

static void known_picture_is_not_encoded_again(void **state) {
    (void)state;
    test_service s = test_service_up(pipeline, NULL);
    answer cold = ask(&s, body);
    assert_string_equal(use_of(&cold, "preprocess"), "off");
    assert_string_equal(use_of(&cold, "vit"), "miss");
    assert_string_equal(use_of(&cold, "abstractor"), "miss");
    /* the gateway itself knows it, once its connection is up */
    answer warm = ask_until(&s, cold.numbers, "vit", "");
    assert_string_equal(use_of(&warm, "preprocess"), "");
    assert_string_equal(use_of(&warm, "abstractor"), "hit");
    assert_true(metric(&s, "tyto_cache_lookups_total{stage=\"abstractor\",by=\"gateway\",result="
                           "\"hit\"} ") >= 1);
    assert_true(metric(&s, "tyto_cache_lookups_total{stage=\"vit\",by=\"worker\",result="
                           "\"miss\"} ") == 1);
    assert_true(metric(&s, "tyto_cache_hit_bytes_total{stage=\"abstractor\"} ") > 0);
    answer_clear(&warm);
    answer_clear(&cold);
    test_service_down(&s);
}

static void features_survive_a_swap_of_the_abstractor(void **state) {
    (void)state;
    const char *other =
        test_import("v1-micro", "swapped", (char *[]){ARG("--type"), ARG("abstractor=q8_0"), NULL});
    test_service s = test_service_up(pipeline, (char *[]){ARG("--pipeline"), ARG(other), NULL});
    char *about = test_request("swapped", "What is in this picture?",
                               test_path("%s/images/photo_47.jpg", test_golden_dir()),
                               "\"max_tokens\": 12, \"ignore_eos\": true, \"logprobs\": true");
    expect(&s, NULL, "abstractor", "hit");
    answer a = ask(&s, about);
    assert_string_equal(use_of(&a, "vit"), "hit");
    assert_string_equal(use_of(&a, "abstractor"), "miss");
    answer_clear(&a);
    free(about);
    test_service_down(&s);
}

/* Two ways to compute are two entries: which one an answer gets must not depend on who asks first. */
static void gateway_does_not_ask_when_workers_compute_differently(void **state) {
    (void)state;
    test_service s = test_service_up(pipeline, NULL);
    expect(&s, NULL, "vit", "");
    char model[512], broker[256], log[256];
    snprintf(model, sizeof(model), "%s/vit.gguf", pipeline);
    snprintf(broker, sizeof(broker), "ipc://%s/run/workers.0.sock", s.state);
    snprintf(log, sizeof(log), "%s/log/odd.log", s.state);
    char *const argv[] = {ARG(test_bin("tyto-vit")),
                          ARG("--model"),
                          model,
                          ARG("--connect"),
                          broker,
                          ARG("--worker"),
                          ARG("vit.odd"),
                          ARG("--compute"),
                          ARG("bf16"),
                          NULL};
    pid_t odd = test_spawn(argv, log);
    bool sent = false;
    for (int64_t until = ty_now_us() + WAIT_S * 1000000LL; !sent && ty_now_us() < until;
         test_nap_ms(20)) {
        answer a = ask(&s, body);
        sent = *use_of(&a, "vit") != '\0';
        answer_clear(&a);
    }
    assert_true(sent);
    for (int i = 0; i < 5; i++) {
        answer a = ask(&s, body);
        assert_string_not_equal(use_of(&a, "vit"), "");
        answer_clear(&a);
    }
    assert_int_equal(test_stop(odd, SIGTERM, 20), 0);
    expect(&s, NULL, "vit", "");
    test_service_down(&s);
}

static void answers_stay_when_the_cache_hangs_and_dies(void **state) {
    (void)state;
    test_service s = test_service_up(pipeline, NULL);
    answer cold = ask(&s, body);
    expect(&s, cold.numbers, "abstractor", "hit");
    pid_t cache = test_service_pid(&s, "redis.cache", NULL);
    assert_true(cache > 0);
    kill(cache, SIGSTOP);
    expect(&s, cold.numbers, "vit", "error");
    kill(cache, SIGCONT);
    expect(&s, cold.numbers, "abstractor", "hit");
    kill(cache, SIGKILL); /* the next one starts empty */
    expect(&s, cold.numbers, "abstractor", "miss");
    expect(&s, cold.numbers, "abstractor", "hit");
    answer_clear(&cold);
    test_service_down(&s);
}

/* No memory at all: each write is refused. */
static void fill(const test_service *s) {
    ty_redis *r = NULL;
    redisReply *reply = NULL;
    const char *argv[] = {"CONFIG", "SET", "maxmemory", "1"};
    size_t len[] = {6, 3, 9, 1};
    assert_int_equal(
        ty_redis_create(&r, test_path("unix://%s/run/cache.sock", s->state), 5000, NULL), TY_OK);
    assert_int_equal(ty_redis_command(r, 4, argv, len, &reply, NULL), TY_OK);
    freeReplyObject(reply);
    ty_redis_destroy(&r);
}

static void answers_stay_when_the_cache_is_full(void **state) {
    (void)state;
    test_service s = test_service_up(pipeline, NULL);
    fill(&s);
    answer cold = ask(&s, body);
    for (int i = 0; i < 5; i++) {
        answer a = ask(&s, body);
        assert_string_equal(a.numbers, cold.numbers);
        /* A slow machine's lookup may come too late: "error". */
        assert_string_not_equal(use_of(&a, "vit"), "hit");
        answer_clear(&a);
    }
    answer_clear(&cold);
    test_service_down(&s);
}

static void nothing_is_looked_up_when_there_is_no_cache(void **state) {
    (void)state;
    test_service s = test_service_up(pipeline, (char *[]){ARG("--cache-url"), ARG("none"), NULL});
    for (int i = 0; i < 2; i++) {
        answer a = ask(&s, body);
        assert_string_equal(use_of(&a, "vit"), "off");
        assert_string_equal(use_of(&a, "abstractor"), "off");
        answer_clear(&a);
    }
    test_service_down(&s);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN); /* hiredis */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_picture_is_not_encoded_again),
        cmocka_unit_test(upright_pictures_are_kept_apart),
        cmocka_unit_test(features_survive_a_swap_of_the_abstractor),
        cmocka_unit_test(gateway_does_not_ask_when_workers_compute_differently),
        cmocka_unit_test(answers_stay_when_the_cache_hangs_and_dies),
        cmocka_unit_test(answers_stay_when_the_cache_is_full),
        cmocka_unit_test(nothing_is_looked_up_when_there_is_no_cache),
    };
    return cmocka_run_group_tests(tests, prepare, clean);
}
