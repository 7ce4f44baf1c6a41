/* test_http_client.c - orchestration/http_client.c against a server that says a given text. */
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include "orchestration/http_client.h"

#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Listens on a free port, answers one connection with `said` in small pieces; returns the port. */
static int serve_once(const char *said, pid_t *pid) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(in);
    assert_int_equal(bind(fd, (struct sockaddr *)&in, size), 0);
    assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &size), 0);
    *pid = fork();
    assert_true(*pid >= 0);
    if (*pid == 0) {
        char head[4096];
        alarm(20);
        int con = accept(fd, NULL, NULL);
        if (con < 0 || read(con, head, sizeof(head)) <= 0) _exit(1);
        for (const char *p = said; *p; p += 1 + (p[1] != '\0')) {
            if (write(con, p, p[1] ? 2 : 1) < 0) _exit(1);
            if (p - said > 60) nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
        }
        close(con);
        _exit(0);
    }
    close(fd);
    return ntohs(in.sin_port);
}

static ty_status call_once(const char *said, http_call call, http_reply *reply, ty_err *err) {
    pid_t pid;
    char url[64];
    snprintf(url, sizeof(url), "http://127.0.0.1:%d/v1/models", serve_once(said, &pid));
    call.url = url;
    ty_status st = http_client_call(&call, reply, err);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return st;
}

static void call_returns_status_and_body_when_whole(void **state) {
    (void)state;
    http_reply r;
    ty_err err = {0};
    assert_int_equal(call_once("HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello",
                               (http_call){.bearer = "k"}, &r, &err),
                     TY_OK);
    assert_int_equal(r.status, 404);
    assert_string_equal(r.body.data, "hello");
    ty_buf_clear(&r.body);
}

static void collect_event(void *ctx, const char *data, size_t len) {
    (void)ty_buf_printf(ctx, "[%.*s]", (int)len, data);
}

static bool feed(void *ctx, const char *data, size_t len) {
    return http_sse_feed(ctx, data, len) == TY_OK;
}

static void events_come_whole_when_the_pieces_are_small(void **state) {
    (void)state;
    ty_buf got = ty_buf_make(1000);
    http_sse sse = {.line = ty_buf_make(1000), .on_event = collect_event, .ctx = &got};
    http_reply r;
    ty_err err = {0};
    static const char said[] =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        "8\r\ndata: {a\r\n7\r\n}\n\n:x\nd\r\nd\r\nata: [DONE]\n\n\r\n0\r\n\r\n";
    assert_int_equal(
        call_once(said, (http_call){.body = "{}", .on_data = feed, .ctx = &sse}, &r, &err), TY_OK);
    assert_string_equal(got.data, "[{a}][[DONE]]");
    ty_buf_clear(&got);
    ty_buf_clear(&sse.line);
    ty_buf_clear(&r.body);
}

static void call_fails_when_the_connection_breaks(void **state) {
    (void)state;
    http_reply r;
    ty_err err = {0};
    ty_status st =
        call_once("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhal", (http_call){0}, &r, &err);
    assert_int_equal(st, TY_EIO);
    assert_non_null(strstr(err.text, "broke"));
    ty_buf_clear(&r.body);
}

static bool refuse(void *ctx, const char *data, size_t len) {
    (void)ctx;
    (void)data;
    (void)len;
    return false;
}

static void call_ends_when_the_caller_says_so(void **state) {
    (void)state;
    http_reply r;
    assert_int_equal(call_once("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                               (http_call){.on_data = refuse}, &r, NULL),
                     TY_ECANCELED);
    ty_buf_clear(&r.body);
}

static void call_says_so_when_nobody_listens_or_the_url_is_none(void **state) {
    (void)state;
    http_reply r;
    ty_err err = {0};
    pid_t pid;
    char url[64];
    /* a port that was free a moment ago */
    snprintf(url, sizeof(url), "http://127.0.0.1:%d/", serve_once("", &pid));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_int_equal(http_client_call(&(http_call){.url = url}, &r, &err), TY_EUNAVAILABLE);
    assert_non_null(strstr(err.text, "tyto up"));
    ty_buf_clear(&r.body);
    assert_int_equal(http_client_call(&(http_call){.url = "localhost:80"}, &r, &err), TY_EINVAL);
    assert_int_equal(http_client_call(&(http_call){.url = "https://x/"}, &r, &err), TY_EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(call_returns_status_and_body_when_whole),
        cmocka_unit_test(events_come_whole_when_the_pieces_are_small),
        cmocka_unit_test(call_fails_when_the_connection_breaks),
        cmocka_unit_test(call_ends_when_the_caller_says_so),
        cmocka_unit_test(call_says_so_when_nobody_listens_or_the_url_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
