/*
 * http_client.h - a plain HTTP/1.1 client for tests: blocking sockets on 127.0.0.1, one request a
 * connection, chunked answers put together.  Whatever goes wrong fails the test.
 */
#ifndef TY_TEST_HTTP_CLIENT_H
#define TY_TEST_HTTP_CLIENT_H

#include <stddef.h>

typedef struct {
    int status;    /* 0: the connection was closed without an answer */
    char *headers; /* whole head, NUL-terminated */
    char *body;    /* NUL-terminated; chunks put together */
    size_t body_size;
} test_reply;
void test_reply_clear(test_reply *r);
/* Value of a header (case-insensitive), in one of eight rotating buffers; NULL when absent. */
const char *test_reply_header(const test_reply *r, const char *name);

/* headers: "Name: value\r\n"... or NULL.  body NULL: none. */
test_reply test_http(int port, const char *method, const char *path, const char *headers,
                     const void *body, size_t size);
#define TEST_GET(port, path)        test_http(port, "GET", path, NULL, NULL, 0)
#define TEST_POST(port, path, text) test_http(port, "POST", path, NULL, text, strlen(text))
/* Bytes as they are, then what comes back until the server closes. */
test_reply test_http_raw(int port, const void *bytes, size_t size);

/* By hand: for tests that read slowly or go away. */
int test_http_connect(int port);
/* A connection to a port of this machine; -1 (errno says why) where nobody listens. */
int test_tcp_open(int port);
void test_http_write(int fd, const void *bytes, size_t size);
/* Sends the head and body of a request; does not wait. */
void test_http_send(int fd, const char *method, const char *path, const char *headers,
                    const void *body, size_t size);
test_reply test_http_read(int fd); /* until the server closes; closes fd */

#endif
