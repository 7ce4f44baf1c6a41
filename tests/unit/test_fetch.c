/* fetch.h, address.h: what may be fetched, from a real server in a child process. */
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include "services/gateway/address.h"
#include "services/gateway/fetch.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_BYTES = 10000, TIMEOUT_MS = 600 };

static int port;
static pid_t server;

/* ---- the server: one answer a connection ---- */

static void say(int fd, const char *text) {
    if (write(fd, text, strlen(text)) < 0) return;
}

static void say_redirect(int fd, const char *to) {
    char text[256];
    snprintf(text, sizeof(text), "HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n",
             to);
    say(fd, text);
}

static void answer(int fd, const char *path) {
    char text[64];
    int n;
    if (strncmp(path, "/owl ", 5) == 0) {
        say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhoot!");
    } else if (sscanf(path, "/hop/%d", &n) == 1) {
        snprintf(text, sizeof(text), n ? "/hop/%d" : "/owl", n - 1);
        say_redirect(fd, text);
    } else if (strncmp(path, "/away ", 6) == 0) {
        snprintf(text, sizeof(text), "http://localhost:%d/owl", port);
        say_redirect(fd, text);
    } else if (strncmp(path, "/file ", 6) == 0) {
        say_redirect(fd, "file:///etc/hostname");
    } else if (strncmp(path, "/huge ", 6) == 0) {
        say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 10001\r\n\r\n");
    } else if (strncmp(path, "/endless ", 9) == 0) {
        static const char block[4096] = {'x'};
        say(fd, "HTTP/1.1 200 OK\r\n\r\n");
        while (write(fd, block, sizeof(block)) > 0) {
        }
    } else if (strncmp(path, "/slow ", 6) == 0) {
        sleep(2);
    } else {
        say(fd, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    }
}

static void serve(int listener) {
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        char head[2048];
        if (fd < 0 || fork() > 0) { /* a child each, so that a slow one holds nobody up */
            if (fd >= 0) close(fd);
            continue;
        }
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        ssize_t n = read(fd, head, sizeof(head) - 1);
        head[n > 0 ? n : 0] = '\0';
        char *path = strchr(head, ' ');
        if (path) answer(fd, path + 1);
        _exit(0);
    }
}

static int start_server(void **state) {
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN);
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(in);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(fd, (struct sockaddr *)&in, len) != 0 || listen(fd, 64) != 0 ||
        getsockname(fd, (struct sockaddr *)&in, &len) != 0)
        return -1;
    port = ntohs(in.sin_port);
    server = fork();
    if (server == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve(fd);
    }
    close(fd);
    return 0;
}

static int stop_server(void **state) {
    (void)state;
    kill(server, SIGKILL);
    return 0;
}

/* ---- fetching ---- */

typedef struct {
    struct event_base *base;
    ty_status st;
    char text[64];
    ty_err err;
    int calls;
} outcome;

static void on_done(void *ctx, ty_status st, uint8_t *bytes, size_t size, const ty_err *err) {
    outcome *o = ctx;
    o->st = st;
    o->err = *err;
    o->calls++;
    if (bytes) snprintf(o->text, sizeof(o->text), "%.*s", (int)size, (const char *)bytes);
    free(bytes);
    event_base_loopbreak(o->base);
}

static outcome get(const char *hosts, bool allow_private, const char *url) {
    fetch *f;
    fetch_job *job;
    outcome o = {.base = event_base_new()};
    fetch_options opt = {hosts, allow_private, MAX_BYTES, TIMEOUT_MS};
    assert_int_equal(fetch_create(&f, o.base, &opt, &o.err), TY_OK);
    o.st = fetch_start(f, url, on_done, &o, &job, &o.err);
    if (o.st == TY_OK) event_base_dispatch(o.base);
    fetch_destroy(&f);
    event_base_free(o.base);
    return o;
}

static const char *at(const char *host, const char *path) {
    return test_path("http://%s:%d%s", host, port, path);
}

static void pictures_come_from_listed_hosts(void **state) {
    (void)state;
    char list[64];
    snprintf(list, sizeof(list), "example.org, 127.0.0.1:%d", port);
    outcome o = get(list, true, at("127.0.0.1", "/owl"));
    assert_int_equal(o.st, TY_OK);
    assert_string_equal(o.text, "hoot!");
    assert_int_equal(o.calls, 1);
    o = get(list, true, at("127.0.0.1", "/hop/2"));
    assert_int_equal(o.st, TY_OK);
    assert_string_equal(o.text, "hoot!");
    assert_int_equal(get(list, true, at("127.0.0.1", "/hop/3")).st, TY_EAUTH);
    assert_int_equal(get(list, true, at("127.0.0.1", "/away")).st, TY_EAUTH);
    assert_int_equal(get(list, true, at("127.0.0.1", "/file")).st, TY_EAUTH);
    assert_int_equal(get(list, true, at("127.0.0.1", "/none")).st, TY_EIO);
    assert_int_equal(get(list, true, at("127.0.0.1", "/huge")).st, TY_ELIMIT);
    assert_int_equal(get(list, true, at("127.0.0.1", "/endless")).st, TY_ELIMIT);
    assert_int_equal(get(list, true, at("127.0.0.1", "/slow")).st, TY_ETIMEOUT);
}

/* Listed, and yet: each of these ends at this machine. */
static void private_addresses_are_refused_however_they_are_written(void **state) {
    (void)state;
    static const char *const host[] = {"127.0.0.1", "localhost",          "[::1]",  "127.1",
                                       "0.0.0.0",   "[::ffff:127.0.0.1]", "0x7f.1", "2130706433"};
    char list[16];
    snprintf(list, sizeof(list), "*:%d", port);
    for (size_t i = 0; i < sizeof(host) / sizeof(host[0]); i++) {
        outcome o = get(list, false, at(host[i], "/owl"));
        if (o.st != TY_EAUTH) fail_msg("%s: %s %s", host[i], ty_status_name(o.st), o.err.text);
    }
}

static void lists_of_hosts_are_kept(void **state) {
    (void)state;
    static const struct {
        const char *hosts, *url;
        ty_status st;
    } c[] = {
        {"example.org", "https://example.org/a.jpg", TY_OK},
        {"example.org", "http://EXAMPLE.org./a.jpg", TY_OK},
        {"example.org", "https://example.org:8443/a.jpg", TY_EAUTH},
        {"example.org:8443", "https://example.org:8443/a.jpg", TY_OK},
        {"example.org:8443", "https://example.org/a.jpg", TY_EAUTH},
        {"example.org", "https://www.example.org/a.jpg", TY_EAUTH},
        {"*.example.org", "https://www.example.org/a.jpg", TY_OK},
        {"*.example.org", "https://example.org/a.jpg", TY_EAUTH},
        {"*.example.org", "https://badexample.org/a.jpg", TY_EAUTH},
        {"*.example.org", "https://example.org.evil.net/a.jpg", TY_EAUTH},
        {"example.org", "https://example.org@evil.net/a.jpg", TY_EAUTH},
        {"example.org", "https://evil.net#@example.org/", TY_EAUTH},
        {"example.org", "https://evil.net\\@example.org/", TY_EAUTH},
        {"*", "https://anything.net/a.jpg", TY_OK},
        {"*", "http://anything.net:22/", TY_EAUTH},
        {"*", "ftp://anything.net/", TY_EAUTH},
        {"*", "http://", TY_EINVAL},
        {"[2001:db8::1]", "http://[2001:db8::1]/", TY_OK},
        {"[2001:db8::1]:81", "http://[2001:db8::1]/", TY_EAUTH},
        {"[2001:db8::1]:81", "http://[2001:db8::1]:81/", TY_OK},
    };
    struct event_base *base = event_base_new();
    for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
        fetch *f;
        fetch_options opt = {c[i].hosts, false, MAX_BYTES, TIMEOUT_MS};
        ty_err err = {0};
        assert_int_equal(fetch_create(&f, base, &opt, &err), TY_OK);
        ty_status st = fetch_check(f, c[i].url, &err);
        bool good = c[i].st == TY_EAUTH ? st == TY_EAUTH || st == TY_EINVAL : st == c[i].st;
        if (!good)
            fail_msg("%s from %s: %s %s", c[i].url, c[i].hosts, ty_status_name(st), err.text);
        fetch_destroy(&f);
    }
    fetch *none;
    fetch_options opt = {" ,", false, MAX_BYTES, TIMEOUT_MS};
    assert_int_equal(fetch_create(&none, base, &opt, NULL), TY_EINVAL);
    event_base_free(base);
}

static void forgotten_jobs_call_nobody(void **state) {
    (void)state;
    fetch *f;
    fetch_job *job[8];
    outcome o = {.base = event_base_new()};
    char list[64];
    snprintf(list, sizeof(list), "127.0.0.1:%d", port);
    fetch_options opt = {list, true, MAX_BYTES, TIMEOUT_MS};
    assert_int_equal(fetch_create(&f, o.base, &opt, NULL), TY_OK);
    for (int i = 0; i < 8; i++)
        assert_int_equal(
            fetch_start(f, at("127.0.0.1", i % 2 ? "/owl" : "/slow"), on_done, &o, &job[i], NULL),
            TY_OK);
    for (int i = 0; i < 7; i++) fetch_forget(&job[i]);
    event_base_dispatch(o.base);
    assert_int_equal(o.calls, 1);
    assert_string_equal(o.text, "hoot!");
    fetch_destroy(&f); /* while the slow ones run */
    event_base_free(o.base);
}

/* ---- addresses ---- */

static void addresses_are_told_apart(void **state) {
    (void)state;
    static const char *const good[] = {
        "1.1.1.1",         "9.255.255.255", "11.0.0.0",        "100.63.255.255",  "100.128.0.0",
        "126.255.255.255", "128.0.0.1",     "169.253.255.255", "172.15.255.255",  "172.32.0.0",
        "192.167.255.255", "192.169.0.0",   "198.17.255.255",  "198.20.0.0",      "223.255.255.255",
        "2606:4700::1111", "2a00:1450::1",  "::ffff:8.8.8.8",  "64:ff9b::8.8.8.8"};
    static const char *const bad[] = {"0.0.0.0",
                                      "0.1.2.3",
                                      "10.0.0.0",
                                      "10.255.255.255",
                                      "100.64.0.0",
                                      "100.127.255.255",
                                      "127.0.0.1",
                                      "127.255.255.255",
                                      "169.254.169.254",
                                      "172.16.0.0",
                                      "172.31.255.255",
                                      "192.0.0.1",
                                      "192.0.2.1",
                                      "192.88.99.1",
                                      "192.168.0.0",
                                      "192.168.255.255",
                                      "198.18.0.0",
                                      "198.19.255.255",
                                      "198.51.100.1",
                                      "203.0.113.1",
                                      "224.0.0.1",
                                      "239.255.255.255",
                                      "240.0.0.1",
                                      "255.255.255.255",
                                      "::",
                                      "::1",
                                      "::127.0.0.1",
                                      "::ffff:127.0.0.1",
                                      "::ffff:10.0.0.1",
                                      "::ffff:169.254.169.254",
                                      "64:ff9b::10.0.0.1",
                                      "64:ff9b:1::8.8.8.8",
                                      "fe80::1",
                                      "fec0::1",
                                      "fc00::1",
                                      "fd00::1",
                                      "ff02::1",
                                      "2001::1",
                                      "2001:db8::1",
                                      "2002:7f00:1::",
                                      "3fff::1",
                                      "100::1",
                                      "5f00::1",
                                      "4000::1"};
    for (int pass = 0; pass < 2; pass++) {
        const char *const *text = pass ? bad : good;
        size_t n = pass ? sizeof(bad) / sizeof(bad[0]) : sizeof(good) / sizeof(good[0]);
        for (size_t i = 0; i < n; i++) {
            struct sockaddr_storage a = {0};
            struct sockaddr_in *v4 = (struct sockaddr_in *)&a;
            struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a;
            bool is_v6 = strchr(text[i], ':') != NULL;
            a.ss_family = is_v6 ? AF_INET6 : AF_INET;
            void *to = is_v6 ? (void *)&v6->sin6_addr : (void *)&v4->sin_addr;
            assert_int_equal(inet_pton(a.ss_family, text[i], to), 1);
            if (address_is_public((struct sockaddr *)&a) == (pass == 1)) fail_msg("%s", text[i]);
        }
    }
    struct sockaddr local = {.sa_family = AF_UNIX};
    assert_false(address_is_public(&local));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_are_told_apart),
        cmocka_unit_test(lists_of_hosts_are_kept),
        cmocka_unit_test(pictures_come_from_listed_hosts),
        cmocka_unit_test(private_addresses_are_refused_however_they_are_written),
        cmocka_unit_test(forgotten_jobs_call_nobody),
    };
    return cmocka_run_group_tests_name("fetch", tests, start_server, stop_server);
}
