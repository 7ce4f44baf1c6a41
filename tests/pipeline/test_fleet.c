/*
 * test_fleet.c - what `tyto up` runs beside the stages: the two private stores and what they keep, and several
 * gateways and brokers.
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
#include <sys/stat.h>
#include <unistd.h>

#define ARG(x) ((char *)(x))

enum { WAIT_S = 20 };

static const char *pipeline; /* v1-micro, imported once */

static int import_once(void **state) {
    (void)state;
    pipeline = test_import("v1-micro", "micro", NULL);
    return 0;
}

/* ---- the stores ---- */

/* The text that a command answers, or its error's; "(nil)", or the number as text. */
static const char *ask_store(const char *url, int argc, const char *const *argv) {
    static char text[512];
    ty_redis *r = NULL;
    redisReply *reply = NULL;
    ty_err err = {0};
    size_t len[8];
    for (int i = 0; i < argc; i++) len[i] = strlen(argv[i]);
    assert_int_equal(ty_redis_create(&r, url, 5000, &err), TY_OK);
    if (ty_redis_command(r, argc, argv, len, &reply, &err) != TY_OK)
        snprintf(text, sizeof(text), "%s", err.text);
    else if (reply->type == REDIS_REPLY_ARRAY)
        snprintf(text, sizeof(text), "%s", reply->elements > 1 ? reply->element[1]->str : "");
    else
        snprintf(text, sizeof(text), "%s", reply->str ? reply->str : "(nil)");
    if (reply) freeReplyObject(reply);
    ty_redis_destroy(&r);
    return text;
}

#define ASK_STORE(url, ...)                                                                        \
    ask_store(url, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *),                    \
              (const char *const[]){__VA_ARGS__})

typedef struct {
    char conversations[256], cache[256];
} store_urls;

static store_urls urls_of(const test_service *s) {
    store_urls u;
    snprintf(u.conversations, sizeof(u.conversations), "unix://%s/run/redis.sock", s->state);
    snprintf(u.cache, sizeof(u.cache), "unix://%s/run/cache.sock", s->state);
    return u;
}

static void stores_have_opposite_policies_when_up(void **state) {
    (void)state;
    test_service s = test_service_up(
        pipeline, (char *[]){ARG("--redis-mib"), ARG("64"), ARG("--cache-mib"), ARG("32"), NULL});
    store_urls u = urls_of(&s);
    const char *conversations = u.conversations, *cache = u.cache;
    assert_string_equal(ASK_STORE(conversations, "CONFIG", "GET", "appendonly"), "yes");
    assert_string_equal(ASK_STORE(conversations, "CONFIG", "GET", "appendfsync"), "always");
    assert_string_equal(ASK_STORE(conversations, "CONFIG", "GET", "maxmemory-policy"),
                        "noeviction");
    assert_string_equal(ASK_STORE(conversations, "CONFIG", "GET", "maxmemory"), "67108864");
    assert_string_equal(ASK_STORE(cache, "CONFIG", "GET", "appendonly"), "no");
    assert_string_equal(ASK_STORE(cache, "CONFIG", "GET", "save"), "");
    assert_string_equal(ASK_STORE(cache, "CONFIG", "GET", "maxmemory-policy"), "allkeys-lru");
    assert_string_equal(ASK_STORE(cache, "CONFIG", "GET", "maxmemory"), "33554432");
    /* no port, and sockets for us alone */
    assert_string_equal(ASK_STORE(conversations, "CONFIG", "GET", "port"), "0");
    struct stat sb;
    assert_int_equal(stat(conversations + strlen("unix://"), &sb), 0);
    assert_int_equal(sb.st_mode & 0777, 0600);
    assert_int_equal(stat(cache + strlen("unix://"), &sb), 0);
    assert_int_equal(sb.st_mode & 0777, 0600);
    assert_int_equal(access(test_path("%s/log/redis.state.log", s.state), F_OK), 0);
    test_service_down(&s);
}

/* Kills the process and waits for its successor; the store answers again. */
static void kill_store(const test_service *s, const char *process, const char *url) {
    pid_t old = test_service_pid(s, process, NULL), now = old;
    assert_true(old > 0);
    assert_int_equal(kill(old, SIGKILL), 0);
    for (int64_t until = ty_now_us() + WAIT_S * 1000000LL; ty_now_us() < until; test_nap_ms(20)) {
        now = test_service_pid(s, process, NULL);
        if (now > 0 && now != old && strcmp(ASK_STORE(url, "PING"), "PONG") == 0) return;
    }
    fail_msg("%s was not started again", process);
}

static void state_store_keeps_what_it_acknowledged_when_everything_is_killed(void **state) {
    (void)state;
    test_service s = test_service_up(pipeline, NULL);
    store_urls u = urls_of(&s);
    const char *url = u.conversations, *cache = u.cache;
    assert_string_equal(ASK_STORE(url, "SET", "turn", "one"), "OK");
    assert_string_equal(ASK_STORE(cache, "SET", "features", "x"), "OK");
    kill_store(&s, "redis.state", url);
    kill_store(&s, "redis.cache", cache);
    assert_string_equal(ASK_STORE(url, "GET", "turn"), "one");
    assert_string_equal(ASK_STORE(cache, "GET", "features"), "(nil)");
    assert_string_equal(ASK_STORE(url, "SET", "turn", "two"), "OK");
    /* all at once: the children die with the supervisor */
    assert_int_equal(test_stop(s.pid, SIGKILL, 10), -SIGKILL);
    test_service_again(&s, pipeline, NULL);
    assert_string_equal(ASK_STORE(url, "GET", "turn"), "two");
    test_service_down(&s);
    test_service_again(&s, pipeline, NULL);
    assert_string_equal(ASK_STORE(url, "GET", "turn"), "two");
    test_service_down(&s);
}

/* Processes whose name begins so. */
static int count(const test_service *s, const char *prefix) {
    json_t *all = test_service_status(s), *p;
    size_t i;
    int n = 0;
    json_array_foreach(json_object_get(all, "processes"), i, p) {
        n += strncmp(json_string_value(json_object_get(p, "name")), prefix, strlen(prefix)) == 0;
    }
    json_decref(all);
    return n;
}

static void up_starts_no_store_when_urls_name_others_or_none(void **state) {
    (void)state;
    test_redis other;
    char dir[] = "/tmp/tyto-redis-XXXXXX";
    assert_non_null(mkdtemp(dir));
    test_redis_start(&other, dir, 0);
    test_service s = test_service_up(
        pipeline, (char *[]){ARG("--redis-url"), ARG("none"), ARG("--cache-url"), other.url, NULL});
    assert_int_equal(count(&s, "redis"), 0);
    assert_int_not_equal(access(test_path("%s/data", s.state), F_OK), 0);
    test_service_down(&s);
    test_redis_kill(&other);
    unlink(test_path("%s/redis.sock", dir));
    rmdir(dir);
}

static test_output up_with(const char *flag, const char *value) {
    return TEST_RUN(ARG(test_bin("tyto")), ARG("up"), ARG("--pipeline"), ARG(pipeline),
                    ARG("--temporary"), ARG("--listen"),
                    ARG(test_path("127.0.0.1:%d", test_free_port())), ARG(flag), ARG(value));
}

static void up_says_the_remedy_when_a_store_cannot_be(void **state) {
    (void)state;
    test_output o = up_with("--redis-server", "redis-server-that-is-not-there");
    assert_int_equal(o.exit_code, 1);
    assert_non_null(strstr(o.err, "apt-get install redis-server"));
    assert_non_null(strstr(o.err, "TYTO_REDIS_URL"));
    assert_non_null(strstr(o.err, "--redis-url none"));
    test_output_clear(&o);
    o = up_with("--cache-url", "http://localhost");
    assert_int_equal(o.exit_code, 1);
    assert_non_null(strstr(o.err, "redis://"));
    test_output_clear(&o);
    o = up_with("--listen", "127.0.0.1:1,127.0.0.1:2");
    assert_int_equal(o.exit_code, 2);
    assert_non_null(strstr(o.err, "--gateway"));
    test_output_clear(&o);
}

/* ---- several gateways and brokers ---- */

/* The name of the gateway that answers at a port. */
static void who_answers(int port, char name[64]) {
    http_reply reply;
    ty_err err = {0};
    http_call call = {.url = test_path("http://127.0.0.1:%d/readyz", port)};
    if (http_client_call(&call, &reply, &err) != TY_OK) fail_msg("%s", err.text);
    json_t *all = json_loadb(reply.body.data, reply.body.len, 0, NULL);
    assert_int_equal(reply.status, 200);
    assert_int_equal(json_array_size(json_object_get(all, "brokers")), 2);
    snprintf(name, 64, "%s", json_string_value(json_object_get(all, "gateway")));
    json_decref(all);
    ty_buf_clear(&reply.body);
}

static void ask_through_all(const test_service *s) {
    char *body = test_request("micro", "Hello", NULL, "\"max_tokens\": 8");
    test_question q[16] = {{0}};
    for (int i = 0; i < 16; i++) q[i].body = body;
    test_ask_all(s, q, 16);
    for (int i = 0; i < 16; i++) {
        assert_int_equal(q[i].status, 200);
        assert_string_equal(q[i].text, q[0].text);
    }
    for (int i = 0; i < 16; i++) test_question_clear(&q[i]);
    free(body);
}

static void gateways_share_a_port_when_there_is_one(void **state) {
    (void)state;
    test_service s = test_service_up(
        pipeline, (char *[]){ARG("--gateway"), ARG("2"), ARG("--broker"), ARG("2"), NULL});
    bool seen[2] = {0};
    assert_int_equal(count(&s, "broker"), 2);
    assert_int_equal(count(&s, "gateway"), 2);
    for (int i = 0; i < 100 && !(seen[0] && seen[1]); i++) {
        char name[64];
        who_answers(s.port, name);
        seen[strcmp(name, "gateway.1") == 0] = true;
    }
    assert_true(seen[0] && seen[1]);
    ask_through_all(&s);
    test_service_down(&s);
}

static void gateways_have_ports_of_their_own_when_listed(void **state) {
    (void)state;
    char listen[64], name[64];
    int second = test_free_port(), first = test_free_port();
    snprintf(listen, sizeof(listen), "127.0.0.1:%d,127.0.0.1:%d", first, second);
    test_service s =
        test_service_up(pipeline, (char *[]){ARG("--gateway"), ARG("2"), ARG("--broker"), ARG("2"),
                                             ARG("--listen"), listen, NULL});
    who_answers(first, name);
    assert_string_equal(name, "gateway.0");
    who_answers(second, name);
    assert_string_equal(name, "gateway.1");
    test_service_down(&s);
}

static void keys_are_made_when_the_transport_is_tcp(void **state) {
    (void)state;
    test_service s = test_service_up(pipeline, (char *[]){ARG("--transport"), ARG("tcp"), NULL});
    struct stat sb;
    assert_int_equal(stat(test_path("%s/data/keys/broker.key", s.state), &sb), 0);
    assert_int_equal(sb.st_mode & 0777, 0600);
    ask_through_all(&s);
    test_service_down(&s);
    test_service_again(&s, pipeline, (char *[]){ARG("--transport"), ARG("tcp"), NULL});
    ask_through_all(&s);
    test_service_down(&s);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN); /* hiredis */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stores_have_opposite_policies_when_up),
        cmocka_unit_test(state_store_keeps_what_it_acknowledged_when_everything_is_killed),
        cmocka_unit_test(up_starts_no_store_when_urls_name_others_or_none),
        cmocka_unit_test(up_says_the_remedy_when_a_store_cannot_be),
        cmocka_unit_test(keys_are_made_when_the_transport_is_tcp),
        cmocka_unit_test(gateways_share_a_port_when_there_is_one),
        cmocka_unit_test(gateways_have_ports_of_their_own_when_listed),
    };
    return cmocka_run_group_tests(tests, import_once, NULL);
}
