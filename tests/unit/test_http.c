/* http.h: a server in a child process, plain sockets against it. */
#include "tests/support/http_client.h"
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include "common/base/log.h"
#include "services/gateway/http.h"

#include <event2/event.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 32 }; /* connections */

static int port;
static pid_t server_pid;

/* ---- the child ---- */

typedef struct {
    http_server *server;
    struct event_base *base;
    struct event *timer; /* streams and late answers */
    http_call *held, *stream, *long_stream;
    int n_sent; /* events of the long one */
    int gone, finished, last_status;
} site;

static void on_echo(void *ctx, http_call *c) {
    (void)ctx;
    const char *data;
    size_t len;
    if (http_call_body(c, &data, &len, NULL) != TY_OK)
        http_abort(c);
    else
        http_reply(c, 200, "text/plain", data, len);
}

static void on_counts(void *ctx, http_call *c) {
    site *s = ctx;
    http_reply_json(c, 200,
                    json_pack("{s:i, s:i, s:i, s:i}", "gone", s->gone, "finished", s->finished,
                              "last_status", s->last_status, "active",
                              http_server_active(s->server)));
}

static void held_gone(void *ctx) {
    site *s = ctx;
    s->gone++;
    s->held = NULL;
}

static void on_hold(void *ctx, http_call *c) { /* never answered */
    site *s = ctx;
    s->held = c;
    http_call_on_gone(c, held_gone, s);
}

static void on_later(void *ctx, http_call *c) { /* answered by the timer */
    ((site *)ctx)->held = c;
}

static void stream_gone(void *ctx) {
    site *s = ctx;
    s->gone++;
    s->stream = NULL;
}

static void on_stream(void *ctx, http_call *c) { /* as fast as it goes, without end */
    site *s = ctx;
    s->stream = c;
    http_call_on_gone(c, stream_gone, s);
    http_stream_start(c);
}

enum { LONG_EVENTS = 512 }; /* 8 MiB: more than the kernel takes of what is not read */
static const char long_event[16384] = "data: x\n\n";

static void long_gone(void *ctx) {
    ((site *)ctx)->long_stream = NULL;
}

static void on_long(void *ctx, http_call *c) { /* as fast as it is read */
    site *s = ctx;
    s->long_stream = c;
    s->n_sent = 0;
    http_call_on_gone(c, long_gone, s);
    http_stream_start(c);
}

static void send_long(site *s) {
    while (s->n_sent < LONG_EVENTS &&
           http_stream_send(s->long_stream, long_event, sizeof(long_event)) == TY_OK)
        s->n_sent++;
    if (s->n_sent < LONG_EVENTS) return;
    http_stream_end(s->long_stream);
    s->long_stream = NULL;
}

static void on_short(void *ctx, http_call *c) {
    (void)ctx;
    http_stream_start(c);
    http_stream_send(c, "data: 1\n\n", 9);
    http_stream_send(c, "data: 2\n\n", 9);
    http_stream_end(c);
}

static void on_path(void *ctx, http_call *c) {
    (void)ctx;
    http_reply(c, 200, "text/plain", http_call_path(c), strlen(http_call_path(c)));
}

static void on_drain(void *ctx, http_call *c) {
    http_server_drain(((site *)ctx)->server);
    http_reply(c, 200, "text/plain", "bye", 3);
}

static void on_tick(evutil_socket_t fd, short what, void *ctx) {
    (void)fd, (void)what;
    static const char line[16384] = "data: x\n\n";
    site *s = ctx;
    if (s->stream && http_stream_send(s->stream, line, sizeof(line)) == TY_ELIMIT) {
        http_abort(s->stream);
        s->stream = NULL;
        s->gone += 100;
    }
    if (s->long_stream) send_long(s);
    if (s->held && strcmp(http_call_path(s->held), "/later") == 0) {
        http_call *c = s->held;
        s->held = NULL;
        http_reply(c, 200, "text/plain", "late", 4);
    }
}

static void on_finish(void *ctx, const char *route, int status, int64_t us) {
    (void)route, (void)us;
    ((site *)ctx)->finished++;
    ((site *)ctx)->last_status = status;
}

static void on_term(evutil_socket_t fd, short what, void *ctx) {
    (void)fd, (void)what;
    event_base_loopbreak(((site *)ctx)->base);
}

static const http_route routes[] = {
    {"POST", "/echo", false, on_echo},
    {"GET", "/echo", false, on_echo},
    {"GET", "/counts", true, on_counts},
    {"GET", "/hold", false, on_hold},
    {"GET", "/later", false, on_later},
    {"GET", "/stream", false, on_stream},
    {"GET", "/long", false, on_long},
    {"GET", "/short", false, on_short},
    {"GET", "/things/*", false, on_path},
    {"POST", "/drain", false, on_drain},
    {NULL, NULL, false, NULL},
};

static int serve(int port_pipe) {
    site s = {0};
    auth *a = NULL;
    ty_err e = {0};
    ty_log_init("http", TY_LOG_ERROR);
    s.base = event_base_new();
    if (!s.base || auth_create(&a, getenv("TEST_KEYS"), &e) != TY_OK) return 3;
    http_options o = {.host = "127.0.0.1",
                      .max_connections = MOST,
                      .max_body_bytes = 1 << 20,
                      .max_backlog_bytes = 1 << 16,
                      .idle_s = 1,
                      .write_s = 20,
                      .auth = a,
                      .routes = routes,
                      .ctx = &s,
                      .on_finish = on_finish};
    if (http_server_create(&s.server, s.base, &o, &e) != TY_OK) return 4;
    int p = http_server_port(s.server);
    if (write(port_pipe, &p, sizeof(p)) != sizeof(p)) return 5;
    close(port_pipe);
    struct event *term = evsignal_new(s.base, SIGTERM, on_term, &s);
    s.timer = event_new(s.base, -1, EV_PERSIST, on_tick, &s);
    struct timeval tick = {.tv_usec = 1000};
    if (!term || !s.timer || event_add(term, NULL) || event_add(s.timer, &tick)) return 6;
    event_base_dispatch(s.base);
    http_server_destroy(&s.server);
    event_free(term);
    event_free(s.timer);
    event_base_free(s.base);
    auth_destroy(&a);
    return 0;
}

/* ---- the tests ---- */

static int start(void **state) {
    (void)state;
    int fds[2];
    if (pipe(fds) != 0) return -1;
    server_pid = fork();
    if (server_pid < 0) return -1;
    if (server_pid == 0) {
        close(fds[0]);
        exit(serve(fds[1]));
    }
    close(fds[1]);
    ssize_t n = read(fds[0], &port, sizeof(port));
    close(fds[0]);
    return n == sizeof(port) ? 0 : -1;
}

static int stop(void **state) {
    (void)state;
    int status = 0;
    kill(server_pid, SIGTERM);
    if (waitpid(server_pid, &status, 0) != server_pid) return -1;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        print_error("server ended with %d\n", status);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

static long long count(const char *name) {
    test_reply r = TEST_GET(port, "/counts");
    json_t *j = json_loads(r.body, 0, NULL);
    long long n = json_integer_value(json_object_get(j, name));
    json_decref(j);
    test_reply_clear(&r);
    return n;
}

static void wait_count(const char *name, long long want) {
    for (int i = 0; i < 500; i++) {
        if (count(name) == want) return;
        usleep(10000);
    }
    fail_msg("%s is %lld, want %lld", name, count(name), want);
}

static void expect_error(test_reply r, int status, const char *code) {
    assert_int_equal(r.status, status);
    json_t *j = json_loads(r.body, 0, NULL), *e = json_object_get(j, "error");
    assert_non_null(e);
    assert_string_equal(json_string_value(json_object_get(e, "code")), code);
    assert_true(json_is_string(json_object_get(e, "message")));
    assert_true(json_is_string(json_object_get(e, "type")));
    assert_non_null(json_object_get(e, "param"));
    json_decref(j);
    test_reply_clear(&r);
}

static void http_echoes_a_body(void **state) {
    (void)state;
    test_reply r = TEST_POST(port, "/echo", "hello");
    assert_int_equal(r.status, 200);
    assert_string_equal(r.body, "hello");
    assert_non_null(test_reply_header(&r, "X-Request-Id"));
    test_reply_clear(&r);
    r = test_http(port, "POST", "/echo", "X-Request-Id: a b/c-1\r\n", "x", 1);
    assert_string_equal(test_reply_header(&r, "X-Request-Id"), "abc-1");
    test_reply_clear(&r);
}

static void http_answers_late_on_a_connection_kept_alive(void **state) {
    (void)state;
    int fd = test_http_connect(port);
    const char *one = "GET /later HTTP/1.1\r\nHost: t\r\n\r\n";
    char buf[4096];
    for (int i = 0; i < 3; i++) {
        test_http_write(fd, one, strlen(one));
        size_t n = 0;
        while (n < 4 || memcmp(buf + n - 4, "late", 4) != 0) {
            ssize_t k = read(fd, buf + n, sizeof(buf) - n);
            assert_true(k > 0);
            n += (size_t)k;
        }
    }
    close(fd);
}

static void http_answers_requests_in_a_row_sent_at_once(void **state) {
    (void)state;
    const char *three =
        "GET /later HTTP/1.1\r\nHost: t\r\n\r\nGET /things/b HTTP/1.1\r\nHost: t\r\n\r\n"
        "GET /things/c HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    test_reply r = test_http_raw(port, three, strlen(three));
    assert_int_equal(r.status, 200);
    const char *b = strstr(r.body, "/things/b"), *c = strstr(r.body, "/things/c");
    assert_memory_equal(r.body, "late", 4);
    assert_true(b && c && b < c);
    test_reply_clear(&r);
}

static void http_refuses_in_the_error_shape(void **state) {
    (void)state;
    expect_error(TEST_GET(port, "/nowhere"), 404, "unknown_url");
    expect_error(TEST_GET(port, "/things/"), 404, "unknown_url");
    expect_error(TEST_GET(port, "/things%00/a"), 404, "unknown_url");
    test_reply r = test_http(port, "DELETE", "/echo", NULL, NULL, 0);
    assert_string_equal(test_reply_header(&r, "Allow"), "POST, GET, HEAD, OPTIONS");
    expect_error(r, 405, "method_not_allowed");
    expect_error(test_http(port, "BREW", "/echo", NULL, NULL, 0), 405, "method_not_allowed");
    size_t n = (1 << 20) + 1;
    char *big = calloc(1, n);
    assert_non_null(big);
    expect_error(test_http(port, "POST", "/echo", NULL, big, n), 413, "request_too_large");
    free(big);
}

static void http_takes_what_evhttp_refuses_without_dying(void **state) {
    (void)state;
    const char *bad[] = {"\r\n\r\n",
                         "GET\r\n\r\n",
                         "GET / HTTP/9.9\r\n\r\n",
                         "\x16\x03\x01\x02\xff\xff\r\n\r\n",
                         "GET /x HTTP/1.1\r\nno colon\r\n\r\n",
                         "POST /echo HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
                         "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"};
    int answered = 0;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        test_reply r = test_http_raw(port, bad[i], strlen(bad[i]));
        answered += r.status != 0;
        if (r.status == 0)
            test_reply_clear(&r);
        else if (r.status == 413) /* a length that is none */
            expect_error(r, 413, "request_too_large");
        else
            expect_error(r, 400, "invalid_http");
    }
    assert_true(answered >= 4);
    size_t n = 5 << 20; /* over evhttp's own limit */
    char *big = calloc(1, n);
    assert_non_null(big);
    expect_error(test_http(port, "POST", "/echo", NULL, big, n), 413, "request_too_large");
    char *head = malloc(n + 64); /* a header over the limit */
    assert_non_null(head);
    int k = snprintf(head, 64, "GET /echo HTTP/1.1\r\nX: ");
    memset(head + k, 'a', 100 << 10);
    memcpy(head + k + (100 << 10), "\r\n\r\n", 4);
    test_reply r = test_http_raw(port, head, (size_t)k + (100 << 10) + 4);
    if (r.status) expect_error(r, r.status, r.status == 413 ? "request_too_large" : "invalid_http");
    free(head);
    r = test_http(port, "GET", "/echo", NULL, NULL, 0);
    assert_int_equal(r.status, 200);
    test_reply_clear(&r);
    free(big);
}

static void http_head_and_options_have_no_body(void **state) {
    (void)state;
    test_reply r = test_http(port, "HEAD", "/things/abc", NULL, NULL, 0);
    assert_int_equal(r.status, 200);
    assert_int_equal(r.body_size, 0);
    assert_string_equal(test_reply_header(&r, "Content-Length"), "11");
    test_reply_clear(&r);
    r = test_http(port, "OPTIONS", "/things/abc", NULL, NULL, 0);
    assert_int_equal(r.status, 204);
    assert_string_equal(test_reply_header(&r, "Allow"), "GET, HEAD, OPTIONS");
    assert_int_equal(r.body_size, 0);
    test_reply_clear(&r);
}

static void http_streams_events(void **state) {
    (void)state;
    test_reply r = TEST_GET(port, "/short");
    assert_int_equal(r.status, 200);
    assert_string_equal(r.body, "data: 1\n\ndata: 2\n\n");
    assert_memory_equal(test_reply_header(&r, "Content-Type"), "text/event-stream", 17);
    test_reply_clear(&r);
    const char *old = "GET /short HTTP/1.0\r\n\r\n"; /* no chunks for HTTP/1.0 */
    r = test_http_raw(port, old, strlen(old));
    assert_string_equal(r.body, "data: 1\n\ndata: 2\n\n");
    test_reply_clear(&r);
}

static void http_tells_when_a_client_goes_away(void **state) {
    (void)state;
    long long gone = count("gone");
    int fd = test_http_connect(port);
    test_http_send(fd, "GET", "/hold", NULL, NULL, 0);
    wait_count("active", 2); /* it and the one that counts */
    close(fd);
    wait_count("gone", gone + 1);
    fd = test_http_connect(port);
    test_http_send(fd, "GET", "/stream", NULL, NULL, 0);
    char buf[4096];
    assert_true(read(fd, buf, sizeof(buf)) > 0);
    close(fd);
    wait_count("gone", gone + 2);
    wait_count("active", 1);
}

static void http_bounds_what_a_slow_reader_leaves(void **state) {
    (void)state;
    long long gone = count("gone");
    int fd = test_http_connect(port);
    test_http_send(fd, "GET", "/stream", NULL, NULL, 0);
    wait_count("gone", gone + 100); /* without a byte read */
    close(fd);
}

/* The kernel takes a part of an event, the rest waits with us: no byte of either is lost or changes its place. */
static void http_streams_whole_events_to_a_slow_reader(void **state) {
    (void)state;
    int fd = test_http_connect(port), small = 1 << 16;
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
    test_http_send(fd, "GET", "/long", NULL, NULL, 0);
    usleep(100000);
    test_reply r = test_http_read(fd);
    assert_int_equal(r.body_size, (size_t)LONG_EVENTS * sizeof(long_event));
    for (size_t at = 0; at < r.body_size; at += sizeof(long_event))
        assert_memory_equal(r.body + at, long_event, sizeof(long_event));
    test_reply_clear(&r);
}

static void http_waits_longer_for_itself_than_for_the_client(void **state) {
    (void)state;
    long long gone = count("gone");
    int fd = test_http_connect(port); /* idle_s is 1: an idle one is closed... */
    int waiting = test_http_connect(port);
    test_http_send(waiting, "GET", "/hold", NULL, NULL, 0);
    char b;
    assert_int_equal(read(fd, &b, 1), 0);
    close(fd);
    usleep(300000);
    assert_int_equal(count("gone"), gone); /* ...one that waits for its answer is not */
    close(waiting);
    wait_count("gone", gone + 1);
}

static void http_refuses_what_is_over_its_connections(void **state) {
    (void)state;
    int fd[MOST + 80];
    const char *hold = "GET /hold HTTP/1.1\r\nHost: t\r\n\r\n";
    long long before = count("gone");
    for (int i = 0; i < MOST; i++) {
        fd[i] = test_http_connect(port);
        test_http_write(fd[i], hold, strlen(hold));
    }
    wait_count("active", MOST + 1); /* and the one that counts */
    test_reply r = TEST_POST(port, "/echo", "x");
    assert_non_null(test_reply_header(&r, "Retry-After"));
    expect_error(r, 503, "overloaded");
    /* More than it accepts: they wait, and come in as the others leave. */
    for (int i = MOST; i < MOST + 80; i++) fd[i] = test_http_connect(port);
    for (int i = 0; i < MOST + 80; i++) close(fd[i]);
    wait_count("gone", before + MOST);
    for (int i = 0; i < 500; i++) {
        r = TEST_POST(port, "/echo", "x");
        int status = r.status;
        test_reply_clear(&r);
        if (status == 200) return;
        usleep(10000);
    }
    fail_msg("it takes no connection any more");
}

static void http_drains(void **state) {
    (void)state;
    int fd = test_http_connect(port), later = test_http_connect(port);
    usleep(20000); /* accepted */
    test_http_send(fd, "POST", "/drain", NULL, "", 0);
    test_reply r = test_http_read(fd);
    assert_int_equal(r.status, 200);
    test_reply_clear(&r);
    test_http_send(later, "POST", "/echo", NULL, "x", 1);
    expect_error(test_http_read(later), 503, "shutting_down");
}

static int start_with_keys(void **state) {
    setenv("TEST_KEYS", test_path("%s/keys", test_temp_dir()), 1);
    FILE *f = fopen(getenv("TEST_KEYS"), "w");
    if (!f || fputs("secret\n", f) < 0 || fclose(f) != 0) return -1;
    int rc = start(state);
    unsetenv("TEST_KEYS");
    return rc;
}

static void http_asks_for_a_key_but_on_open_routes(void **state) {
    (void)state;
    test_reply r = TEST_GET(port, "/things/a");
    assert_string_equal(test_reply_header(&r, "WWW-Authenticate"), "Bearer");
    expect_error(r, 401, "invalid_api_key");
    expect_error(test_http(port, "GET", "/things/a", "Authorization: Bearer x\r\n", NULL, 0), 401,
                 "invalid_api_key");
    r = test_http(port, "GET", "/things/a", "Authorization: Bearer secret\r\n", NULL, 0);
    assert_int_equal(r.status, 200);
    test_reply_clear(&r);
    assert_int_equal(count("active"), 1);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(http_echoes_a_body),
        cmocka_unit_test(http_answers_late_on_a_connection_kept_alive),
        cmocka_unit_test(http_answers_requests_in_a_row_sent_at_once),
        cmocka_unit_test(http_refuses_in_the_error_shape),
        cmocka_unit_test(http_takes_what_evhttp_refuses_without_dying),
        cmocka_unit_test(http_head_and_options_have_no_body),
        cmocka_unit_test(http_streams_events),
        cmocka_unit_test(http_streams_whole_events_to_a_slow_reader),
        cmocka_unit_test(http_tells_when_a_client_goes_away),
        cmocka_unit_test(http_bounds_what_a_slow_reader_leaves),
        cmocka_unit_test(http_waits_longer_for_itself_than_for_the_client),
        cmocka_unit_test(http_refuses_what_is_over_its_connections),
        cmocka_unit_test(http_drains),
    };
    const struct CMUnitTest with_keys[] = {
        cmocka_unit_test(http_asks_for_a_key_but_on_open_routes),
    };
    int failed = cmocka_run_group_tests_name("http", tests, start, stop);
    return failed + cmocka_run_group_tests_name("http with keys", with_keys, start_with_keys, stop);
}
