/* redis_async.h against a real redis-server that comes, dies, hangs and comes back. */
#include "tests/support/process.h"
#include "tests/support/redis.h"
#include "tests/support/ty_test.h"

#include "common/base/clock.h"
#include "common/store/redis_async.h"

#include <signal.h>
#include <string.h>

enum { TIMEOUT_MS = 400, WAIT_S = 20 };

static test_redis server;
static struct event_base *base;
static struct event *tick;
static ty_redis_async *redis;

static void on_tick(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what, (void)arg;
    if (redis) ty_redis_async_tick(redis);
}

/* Runs the loop until `value` is `want`. */
static void run_until(const bool *value, bool want) {
    int64_t until = ty_now_us() + WAIT_S * 1000000LL;
    while (*value != want && ty_now_us() < until) event_base_loop(base, EVLOOP_ONCE);
    assert_int_equal(*value, want);
}

static void run_until_up(bool up) {
    int64_t until = ty_now_us() + WAIT_S * 1000000LL;
    while (ty_redis_async_up(redis) != up && ty_now_us() < until)
        event_base_loop(base, EVLOOP_ONCE);
    assert_int_equal(ty_redis_async_up(redis), up);
    assert_int_equal(*ty_redis_async_reason(redis) == '\0', up);
}

typedef struct {
    bool called;
    ty_status lost; /* TY_OK: there was a reply */
    char text[64];
    long long number;
    int order;
} reply;

static int calls;

static void on_reply(void *ctx, const redisReply *r, const ty_err *err) {
    reply *x = ctx;
    assert_false(x->called);
    x->called = true;
    x->order = ++calls;
    x->lost = r ? TY_OK : err->code;
    if (r && r->str) strncpy(x->text, r->str, sizeof(x->text) - 1);
    if (r) x->number = r->integer;
    /* a function may send again, whatever it was called for */
    ty_store_command none = {0};
    if (!r)
        assert_int_equal(ty_redis_async_send(redis, &none, NULL, NULL, NULL, NULL),
                         TY_EUNAVAILABLE);
}

static ty_status send_words(reply *x, ty_redis_sent **sent, const char *a, const char *b) {
    char *argv[] = {(char *)(uintptr_t)a, (char *)(uintptr_t)b};
    size_t len[] = {strlen(a), b ? strlen(b) : 0};
    ty_store_command c = {b ? 2 : 1, argv, len};
    return ty_redis_async_send(redis, &c, on_reply, x, sent, NULL);
}

static void replies_come_in_order(void **state) {
    (void)state;
    reply x[100] = {0};
    run_until_up(true);
    for (int i = 0; i < 100; i++) assert_int_equal(send_words(&x[i], NULL, "INCR", "n"), TY_OK);
    assert_false(x[0].called);
    run_until(&x[99].called, true);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(x[i].number, i + 1);
        assert_int_equal(x[i].order - x[0].order, i);
    }
    reply bad = {0};
    assert_int_equal(send_words(&bad, NULL, "NOSUCHCOMMAND", NULL), TY_OK);
    run_until(&bad.called, true);
    assert_int_equal(bad.lost, TY_OK);
    assert_memory_equal(bad.text, "ERR", 3);
    assert_true(ty_redis_async_up(redis));
}

static void forgotten_commands_call_nobody(void **state) {
    (void)state;
    reply x = {0}, last = {0};
    ty_redis_sent *sent = NULL;
    assert_int_equal(send_words(&x, &sent, "PING", NULL), TY_OK);
    assert_non_null(sent);
    ty_redis_sent_forget(&sent);
    assert_null(sent);
    ty_redis_sent_forget(&sent);
    assert_int_equal(send_words(&last, NULL, "PING", NULL), TY_OK);
    run_until(&last.called, true);
    assert_false(x.called);
}

static void server_that_hangs_is_away_and_comes_back(void **state) {
    (void)state;
    reply x = {0}, y = {0};
    assert_int_equal(kill(server.pid, SIGSTOP), 0);
    assert_int_equal(send_words(&x, NULL, "PING", NULL), TY_OK);
    assert_int_equal(send_words(&y, NULL, "PING", NULL), TY_OK);
    run_until(&x.called, true);
    assert_int_equal(x.lost, TY_EIO);
    assert_int_equal(y.lost, TY_EIO);
    assert_false(ty_redis_async_up(redis));
    assert_int_equal(send_words(&y, NULL, "PING", NULL), TY_EUNAVAILABLE);
    assert_int_equal(kill(server.pid, SIGCONT), 0);
    run_until_up(true);
}

static void server_that_dies_is_away_and_comes_back(void **state) {
    (void)state;
    reply x = {0};
    assert_int_equal(kill(server.pid, SIGSTOP), 0); /* so that the command is surely under way */
    assert_int_equal(send_words(&x, NULL, "PING", NULL), TY_OK);
    test_redis_kill(&server);
    run_until(&x.called, true);
    assert_int_equal(x.lost, TY_EIO);
    run_until_up(false);
    test_redis_start(&server, server.dir, 1);
    run_until_up(true);
}

static void commands_under_way_end_with_the_connection(void **state) {
    (void)state;
    reply x = {0};
    ty_redis_async *other;
    assert_int_equal(ty_redis_async_create(&other, base, "redis://127.0.0.1:1", TIMEOUT_MS, NULL),
                     TY_OK);
    ty_redis_async_tick(other); /* nobody is there */
    assert_false(ty_redis_async_up(other));
    ty_redis_async_destroy(&other);
    assert_int_equal(ty_redis_async_create(&other, base, "nonsense", TIMEOUT_MS, NULL), TY_EINVAL);
    assert_int_equal(send_words(&x, NULL, "PING", NULL), TY_OK);
    ty_redis_async_destroy(&redis);
    assert_false(x.called);
}

static int start(void **state) {
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    test_redis_start(&server, test_temp_dir(), 1);
    base = event_base_new();
    tick = event_new(base, -1, EV_PERSIST, on_tick, NULL);
    if (!tick || event_add(tick, &(struct timeval){.tv_usec = 20000}) != 0) return -1;
    return ty_redis_async_create(&redis, base, server.url, TIMEOUT_MS, NULL) == TY_OK ? 0 : -1;
}

static int stop(void **state) {
    (void)state;
    test_redis_kill(&server);
    event_free(tick);
    event_base_free(base);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replies_come_in_order),
        cmocka_unit_test(forgotten_commands_call_nobody),
        cmocka_unit_test(server_that_hangs_is_away_and_comes_back),
        cmocka_unit_test(server_that_dies_is_away_and_comes_back),
        cmocka_unit_test(commands_under_way_end_with_the_connection),
    };
    return cmocka_run_group_tests_name("redis_async", tests, start, stop);
}
