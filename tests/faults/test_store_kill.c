/*
 * Redis is killed again and again while conversations go on, through two gateways.  Every answer is the one that
 * comes undisturbed; every turn that was acknowledged is in its conversation, once, and no other.  When its disk is full,
 * or its memory, turns are refused and what was there stays.
 */
#include "tests/support/process.h"
#include "tests/support/redis.h"
#include "tests/support/service.h"
#include "tests/support/ty_test.h"

#include "common/base/clock.h"
#include "common/store/redis.h"
#include "orchestration/http_client.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARGV(...) ((char *const *)(const char *const[]){__VA_ARGS__, NULL})

enum { TALKS = 12, ROUNDS = 4, MAX_TOKENS = 60, PATIENCE_S = 60, REDIS_AWAY_MS = 50 };

static test_redis redis;
static test_service service, other; /* the same processes, through each gateway */

static char *turn(const char *conversation, int round, bool stream) {
    char *body = malloc(512);
    assert_non_null(body);
    snprintf(body, 512,
             "{\"model\": \"v1-micro\", \"conversation\": \"%s\", \"max_tokens\": %d, "
             "\"ignore_eos\": true, %s\"messages\": [{\"role\": \"user\", \"content\": \"Question "
             "%d?\"}]}",
             *conversation ? conversation : "new", MAX_TOKENS, stream ? "\"stream\": true, " : "",
             round);
    return body;
}

typedef struct {
    char id[64];
    int rounds; /* answered */
} talk;

static int waited; /* turns that were answered and had to wait for Redis */

/* Was Redis away while it was begun, or when it was to be stored? */
static bool has_waited(const json_t *timings) {
    const json_t *g = json_object_get(timings, "gateway");
    return json_number_value(json_object_get(g, "load_ms")) > REDIS_AWAY_MS ||
           json_number_value(json_object_get(g, "store_ms")) > REDIS_AWAY_MS;
}

/* One try of the next turn of each that has not got there yet; Redis dies in the middle when `kill`. */
static void try_round(talk *t, int round, char *const *want, bool disturb) {
    test_question q[TALKS] = {0};
    int who[TALKS], n = 0, half = 0;
    for (int parity = 0; parity < 2;
         parity++) { /* even ones through one gateway, odd ones through the other */
        for (int i = 0; i < TALKS; i++) {
            if (t[i].rounds > round || (i + round) % 2 != parity) continue;
            who[n] = i;
            q[n++].body = turn(t[i].id, round, i % 3 == 0);
        }
        if (parity == 0) half = n;
    }
    void *first = half > 0 ? test_ask_begin(&service, q, half) : NULL;
    void *second = n > half ? test_ask_begin(&other, q + half, n - half) : NULL;
    if (disturb) {
        test_nap_ms(1 + round * 2);
        test_redis_kill(&redis);
        test_nap_ms(REDIS_AWAY_MS);
        test_redis_start(&redis, redis.dir, 1);
    }
    if (first) test_ask_join(first);
    if (second) test_ask_join(second);
    for (int k = 0; k < n; k++) {
        talk *x = &t[who[k]];
        if (q[k].status == 200 && q[k].finishes == 1 && *q[k].conversation) {
            if (want) assert_string_equal(q[k].text, want[round]);
            assert_true(!*x->id || strcmp(x->id, q[k].conversation) == 0);
            memcpy(x->id, q[k].conversation, sizeof(x->id));
            x->rounds = round + 1;
            waited += has_waited(q[k].timings);
        } else if (q[k].status != 503) {
            fail_msg("status %d: %s", q[k].status, q[k].raw ? q[k].raw : q[k].text);
        }
        free((char *)(uintptr_t)q[k].body);
        test_question_clear(&q[k]);
    }
}

static int least(const talk *t) {
    int least = ROUNDS;
    for (int i = 0; i < TALKS; i++)
        if (t[i].rounds < least) least = t[i].rounds;
    return least;
}

static json_t *get(const char *id) {
    char url[160];
    http_reply r;
    ty_err err = {0};
    snprintf(url, sizeof(url), "%s/v1/conversations/%s", other.url, id);
    http_call call = {.url = url, .timeout_ms = 20000};
    if (http_client_call(&call, &r, &err) != TY_OK) fail_msg("%s", err.text);
    if (r.status != 200) fail_msg("%d: %s", r.status, r.body.data);
    json_t *j = json_loadb(r.body.data, r.body.len, 0, NULL);
    ty_buf_clear(&r.body);
    return j;
}

static const char *content_of(json_t *conversation, size_t i) {
    json_t *t = json_array_get(json_object_get(conversation, "turns"), i);
    return json_string_value(json_object_get(t, "content"));
}

static void conversations_survive_redis_killed_again_and_again(void **state) {
    (void)state;
    talk t[TALKS] = {0}, calm[TALKS] = {0};
    char *want[ROUNDS];
    for (int r = 0; r < ROUNDS; r++) try_round(calm, r, NULL, false);
    json_t *c = get(calm[0].id);
    for (int r = 0; r < ROUNDS; r++) want[r] = strdup(content_of(c, 2 * (size_t)r + 1));
    json_decref(c);
    int tries = 0;
    for (int64_t until = ty_now_us() + PATIENCE_S * 1000000LL;
         least(t) < ROUNDS && ty_now_us() < until; tries++)
        try_round(t, least(t), want, tries < 2 * ROUNDS);
    print_message("%d tries for %d rounds, %d turns waited for Redis\n", tries, ROUNDS, waited);
    assert_true(waited > 0); /* it really died in mid-turn */
    assert_int_equal(least(t), ROUNDS);
    for (int i = 0; i < TALKS; i++) {
        c = get(t[i].id);
        assert_int_equal(json_array_size(json_object_get(c, "turns")), 2 * ROUNDS);
        for (int r = 0; r < ROUNDS; r++)
            assert_string_equal(content_of(c, 2 * (size_t)r + 1), want[r]);
        json_decref(c);
    }
    for (int r = 0; r < ROUNDS; r++) free(want[r]);
}

static long long ask_redis(const char *const *argv, int argc) {
    ty_redis *c;
    redisReply *reply = NULL;
    size_t len[4];
    ty_err err = {0};
    for (int i = 0; i < argc; i++) len[i] = strlen(argv[i]);
    assert_int_equal(ty_redis_create(&c, redis.url, 2000, NULL), TY_OK);
    if (ty_redis_command(c, argc, argv, len, &reply, &err) != TY_OK) fail_msg("%s", err.text);
    long long n = reply->integer;
    freeReplyObject(reply);
    ty_redis_destroy(&c);
    return n;
}

static void tell_redis(const char *key, const char *value) {
    (void)ask_redis((const char *const[]){"CONFIG", "SET", key, value}, 4);
}

static bool is_begun(const char *id) {
    char key[80];
    snprintf(key, sizeof(key), "tyto:conv:%s", id);
    return ask_redis((const char *const[]){"HEXISTS", key, "lease"}, 3) == 1;
}

static void full_redis_refuses_turns_and_keeps_what_it_has(void **state) {
    (void)state;
    talk t[TALKS] = {0};
    try_round(t, 0, NULL, false);
    assert_int_equal(least(t), 1);
    tell_redis("maxmemory", "1"); /* byte */
    test_question q = {.body = turn(t[0].id, 1, false)};
    test_ask_all(&service, &q, 1);
    assert_int_equal(q.status, 503);
    assert_non_null(strstr(q.raw, "store_unavailable"));
    assert_non_null(strstr(q.raw, "OOM"));
    free((char *)(uintptr_t)q.body);
    test_question_clear(&q);
    json_decref(get(t[0].id));
    /* and when the memory ends in mid-turn */
    tell_redis("maxmemory", "0");
    pid_t decoder = test_service_pid(&service, "decoder.0", NULL);
    kill(decoder, SIGSTOP);
    q.body = turn(t[0].id, 1, false);
    void *asking = test_ask_begin(&service, &q, 1);
    for (int i = 0; i < PATIENCE_S * 200 && !is_begun(t[0].id); i++) test_nap_ms(5);
    assert_true(is_begun(t[0].id));
    tell_redis("maxmemory", "1");
    kill(decoder, SIGCONT);
    test_ask_join(asking);
    assert_int_equal(q.status, 503);
    assert_non_null(strstr(q.raw, "OOM"));
    free((char *)(uintptr_t)q.body);
    test_question_clear(&q);
    tell_redis("maxmemory", "0");
    try_round(t, 1, NULL, false);
    assert_int_equal(least(t), 2);
}

static int start(void **state) {
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    char dir[64], listen[64];
    snprintf(dir, sizeof(dir), "%s", test_temp_dir());
    test_redis_start(&redis, dir, 1);
    int port = test_free_port(), port2 = test_free_port();
    snprintf(listen, sizeof(listen), "127.0.0.1:%d,127.0.0.1:%d", port, port2);
    service = test_service_up(test_import("v1-micro", "v1-micro", NULL),
                              ARGV("--listen", listen, "--gateway", "2", "--redis-url", redis.url,
                                   "--cache-url", "none"));
    other = service;
    snprintf(service.url, sizeof(service.url), "http://127.0.0.1:%d", port);
    snprintf(other.url, sizeof(other.url), "http://127.0.0.1:%d", port2);
    return 0;
}

static int stop(void **state) {
    (void)state;
    test_service_down(&service);
    test_redis_kill(&redis);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conversations_survive_redis_killed_again_and_again),
        cmocka_unit_test(full_redis_refuses_turns_and_keeps_what_it_has),
    };
    return cmocka_run_group_tests_name("store_kill", tests, start, stop);
}
