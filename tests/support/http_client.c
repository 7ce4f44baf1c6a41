/* http_client.c - see http_client.h. */
#include "tests/support/http_client.h"

#include "tests/support/ty_test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { TIMEOUT_S = 60 };

/* An interrupted connect() goes on by itself (POSIX): waits for its end and returns its errno. */
static int finish_connect(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int rc, e = 0;
    do rc = poll(&p, 1, TIMEOUT_S * 1000);
    while (rc < 0 && errno == EINTR);
    if (rc <= 0) return rc == 0 ? ETIMEDOUT : errno;
    socklen_t size = sizeof(e);
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &size) == 0 ? e : errno;
}

int test_tcp_open(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    int e = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 ? 0 : errno;
    if (e == EINTR) e = finish_connect(fd); /* a child that is stopped or goes on can do that */
    if (e == 0) return fd;
    close(fd);
    errno = e;
    return -1;
}

int test_http_connect(int port) {
    int fd = test_tcp_open(port);
    if (fd < 0) fail_msg("connect to port %d: %s", port, strerror(errno));
    struct timeval tv = {.tv_sec = TIMEOUT_S};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
    return fd;
}

void test_http_write(int fd, const void *bytes, size_t size) {
    const char *p = bytes;
    while (size) {
        ssize_t n = send(fd, p, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return; /* the server closed: what it said is still to be read */
        p += n;
        size -= (size_t)n;
    }
}

void test_http_send(int fd, const char *method, const char *path, const char *headers,
                    const void *body, size_t size) {
    char head[4096];
    int n = snprintf(head, sizeof(head), "%s %s HTTP/1.1\r\nHost: test\r\n%s", method, path,
                     headers ? headers : "");
    if (body) n += snprintf(head + n, sizeof(head) - (size_t)n, "Content-Length: %zu\r\n", size);
    n += snprintf(head + n, sizeof(head) - (size_t)n, "Connection: close\r\n\r\n");
    test_http_write(fd, head, (size_t)n);
    if (body) test_http_write(fd, body, size);
}

/* Puts chunks together, in place. */
static size_t join_chunks(char *body, size_t size) {
    char *in = body, *end = body + size, *out = body;
    while (in < end) {
        char *eol = strstr(in, "\r\n");
        assert_non_null(eol);
        size_t n = strtoul(in, NULL, 16);
        in = eol + 2;
        if (n == 0) break;
        assert_true(in + n <= end);
        memmove(out, in, n);
        out += n;
        in += n + 2;
    }
    *out = '\0';
    return (size_t)(out - body);
}

test_reply test_http_read(int fd) {
    char *all = NULL;
    size_t len = 0, cap = 0;
    for (;;) {
        if (len + 65536 > cap) {
            cap = cap ? 2 * cap : 1 << 17;
            all = realloc(all, cap + 1);
            assert_non_null(all);
        }
        ssize_t n = recv(fd, all + len, 65536, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != ECONNRESET) fail_msg("no answer: %s", strerror(errno));
        if (n <= 0) break;
        len += (size_t)n;
    }
    close(fd);
    all[len] = '\0';
    test_reply r = {.headers = all};
    char *body = strstr(all, "\r\n\r\n");
    if (!body || sscanf(all, "HTTP/1.%*d %d", &r.status) != 1) return r;
    body[2] = '\0';
    body += 4;
    r.body_size = len - (size_t)(body - all);
    r.body = malloc(r.body_size + 1);
    assert_non_null(r.body);
    memcpy(r.body, body, r.body_size + 1);
    const char *te = test_reply_header(&r, "Transfer-Encoding");
    if (te && strcasecmp(te, "chunked") == 0) r.body_size = join_chunks(r.body, r.body_size);
    return r;
}

test_reply test_http(int port, const char *method, const char *path, const char *headers,
                     const void *body, size_t size) {
    int fd = test_http_connect(port);
    test_http_send(fd, method, path, headers, body, size);
    return test_http_read(fd);
}

test_reply test_http_raw(int port, const void *bytes, size_t size) {
    int fd = test_http_connect(port);
    test_http_write(fd, bytes, size);
    return test_http_read(fd);
}

void test_reply_clear(test_reply *r) {
    free(r->headers);
    free(r->body);
    *r = (test_reply){0};
}

const char *test_reply_header(const test_reply *r, const char *name) {
    static char values[8][512];
    static int next;
    size_t n = strlen(name);
    for (const char *p = r->headers; p && (p = strstr(p, "\r\n")); p += 2) {
        if (strncasecmp(p + 2, name, n) != 0 || p[2 + n] != ':') continue;
        const char *v = p + 3 + n + strspn(p + 3 + n, " ");
        char *out = values[next++ % 8];
        snprintf(out, sizeof(values[0]), "%.*s", (int)strcspn(v, "\r\n"), v);
        return out;
    }
    return NULL;
}
